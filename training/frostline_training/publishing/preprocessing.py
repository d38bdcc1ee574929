"""The preprocessing of raw rows as an ONNX graph of standard operators: columns as users have them to the network's input.

What a server makes of a request before it runs the graph is here too, so that both are proved together.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from frostline.categories import missing_word
from frostline_training.data import Array, Column
from frostline_training.data.cells import Cells, moment, number
from frostline_training.data.encoding import part_of, places
from frostline_training.errors import RefusedError, first_line
from frostline_training.publishing.onnx_export import BATCH, OPSET
from frostline_training.publishing.verify import Named

FILE = "preprocessing.onnx"

_ML = "ai.onnx.ml"
_ML_OPSET = 3
_IR_VERSION = 9  # the first with opset 20, so that a runtime of that time reads it


def graph(
    columns: Sequence[Column], *, missing: frozenset[float] = frozenset(), words: Sequence[str] = (), output: str
) -> onnx.ModelProto:
    """Return the graph that encodes raw rows.

    Its inputs are [batch, 1], one for each of `columns`: STRING for categories, else FP32, NaN where one is missing. Its
    output is FP32 [batch, F], what `frostline_training.data.encoding.encode` gives.

    Args:
        columns: The network's, in their order.
        missing: Numbers that stand for no value.
        words: Texts that do, beside the empty one.
        output: The name of the network's input.

    Raises:
        RefusedError: It is not valid ONNX.
    """
    taken = {output, *(column.name for column in columns)}
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    encoded = []

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    def constant(value: float) -> str:
        name = fresh("nan" if np.isnan(value) else f"missing_{len(initializers)}")
        initializers.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
        return name

    absent = [constant(value) for value in sorted(missing)]
    nan = constant(np.nan) if absent else ""
    for place, column in enumerate(columns):
        value = column.name
        if column.categories is not None:
            value = fresh(f"encoded_{place}")
            place_of = places(column, ("", *words))
            nodes.append(
                helper.make_node(
                    "LabelEncoder",
                    [column.name],
                    [value],
                    domain=_ML,
                    keys_strings=list(place_of),
                    values_floats=list(place_of.values()),
                    default_float=0.0,
                )
            )
        elif column.date is None:
            for stand_in in absent:
                equal, kept = fresh(f"is_missing_{place}"), fresh(f"kept_{place}")
                nodes.append(helper.make_node("Equal", [value, stand_in], [equal]))
                nodes.append(helper.make_node("Where", [equal, nan, value], [kept]))
                value = kept
        encoded.append(value)
    nodes.append(helper.make_node("Concat", encoded, [output], axis=1))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "preprocessing",
            [
                helper.make_tensor_value_info(
                    column.name, TensorProto.FLOAT if column.categories is None else TensorProto.STRING, [BATCH, 1]
                )
                for column in columns
            ],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [BATCH, len(columns)])],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_ML, _ML_OPSET)],
        ir_version=_IR_VERSION,
        producer_name="frostline",
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RefusedError(
            f"the graph of the raw rows is not valid ONNX: {first_line(error)}",
            cause="a column's name or a category that ONNX does not have",
        ) from error
    return model


def sent(cells: Cells, columns: Sequence[Column]) -> dict[str, Array]:
    """Return raw rows as a client sends them, by column: numbers float64 [N], NaN without one; else texts, objects [N]."""
    arrays: dict[str, Array] = {}
    for column in columns:
        texts = cells.columns[column.cells]
        if column.categories is None and column.date is None:
            values = [None if cell is None else number(cell, cells.reading) for cell in texts]
            # A word for no value may be a number, such as -999; it is sent as that number.
            numbers = np.array([np.nan if value is None else value for value in values], np.float64)
            arrays[column.cells] = np.where(np.isfinite(numbers), numbers, np.nan)
        else:
            empty = missing_word(("", *cells.reading.missing), column.known)
            arrays[column.cells] = np.array([empty if cell is None else cell for cell in texts], object)
    return arrays


def feed(rows: Named, columns: Sequence[Column], missing: Sequence[str]) -> dict[str, Array]:
    """Return the inputs [N, 1] of the graph, as a server makes them of what a client sends.

    Args:
        rows: Numbers [N] and texts [N] by column.
        columns: The network's.
        missing: The texts that stand for no value.
    """
    inputs: dict[str, Array] = {}
    for column in columns:
        values = rows[column.cells]
        if column.categories is not None:
            # Objects, because ONNX Runtime cuts NumPy's own texts at a NUL.
            made = np.array([str(cell).strip() for cell in values], object)
        elif column.date is not None:
            date = column.date
            moments = [
                None if (cell := str(text).strip()) in ("", *missing) else moment(cell, date.format) for text in values
            ]
            made = np.array(
                [np.nan if day is None else part_of(day, date.part, date.relative_to) for day in moments], np.float32
            )
        else:
            made = np.asarray(values).astype(np.float32)
        inputs[column.name] = made[:, np.newaxis]
    return inputs


def session(path: Path) -> onnxruntime.InferenceSession:
    """Return a session of the graph at `path`, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised; its log lines would only repeat it
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(path: Path, rows: Named, wanted: Array, columns: Sequence[Column], missing: Sequence[str]) -> None:
    """Run the graph at `path` in ONNX Runtime on raw rows, and compare it with the encoding that training learns by.

    Args:
        path: The file.
        rows: Raw rows [N] by column, as a client sends them.
        wanted: The same as training encodes them, float32 [N, F].
        columns: The network's.
        missing: The texts that stand for no value.

    Raises:
        RefusedError: It does not run, or encodes some cell otherwise.
    """
    try:
        (got,) = session(path).run(None, feed(rows, columns, missing))
    except Exception as error:  # ONNX Runtime's exceptions have no class of their own in common
        raise RefusedError(
            f"ONNX Runtime cannot run {FILE}: {first_line(error)}", cause="an operator that it lacks"
        ) from error
    # No tolerance: both are the same float32 numbers, or the encoding is another one.
    if got.shape == wanted.shape and np.array_equal(got, wanted, equal_nan=True):
        return
    fact = f"{FILE} gives {list(got.shape)} and not {list(wanted.shape)}"
    if got.shape == wanted.shape:
        row, place = np.argwhere((got != wanted) & ~(np.isnan(got) & np.isnan(wanted)))[0]
        column = columns[place]
        fact = (
            f"{FILE} encodes {rows[column.cells][row]!r} in column {column.name!r} as {got[row, place]:g}, and training "
            f"encodes it as {wanted[row, place]:g}"
        )
    raise RefusedError(fact, cause="a graph of other columns or categories than those of the training")
