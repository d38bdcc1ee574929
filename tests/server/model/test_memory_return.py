"""When sessions give memory back: numbers for a clock and for memory, and once ONNX Runtime's own."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frostline_server.model.memory_return import LONG_S, PAUSE_S, QUIET_S, TRIES, MemoryReturn, resident_bytes
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.session_factory import load_session
from tests.support import onnx_models

MIB = 1 << 20
STEP_S = 0.25


class Session:
    """A session that only says how long its run has taken."""

    def __init__(self) -> None:
        self.running_s = 0.0
        self.shrunk = 0

    def longest_s(self, now_s: float) -> float:
        return self.running_s

    def shrink(self) -> None:
        self.shrunk += 1


class Process:
    """Sessions, the memory of their process, and a clock."""

    def __init__(self, *sessions: Session) -> None:
        self.bytes = 300 * MIB
        self.kept = 0
        self.trims = 0
        self.now_s = 0.0
        self.held = 0
        self.policy = MemoryReturn(lambda: sessions, lambda: self.bytes + self.kept, self.trim, lambda: self.held)

    def trim(self) -> None:
        self.trims += 1
        self.kept = 0

    def look_for(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.policy.look(self.now_s)
            self.now_s += STEP_S


def test_a_model_with_brief_runs_only_keeps_its_memory() -> None:
    session = Session()
    process = Process(session)
    session.running_s = LONG_S / 2
    process.look_for(60)
    assert (session.shrunk, process.trims) == (0, 0)


def test_a_long_run_that_is_over_gives_its_memory_back_once() -> None:
    session, other = Session(), Session()
    process = Process(session, other)
    session.running_s = 3.0
    process.look_for(10)
    assert session.shrunk == 0
    session.running_s = 0.0
    process.look_for(QUIET_S + STEP_S)
    assert (session.shrunk, other.shrunk, process.trims) == (1, 0, 1)
    process.look_for(60)
    assert (session.shrunk, other.shrunk, process.trims) == (1, 0, 1)


def test_a_model_whose_usual_runs_are_long_keeps_what_it_needs() -> None:
    heavy, once = Session(), Session()
    process = Process(heavy, once)
    for _ in range(100):
        heavy.running_s = LONG_S
        process.look_for(STEP_S)
        heavy.running_s = 0.0
        process.look_for(STEP_S)
    assert heavy.shrunk == 0
    once.running_s = LONG_S
    process.look_for(STEP_S)
    once.running_s = 0.0
    for _ in range(20):
        heavy.running_s = LONG_S
        process.look_for(STEP_S)
        heavy.running_s = 0.0
        process.look_for(STEP_S)
    assert (heavy.shrunk, once.shrunk) == (0, 1)


def test_memory_that_came_without_a_long_run_is_given_back_now_and_then() -> None:
    session = Session()
    process = Process(session)
    process.look_for(1)
    process.kept = 32 * MIB
    process.look_for(STEP_S)
    assert (session.shrunk, process.trims) == (1, 1)
    # Needed again at once: it is not taken away at every look.
    process.kept = 32 * MIB
    process.look_for(PAUSE_S - 2 * STEP_S)
    assert process.trims == 1
    process.look_for(3 * STEP_S)
    assert process.trims == 2


def test_memory_that_is_in_use_is_asked_for_once() -> None:
    process = Process(Session())
    process.look_for(1)
    process.bytes += 500 * MIB
    process.look_for(60)
    assert process.trims == 1


def test_memory_that_answers_held_is_asked_for_again_when_they_have_left() -> None:
    session = Session()
    process = Process(session)
    process.look_for(1)
    process.bytes += 128 * MIB
    process.held = 128 * MIB
    process.look_for(60)
    assert process.trims == 1
    # A session keeps it for the next runs, so that the process has as much as before.
    process.held = 0
    process.bytes -= 128 * MIB
    process.kept = 128 * MIB
    process.look_for(STEP_S)
    assert (session.shrunk, process.trims, process.kept) == (2, 2, 0)
    process.look_for(60)
    assert process.trims == 2


def after_a_long_run(held_bytes: int) -> tuple[Session, Process]:
    """A session whose long run is just over, in a process that holds so much more than before it."""
    session = Session()
    process = Process(session)
    process.look_for(1)
    session.running_s = 1.0
    process.bytes += held_bytes
    process.look_for(1)
    session.running_s = 0.0
    return session, process


def test_what_answers_still_hold_after_a_long_run_is_asked_for_until_it_has_come_back() -> None:
    session, process = after_a_long_run(128 * MIB)
    process.look_for(20)
    asked = session.shrunk
    assert 3 <= asked <= 20 / PAUSE_S + 1
    process.bytes -= 128 * MIB
    process.look_for(2 * PAUSE_S)
    assert session.shrunk <= asked + 1
    asked = session.shrunk
    process.look_for(600)
    assert session.shrunk == asked


def test_what_is_in_use_for_good_after_a_long_run_is_not_asked_for_for_ever() -> None:
    session, process = after_a_long_run(128 * MIB)
    process.look_for(2000)
    assert session.shrunk <= TRIES + 1


@pytest.mark.skipif(not resident_bytes(), reason="the system does not say how much memory the process has")
def test_onnx_runtime_gives_back_what_a_large_run_took(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_models.memory_hungry(4096).SerializeToString())
    session = load_session(tmp_path / "model.onnx", [(CPU, {})], threads=1, strict=True)
    # As a version that was warmed up. ONNX Runtime keeps what the first run of all took.
    session.run([np.ones((1, 1), np.float32)], ["output"])
    policy = MemoryReturn(lambda: [session])
    policy.look(0.0)
    before = resident_bytes()
    session.run([np.ones((8192, 1), np.float32)], ["output"])
    assert resident_bytes() - before > 64 * MIB
    policy.look(1.0)
    assert resident_bytes() - before < 32 * MIB
    (output,) = session.run([np.ones((3, 1), np.float32)], ["output"])
    assert output.tolist() == [[1], [1], [1]]


_HEAPS = """
import ctypes, sys, threading
from frostline_server.model.memory_return import use_one_heap

if sys.argv[1] == "one":
    use_one_heap()
libc = ctypes.CDLL(None)
together = threading.Barrier(4)

def take():
    together.wait()
    libc.free(ctypes.c_void_p(libc.malloc(100_000)))
    together.wait()

libc.malloc.restype = ctypes.c_void_p
threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has many heaps")
@pytest.mark.parametrize("heaps", ["one", "many"])
def test_threads_take_memory_from_one_heap_once_they_are_told(heaps: str, tmp_path: Path) -> None:
    found = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", _HEAPS, heaps, str(found)], check=True)
    count = found.read_text().count("<heap ")
    assert count == 1 if heaps == "one" else count > 1
