"""A value that is read again when its files change."""

import errno
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from frostline_server.errors import StartError
from frostline_server.reloaded import Reloaded


def test_files_that_are_replaced_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("a")
    torn = False

    def read() -> str:
        nonlocal torn
        first = one.read_text()
        if torn:
            torn = False
            one.write_text("later")
            two.write_text("later")
        return first + two.read_text()

    pair = Reloaded("pair", (one, two), read)
    assert pair.start() == "aa"
    one.write_text("soon")
    torn = True
    assert pair.look() == "aa", "half of it is of one state, and half of another"
    assert pair.look() == "laterlater"


def test_it_is_the_same_object_until_a_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    value = Reloaded("value", (file,), lambda: [file.read_text()])
    first = value.start()
    assert value.look() is first
    file.write_text("bb")
    assert value.look() == ["bb"]


def test_what_cannot_be_read_is_said_once_and_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")

    def read() -> str:
        text = file.read_text()
        if "bad" in text:
            raise StartError(f"the file says {text}")
        return text

    value = Reloaded("value", (file,), read)
    value.start()
    with capture_logs() as logged:
        for text in ("bad", "bad, too", "good"):
            file.write_text(text)
            kept = [value.look(), value.look()]
    assert kept == ["good", "good"]
    assert [line.get("reason") for line in logged] == [
        "the file says bad; the last one that was valid stays in use",
        "the file says bad, too; the last one that was valid stays in use",
        None,
    ]


def test_what_cannot_be_read_at_first_stops_the_start(tmp_path: Path) -> None:
    def read() -> str:
        raise StartError("no")

    with pytest.raises(StartError, match=r"^no$"):
        Reloaded("value", (tmp_path / "absent",), read).start()


def test_whatever_happens_while_it_is_read_it_is_looked_at_again_and_no_secret_is_logged(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    value = Reloaded("value", (file,), lambda: int(file.read_text()))
    value.start()
    file.write_text("secret")
    with capture_logs() as logged:
        assert value.look() == 1
    assert logged[0]["reason"] == "unexpected ValueError; the last one that was valid stays in use"
    file.write_text("22")
    assert value.look() == 22


def test_what_could_not_be_read_for_want_of_descriptors_is_read_as_soon_as_there_are_some(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    scarce = False

    def read() -> str:
        try:
            if scarce:
                raise OSError(errno.EMFILE, "Too many open files", str(file))  # noqa: TRY301  as `open` would
            return file.read_text()
        except OSError as error:
            raise StartError(f"cannot read it: {error}") from error

    value = Reloaded("value", (file,), read)
    value.start()
    file.write_text("bb")
    scarce = True
    with capture_logs() as logged:
        assert [value.look() for _ in range(3)] == ["a"] * 3
        scarce = False
        assert value.look() == "bb"
    assert [line["log_level"] for line in logged] == ["error", "info"]
