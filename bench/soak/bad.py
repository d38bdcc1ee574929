"""Bad requests, with the statuses that each asks for."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from bench.load.versions import infer_request, predict_request, rows
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.protocol import MODEL_INFER, PREDICT

_REFUSED = ("INVALID_ARGUMENT",)
_NOT_FOUND = ("NOT_FOUND",)


@dataclass(frozen=True)
class Bad:
    """A bad request.

    Attributes:
        message: its bytes.
        method: that it is sent to.
        allowed: the statuses it may end with.
        timeout_s: the call's deadline.
    """

    message: bytes
    method: str = MODEL_INFER
    allowed: Collection[str] = _REFUSED
    timeout_s: float = 20.0


def _changed(change: Callable[[pb.ModelInferRequest], object], name: str = "mlp") -> bytes:
    request = infer_request(name, rows(name, 1, seed=0))
    change(request)
    return request.SerializeToString()


def _typed(change: Callable[[typed.PredictRequest], object]) -> bytes:
    request = predict_request("mlp", rows("mlp", 1, seed=0))
    change(request)
    return request.SerializeToString()


def _shape(*shape: int) -> bytes:
    def change(request: pb.ModelInferRequest) -> None:
        request.inputs[0].shape[:] = shape

    return _changed(change)


def _content(content: bytes) -> bytes:
    def change(request: pb.ModelInferRequest) -> None:
        request.raw_input_contents[0] = content

    return _changed(change)


def _text_outside() -> bytes:
    """Words that the vocabulary does not have."""
    inputs = rows("text", 1, seed=0)
    inputs["input_ids"] = np.full_like(inputs["input_ids"], 10**9)
    return infer_request("text", inputs).SerializeToString()


BAD: Mapping[str, Bad] = {
    "garbage": Bad(b"\xff" * 64),
    "half a message": Bad(_changed(lambda _: None)[:-7]),
    "empty message": Bad(b"", allowed=(*_REFUSED, *_NOT_FOUND)),
    "unknown model": Bad(_changed(lambda it: setattr(it, "model_name", "nobody")), allowed=_NOT_FOUND),
    "unknown version": Bad(_changed(lambda it: setattr(it, "model_version", "999999999")), allowed=_NOT_FOUND),
    "version of letters": Bad(
        _changed(lambda it: setattr(it, "model_version", "x/../y")), allowed=(*_REFUSED, *_NOT_FOUND)
    ),
    "wrong type": Bad(_changed(lambda it: setattr(it.inputs[0], "datatype", "BYTES"))),
    "unknown type": Bad(_changed(lambda it: setattr(it.inputs[0], "datatype", "FP7"))),
    "wrong shape": Bad(_shape(1, 63)),
    "negative shape": Bad(_shape(-1, 64)),
    "shape beyond numbers": Bad(_shape(1, 2**63 - 1, 0)),
    "shape of nothing": Bad(_shape()),
    "too few bytes": Bad(_content(bytes(255))),
    "too many bytes": Bad(_content(bytes(2**20))),
    "no input": Bad(_changed(lambda it: it.ClearField("inputs"))),
    "input without contents": Bad(_changed(lambda it: it.ClearField("raw_input_contents"))),
    "input twice": Bad(_changed(lambda it: it.inputs.append(it.inputs[0]))),
    "unknown input": Bad(_changed(lambda it: setattr(it.inputs[0], "name", "nobody"))),
    "unknown output": Bad(_changed(lambda it: setattr(it.outputs[0], "name", "nobody"))),
    "10 000 inputs": Bad(
        _changed(lambda it: it.inputs.extend([pb.ModelInferRequest.InferInputTensor()] * 10_000)),
        allowed=(*_REFUSED, "RESOURCE_EXHAUSTED"),
    ),
    "10 000 strings": Bad(
        _changed(lambda it: it.inputs[0].contents.bytes_contents.extend([b""] * 10_000)),
        allowed=(*_REFUSED, "RESOURCE_EXHAUSTED"),
    ),
    "word outside the vocabulary": Bad(_text_outside()),
    "deadline in the past": Bad(_changed(lambda _: None), allowed=("DEADLINE_EXCEEDED", "OK"), timeout_s=1e-6),
    "unknown method": Bad(b"", "/inference.GRPCInferenceService/Nothing", ("UNIMPLEMENTED",)),
    "typed: garbage": Bad(b"\x07" * 9, PREDICT),
    "typed: no type": Bad(_typed(lambda it: it.inputs[0].ClearField("dtype")), PREDICT),
    "typed: unknown model": Bad(_typed(lambda it: setattr(it, "model", "nobody")), PREDICT, _NOT_FOUND),
    "typed: too few bytes": Bad(_typed(lambda it: setattr(it.inputs[0], "data", b"123")), PREDICT),
}
"""By what is bad about it."""
