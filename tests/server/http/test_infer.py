"""Bodies of infer requests to the messages of gRPC, and answers to bodies: bytes in, bytes out."""

import json
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.protocol import pack_bytes
from frostline_server.codec.chunks import CHUNK_BYTES, Chunks
from frostline_server.codec.codec import Codec
from frostline_server.codec.tensors import strings_array
from frostline_server.http import infer
from frostline_server.http.infer import Form, Headers, answer_of, header_of, message_of, split
from frostline_server.http.statuses import Failure
from frostline_server.runtime.dtypes import DTYPES
from tests.support.signatures import CLASSIFIER


def body(**fields: Any) -> bytes:
    """A request for one row of two numbers, with other fields."""
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return json.dumps({"inputs": [tensor | fields.pop("tensor", {})], **fields}).encode()


def read(text: bytes, behind: bytes = b"") -> pb.ModelInferRequest:
    """The message of a body."""
    return pb.ModelInferRequest.FromString(message_of(header_of("m", "3", text), memoryview(behind)))


def refusal(text: bytes, behind: bytes = b"") -> str:
    """Why a body is refused."""
    with pytest.raises(Failure) as refused:
        read(text, behind)
    assert refused.value.status == 400
    assert refused.value.kind == "invalid_input"
    return refused.value.sentence


def test_a_request_in_json_is_the_message_of_grpc() -> None:
    text = body(
        id="7",
        parameters={"priority": 1, "s": "t", "b": True, "f": 0.5, "u": 2**64 - 1},
        outputs=[{"name": "y", "parameters": {"classification": 2}}],
    )
    wanted = pb.ModelInferRequest(
        model_name="m",
        model_version="3",
        id="7",
        parameters={
            "priority": pb.InferParameter(int64_param=1),
            "s": pb.InferParameter(string_param="t"),
            "b": pb.InferParameter(bool_param=True),
            "f": pb.InferParameter(double_param=0.5),
            "u": pb.InferParameter(uint64_param=2**64 - 1),
        },
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
        outputs=[{"name": "y", "parameters": {"classification": {"int64_param": 2}}}],
        raw_input_contents=[np.array([1, 2], np.float32).tobytes()],
    )
    assert read(text) == wanted


def test_null_is_as_if_a_field_was_not_there() -> None:
    nothing = {"id": None, "parameters": None, "outputs": None, "model_name": None, "model_version": None}
    assert read(body(tensor={"parameters": None}, **nothing)) == read(body())
    assert read(body(outputs=[{"name": "y", "parameters": None}])) == read(body(outputs=[{"name": "y"}]))


def test_the_model_may_be_named_again_but_not_another_one() -> None:
    assert read(body(model_name="m", model_version="3")) == read(body())
    assert refusal(body(model_name="n")) == "model_name is 'n', and the path says 'm'; leave it out, or say the same"
    assert "model_version is '4', and the path says '3'" in refusal(body(model_version="4"))


def test_tensors_behind_the_json_keep_their_places_among_others() -> None:
    inputs = [
        {"name": "a", "shape": [2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}},
        {"name": "b", "shape": [1], "datatype": "UINT8", "data": [7]},
        {"name": "c", "shape": [1], "datatype": "UINT8", "parameters": {"shared_memory_region": "r"}},
        {"name": "d", "shape": [3], "datatype": "UINT8", "parameters": {"binary_data_size": 3}},
    ]
    message = read(json.dumps({"inputs": inputs}).encode(), b"ABcde")
    assert list(message.raw_input_contents) == [b"AB", b"\x07", b"cde"]
    assert [dict(tensor.parameters) for tensor in message.inputs[:2]] == [{}, {}]
    assert message.inputs[2].parameters["shared_memory_region"].string_param == "r"


def test_a_tensor_of_no_bytes_is_one_of_the_message() -> None:
    text = body(tensor={"shape": [0, 2], "data": None, "parameters": {"binary_data_size": 0}})
    assert list(read(text).raw_input_contents) == [b""]


def test_infinity_may_be_a_literal_as_python_writes_it() -> None:
    text = body(tensor={"data": [float("inf"), float("nan")]})
    assert b"Infinity" in text
    infinity, nan = np.frombuffer(read(text).raw_input_contents[0], np.float32)
    assert np.isinf(infinity)
    assert np.isnan(nan)


@pytest.mark.parametrize("datatype", ["FP16", "FP32"])
def test_a_decimal_near_the_middle_of_two_floats_becomes_the_nearer_one(datatype: str) -> None:
    dtype: type[Any] = DTYPES[datatype].type
    least, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    lower = np.array([1, 1.25, -1.5, 0.1, 1000, 0, least, -least, np.nextafter(most, dtype(0))], dtype)
    upper = np.nextafter(lower, dtype(np.inf))
    even = np.where(lower.view(f"u{lower.itemsize}") & 1, upper, lower)
    with localcontext(prec=200):
        middle = [(Decimal(a) + Decimal(b)) / 2 for a, b in zip(lower.tolist(), upper.tolist(), strict=True)]
        less, more = ([each + side * abs(each) for each in middle] for side in (Decimal("-1e-30"), Decimal("1e-30")))
        # Just below the middle between the largest and what would follow it, which would be infinity.
        last = Decimal(float(most)) + Decimal(float(most - lower[-1])) / 2
        decimals = [Decimal("0.3"), *less, *middle, *more, last * (1 - Decimal("1e-30"))]
    tensor = {"shape": [len(decimals) + 1], "datatype": datatype, "data": "here"}
    text = body(tensor=tensor).replace(b'"here"', f'["NaN",{",".join(f"{each:e}" for each in decimals)}]'.encode())
    found = np.frombuffer(read(text).raw_input_contents[0], dtype)[1:]
    np.testing.assert_array_equal(found, [dtype(0.3), *lower, *even, *upper, most])


def test_decimals_are_read_exactly_in_every_input_of_a_request() -> None:
    above = "1.00000005960464477539062500001"  # the middle of two floats, and a little
    assert np.float32(float(above)) == 1
    inputs = [
        {"name": name, "shape": shape, "datatype": "FP32", "data": "here"} for name, shape in (("a", []), ("b", [1, 2]))
    ]
    text = json.dumps({"inputs": inputs}).encode()
    text = text.replace(b'"here"', above.encode(), 1).replace(b'"here"', f"[[0.5,{above}]]".encode())
    first, second = (np.frombuffer(raw, np.float32).tolist() for raw in read(text).raw_input_contents)
    assert first == [np.nextafter(np.float32(1), np.float32(2))]
    assert second == [0.5, *first]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "the body is no JSON: EOF"),
        (b"\xff", "the body is no JSON"),
        (b"{} {}", "the body is no JSON: trailing characters"),
        (b"[" * 100_000, "the body is no JSON: recursion limit exceeded"),
        (body().replace(b'"data"', b'"data": [3, 4], "data"'), "an object has the field 'data' twice; say it once"),
        (b"[]", "the body: a JSON object is expected"),
        (b"{}", "inputs: it is missing"),
        (b'{"inputs": {}}', "inputs: a list is expected"),
        (b'{"inputs": [7]}', "inputs[0]: a JSON object is expected, got 7"),
        (body(id=7), "id: a text is expected, got 7"),
        (body(colour=1), "colour: there is no such field, got 1"),
        (body(tensor={"colour": 1}), "inputs[0].colour: there is no such field, got 1"),
        (body(tensor={"shape": [1.5]}), "inputs[0].shape[0]: a whole number is expected, got 1.5"),
        (body(tensor={"shape": [-1]}), "inputs[0].shape[0]: input should be greater than or equal to 0, got -1"),
        (body(parameters={"p": None}), "parameters.p: a truth value, a number or a text is expected, got null"),
        (body(parameters={"p": 2**64}), "parameter 'p' is 18446744073709551616; it may be a truth value"),
        (body(tensor={"parameters": {"p": []}}), "inputs[0].parameters.p: a truth value, a number or a text"),
        (body(tensor={"data": None}), "input 'x' has no data; send `data`, or `binary_data_size`"),
        (body(tensor={"parameters": {"binary_data_size": 8}}), "input 'x' has both data and binary_data_size"),
        (body(tensor={"data": None, "parameters": {"binary_data_size": -1}}), "binary_data_size of input 'x' is -1"),
        (
            body(tensor={"data": None, "parameters": {"binary_data_size": True}}),
            "binary_data_size of input 'x' is True",
        ),
        (
            body(tensor={"data": None, "parameters": {"binary_data_size": 8}}),
            "0 bytes follow the JSON, and its inputs say",
        ),
        (
            body(outputs=[{"name": "y", "parameters": {"binary_data": 1}}]),
            "the parameter binary_data of output 'y' is 1; true or false is expected",
        ),
        (body(parameters={"binary_data_output": "yes"}), "binary_data_output of the request is 'yes'"),
    ],
)
def test_what_is_no_request_is_refused_with_its_place(text: bytes, sentence: str) -> None:
    assert sentence in refusal(text)


def test_bytes_that_no_input_has_are_refused() -> None:
    assert refusal(body(), b"x") == "1 bytes follow the JSON, and its inputs say binary_data_size 0 together"


def test_the_header_says_where_the_json_ends() -> None:
    text, behind = split(b"{}abc", "2")
    assert (text, bytes(behind)) == (b"{}", b"abc")
    text, behind = split(b"{}", None)
    assert (text, bytes(behind)) == (b"{}", b"")


@pytest.mark.parametrize("length", ["6", "-1", "", "+2", "2 ", "²", "9" * 5000])
def test_a_header_that_is_no_length_of_a_part_of_the_body_is_refused(length: str) -> None:
    with pytest.raises(Failure, match="and the body has 5 bytes"):
        split(b"{}abc", length)


def test_what_short_json_became_is_remembered_for_its_own_model_and_version() -> None:
    headers = Headers()
    first = headers.read("m", "3", body())
    assert headers.read("m", "3", body()) is first
    assert headers.read("m", "", body()).message != first.message
    assert headers.read("n", "3", body()).message != first.message
    long = body(id="x" * 5000)
    assert headers.read("m", "3", long) is not headers.read("m", "3", long)


def test_not_more_than_a_fixed_number_of_headers_are_remembered() -> None:
    headers = Headers()
    for number in range(1000):
        headers.read("m", "", body(id=str(number)))
    assert len(headers._known) <= infer._MOST_REMEMBERED


def response() -> pb.ModelInferResponse:
    """Two outputs: numbers, one of them infinite, and texts."""
    return pb.ModelInferResponse(
        model_name="m",
        model_version="3",
        id="7",
        parameters={"late": pb.InferParameter(double_param=float("nan"))},
        outputs=[
            {"name": "y", "datatype": "FP32", "shape": [1, 2]},
            {"name": "z", "datatype": "BYTES", "shape": [1]},
        ],
        raw_output_contents=[np.array([0.1, -np.inf], np.float32).tobytes(), pack_bytes(["zoë"])],
    )


def told(message: pb.ModelInferResponse, form: Form) -> tuple[bytes, int | None]:
    """The whole body of an answer, and how much of it is JSON."""
    pieces, length = answer_of(message.SerializeToString(), form)
    return b"".join(pieces), length


def test_an_answer_in_json() -> None:
    text, length = told(response(), Form())
    assert length is None
    assert json.loads(text, parse_constant=pytest.fail) == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "parameters": {"late": "NaN"},
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.1, "-Infinity"]},
            {"name": "z", "datatype": "BYTES", "shape": [1], "data": ["zoë"]},
        ],
    }


@pytest.mark.parametrize("form", [Form(binary=True), Form(outputs={"y": True, "z": True})])
def test_an_answer_behind_its_json(form: Form) -> None:
    text, length = told(response(), form)
    assert length is not None
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(text[:length])["outputs"]]
    assert sizes == [8, 8]
    assert text[length:] == b"".join(response().raw_output_contents)


def test_of_one_answer_some_outputs_are_behind_the_json() -> None:
    text, length = told(response(), Form(binary=True, outputs={"y": False}))
    assert length is not None
    first, second = json.loads(text[:length])["outputs"]
    assert first["data"] == [0.1, "-Infinity"]
    assert "data" not in second
    assert text[length:] == response().raw_output_contents[1]


def test_an_output_in_shared_memory_has_no_elements() -> None:
    message = response()
    message.outputs[0].parameters["shared_memory_region"].string_param = "r"
    message.raw_output_contents[0] = b""
    text, _ = told(message, Form())
    first = json.loads(text)["outputs"][0]
    assert first == {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"shared_memory_region": "r"}}


def test_what_is_behind_the_json_is_not_copied() -> None:
    message = response().SerializeToString()
    (_, *behind), _ = answer_of(message, Form(binary=True))
    assert [piece.obj is message for piece in behind if isinstance(piece, memoryview)] == [True, True]


@pytest.mark.parametrize("form", [Form(binary=True), Form(), Form(outputs={"y": True, "z": False})])
def test_an_answer_in_chunks_is_told_as_the_whole(form: Form) -> None:
    message = response().SerializeToString()
    raw = response().raw_output_contents[0]
    at = message.index(raw)
    chunked = Chunks([message[:at], raw[:3], raw[3:], message[at + len(raw) :]])
    pieces, length = answer_of(chunked, form)
    assert (b"".join(pieces), length) == told(response(), form)


@pytest.mark.parametrize("request_id", ["", "7"])
@pytest.mark.parametrize("form", [Form(binary=True), Form(), Form(outputs={"large": True, "text": False})])
def test_a_large_answer_is_told_as_one_that_protobuf_wrote(form: Form, request_id: str) -> None:
    large = np.arange(CHUNK_BYTES // 8 + 1, dtype=np.float64).reshape(1, -1)
    outputs = [large, strings_array(["zoë"]).reshape(1, 1)]
    chunked = Codec("m", "3", CLASSIFIER, 8, None).encode_infer(("large", "text"), outputs, request_id)
    assert isinstance(chunked, Chunks)
    written = pb.ModelInferResponse.FromString(bytes(chunked))
    assert (written.id, [len(raw) for raw in written.raw_output_contents]) == (request_id, [large.nbytes, 8])
    pieces, length = answer_of(chunked, form)
    assert (b"".join(pieces), length) == told(written, form)


@pytest.mark.parametrize("count", [infer._SLICE - 1, infer._SLICE, infer._SLICE + 1, 3 * infer._SLICE])
def test_long_outputs_in_json_are_whole(count: int) -> None:
    values = np.arange(count, dtype=np.float64) / 7
    values[-1] = np.nan
    message = response()
    message.outputs[0].CopyFrom(pb.ModelInferResponse.InferOutputTensor(name="y", datatype="FP64", shape=[count]))
    message.raw_output_contents[0] = values.tobytes()
    text, _ = told(message, Form())
    assert json.loads(text)["outputs"][0]["data"] == [*values[:-1].tolist(), "NaN"]


def test_an_output_without_elements_is_an_empty_list() -> None:
    message = response()
    message.outputs[0].shape[:] = [1, 0]
    message.raw_output_contents[0] = b""
    text, _ = told(message, Form())
    assert json.loads(text)["outputs"][0]["data"] == []
