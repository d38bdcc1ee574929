"""A change in the folder is noticed, however it comes; a bad look is not the last."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import watchfiles
from watchfiles import Change

from frostline_server.regular_files import FileReader
from frostline_server.repository import watcher
from frostline_server.repository.watcher import Watcher, places_of
from tests.support.puppet import TIMEOUT_S

LONG_S = 3600.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look comes after a moment: nothing here is still being written."""
    monkeypatch.setattr(watcher, "_LOOK_AGAIN_MS", 50)


class Looks:
    """A reconcile that counts its calls.

    Attributes:
        answers: what the next calls say; False when there is none.
    """

    def __init__(self) -> None:
        self.answers: list[bool | BaseException] = []
        self._count = 0
        self._changed = threading.Condition()

    def __call__(self) -> bool:
        with self._changed:
            self._count += 1
            self._changed.notify_all()
            answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, TIMEOUT_S), f"only {self._count} looks"


@contextmanager
def watching(root: Path, looks: Looks, *, poll_s: float = LONG_S, notified: bool = True) -> Iterator[None]:
    watch = Watcher(root, looks, poll_s, notified=notified)
    watch.start()
    try:
        yield
    finally:
        watch.close()


def publish(folder: Path) -> None:
    """Make a version appear as training does."""
    staging = folder.parent / ".staging"
    staging.mkdir(parents=True)
    (staging / "model.onnx").write_text("")
    staging.rename(folder)


def test_the_file_system_tells_of_whatever_is_done_with_a_version(tmp_path: Path) -> None:
    looks = Looks()
    with watching(tmp_path, looks):
        # The first look says that the watch has begun; so does the second of each pair after a folder has come or gone.
        looks.wait_for(1)
        publish(tmp_path / "m" / "1")
        looks.wait_for(3)
        (tmp_path / "m" / "1" / "model.onnx").write_text("more")
        looks.wait_for(4)
        shutil.rmtree(tmp_path / "m" / "1")
        looks.wait_for(5)


def repoint(link: Path, target: Path | str) -> None:
    """Have a link lead elsewhere, in one step."""
    link.with_name(".next").symlink_to(target)
    link.with_name(".next").rename(link)


def root_is_a_link(folder: Path) -> tuple[Path, Callable[[], None], Path]:
    """As git-sync: the models folder is a link to a release."""
    for release in "AB":
        publish(folder / release / "m" / "1")
    (folder / "models").symlink_to("A")
    return folder / "models", lambda: repoint(folder / "models", "B"), folder / "B" / "m" / "1"


def root_is_behind_a_link(folder: Path) -> tuple[Path, Callable[[], None], Path]:
    """As capistrano: a folder above the models folder is a link."""
    for release in "AB":
        publish(folder / "releases" / release / "models" / "m" / "1")
    (folder / "current").symlink_to(folder / "releases" / "A")
    return (
        folder / "current" / "models",
        lambda: repoint(folder / "current", folder / "releases" / "B"),
        folder / "releases" / "B" / "models" / "m" / "1",
    )


def model_is_behind_a_hidden_link(folder: Path) -> tuple[Path, Callable[[], None], Path]:
    """As a ConfigMap: each entry is a link by way of `..data`, which is a link to a hidden folder."""
    for release in ("..1", "..2"):
        publish(folder / release / "m" / "1")
    (folder / "..data").symlink_to("..1")
    (folder / "m").symlink_to("..data/m")
    return folder, lambda: repoint(folder / "..data", "..2"), folder / "..2" / "m" / "1"


def version_is_a_link(folder: Path) -> tuple[Path, Callable[[], None], Path]:
    """As a cache of Hugging Face's, somewhere else."""
    for snapshot in "AB":
        publish(folder / "cache" / snapshot)
    (folder / "models" / "m").mkdir(parents=True)
    link = folder / "models" / "m" / "1"
    link.symlink_to(folder / "cache" / "A")
    return folder / "models", lambda: repoint(link, folder / "cache" / "B"), folder / "cache" / "B"


@pytest.mark.parametrize(
    "layout", [root_is_a_link, root_is_behind_a_link, model_is_behind_a_hidden_link, version_is_a_link]
)
def test_after_a_link_leads_elsewhere_changes_are_seen_there(
    tmp_path: Path, layout: Callable[[Path], tuple[Path, Callable[[], None], Path]]
) -> None:
    looks = Looks()
    root, swap, there = layout(tmp_path)
    with watching(root, looks):
        looks.wait_for(1)
        swap()
        # One for the swap, and one because the watch has begun anew.
        looks.wait_for(3)
        (there / "model.onnx").write_text("more")
        looks.wait_for(4)
        (there / "card.json").write_text("{}")
        looks.wait_for(5)


def test_a_models_folder_that_was_away_is_watched_again(tmp_path: Path) -> None:
    looks = Looks()
    root = tmp_path / "models"
    publish(root / "m" / "1")
    with watching(root, looks):
        looks.wait_for(1)
        root.rename(tmp_path / "away")
        publish(root / "m" / "1")
        looks.wait_for(3)
        (root / "m" / "1" / "model.onnx").write_text("more")
        looks.wait_for(4)


def test_what_a_publisher_writes_before_it_publishes_is_not_looked_at(tmp_path: Path) -> None:
    publish(tmp_path / "m" / "1")
    (tmp_path / "m" / ".staging-7").mkdir()
    places = places_of(tmp_path)
    assert places.folders.keys() == {tmp_path, tmp_path / "m", tmp_path / "m" / "1"}
    for path, counts in (
        (tmp_path / "m" / "1" / "model.onnx", True),
        (tmp_path / "m" / "2", True),
        (tmp_path / "m" / ".staging-7", False),
        (tmp_path / "m" / ".staging-7" / "model.onnx", False),
        (tmp_path / ".git", False),
        (tmp_path / "m" / "rollout.json", True),
    ):
        assert places.counts(Change.added, str(path)) is counts


def test_a_folder_inside_a_hidden_one_is_watched_all_the_same(tmp_path: Path) -> None:
    root = tmp_path / ".models"
    root.mkdir()
    assert places_of(root).counts(Change.added, str(root / "m"))


def test_beside_a_link_and_what_it_leads_to_nothing_counts(tmp_path: Path) -> None:
    publish(tmp_path / "m" / "1")
    blobs = tmp_path.with_name(f"{tmp_path.name}-blobs")
    blobs.mkdir()
    (blobs / "1111").write_text("")
    (tmp_path / "m" / "1" / "data").symlink_to(blobs / "1111")
    places = places_of(tmp_path)
    assert blobs in places.watched
    assert places.counts(Change.modified, str(blobs / "1111"))
    assert not places.counts(Change.modified, str(blobs / "2222"))


def test_links_that_lead_round_in_circles_end(tmp_path: Path) -> None:
    for name, target in (("self", "."), ("up", ".."), ("loop", "loop"), ("nowhere", "missing/x")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "m").mkdir()
    assert places_of(tmp_path / "m" / "..").folders.keys() >= {tmp_path, tmp_path / "m"}


def test_without_the_file_systems_help_the_folder_is_looked_at_now_and_then(tmp_path: Path) -> None:
    looks = Looks()
    with watching(tmp_path, looks, poll_s=0.001, notified=False):
        looks.wait_for(3)


def test_without_intervals_the_folder_is_looked_at_when_it_is_asked_for(tmp_path: Path) -> None:
    looks = Looks()
    watch = Watcher(tmp_path, looks, None, notified=False)
    watch.start()
    for count in (1, 2):
        watch.look()
        looks.wait_for(count)
    watch.close()


def test_a_look_that_asks_for_another_gets_it_soon(tmp_path: Path) -> None:
    looks = Looks()
    looks.answers = [True, False]
    watch = Watcher(tmp_path, looks, LONG_S, notified=False)
    watch._changed.set()
    watch.start()
    looks.wait_for(2)
    watch.close()


def test_a_look_that_fails_is_logged_and_not_the_last(tmp_path: Path) -> None:
    looks = Looks()
    looks.answers = [RuntimeError("out of order")]
    with structlog.testing.capture_logs() as logged, watching(tmp_path, looks, poll_s=0.001, notified=False):
        looks.wait_for(2)
    assert logged[0]["event"] == "reconciling the models folder failed"


def test_where_the_file_system_tells_nothing_the_operator_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, failed = Looks(), threading.Event()

    def no_watches(*_: object, **__: object) -> None:
        failed.set()
        raise OSError("no watches left")

    monkeypatch.setattr("watchfiles.watch", no_watches)
    with structlog.testing.capture_logs() as logged:
        watch = Watcher(tmp_path, looks, LONG_S, notified=True)
        watch.start()
        assert failed.wait(TIMEOUT_S)
        watch.close()
        for thread in watch._threads[1:]:
            thread.join(TIMEOUT_S)
    assert (logged[0]["log_level"], logged[0]["error"]) == ("warning", "no watches left")


class Panic(BaseException):
    """What a library that is written in Rust raises; it is no Exception."""


def test_nothing_that_a_look_or_its_log_raises_ends_the_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def exception(self, *_: object, **__: object) -> None:
            raise OSError("no room on the disk")

    monkeypatch.setattr(watcher, "_log", Full())
    looks = Looks()
    looks.answers = [MemoryError("none left"), RecursionError("too deep"), Panic("panicked"), True]
    with watching(tmp_path, looks, poll_s=0.01, notified=False):
        looks.wait_for(6)


def test_a_watch_that_panics_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, again = watchfiles.watch, threading.Event()
    panics = iter([Panic("panicked"), OSError("no watches left")])

    def panicking(*arguments: Any, **keywords: Any) -> Any:
        if (panic := next(panics, None)) is not None:
            raise panic
        again.set()
        return begin(*arguments, **keywords)

    monkeypatch.setattr(watchfiles, "watch", panicking)
    with watching(tmp_path, Looks(), poll_s=0.05):
        assert again.wait(TIMEOUT_S)


def test_folders_that_are_too_many_are_not_watched_and_those_that_are_too_deep_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path
    for _ in range(60):
        deep /= "d"
        deep.mkdir()
    assert len(places_of(tmp_path).folders) == 35
    monkeypatch.setattr(watcher, "_MAX_FOLDERS", 20)
    with pytest.raises(OSError, match="there are more than 20 folders"):
        places_of(tmp_path)


def test_a_link_out_of_the_folder_is_watched_itself_and_not_what_it_leads_to(tmp_path: Path) -> None:
    root, apart = tmp_path / "models", tmp_path / "apart"
    (apart / "1").mkdir(parents=True)
    root.mkdir()
    (root / "m").symlink_to(apart)
    places = places_of(root, FileReader(root))
    assert (set(places.folders), root / "m" in places.entries) == ({root}, True)
    assert apart in places_of(root, FileReader(root, (apart,))).folders
