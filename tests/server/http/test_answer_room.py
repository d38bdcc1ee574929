"""Memory for answers: those for which there is none now, and those for which there never is, as what they become in JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from frostline_server.config import LEAST_NETWORK_BYTES
from tests.support import onnx_models
from tests.support.calls import row_request, stub
from tests.support.http_port import Answer, Port, port, write_models
from tests.support.servers import TIMEOUT_S

MIB = 1 << 20
INFER, PREDICT = "/v2/models/wide/infer", "/v2/models/wide/predict"
ROWS = b'{"rows":[[1]]}'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """A row is answered with 1 MiB, which is 12 MiB in JSON. A third of the network's memory, less an eighth, is 14 MiB."""
    models = tmp_path_factory.mktemp("models")
    weights = np.full((1, MIB // 4), 0.123456789, np.float32)
    onnx_models.write_artifact(models, "wide", 1, onnx_models.product(weights), golden=False, labels=None)
    log = tmp_path_factory.mktemp("log") / "access.log"
    with port(models, network_bytes=48 * MIB, access_log=str(log)) as opened:
        yield opened


def asked(rows: int, *, binary: bool = False) -> bytes:
    tensor = {"name": "input", "shape": [rows, 1], "datatype": "FP32", "data": [1.0] * rows}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()


def infer(served: Port, rows: int, *, binary: bool = False) -> Answer:
    return served.ask(served.request(INFER, asked(rows, binary=binary)))


def counted(served: Port) -> tuple[int, int, int]:
    """Runs, requests that were answered, and those that were not."""
    (stats,) = json.loads(served.ask(served.get("/v2/models/wide/stats")).body)["model_stats"]
    return tuple(
        int(each)
        for each in (
            stats["execution_count"],
            stats["inference_stats"]["success"]["count"],
            stats["inference_stats"]["fail"]["count"],
        )
    )  # type: ignore[return-value]  # three


def never(served: Port, answer: Answer, needed: int) -> None:
    assert (answer.status, answer.headers["frostline-error"]) == (413, "message_too_large")
    assert "retry-after" not in answer.headers
    largest = served.front_end.budget.largest
    assert f"would take {needed} bytes of memory, and no more than {largest} can find room" in answer.error
    assert "ask for binary outputs" in answer.error


@contextmanager
def not_run(served: Port, reason: str) -> Iterator[None]:
    """Nothing is run for the one request made meanwhile, and it is counted for the model and for the port."""
    (runs, answered, failed), refused = counted(served), served.refused(reason)
    yield
    served.wait_until(lambda: counted(served) == (runs, answered, failed + 1))
    assert served.refused(reason) == refused + 1
    served.wait_until(lambda: served.front_end.budget.used == 0)


def test_an_answer_that_never_fits_as_json_is_refused_before_it_is_run_and_not_sent_again(served: Port) -> None:
    with not_run(served, "message_too_large"):
        answer = infer(served, 2)
    never(served, answer, 24 * MIB + len(asked(2)))
    with not_run(served, "message_too_large"):
        answer = served.ask(served.request(PREDICT, ROWS))
    # Beside the probabilities, an index of a class.
    never(served, answer, 20 * (MIB + 8) + len(ROWS))
    log = Path(served.server.server._config.access_log)
    served.wait_until(lambda: log.read_text().count("\n") == 2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["model"], line["status"], line["error"]) for line in lines] == [
        ("wide", "413", "message_too_large")
    ] * 2


def test_in_binary_it_fits(served: Port) -> None:
    answer = infer(served, 2, binary=True)
    assert answer.status == 200
    assert len(answer.body) - int(answer.headers["inference-header-content-length"]) == 2 * MIB


def test_json_is_not_held_twice(served: Port) -> None:
    answer = infer(served, 1)
    assert answer.status == 200
    # Beside what its making took, it would not have fitted.
    assert 12 * MIB + len(answer.body) > served.front_end.budget.largest
    assert len(json.loads(answer.body)["outputs"][0]["data"]) == MIB // 4


@pytest.mark.parametrize("binary", [False, True])
def test_an_answer_that_does_not_fit_now_is_to_be_sent_again(served: Port, *, binary: bool) -> None:
    taken = served.front_end.budget.largest - (2 * MIB if not binary else MIB // 2)
    assert served.front_end.budget.take(taken)
    try:
        (runs, _, failed), refused = counted(served), served.refused("network_full")
        answer = infer(served, 1, binary=binary)
        served.wait_until(lambda: counted(served)[2] == failed + 1)
        assert counted(served)[0] == runs
    finally:
        served.front_end.budget.give(taken)
    assert (answer.status, answer.headers["frostline-error"]) == (503, "network_full")
    assert answer.headers["retry-after"] == "1"
    assert served.refused("network_full") == refused + 1
    assert infer(served, 1, binary=binary).status == 200


def test_the_least_memory_that_may_be_set_has_room_for_requests_of_both_ports(tmp_path: Path) -> None:
    with (
        port(write_models(tmp_path), network_bytes=LEAST_NETWORK_BYTES, max_message_bytes=1024) as served,
        grpc.insecure_channel(served.server.address) as channel,
    ):
        served.works()
        answer = stub(channel).ModelInfer(row_request(onnx_models.rows(8), model="digits"), timeout=TIMEOUT_S)

    assert answer.outputs[0].shape == [8, 3]
