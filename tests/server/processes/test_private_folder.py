"""The folder of the sockets between processes: private, and gone with the server."""

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from frostline_server.errors import StartError
from frostline_server.processes.private_folder import private_folder


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's temporary folder; its path is short enough for sockets, as pytest's own need not be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_no_other_user_can_enter_it(temporary: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_is_gone_afterwards_with_all_that_is_in_it(temporary: Path) -> None:
    with private_folder() as folder:
        (folder / "a.sock").touch()
    assert list(temporary.iterdir()) == []


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = temporary / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(temporary))
    with private_folder() as folder:
        assert folder.parent == temporary


def test_where_no_folder_can_be_written_to_it_is_said_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StartError, match="several processes need a writable folder for private sockets; set TMPDIR"):
        private_folder().__enter__()


def aged(folder: Path) -> Path:
    os.utime(folder, (0, 0))
    return folder


def left_behind(temporary: Path) -> Path:
    """The folder of a server that was killed."""
    script = """if True:
        import os, sys, tempfile
        from frostline_server.processes.private_folder import private_folder
        tempfile.tempdir = sys.argv[1]
        with private_folder() as folder:
            (folder / "a.sock").touch()
            print(folder, flush=True)
            os.kill(os.getpid(), 9)
    """
    killed = subprocess.run([sys.executable, "-c", script, temporary], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    return Path(killed.stdout.strip())


def test_what_a_killed_server_left_is_removed_by_the_next(temporary: Path) -> None:
    left = aged(left_behind(temporary))
    assert left.is_dir()
    with private_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_the_folder_of_a_server_that_runs_is_left_alone(temporary: Path) -> None:
    with private_folder() as first:
        aged(first)
        with private_folder() as second:
            assert set(temporary.iterdir()) == {first, second}


def test_what_may_be_a_server_that_is_about_to_start_is_left_alone(temporary: Path) -> None:
    left = left_behind(temporary)
    with private_folder():
        assert left.is_dir()


def test_nothing_is_removed_that_was_not_made_so(temporary: Path) -> None:
    """A link to elsewhere, a file, a folder that others may enter, and one of another name."""
    (temporary / "precious").mkdir(mode=0o700)
    (temporary / ".frostline_link").symlink_to("precious")
    (temporary / ".frostline_file").touch()
    (temporary / ".frostline_open").mkdir(mode=0o755)
    before = {aged(path) for path in temporary.iterdir()}
    with private_folder() as folder:
        assert set(temporary.iterdir()) == before | {folder}


def test_the_lock_goes_to_no_process_that_the_server_starts(temporary: Path) -> None:
    with private_folder() as folder:
        child = subprocess.run(
            ["ls", "/proc/self/fd/", "-l"], check=True, capture_output=True, text=True, close_fds=False
        )
        assert str(folder) not in child.stdout
        held = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)
