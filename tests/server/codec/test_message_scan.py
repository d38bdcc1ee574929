"""The message scan: it takes what protobuf takes, and counts what protobuf would make objects of."""

import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2
from frostline.protocol import varint
from frostline_server.codec import message_scan
from frostline_server.codec.codec import parse
from frostline_server.codec.message_scan import MOST_FIELDS, MOST_NUMBERS, TakesLong, check
from frostline_server.errors import InvalidInput

INFER = pb.ModelInferRequest.DESCRIPTOR


def full_request() -> pb.ModelInferRequest:
    """A request with something in every field."""
    number = pb.InferParameter(int64_param=-7)
    inputs: list[Any] = [
        {"name": "a", "datatype": "INT64", "shape": [1, 300, -1], "parameters": {"size": number}},
        {
            "name": "b",
            "contents": {"int64_contents": [1, 300, -1], "fp32_contents": [1, 2], "bytes_contents": [b"", b"x"]},
        },
    ]
    return pb.ModelInferRequest(
        model_name="m" * 200, id="7", parameters={"p": number}, inputs=inputs, outputs=[{"name": "o"}], raw_input_contents=[b"", b"y" * 300]
    )  # fmt: skip


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def contents(content: bytes) -> bytes:
    """A request whose one input has this as its typed contents."""
    return field(5, field(5, content))


def refusal(payload: bytes, message: Any = INFER) -> str:
    with pytest.raises(InvalidInput) as caught:
        check(message, payload)
    return str(caught.value)


def parsed(payload: bytes) -> bool:
    try:
        pb.ModelInferRequest.FromString(payload)
    except DecodeError:
        return False
    return True


def test_a_request_with_everything_is_taken() -> None:
    assert check(INFER, full_request().SerializeToString(), brief=True)


@pytest.mark.parametrize("seed", range(20))
def test_what_protobuf_takes_the_scan_takes(seed: int) -> None:
    chosen, whole, taken = random.Random(seed), full_request().SerializeToString(), 0
    for _ in range(500):
        damaged = bytearray(whole)
        # Not to a wire type of 3 or 4: groups are not taken.
        damaged[chosen.randrange(len(damaged))] = chosen.choice((0, 1, 2, 8, 10, 42, 58, 127, 128, 255))
        payload = bytes(damaged)
        if parsed(payload):
            taken += 1
            assert check(INFER, payload), payload
    assert taken > 20


def test_what_is_cut_off_is_none() -> None:
    whole = contents(pb.InferTensorContents(bytes_contents=[b"abc"] * 3).SerializeToString())
    assert [size for size in range(len(whole)) if check(INFER, whole[:size])] == [0]


@pytest.mark.parametrize(
    "payload", [b"\x0b\x0c", b"\x2a", b"\x2a\x80", b"\x80" * 11 + b"\x01", b"\x0d\0", b"\x0f"], ids=bytes.hex
)
def test_what_is_no_message_is_none(payload: bytes) -> None:
    assert not check(INFER, payload)


ENTRY = field(1, b"a") + field(2, b"")
MANY = {
    "inputs": b"\x2a\x00",
    "outputs": b"\x32\x00",
    "raw contents": b"\x3a\x00",
    "parameters": field(4, ENTRY),
    "parameters of an input": field(5, field(4, ENTRY)),
    "parameters of an output": field(6, field(2, ENTRY)),
    "names": b"\x0a\x00",
    "axes with a tag each": field(5, b"\x18\x01" * 100),
    "axes": field(5, field(3, b"\x01" * 100)),
    "typed contents": contents(b""),
    "values of one parameter": field(4, field(2, b"\x08\x01" * 100)),
    "unknown fields": b"\x78\x01",
    "unknown fields of an input": field(5, b"\x78\x01" * 100),
}


@pytest.mark.parametrize("name", MANY)
def test_more_fields_than_are_taken_are_refused(name: str) -> None:
    payload = MANY[name] * (MOST_FIELDS + 1)
    text = refusal(payload)
    assert text.startswith(f"the message has more than {MOST_FIELDS} fields")
    assert text.endswith("send several requests with fewer")
    with pytest.raises(InvalidInput):
        parse(pb.ModelInferRequest, payload + b"\x2a\x00")


def test_a_network_of_two_thousand_inputs_can_be_asked() -> None:
    tensors = [{"name": f"column {number}", "datatype": "FP32", "shape": [1, 1]} for number in range(2000)]
    request = pb.ModelInferRequest(model_name="m", inputs=tensors, raw_input_contents=[b"1234"] * 2000)
    assert check(INFER, request.SerializeToString())


def test_many_fields_are_counted_elsewhere() -> None:
    few, many = field(5, b"") * message_scan.BRIEF_FIELDS, field(5, b"") * (message_scan.BRIEF_FIELDS + 1)
    assert check(INFER, few, brief=True)
    assert check(INFER, many)
    with pytest.raises(TakesLong):
        check(INFER, many, brief=True)
    with pytest.raises(TakesLong):
        check(INFER, field(5, field(3, b"\x01" * (message_scan.BRIEF_FIELDS + 1))), brief=True)


def test_a_length_of_more_than_64_bits_is_read_as_protobuf_reads_it() -> None:
    payload = b"\x0a" + b"\x80" * 9 + b"\x02"
    assert pb.ModelInferRequest.FromString(payload) == pb.ModelInferRequest()
    assert check(INFER, payload)


def test_shapes_count_whole() -> None:
    assert check(INFER, field(5, field(3, b"\x81\x01" * (MOST_FIELDS - 3))))
    assert "'shape'" in refusal(field(5, field(3, b"\x01" * MOST_FIELDS)))


def strings(count: int, text: bytes = b"") -> bytes:
    return contents(field(8, text) * count)


@pytest.mark.parametrize("text", [b"", b"a", b"x" * 127, b"y" * 128, b"z" * 300], ids=len)
def test_strings_are_counted(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_scan, "MOST_STRINGS", 10_000)
    assert check(INFER, strings(10_000, text))
    assert "more than 10000 elements in fields of their own; send several requests" in refusal(strings(10_001, text))


def test_strings_are_decoded_elsewhere_when_they_are_many() -> None:
    few, many = strings(message_scan.BRIEF_STRINGS), strings(message_scan.BRIEF_STRINGS + 1)
    assert check(INFER, few, brief=True)
    assert check(INFER, many)
    with pytest.raises(TakesLong):
        check(INFER, many, brief=True)


def test_a_string_may_contain_what_looks_like_others() -> None:
    assert check(INFER, contents(field(8, field(8, b"") * 2000) * 3), brief=True)


@pytest.mark.parametrize("number", [b"\x01", b"\xff\x01", b"\xff" * 9 + b"\x01"], ids=len)
def test_integers_are_counted_however_long_they_are(number: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_scan, "MOST_NUMBERS", 50_000)
    assert check(INFER, contents(field(3, number * 50_000)))
    assert "more than 50000 integers in typed contents; send them in raw_input_contents" in refusal(
        contents(field(3, number * 50_001))
    )


def test_integers_are_decoded_elsewhere_when_they_are_many() -> None:
    few, many = b"\x01" * message_scan.BRIEF_NUMBERS, b"\x01" * (message_scan.BRIEF_NUMBERS + 1)
    assert check(INFER, contents(field(3, few)), brief=True)
    assert check(INFER, contents(field(3, many)))
    with pytest.raises(TakesLong):
        check(INFER, contents(field(3, many)), brief=True)


def test_floats_are_as_many_as_a_message_can_hold() -> None:
    many = contents(field(6, bytes(4 * 2 * MOST_NUMBERS)))
    assert check(INFER, many)
    with pytest.raises(TakesLong):
        check(INFER, many, brief=True)
    assert check(INFER, contents(field(6, bytes(message_scan.BRIEF_BYTES))), brief=True)


def test_numbers_with_a_tag_each_count_as_fields_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_scan, "MOST_STRINGS", 1000)
    for element in (b"\x18\x05", b"\x35\0\0\0\0", b"\x39" + bytes(8)):
        assert "more than 1000 elements" in refusal(contents(element * 1001))


def test_a_name_of_a_megabyte_is_none() -> None:
    text = refusal(field(1, b"m" * ((1 << 20) + 1)))
    assert text == "the message has a model_name of 1048577 bytes; a name, an id or a text may have 1048576"
    assert check(INFER, field(7, bytes(1 << 22)))


def test_messages_of_other_methods_are_counted_by_their_own_fields() -> None:
    load = pb.RepositoryModelLoadRequest.DESCRIPTOR
    assert "'parameters'" in refusal(field(3, b"") * (MOST_FIELDS + 1), load)
    trace = pb.TraceSettingRequest.DESCRIPTOR
    value = field(1, field(2, field(1, b"") * MOST_FIELDS))
    assert "'value'" in refusal(value, trace)
    predict = predictor_pb2.PredictRequest.DESCRIPTOR
    assert "'outputs'" in refusal(field(4, b"\x01" * (MOST_FIELDS + 1)), predict)
    assert "'inputs'" in refusal(field(3, b"") * (MOST_FIELDS + 1), predict)


def test_a_small_message_is_parsed_without_a_look() -> None:
    assert len(parse(pb.ModelInferRequest, b"\x2a\x00" * 100).inputs) == 100


def test_a_large_damaged_message_is_called_what_it_is() -> None:
    with pytest.raises(InvalidInput, match=r"not a valid inference.ModelInferRequest: .* 20001 bytes"):
        parse(pb.ModelInferRequest, b"\x3a\xff\xff\x7f" + bytes(19_997))
