"""Only regular files are read: a pipe would wait for ever, a device may never end."""

import os
from pathlib import Path

import pytest

from frostline_server.runtime.regular_files import open_regular, read_regular, read_text


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("é".encode())
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == "é".encode()
    assert read_text(tmp_path / "file") == "é"
    with open_regular(tmp_path / "file") as file:
        assert file.read(1) == b"\xc3"


def test_a_name_that_no_file_can_have_is_a_file_that_cannot_be_read() -> None:
    with pytest.raises(OSError, match="null byte"):
        read_regular(Path("a\0b"))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfant")
    assert read_text(tmp_path / "file") == "ant"


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="Not a regular file"):
            read_regular(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
