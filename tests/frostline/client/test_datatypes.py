"""Numbers become the type of a model's input, and none becomes another."""

from typing import Any

import numpy as np
import pytest

from frostline.client.datatypes import convert, taken
from frostline.client.errors import InvalidInput

INT64_MIN, INT64_MAX, UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1


@pytest.mark.parametrize(
    ("array", "datatype", "expected"),
    [
        (np.array([1, 2**24, -(2**24) - 2], np.int64), "FP32", [1.0, 16777216.0, -16777218.0]),
        (np.array([INT64_MIN], np.int64), "FP32", [-9223372036854775808.0]),
        (np.array([2**63], np.uint64), "FP32", [9223372036854775808.0]),
        (np.array([2**53], np.int64), "FP64", [9007199254740992.0]),
        (np.array([-128, 127], np.int8), "FP16", [-128.0, 127.0]),
        (np.array([2048, 2050], np.int32), "FP16", [2048.0, 2050.0]),
        (np.array([True, False]), "FP32", [1.0, 0.0]),
        (np.array([True, False]), "INT64", [1, 0]),
        (np.array([0, 255], np.int64), "UINT8", [0, 255]),
        (np.array([1.0, -2.0, -0.0]), "INT64", [1, -2, 0]),
        (np.array([-(2.0**63)]), "INT64", [INT64_MIN]),
        (np.array([2.0**63]), "UINT64", [2**63]),
        (np.array([UINT64_MAX], np.uint64), "UINT64", [UINT64_MAX]),
        (np.array([1.0, 0.0]), "BOOL", [True, False]),
        (np.array([0, 1], np.uint8), "BOOL", [False, True]),
        (np.array([0.1]), "FP64", [0.1]),
        (np.array([0.1]), "FP32", [0.10000000149011612]),
        (np.array([0.1]), "FP16", [0.0999755859375]),
        (np.array([65519.0], np.float32), "FP16", [65504.0]),
        (np.array([1e-40]), "FP16", [0.0]),
        (np.array([-np.inf, np.inf]), "FP16", [-np.inf, np.inf]),
        (np.array([1.5], np.float16), "FP64", [1.5]),
        (np.array([], np.float64), "INT64", []),
        (np.array(["a"]), "FP32", ["a"]),
        (np.array([1.5]), "BYTES", [1.5]),
    ],
)
def test_a_number_keeps_its_value_or_is_rounded_to_the_nearest_float(
    array: Any, datatype: str, expected: list[Any]
) -> None:
    converted = convert(array, datatype)
    assert converted.tolist() == expected
    names = {"FP16": "float16", "FP32": "float32", "FP64": "float64"}
    assert array.dtype.kind == "U" or datatype == "BYTES" or converted.dtype == names.get(datatype, datatype.lower())


def test_nan_stays_nan_in_a_float() -> None:
    assert np.isnan(convert(np.array([np.nan]), "FP16")).all()


@pytest.mark.parametrize(
    ("value", "dtype", "datatype", "sentence"),
    [
        (
            2**53 + 1,
            np.int64,
            "FP32",
            "9007199254740993 at [1], but the model takes FP32, which has no such number; where",
        ),
        (
            2**24 + 1,
            np.int32,
            "FP32",
            "16777217 at [1], but the model takes FP32, which has no such number; where rounding",
        ),
        (2**53 + 1, np.int64, "FP64", "9007199254740993 at [1], but the model takes FP64"),
        (INT64_MAX, np.int64, "FP32", "9223372036854775807 at [1], but"),
        (INT64_MAX, np.int64, "FP64", "9223372036854775807 at [1], but"),
        (UINT64_MAX, np.uint64, "FP64", "18446744073709551615 at [1], but"),
        (2049, np.uint16, "FP16", "2049 at [1], but"),
        (70000, np.int64, "FP16", "70000 at [1], but the model takes FP16, whose largest number is 65504.0"),
        (300, np.int64, "UINT8", "300 at [1], but the model takes UINT8: whole numbers from 0 to 255"),
        (-1, np.int64, "UINT32", "-1 at [1], but the model takes UINT32: whole numbers from 0 to 4294967295"),
        (-1, np.int8, "UINT64", "-1 at [1], but the model takes UINT64: whole numbers from 0 to 18446744073709551615"),
        (UINT64_MAX, np.uint64, "INT64", "18446744073709551615 at [1], but"),
        (
            1.5,
            np.float64,
            "INT64",
            "1.5 at [1], but the model takes INT64: whole numbers from -9223372036854775808 to 92",
        ),
        (2.0**63, np.float32, "INT64", "9.223372036854776e+18 at [1], but"),
        (np.nan, np.float64, "INT64", "nan at [1], but the model takes INT64"),
        (np.inf, np.float16, "UINT8", "inf at [1], but the model takes UINT8"),
        (2, np.int64, "BOOL", "2 at [1], but the model takes BOOL: True and False, or 1 and 0"),
        (np.nan, np.float64, "BOOL", "nan at [1], but the model takes BOOL"),
        (1e300, np.float64, "FP32", "1e+300 at [1], but the model takes FP32, whose largest number is 3.40"),
        (65520, np.float32, "FP16", "65520.0 at [1], but the model takes FP16, whose largest number is 65504.0"),
    ],
)
def test_a_number_that_the_type_does_not_have_is_refused_with_its_place(
    value: float, dtype: Any, datatype: str, sentence: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(np.array([0, value, value], dtype), datatype)
    assert str(caught.value).startswith(f"the input holds {sentence}")
    with pytest.raises(InvalidInput, match=r"^input 'x' holds .* at \[1, 0\]"):
        convert(np.array([[0, 1], [value, 0]], dtype), datatype, "x")


def test_an_input_takes_its_own_type_and_what_the_server_widens() -> None:
    own = {"FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8, "BOOL": np.bool_}
    for datatype, dtype in own.items():
        assert taken(np.zeros(1, dtype), datatype)
        assert not taken(np.zeros(1, np.int16), datatype)
    for dtype in (np.uint8, np.int8, np.float16):
        assert taken(np.zeros(1, dtype), "FP32")
    assert not taken(np.zeros(1, np.float16), "FP64")
