"""Callers of a model while its versions are rolled out, who check that every answer is that of the version it names."""

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from tests.support import calls
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

_CALLERS = 4


def check_rollout(
    root: Path, model: str, column: Callable[[int], Mapping[str, Array]], expected: Mapping[str, Array], rtol: float
) -> None:
    """Promote version 2 by way of a canary and a shadow, and roll back to 1, while callers ask.

    Args:
        root: the models folder, with both versions.
        model: the model's name.
        column: the inputs of a row, by its number.
        expected: by version the answers to all rows, [N, C].
        rtol: how far an answer may be off.
    """
    rows = len(expected["1"])
    stop, last = threading.Event(), [""] * _CALLERS

    def ask(address: str, number: int) -> None:
        with grpc.insecure_channel(address) as channel:
            for turn in itertools.count(number):
                if stop.is_set():
                    return
                at = turn % rows
                request = calls.infer_request(model, dict(column(at)), ["logits"])
                response = calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
                got = calls.answers(response)["logits"]
                np.testing.assert_allclose(got, expected[response.model_version][at : at + 1], rtol=rtol, atol=1e-5)
                last[number] = response.model_version

    def until_all_ask(versions: set[str]) -> None:
        """Wait until every caller has been answered by one of these, and each of these has answered."""
        waiting = threading.Event()
        seen: set[str] = set()
        for _ in range(int(TIMEOUT_S * 1000)):
            seen |= {*last}
            if {*last} <= versions <= seen:
                return
            if any(call.done() for call in asking):
                break
            waiting.wait(0.001)
        for call in asking:
            if call.done():
                call.result()
        raise AssertionError(f"{last} answer, not {versions}")

    with running(root, log_level="error") as server, ThreadPoolExecutor(_CALLERS) as pool:
        asking = [pool.submit(ask, server.address, number) for number in range(_CALLERS)]
        try:
            for rollout, versions in (
                (Rollout({"stable": 1}), {"1"}),
                (Rollout({"stable": 1}, shadow=2), {"1"}),
                (Rollout({"stable": 1, "canary": 2}, {"canary": 30}), {"1", "2"}),
                (Rollout({"stable": 2}), {"2"}),
                (Rollout({"stable": 1}), {"1"}),
            ):
                rollouts.write(root / model, rollout)
                until_all_ask(versions)
        finally:
            stop.set()
        for call in asking:
            call.result(TIMEOUT_S)


def settled(server: Running, rows: int) -> Any:
    """The shadows' counts once so many rows were compared."""
    waiting = threading.Event()
    for _ in range(int(TIMEOUT_S * 1000)):
        shadows = server.server.repository.shadows()
        if shadows and shadows[0][3].rows == rows:
            return shadows
        waiting.wait(0.001)
    raise AssertionError("the shadow has not compared them")
