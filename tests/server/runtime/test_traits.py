"""How coarse a network's numbers are, and which of its operators see all rows of a batch."""

import onnx
import pytest
from onnx import TensorProto

from frostline_server.runtime.graph.traits import traits_of
from tests.support import onnx_models


@pytest.mark.parametrize(
    ("element", "rounding"),
    [
        (TensorProto.FLOAT, 1e-2),
        (TensorProto.DOUBLE, 1e-2),
        (TensorProto.FLOAT16, 2e-2),
        (TensorProto.BFLOAT16, 5e-2),
    ],
)
def test_coarser_weights_round_more(element: int, rounding: float) -> None:
    assert traits_of(onnx_models.linear(element=element)).rounding == rounding


def test_quantised_activations_round_more_than_weights() -> None:
    model = onnx_models.linear()
    model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["logits", "scale", "zero"], ["q"]))
    assert traits_of(model).rounding == 2e-2


def test_quantised_activations_inside_a_branch_count_too() -> None:
    model = onnx_models.linear()
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("QuantizeLinear", ["logits", "scale", "zero"], ["q"])], "then", [], []
    )
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["q"], then_branch=inner, else_branch=inner))
    assert traits_of(model).rounding == 2e-2
    assert traits_of(model).batch_wide == ""


def test_dynamic_quantisation_sees_all_rows() -> None:
    model = onnx_models.linear()
    model.graph.node.append(onnx.helper.make_node("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft"))
    assert traits_of(model).batch_wide == "DynamicQuantizeLSTM"


def test_recurrent_operators_are_found_in_branches_and_functions() -> None:
    model = onnx_models.linear()
    assert traits_of(model).recurrent == ""
    opset = onnx.helper.make_opsetid("", 18)
    node = onnx.helper.make_node("GRU", ["x", "w", "r"], ["y"])
    model.functions.append(onnx.helper.make_function("own", "F", ["x", "w", "r"], ["y"], [node], [opset]))
    assert traits_of(model).recurrent == "GRU"
