"""What a front end keeps of the last call while it waits for the next: nothing."""

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from frostline_server.batching.entry import Entry
from tests.support.calls import row_request, stub
from tests.support.onnx_models import linear, write_artifact
from tests.support.servers import TIMEOUT_S, running


def wait_until(true: Callable[[], bool]) -> bool:
    waited = threading.Event()
    for _ in range(int(TIMEOUT_S * 20)):
        if true():
            return True
        waited.wait(0.05)
    return False


def entries_of(request_id: str) -> int:
    """How many entries of requests with this id there are."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, Entry)]
    return sum(getattr(entry.call, "request_id", None) == request_id for entry in found)


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
@pytest.mark.parametrize("max_queue_delay_s", [0.0, 0.01], ids=["inline", "in the device's thread"])
def test_the_last_message_and_a_retired_version_are_let_go(
    tmp_path: Path, transport: str, max_queue_delay_s: float
) -> None:
    write_artifact(tmp_path, "linear", 1)
    settings = {"transport": transport, "max_queue_delay_s": max_queue_delay_s, "model_control": "none"}
    request_id = str(tmp_path)
    with (
        running(tmp_path, log_level="error", probe_s=0, **settings) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        request = row_request(np.ones((1, 4), np.float32), request_id)
        for _ in range(3):
            stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
        assert wait_until(lambda: entries_of(request_id) == 0)
        session = weakref.ref(server.server.repository.get("linear", "").session)
        write_artifact(tmp_path, "linear", 2, linear(shift=1))
        while server.server.reconciler.reconcile():
            threading.Event().wait(0.05)
        assert server.server.repository.get("linear", "").version == "2"
        assert wait_until(lambda: session() is None)
