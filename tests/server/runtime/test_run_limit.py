"""How long a run may take: a clock that is only numbers, and ONNX Runtime's own loops."""

import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from frostline_server.errors import RunStopped, RunTimedOut
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.run_limit import RunLimit
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from tests.support import onnx_models

HOUR_S = 3600.0


def options() -> SimpleNamespace:
    return SimpleNamespace(terminate=False)


def test_a_run_that_is_within_its_time_is_left_alone() -> None:
    limit = RunLimit(HOUR_S, options)
    run = limit.begin()
    limit.look(run.began_s + HOUR_S)
    assert not run.options.terminate
    assert not limit.end(run)
    assert limit.begin() is run


def test_a_run_that_takes_too_long_is_told_to_end_and_its_options_are_not_used_again() -> None:
    limit = RunLimit(0.0, options)
    run = limit.begin()
    limit.look(run.began_s + 1.0)
    assert run.options.terminate
    # The clock has moved on since it began.
    assert limit.end(run)
    again = limit.begin()
    assert again is not run
    assert not again.options.terminate


def test_what_does_not_run_is_never_late() -> None:
    limit = RunLimit(1.0, options)
    run = limit.begin()
    limit.end(run)
    limit.look(time.monotonic() + HOUR_S)
    assert not run.options.terminate
    assert limit.longest_s(time.monotonic() + HOUR_S) == 0.0


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    limit = RunLimit(1.0, options)
    run = limit.begin()
    limit.look(run.began_s + HOUR_S, since_s=run.began_s + HOUR_S - 0.5)
    assert not run.options.terminate
    limit.look(run.began_s + HOUR_S + 1.0, since_s=run.began_s + HOUR_S - 0.5)
    assert run.options.terminate


def test_runs_side_by_side_have_options_of_their_own() -> None:
    limit = RunLimit(1.0, options)
    first, second = limit.begin(), limit.begin()
    second.began_s = first.began_s + 10.0
    limit.look(first.began_s + 5.0)
    assert (first.options.terminate, second.options.terminate) == (True, False)
    assert limit.longest_s(first.began_s + 5.0) == 5.0


def test_all_runs_that_go_on_are_told_to_end_with_the_process() -> None:
    limit = RunLimit(math.inf, options)
    first, second = limit.begin(), limit.begin()
    limit.end(second)
    assert limit.end_all() == 1
    assert (first.options.terminate, second.options.terminate) == (True, False)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "model.onnx").write_bytes(onnx_models.repeating().SerializeToString())
    return load_session(tmp_path / "model.onnx", [(CPU, {})], threads=1, strict=True, max_run_s=0.01)


def test_a_run_that_ends_with_the_process_is_not_said_to_have_taken_long(session: Session) -> None:
    session.limit.limit_s = math.inf
    ended = threading.Event()

    def stop() -> None:
        while not ended.wait(0.001):
            session.limit.end_all()

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    with pytest.raises(RunStopped, match="the server stopped before the network's run had ended") as caught:
        session.run([np.array([[onnx_models.ENDLESS]], np.float32)], ["output"])
    ended.set()
    stopper.join()
    assert caught.value.code == "UNAVAILABLE"


def test_a_loop_that_would_go_on_for_years_ends(session: Session) -> None:
    looked = threading.Event()

    def watch() -> None:
        while not looked.wait(0.001):
            session.limit.look(time.monotonic())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with pytest.raises(RunTimedOut, match=r"took longer than 0.01 s \(max_run_s\)") as caught:
        session.run([np.array([[onnx_models.ENDLESS]], np.float32)], ["output"])
    looked.set()
    watcher.join()
    assert caught.value.code == "DEADLINE_EXCEEDED"
    # The session is as good as new.
    (output,) = session.run([np.array([[3]], np.float32)], ["output"])
    assert output.tolist() == [[6]]
