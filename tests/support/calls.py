"""Calls of the protocol as tests make them: a request for rows, every stub, a refusal, a model's counters."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc
from frostline.protocol import pack_bytes
from frostline_server.runtime.dtypes import DTYPES
from tests.support.servers import TIMEOUT_S

Array = np.ndarray[Any, Any]


def row_request(x: Array, request_id: str = "", model: str = "linear", **fields: Any) -> pb.ModelInferRequest:
    """A request for rows `x` [n, 4]."""
    tensor = {"name": "input", "datatype": "FP32", "shape": x.shape}
    return pb.ModelInferRequest(
        model_name=model, id=request_id, **{"inputs": [tensor], "raw_input_contents": [x.tobytes()], **fields}
    )


def infer_request(model: str, arrays: Mapping[str, Array], wanted: Sequence[str] = ()) -> pb.ModelInferRequest:
    """A request with these inputs by name, in this order and raw, as Triton's clients send them."""
    request = pb.ModelInferRequest(model_name=model, outputs=[{"name": name} for name in wanted])
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=_NAMES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(pack_bytes(array.ravel()) if array.dtype.hasobject else array.tobytes())
    return request


def answers(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The outputs of a response by name; strings as text."""
    return {
        output.name: _tensor(output.datatype, raw).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _tensor(datatype: str, raw: bytes) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(raw, DTYPES[datatype])
    texts, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return np.array(texts, object)


_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
