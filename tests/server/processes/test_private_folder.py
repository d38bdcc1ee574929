"""The folder of the sockets between processes: private, and gone with the server."""

import stat
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
