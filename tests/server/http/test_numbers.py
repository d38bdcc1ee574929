"""Elements of tensors as JSON and back, bit for bit, and what is refused."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic_core import from_json, to_json

from frostline.protocol import pack_bytes
from frostline_server.http import numbers
from frostline_server.http.infer import array_of
from frostline_server.http.json_bodies import as_written
from frostline_server.http.numbers import DATATYPES, elements, nested
from frostline_server.http.statuses import Failure
from frostline_server.runtime.dtypes import DTYPES

Array = np.ndarray[Any, Any]

NUMBERS = [name for name in DATATYPES if name != "BYTES"]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def drawn(datatype: str, shape: tuple[int, ...], data: st.DataObject) -> Array:
    """An array of any values of a type: of floats any bits, of BYTES any texts."""
    if datatype == "BYTES":
        return data.draw(arrays.arrays(object, shape, elements=TEXTS.map(str.encode), fill=st.nothing()))
    return data.draw(arrays.arrays(DTYPES[datatype], shape, fill=st.nothing()))


def raw_of(array: Array) -> bytes:
    """The elements as they are on the wire; each NaN as the same one, which is all that JSON says of it."""
    if array.dtype.hasobject:
        return pack_bytes(array.ravel().tolist())
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return array.tobytes()


def raw_elements(name: str, datatype: str, shape: Sequence[int], data: Any) -> bytes:
    """The elements of a tensor that a program of Python's has written."""
    return numbers.raw_elements(name, datatype, shape, data, lambda: as_written(json.dumps(data).encode()))


def through_json(value: Any) -> Any:
    """What a reader finds that was sent a value."""
    return from_json(to_json(value))


@pytest.mark.parametrize("datatype", DATATYPES)
@given(shape=SHAPES, data=st.data(), nest=st.booleans())
def test_every_array_comes_back_bit_for_bit(
    datatype: str, shape: tuple[int, ...], data: st.DataObject, nest: bool
) -> None:
    array = drawn(datatype, shape, data)
    told = through_json(nested(array) if nest else elements(array))
    assert raw_elements("x", datatype, shape, told) == raw_of(array)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_floats_with_any_bits_come_back(datatype: str) -> None:
    dtype = DTYPES[datatype]
    bits = np.random.default_rng(0).integers(0, 256, (9000, dtype.itemsize), np.uint8)
    array = bits.reshape(-1).view(dtype)
    for size in (4000, 9000):  # with as few digits as possible, and as doubles
        back = np.frombuffer(raw_elements("x", datatype, [size], through_json(elements(array[:size]))), dtype)
        np.testing.assert_array_equal(np.isnan(back), np.isnan(array[:size]))
        numbers = ~np.isnan(back)
        assert back[numbers].tobytes() == array[:size][numbers].tobytes()


@pytest.mark.parametrize(
    ("datatype", "elements_of_it"),
    [
        ("INT64", [-(2**63), 2**53 + 1, 2**63 - 1]),
        ("UINT64", [0, 2**53 + 1, 2**64 - 1]),
        ("FP64", [5e-324, -0.0, 1.7976931348623157e308, math.inf, -math.inf, 0.1]),
        ("FP32", [1e-45, -0.0, 3.4028234663852886e38, math.inf, 16777216.0]),
        ("FP16", [6e-8, -0.0, 65504.0, -math.inf]),
    ],
)
def test_the_limits_of_each_type_are_held(datatype: str, elements_of_it: list[Any]) -> None:
    array = np.array(elements_of_it, DTYPES[datatype])
    assert raw_elements("x", datatype, [len(array)], through_json(elements(array))) == array.tobytes()


def test_a_float_of_which_the_shortest_decimals_are_read_as_its_neighbour_is_written_with_more() -> None:
    number = np.array([0x15AE43FD], np.uint32).view(np.float32)
    assert str(number[0]) == "7.038531e-26"
    assert np.float32(float("7.038531e-26")) != number[0]
    assert np.array(through_json(elements(number)), np.float64).astype(np.float32) == number


def test_single_precision_is_written_with_few_digits() -> None:
    assert to_json(elements(np.array([0.1, 16777216, 1e30], np.float32))) == b"[0.1,16777216.0,1e+30]"


def test_half_precision_is_written_with_few_digits_and_whole_numbers_with_all() -> None:
    array = np.array([0.1, 2049, 2050, 65504, -65472, 1e-7, 1023.5], np.float16)
    assert to_json(elements(array)) == b"[0.1,2048.0,2050.0,65504.0,-65472.0,1e-7,1023.5]"


def test_every_float_of_half_precision_comes_back_and_every_whole_one_is_itself_in_double_precision() -> None:
    array = np.arange(65536, dtype=np.uint16).view(np.float16)
    array = array[np.isfinite(array)]
    told = np.concatenate([elements(array[at : at + 4096]) for at in range(0, len(array), 4096)])
    np.testing.assert_array_equal(told.astype(np.float16), array)
    whole = array == np.rint(array)
    np.testing.assert_array_equal(told[whole], array[whole].astype(np.float64))


def test_what_is_no_number_is_a_word_as_in_protobufs_json() -> None:
    assert elements(np.array([math.nan, math.inf, -math.inf, 1], np.float32)) == ["NaN", "Infinity", "-Infinity", 1]
    for word in ("NaN", "nan"):
        assert math.isnan(np.frombuffer(raw_elements("x", "FP32", [1], [word]), np.float32)[0])
    for word in ("Infinity", "inf"):
        assert np.frombuffer(raw_elements("x", "FP64", [2], [word, f"-{word}"])).tolist() == [math.inf, -math.inf]


@given(st.floats(2**53, 2**69))
def test_a_large_float_as_javascript_writes_it_is_taken(number: float) -> None:
    # The digits that tell it from its neighbours, and then zeros, without a decimal point.
    digits, _, exponent = repr(number).partition("e+")
    whole, _, fraction = digits.partition(".")
    written = json.loads(whole + fraction.ljust(int(exponent), "0") if exponent else whole)
    assert type(written) is int
    assert np.frombuffer(raw_elements("x", "FP64", [1], [written]))[0] == number


@pytest.mark.parametrize("shape", [[2, 3], [3, 2], [6], [1, 6, 1]])
def test_a_flat_list_fits_every_shape_of_as_many_elements(shape: list[int]) -> None:
    assert raw_elements("x", "INT8", shape, [1, 2, 3, 4, 5, 6]) == bytes([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("shape", "data"), [([0], []), ([2, 0], [[], []]), ([2, 0], []), ([0, 4], []), ([2, 0, 3], [[], []])]
)
def test_an_axis_of_no_elements_is_an_empty_list_somewhere(shape: list[int], data: list[Any]) -> None:
    assert raw_elements("x", "FP32", shape, data) == b""


@pytest.mark.parametrize(
    ("shape", "told"), [((0,), []), ((2, 0), [[], []]), ((0, 4), []), ((2, 0, 3), [[], []]), ((2, 1, 0), [[[]], [[]]])]
)
def test_nested_lists_of_no_elements_are_nested_as_the_shape_is(shape: tuple[int, ...], told: list[Any]) -> None:
    assert nested(np.zeros(shape, np.float32)) == told


def test_an_array_without_axes_is_its_element() -> None:
    assert nested(np.array(2, np.int64)) == 2
    assert raw_elements("x", "INT8", [], 2) == raw_elements("x", "INT8", [], [2]) == b"\x02"


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "sentence"),
    [
        ("FP8", [1], [1], "input 'x' has the datatype 'FP8'; it may be BOOL, UINT8,"),
        ("FP32", [3], [1, 2], "input 'x' has 2 elements, and its shape [3] has 3"),
        ("FP32", [2, 2], [[1, 2], [3]], "input 'x' has lists of different lengths, and its shape is [2, 2]"),
        ("FP32", [2, 2], [[1, 2, 3, 4]], "not nested as its shape [2, 2] says"),
        ("FP32", [2, 2], [[1, 2], 3], "not nested as its shape [2, 2] says"),
        ("FP32", [2], [[1], [2]], "has the element a list; a number is expected for FP32"),
        ("FP32", [1], 1.0, "has as data 1.0; a list of 1 elements is expected, flat or nested"),
        ("FP32", [1], {"0": 1}, "has as data an object; a list of 1 elements"),
        ("FP32", [], None, "has as data null; a list of 1 elements"),
        ("FP32", [1], [None], "has the element null; a number is expected for FP32"),
        ("FP32", [1], [True], "has the element true; a number is expected for FP32"),
        ("FP32", [1], ["1.5"], """has the element '1.5'; a number, "NaN", "Infinity" or "-Infinity" is expected"""),
        ("FP32", [1], [1e39], "has the element 1e+39, which is too large for FP32"),
        ("FP16", [2], [1, 65520.0], "has the element 65520, which is too large for FP16"),
        ("FP16", [1], [2049], "has the element 2049, which FP16 cannot hold exactly"),
        ("FP32", [1], [2**24 + 1], "has the element 16777217, which FP32 cannot hold exactly"),
        ("FP64", [1], [2**53 + 1], "has the element 9007199254740993, which FP64 cannot hold exactly"),
        ("FP64", [1], [10**400], "has an element that is too large for FP64"),
        ("INT64", [1], [2**63], "which is no INT64: it goes from -9223372036854775808 to 9223372036854775807"),
        ("UINT64", [1], [-1], "which is no UINT64: it goes from 0 to 18446744073709551615"),
        ("UINT8", [1], [256], "has the element 256, which is no UINT8: it goes from 0 to 255"),
        ("INT8", [1], [1.0], "has the element 1.0; a whole number is expected for INT8"),
        ("INT8", [1], [True], "has the element true; a whole number is expected for INT8"),
        ("BOOL", [1], [1], "has the element 1; true or false is expected for BOOL"),
        ("BYTES", [1], [1], "has the element 1; a text is expected for BYTES"),
        ("BYTES", [1], ["\ud800"], "has a text with half a character"),
    ],
)
def test_what_would_change_a_value_is_refused(datatype: str, shape: list[int], data: Any, sentence: str) -> None:
    with pytest.raises(Failure) as refused:
        raw_elements("x", datatype, shape, data)
    assert refused.value.status == 400
    assert sentence in refused.value.sentence


def test_bytes_that_are_no_text_are_refused_with_the_remedy() -> None:
    with pytest.raises(Failure, match="ask for it with binary_data true"):
        elements(np.array([b"\xff"], object))


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_raw_elements_are_read_as_numpy_has_them(datatype: str, data: st.DataObject) -> None:
    array = drawn(datatype, (2, 3), data)
    assert array_of(datatype, array.tobytes(), (2, 3)).tobytes() == array.tobytes()
    assert array_of(datatype, array.tobytes()).shape == (6,)


@given(st.lists(st.binary(max_size=5), max_size=4))
def test_raw_texts_are_taken_apart(texts: list[bytes]) -> None:
    assert array_of("BYTES", pack_bytes(texts)).tolist() == texts
