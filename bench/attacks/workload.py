"""The models that are served under attack, and the honest client's requests."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.hostile_models.graphs import asked, counted_by_input
from bench.load import networks
from bench.load.workload import Questions, ask
from frostline.pb import inference_pb2 as pb

NETWORK = networks.mlp([784, 256, 128, 10])
MESSAGE = pb.ModelInferRequest(
    model_name="mlp",
    inputs=[{"name": "input", "datatype": "FP32", "shape": [1, 784]}],
    raw_input_contents=[bytes(784 * 4)],
).SerializeToString()
"""A valid request of the honest client's model."""

_WIDE = 2**18
ANSWER_MIB = 64
LONG_TURNS = 1_000_000.0
"""Turns of a loop that take seconds."""


def wide() -> onnx.ModelProto:
    """Repeats a row's number 262 144 times, so that a row is answered with 1 MiB: [N, 1] to [N, 262144]."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["input", "shape"], ["wide"])],
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["batch", _WIDE])],
        [numpy_helper.from_array(np.array([1, _WIDE]), "shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def wide_message(rows: int = ANSWER_MIB) -> bytes:
    """A request that is answered with 1 MiB a row."""
    return pb.ModelInferRequest(
        model_name="wide",
        inputs=[{"name": "input", "datatype": "FP32", "shape": [rows, 1]}],
        raw_input_contents=[bytes(rows * 4)],
    ).SerializeToString()


def large_message(size: int) -> bytes:
    """A request of so many bytes, more than 2 MiB, whose tensor has another shape than it says."""
    return _holding(size - (len(_holding(size)) - size))


def _holding(size: int) -> bytes:
    request = pb.ModelInferRequest.FromString(MESSAGE)
    request.raw_input_contents[0] = bytes(size)
    return request.SerializeToString()


def questions() -> Questions:
    """The honest client's requests, and ONNX Runtime's answers."""
    return ask("mlp", NETWORK, [784])


def looping_message(turns: float) -> bytes:
    """A request whose run takes so many turns of a loop."""
    return asked("looping", turns, [("input", "FP32", (1, 4))])


def publish(folder: Path) -> Path:
    """Write the models as a folder to serve."""
    counted_by_input()(folder / "looping")
    return networks.publish(folder, {"mlp": NETWORK, "wide": wide()})
