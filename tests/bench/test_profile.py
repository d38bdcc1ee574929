"""Samples and Linux's CPU times become microseconds a request."""

import os
import threading
from collections import Counter

import pytest

from bench.measure import process
from bench.measure.process import ThreadTime
from bench.measure.samplers import Stacks, libraries, python_lines
from bench.profile import by_library, by_line, by_thread, per_request

RAW = """thread (11): native-front;Thread.run (threading.py:971);_receive (frostline_server/rpc/native.py:74) 30
thread (11): native-front;Thread.run (threading.py:971);_receive (frostline_server/rpc/native.py:85);notify (threading.py:366) 10
thread (0xc): device-m-1;_loop (frostline_server/batching/batcher.py:244);run (frostline_server/runtime/session.py:155);run (onnxruntime/capi/x.py:9) 7
thread (13): scrape;select (selectors.py:402) 1
"""


SCRIPT = """   11      7fdc0e5aaef2 (/usr/lib/libpython3.11.so.1.0)
   11  ffffffff813a2413 ([kernel.kallsyms])
   20      7fdc0e5b922f (/a folder/site-packages/pygrpc_native/_native.abi3.so)
"""
SPENT = {11: ThreadTime("python", 4.0), 20: ThreadTime("io", 1.0), 21: ThreadTime("io", 2.0)}
NAMES = {11: "native-front", 13: "scrape"}


def lines() -> dict[int, Counter[str]]:
    return {number: stacks.lines for number, stacks in python_lines(RAW).items()}


def test_a_sample_counts_for_the_innermost_line_of_the_server() -> None:
    assert python_lines(RAW) == {
        11: Stacks(
            "native-front",
            Counter({"frostline_server/rpc/native.py:74": 30, "frostline_server/rpc/native.py:85": 10}),
        ),
        12: Stacks("device-m-1", Counter({"frostline_server/runtime/session.py:155": 7})),
        13: Stacks("scrape", Counter({"outside the server": 1})),
    }


def test_a_sample_of_perf_counts_for_its_library() -> None:
    assert libraries(SCRIPT) == {11: Counter({"libpython3": 1, "the kernel": 1}), 20: Counter({"pygrpc_native": 1})}


def test_a_threads_time_is_shared_out_by_its_samples() -> None:
    found = per_request(lines(), NAMES, SPENT, 1_000_000)
    assert found["native-front"] == pytest.approx(
        {"frostline_server/rpc/native.py:74": 3.0, "frostline_server/rpc/native.py:85": 1.0}
    )
    assert found["io"] == pytest.approx({"": 3.0})


def test_the_tables_begin_with_what_costs_most() -> None:
    micros = per_request(lines(), NAMES, SPENT, 1_000_000)
    assert by_thread(micros).title == "CPU of the server for a request: 7.0 µs"
    assert by_thread(micros).rows == (("native-front", "4.00", "57%"), ("io", "3.00", "43%"))
    assert [row[0] for row in by_line(micros).rows] == [
        "frostline_server/rpc/native.py:74",
        "frostline_server/rpc/native.py:85",
    ]
    assert by_library(per_request(libraries(SCRIPT), NAMES, SPENT, 1_000_000)).rows == (
        ("libpython3", "2.00", "2.00", "0.00"),
        ("the kernel", "2.00", "2.00", "0.00"),
        ("", "2.00", "0.00", "2.00"),
        ("pygrpc_native", "1.00", "0.00", "1.00"),
    )


def test_linux_tells_a_process_and_its_threads_apart() -> None:
    pid = os.getpid()
    seen: dict[int, ThreadTime] = {}
    number: list[int] = []

    def look() -> None:
        number.append(threading.get_native_id())
        seen.update(process.threads(pid))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert {pid, number[0]} <= set(seen)
    assert process.cpu_s(pid) >= 0
    assert 1 < process.memory_mib(pid) <= process.memory_mib(pid, "VmHWM")
    with pytest.raises(ValueError, match="no line Nonsense"):
        process.memory_mib(pid, "Nonsense")
