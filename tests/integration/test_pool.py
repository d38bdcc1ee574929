"""A pool of real servers behind one name: servers go and come while calls run, and no call fails."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

import frostline
from frostline.server_process import ServerFailed, serve
from tests.support import onnx_models
from tests.support.dns import NAME, name_server
from tests.support.servers import TIMEOUT_S, running

THREADS = 4


class Load:
    """Calls without a pause, from several threads, and who answered them: each server has a version of its own."""

    def __init__(self, client: frostline.Client) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._answered: Counter[str] = Counter()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Call until stopped; raises what a call raises."""
        rows = onnx_models.rows(2)
        expected = onnx_models.logits_of(rows)
        try:
            while not self._stopped.is_set():
                prediction = self._client.predict("linear", rows)
                np.testing.assert_allclose(prediction.logits, expected, rtol=1e-5)
                with self._changed:
                    self._answered[prediction.version] += 1
                    self._changed.notify_all()
        finally:
            self.stop()

    def stop(self) -> None:
        """End all threads' calls."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, *versions: str, calls: int = 50) -> None:
        """Wait until each of these has answered so many further calls."""
        with self._changed:
            before = self._answered.copy()
            assert self._changed.wait_for(
                lambda: (
                    self._stopped.is_set()
                    or all(self._answered[version] >= before[version] + calls for version in versions)
                ),
                TIMEOUT_S,
            ), f"{dict(self._answered - before)} since then"


@contextmanager
def to_be_killed(models: Path, host: str, port: str) -> Iterator[int]:
    """A server in a process of its own, which the block ends with SIGKILL; yields its PID."""
    flags = ["--models", str(models), "--device", "cpu", "--host", host, "--port", port]
    killed = pytest.raises(ServerFailed, match=f"ended with code {-signal.SIGKILL} instead of 0")
    with killed, serve(flags, lambda _: None) as served:
        yield served.pid


def test_servers_are_killed_drained_and_added_and_no_call_fails(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        onnx_models.write_artifact(tmp_path / str(version), "linear", version)
    with running(tmp_path / "1") as drained, name_server(["127.0.0.1", "127.0.0.2", "127.0.0.3"]) as names:
        port = drained.address.rpartition(":")[2]
        with (
            to_be_killed(tmp_path / "2", "127.0.0.2", port) as process,
            frostline.connect(f"dns://{names}/{NAME}:{port}", timeout_s=TIMEOUT_S) as client,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            load = Load(client)
            calls = [threads.submit(load.run) for _ in range(THREADS)]
            try:
                load.wait_for("1", "2")
                os.kill(process, signal.SIGKILL)
                load.wait_for("1")
                with running(tmp_path / "3", host="127.0.0.3", port=int(port)):
                    load.wait_for("1", "3")
                    assert drained.call(drained.server.drain())
                    load.wait_for("3")
                    load.stop()
                    for call in calls:
                        call.result(TIMEOUT_S)
            finally:
                load.stop()


def test_the_share_of_a_server_follows_the_load_that_it_reports_itself(tmp_path: Path) -> None:
    for version, width in ((1, 3072), (2, 4)):
        onnx_models.write_artifact(tmp_path / str(version), "m", version, onnx_models.layers(4, width, width, 3))
    with ExitStack() as stack:
        names = stack.enter_context(name_server(["127.0.0.1", "127.0.0.2"]))
        flags = ["--device", "cpu", "--models"]
        slow = stack.enter_context(serve([*flags, str(tmp_path / "1")], lambda _: None))
        port = slow.address.rpartition(":")[2]
        at = ["--host", "127.0.0.2", "--port", port]
        stack.enter_context(serve([*flags, str(tmp_path / "2"), *at], lambda _: None))
        client = stack.enter_context(frostline.connect(f"dns://{names}/{NAME}:{port}", timeout_s=TIMEOUT_S))
        rows, give_up_s = onnx_models.rows(1), time.monotonic() + TIMEOUT_S
        answered: Counter[str] = Counter()
        # Until their reports count, each has a half.
        while not answered["2"] > 4 * answered["1"] > 0 and time.monotonic() < give_up_s:
            answered = Counter(client.predict("m", rows).version for _ in range(200))
    assert answered["2"] > 4 * answered["1"] > 0
