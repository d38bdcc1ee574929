"""The lowest number divided by -1 ends no process, and all other divisions are what they were."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostline_server.runtime.devices import CPU
from frostline_server.runtime.graph.divisions import guard_divisions
from frostline_server.runtime.session_factory import load_session

Array = np.ndarray[Any, Any]

TYPES = {"i4": TensorProto.INT32, "i8": TensorProto.INT64, "u4": TensorProto.UINT32, "f4": TensorProto.FLOAT}


def divided(operator: str, dtype: str, divisor: Array | None = None, **attributes: Any) -> onnx.ModelProto:
    """x by y, which a client sends or which the file has."""
    element = TYPES[dtype]
    inputs = [helper.make_tensor_value_info(name, element, ["n", 3]) for name in ("x", "y")]
    constants = [] if divisor is None else [numpy_helper.from_array(divisor.astype(dtype), "y")]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "y"], ["z"], **attributes)],
        "divided",
        inputs[: 2 - len(constants)],
        [helper.make_tensor_value_info("z", element, ["n", 3])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto, **arrays: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, arrays)
    found: Array = answer
    return found


@pytest.mark.parametrize("dtype", ["i4", "i8"])
@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_the_lowest_number_by_minus_one_is_answered(tmp_path: Path, operator: str, dtype: str) -> None:
    lowest = np.iinfo(dtype).min
    (tmp_path / "model.onnx").write_bytes(divided(operator, dtype).SerializeToString())
    session = load_session(tmp_path / "model.onnx", [(CPU, {})], threads=1, strict=True)
    x, y = np.array([[lowest, 7, -7]], dtype), np.array([[-1, -1, 2]], dtype)
    (answer,) = session.run([x, y], ["z"])
    # As two's complement has it; the quotient is rounded towards 0, and the remainder has the sign of the divisor.
    assert answer.tolist() == [[lowest, -7, -3] if operator == "Div" else [0, 0, 1]]
    assert answer.dtype == dtype


@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_all_other_divisions_are_what_they_were(operator: str) -> None:
    numbers = np.array([-(2**63) + 1, -1000, -3, -2, -1, 0, 1, 2, 5, 999, 2**63 - 1])
    x, y = (part.reshape(-1, 1).repeat(3, axis=1) for part in np.meshgrid(numbers, numbers[numbers != 0]))
    guarded = divided(operator, "i8")
    assert guard_divisions(guarded)
    assert np.array_equal(run(guarded, x=x, y=y), run(divided(operator, "i8"), x=x, y=y))


@pytest.mark.parametrize(
    ("model", "guarded"),
    [
        (divided("Div", "i8", np.array([2, 3, -5])), False),
        (divided("Mod", "i4", np.array([2, -1, 3])), True),
        (divided("Div", "f4"), False),
        (divided("Div", "u4"), False),
        (divided("Mod", "i8", fmod=1), False),
    ],
    ids=["never -1", "may be -1", "floats", "without a sign", "in floating point"],
)
def test_only_what_may_fail_is_changed(model: onnx.ModelProto, guarded: bool) -> None:
    before = model.SerializeToString()
    assert guard_divisions(model) is guarded
    assert (model.SerializeToString() != before) is guarded
    onnx.checker.check_model(model, full_check=True)
