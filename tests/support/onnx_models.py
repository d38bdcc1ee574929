"""Small real ONNX networks, and whole artifact folders around them."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from frostline_server.runtime.graph.heads import Heads

Array = np.ndarray[Any, Any]
Dim = str | int | None

WEIGHTS = np.array([[1, 0, -1], [0, 2, 1], [3, -1, 0], [-2, 1, 1]], np.float32)
BIAS = np.array([0.5, 0.0, -0.5], np.float32)
LABELS = ("ant", "bee", "cat")
HEADS = Heads("logits", "frostline_softmax", "frostline_argmax", "frostline_confidence")
"""What is appended to `linear`, and to any graph with an output `logits` [N, C] and no name that begins so."""


def rows(count: int, *shape: int, dtype: Any = np.float32) -> Array:
    """`count` rows of small distinct whole numbers, so that every dtype holds them exactly."""
    size = (count, *(shape or (4,)))
    return (np.arange(np.prod(size)).reshape(size) * 7 % 11 - 5).astype(dtype)


def logits_of(x: Array) -> Array:
    """What `linear` computes."""
    return (x.astype(np.float32) @ WEIGHTS + BIAS).astype(np.float32)


def softmax_of(logits: Array) -> Array:
    """Softmax in double precision."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def linear(
    *,
    opset: int = 18,
    element: int = TensorProto.FLOAT,
    batch: Dim = "rows",
    output: str = "logits",
    labels: Sequence[str] | str | None = None,
    shift: float = 0.0,
) -> onnx.ModelProto:
    """Input `input` [batch, 4] to logits [batch, 3] moved by `shift`; `labels` go into the metadata, a text as it is."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    model = _model(
        [
            helper.make_node("MatMul", ["input", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], [output]),
        ],
        inputs=[helper.make_tensor_value_info("input", element, [batch, 4])],
        outputs=[helper.make_tensor_value_info(output, element, [batch, 3])],
        constants={"weights": WEIGHTS.astype(dtype), "bias": (BIAS + shift).astype(dtype)},
        opset=opset,
    )
    if labels is not None:
        text = labels if isinstance(labels, str) else json.dumps(list(labels))
        helper.set_model_props(model, {"frostline.labels": text})
    return model


def passed_through(
    shape: Sequence[Dim], *, element: int = TensorProto.FLOAT, output: str = "logits", opset: int = 18
) -> onnx.ModelProto:
    """Input `input` given back unchanged as the only output."""
    return _model(
        [helper.make_node("Identity", ["input"], [output])],
        inputs=[helper.make_tensor_value_info("input", element, shape)],
        outputs=[helper.make_tensor_value_info(output, element, shape)],
        opset=opset,
    )


def product(weights: Array) -> onnx.ModelProto:
    """Input `input` [rows, n] to logits [rows, m], by weights [n, m]."""
    return _model(
        [helper.make_node("MatMul", ["input", "weights"], ["logits"])],
        inputs=[_float("input", ["rows", weights.shape[0]])],
        outputs=[_float("logits", ["rows", weights.shape[1]])],
        constants={"weights": weights},
    )


def layers(*sizes: int) -> onnx.ModelProto:
    """Input `input` [rows, sizes[0]] to logits [rows, sizes[-1]], through one matrix after the other; wide ones take long."""
    names = ["input", *(f"hidden{index}" for index in range(1, len(sizes) - 1)), "logits"]
    shapes = list(pairwise(sizes))
    return _model(
        [
            helper.make_node("MatMul", [taken, f"weights{index}"], [given])
            for index, (taken, given) in enumerate(pairwise(names))
        ],
        inputs=[_float("input", ["rows", sizes[0]])],
        outputs=[_float("logits", ["rows", sizes[-1]])],
        constants={f"weights{index}": np.full(shape, 0.01, np.float32) for index, shape in enumerate(shapes)},
    )


def two_inputs() -> onnx.ModelProto:
    """Inputs `left` [rows, 4] and `right` [rows, 2, 2] to logits [rows, 3] of left + right."""
    return _model(
        [
            helper.make_node("Reshape", ["right", "flat"], ["right_rows"]),
            helper.make_node("Add", ["left", "right_rows"], ["sum"]),
            helper.make_node("MatMul", ["sum", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits"]),
        ],
        inputs=[_float("left", ["rows", 4]), _float("right", ["rows", 2, 2])],
        outputs=[_float("logits", ["rows", 3])],
        constants={"weights": WEIGHTS, "bias": BIAS, "flat": np.array([-1, 4], np.int64)},
    )


def two_outputs() -> onnx.ModelProto:
    """Input `input` [rows, 4] to `double` [rows, 4] and `total` [rows]."""
    return _model(
        [
            helper.make_node("Add", ["input", "input"], ["double"]),
            helper.make_node("ReduceSum", ["input", "axes"], ["total"], keepdims=0),
        ],
        inputs=[_float("input", ["rows", 4])],
        outputs=[_float("double", ["rows", 4]), _float("total", ["rows"])],
        constants={"axes": np.array([1], np.int64)},
    )


def two_vectors() -> onnx.ModelProto:
    """Input `input` [rows, 4] to `same` [rows, 4] and `minus` [rows, 4]."""
    return _model(
        [helper.make_node("Identity", ["input"], ["same"]), helper.make_node("Neg", ["input"], ["minus"])],
        inputs=[_float("input", ["rows", 4])],
        outputs=[_float("same", ["rows", 4]), _float("minus", ["rows", 4])],
    )


def listing(*, again: bool = False, columns: int = 1) -> onnx.ModelProto:
    """Input `input` [rows, columns] to `found` [rows, columns], without the rows that begin with 9; or with these `again`, first."""
    nodes = [
        helper.make_node("Gather", ["input", "first"], ["begin"], axis=1),
        helper.make_node("Equal", ["begin", "nine"], ["nines"]),
        helper.make_node("Not", ["nines"], ["others"]),
        helper.make_node("Compress", ["input", "nines" if again else "others"], ["some" if again else "found"], axis=0),
    ]
    if again:
        nodes.append(helper.make_node("Concat", ["some", "input"], ["found"], axis=0))
    return _model(
        nodes,
        inputs=[_float("input", ["rows", columns])],
        outputs=[_float("found", ["rows", columns])],
        constants={"first": np.array(0, np.int64), "nine": np.array(9, np.float32)},
    )


def lookup() -> onnx.ModelProto:
    """Tokens `tokens` [rows, 2] from 0 to 3 to `doubled` [rows, 2]; the run fails on any other token."""
    return _model(
        [helper.make_node("Gather", ["table", "tokens"], ["doubled"])],
        inputs=[helper.make_tensor_value_info("tokens", TensorProto.INT64, ["rows", 2])],
        outputs=[helper.make_tensor_value_info("doubled", TensorProto.INT64, ["rows", 2])],
        constants={"table": np.array([0, 2, 4, 6], np.int64)},
    )


def strings() -> onnx.ModelProto:
    """Strings `input` [rows, 2] given back as `echo`."""
    return passed_through(["rows", 2], element=TensorProto.STRING, output="echo")


def half() -> onnx.ModelProto:
    """`linear` in half precision."""
    return linear(element=TensorProto.FLOAT16)


def fixed_batch(count: int = 1) -> onnx.ModelProto:
    """`linear` traced with a fixed number of rows."""
    return linear(batch=count)


def no_batch_axis() -> onnx.ModelProto:
    """Input `input` [4] to `scores` [3]."""
    return _model(
        [
            helper.make_node("MatMul", ["input", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
        ],
        inputs=[_float("input", [4])],
        outputs=[_float("scores", [3])],
        constants={"weights": WEIGHTS, "bias": BIAS},
    )


def dynamic_inner() -> onnx.ModelProto:
    """Sequences `input` [rows, time, 4] of any length, averaged over time, to logits [rows, 3]."""
    return _model(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits"]),
        ],
        inputs=[_float("input", ["rows", "time", 4])],
        outputs=[_float("logits", ["rows", 3])],
        constants={"axes": np.array([1], np.int64), "weights": WEIGHTS, "bias": BIAS},
    )


def dense() -> onnx.ModelProto:
    """Images `input` [rows, 2, 3, 3] to a score for each pixel, `logits` [rows, 2, 3, 3]."""
    return passed_through(["rows", 2, 3, 3])


def tokens() -> onnx.ModelProto:
    """Tokens `ids` INT64 [rows, time] to `mean` [rows, 3] of their vectors, and how many of them are not 0, `length` INT64 [rows]."""
    return _model(
        [
            helper.make_node("Gather", ["table", "ids"], ["vectors"]),
            helper.make_node("ReduceMean", ["vectors", "axes"], ["mean"], keepdims=0),
            helper.make_node("Sign", ["ids"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axes"], ["length"], keepdims=0),
        ],
        inputs=[helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", "time"])],
        outputs=[
            _float("mean", ["rows", 3]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["rows"]),
        ],
        constants={"table": WEIGHTS, "axes": np.array([1], np.int64)},
    )


def numbers() -> onnx.ModelProto:
    """One number a row: `input` [rows] to `double` [rows]."""
    return _model(
        [helper.make_node("Add", ["input", "input"], ["double"])],
        inputs=[_float("input", ["rows"])],
        outputs=[_float("double", ["rows"])],
    )


def beyond(offset: int) -> onnx.ModelProto:
    """Input `input` INT64 [rows, 2] to `more` INT64 [rows, 2], by so much."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", 2]) for name in ("input", "more")]
    add = helper.make_node("Add", ["input", "offset"], ["more"])
    return _model([add], inputs=tensors[:1], outputs=tensors[1:], constants={"offset": np.array(offset, np.int64)})


def total() -> onnx.ModelProto:
    """Any number of rows `input` [rows, 4] to the scalar `total` of all."""
    return _model(
        [helper.make_node("ReduceSum", ["input"], ["total"], keepdims=0)],
        inputs=[_float("input", ["rows", 4])],
        outputs=[_float("total", [])],
    )


def constant() -> onnx.ModelProto:
    """No input, and always the same `table` [4, 3]."""
    return _model(
        [helper.make_node("Identity", ["weights"], ["table"])],
        inputs=[],
        outputs=[_float("table", [4, 3])],
        constants={"weights": WEIGHTS},
    )


def places() -> onnx.ModelProto:
    """Rows `input` [rows, 4] to `places` INT64 [found, 2]: where they are not zero, so the first axis is not the batch."""
    return _model(
        [
            helper.make_node("NonZero", ["input"], ["columns"]),
            helper.make_node("Transpose", ["columns"], ["places"]),
        ],
        inputs=[_float("input", ["rows", 4])],
        outputs=[helper.make_tensor_value_info("places", TensorProto.INT64, ["found", 2])],
    )


def unranked() -> onnx.ModelProto:
    """Input `input` [rows, 4] in a shape of the client's choosing, `shape`: the graph cannot say how many axes `output` has."""
    return _model(
        [helper.make_node("Reshape", ["input", "shape"], ["output"])],
        inputs=[_float("input", ["rows", 4]), helper.make_tensor_value_info("shape", TensorProto.INT64, ["axes"])],
        outputs=[helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
    )


def any_shape() -> onnx.ModelProto:
    """Input `input` to `minus`, both of as many axes as there are."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("input", "minus")]
    return _model([helper.make_node("Neg", ["input"], ["minus"])], inputs=tensors[:1], outputs=tensors[1:])


def zeros(declared: Sequence[Dim], *, element: int = TensorProto.FLOAT, opset: int = 18) -> onnx.ModelProto:
    """Any `shape` INT64 [axes] to an `output` of that many zeros, whatever shape the file declares."""
    return _model(
        [
            helper.make_node(
                "ConstantOfShape", ["shape"], ["output"], value=helper.make_tensor("zero", element, [1], [0])
            )
        ],
        inputs=[helper.make_tensor_value_info("shape", TensorProto.INT64, ["axes"])],
        outputs=[helper.make_tensor_value_info("output", element, declared)],
        opset=opset,
    )


def repeating(turns: int = 1) -> onnx.ModelProto:
    """`input` [rows, 1] to `output`, twice that, after `turns` turns of a loop for each 1 of the largest number: a run may take
    for ever.
    """
    scalar = partial(helper.make_tensor_value_info, shape=[])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Sin", ["value"], ["next"]),
        ],
        "body",
        [scalar("turn", TensorProto.INT64), scalar("going", TensorProto.BOOL), scalar("value", TensorProto.FLOAT)],
        [scalar("goes_on", TensorProto.BOOL), scalar("next", TensorProto.FLOAT)],
    )
    return _model(
        [
            helper.make_node("ReduceMax", ["input"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["largest", "each"], ["all"]),
            helper.make_node("Cast", ["all"], ["turns"], to=TensorProto.INT64),
            helper.make_node("Loop", ["turns", "", "largest"], ["turned"], body=body),
            helper.make_node("Mul", ["turned", "zero"], ["nothing"]),
            helper.make_node("Add", ["input", "input"], ["twice"]),
            helper.make_node("Add", ["twice", "nothing"], ["output"]),
        ],
        inputs=[_float("input", ["rows", 1])],
        outputs=[_float("output", ["rows", 1])],
        constants={"zero": np.zeros((), np.float32), "each": np.array(turns, np.float32)},
    )


ENDLESS = 1e15
"""So many turns of `repeating` take years."""


def learner(
    operator: str,
    *,
    label: int = TensorProto.INT64,
    classes: Dim = 3,
    normalised: bool = False,
    opset: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """An operator of ai.onnx.ml as converters write it: `input` [rows, 4] to `label` [rows] and `probabilities` [rows, classes].

    Args:
        operator: its name.
        label: the type of the labels.
        classes: what the file says of their number.
        normalised: whether the scores are divided by their sum.
        opset: of ai.onnx.ml; the file names no other operator set.
        attributes: the operator's.
    """
    domain = "ai.onnx.ml"
    scores = "scores" if normalised else "probabilities"
    nodes = [helper.make_node(operator, ["input"], ["label", scores], domain=domain, **attributes)]
    if normalised:
        nodes.append(helper.make_node("Normalizer", ["scores"], ["probabilities"], domain=domain, norm="L1"))
    graph = helper.make_graph(
        nodes,
        "learner",
        [_float("input", ["rows", 4])],
        [helper.make_tensor_value_info("label", label, ["rows"]), _float("probabilities", ["rows", classes])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)


def ending(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[Dim], *, opset: int = 18, **constants: Array
) -> onnx.ModelProto:
    """The scores that `linear` computes from `input` [rows, 4], then these nodes from `scores` to `probabilities` of this shape."""
    return _model(
        [
            helper.make_node("MatMul", ["input", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
            *nodes,
        ],
        inputs=[_float("input", ["rows", 4])],
        outputs=[_float("probabilities", shape)],
        constants={"weights": WEIGHTS, "bias": BIAS, **constants},
        opset=opset,
    )


def truths() -> onnx.ModelProto:
    """Rows `input` UINT8 [rows, 2] to `set` BOOL [rows, 2] and `same` UINT8 [rows, 2]."""
    return _model(
        [
            helper.make_node("Cast", ["input"], ["set"], to=TensorProto.BOOL),
            helper.make_node("Identity", ["input"], ["same"]),
        ],
        inputs=[helper.make_tensor_value_info("input", TensorProto.UINT8, ["rows", 2])],
        outputs=[
            helper.make_tensor_value_info("set", TensorProto.BOOL, ["rows", 2]),
            helper.make_tensor_value_info("same", TensorProto.UINT8, ["rows", 2]),
        ],
    )


def already_softmax() -> onnx.ModelProto:
    """A network that ends at probabilities of its own, in an output named `softmax`."""
    return _model(
        [
            helper.make_node("MatMul", ["input", "weights"], ["product"]),
            helper.make_node("Softmax", ["product"], ["softmax"], axis=1),
        ],
        inputs=[_float("input", ["rows", 4])],
        outputs=[_float("softmax", ["rows", 3])],
        constants={"weights": WEIGHTS},
    )


def averaging() -> onnx.ModelProto:
    """A network that mixes the rows of a batch: every row's logits depend on all rows, as a batch norm left in training does."""
    return _model(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["input", "mean"], ["centred"]),
            helper.make_node("MatMul", ["centred", "weights"], ["logits"]),
        ],
        inputs=[_float("input", ["rows", 4])],
        outputs=[_float("logits", ["rows", 3])],
        constants={"axes": np.array([0], np.int64), "weights": WEIGHTS},
    )


def memory_hungry(elements: int) -> onnx.ModelProto:
    """Input `input` [rows, 1] to `output` [rows, 1], the mean of `elements` copies that are made of it on the way."""
    return _model(
        [
            helper.make_node("Expand", ["input", "shape"], ["wide"]),
            helper.make_node("ReduceMean", ["wide", "axes"], ["output"]),
        ],
        inputs=[_float("input", ["rows", 1])],
        outputs=[_float("output", ["rows", 1])],
        constants={"shape": np.array([1, elements], np.int64), "axes": np.array([1], np.int64)},
    )


def time_major() -> onnx.ModelProto:
    """Input `input` [batch, 3, time] to `output` [time, batch, 3]."""
    return _model(
        [helper.make_node("Transpose", ["input"], ["output"], perm=[2, 0, 1])],
        inputs=[_float("input", ["batch", 3, "time"])],
        outputs=[_float("output", ["time", "batch", 3])],
    )


def picked() -> onnx.ModelProto:
    """Inputs `input` [rows, 4] and `places` [rows] to `output` [rows, 4], the rows of `input` at these places."""
    return _model(
        [helper.make_node("Gather", ["input", "places"], ["output"])],
        inputs=[_float("input", ["rows", 4]), helper.make_tensor_value_info("places", TensorProto.INT64, ["rows"])],
        outputs=[_float("output", ["rows", 4])],
    )


def sees_large_batches() -> onnx.ModelProto:
    """Input `x` [n, 4] to `y` [n, 4], which is x + (n > 7)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Greater", ["n", "seven"], ["large"]),
        helper.make_node("Cast", ["large"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [tensor("x", TensorProto.FLOAT, ["n", 4])],
        [tensor("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.array([7], np.int64), "seven")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def unknown_operator() -> onnx.ModelProto:
    """A graph whose one node no runtime knows."""
    return _model(
        [helper.make_node("Frobnicate", ["input"], ["logits"])],
        inputs=[_float("input", ["rows", 4])],
        outputs=[_float("logits", ["rows", 3])],
    )


def sequences() -> onnx.ModelProto:
    """A graph whose output is a sequence, not a tensor."""
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows", 4])
    return _model(
        [helper.make_node("SequenceConstruct", ["input"], ["parts"])],
        inputs=[_float("input", ["rows", 4])],
        outputs=[helper.make_value_info("parts", helper.make_sequence_type_proto(element))],
    )


def label_and_sequence() -> onnx.ModelProto:
    """As classifiers of other libraries end: `label` INT64 [rows], and `parts`, a sequence no protocol has a word for."""
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows", 4])
    return _model(
        [
            helper.make_node("ArgMax", ["input"], ["label"], axis=1, keepdims=0),
            helper.make_node("SequenceConstruct", ["input"], ["parts"]),
        ],
        inputs=[_float("input", ["rows", 4])],
        outputs=[
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_value_info("parts", helper.make_sequence_type_proto(element)),
        ],
    )


def answers(model: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    """The first output, as ONNX Runtime computes it on the CPU."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first: Array = session.run(None, inputs)[0]
    return first


def golden_of(inputs: dict[str, Array], logits: Array) -> dict[str, Array]:
    """The arrays of a golden.npz."""
    keys = {name: "input" if len(inputs) == 1 else f"input.{name}" for name in inputs}
    tolerances = {"rtol": np.array(1e-4), "atol": np.array(1e-5)}
    return {**{keys[name]: array for name, array in inputs.items()}, "logits": logits, **tolerances}


def write_artifact(
    root: Path,
    name: str,
    version: int = 1,
    model: onnx.ModelProto | None = None,
    *,
    inputs: dict[str, Array] | None = None,
    labels: Sequence[str] | None = LABELS,
    golden: bool = True,
    card: bool = True,
) -> Path:
    """Write models/<name>/<version>/ as a training job publishes it; returns that folder.

    Args:
        root: the folder of models.
        name: the model's name.
        version: its number.
        model: the network; `linear` when None.
        inputs: the golden rows; eight of `linear`'s when None.
        labels: for the card.
        golden: whether to write golden.npz.
        card: whether to write card.json.
    """
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    model = linear() if model is None else model
    written = model.SerializeToString()
    (folder / "model.onnx").write_bytes(written)
    if golden:
        inputs = {"input": rows(8)} if inputs is None else inputs
        np.savez(folder / "golden.npz", **golden_of(inputs, answers(model, inputs)))  # type: ignore[arg-type]  # numpy's stub takes the keywords for its options
    if card:
        sha256 = hashlib.sha256(written).hexdigest()
        about = {"name": name, "version": version, "sha256": sha256, "labels": labels and list(labels)}
        (folder / "card.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def _float(name: str, shape: Sequence[Dim]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    nodes: list[onnx.NodeProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, Array] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    # The oldest IR of these operator sets that needs no constant listed as an input.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
