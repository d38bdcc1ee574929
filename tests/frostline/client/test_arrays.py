"""What users hold becomes an array, or is refused with the place of what cannot."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from frostline.client.arrays import columns, given, is_table
from frostline.client.catalog import Model, TensorSpec
from frostline.client.errors import InvalidInput


def refusal(value: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        given(value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [[1, None, 3]],
            (
                "the input holds None at [0, 1] where a number was expected; a missing number is float('nan'), where the model "
                "takes one"
            ),
        ),
        (
            [[1, 2], [{}, 4]],
            "the input holds {} at [1, 0] where a number was expected; rows with named columns are a list with a dict for each row",
        ),
        (
            np.array([["a", 1.5]], object),
            "the input holds the text 'a' at [0, 0] and the number 1.5 at [0, 1]; give only texts, or only numbers",
        ),
        (np.array([["a", None]], object), "the input holds None at [0, 1] where a text was expected"),
        (["a", 1], "the input holds the text 'a' at [0] and the number 1 at [1]; give only texts, or only numbers"),
        ([2**70], "the input holds numbers of no type that a network takes, such as 1180591620717411303424"),
        (
            np.array([1, 2.5], object),
            (
                "the input is an array of objects, though all are numbers, such as 1; convert it first, such as with "
                ".astype(np.float32)"
            ),
        ),
        ({1, 2}, "the input is a set, which has no order that its rows could have; give a list"),
        (frozenset([1.5]), "the input is a set, which has no order that its rows could have; give a list"),
        (
            [None, {"a": 1}],
            "the input holds {'a': 1} at [1] where a number was expected; rows with named columns are a list with a dict for each row",
        ),
        (
            [[False, "true"]],
            "the input holds the text 'true' at [0, 1] and the number False at [0, 0]; give only texts, or only numbers",
        ),
        (
            [2**53 + 1, 0.5],
            (
                "the input holds 9007199254740993 at [0] beside floats, as one of which it would be 9007199254740992; round it "
                "first, or send whole numbers only"
            ),
        ),
        (
            [[-1, 2**64 - 1]],
            "the input holds 18446744073709551615 at [0, 1] beside -1 and 18446744073709551615, which no type has together",
        ),
        ([2**64, 0], "the input holds numbers of no type that a network takes, such as 18446744073709551616"),
    ],
)
def test_an_element_that_is_neither_number_nor_text_is_named_with_its_place(value: Any, message: str) -> None:
    assert refusal(value) == message


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([[1.0], [1.0, 2.0]], "[1] has length 2, but [0] has length 1"),
        ([[1, 2], 3], "[1] is a single value, but [0] has length 2"),
        ([1, [2]], "[1] has length 1, but [0] is a single value"),
        ([[[1], [2]], [[3, 4], [5, 6]]], "[1, 0] has length 2, but [0, 0] has length 1"),
        ([[1], []], "[1] has length 0, but [0] has length 1"),
    ],
)
def test_ragged_lists_say_where_the_length_differs(value: Any, where: str) -> None:
    assert refusal(value) == f"the input is not an array: {where}; make all equally long"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[False, False], [True, False]]), "[1, 0]"),
        ([[1.0, 2.0], np.ma.array([3.0, 4.0], mask=[False, True])], "[1, 1]"),
        ([np.array([1, 2]), np.ma.array([3, 4], mask=[False, True])], "[1, 1]"),
        ([np.ma.array([3, 4], mask=[False, True])], "[0, 1]"),
    ],
)
def test_a_masked_element_is_refused_with_its_place(value: Any, where: str) -> None:
    assert refusal(value) == (
        f"the input is masked at {where}, so there is no number to send; fill it first: .filled(float('nan')), where the "
        "model takes that"
    )


@pytest.mark.filterwarnings("ignore:Warning. converting a masked element to nan")
def test_the_masked_constant_in_a_list_is_refused() -> None:
    assert refusal([[1.0, np.ma.masked]]).startswith("the input is masked at [0, 1]")


def test_a_masked_array_without_masked_elements_is_an_array() -> None:
    assert given(np.ma.array([1.0, 2.0])).array.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            np.array([1j]),
            "elements of type complex128, which no model takes: complex numbers; send the real and the imag",
        ),
        ([1j], "elements of type complex128"),
        (
            np.array(["2020-01-01"], "M8[D]"),
            "datetime64[D], which no model takes: points in time; send a number instead",
        ),
        (np.array([1], "m8[s]"), "timedelta64[s], which no model takes: lengths of time; send a number instead"),
        (np.array([(1, 2.0)], "i4,f4"), "which no model takes: records; send one array for each field"),
        (np.array([1.0], np.longdouble), "which no model takes; convert it first, such as with .astype(np.float32)"),
    ],
)
def test_a_type_that_no_model_takes_says_what_to_send(value: Any, sentence: str) -> None:
    assert sentence in refusal(value)


def test_what_cannot_be_an_array_says_why() -> None:
    class OnTheGpu:
        def __array__(self, *_: object, **__: object) -> None:
            raise TypeError("copy it to the host first")

    assert refusal(OnTheGpu()) == "the input is not an array: copy it to the host first"


def test_arrays_and_lists_are_told_apart() -> None:
    for value in (np.array([1, 2]), np.int64(1), np.array([1.5], ">f8"), np.array(["a"])):
        assert not given(value).listed
    values: list[Any] = [[1, 2], (1.5,), 3, True, ["a"]]
    assert all(given(value).listed for value in values)
    assert given(np.array([1.5, 2], ">f8")).array.dtype == np.float64
    assert given(np.array([1.5, 2], ">f8")).array.tolist() == [1.5, 2]


@pytest.mark.parametrize(
    "value",
    [
        [[2**64 - 1, 0]],
        [[[2**63 + 1], [1]], [[2**53 + 1], [True]]],
        [(2**63 + 1, 0), [1, 2]],
        [np.uint64(2**64 - 1), np.int64(0)],
        [np.array([2**64 - 1], np.uint64), np.array([0], np.int64)],
        deque([2**64 - 1, 0]),
    ],
)
def test_whole_numbers_in_lists_stay_what_they_are_though_numpy_makes_floats_of_them(value: Any) -> None:
    array = given(value).array
    assert array.dtype == np.uint64
    assert array.tolist() == np.asarray(value, object).tolist()


def test_floats_stay_floats_beside_whole_numbers_that_are_floats_too() -> None:
    mixed: list[list[Any]] = [[2**63, 0.5], [2**63, -1], [1e300, 1]]
    for value in mixed:
        assert given(value).array.dtype == np.float64
        assert given(value).array.tolist() == value


def test_texts_of_numpys_own_string_type_are_texts() -> None:
    texts = np.array([["a", "é"]], np.dtypes.StringDType())
    for value in (texts, [texts[0]]):
        array = given(value).array
        assert array.dtype == object
        assert array.tolist() == [["a", "é"]]
    assert "holds None at [1] where a text was expected" in refusal(
        np.array(["a", None], np.dtypes.StringDType(na_object=None))
    )


def test_texts_in_a_list_keep_all_their_characters() -> None:
    assert given(["a\0", "é"]).array.tolist() == ["a\0", "é"]
    mixed: Any = [b"a", "b"]
    assert given(mixed).array.tolist() == [b"a", "b"]


@dataclass(eq=False)
class Frame:
    """What DataFrames have in common."""

    series: Mapping[Any, Any]

    @property
    def columns(self) -> list[Any]:
        return list(self.series)

    def __getitem__(self, name: str) -> Any:
        return self.series[name]


def model(**shapes: tuple[int, ...]) -> Model:
    inputs = tuple(TensorSpec(name, "FP32", shape) for name, shape in shapes.items())
    return Model("m", "1", "READY", inputs=inputs, max_batch_size=64)


def test_columns_are_matched_by_name_whatever_their_order() -> None:
    table = Frame({"b": np.array([3, 4]), "a": [1.5, 2.5]})
    found = columns(table, model(a=(-1,), b=(-1, 1)))
    assert list(found) == ["a", "b"]
    assert found["a"].array.tolist() == [1.5, 2.5]
    assert found["b"].array.tolist() == [[3], [4]]
    assert found["b"].array.dtype == np.int64


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            Frame({"a": [1], "c": [2], 7: [3]}),
            "the table lacks b and has c, 7 too many; m expects the columns a, b: df[['a', 'b']]",
        ),
        (Frame({"a": [1]}), "the table lacks b; m expects the columns a, b: df[['a', 'b']]"),
        (Frame({"a": [1], "b": [2], "c": [3]}), "the table has c too many; m expects the columns a, b: df[['a', 'b']]"),
        (
            Frame({"a": [1, None], "b": [2, 3]}),
            (
                "input 'a' holds None at [1] where a number was expected; a missing number is float('nan'), where the model "
                "takes one"
            ),
        ),
    ],
)
def test_a_table_with_other_columns_says_which(table: Frame, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        columns(table, model(a=(-1,), b=(-1,)))
    assert str(caught.value) == message


def test_a_table_is_never_taken_by_the_order_of_its_columns() -> None:
    table = Frame({"a": [1], "b": [2]})
    assert is_table(table)
    assert not is_table(np.zeros(2))
    with pytest.raises(
        InvalidInput, match=r"input 'x' is a table, whose columns have no order .* df\[\[...\]\].to_numpy"
    ):
        given(table, "x")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(
        InvalidInput, match=r"m has one input, x FP32 \[any, 2\], and does not know .* df\[\[...\]\].to_numpy\(\)"
    ):
        columns(table, model(x=(-1, 2)))
    with pytest.raises(InvalidInput, match=r"m expects x FP32 \[any, 2\]; y FP32 \[any\], which are not all columns"):
        columns(table, model(x=(-1, 2), y=(-1,)))


def test_two_columns_of_one_name_and_a_query_that_was_not_run_are_refused() -> None:
    class Twice(Frame):
        @property
        def columns(self) -> list[Any]:
            return ["a", "a"]

    class Lazy(Frame):
        def collect(self) -> None: ...

    with pytest.raises(InvalidInput, match="the table has several columns of one name: a, a"):
        columns(Twice({"a": [1]}), model(a=(-1,)))
    with pytest.raises(InvalidInput, match=r"a query that was not run; give its result: \.collect\(\)"):
        columns(Lazy({"a": [1]}), model(a=(-1,)))
