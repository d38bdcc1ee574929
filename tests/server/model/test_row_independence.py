"""Rows share a batch only where it is proved that each is answered as it is answered alone."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostline_server.errors import OutOfMemory, RunFailed
from frostline_server.model.row_independence import RowsDepend, Verdict, alike, check_company, company_sizes, examine
from frostline_server.model.sample_rows import SampleRows, generated_rows
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from tests.support import onnx_models

Array = np.ndarray[Any, Any]
Node = tuple[str, Sequence[str], Sequence[str], dict[str, Any]]


def graph(
    nodes: Sequence[Node],
    inputs: dict[str, Sequence[Any]],
    outputs: dict[str, Sequence[Any]],
    elements: dict[str, int] | None = None,
    **constants: Array,
) -> onnx.ModelProto:
    """A network of nodes (operator, inputs, outputs, attributes), of single precision where `elements` says nothing else."""
    elements = elements or {}

    def values(tensors: dict[str, Sequence[Any]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, elements.get(name, TensorProto.FLOAT), shape)
            for name, shape in tensors.items()
        ]

    made = [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes]
    constant = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    built = helper.make_graph(made, "g", values(inputs), values(outputs), constant)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def simple(op: str, **attributes: Any) -> onnx.ModelProto:
    return graph([(op, ["x"], ["y"], attributes)], {"x": ["n", 3]}, {"y": ["n", 3]})


def load(folder: Path, model: onnx.ModelProto) -> Session:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return load_session(folder / "model.onnx", [(CPU, {})], threads=1, strict=True)


def verdict(folder: Path, model: onnx.ModelProto, *samples: SampleRows) -> Verdict:
    session = load(folder, model)
    assert session.signature.batched, "otherwise there is nothing to prove"
    _, found = examine(session.run, session.signature, samples or generated_rows(session.signature))
    return found


@pytest.mark.parametrize(
    "build",
    [
        onnx_models.linear,
        onnx_models.half,
        onnx_models.two_inputs,
        onnx_models.two_outputs,
        onnx_models.dynamic_inner,
        onnx_models.dense,
        onnx_models.tokens,
        onnx_models.lookup,
        onnx_models.numbers,
        onnx_models.strings,
    ],
)
def test_rows_that_are_answered_one_by_one_are_independent(
    tmp_path: Path, build: Callable[[], onnx.ModelProto]
) -> None:
    assert verdict(tmp_path, build()) == Verdict(independent=True)


TIME_MAJOR = graph(
    [("Transpose", ["x"], ["y"], {"perm": [2, 0, 1]})], {"x": ["batch", 3, "time"]}, {"y": ["time", "batch", 3]}
)
EYE = graph(
    [("EyeLike", ["x"], ["eye"], {}), ("Add", ["x", "eye"], ["y"], {})], {"x": ["n", 3]}, {"y": ["n", 3]}
)  # the row's place in the batch decides
GRAM = graph([("Transpose", ["x"], ["t"], {}), ("MatMul", ["x", "t"], ["y"], {})], {"x": ["n", 3]}, {"y": ["n", "m"]})
PICKED = graph(
    [("Gather", ["x", "place"], ["y"], {})],
    {"x": ["n", 3], "place": ["n"]},
    {"y": ["n", 3]},
    {"place": TensorProto.INT64},
)
CENTRED = graph(
    [("ReduceMean", ["x", "axes"], ["mean"], {}), ("Sub", ["x", "mean"], ["y"], {})],
    {"x": ["n", 3]},
    {"y": ["n", 3]},
    axes=np.array([0], np.int64),
)
SLIGHTLY_MIXED = graph(
    [
        ("ReduceMean", ["x", "axes"], ["mean"], {}),
        ("Mul", ["mean", "little"], ["part"], {}),
        ("Add", ["x", "part"], ["y"], {}),
    ],
    {"x": ["n", 3]},
    {"y": ["n", 3]},
    axes=np.array([0], np.int64),
    little=np.array(1e-3, np.float32),
)  # less than rounding may change between one row and several
BESIDE_A_TIME = graph(
    [
        ("ReduceMean", ["x", "axes"], ["mean"], {}),
        ("Add", ["x", "mean"], ["mixed"], {}),
        ("Mul", ["x", "nothing"], ["flat"], {}),
        ("Add", ["flat", "time"], ["times"], {}),
        ("Concat", ["times", "mixed"], ["y"], {"axis": 1}),
    ],
    {"x": ["n", 1]},
    {"y": ["n", 2]},
    {"x": TensorProto.DOUBLE, "y": TensorProto.DOUBLE},
    axes=np.array([0], np.int64),
    nothing=np.array(0, np.float64),
    time=np.array(1.7e12, np.float64),
)  # what rows add to one another is far below the rounding of single precision in the largest number
TINY = graph(
    [
        ("ReduceMean", ["x", "axes"], ["mean"], {}),
        ("Add", ["x", "mean"], ["mixed"], {}),
        ("Mul", ["mixed", "little"], ["y"], {}),
    ],
    {"x": ["n", 1]},
    {"y": ["n", 1]},
    axes=np.array([0], np.int64),
    little=np.array(1e-30, np.float32),
)
ALONE_ONLY = graph(
    [("Reshape", ["x", "one"], ["first"], {}), ("Add", ["x", "first"], ["y"], {})],
    {"x": ["n", 3]},
    {"y": ["n", 3]},
    one=np.array([1, 3], np.int64),
)
QUANTISED = graph(
    [
        ("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], {}),
        ("DequantizeLinear", ["q", "scale", "zero"], ["y"], {}),
    ],
    {"x": ["n", 3]},
    {"y": ["n", 3]},
)


def quantised_in_a_function() -> onnx.ModelProto:
    """`QUANTISED` with its operators in a function of the file."""
    model = graph([("Quantised", ["x"], ["y"], {"domain": "own"})], {"x": ["n", 3]}, {"y": ["n", 3]})
    opset = helper.make_opsetid("", 18)
    model.functions.append(helper.make_function("own", "Quantised", ["x"], ["y"], list(QUANTISED.graph.node), [opset]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (simple("Softmax", axis=0), "output 'y' of a row depends on the rows beside it"),
        (CENTRED, "output 'y' of a row depends on the rows beside it"),
        (TIME_MAJOR, "output 'y' has shape [5, 1, 3] for one row"),
        (EYE, "output 'y' of a row among 2 is not the one that the row gets alone"),
        (SLIGHTLY_MIXED, "output 'y' of a row depends on the rows beside it"),
        (BESIDE_A_TIME, "output 'y' of a row depends on the rows beside it"),
        (TINY, "output 'y' of a row depends on the rows beside it"),
        (GRAM, "output 'y' of a row depends on the rows beside it"),
        (QUANTISED, "its operator DynamicQuantizeLinear computes with all rows of a batch"),
        (quantised_in_a_function(), "its operator DynamicQuantizeLinear computes with all rows of a batch"),
        (ALONE_ONLY, "it fails on 2 rows, each of which it answers alone"),
        (simple("RandomNormalLike", seed=1.0), "output 'y' differs from run to run for the same row"),
        (onnx_models.places(), "output 'places' has shape"),
        (onnx_models.averaging(), "of a row depends on the rows beside it"),
        (
            graph([("Identity", ["x"], ["y"], {})], {"x": ["n", "n"]}, {"y": ["n", "n"]}),
            "the first axis of input 'x' is 'n', which is also an axis inside a row",
        ),
    ],
)
def test_rows_that_see_each_other_are_found_out(tmp_path: Path, model: onnx.ModelProto, reason: str) -> None:
    found = verdict(tmp_path, model)
    assert (found.independent, found.disproved) == (False, True)
    assert reason in found.reason


def test_what_only_the_size_of_a_batch_changes_may_be_rounding(tmp_path: Path) -> None:
    signature = load(tmp_path, onnx_models.linear()).signature

    def run(difference: float) -> Verdict:
        def computed(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
            return [inputs[0] * np.float32(1 + difference * (len(inputs[0]) > 1))]

        return examine(computed, signature, generated_rows(signature))[1]

    assert run(0.005).independent
    assert run(0.02) == Verdict(False, reason="output 'logits' of a row among 2 is not the one that the row gets alone")
    assert run(0.2).disproved


def test_runs_that_do_not_repeat_their_last_bits_may_differ_in_them(tmp_path: Path) -> None:
    session = load(tmp_path, onnx_models.linear())
    random = np.random.default_rng(0)

    def run(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        answers = session.run(list(inputs), tuple(outputs))
        return [answer * np.float32(1 + random.normal(0, 1e-6, answer.shape)) for answer in answers]

    _, found = examine(run, session.signature, generated_rows(session.signature))
    assert found == Verdict(independent=True)


def test_a_doubt_is_not_lifted_by_rows_that_cannot_show_it(tmp_path: Path) -> None:
    # Mixed by the mean of `id`: alone and in company answers are apart by little, and rows whose ids are all equal show nothing.
    model = graph(
        [
            ("Cast", ["id"], ["number"], {"to": TensorProto.FLOAT}),
            ("ReduceMean", ["number", "axes"], ["mean"], {}),
            ("Mul", ["mean", "little"], ["part"], {}),
            ("Add", ["x", "part"], ["y"], {}),
        ],
        {"x": ["n", 1], "id": ["n", 1]},
        {"y": ["n", 1]},
        {"id": TensorProto.INT64},
        axes=np.array([0], np.int64),
        little=np.array(0.05, np.float32),
    )
    found = verdict(tmp_path, model)
    assert found == Verdict(False, disproved=True, reason="output 'y' of a row depends on the rows beside it")


def test_an_input_that_is_the_same_in_every_row_that_was_answered_shows_nothing(tmp_path: Path) -> None:
    # A table of one row: only the id 0 is answered.
    model = graph(
        [("Gather", ["table", "id"], ["found"], {}), ("Add", ["x", "found"], ["y"], {})],
        {"x": ["n", 1], "id": ["n", 1]},
        {"y": ["n", 1]},
        {"id": TensorProto.INT64},
        table=np.array([1.0], np.float32),
    )
    found = verdict(tmp_path, model)
    assert found == Verdict(False, reason="only rows with the same 'id' were answered")
    rows = tuple((np.full((1, 1), row, np.float32), np.array([[0]])) for row in range(3))
    assert verdict(tmp_path, model, SampleRows(rows, "golden.npz", real=True)).independent


def _conditional(nodes: Sequence[Node], **more: Any) -> onnx.ModelProto:
    outputs = more.pop("outputs", {"y": ["n", 4]})
    return graph(nodes, {"x": ["n", 4]}, outputs, more.pop("elements", None), one=np.array(1, np.float32), **more)


@pytest.mark.parametrize(
    "model",
    [
        _conditional(
            [
                ("Abs", ["x"], ["size"], {}),
                ("ReduceMax", ["size"], ["largest"], {"keepdims": 0}),
                ("Max", ["largest", "one"], ["scale"], {}),
                ("Div", ["x", "scale"], ["y"], {}),
            ]
        ),
        _conditional(
            [
                ("ReduceMin", ["x"], ["least"], {"keepdims": 0}),
                ("Min", ["least", "zero"], ["shift"], {}),
                ("Sub", ["x", "shift"], ["y"], {}),
            ],
            zero=np.array(0, np.float32),
        ),
        _conditional(
            [
                ("IsNaN", ["x"], ["missing"], {}),
                ("Where", ["missing", "zero", "x"], ["known"], {}),
                ("ReduceMean", ["known", "axes"], ["mean"], {}),
                ("Where", ["missing", "mean", "x"], ["y"], {}),
            ],
            zero=np.array(0, np.float32),
            axes=np.array([0], np.int64),
        ),
        _conditional(
            [
                ("Relu", ["x"], ["y"], {}),
                ("ReduceMax", ["x"], ["largest"], {"keepdims": 0}),
                ("Greater", ["largest", "much"], ["alarm"], {}),
                ("Equal", ["x", "x"], ["same"], {}),
                ("And", ["same", "alarm"], ["flags"], {}),
            ],
            outputs={"y": ["n", 4], "flags": ["n", 4]},
            elements={"flags": TensorProto.BOOL},
            much=np.array(5, np.float32),
        ),
    ],
    ids=[
        "divided by the largest above 1",
        "moved by the least below 0",
        "gaps filled with the mean",
        "a flag for a large number",
    ],
)
def test_what_only_some_values_set_off_is_found_out(tmp_path: Path, model: onnx.ModelProto) -> None:
    assert verdict(tmp_path, model).disproved


def _seen(value: Any, element: int, *, more: bool = False, every: bool = False) -> onnx.ModelProto:
    """Input `x` [n, 4] to `y`, which is as single precision x + 1 where any (or all of a row) of all rows is a value, or more."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    found = "IsInf" if value == math.inf else "IsNaN" if math.isnan(value) else "Greater" if more else "Equal"
    return graph(
        [
            (found, ["x"] if found.startswith("Is") else ["x", "value"], ["there"], {}),
            ("Cast", ["there"], ["count"], {"to": TensorProto.FLOAT}),
            ("ReduceMin" if every else "ReduceMax", ["count", "last"], ["own"], {}),
            ("ReduceMax", ["own"], ["any"], {"keepdims": 0}),
            ("Cast", ["x"], ["number"], {"to": TensorProto.FLOAT}),
            ("Add", ["number", "any"], ["y"], {}),
        ],
        {"x": ["n", 4]},
        {"y": ["n", 4]},
        {"x": element},
        value=np.array(value if math.isfinite(value) else 0, dtype),
        last=np.array([1], np.int64),
    )


@pytest.mark.parametrize(
    ("element", "value", "more"),
    [
        (TensorProto.FLOAT, math.inf, False),
        (TensorProto.FLOAT, math.nan, False),
        (TensorProto.FLOAT, -999, False),
        (TensorProto.DOUBLE, -1, False),
        (TensorProto.FLOAT16, 255, False),
        (TensorProto.FLOAT, 1e8, True),
        *[(TensorProto.INT64, value, False) for value in (-1, 0, 127, 255, -100, 2**63 - 1)],
        *[(TensorProto.INT64, value, True) for value in (100, 1000, 100_000, 10**9)],
        (TensorProto.INT32, -1, False),
        (TensorProto.INT32, 2**31 - 1, False),
        (TensorProto.INT8, -1, False),
        (TensorProto.INT8, 127, False),
        (TensorProto.UINT8, 255, False),
        (TensorProto.UINT8, 200, True),
        (TensorProto.UINT16, 65535, False),
    ],
)
@pytest.mark.parametrize("every", [False, True], ids=["some", "all"])
def test_a_value_that_means_something_is_found_out_whatever_its_type(
    tmp_path: Path, element: int, value: Any, more: bool, every: bool
) -> None:
    found = verdict(tmp_path, _seen(value, element, more=more, every=every))
    assert found.disproved
    assert "output 'y' of a row" in found.reason


def _of_the_rest(missing: float) -> onnx.ModelProto:
    """A value that stands for none becomes the mean of the other rows."""
    return graph(
        [
            ("Equal", ["x", "missing"], ["gap"], {}),
            ("Where", ["gap", "zero", "x"], ["known"], {}),
            ("Where", ["gap", "zero", "one"], ["there"], {}),
            ("ReduceSum", ["known", "axis"], ["sum"], {}),
            ("ReduceSum", ["there", "axis"], ["count"], {}),
            ("Max", ["count", "one"], ["least"], {}),
            ("Div", ["sum", "least"], ["mean"], {}),
            ("Where", ["gap", "mean", "x"], ["y"], {}),
        ],
        {"x": ["n", 6]},
        {"y": ["n", 6]},
        missing=np.array(missing, np.float32),
        zero=np.array(0, np.float32),
        one=np.array(1, np.float32),
        axis=np.array([0]),
    )


def _neighbour(steps: int) -> onnx.ModelProto:
    """A row grows by 1 where the row so many steps before it, or behind it for a negative number, holds -999."""
    first, last = max(0, steps), max(0, -steps)
    return graph(
        [
            ("Equal", ["x", "missing"], ["gap"], {}),
            ("Cast", ["gap"], ["number"], {"to": TensorProto.FLOAT}),
            ("Pad", ["number", "pads"], ["padded"], {}),
            ("Slice", ["padded", "start", "end", "axis"], ["neighbour"], {}),
            ("Add", ["x", "neighbour"], ["y"], {}),
        ],
        {"x": ["n", 6]},
        {"y": ["n", 6]},
        missing=np.array(-999, np.float32),
        pads=np.array([first, 0, last, 0]),
        start=np.array([last]),
        end=np.array([-first if first else 2**62]),
        axis=np.array([0]),
    )


@pytest.mark.parametrize("model", [_of_the_rest(-999), _of_the_rest(-1), _neighbour(1), _neighbour(-1)])
def test_what_an_odd_row_gets_and_what_the_rows_around_it_get_is_compared(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    assert verdict(tmp_path, model).disproved


@pytest.mark.parametrize("value", [0, -1, 255])
@pytest.mark.parametrize("element", [TensorProto.INT64, TensorProto.INT32])
def test_a_value_of_one_number_for_each_row_is_found_out(tmp_path: Path, value: int, element: int) -> None:
    model = graph(
        [
            ("Equal", ["group", "value"], ["there"], {}),
            ("Cast", ["there"], ["count"], {"to": TensorProto.FLOAT}),
            ("ReduceMax", ["count"], ["any"], {"keepdims": 0}),
            ("Cast", ["group"], ["number"], {"to": TensorProto.FLOAT}),
            ("Unsqueeze", ["number", "axis"], ["column"], {}),
            ("Add", ["x", "column"], ["sum"], {}),
            ("Add", ["sum", "any"], ["y"], {}),
        ],
        {"x": ["n", 6], "group": ["n"]},
        {"y": ["n", 6]},
        {"group": element},
        value=np.array(value, helper.tensor_dtype_to_np_dtype(element)),
        axis=np.array([1]),
    )
    assert verdict(tmp_path, model).disproved


def _far_from_the_mean(flag: str, deviations: float) -> onnx.ModelProto:
    """Whether a number is so many standard deviations from its column's mean; with `flag` as a truth value, else replaced."""
    deviates: list[Node] = [
        ("ReduceMean", ["x", "axis"], ["mean"], {}),
        ("Sub", ["x", "mean"], ["off"], {}),
        ("Mul", ["off", "off"], ["square"], {}),
        ("ReduceMean", ["square", "axis"], ["variance"], {}),
        ("Sqrt", ["variance"], ["deviation"], {}),
        ("Mul", ["deviation", "times"], ["bound"], {}),
    ]
    if flag:
        ends: list[Node] = [("Relu", ["x"], ["y"], {}), (flag, ["off", "bound"], ["far"], {})]
        outputs: dict[str, Sequence[Any]] = {"y": ["n", 6], "far": ["n", 6]}
    else:
        ends = [
            ("Abs", ["off"], ["size"], {}),
            ("Greater", ["size", "bound"], ["outlier"], {}),
            ("Where", ["outlier", "mean", "x"], ["y"], {}),
        ]
        outputs = {"y": ["n", 6]}
    return graph(
        [*deviates, *ends], {"x": ["n", 6]}, outputs, {"far": TensorProto.BOOL},
        times=np.array(deviations, np.float32), axis=np.array([0]),
    )  # fmt: skip


@pytest.mark.parametrize(("flag", "deviations"), [("", 3), ("Greater", 2.5), ("Greater", 4)])
def test_what_a_row_far_from_many_others_gets_is_found_out(tmp_path: Path, flag: str, deviations: float) -> None:
    assert verdict(tmp_path, _far_from_the_mean(flag, deviations)).disproved


def _halved(until: str) -> onnx.ModelProto:
    """Input `x` [n, 4] to `y` [n, 4, steps]: halved until nothing above 1 is left, or, of "steps", three times."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["number", "half"], ["halved"]),
            helper.make_node("ReduceMax", ["halved"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "one"], ["more"]),
            helper.make_node("Identity", ["more" if until == "elements" else "again"], ["go_on"]),
            helper.make_node("Identity", ["halved"], ["step"]),
        ],
        "halve",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []),
         helper.make_tensor_value_info("again", TensorProto.BOOL, []),
         helper.make_tensor_value_info("number", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("halved", TensorProto.FLOAT, ["n", 4]),
         helper.make_tensor_value_info("step", TensorProto.FLOAT, ["n", 4])],
    )  # fmt: skip
    return graph(
        [
            ("Loop", ["most", "yes", "x"], ["last", "steps"], {"body": body}),
            ("Transpose", ["steps"], ["y"], {"perm": [1, 2, 0]}),
        ],
        {"x": ["n", 4]},
        {"y": ["n", 4, None]},
        most=np.array(3),
        yes=np.array(True),
        half=np.array(0.5, np.float32),
        one=np.array(1, np.float32),
    )


def test_where_the_size_of_an_answer_depends_on_elements_rows_run_alone(tmp_path: Path) -> None:
    # Each row of these ends after as many steps.
    samples = tuple((np.full((1, 4), value, np.float32),) for value in (5.0, 6.0, 7.0))
    rows = SampleRows(samples, "golden.npz", real=True)
    found = verdict(tmp_path, _halved("elements"), rows)
    assert found.disproved
    assert "for another of the same shape" in found.reason
    assert verdict(tmp_path, _halved("steps"), rows).independent


@pytest.mark.parametrize("separator", ["", " ", ",", "::", "END"])
def test_texts_that_are_taken_apart_are_as_many_pieces_as_the_longest_has(tmp_path: Path, separator: str) -> None:
    options = {"delimiter": separator} if separator else {}
    node = helper.make_node("StringSplit", ["x"], ["y", "counts"], **options)
    x = helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])
    pieces = helper.make_tensor_value_info("y", TensorProto.STRING, ["n", "pieces"])
    counts = helper.make_tensor_value_info("counts", TensorProto.INT64, ["n"])

    def split(outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        opsets = [helper.make_opsetid("", 20)]
        return helper.make_model(helper.make_graph([node], "split", [x], outputs), opset_imports=opsets, ir_version=10)

    assert verdict(tmp_path, split([pieces])).disproved
    assert not verdict(tmp_path, split([counts])).disproved


def test_what_is_refused_beside_a_row_shows_nothing(tmp_path: Path) -> None:
    # Of 50 words; a number that is none of them fails the run.
    words = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    model = graph(
        [("Gather", ["words", "x"], ["y"], {})],
        {"x": ["n", 4]},
        {"y": ["n", 4, 3]},
        {"x": TensorProto.INT64},
        words=words,
    )
    assert verdict(tmp_path, model).independent


def test_two_real_rows_are_enough_to_see_what_is_beside_a_row(tmp_path: Path) -> None:
    model = graph(
        [
            ("ReduceMean", ["x", "axes"], ["mean"], {}),
            ("Mul", ["mean", "little"], ["part"], {}),
            ("Add", ["x", "part"], ["y"], {}),
        ],
        {"x": ["n", 1]},
        {"y": ["n", 1]},
        axes=np.array([0], np.int64),
        little=np.array(0.01, np.float32),
    )
    rows = tuple((np.array([[number]], np.float32),) for number in (1, 2))
    found = verdict(tmp_path, model, SampleRows(rows, "model_warmup", real=True))
    assert found == Verdict(False, disproved=True, reason="output 'y' of a row depends on the rows beside it")
    assert verdict(
        tmp_path, simple("Relu"), SampleRows(tuple((np.full((1, 3), n, np.float32),) for n in (1, 2)), "", real=True)
    ).independent


def test_memory_that_is_not_there_is_no_disproof(tmp_path: Path) -> None:
    signature = load(tmp_path, onnx_models.linear()).signature

    def computed(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        if len(inputs[0]) > 1:
            raise OutOfMemory("no more")
        return [inputs[0]]

    found = examine(computed, signature, generated_rows(signature))[1]
    assert found == Verdict(False, reason="there is not enough memory for rows of several requests: no more")


def test_where_memory_allows_two_rows_two_have_to_do(tmp_path: Path) -> None:
    signature = load(tmp_path, onnx_models.linear()).signature

    def computed(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        if len(inputs[0]) > 2:
            raise OutOfMemory("no more")
        return [inputs[0]]

    assert examine(computed, signature, generated_rows(signature))[1].independent


def test_generated_rows_with_much_rounding_leave_the_proof_to_others(tmp_path: Path) -> None:
    signature = load(tmp_path, onnx_models.linear()).signature

    def computed(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        # Only numbers below 1, as in the first guess, round so much.
        much = np.abs(inputs[0]).max(axis=1, keepdims=True) < 1
        return [inputs[0] * np.where(much & (len(inputs[0]) > 1), 1.05, 1).astype(np.float32)]

    assert examine(computed, signature, generated_rows(signature))[1].independent


def test_an_axis_that_exporters_call_by_no_name_says_nothing(tmp_path: Path) -> None:
    model = graph([("Identity", ["x"], ["y"], {})], {"x": ["?", "?"]}, {"y": ["?", "?"]})
    assert verdict(tmp_path, model).independent


def test_rows_that_are_all_answered_alike_prove_nothing(tmp_path: Path) -> None:
    model = graph(
        [("Greater", ["x", "much"], ["y"], {})],
        {"x": ["n", 3]},
        {"y": ["n", 3]},
        {"y": TensorProto.BOOL},
        much=np.array(1e9, np.float32),
    )
    assert verdict(tmp_path, model) == Verdict(
        independent=False, reason="different rows of generated values all got the same 'y'"
    )


def test_a_class_that_never_changes_needs_no_proof_where_its_numbers_have_one(tmp_path: Path) -> None:
    model = graph(
        [("Add", ["x", "far"], ["y"], {}), ("ArgMax", ["y"], ["class"], {"axis": 1, "keepdims": 0})],
        {"x": ["n", 3]},
        {"y": ["n", 3], "class": ["n"]},
        {"class": TensorProto.INT64},
        far=np.array([1e4, 0, 0], np.float32),
    )
    assert verdict(tmp_path, model).independent


def test_rows_that_the_network_refuses_prove_nothing(tmp_path: Path) -> None:
    model = graph(
        [("Gather", ["table", "x"], ["y"], {})],
        {"x": ["n", 2]},
        {"y": ["n", 2]},
        {"x": TensorProto.INT64},
        table=np.zeros(0, np.float32),
    )
    found = verdict(tmp_path, model)
    assert (found.independent, found.disproved) == (False, False)
    assert found.reason.startswith("generated values were refused: ")


def test_real_rows_show_what_generated_ones_cannot(tmp_path: Path) -> None:
    guessed = verdict(tmp_path, PICKED)
    assert (guessed.independent, guessed.disproved) == (False, False)
    rows = tuple((np.full((1, 3), row, np.float32), np.array([0])) for row in range(3))
    assert verdict(tmp_path, PICKED, SampleRows(rows, "golden.npz", real=True)).disproved


def _as_the_brightest() -> onnx.ModelProto:
    """Bytes become shares of 255, if any of the batch is above 1."""
    return graph(
        [
            ("Cast", ["x"], ["number"], {"to": TensorProto.FLOAT}),
            ("ReduceMax", ["number"], ["largest"], {"keepdims": 0}),
            ("Greater", ["largest", "one"], ["bright"], {}),
            ("Div", ["number", "full"], ["share"], {}),
            ("Where", ["bright", "share", "number"], ["y"], {}),
        ],
        {"x": ["n", 16]},
        {"y": ["n", 16]},
        {"x": TensorProto.UINT8},
        one=np.array(1, np.float32),
        full=np.array(255, np.float32),
    )


def _as_the_longest() -> onnx.ModelProto:
    """Each row is divided by how many tokens other than 0 the longest one has."""
    return graph(
        [
            ("Equal", ["x", "padding"], ["padded"], {}),
            ("Where", ["padded", "zero", "one"], ["there"], {}),
            ("ReduceSum", ["there", "axis"], ["length"], {"keepdims": 1}),
            ("ReduceMax", ["length"], ["longest"], {"keepdims": 0}),
            ("Div", ["there", "longest"], ["share"], {}),
            ("Cast", ["x"], ["number"], {"to": TensorProto.FLOAT}),
            ("Mul", ["number", "share"], ["y"], {}),
        ],
        {"x": ["n", 6]},
        {"y": ["n", 6]},
        {"x": TensorProto.INT64},
        padding=np.array(0, np.int64),
        zero=np.array(0, np.float32),
        one=np.array(1, np.float32),
        axis=np.array([1]),
    )


@pytest.mark.parametrize(
    ("model", "dtype", "shape"), [(_as_the_brightest(), np.uint8, (12, 16)), (_as_the_longest(), np.int64, (12, 6))]
)
def test_a_row_smaller_than_all_real_ones_is_compared_with_itself_among_its_like(
    tmp_path: Path, model: onnx.ModelProto, dtype: Any, shape: tuple[int, int]
) -> None:
    real = np.random.default_rng(1).integers(2, 256, shape).astype(dtype)
    rows = tuple((row[None],) for row in real)
    found = verdict(tmp_path, model, SampleRows(rows, "golden.npz", real=True))
    assert found.disproved
    assert "output 'y' of a row depends on the rows beside it; it has" in found.reason


def test_a_real_row_that_the_network_refuses_is_an_error(tmp_path: Path) -> None:
    session = load(tmp_path, onnx_models.lookup())
    row = (np.array([[99, 0]], np.int64),)
    with pytest.raises(RunFailed, match="indices element out of data bounds"):
        examine(session.run, session.signature, [SampleRows((row,), "golden.npz", real=True)])


def test_real_rows_of_which_one_is_answered_alone_prove_nothing(tmp_path: Path) -> None:
    session = load(tmp_path, onnx_models.lookup())
    rows = tuple((np.array([ids], np.int64),) for ids in ([3, 0], [99, 0]))
    answered, found = examine(session.run, session.signature, [SampleRows(rows, "model_warmup", real=True)])
    assert answered is not None
    assert answered.rows == rows[:1]
    assert found == Verdict(independent=False, reason="different rows of model_warmup all got the same 'doubled'")


def test_without_a_batch_axis_a_row_that_is_answered_is_enough(tmp_path: Path) -> None:
    session = load(tmp_path, onnx_models.no_batch_axis())
    answered, found = examine(session.run, session.signature, generated_rows(session.signature))
    assert answered is not None
    assert answered.rows[0][0].shape == (4,)
    assert not found.disproved


def test_batches_have_no_size_that_an_axis_inside_a_row_has() -> None:
    assert company_sizes((np.zeros((1, 5)),)) == (2, 4)
    assert company_sizes((np.zeros((1, 2, 4)), np.zeros((1, 3)))) == (5, 5)
    assert company_sizes((np.zeros((1, 4)),)) == (2, 5)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1.0, 100.0], [1.0, 100.00001], True),
        ([1.0, 100.0], [1.0, 100.5], False),
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([np.nan, 1.0], [0.0, 1.0], False),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([0.0, 1.0], [np.nan, 1.0], False),
        ([0.0, 0.0], [0.0, 1e-9], False),
        ([0.0, 0.0], [0.0, 1e-30], True),
        ([], [], True),
    ],
)
def test_numbers_may_differ_in_their_last_digits(one: list[float], other: list[float], same: bool) -> None:
    assert alike(np.array(one, np.float32), np.array(other, np.float32), 1e-3) is same


def test_all_else_must_be_equal() -> None:
    assert alike(np.array([1, 2]), np.array([1, 2]), 1e-3)
    assert not alike(np.array([1, 2]), np.array([1, 3]), 1.0)
    assert not alike(np.array(["a"], object), np.array(["b"], object), 1.0)
    assert not alike(np.zeros((1, 2)), np.zeros((2, 1)), 1.0)
    assert not alike(np.zeros(2, np.float32), np.zeros(2, np.float64), 1.0)
    assert alike(np.array([1.0, 2.0], np.float16), np.array([1.0, 2.002], np.float16), 1e-6)


def test_the_row_that_differs_is_found_at_any_place() -> None:
    alone = [[np.full((1, 2), float(row))] for row in range(4)]
    together = np.repeat(np.arange(4.0)[:, None], 2, axis=1)
    check_company(["y"], alone, [together], range(4), 1e-3)
    together[3, 1] = 2
    with pytest.raises(RowsDepend, match="output 'y' of a row among 4"):
        check_company(["y"], alone, [together], range(4), 1e-3)
    with pytest.raises(RowsDepend, match=r"output 'y' has shape \[3, 2\] for 4 rows"):
        check_company(["y"], alone, [together[:3]], range(4), 1e-3)
