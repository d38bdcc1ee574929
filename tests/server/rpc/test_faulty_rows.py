"""A request that its network fails on, seen by clients: it fails alone, whoever it shared a batch with, and is counted once."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from tests.support import onnx_models
from tests.support.servers import TIMEOUT_S, Running, running, until


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with one model that some tokens break, alone and as two instances, behind each front end in turn."""
    models = tmp_path_factory.mktemp("models")
    for name, config in (("lookup", ""), ("twice", "instance_group { count: 2 }")):
        onnx_models.write_artifact(models, name, 1, onnx_models.lookup(), golden=False, labels=None)
        (models / name / "config.pbtxt").write_text(config)
    with running(models, transport=request.param, log_level="error") as instance:
        yield instance


@pytest.fixture
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def tokens(*rows: list[int], model: str = "lookup") -> pb.ModelInferRequest:
    x = np.array(rows, np.int64)
    tensor = {"name": "tokens", "datatype": "INT64", "shape": x.shape}
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[x.tobytes()])


def doubled(response: pb.ModelInferResponse) -> list[list[int]]:
    found: list[list[int]] = np.frombuffer(response.raw_output_contents[0], np.int64).reshape(-1, 2).tolist()
    return found


def statistics(stub: Any, model: str) -> tuple[int, int, int, int]:
    """Rows answered, batches run, requests answered, requests failed."""
    (found,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=TIMEOUT_S).model_stats
    times = found.inference_stats
    return found.inference_count, found.execution_count, times.success.count, times.fail.count


def counted(stub: Any, model: str, before: tuple[int, int, int, int], requests: int) -> tuple[int, ...]:
    """What `statistics` has more than before, once that many requests more are counted: answers leave before they are."""

    def found() -> tuple[int, ...]:
        rows, runs, answered, failed = (now - then for now, then in zip(statistics(stub, model), before, strict=True))
        return (rows, runs, answered, failed) if answered + failed >= requests else ()

    return until(found)


def test_only_the_guilty_request_of_a_batch_fails_and_every_counter_is_right(server: Running, stub: Any) -> None:
    before = statistics(stub, "lookup")
    with server.held("lookup") as device:
        calls = []
        for rows in ([[0, 1]], [[2, 3], [1, 1]], [[3, 3], [9, 0]], [[1, 2]]):
            calls.append(stub.ModelInfer.future(tokens(*rows), timeout=TIMEOUT_S))
            device.wait_until_queued(sum(call_rows for call_rows in (1, 2, 2, 1)[: len(calls)]))
    fine = [doubled(calls[index].result()) for index in (0, 1, 3)]
    assert fine == [[[0, 2]], [[4, 6], [2, 2]], [[2, 4]]]
    assert calls[2].code() == grpc.StatusCode.INVALID_ARGUMENT
    assert calls[2].details() == (
        "the network does not take this data: Gather node: indices element out of data bounds, idx=9 must be "
        "within the inclusive range [-4,3]"
    )
    # The row that held the device is answered, too. Then [a b] together, and d apart from the guilty one.
    assert counted(stub, "lookup", before, 5) == (1 + 4, 1 + 2, 1 + 3, 1)


def test_several_instances_answer_and_are_counted_as_one_model(stub: Any) -> None:
    before = statistics(stub, "twice")
    calls = [stub.ModelInfer.future(tokens([n % 4, 0], model="twice"), timeout=TIMEOUT_S) for n in range(40)]
    assert [doubled(call.result()) for call in calls] == [[[n % 4 * 2, 0]] for n in range(40)]
    rows, runs, answered, failed = counted(stub, "twice", before, 40)
    assert (rows, answered, failed) == (40, 40, 0)
    assert 1 <= runs <= 40


@pytest.mark.parametrize(
    "guilty", [range(0, 64, 3), range(5, 64), range(63)], ids=["a third", "a streak", "all but one"]
)
def test_of_64_callers_only_the_guilty_fail_however_many_they_are(server: Running, stub: Any, guilty: range) -> None:
    before = statistics(stub, "lookup")
    with server.held("lookup") as device:
        calls = [
            stub.ModelInfer.future(tokens([9, n % 4] if n in guilty else [n % 4, 1]), timeout=TIMEOUT_S)
            for n in range(64)
        ]
        device.wait_until_queued(64)
    codes = [call.code() for call in calls]
    assert [n for n, code in enumerate(codes) if code == grpc.StatusCode.INVALID_ARGUMENT] == list(guilty)
    innocent = [n for n in range(64) if n not in guilty]
    assert [doubled(calls[n].result()) for n in innocent] == [[[n % 4 * 2, 2]] for n in innocent]
    rows, _, answered, failed = counted(stub, "lookup", before, 65)
    assert (rows, answered, failed) == (1 + len(innocent), 1 + len(innocent), len(guilty))
