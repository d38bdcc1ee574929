"""The oracle: a linear network, requests to it by number, and what is right about an answer to a request that may be broken."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from bench.load import networks
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed

MODEL = "fuzzed"
NETWORK = networks.mlp((4, 3))
_WEIGHTS, _BIAS = (numpy_helper.to_array(constant).astype(np.float64) for constant in NETWORK.graph.initializer)

Array = np.ndarray[Any, Any]


class Found(Exception):
    """The server did what it must not.

    Attributes:
        sent: what it was sent.
    """

    def __init__(self, reason: str, sent: bytes = b"") -> None:
        super().__init__(reason)
        self.sent = sent


@dataclass(frozen=True)
class Inputs:
    """The messages that are mutated, all valid, by what they are."""

    infer: Sequence[bytes]
    predict: Sequence[bytes]


def write(models: Path) -> None:
    """Write the network as a model of a server."""
    folder = models / MODEL / "1"
    folder.mkdir(parents=True)
    onnx.save(NETWORK, folder / "model.onnx")


def row(number: int) -> Array:
    """The input of a request, [1, 4]: no two of the first million are the same."""
    return np.array([[number % 1000, number // 1000, 1, -1]], np.float32) / 8


def logits(rows: Array) -> Array:
    """What the network answers, [n, 3]."""
    return rows.astype(np.float64) @ _WEIGHTS + _BIAS


def infer(number: int, request_id: str) -> bytes:
    """A request of one row."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4]}
    request = pb.ModelInferRequest(model_name=MODEL, id=request_id, inputs=[tensor])
    request.raw_input_contents.append(row(number).tobytes())
    return request.SerializeToString()


def inputs() -> Inputs:
    """Requests that use every part of the protocol that a client may."""
    plain = pb.ModelInferRequest.FromString(infer(1, "plain"))
    several = pb.ModelInferRequest(model_name=MODEL, id="several rows", model_version="1")
    several.inputs.add(name="input", datatype="FP32", shape=[3, 4])
    several.raw_input_contents.append(np.arange(12, dtype=np.float32).tobytes())
    contents = pb.ModelInferRequest(model_name=MODEL, id="typed contents")
    contents.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    rich = pb.ModelInferRequest.FromString(infer(2, "parameters and outputs"))
    rich.parameters["priority"].int64_param = 1
    rich.parameters["timeout"].int64_param = 60_000_000
    rich.parameters["note"].string_param = "größe"
    rich.inputs[0].parameters["binary_data_size"].int64_param = 16
    rich.outputs.add(name="logits")
    classes = pb.ModelInferRequest.FromString(infer(3, "classes"))
    classes.outputs.add(name="logits").parameters["classification"].int64_param = 2
    tensor = {"name": "input", "dtype": typed.FP32, "shape": [1, 4], "data": row(4).tobytes()}
    predict = typed.PredictRequest(model=MODEL, inputs=[tensor])
    top = typed.PredictRequest(
        model=MODEL, version="latest", inputs=[tensor], outputs=[typed.LOGITS, typed.ARGMAX], top_k=2
    )
    return Inputs(
        [one.SerializeToString() for one in (plain, several, contents, rich, classes)],
        [one.SerializeToString() for one in (predict, top)],
    )


def check_infer(sent: bytes, response: pb.ModelInferResponse) -> None:
    """Check an answer without an error to a message that may be broken.

    Raises:
        Found: the message was none, or the answer is not that to it.
    """
    try:
        request = pb.ModelInferRequest.FromString(sent)
    except DecodeError as error:
        raise Found("OK for bytes that are no message", sent) from error
    if response.id != request.id:
        raise Found(f"the answer's id is {response.id!r}, not {request.id!r}", sent)
    for index, output in enumerate(response.outputs):
        if (output.name, output.datatype) == ("logits", "FP32"):
            got = np.frombuffer(response.raw_output_contents[index], "<f4").reshape(output.shape)
            _compare(sent, _rows(request), got)


def check_predict(sent: bytes, payload: bytes) -> None:
    """The same of the typed protocol."""
    response = typed.PredictResponse.FromString(payload)
    try:
        request = typed.PredictRequest.FromString(sent)
    except DecodeError as error:
        raise Found("OK for bytes that are no message", sent) from error
    if response.HasField("logits"):
        rows = np.frombuffer(request.inputs[0].data, "<f4").reshape(request.inputs[0].shape)
        _compare(sent, rows, np.frombuffer(response.logits.data, "<f4").reshape(response.logits.shape))


def _rows(request: pb.ModelInferRequest) -> Array:
    tensor = request.inputs[0]
    if request.raw_input_contents:
        return np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tensor.shape)
    return np.array(tensor.contents.fp32_contents, np.float32).reshape(tensor.shape)


def _compare(sent: bytes, rows: Array, got: Array) -> None:
    with np.errstate(all="ignore"):
        expected = logits(rows)
        bound = np.abs(rows.astype(np.float64)) @ np.abs(_WEIGHTS) + np.abs(_BIAS)
        # Beyond what single precision holds there is nothing to compare.
        known = np.isfinite(bound) & (bound < 1e37)
        wrong = known & ~(np.abs(got - expected) <= 1e-5 * bound + 1e-6)
    if got.shape != expected.shape or wrong.any():
        raise Found(f"the answer to {rows.tolist()} is {got.tolist()}, not {expected.tolist()}", sent)
