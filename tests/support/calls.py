"""Calls of the protocol as tests make them: a request for rows, every stub, a refusal, a model's counters."""

import time
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from tests.support.servers import TIMEOUT_S

Array = np.ndarray[Any, Any]


def row_request(x: Array, request_id: str = "", model: str = "linear", **fields: Any) -> pb.ModelInferRequest:
    """A request for rows `x` [n, 4]."""
    tensor = {"name": "input", "datatype": "FP32", "shape": x.shape}
    return pb.ModelInferRequest(
        model_name=model, id=request_id, **{"inputs": [tensor], "raw_input_contents": [x.tobytes()], **fields}
    )


def statistics(channel: Any, model: str, requests: int | None = None) -> pb.ModelStatistics:
    """Counters of a model's latest version; waits until they say that so many requests have ended: a batch is counted after its answers left."""
    give_up_s = time.monotonic() + TIMEOUT_S
    while True:
        question = pb.ModelStatisticsRequest(name=model, version="latest")
        found: pb.ModelStatistics = stub(channel).ModelStatistics(question, timeout=TIMEOUT_S).model_stats[0]
        if requests is None or ended(found) >= requests or time.monotonic() > give_up_s:
            return found


def ended(stats: pb.ModelStatistics) -> int:
    """How many requests have ended, one way or another."""
    return stats.inference_stats.success.count + stats.inference_stats.fail.count


def stub(channel: Any) -> Any:
    """Every other call of the protocol."""
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def refused(call: Any, *arguments: Any, **fields: Any) -> tuple[grpc.StatusCode, str]:
    """The status and message of a call that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    return caught.value.code(), caught.value.details() or ""
