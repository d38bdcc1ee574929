"""The workload of the GPU study: requests with images or texts whose answers a CPU knows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto

from bench.load.workload import WrongAnswer
from frostline.pb import inference_pb2 as pb
from frostline_server.runtime.devices import CPU

Array = np.ndarray[Any, Any]

_DISTINCT = 16
"""Images that requests are put together from: the CPU computes their classes."""

LENGTHS = (16, 32, 64, 128)
"""Tokens of a text, as clients pad theirs."""


@dataclass(frozen=True)
class Classes:
    """Requests for a class, and the logits it must be the best of.

    Attributes:
        messages: serialised ModelInferRequests, all of one size.
        logits: [len(messages), rows, C], as ONNX Runtime computes them on the CPU.
        slack: by how much of the logits' spread a class may be worse than the best one: precisions differ.
    """

    messages: tuple[bytes, ...]
    logits: Array
    slack: float = 0.05

    def check(self, index: int, message: bytes, *, stream: bool = False) -> None:
        """Compare an answer's classes with the logits.

        Raises:
            WrongAnswer: one is not among the best, or there are none.
        """
        if stream:
            raise WrongAnswer("classes are not asked for in streams")
        try:
            response = pb.ModelInferResponse.FromString(message)
        except DecodeError as error:
            raise WrongAnswer(f"an answer of {len(message)} bytes is no response: {error}") from error
        logits = self.logits[index]
        if [output.name for output in response.outputs] != ["argmax"] or len(
            response.raw_output_contents[0]
        ) != 8 * len(logits):
            raise WrongAnswer(f"an answer holds {[output.name for output in response.outputs]}, expected argmax")
        classes = np.frombuffer(response.raw_output_contents[0], "<i8")
        if classes.min() < 0 or classes.max() >= logits.shape[1]:
            raise WrongAnswer(f"there are no such classes: {classes.tolist()[:8]}")
        behind = logits.max(axis=1) - logits[np.arange(len(logits)), classes]
        if (behind > self.slack * np.ptp(logits, axis=1)).any():
            raise WrongAnswer(f"classes are not the best ones: {behind.max():.3g} behind")


class Images:
    """A network over images, some of them, and the logits that a CPU computes for those.

    Args:
        model: input `input` [N, 3, side, side] of numbers from 0 to 255, and `logits`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.row = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])
        self.pixels = np.random.default_rng(1).integers(0, 256, (_DISTINCT, *self.row)).astype(np.uint8)
        session = ort.InferenceSession(model.SerializeToString(), providers=[CPU])
        # One by one: a CPU has no use for the memory of a large batch.
        rows = self.pixels.astype(np.float32)
        self.logits = np.concatenate([session.run(["logits"], {"input": row[None]})[0] for row in rows])

    def classes(self, name: str, rows: int, count: int = 4) -> Classes:
        """Requests to the model `name` with `rows` of these images each, in bytes, asking for the class only."""
        rng = np.random.default_rng(2)
        chosen = rng.integers(0, len(self.pixels), (count, rows))
        messages = []
        for places in chosen:
            tensor = {"name": "input", "datatype": "UINT8", "shape": (rows, *self.row)}
            request = pb.ModelInferRequest(
                model_name=name,
                inputs=[tensor],
                outputs=[{"name": "argmax"}],
                raw_input_contents=[self.pixels[places].tobytes()],
            )
            messages.append(request.SerializeToString())
        return Classes(tuple(messages), self.logits[chosen])


@dataclass(frozen=True)
class Texts:
    """Requests to a model with one text of `length` tokens each, and what a CPU answers in single precision.

    Attributes:
        messages: serialised ModelInferRequests, all of one size.
        logits: [len(messages), 1, C].
        tolerance: by how much logits may differ: precisions do.
    """

    messages: tuple[bytes, ...]
    logits: Array
    tolerance: float = 0.05

    def check(self, index: int, message: bytes, *, stream: bool = False) -> None:
        """Compare an answer's logits.

        Raises:
            WrongAnswer: they are others, or none.
        """
        if stream:
            raise WrongAnswer("texts are not asked in streams")
        response = pb.ModelInferResponse.FromString(message)
        if [output.name for output in response.outputs] != ["logits"]:
            raise WrongAnswer(f"an answer holds {[output.name for output in response.outputs]}, expected logits")
        got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(self.logits[index].shape)
        if not np.allclose(got, self.logits[index], atol=self.tolerance, rtol=0):
            raise WrongAnswer(f"logits differ by {np.abs(got - self.logits[index]).max():.3g}")


def texts(name: str, session: ort.InferenceSession, length: int, vocabulary: int, count: int = 4) -> Texts:
    """Random texts of one length, and what `session` answers."""
    rng = np.random.default_rng(length)
    messages, logits = [], []
    for _ in range(count):
        feed = {"input_ids": rng.integers(0, vocabulary, (1, length)), "attention_mask": np.ones((1, length), np.int64)}
        request = pb.ModelInferRequest(
            model_name=name,
            inputs=[{"name": key, "datatype": "INT64", "shape": (1, length)} for key in feed],
            outputs=[{"name": "logits"}],
            raw_input_contents=[array.tobytes() for array in feed.values()],
        )
        messages.append(request.SerializeToString())
        logits.append(session.run(["logits"], feed)[0])
    return Texts(tuple(messages), np.stack(logits))


def of_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, whose first node casts its input, given bytes."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return changed
