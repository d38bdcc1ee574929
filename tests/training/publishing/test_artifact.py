"""The artifact's folder: hidden while it is written, whole when it is seen."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from frostline_server.model.artifact import MAX_VERSION
from frostline_training.data.rows import MOST_CARD_BYTES
from frostline_training.errors import PublishError
from frostline_training.publishing import artifact

Listing = Callable[[Path], list[str]]


class Meanwhile(Mapping[str, object]):
    """A card during whose writing, the first time, something else happens."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = [happens]

    def __getitem__(self, key: str) -> object:
        return key

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        while self._happens:
            self._happens.pop()()
        return iter(["name"])


def _publish(folder: Path, text: str = "x") -> int:
    with artifact.staging(folder) as hidden:
        (hidden / "model.onnx").write_text(text)
        return artifact.place(hidden, {"name": folder.name})[0]


def test_versions_count_from_1(tmp_path: Path) -> None:
    assert [_publish(tmp_path / "m") for _ in range(3)] == [1, 2, 3]


def test_a_version_holds_what_was_staged_and_its_own_number(tmp_path: Path, everything_under: Listing) -> None:
    _publish(tmp_path / "m", "weights")
    assert everything_under(tmp_path) == ["m", "m/1", "m/1/card.json", "m/1/model.onnx"]
    assert (tmp_path / "m/1/model.onnx").read_text() == "weights"
    assert json.loads((tmp_path / "m/1/card.json").read_text()) == {"name": "m", "version": 1}


def test_the_next_version_follows_the_highest_whatever_else_is_there(tmp_path: Path) -> None:
    for name in ("2", "10", "007", "0", "-3", "11a", ".staging-12", "notes"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").touch()
    assert _publish(tmp_path / "m") == 11


def test_a_folder_whose_number_no_server_takes_is_not_counted_on(tmp_path: Path) -> None:
    last = artifact.MAX_VERSION
    assert last == MAX_VERSION
    for name in ("99999999999999999999", str(last + 1), "3"):
        (tmp_path / "m" / name).mkdir(parents=True)
    assert _publish(tmp_path / "m") == 4
    (tmp_path / "m" / str(last)).mkdir()
    with pytest.raises(PublishError, match=f"has a version {last}, and servers take none with a higher number"):
        _publish(tmp_path / "m")


def test_a_deleted_version_in_the_middle_is_not_given_again(tmp_path: Path) -> None:
    for name in ("1", "3"):
        (tmp_path / "m" / name).mkdir(parents=True)
    assert _publish(tmp_path / "m") == 4


def test_whoever_comes_second_to_a_number_takes_the_next_and_says_so_in_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    with artifact.staging(folder) as hidden:
        version, path = artifact.place(hidden, Meanwhile(lambda: _publish(folder, "theirs")))
    assert version == 2
    assert json.loads((path / "card.json").read_text())["version"] == 2
    assert (folder / "1/model.onnx").read_text() == "theirs"


def test_many_publishers_at_once_get_a_version_each(tmp_path: Path, everything_under: Listing) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda index: _publish(tmp_path / "m", str(index)), range(24)))
    assert sorted(versions) == list(range(1, 25))
    for index, version in enumerate(versions):
        assert (tmp_path / "m" / str(version) / "model.onnx").read_text() == str(index)
        assert json.loads((tmp_path / "m" / str(version) / "card.json").read_text())["version"] == version
    assert not any("staging" in path for path in everything_under(tmp_path))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_it_early_nothing_is_left(
    tmp_path: Path, everything_under: Listing, error: type[BaseException]
) -> None:
    def stopped() -> None:
        with artifact.staging(tmp_path / "m") as hidden:
            (hidden / "model.onnx").touch()
            raise error

    with pytest.raises(error):
        stopped()
    assert everything_under(tmp_path) == []


def test_a_folder_that_was_there_before_stays(tmp_path: Path, everything_under: Listing) -> None:
    (tmp_path / "m").mkdir()
    with suppress(ValueError), artifact.staging(tmp_path / "m"):
        raise ValueError
    assert everything_under(tmp_path) == ["m"]


def test_a_file_that_has_the_next_number_as_its_name_is_passed_over(tmp_path: Path) -> None:
    with artifact.staging(tmp_path / "m") as hidden:
        assert artifact.place(hidden, Meanwhile((tmp_path / "m" / "1").touch))[0] == 2


def test_a_rename_that_fails_for_another_reason_is_not_tried_for_ever(tmp_path: Path) -> None:
    with artifact.staging(tmp_path / "m") as hidden:
        card = Meanwhile(lambda: hidden.rename(tmp_path / "elsewhere"))
        with pytest.raises(FileNotFoundError):
            artifact.place(hidden, card)


def test_folders_of_publishers_killed_more_than_a_day_ago_are_removed(
    tmp_path: Path, everything_under: Listing
) -> None:
    now = time.time()
    for name, age_h in ((".staging-old", 25), (".staging-new", 23), ("old", 1000)):
        (tmp_path / "m" / name).mkdir(parents=True)
        os.utime(tmp_path / "m" / name, (now - age_h * 3600,) * 2)
    with artifact.staging(tmp_path / "m"):
        pass
    assert everything_under(tmp_path) == ["m", "m/.staging-new", "m/old"]


def test_others_may_read_a_version_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        _publish(tmp_path / "m")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m/1").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "m/1/card.json").stat().st_mode) == 0o644


def test_the_golden_sample_holds_rows_logits_and_tolerances(tmp_path: Path) -> None:
    inputs, logits = np.ones((5, 2), np.float32), np.zeros((5, 3), np.float32)
    artifact.write_golden(tmp_path, {"input": inputs}, {"logits": logits}, rtol=1e-3, atol=1e-6)
    with np.load(tmp_path / "golden.npz") as golden:
        assert sorted(golden) == ["atol", "input", "logits", "rtol"]
        np.testing.assert_array_equal(golden["input"], inputs)
        np.testing.assert_array_equal(golden["logits"], logits)
        assert (golden["rtol"], golden["rtol"].dtype, golden["rtol"].shape) == (1e-3, np.float64, ())
        assert golden["atol"] == 1e-6


@pytest.mark.parametrize("bytes_too_many", [0, 1])
def test_a_card_that_servers_would_not_read_is_not_published(tmp_path: Path, bytes_too_many: int) -> None:
    beside = len(json.dumps({"labels": "", "version": 1}, indent=2)) + 1
    card = {"labels": "x" * (MOST_CARD_BYTES - beside + bytes_too_many)}
    with artifact.staging(tmp_path / "m") as hidden:
        if not bytes_too_many:
            assert artifact.place(hidden, card)[0] == 1
            return
        with pytest.raises(PublishError, match="the card would have 8388609 bytes, and servers read at most 8388608"):
            artifact.place(hidden, card)
    assert not (tmp_path / "m" / "1").exists()
