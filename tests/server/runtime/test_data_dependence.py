"""Which graphs take equally long for all data, and which operator makes the others differ."""

import onnx
import pytest
from onnx import TensorProto, helper

from frostline_server.runtime.graph.data_dependence import data_dependent
from tests.support import onnx_models

FLAT = "<ir_version: 8, opset_import: ['' : 18, 'own' : 1, 'com.microsoft' : 1, 'ai.onnx.ml' : 3, 'strange' : 1]>"


def parsed(body: str, functions: str = "", inputs: str = "float[n, 4] x") -> onnx.ModelProto:
    """A graph of these nodes, from `x` to `y`."""
    text = f"{FLAT} g ({inputs}) => (float[n, 4] y) {{ {body} }} {functions}"
    return onnx.parser.parse_model(text.replace("'", '"'))


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(x)",
        # As PyTorch writes what follows the size of a batch.
        "s = Shape(x) y = Expand(x, s)",
        "s = Shape(x) z = ConstantOfShape(s) y = Add(x, z)",
        "s = Shape(x) z = ConstantOfShape(s) p = NonZero(z) f = Cast <to = 1> (p) y = Add(x, f)",
        "n = Size(x) zero = Constant <value_int = 0> () one = Constant <value_int = 1> () y = Range(zero, n, one)",
        "p = Constant <value_ints = [0, 1, 0, 1]> () y = Pad(x, p)",
        "s = Shape(x) y = Reshape(x, s)",
        "k = Constant <value_ints = [1]> () y, i = TopK(x, k)",
        "b = Constant <value_ints = [0]> () e = Constant <value_ints = [2]> () y = Slice(x, b, e)",
        "y = com.microsoft.FastGelu(x)",
        "y, z = ai.onnx.ml.TreeEnsembleClassifier(x)",
    ],
)
def test_what_depends_on_shapes_and_constants_only_takes_equally_long(body: str) -> None:
    assert data_dependent(parsed(body)) == ""


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("y = NonZero(x)", "NonZero"),
        ("y = Compress(x, x)", "Compress"),
        ("y = Unique(x)", "Unique"),
        ("s = Cast <to = 7> (x) y = Expand(x, s)", "Expand"),
        ("s = Cast <to = 7> (x) y = Tile(x, s)", "Tile"),
        ("s = Cast <to = 7> (x) y = ConstantOfShape(s)", "ConstantOfShape"),
        ("zero = Constant <value_int = 0> () y = Range(zero, x, x)", "Range"),
        ("s = Cast <to = 7> (x) y = Pad(x, s)", "Pad"),
        ("y = Resize(x, , x)", "Resize"),
        ("y = OneHot(x, x, x)", "OneHot"),
        # How large their outputs are decides how much is done with these.
        ("k = ArgMax <keepdims = 0> (x) y, i = TopK(x, k)", "TopK"),
        ("b = Constant <value_ints = [0]> () e = Cast <to = 7> (x) y = Slice(b, b, e)", "Slice"),
        ("s = Cast <to = 7> (x) y = Reshape(x, s)", "Reshape"),
        ("s = Cast <to = 7> (x) y = ReduceSum(x, s)", "ReduceSum"),
        ("s = Shape(x) r = RandomNormal <shape = [1]> () y = Expand(x, r)", "Expand"),
        ("y = com.microsoft.BeamSearch(x)", "BeamSearch"),
        ("y = strange.Anything(x)", "Anything"),
        ("y = If (x) <then_branch = t () => (float a) { a = Relu(x) }, else_branch = e () => (float b) { b = Abs(x) }>", "If"),
    ],
)  # fmt: skip
def test_what_is_computed_from_elements_may_not(body: str, operator: str) -> None:
    assert data_dependent(parsed(body)) == operator


def test_loops_may_not() -> None:
    assert data_dependent(onnx_models.repeating()) == "Loop"


def test_texts_may_not() -> None:
    model = parsed("t = StringNormalizer(x) y = Cast <to = 1> (t)", inputs="string[n] x")
    assert data_dependent(model) == "StringNormalizer"


def test_a_branch_that_shapes_decide_is_looked_into() -> None:
    branch = "then_branch = t () => (float a) {{ a = {0}(x) }}, else_branch = e () => (float b) {{ b = Abs(x) }}"
    condition = "s = Shape(x) c = Cast <to = 9> (s)"
    assert data_dependent(parsed(f"{condition} y = If (c) <{branch.format('Relu')}>")) == ""
    assert data_dependent(parsed(f"{condition} y = If (c) <{branch.format('NonZero')}>")) == "NonZero"


def test_what_a_branch_takes_from_elements_is_followed_out_of_it() -> None:
    branch = "then_branch = t () => (int64 a) { a = ArgMax(x) }, else_branch = e () => (int64 b) { b = Shape(x) }"
    assert data_dependent(parsed(f"s = Shape(x) i = If (s) <{branch}> y = Expand(x, i)")) == "Expand"


OWN = "<domain: 'own', opset_import: ['' : 18]> Grown (a, size) => (b) { b = Expand(a, size) }"


def test_a_function_is_looked_into_with_what_it_is_given() -> None:
    assert data_dependent(parsed("s = Shape(x) y = own.Grown(x, s)", OWN)) == ""
    assert data_dependent(parsed("s = Cast <to = 7> (x) y = own.Grown(x, s)", OWN)) == "Expand"


def test_functions_that_call_each_other_without_end_are_given_up() -> None:
    again = "<domain: 'own', opset_import: ['' : 18, 'own' : 1]> Again (a) => (b) { b = own.Again(a) }"
    assert data_dependent(parsed("y = own.Again(x)", again)) == "graphs and functions that are nested too deeply"


def test_a_tower_of_functions_that_call_the_next_one_twice_is_looked_into_once_each() -> None:
    floors = "".join(
        f"<domain: 'own', opset_import: ['' : 18, 'own' : 1]> F{floor} (a) => (b) "
        f"{{ c = own.F{floor + 1}(a) b = own.F{floor + 1}(c) }} "
        for floor in range(50)
    )
    top = "<domain: 'own', opset_import: ['' : 18]> F50 (a) => (b) { b = Relu(a) }"
    assert data_dependent(parsed("y = own.F0(x)", floors + top)) == ""


def test_a_constant_that_an_old_file_lists_among_its_inputs_is_one() -> None:
    model = parsed("y = Expand(x, s)", inputs="float[n, 4] x, int64[2] s")
    assert data_dependent(model) == "Expand"
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.INT64, [2], [1, 4]))
    assert data_dependent(model) == ""


def test_an_input_that_is_left_out_is_not_an_output_without_a_name() -> None:
    body = "a, , b = BatchNormalization <training_mode = 1> (x, x, x, x, x) s = Shape(x) y = Resize(x, , , s)"
    model = parsed(body)
    model.graph.node[0].output[1] = ""
    assert data_dependent(model) == ""
