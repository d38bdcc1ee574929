"""Only regular files are read, of a bounded size, and those of models only where models are."""

import os
from pathlib import Path
from typing import Any

import pytest

from frostline_server.regular_files import FileReader, FileTooLarge, OutsideFolders, open_regular, read_regular
from tests.support.descriptors import descriptors


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "m").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    return folder


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("é".encode())
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 2) == "é".encode()
    assert FileReader(tmp_path).text(tmp_path / "link") == "é"
    with open_regular(tmp_path / "file") as file:
        assert file.read(1) == b"\xc3"


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfcat\n")
    assert FileReader(tmp_path).text(tmp_path / "file") == "cat\n"


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="Not a regular file"):
            read_regular(tmp_path / name, 1)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 1)


def test_a_pipe_is_not_even_opened_so_that_its_writer_goes_on_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        FileReader(tmp_path).open(tmp_path / "pipe")
    # A reader that comes and goes would have let a writer in, and killed it with SIGPIPE.
    with pytest.raises(OSError, match="No such device or address"):
        os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.truncate(tmp_path / "file", 1 << 40)
    with pytest.raises(FileTooLarge, match="it has 1099511627776 bytes; the most is 4"):
        FileReader(tmp_path).read(tmp_path / "file", 4)
    os.truncate(tmp_path / "file", 5)
    assert FileReader(tmp_path).read(tmp_path / "file", 5) == b"12345"


def test_no_descriptor_is_left_open_by_what_is_refused(models: Path) -> None:
    os.mkfifo(models / "pipe")
    (models / "out").symlink_to("../secret")
    before = descriptors()
    for name in ("pipe", "out", "none", "m"):
        with pytest.raises(OSError, match=r"."):
            FileReader(models).read(models / name, 4)
    assert descriptors() - before == set()


def test_a_link_out_of_the_models_folder_is_refused_with_its_target_and_the_remedy(models: Path) -> None:
    (models / "m" / "labels.txt").symlink_to("../../secret")
    with pytest.raises(OutsideFolders) as refused:
        FileReader(models).text(models / "m" / "labels.txt")
    place = models.parent.resolve()
    assert str(refused.value) == (
        f"the link {models}/m/labels.txt leads to {place}/secret, outside the models folder {models}; put what is there "
        f"into the folder, or allow links to it with the setting linked_folders (--linked-folders {place})"
    )


def test_a_folder_on_the_way_that_leads_out_is_the_one_that_is_named(models: Path) -> None:
    (models / "n").symlink_to("..")
    with pytest.raises(OutsideFolders, match=f"the link {models}/n leads to .*--linked-folders"):
        FileReader(models).text(models / "n" / "secret")


def test_links_inside_the_models_folder_are_followed_as_in_a_config_map(models: Path) -> None:
    (models / "..1" / "n").mkdir(parents=True)
    (models / "..1" / "n" / "card.json").write_text("{}")
    (models / "..data").symlink_to("..1")
    (models / "n").symlink_to("..data/n")
    assert FileReader(models).text(models / "n" / "card.json") == "{}"


def test_the_models_folder_may_be_a_link_that_is_swapped(models: Path) -> None:
    current = models.parent / "current"
    current.symlink_to("models")
    (models / "file").write_text("one")
    reader = FileReader(current)
    assert reader.text(current / "file") == "one"
    (models.parent / "second").mkdir()
    (models.parent / "second" / "file").write_text("two")
    current.unlink()
    current.symlink_to("second")
    assert reader.text(current / "file") == "two"


def test_a_swap_between_opening_a_file_and_judging_it_is_no_refusal(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current, opening = models.parent / "current", os.open
    current.symlink_to("models")
    (models / "file").write_text("one")
    (models.parent / "second").mkdir()
    (models.parent / "second" / "file").write_text("two")

    def swapping(path: Any, *arguments: int) -> int:
        descriptor = opening(path, *arguments)
        if path == current / "file":
            current.unlink()
            current.symlink_to("second")
        return descriptor

    monkeypatch.setattr(os, "open", swapping)
    assert FileReader(current).text(current / "file") == "two"


def test_what_is_judged_is_what_was_opened_and_not_what_the_path_means_then(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that leads out while the file is opened, and lies in the folder whenever somebody looks at its path."""
    label, opening = models / "m" / "labels.txt", os.open
    (models / "m" / "inside").write_text("inside")
    label.symlink_to("inside")

    def racing(path: Any, *arguments: int) -> int:
        if path != label:
            return opening(path, *arguments)
        label.unlink()
        label.symlink_to("../../secret")
        descriptor = opening(label, *arguments)
        label.unlink()
        label.symlink_to("inside")
        return descriptor

    monkeypatch.setattr(os, "open", racing)
    with pytest.raises(OutsideFolders):
        FileReader(models).text(label)


def test_links_may_lead_to_the_folders_that_the_operator_names(models: Path) -> None:
    (models.parent / "cache").mkdir()
    (models.parent / "cache" / "blob").write_text("blob")
    (models.parent / "cache-of-others").mkdir()
    (models.parent / "cache-of-others" / "blob").write_text("theirs")
    reader = FileReader(models, (models.parent / "cache",))
    (models / "m" / "a").symlink_to("../../cache/blob")
    (models / "m" / "b").symlink_to("../../cache-of-others/blob")
    assert reader.text(models / "m" / "a") == "blob"
    with pytest.raises(OutsideFolders):
        reader.text(models / "m" / "b")
    assert FileReader(models, (Path("/"),)).text(models / "m" / "b") == "theirs"
