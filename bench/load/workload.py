"""The workload: requests with known answers, and the check of a server's answers against ONNX Runtime's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from frostline.pb import inference_pb2 as pb

Array = np.ndarray[Any, Any]

_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


class WrongAnswer(Exception):
    """A server's answer differs from ONNX Runtime's; the measurement is invalid."""


class Asked(Protocol):
    """Requests whose answers are known."""

    @property
    def messages(self) -> tuple[bytes, ...]:
        """Serialised ModelInferRequests, all of one size."""
        ...

    def check(self, index: int, message: bytes, *, stream: bool = False) -> None:
        """Raise `WrongAnswer` unless `message` answers request number `index`."""
        ...


@dataclass(frozen=True)
class Questions:
    """Requests to one model, and ONNX Runtime's answers.

    Attributes:
        messages: serialised ModelInferRequests, all of one size.
        logits: [len(messages), rows, C].
    """

    messages: tuple[bytes, ...]
    logits: Array

    def check(self, index: int, message: bytes, *, stream: bool = False) -> None:
        """Compare an answer with ONNX Runtime's.

        Args:
            index: of the request.
            message: the serialised ModelInferResponse, or ModelStreamInferResponse of a stream.
            stream: which of them.

        Raises:
            WrongAnswer: the answer differs, or is none.
        """
        try:
            if stream:
                wrapped = pb.ModelStreamInferResponse.FromString(message)
                if wrapped.error_message:
                    raise WrongAnswer(f"the stream answered with the error: {wrapped.error_message}")
                response = wrapped.infer_response
            else:
                response = pb.ModelInferResponse.FromString(message)
        except DecodeError as error:
            raise WrongAnswer(f"an answer of {len(message)} bytes is not a response: {error}") from error
        expected = self.logits[index]
        outputs = [output.name for output in response.outputs]
        if outputs[:1] != ["logits"] or len(response.raw_output_contents[0]) != expected.nbytes:
            raise WrongAnswer(f"an answer holds {outputs}, expected logits {list(expected.shape)} first")
        got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(expected.shape)
        # Batches of other sizes sum in another order.
        if not np.allclose(got, expected, rtol=1e-4, atol=1e-4):
            raise WrongAnswer(
                f"logits differ from ONNX Runtime's by up to {np.abs(got - expected).max():.3g}: {got.ravel()[:4]} "
                f"instead of {expected.ravel()[:4]}"
            )


def ask(
    name: str, model: onnx.ModelProto, row: Sequence[int], *, rows: int = 1, dtype: str = "float32", count: int = 16
) -> Questions:
    """Build requests with random rows.

    Args:
        name: the model's name in the server.
        model: the network, input `input` and output `logits`.
        row: the shape of one row.
        rows: rows in each request.
        dtype: float32 or uint8, the type on the wire.
        count: how many different requests.
    """
    rng = np.random.default_rng(1)
    shape = (count, rows, *row)
    values = rng.integers(0, 256, shape) if dtype == "uint8" else rng.normal(size=shape)
    session = one_thread(model)
    messages, logits = [], []
    for array in values.astype(dtype):
        tensor = {"name": "input", "datatype": _DATATYPES[dtype], "shape": array.shape}
        request = pb.ModelInferRequest(
            model_name=name, inputs=[tensor], outputs=[{"name": "logits"}], raw_input_contents=[array.tobytes()]
        )
        messages.append(request.SerializeToString())
        logits.append(session.run(["logits"], {"input": array.astype(np.float32)})[0])
    return Questions(tuple(messages), np.stack(logits))


def framed(message: bytes) -> bytes:
    """A message with gRPC's length prefix: compression flag, length, message."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def one_thread(model: onnx.ModelProto) -> ort.InferenceSession:
    """The network in this process, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
