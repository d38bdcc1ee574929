"""Raw rows are encoded as the version's own file encodes them, whether it runs or its tables are looked up here."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from frostline_server.errors import InvalidData
from frostline_server.runtime import row_encoder
from frostline_server.runtime.graph.label_encoders import only_joins, without_label_encoders
from frostline_server.runtime.row_encoder import RowEncoder
from frostline_server.runtime.row_schema import RowSchema
from tests.support import raw_rows
from tests.support.raw_rows import PLANS, ROWS, columns_of, encoded

Array = np.ndarray[Any, Any]
NAMES = ["tenure", "plan_index", "signup.weekday", "signup.age_days"]


def stand_in() -> onnx.ModelProto:
    """The file of a table where -999 stands for a missing number."""
    model = raw_rows.preprocessing()
    graph = model.graph
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        for name, value in (("absent", -999.0), ("nan", np.nan))
    )
    replaced = [
        helper.make_node("Equal", ["tenure", "absent"], ["is_absent"]),
        helper.make_node("Where", ["is_absent", "nan", "tenure"], ["kept"]),
    ]
    encode, join = graph.node
    join.input[0] = "kept"
    del graph.node[:]
    graph.node.extend([encode, *replaced, join])
    return model


FILES = {"joins": raw_rows.preprocessing(), "computes": stand_in()}


def encoder_of(model: onnx.ModelProto) -> RowEncoder:
    return RowEncoder(RowSchema.model_validate(raw_rows.rows_card()), model.SerializeToString(), "input", 4)


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return FILES[request.param]


@pytest.fixture
def running(file: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> RowEncoder:
    """One that runs the file itself."""
    with monkeypatch.context() as patched:
        patched.setattr(row_encoder, "without_label_encoders", lambda *_: None)
        return encoder_of(file)


def is_texts(encoder: RowEncoder) -> bool:
    """Whether the encoder's file is given texts."""
    given: dict[str, Array] = {}
    make = encoder._make
    encoder._make = lambda inputs: given.update(inputs) or make(inputs)
    encoder.encode(list(columns_of(ROWS[:1]).values()))
    encoder._make = make
    return any(array.dtype.hasobject for array in given.values())


words = st.sampled_from([*PLANS, "", "NA", "?", "platinum", "Basic", "ba\x00sic"]) | st.text(max_size=4)
spaces = st.sampled_from(["", " ", "\t", "\u2003", " " * 70])
numbers = st.sampled_from([0.0, -0.0, -999.0, 71.0, 71.0000001, float("nan"), 3.4e38, 1e-46]) | st.floats(-1e6, 1e6)
dates = st.sampled_from(["", "NA", "2024-05-31", "1999-01-01", "2020-02-29T23:59:59.5+02:00"])
padded = st.builds(lambda before, text, after: before + text + after, spaces, words, spaces)
rows = st.lists(
    st.tuples(numbers, padded, st.builds(lambda pad, date: pad + date, spaces, dates)), min_size=1, max_size=9
)


@settings(deadline=None, max_examples=60)
@given(st.lists(rows, min_size=1, max_size=3))
def test_what_is_looked_up_here_is_what_the_file_gives(batches: list[Sequence[tuple[float, str, str]]]) -> None:
    for looking_up, running in PAIRS:
        for batch in batches:
            columns = list(columns_of(batch).values())
            ((encoded_here,), states), ((encoded_there,), told) = looking_up.encode(columns), running.encode(columns)
            for got, expected in ((encoded_here, encoded_there), (states, told)):
                assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
                np.testing.assert_array_equal(got, expected)


def pair(model: onnx.ModelProto) -> tuple[RowEncoder, RowEncoder]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_encoder, "without_label_encoders", lambda *_: None)
        running = encoder_of(model)
    return encoder_of(model), running


PAIRS = [pair(model) for model in FILES.values()]


def test_a_file_is_given_no_texts_where_it_only_looks_them_up(file: onnx.ModelProto, running: RowEncoder) -> None:
    assert (is_texts(encoder_of(file)), is_texts(running)) == (False, True)


def test_rows_become_what_training_makes_of_them(file: onnx.ModelProto) -> None:
    (numbers,), _ = encoder_of(file).encode(list(columns_of().values()))
    np.testing.assert_array_equal(numbers, encoded())


def test_tables_that_do_not_give_what_the_file_gives_are_not_used(
    file: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(content: bytes, inputs: Sequence[str]) -> Any:
        found = without_label_encoders(content, inputs)
        assert found is not None
        model, tables = found
        return model, {name: replace(table, default=1.0) for name, table in tables.items()}

    monkeypatch.setattr(row_encoder, "without_label_encoders", wrong)
    encoder = encoder_of(file)
    assert is_texts(encoder)
    np.testing.assert_array_equal(encoder.encode(list(columns_of().values()))[0][0], encoded())


# What is remembered


def remembered(encoder: RowEncoder) -> list[int]:
    """How many cells of each column of texts."""
    return [readers[0].cache_info().currsize for readers in encoder._readers if readers is not None]  # type: ignore[attr-defined]


def test_the_cells_that_are_remembered_are_bounded_over_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_encoder, "_MOST_CELLS", 8)
    encoder = encoder_of(FILES["joins"])
    for at in range(20):
        encoder.encode(list(columns_of([(1.0, f"plan{at}", f"20{at + 10}-01-01")]).values()))
    assert remembered(encoder) == [4, 4]


def test_long_cells_are_read_and_not_remembered() -> None:
    encoder = encoder_of(FILES["joins"])
    row = (1.0, "basic" + " " * 100, " " * 100 + "2024-05-31")
    for _ in range(2):
        (numbers,), states = encoder.encode(list(columns_of([row]).values()))
    np.testing.assert_array_equal(numbers, encoded([(1.0, "basic", "2024-05-31")]))
    assert (states.tolist(), remembered(encoder)) == ([[0, 0, 0]], [0, 0])


def test_a_cell_that_is_no_date_is_refused_each_time() -> None:
    encoder = encoder_of(FILES["joins"])
    for _ in range(2):
        with pytest.raises(InvalidData, match="column 'signup', row 1: 'soon' is not an ISO date"):
            encoder.encode(list(columns_of([(1.0, "pro", "2024-05-31"), (1.0, "pro", "soon")]).values()))


# Which files


def test_the_tables_of_a_file_and_the_rest_of_it() -> None:
    found = without_label_encoders(FILES["joins"].SerializeToString(), ["plan"])
    assert found is not None
    rest, tables = found
    assert only_joins(rest, NAMES)
    assert not only_joins(rest, NAMES[::-1])
    assert [tables["plan"].number(text) for text in (*PLANS, "platinum")] == [1, 2, 3, 0]
    computing = without_label_encoders(FILES["computes"].SerializeToString(), ["plan"])
    assert computing is not None
    assert not only_joins(computing[0], NAMES)


def test_of_a_category_that_is_there_twice_the_first_counts_as_in_onnx_runtime() -> None:
    model = raw_rows.preprocessing((*PLANS, "pro"))
    encoder = encoder_of(model)
    assert not is_texts(encoder)
    np.testing.assert_array_equal(encoder.encode(list(columns_of().values()))[0][0], encoded())


def _used_twice(graph: onnx.GraphProto) -> None:
    graph.node.insert(0, graph.node[0])
    graph.node[0].output[0] = "again"


def _of_another_domain(graph: onnx.GraphProto) -> None:
    graph.node[0].domain = "mine"


def _of_whole_numbers(graph: onnx.GraphProto) -> None:
    graph.node[0].attribute[1].CopyFrom(helper.make_attribute("values_int64s", [1, 2, 3]))


def _with_a_graph_inside(graph: onnx.GraphProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    graph.node.append(helper.make_node("If", ["tenure"], ["other"], then_branch=inner, else_branch=inner))


def _not_at_all(graph: onnx.GraphProto) -> None:
    del graph.node[0]


def _given_as_they_are(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("plan", TensorProto.STRING, ["batch", 1]))


@pytest.mark.parametrize(
    "change",
    [_used_twice, _of_another_domain, _of_whole_numbers, _with_a_graph_inside, _not_at_all, _given_as_they_are],
)
def test_texts_that_are_used_in_another_way_are_the_files(change: Any) -> None:
    model = raw_rows.preprocessing()
    change(model.graph)
    assert without_label_encoders(model.SerializeToString(), ["plan"]) is None
