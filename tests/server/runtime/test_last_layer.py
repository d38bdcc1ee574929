"""What a network ends at: logits get a softmax, probabilities of its own are served as they are, and all else is no classifier."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostline_server.runtime.graph.heads import add_heads
from frostline_server.runtime.graph.last_layer import Meaning, last_layer
from tests.support import onnx_models

Array = np.ndarray[Any, Any]

LOGITS, PROBABILITIES = Meaning.LOGITS, Meaning.PROBABILITIES
X = onnx_models.rows(6)
EXPECTED = onnx_models.softmax_of(onnx_models.logits_of(X))
"""The probabilities, by numpy, of what `onnx_models.ending` begins with."""


def node(operator: str, source: str, result: str, *more: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, [source, *more], [result], **attributes)


def chain(*steps: tuple[str, dict[str, Any]]) -> list[onnx.NodeProto]:
    """Operators one behind the other, from `scores` to `probabilities`; the key `more` has further inputs."""
    names = ["scores", *[f"step{number}" for number in range(1, len(steps))], "probabilities"]
    return [
        node(
            operator,
            source,
            result,
            *attributes.get("more", ()),
            **{k: v for k, v in attributes.items() if k != "more"},
        )
        for (operator, attributes), source, result in zip(steps, names, names[1:], strict=False)
    ]


def meaning(model: onnx.ModelProto) -> Meaning | None:
    layer = last_layer(model)
    return None if layer is None else layer.meaning


def answers(model: onnx.ModelProto, x: Array = X) -> list[Array]:
    """The file's own scores, the softmax, the argmax and its probability."""
    heads, addition = add_heads(model)
    assert heads is not None
    content = model.SerializeToString() + addition
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run([heads.logits, heads.softmax, heads.argmax, heads.confidence], {"input": x})
    return outputs


def check_probabilities(model: onnx.ModelProto, expected: Array = EXPECTED, x: Array = X) -> None:
    """A file's own probabilities are its softmax, and their largest is the class and the confidence."""
    assert meaning(model) is PROBABILITIES
    own, softmax, argmax, confidence = answers(model, x)
    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(softmax, own)
    assert argmax.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_array_equal(confidence, own.max(axis=1))


# Softmax


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
@pytest.mark.parametrize("axis", [1, -1])
def test_probabilities_of_the_files_own_are_served_as_they_are(opset: int, axis: int) -> None:
    check_probabilities(onnx_models.ending(chain(("Softmax", {"axis": axis})), ["rows", 3], opset=opset))


SOFTMAX = ("Softmax", {"axis": 1})


@pytest.mark.parametrize(
    "steps",
    [
        [SOFTMAX, ("Identity", {})],
        [SOFTMAX, ("Cast", {"to": TensorProto.DOUBLE}), ("Cast", {"to": TensorProto.FLOAT})],
        [SOFTMAX, ("Clip", {"more": ["floor", "one"]})],
        [SOFTMAX, ("Flatten", {"axis": 1})],
        [SOFTMAX, ("Reshape", {"more": ["keep"]})],
        [SOFTMAX, ("Unsqueeze", {"more": ["axes"]}), ("Squeeze", {"more": ["axes"]})],
        [("Reshape", {"more": ["single"]}), SOFTMAX, ("Reshape", {"more": ["keep"]})],
        [("Reshape", {"more": ["single"]}), SOFTMAX, ("Flatten", {})],
        [("Reshape", {"more": ["middle"]}), ("Softmax", {"axis": 2}), ("Squeeze", {"more": ["one_axis"]})],
        [("Transpose", {"perm": [1, 0]}), ("Softmax", {"axis": 0}), ("Transpose", {"perm": [1, 0]})],
        [("Transpose", {}), ("Softmax", {"axis": -2}), ("Transpose", {})],
        [("LogSoftmax", {"axis": 1}), ("Exp", {})],
    ],
    ids=lambda steps: "-".join(operator for operator, _ in steps),
)
def test_operators_that_keep_the_meaning_are_looked_through(steps: Sequence[tuple[str, dict[str, Any]]]) -> None:
    constants: dict[str, Any] = {
        "floor": np.array(0, np.float32), "one": np.array(1, np.float32), "keep": np.array([0, 3]), "axes": np.array([2]), "one_axis": np.array([1]),
        "single": np.array([0, 3, 1, 1]), "middle": np.array([0, 1, 3]),
    }  # fmt: skip
    check_probabilities(onnx_models.ending(chain(*steps), ["rows", 3], **constants))


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_softmax_spelled_out_is_one(opset: int, axis: int) -> None:
    by_attribute: dict[str, Any] = {"axes": [axis]} if opset < 13 else {}
    more = [] if by_attribute else ["axes"]
    nodes = [
        node("Exp", "scores", "powers"),
        node("ReduceSum", "powers", "sums", *more, **by_attribute),
        node("Div", "powers", "probabilities", "sums"),
    ]
    constants = {} if by_attribute else {"axes": np.array([axis])}
    check_probabilities(onnx_models.ending(nodes, ["rows", 3], opset=opset, **constants))


def test_a_softmax_in_a_function_is_seen() -> None:
    model = onnx_models.ending([helper.make_node("Choose", ["scores"], ["probabilities"], domain="own")], ["rows", 3])
    body = [node("Softmax", "x", "y", axis=-1)]
    model.functions.append(helper.make_function("own", "Choose", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    model.opset_import.add(domain="own", version=1)
    check_probabilities(model)


def test_log_probabilities_are_logits() -> None:
    model = onnx_models.ending(chain(("LogSoftmax", {"axis": -1})), ["rows", 3])
    assert meaning(model) is LOGITS
    own, softmax, argmax, confidence = answers(model)
    np.testing.assert_allclose(own, np.log(EXPECTED), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(softmax, EXPECTED, rtol=1e-5, atol=1e-7)
    assert (argmax.tolist(), confidence.tolist()) == (EXPECTED.argmax(axis=1).tolist(), softmax.max(axis=1).tolist())


def test_a_softmax_inside_a_network_is_not_its_end() -> None:
    nodes = [
        node("Softmax", "scores", "gate", axis=1),
        node("Mul", "gate", "gated", "scores"),
        node("MatMul", "gated", "probabilities", "mixing"),
    ]
    assert meaning(onnx_models.ending(nodes, ["rows", 3], mixing=np.eye(3, dtype=np.float32))) is LOGITS


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        (chain(("Softmax", {"axis": 0})), ["rows", 3]),
        (chain(("LogSoftmax", {"axis": 0})), ["rows", 3]),
        (chain(("Sigmoid", {})), ["rows", 3]),
        (chain(("Sigmoid", {}), ("Identity", {})), ["rows", 3]),
        (chain(("HardSigmoid", {})), ["rows", 3]),
        (chain(("Softmax", {"axis": 1}), ("Transpose", {"perm": [1, 0]})), [3, "rows"]),
        ([node("Sigmoid", "scores", "p"), node("Sub", "one", "probabilities", "p")], ["rows", 3]),
        ([node("Softmax", "scores", "p", axis=1), node("Add", "p", "probabilities", "p")], ["rows", 3]),
        ([node("Sigmoid", "scores", "p"), node("Sub", "one", "q", "p"), node("Concat", "q", "probabilities", "p", axis=1)], ["rows", 6]),
        ([node("Exp", "scores", "e"), node("ReduceSum", "e", "s", "first"), node("Div", "e", "probabilities", "s")], ["rows", 3]),
        ([node("Softmax", "scores", "p", axis=1), node("Sigmoid", "scores", "q"), node("Where", "mask", "probabilities", "p", "q")], ["rows", 3]),
        ([node("Sigmoid", "scores", "p"), node("Mul", "p", "q", "p"), node("Sqrt", "q", "probabilities")], ["rows", 3]),
        ([node("Sigmoid", "scores", "p"), node("Concat", "p", "pair", "p", axis=0), node("ReduceMean", "pair", "probabilities", "first", keepdims=1)], ["rows", 3]),
        ([node("Sigmoid", "scores", "p"), node("Transpose", "p", "q"), node("MatMul", "p", "r", "q"), node("MatMul", "r", "probabilities", "p")], ["rows", 3]),
        ([node("Neg", "scores", "n"), node("Exp", "n", "e"), node("Add", "e", "s", "one"), node("Div", "one", "probabilities", "s")], ["rows", 3]),
        ([node("Neg", "scores", "n"), node("Exp", "n", "e"), node("Add", "e", "s", "one"), node("Reciprocal", "s", "probabilities")], ["rows", 3]),
        ([node("Exp", "scores", "probabilities")], ["rows", 3]),
        ([node("FusedGemm", "scores", "probabilities", "square", domain="com.microsoft", activation="Sigmoid")], ["rows", 3]),
    ],
    ids=[
        "softmax over the rows", "log-softmax over the rows", "sigmoid", "sigmoid behind identity", "hard sigmoid",
        "classes first", "the other probability", "twice the probability", "both probabilities", "divided by the sum of the rows",
        "one or the other", "the root of a product", "a mean", "a product of probabilities", "sigmoid spelled out",
        "sigmoid as a reciprocal", "rates", "sigmoid that ONNX Runtime has fused",
    ],
)  # fmt: skip
def test_what_is_no_choice_of_one_class_gets_no_heads(nodes: Sequence[onnx.NodeProto], shape: list[Any]) -> None:
    model = onnx_models.ending(nodes, shape, one=np.array(1, np.float32), first=np.array([0]),
        mask=np.array([True, False, True]), square=np.eye(3, dtype=np.float32))  # fmt: skip
    assert last_layer(model) is None
    assert add_heads(model) == (None, b"")


@pytest.mark.parametrize(
    ("opset", "axis", "expected"),
    [(18, 1, PROBABILITIES), (18, -2, PROBABILITIES), (18, -1, None), (18, 2, None), (11, 1, None), (11, 2, None)],
)
def test_a_map_of_probabilities_has_them_along_its_second_axis(opset: int, axis: int, expected: Meaning | None) -> None:
    model = onnx_models.passed_through(["rows", 3, 4], opset=opset)
    model.graph.node[0].CopyFrom(node("Softmax", "input", "logits", axis=axis))
    assert meaning(model) is expected


def test_a_file_that_goes_round_in_circles_is_left_to_onnx_runtime() -> None:
    model = onnx_models.ending(
        [node("Identity", "a", "probabilities"), node("Identity", "probabilities", "a")], ["rows", 3]
    )
    add_heads(model)
    deep = [node("Add", f"a{at}", f"a{at + 1}", f"a{at}") for at in range(200)]
    deep[0].input[:] = ["scores", "scores"]
    deep[-1].output[0] = "probabilities"
    assert meaning(onnx_models.ending(deep, ["rows", 3])) is LOGITS


@pytest.mark.parametrize(
    ("inputs", "first", "expected"),
    [(["rows", 4], "found", LOGITS), ([1, 4], 1, LOGITS), ([1, 4], "found", None)],
)
def test_more_rows_than_were_sent_are_no_answers_for_them(
    inputs: list[Any], first: Any, expected: Meaning | None
) -> None:
    model = onnx_models.linear()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, inputs))
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    if isinstance(first, int):
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = first
    if expected is None:
        model.graph.node[0].input[0] = "kept"
        model.graph.node.insert(0, node("Compress", "input", "kept", "mask", axis=0))
        model.graph.initializer.append(numpy_helper.from_array(np.array([True]), "mask"))
    assert meaning(model) is expected


# Classifiers of ai.onnx.ml

LINEAR: dict[str, Any] = {
    "coefficients": onnx_models.WEIGHTS.T.ravel().tolist(),
    "intercepts": onnx_models.BIAS.tolist(),
}
SIGMOID = 1 / (1 + np.exp(-onnx_models.logits_of(X).astype(np.float64)))


@pytest.mark.parametrize("labels", [{"classlabels_ints": [3, 5, 7]}, {"classlabels_strings": ["ant", "bee", "cat"]}])
def test_the_probabilities_of_a_linear_classifier_are_its_softmax(labels: dict[str, Any]) -> None:
    kind = TensorProto.STRING if "classlabels_strings" in labels else TensorProto.INT64
    model = onnx_models.learner("LinearClassifier", label=kind, post_transform="SOFTMAX", **LINEAR, **labels)
    check_probabilities(model)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({"classlabels_ints": [3, 5, 7]}, ("3", "5", "7")),
        ({"classlabels_ints": [1, 2, 3]}, ("1", "2", "3")),
        ({"classlabels_strings": ["ant", "bée", "0"]}, ("ant", "bée", "0")),
        ({"classlabels_ints": [0, 1, 2]}, ()),
        ({"classlabels_ints": [4, 4, 5]}, ()),
    ],
)
@pytest.mark.parametrize("normalised", [True, False])
def test_classes_are_called_what_the_operator_calls_them(
    labels: dict[str, Any], classes: tuple[str, ...], normalised: bool
) -> None:
    kind = TensorProto.STRING if "classlabels_strings" in labels else TensorProto.INT64
    options = {"post_transform": "LOGISTIC" if normalised else "SOFTMAX", **LINEAR, **labels}
    heads, _ = add_heads(onnx_models.learner("LinearClassifier", label=kind, normalised=normalised, **options))
    assert heads is not None
    assert heads.classes == classes


@pytest.mark.parametrize(("names", "classes"), [(["no", "maybe", "yes"], ("no", "maybe", "yes")), (["a", "b"], ())])
def test_classes_are_called_what_is_picked_by_the_highest_score(names: list[str], classes: tuple[str, ...]) -> None:
    model = onnx_models.ending(
        [node("Softmax", "scores", "probabilities", axis=1), node("ArgMax", "probabilities", "index", axis=1),
         node("Cast", "index", "place", to=TensorProto.INT64), node("ArrayFeatureExtractor", "names", "picked", "place", domain="ai.onnx.ml"),
         node("Reshape", "picked", "label", "flat")],
        ["rows", 3],
        flat=np.array([-1]),
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(names, object), "names"))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["rows"]))
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    layer = last_layer(model)
    assert layer is not None
    assert layer.classes == classes


def test_names_of_more_classes_than_a_shape_has_sizes_are_found() -> None:
    names = [f"class {number}" for number in range(1500)]
    graph = helper.make_graph(
        [node("MatMul", "x", "scores", "weight"), node("Softmax", "scores", "probabilities", axis=1),
         node("ArgMax", "probabilities", "place", axis=1), node("ArrayFeatureExtractor", "names", "picked", "place", domain="ai.onnx.ml"),
         node("Reshape", "picked", "label", "flat")],
        "many classes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("label", TensorProto.STRING, ["rows"]),
         helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 1500])],
        [numpy_helper.from_array(np.zeros((4, 1500), np.float32), "weight"),
         numpy_helper.from_array(np.array(names, object), "names"), numpy_helper.from_array(np.array([-1]), "flat")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    layer = last_layer(helper.make_model(graph, opset_imports=opsets))
    assert layer is not None
    assert layer.classes == tuple(names)


def test_how_many_classes_there_are_may_be_known_to_the_operator_alone() -> None:
    model = onnx_models.learner(
        "LinearClassifier", classes=None, post_transform="SOFTMAX", classlabels_ints=[0, 1, 2], **LINEAR
    )
    layer = last_layer(model)
    assert layer is not None
    assert layer.shape[1] == 3
    check_probabilities(model)


def test_independent_scores_become_probabilities_where_they_are_divided_by_their_sum() -> None:
    options: dict[str, Any] = {"post_transform": "LOGISTIC", "classlabels_ints": [0, 1, 2], **LINEAR}
    assert last_layer(onnx_models.learner("LinearClassifier", **options)) is None
    model = onnx_models.learner("LinearClassifier", normalised=True, **options)
    check_probabilities(model, SIGMOID / SIGMOID.sum(axis=1, keepdims=True))


BINARY: dict[str, Any] = {"classes": 2, "classlabels_ints": [0, 1], "post_transform": "LOGISTIC"}


def test_two_classes_share_one_logistic_score() -> None:
    weights = onnx_models.WEIGHTS[:, 0]
    expected = np.stack([1 - SIGMOID[:, 0], SIGMOID[:, 0]], axis=1)
    both: dict[str, Any] = {"coefficients": [*(-weights).tolist(), *weights.tolist()], "intercepts": [-0.5, 0.5]}
    check_probabilities(onnx_models.learner("LinearClassifier", **both, **BINARY), expected)
    one: dict[str, Any] = {"coefficients": weights.tolist(), "intercepts": [0.5]}
    check_probabilities(onnx_models.learner("LinearClassifier", **one, **BINARY), expected)


def test_two_logistic_scores_of_their_own_are_no_probabilities() -> None:
    weights = onnx_models.WEIGHTS[:, :2].T.ravel().tolist()
    assert (
        last_layer(onnx_models.learner("LinearClassifier", coefficients=weights, intercepts=[0.5, 0.0], **BINARY))
        is None
    )


def test_the_logistic_score_of_trees_is_the_probability_of_the_second_class() -> None:
    labels: dict[str, Any] = {"classes": 2, "classlabels_int64s": [0, 1], "post_transform": "LOGISTIC"}
    second = 1 / (1 + np.exp(-np.where(YES, 2.0, -1.0)))
    check_probabilities(forest([[2.0], [-1.0]], **labels), np.stack([1 - second, second], axis=1))
    assert last_layer(forest([[2.0, 1.0], [-1.0, 0.0]], **labels)) is None


@pytest.mark.parametrize("operator", ["LinearClassifier", "SVMClassifier"])
def test_scores_that_are_no_probabilities_get_no_heads(operator: str) -> None:
    options: dict[str, Any] = {"classlabels_ints": [0, 1, 2]}
    if operator == "LinearClassifier":
        options |= LINEAR
    assert last_layer(onnx_models.learner(operator, **options)) is None


def forest(leaves: Sequence[Sequence[float]], **options: Any) -> onnx.ModelProto:
    """Trees of one question each, input[0] <= 0, with a row of class weights for each of the leaves yes, no, yes, no, ..."""
    trees = range(len(leaves) // 2)
    weights = [
        (tree, leaf, at, weight)
        for tree in trees
        for leaf in (1, 2)
        for at, weight in enumerate(leaves[2 * tree + leaf - 1])
    ]
    return onnx_models.learner(
        "TreeEnsembleClassifier",
        nodes_treeids=[tree for tree in trees for _ in range(3)],
        nodes_nodeids=[0, 1, 2] * len(trees),
        nodes_featureids=[0] * 3 * len(trees),
        nodes_values=[0.0] * 3 * len(trees),
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * len(trees),
        nodes_truenodeids=[1, 0, 0] * len(trees),
        nodes_falsenodeids=[2, 0, 0] * len(trees),
        class_treeids=[tree for tree, _, _, _ in weights],
        class_nodeids=[leaf for _, leaf, _, _ in weights],
        class_ids=[at for _, _, at, _ in weights],
        class_weights=[weight for _, _, _, weight in weights],
        **options,
    )  # fmt: skip


YES = X[:, 0] <= 0
VOTES = [[0.5, 0, 0], [0.1, 0.3, 0.1], [0.2, 0.3, 0], [0, 0, 0.5]]


def test_the_votes_of_a_forest_are_its_probabilities() -> None:
    model = forest(VOTES, classlabels_int64s=[0, 1, 2], post_transform="NONE")
    yes, no = np.add(VOTES[0], VOTES[2]), np.add(VOTES[1], VOTES[3])
    check_probabilities(model, np.where(YES[:, np.newaxis], yes, no))


def test_one_probability_of_a_forest_leaves_the_rest_to_the_other_class() -> None:
    model = forest([[0.75], [0.25]], classes=2, classlabels_int64s=[0, 1], post_transform="NONE")
    expected = np.where(YES, 0.75, 0.25)
    check_probabilities(model, np.stack([1 - expected, expected], axis=1))


@pytest.mark.parametrize(
    "leaves", [[[4.0, 0.0, 0.0], [0.0, 2.0, 1.0]], [[0.5, -0.5, 1], [0, 1, 0]], [[0.5, 0.1, 0], [0, 1, 0]]]
)
def test_sums_of_trees_that_are_no_shares_are_no_probabilities(leaves: list[list[float]]) -> None:
    options: dict[str, Any] = {"classlabels_int64s": [0, 1, 2]}
    assert last_layer(forest(leaves, post_transform="NONE", **options)) is None
    sums = np.where(YES[:, np.newaxis], leaves[0], leaves[1])
    check_probabilities(forest(leaves, post_transform="SOFTMAX", **options), onnx_models.softmax_of(sums))


def test_a_regressor_of_several_values_is_no_classifier() -> None:
    regressor = helper.make_node(
        "LinearRegressor", ["scores"], ["probabilities"], domain="ai.onnx.ml", targets=3, coefficients=[1.0] * 9
    )
    model = onnx_models.ending([regressor], ["rows", 3])
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    assert last_layer(model) is None


def test_beside_a_label_only_probabilities_are_certain() -> None:
    for operator, expected in (("Softmax", PROBABILITIES), ("Identity", None)):
        model = onnx_models.ending(chain((operator, {})), ["rows", 3])
        model.graph.node.append(node("ArgMax", "scores", "label", axis=1, keepdims=0))
        model.graph.output.add().CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]))
        assert meaning(model) is expected
