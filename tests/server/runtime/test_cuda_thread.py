"""One thread for each session, and captures alone."""

import gc
import threading
import weakref

import pytest

from frostline_server.errors import GraphsFailed
from frostline_server.runtime.cuda_thread import Captures, CudaThread
from tests.support.puppet import TIMEOUT_S


class Owner:
    pass


def cuda_thread(owner: Owner) -> CudaThread:
    made = CudaThread("cuda")
    made.start(owner)
    return made


def test_everything_is_done_by_one_thread_whoever_asks() -> None:
    owner = Owner()
    made = cuda_thread(owner)
    seen = {made.do(threading.get_ident)}
    for _ in range(3):
        thread = threading.Thread(target=lambda: seen.add(made.do(threading.get_ident)))
        thread.start()
        thread.join(TIMEOUT_S)
    assert len(seen) == 1
    assert threading.get_ident() not in seen


def test_what_is_raised_is_raised_where_it_was_asked_for_and_the_thread_goes_on() -> None:
    owner = Owner()
    made = cuda_thread(owner)
    with pytest.raises(ZeroDivisionError):
        made.do(lambda: 1 // 0)
    assert made.do(lambda: "fine") == "fine"


class Broken(Exception):
    pass


def test_what_was_raised_is_not_kept_alive_by_a_cycle() -> None:
    def fail() -> None:
        raise Broken

    owner = Owner()
    made = cuda_thread(owner)
    gc.disable()
    try:
        with pytest.raises(Broken) as caught:
            made.do(fail)
        gone = weakref.ref(caught.value)
        del caught
        made.do(lambda: None)
        assert gone() is None
    finally:
        gc.enable()


def test_the_thread_ends_when_its_owner_is_gone() -> None:
    owner = Owner()
    made = cuda_thread(owner)
    made.do(lambda: None)
    del owner
    gc.collect()
    assert made.join(TIMEOUT_S)


def test_an_idle_thread_keeps_nothing_alive() -> None:
    owner = Owner()
    made = cuda_thread(owner)
    held = Owner()
    gone = weakref.ref(held)

    def work(kept: Owner = held) -> None:
        assert kept

    made.do(work)
    del held, work
    made.do(lambda: None)
    gc.collect()
    assert gone() is None


def test_runs_go_side_by_side() -> None:
    captures = Captures()
    with captures.running(), captures.running():
        pass


def test_a_capture_waits_for_runs_and_goes_before_those_that_come_later() -> None:
    captures, order = Captures(), list[str]()
    wanting = threading.Event()

    def capture() -> None:
        wanting.set()
        with captures.capturing():
            order.append("capture")

    def run() -> None:
        with captures.running():
            order.append("run")

    with captures.running():
        capturing = threading.Thread(target=capture)
        capturing.start()
        assert wanting.wait(TIMEOUT_S)
        # Until it has asked; from then on later runs wait.
        while not captures._wanting:
            pass
        running = threading.Thread(target=run)
        running.start()
        order.append("first run")
    capturing.join(TIMEOUT_S)
    running.join(TIMEOUT_S)
    assert order == ["first run", "capture", "run"]


def test_a_run_that_never_ends_costs_the_capture_and_not_the_other_runs() -> None:
    captures = Captures(patience_s=0.0)
    with captures.running():
        with pytest.raises(GraphsFailed, match="other runs on a GPU did not end within 0 s"), captures.capturing():
            raise AssertionError("it is not alone")
        with captures.running():
            pass
    with captures.capturing():
        pass


def test_two_captures_never_overlap() -> None:
    captures, inside, most = Captures(), 0, 0

    def capture() -> None:
        nonlocal inside, most
        for _ in range(50):
            with captures.capturing():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=capture) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert most == 1


def test_a_run_or_capture_that_fails_lets_the_others_go_on() -> None:
    captures = Captures()
    with pytest.raises(ValueError, match="run"), captures.running():
        raise ValueError("run")
    with pytest.raises(ValueError, match="capture"), captures.capturing():
        raise ValueError("capture")
    with captures.capturing():
        pass
    with captures.running():
        pass
