"""The one thread that looks after runs: what it looks at, and what a defect or a pause changes."""

import gc
import math
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from frostline_server.model.watchdog import PERIOD_S, Watchdog
from frostline_server.runtime.run_limit import RunLimit
from frostline_server.runtime.session import Session
from tests.support.puppet import TIMEOUT_S


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Seen:
    """Something that has runs, and notes how it was looked at."""

    def __init__(self, error: Exception | None = None) -> None:
        self.looks: list[tuple[float, float]] = []
        self.error = error

    def look(self, now_s: float, since_s: float) -> None:
        self.looks.append((now_s, since_s))
        if self.error is not None:
            raise self.error


class Runs:
    """A session as far as the watchdog is concerned."""

    def __init__(self, limit_s: float) -> None:
        self.limit = RunLimit(limit_s, lambda: SimpleNamespace(terminate=False))


def test_it_tells_runs_that_take_too_long_to_end() -> None:
    clock, runs = Clock(), Runs(60.0)
    watchdog = Watchdog(clock)
    watchdog.watch_session(cast("Session", runs))
    run = runs.limit.begin()
    run.began_s = clock.now_s
    while not run.options.terminate:
        watchdog.look()
        clock.now_s += PERIOD_S
        assert clock.now_s < 1062.0
    assert clock.now_s > 1060.0


def test_the_time_of_a_pause_of_the_process_is_nobodys() -> None:
    clock, seen = Clock(), Seen()
    watchdog = Watchdog(clock)
    watchdog.watch(seen)
    watchdog.look()
    clock.now_s += PERIOD_S
    watchdog.look()
    clock.now_s += 3600.0
    watchdog.look()
    clock.now_s += PERIOD_S
    watchdog.look()
    assert [since_s for _, since_s in seen.looks] == [1000.0, 1000.0, 4600.0 + PERIOD_S, 4600.0 + PERIOD_S]


def test_a_defect_at_one_is_logged_once_and_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    broken, well = Seen(ValueError("broken")), Seen()
    watchdog = Watchdog(Clock())
    watchdog.watch(broken)
    watchdog.watch(well)
    idle: list[float] = []
    watchdog.idle = idle.append
    for _ in range(3):
        watchdog.look()
    assert (len(broken.looks), len(well.looks), len(idle)) == (3, 3, 3)
    assert capsys.readouterr().out.count("the watchdog failed") == 1


def test_it_keeps_nothing_alive() -> None:
    watchdog = Watchdog(Clock())
    watchdog.watch(Seen())
    watchdog.watch_session(cast("Session", Runs(1.0)))
    gc.collect()
    assert not watchdog.sessions()
    assert not watchdog._others


def test_all_runs_are_told_to_end_with_the_process() -> None:
    watchdog, runs = Watchdog(), Runs(math.inf)
    watchdog.watch_session(cast("Session", runs))
    run: Any = runs.limit.begin()
    assert watchdog.end_runs() == 1
    assert run.options.terminate
    runs.limit.end(run)
    assert watchdog.end_runs() == 0


def test_its_thread_looks_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline_server.model.watchdog.PERIOD_S", 0.001)
    looked = threading.Semaphore(0)
    watchdog = Watchdog()
    watchdog.idle = lambda now_s: looked.release()
    watchdog.start()
    for _ in range(3):
        assert looked.acquire(timeout=TIMEOUT_S)
    assert watchdog.looking
    watchdog.close()
    watchdog._thread.join(TIMEOUT_S)
    assert not watchdog.looking
