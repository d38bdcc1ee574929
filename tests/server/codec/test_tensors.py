"""A request's headers against a network's signature, and its bytes against its headers."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.pb import inference_pb2 as pb
from frostline.protocol import pack_bytes
from frostline_server.codec import tensors
from frostline_server.codec.message_scan import BRIEF_STRINGS, MOST_STRINGS, TakesLong
from frostline_server.codec.tensors import (
    Layouts,
    TensorHeader,
    Texts,
    check_bytes,
    check_outputs,
    strings_array,
    typed_contents,
    unpack_strings,
)
from frostline_server.errors import InvalidInput, PredictionError, Unsupported
from frostline_server.runtime.dtypes import DTYPES
from frostline_server.runtime.graph.traits import Traits
from frostline_server.runtime.signature import Signature
from tests.support.signatures import CLASSIFIER, PAIR, TEXT, WHOLE, classifier, plain, spec

LIMIT = 8


def check(signature: Signature, *headers: TensorHeader) -> tensors.Layout:
    return Layouts("m", signature, LIMIT).check(headers)


def refusal(signature: Signature, *headers: TensorHeader) -> str:
    with pytest.raises(InvalidInput) as caught:
        check(signature, *headers)
    return str(caught.value)


# Headers that fit


SCALAR = Signature((spec("input", "FP32"),), (spec("output", "FP32"),), ("output",), batched=False, heads=None)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scalar_may_have_an_axis_of_one(shape: tuple[int, ...]) -> None:
    layout = check(SCALAR, ("input", "FP32", shape))
    assert (layout.kind.shapes, layout.rows, layout.count, layout.nbytes) == (((),), 1, (1,), (4,))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_rows_that_are_scalars_may_have_an_axis_of_one(shape: tuple[int, ...]) -> None:
    layout = check(replace(SCALAR, batched=True), ("input", "FP32", shape))
    assert (layout.kind.shapes, layout.rows, layout.count, layout.nbytes) == (((),), 3, (3,), (12,))


@pytest.mark.parametrize(
    ("batched", "shape", "expected"),
    [
        (False, (2,), "[]"),
        (False, (1, 1), "[]"),
        (False, (0,), "[]"),
        (True, (3, 2), "[-1]"),
        (True, (3, 1, 1), "[-1]"),
    ],
)
def test_a_scalar_has_no_other_axes(batched: bool, shape: tuple[int, ...], expected: str) -> None:
    message = refusal(replace(SCALAR, batched=batched), ("input", "FP32", shape))
    assert f"Expected {expected}, got " in message


def test_a_row_of_one_element_is_not_taken_for_a_scalar() -> None:
    layout = check(classifier(spec("input", "FP32", 1)), ("input", "FP32", (3, 1)))
    assert layout.kind.shapes == ((1,),)


def test_headers_become_rows_counts_and_bytes() -> None:
    layout = check(CLASSIFIER, ("input", "FP32", (5, 4)))
    assert (layout.rows, layout.count, layout.nbytes, layout.order) == (5, (20,), (80,), (0,))
    assert layout.kind.shapes == ((4,),)
    assert layout.kind.wire == layout.kind.cast == (np.dtype(np.float32),)


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_data_type_of_the_protocol_is_taken_by_an_input_of_that_type(datatype: str) -> None:
    layout = check(classifier(spec("input", datatype, 2)), ("input", datatype, (3, 2)))
    assert layout.kind.cast == (DTYPES[datatype],)
    assert layout.nbytes == (-1 if datatype == "BYTES" else 6 * DTYPES[datatype].itemsize,)


@pytest.mark.parametrize("wire", ["UINT8", "INT8", "FP16"])
def test_narrower_rows_are_taken_for_a_float_input_and_cast_later(wire: str) -> None:
    layout = check(CLASSIFIER, ("input", wire, (2, 4)))
    assert (layout.kind.wire, layout.kind.cast) == ((DTYPES[wire],), (np.dtype(np.float32),))
    assert layout.nbytes == (8 * DTYPES[wire].itemsize,)


def test_inputs_may_come_in_any_order() -> None:
    layout = check(PAIR, ("right", "INT64", (2, 2)), ("left", "FP32", (2, 4)))
    assert layout.order == (1, 0)
    assert (layout.kind.shapes, layout.count, layout.nbytes) == (((4,), (2,)), (8, 4), (32, 32))


def test_an_axis_of_any_size_takes_any_size() -> None:
    signature = classifier(spec("input", "FP32", None, 4))
    assert check(signature, ("input", "FP32", (2, 7, 4))).kind.shapes == ((7, 4),)
    assert check(signature, ("input", "FP32", (2, 0, 4))).nbytes == (0,)


def test_a_network_without_a_batch_axis_takes_its_whole_shape() -> None:
    layout = check(WHOLE, ("input", "FP32", (4, 100)))
    assert (layout.rows, layout.kind.shapes) == (1, ((4, 100),))


def test_as_many_rows_as_the_limit_are_taken() -> None:
    assert check(CLASSIFIER, ("input", "FP32", (LIMIT, 4))).rows == LIMIT


# Headers that do not


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ((1, 3), "[1,3]"),
        ((4,), "[4]"),
        ((1, 4, 1), "[1,4,1]"),
        ((-1, 4), "[-1,4]"),
        ((1, -4), "[1,-4]"),
        ((1, 2**62), f"[1,{2**62}]"),
    ],
)
def test_a_shape_that_does_not_fit_is_named_beside_the_one_expected(shape: tuple[int, ...], got: str) -> None:
    message = refusal(CLASSIFIER, ("input", "FP32", shape))
    assert message.startswith(f"unexpected shape for input 'input' for model 'm'. Expected [-1,4], got {got}. NOTE: ")


def test_a_negative_size_is_refused_even_on_an_axis_of_any_size() -> None:
    message = refusal(WHOLE, ("input", "FP32", (4, -1)))
    assert message == "unexpected shape for input 'input' for model 'm'. Expected [4,-1], got [4,-1]."


def test_a_scalar_has_no_batch_axis() -> None:
    message = refusal(CLASSIFIER, ("input", "FP32", ()))
    assert message == "input 'input' has no shape but model requires batch dimension for 'm'"


def test_a_recurrent_network_takes_no_axis_of_size_0() -> None:
    # ONNX Runtime ends the whole process.
    inner = replace(plain((spec("input", "FP32", None, 4),)), traits=Traits(recurrent="LSTM"))
    assert refusal(inner, ("input", "FP32", (2, 0, 4))) == (
        "input 'input' for model 'm' has shape [2,0,4]; the model has a LSTM, which takes no axis of size 0"
    )
    assert "takes no axis of size 0" in refusal(
        replace(WHOLE, traits=Traits(recurrent="GRU")), ("input", "FP32", (4, 0))
    )
    assert check(WHOLE, ("input", "FP32", (4, 0))).rows == 1


def test_too_many_rows_are_refused() -> None:
    message = refusal(CLASSIFIER, ("input", "FP32", (LIMIT + 1, 4)))
    assert message.startswith("inference request batch-size must be <= 8 for 'm', got 9 rows")


def test_no_rows_are_refused() -> None:
    message = refusal(CLASSIFIER, ("input", "FP32", (0, 4)))
    assert (
        message
        == "inference request batch-size must be >= 1 for 'm', got no rows; with max_batch_size: 0 in config.pbtxt a network is run with none"
    )


def test_inputs_must_have_equally_many_rows() -> None:
    message = refusal(PAIR, ("left", "FP32", (2, 4)), ("right", "INT64", (3, 2)))
    assert message.startswith("input 'right' batch size does not match other inputs for 'm'")


@pytest.mark.parametrize("datatype", ["FP64", "INT32", "BF16", "BYTES", "float", ""])
def test_another_data_type_is_named_beside_the_one_expected(datatype: str) -> None:
    message = refusal(CLASSIFIER, ("input", datatype, (1, 4)))
    assert message == (
        f"inference input 'input' data-type is '{datatype}', but model 'm' expects 'FP32' "
        "(also taken: FP16 or INT8 or UINT8)"
    )


def test_an_input_without_casts_takes_its_own_type_only() -> None:
    message = refusal(classifier(spec("input", "FP16", 4)), ("input", "FP32", (1, 4)))
    assert message == "inference input 'input' data-type is 'FP32', but model 'm' expects 'FP16'"


def test_a_missing_input_is_named() -> None:
    assert refusal(PAIR, ("right", "INT64", (1, 2))) == (
        "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['right'], but missing required input(s) ['left']. "
        "Please provide all required input(s)."
    )
    assert refusal(CLASSIFIER).startswith("expected 1 inputs but got 0 inputs for model 'm'. Got input(s) []")


def test_an_unknown_input_is_named_beside_the_known_ones() -> None:
    message = refusal(PAIR, ("left", "FP32", (1, 4)), ("z", "FP32", (1, 4)))
    assert message == "unexpected inference input 'z' for model 'm'; it takes ['left', 'right']"


def test_an_input_that_comes_twice_is_refused() -> None:
    header = ("left", "FP32", (1, 4))
    assert refusal(PAIR, header, header) == "input 'left' already exists in request for model 'm'"


def test_more_inputs_than_there_are_are_refused_as_by_triton() -> None:
    headers = [(name, "FP32", (1, 4)) for name in ("left", "right", "z")]
    message = refusal(PAIR, *headers)
    assert message == (
        "expected 2 inputs but got 3 inputs for model 'm'. Got input(s) ['left', 'right', 'z'], but it takes ['left', 'right']"
    )


# Memory of headers


def test_equal_headers_are_checked_once() -> None:
    layouts = Layouts("m", CLASSIFIER, LIMIT)
    header = (("input", "FP32", (2, 4)),)
    assert layouts.check(header) is layouts.check(header)


def test_rows_of_one_kind_are_one_object_whatever_their_number() -> None:
    layouts = Layouts("m", CLASSIFIER, LIMIT)
    one, two = (layouts.check((("input", "FP32", (rows, 4)),)) for rows in (1, 2))
    assert one.kind is two.kind


def test_the_memory_of_headers_with_many_tensors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_TENSORS", 10)
    names = ("a", "b", "c", "d")
    inputs = tuple(replace(CLASSIFIER.inputs[0], name=name) for name in names)
    layouts = Layouts("m", replace(CLASSIFIER, inputs=inputs), LIMIT)
    for order in itertools.permutations(names):
        layouts.check(tuple((name, "FP32", (1, 4)) for name in order))
        assert 1 <= len(layouts._known) <= 2


def test_the_memory_of_headers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_MAX_LAYOUTS", 10)
    layouts = Layouts("m", WHOLE, LIMIT)
    first = layouts.check((("input", "FP32", (4, 0)),))
    for size in range(1, 50):
        layouts.check((("input", "FP32", (4, size)),))
        assert len(layouts._known) <= 10
        assert len(layouts._kinds) <= 10
    again = layouts.check((("input", "FP32", (4, 0)),))
    assert again == first
    assert again is not first


def test_headers_that_were_refused_are_not_remembered() -> None:
    layouts = Layouts("m", CLASSIFIER, LIMIT)
    with pytest.raises(InvalidInput):
        layouts.check((("input", "FP32", (1, 5)),))
    assert not layouts._known


names = st.sampled_from(["left", "right", "input", "text", "", "z"]) | st.text(max_size=3)
datatypes = st.sampled_from([*DTYPES, "BF16"]) | st.text(max_size=4)
sizes = st.integers(-2, 9) | st.integers(-(2**63), 2**63 - 1)
headers_of_any_kind = st.lists(st.tuples(names, datatypes, st.lists(sizes, max_size=4).map(tuple)), max_size=4)


@given(headers=headers_of_any_kind, signature=st.sampled_from([CLASSIFIER, PAIR, TEXT, WHOLE]))
def test_any_headers_either_fit_or_are_refused_with_a_prediction_error(
    headers: list[TensorHeader], signature: Signature
) -> None:
    try:
        layout = check(signature, *headers)
    except PredictionError:
        return
    assert len(layout.count) == len(layout.nbytes) == len(signature.inputs)
    assert 1 <= layout.rows <= LIMIT


# Outputs


def test_known_outputs_pass_in_any_order() -> None:
    check_outputs("m", CLASSIFIER, ("argmax", "logits"))


def test_an_unknown_output_is_named_beside_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"^unexpected inference output 'z' for model 'm'; it has \['logits', 'soft"):
        check_outputs("m", CLASSIFIER, ("logits", "z"))


def test_the_confidence_behind_the_metrics_is_not_offered() -> None:
    with pytest.raises(InvalidInput, match="unexpected inference output 'frostline_confidence'"):
        check_outputs("m", CLASSIFIER, ("frostline_confidence",))


def test_an_output_that_comes_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^output 'logits' already exists in request for model 'm'$"):
        check_outputs("m", CLASSIFIER, ("logits", "logits"))


# Raw bytes

FLOATS = spec("input", "FP32", 4)
STRINGS = spec("text", "BYTES", 2)


def test_bytes_of_the_right_length_are_passed_on_uncopied() -> None:
    data = bytes(16)
    assert check_bytes("m", FLOATS, 16, 4, data) is data


@pytest.mark.parametrize("length", [0, 15, 17])
def test_bytes_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_bytes("m", FLOATS, 16, 4, bytes(length))
    assert str(caught.value) == f"input byte size mismatch for input 'input' for model 'm'. Expected 16, got {length}"


def test_strings_are_taken_apart_and_put_together_again() -> None:
    texts = ["", "plain", "naïve", "日本", "with\0zero"]
    packed = pack_bytes(strings_array(texts))
    assert packed[:13] == b"\0\0\0\0\5\0\0\0plain"
    unpacked = check_bytes("m", STRINGS, -1, len(texts), packed)
    assert isinstance(unpacked, np.ndarray)
    assert (unpacked.tolist(), unpacked.dtype) == (texts, np.dtype(object))


def test_strings_that_are_bytes_already_are_packed_as_they_are() -> None:
    assert pack_bytes(np.array([b"\xff", "é"], object)) == b"\1\0\0\0\xff\2\0\0\0\xc3\xa9"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0\0\0a",
        b"\1\0\0\0a\1\0\0",
        b"\1\0\0\0a\2\0\0\0b",
        b"\1\0\0\0a\1\0\0\0b\1\0\0\0c",
        b"\1\0\0\0a\1\0\0\0bc",
        b"\xff\xff\xff\xff",
    ],
    ids=["nothing", "too few", "half a length", "short", "too many", "a byte too many", "a huge length"],
)
def test_damaged_strings_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^input byte size mismatch for input 'text' .* Expected 2 strings"):
        unpack_strings("m", "text", 2, data)


def test_strings_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^input 'text' for model 'm', element 1: the bytes are not UTF-8"):
        unpack_strings("m", "text", 2, b"\1\0\0\0a\1\0\0\0\xff")


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_are_either_so_many_strings_or_refused(data: bytes, count: int) -> None:
    try:
        texts = unpack_strings("m", "text", count, data)
    except InvalidInput:
        return
    assert len(texts) == count
    assert pack_bytes(texts) == data


def test_texts_that_came_before_are_the_same_objects() -> None:
    texts, packed = Texts(), pack_bytes(["basic", "zoë 🙂", ""])
    first, second = (list(check_bytes("m", STRINGS, -1, 3, packed, texts)) for _ in range(2))
    assert first == second == ["basic", "zoë 🙂", ""]
    assert [left is right for left, right in zip(first, second, strict=True)] == [True] * 3


words = st.sampled_from(["", "a", "b\0", "é", "x" * 64, "x" * 65, "x" * 300])


@given(st.lists(st.tuples(st.lists(words, max_size=4), st.binary(max_size=3), st.integers(0, 5)), max_size=6))
def test_texts_are_taken_apart_the_same_whatever_came_before(messages: list[tuple[list[str], bytes, int]]) -> None:
    texts = Texts()
    for elements, more, count in messages:
        for data, expected in ((pack_bytes(elements) + more, count), (pack_bytes(elements), len(elements))):
            outcomes: list[Any] = []
            for known in (texts, None):
                try:
                    outcomes.append(list(check_bytes("m", STRINGS, -1, expected, data, known)))
                except InvalidInput as refusal:
                    outcomes.append(str(refusal))
            assert outcomes[0] == outcomes[1]


def test_texts_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_MOST_KNOWN", 3)
    texts = Texts()
    for elements in (list("abcde"), ["x" * 65], ["a", "x" * 1000, "b"]):
        assert list(check_bytes("m", STRINGS, -1, len(elements), pack_bytes(elements), texts)) == elements
        assert 0 < len(texts._known) <= 3
        assert max(map(len, texts._known)) <= 4 + 64


def test_tensors_of_one_text_are_kept_as_they_are_and_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_MOST_KNOWN", 3)
    texts = Texts()
    for word in "abcdea":
        packed = pack_bytes([word])
        assert check_bytes("m", STRINGS, -1, 1, packed, texts) == np.array([word], object)
        assert texts.alone[packed].tolist() == [word]
        assert not texts.alone[packed].flags.writeable
        assert len(texts.alone) <= 3
    assert check_bytes("m", STRINGS, -1, 1, pack_bytes(["x" * 65]), texts) == np.array(["x" * 65], object)
    assert pack_bytes(["x" * 65]) not in texts.alone


# Typed contents


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 2**16 - 1]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, -1.25]),
        ("FP64", "fp64_contents", [0.1, 1e300]),
    ],
)
def test_every_typed_field_is_read_for_the_data_types_it_carries(datatype: str, field: str, values: list[Any]) -> None:
    contents = pb.InferTensorContents(**{field: values})
    data = typed_contents("m", FLOATS, datatype, contents, 2)
    assert np.frombuffer(data, DTYPES[datatype]).tolist() == values


def test_typed_strings_become_text() -> None:
    array = typed_contents("m", STRINGS, "BYTES", pb.InferTensorContents(bytes_contents=["é".encode(), b""]), 2)
    assert isinstance(array, np.ndarray)
    assert array.tolist() == ["é", ""]


def test_typed_strings_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not UTF-8"):
        typed_contents("m", STRINGS, "BYTES", pb.InferTensorContents(bytes_contents=[b"\xff"]), 1)


def test_half_precision_has_no_typed_field() -> None:
    with pytest.raises(Unsupported, match=r"^FP16 has no typed contents field; send input 'input' in raw_input_cont"):
        typed_contents("m", FLOATS, "FP16", pb.InferTensorContents(), 2)


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("INT8", pb.InferTensorContents(int_contents=[128])),
        ("UINT16", pb.InferTensorContents(uint_contents=[2**16])),
    ],
)
def test_a_typed_value_that_does_not_fit_its_data_type_is_refused(
    datatype: str, contents: pb.InferTensorContents
) -> None:
    with pytest.raises(InvalidInput, match=f"holds a value that is no {datatype}"):
        typed_contents("m", FLOATS, datatype, contents, 1)


def test_no_data_at_all_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^unable to find data for input tensor 'input' for model 'm' in request"):
        typed_contents("m", FLOATS, "FP32", pb.InferTensorContents(), 4)


def test_data_in_the_field_of_another_type_is_no_data() -> None:
    with pytest.raises(InvalidInput, match="expected 4 elements in fp32_contents or raw_input_contents"):
        typed_contents("m", FLOATS, "FP32", pb.InferTensorContents(fp64_contents=[1, 2, 3, 4]), 4)


@pytest.mark.parametrize(("came", "size"), [(3, 12), (5, 20)])
def test_another_number_of_typed_values_is_refused(came: int, size: int) -> None:
    contents = pb.InferTensorContents(fp32_contents=[0.0] * came)
    with pytest.raises(InvalidInput, match=rf"Expected 16, got {size} \(4 elements expected in fp32_contents, {came} "):
        typed_contents("m", FLOATS, "FP32", contents, 4)


def test_a_tensor_without_elements_needs_no_data() -> None:
    assert typed_contents("m", FLOATS, "FP32", pb.InferTensorContents(), 0) == b""


# Sizes that nobody can have


@pytest.mark.parametrize(
    "shape", [(1, 2**63 - 1, 0), (1, 0, 2**63 - 1), (1, 2**32, 2**32, 0), (1, 0, 2**24 + 1)], ids=str
)
def test_axes_beside_one_of_size_zero_are_no_larger_than_others(shape: tuple[int, ...]) -> None:
    signature = plain((spec("input", "FP32", *[None] * (len(shape) - 1)),))
    text = refusal(signature, ("input", "FP32", shape))
    assert text.endswith("without its axes of size 0 it may have 16777216 elements")


def test_a_tensor_may_have_no_elements() -> None:
    layout = check(plain((spec("input", "FP32", None, None),)), ("input", "FP32", (3, 0, 4096)))
    assert (layout.count, layout.nbytes) == ((0,), (0,))


@pytest.mark.parametrize("axes", [65, 10_000])
def test_a_tensor_with_more_axes_than_an_array_can_have_is_refused(axes: int) -> None:
    unranked = plain((replace(spec("input", "FP32"), ranked=False),))
    text = refusal(unranked, ("input", "FP32", (2**62,) * axes))
    assert text == f"input 'input' for model 'm' has {axes} axes; a tensor has at most 64"


@pytest.mark.parametrize("shape", [(1, 2**64 - 1), (2, 2**62, 2**62)], ids=str)
def test_a_product_that_no_number_of_a_machine_holds_is_a_wrong_size(shape: tuple[int, ...]) -> None:
    signature = plain((spec("input", "FP32", *[None] * (len(shape) - 1)),))
    (nbytes,) = check(signature, ("input", "FP32", shape)).nbytes
    with pytest.raises(InvalidInput, match=rf"^input byte size mismatch .* Expected {nbytes}, got 4$"):
        check_bytes("m", signature.inputs[0], nbytes, nbytes // 4, bytes(4))


ANY_TEXT = plain((spec("text", "BYTES", None),), (spec("echo", "BYTES", None),))


def test_more_strings_than_are_taken_are_refused_before_they_are_taken_apart() -> None:
    text = refusal(ANY_TEXT, ("text", "BYTES", (1, MOST_STRINGS + 1)))
    assert text == ("a request for model 'm' may have 262144 strings, got 262145; send fewer rows in one request")
    assert check(ANY_TEXT, ("text", "BYTES", (1, MOST_STRINGS))).count == (MOST_STRINGS,)


def test_many_strings_take_long() -> None:
    layouts = Layouts("m", ANY_TEXT, LIMIT)
    few, many = ("text", "BYTES", (1, BRIEF_STRINGS)), ("text", "BYTES", (1, BRIEF_STRINGS + 1))
    assert layouts.check((few,), brief=True).count == (BRIEF_STRINGS,)
    for _ in range(2):
        with pytest.raises(TakesLong):
            layouts.check((many,), brief=True)
        assert layouts.check((many,)).count == (BRIEF_STRINGS + 1,)


@pytest.mark.parametrize(
    ("datatype", "field"), [("BOOL", "bool_contents"), ("FP32", "fp32_contents"), ("FP64", "fp64_contents"), ("INT64", "int64_contents"), ("UINT8", "uint_contents")]
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 100, 40_000])
def test_typed_elements_are_those_of_the_array(datatype: str, field: str, count: int) -> None:
    values = np.arange(count) % 2 * np.arange(count) % 200
    sent = pb.InferTensorContents(**{field: values.astype(DTYPES[datatype]).tolist()})
    data = typed_contents("m", FLOATS, datatype, sent, count)
    assert data == values.astype(DTYPES[datatype]).tobytes()
    # Another field too: it is left alone.
    sent.int_contents.append(1)
    assert typed_contents("m", FLOATS, datatype, sent, count) == data
