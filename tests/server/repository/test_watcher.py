"""A change in the folder is noticed, however it comes; a bad look is not the last."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from frostline_server.repository.watcher import Watcher
from tests.support.puppet import TIMEOUT_S

LONG_S = 3600.0


class Looks:
    """A reconcile that counts its calls.

    Attributes:
        answers: what the next calls say; False when there is none.
    """

    def __init__(self) -> None:
        self.answers: list[bool | Exception] = []
        self._count = 0
        self._changed = threading.Condition()

    def __call__(self) -> bool:
        with self._changed:
            self._count += 1
            self._changed.notify_all()
            answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, Exception):
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


def change(root: Path, looks: Looks, act: Callable[[], object], count: int) -> None:
    """Make a change again and again until it is noticed: the system's watch begins a moment after it is asked for."""
    noticed = threading.Event()

    def wait() -> None:
        looks.wait_for(count)
        noticed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not noticed.wait(0.05):
        act()
        assert thread.is_alive() or noticed.is_set(), "the change was not noticed"
    thread.join()


def test_the_file_system_tells_of_a_version_that_is_renamed_into_place(tmp_path: Path) -> None:
    looks = Looks()
    turn = iter(range(1, 10_000))

    def publish() -> None:
        staging = tmp_path / "m" / ".staging"
        staging.mkdir(parents=True)
        staging.rename(tmp_path / "m" / str(next(turn)))

    with watching(tmp_path, looks):
        change(tmp_path, looks, publish, 1)


def test_what_a_publisher_writes_before_it_publishes_is_not_looked_at(tmp_path: Path) -> None:
    watch = Watcher(tmp_path, Looks(), LONG_S, notified=True)
    for path, counts in (
        (tmp_path / "m" / "1" / "model.onnx", True),
        (tmp_path / "m" / ".staging-7" / "model.onnx", False),
        (tmp_path / ".git" / "index", False),
        (tmp_path / "m" / "rollout.json", True),
    ):
        assert watch._counts(None, str(path)) is counts  # type: ignore[arg-type]  # the kind of change is not looked at


def test_a_folder_inside_a_hidden_one_is_watched_all_the_same(tmp_path: Path) -> None:
    root = tmp_path / ".models"
    root.mkdir()
    assert Watcher(root, Looks(), LONG_S, notified=True)._counts(None, str(root / "m"))  # type: ignore[arg-type]


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
        for thread in watch._threads[1:]:
            thread.join(TIMEOUT_S)
        watch.close()
    assert (logged[0]["log_level"], logged[0]["error"]) == ("warning", "no watches left")
