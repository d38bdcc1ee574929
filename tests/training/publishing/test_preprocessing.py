"""The graph of the preprocessing encodes every raw row as training does, and anyone's ONNX Runtime runs it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.categories import MISSING
from frostline_training.data.cells import Cells, missing_numbers
from frostline_training.data.encoding import encode
from frostline_training.data.rows import UNKNOWN, Column, DateOf
from frostline_training.errors import RefusedError
from frostline_training.publishing import preprocessing
from frostline_training.sources import DatePart, Reading

READING = Reading(missing=("", "NA", "-999"))
PLANS = Column("plan", (UNKNOWN, "basic", "pro"))

words = st.one_of(
    st.sampled_from(["a", "a\0", "a\0b", "\N{FOX FACE}", "é", "e\u0301", "NA", "", "(unknown)", "(missing)", "0"]),
    st.text(max_size=5),
).map(str.strip)
numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([-999.0, 1e38, 1e-40, -0.0, 2.0**24 + 1]),
).map(repr)
PARTS: tuple[DatePart, ...] = ("year", "month", "day", "weekday", "hour", "minute", "age_days")


def _dates(form: str) -> st.SearchStrategy[str]:
    moments = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31))  # noqa: DTZ001 as tables have them
    if form == "iso":
        return st.one_of(
            moments.map(lambda day: day.replace(microsecond=0).isoformat()),
            moments.map(lambda day: day.date().isoformat()),
            moments.map(lambda day: day.replace(tzinfo=UTC, second=0, microsecond=0).isoformat()),
        )
    return moments.map(lambda day: day.strftime(form))


def _column(draw: st.DrawFn, name: str, rows: int) -> tuple[list[Column], list[str | None]]:
    kind = draw(st.sampled_from(["number", "category", "iso", "%d.%m.%Y %H:%M"]))
    if kind == "number":
        columns, filled = [Column(name)], numbers
    elif kind == "category":
        known = draw(
            st.lists(
                words.filter(lambda word: word not in (*READING.missing, UNKNOWN, MISSING)), min_size=1, unique=True
            )
        )
        absent = draw(st.sampled_from([[], [MISSING]]))
        columns, filled = [Column(name, (UNKNOWN, *known, *absent))], st.one_of(st.sampled_from(known), words)
    else:
        since = datetime(2024, 2, 29)  # noqa: DTZ001 as above
        parts = draw(st.lists(st.sampled_from(PARTS), min_size=1, unique=True))
        columns = [
            Column(f"{name}.{part}", date=DateOf(name, kind, part, since if part == "age_days" else None))
            for part in parts
        ]
        filled = _dates(kind)
    cells = st.one_of(filled, st.none(), st.sampled_from(READING.missing))
    return columns, draw(st.lists(cells, min_size=rows, max_size=rows))


@st.composite
def tables(draw: st.DrawFn) -> tuple[Cells, list[Column]]:
    """Rows of one to five columns of any kind, with odd names, and what the network takes of them."""
    names = draw(st.lists(st.one_of(st.text("ab.é \N{FOX FACE}/", min_size=1, max_size=4), st.sampled_from(["nan", "encoded_0"])), min_size=1, max_size=5, unique=True))  # fmt: skip
    rows = draw(st.integers(1, 4))
    columns: list[Column] = []
    cells: dict[str, list[str | None]] = {}
    for name in names:
        made, cells[name] = _column(draw, name, rows)
        if {column.name for column in made} & {column.name for column in columns}:
            del cells[name]
            continue
        columns += made
    return Cells("t.csv", cells, READING), columns


def _write(path: Path, columns: Sequence[Column]) -> Path:
    onnx.save_model(
        preprocessing.graph(columns, missing=missing_numbers(READING), words=READING.missing, output="input"), path
    )
    return path


@settings(max_examples=60, deadline=None)
@given(table=tables())
def test_the_graph_is_the_encoding_of_the_training(
    tmp_path_factory: pytest.TempPathFactory, table: tuple[Cells, list[Column]]
) -> None:
    cells, columns = table
    path = _write(tmp_path_factory.getbasetemp() / "preprocessing.onnx", columns)
    preprocessing.check(path, preprocessing.sent(cells, columns), encode(cells, columns), columns, READING.missing)


def test_the_inputs_are_the_columns_and_the_output_is_the_networks_input() -> None:
    columns = [Column("x"), PLANS, Column("d.year", date=DateOf("d", "iso", "year"))]
    model = preprocessing.graph(columns, output="input")
    shapes = [
        (value.name, value.type.tensor_type.elem_type, [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]  # fmt: skip
    assert shapes == [
        ("x", onnx.TensorProto.FLOAT, ["batch", 1]),
        ("plan", onnx.TensorProto.STRING, ["batch", 1]),
        ("d.year", onnx.TensorProto.FLOAT, ["batch", 1]),
        ("input", onnx.TensorProto.FLOAT, ["batch", 3]),
    ]
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20, "ai.onnx.ml": 3}


def test_onnx_runtime_alone_encodes_rows_one_by_one_and_together(tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(_write(tmp_path / "p.onnx", [Column("x"), PLANS]))
    plans = np.array([["pro"], ["Narnia"], [""], ["basic"]], object)
    sizes = np.array([[1.5], [-999], [np.nan], [1e-40]], np.float32)
    (together,) = session.run(None, {"x": sizes, "plan": plans})
    np.testing.assert_array_equal(together, np.array([[1.5, 2], [np.nan, 0], [np.nan, 0], [1e-40, 1]], np.float32))
    for row in range(4):
        (alone,) = session.run(None, {"x": sizes[[row]], "plan": plans[[row]]})
        np.testing.assert_array_equal(alone, together[[row]])


def test_a_graph_with_two_categories_swapped_is_refused_with_the_cell(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.onnx", [Column("plan", (UNKNOWN, "pro", "basic"))])
    cells = Cells("t.csv", {"plan": ["", "pro"]}, READING)
    with pytest.raises(RefusedError, match="encodes 'pro' in column 'plan' as 1, and training encodes it as 2"):
        preprocessing.check(path, preprocessing.sent(cells, [PLANS]), encode(cells, [PLANS]), [PLANS], READING.missing)


def test_a_graph_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.onnx", [Column("other")])
    cells = Cells("t.csv", {"plan": ["pro"]}, READING)
    with pytest.raises(RefusedError, match=r"ONNX Runtime cannot run preprocessing\.onnx"):
        preprocessing.check(path, preprocessing.sent(cells, [PLANS]), encode(cells, [PLANS]), [PLANS], READING.missing)


def test_what_has_no_value_is_sent_as_a_word_for_it_that_is_no_category() -> None:
    cells = Cells("t.csv", {"plan": [None, "pro"], "x": [None, "-999"]}, Reading(missing=("-", "-999")))
    sent = preprocessing.sent(cells, [PLANS, Column("x")])
    assert sent["plan"].tolist() == ["", "pro"]
    np.testing.assert_array_equal(sent["x"], [np.nan, -999])
    empty = Column("plan", (UNKNOWN, "", "pro"))  # a recipe that says missing=() has it as a category
    assert preprocessing.sent(Cells("t", {"plan": [None]}, Reading(missing=())), [empty])["plan"].tolist() == [MISSING]
    worded = Reading(missing=("-",))
    assert preprocessing.sent(Cells("t", {"plan": [None]}, worded), [empty])["plan"].tolist() == ["-"]
    learnt = Column("plan", (UNKNOWN, "", "pro", MISSING))
    assert preprocessing.sent(Cells("t", {"plan": [None]}, Reading(missing=())), [learnt])["plan"].tolist() == [MISSING]
