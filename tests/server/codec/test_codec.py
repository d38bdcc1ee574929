"""Both APIs in and both APIs out, against what protobuf's own classes read."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.protocol import pack_bytes
from frostline_server.codec import codec as codec_module
from frostline_server.codec.codec import Codec, DecodedRequest, parse
from frostline_server.codec.tensors import strings_array
from frostline_server.codec.typed_answers import Readings, Task
from frostline_server.errors import InvalidInput, PredictionError, Unsupported
from frostline_server.runtime.dtypes import DTYPES
from frostline_server.runtime.signature import Signature
from tests.support.signatures import CLASSIFIER, NOWHERE, PAIR, TEXT, WHOLE, classifier, plain, spec

Array = np.ndarray[Any, Any]

LABELS = ["ant", "bee", "cat"]
LOGITS = np.array([[1, 3, 2], [5, 5, -1]], np.float32)
SOFTMAX = np.array([[0.1, 0.6, 0.3], [0.45, 0.45, 0.1]], np.float32)
ARGMAX = np.array([1, 0])


def codec_of(signature: Signature = CLASSIFIER, labels: Sequence[str] | None = LABELS) -> Codec:
    return Codec("m", "3", signature, 8, labels)


def infer_request(*arrays: Array, names: Sequence[str] = ("input",), outputs: Sequence[str] = ()) -> Any:
    """A request with these arrays, raw."""
    request = pb.ModelInferRequest(model_name="m", outputs=[{"name": name} for name in outputs])
    for name, array in zip(names, arrays, strict=True):
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(raw(array))
    return request


def typed_request(array: Array, field: str, values: Sequence[Any]) -> Any:
    """A request for a network with one input, in a typed field."""
    request = infer_request(array)
    del request.raw_input_contents[:]
    getattr(request.inputs[0].contents, field).extend(values)
    return request


def datatype_of(array: Array) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype)


def raw(array: Array) -> bytes:
    return pack_bytes(array.ravel()) if array.dtype.hasobject else array.tobytes()


def refused(request: Any, error: type[PredictionError] = InvalidInput, signature: Signature = CLASSIFIER) -> str:
    with pytest.raises(error) as caught:
        codec_of(signature).decode_infer(request, NOWHERE)
    return str(caught.value)


def floats(rows: DecodedRequest) -> list[Array]:
    """A decoded request's elements as the batcher reads them."""
    return [
        data if isinstance(data, np.ndarray) else np.frombuffer(data, wire)
        for data, wire in zip(rows.data, rows.kind.wire, strict=True)
    ]


ROW = np.array([[1, 2, 3, 4]], np.float32)


# Parsing


@pytest.mark.parametrize("message", [pb.ModelInferRequest, typed.PredictRequest])
def test_bytes_that_are_no_message_are_refused_with_their_length(message: Any) -> None:
    with pytest.raises(InvalidInput, match=rf"^the message is not a valid {message.DESCRIPTOR.full_name}: .*\(3 bytes"):
        parse(message, b"\xff\xff\xff")


@given(st.binary(max_size=200), st.sampled_from([pb.ModelInferRequest, typed.PredictRequest]))
def test_any_bytes_either_parse_or_are_refused(payload: bytes, message: Any) -> None:
    try:
        parsed = parse(message, payload)
    except PredictionError:
        return
    assert isinstance(parsed, message)


names = st.sampled_from(["input", "left", "right", "text", "logits", "", "z"])
shapes = st.lists(st.sampled_from([0, 1, 2, 4]) | st.integers(-(2**63), 2**63 - 1), max_size=3)
contents = st.builds(
    pb.InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=4),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=4),
    int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    fp32_contents=st.lists(st.floats(width=32), max_size=4),
    bytes_contents=st.lists(st.binary(max_size=2), max_size=4),
)
infer_requests = st.builds(
    pb.ModelInferRequest,
    inputs=st.lists(
        st.builds(
            pb.ModelInferRequest.InferInputTensor,
            name=names,
            datatype=st.sampled_from([*DTYPES, "BF16", ""]),
            shape=shapes,
            contents=st.none() | contents,
        ),
        max_size=3,
    ),
    outputs=st.lists(st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=names), max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=16), max_size=3),
)
predict_requests = st.builds(
    typed.PredictRequest,
    inputs=st.lists(
        st.builds(typed.Tensor, name=names, dtype=st.integers(0, 15), shape=shapes, data=st.binary(max_size=16)),
        max_size=3,
    ),
    outputs=st.lists(st.integers(0, 5), max_size=3),
    top_k=st.integers(0, 2**32 - 1),
)


@given(infer_requests, predict_requests, st.sampled_from([CLASSIFIER, PAIR, TEXT, WHOLE]))
def test_any_message_is_either_decoded_or_refused_with_a_prediction_error(
    infer: pb.ModelInferRequest, predict: typed.PredictRequest, signature: Signature
) -> None:
    codec = codec_of(signature)
    attempts: list[Callable[[], DecodedRequest]] = [
        lambda: codec.decode_infer(infer, NOWHERE),
        lambda: codec.decode_predict(predict),
    ]
    for decode in attempts:
        try:
            rows = decode()
        except PredictionError:
            continue
        assert len(rows.data) == len(signature.inputs)


# Open Inference Protocol in


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BYTES"}))
def test_every_data_type_is_read_from_raw_contents(datatype: str) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(DTYPES[datatype])
    rows = codec_of(classifier(spec("input", datatype, 2))).decode_infer(infer_request(array), NOWHERE)
    assert rows.rows == 3
    np.testing.assert_array_equal(floats(rows)[0].reshape(3, 2), array)


@pytest.mark.parametrize(
    ("datatype", "field"),
    [
        ("BOOL", "bool_contents"),
        ("INT8", "int_contents"),
        ("INT16", "int_contents"),
        ("INT32", "int_contents"),
        ("INT64", "int64_contents"),
        ("UINT8", "uint_contents"),
        ("UINT16", "uint_contents"),
        ("UINT32", "uint_contents"),
        ("UINT64", "uint64_contents"),
        ("FP32", "fp32_contents"),
        ("FP64", "fp64_contents"),
    ],
)
def test_every_data_type_that_has_one_is_read_from_its_typed_field(datatype: str, field: str) -> None:
    array = np.array([[0, 1], [1, 1]]).astype(DTYPES[datatype])
    request = typed_request(array, field, array.ravel().tolist())
    rows = codec_of(classifier(spec("input", datatype, 2))).decode_infer(request, NOWHERE)
    np.testing.assert_array_equal(floats(rows)[0].reshape(2, 2), array)


def test_strings_are_read_raw_and_typed() -> None:
    array = strings_array(["a", "é", "", "dd"]).reshape(2, 2)
    codec = codec_of(TEXT)
    by_raw = codec.decode_infer(infer_request(array, names=["text"]), NOWHERE)
    request = typed_request(array, "bytes_contents", [text.encode() for text in array.ravel()])
    request.inputs[0].name = "text"
    assert (
        floats(by_raw)[0].tolist() == floats(codec.decode_infer(request, NOWHERE))[0].tolist() == ["a", "é", "", "dd"]
    )


def test_damaged_strings_are_refused() -> None:
    request = infer_request(strings_array(["a", "b"]).reshape(1, 2), names=["text"])
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
    assert refused(request, signature=TEXT).startswith("input byte size mismatch for input 'text' for model 'm'")


@pytest.mark.parametrize("wire", [np.uint8, np.int8, np.float16])
def test_narrower_raw_rows_are_taken_for_a_float_input(wire: Any) -> None:
    rows = codec_of().decode_infer(infer_request(ROW.astype(wire)), NOWHERE)
    assert (rows.kind.wire, rows.kind.cast) == ((np.dtype(wire),), (np.dtype(np.float32),))
    assert floats(rows)[0].tolist() == [1, 2, 3, 4]


def test_narrower_typed_rows_are_taken_for_a_float_input() -> None:
    request = typed_request(ROW.astype(np.uint8), "uint_contents", [1, 2, 3, 4])
    assert floats(codec_of().decode_infer(request, NOWHERE))[0].tolist() == [1, 2, 3, 4]


def test_brain_floats_are_refused() -> None:
    request = infer_request(ROW)
    request.inputs[0].datatype = "BF16"
    assert refused(request).startswith("inference input 'input' data-type is 'BF16', but model 'm' expects 'FP32'")


def test_half_precision_cannot_come_typed() -> None:
    request = typed_request(ROW.astype(np.float16), "fp32_contents", [1, 2, 3, 4])
    assert refused(request, Unsupported).startswith("FP16 has no typed contents field")


def test_inputs_in_another_order_find_their_own_raw_contents() -> None:
    left, right = np.arange(8, dtype=np.float32).reshape(2, 4), np.array([[8, 9], [10, 11]])
    rows = codec_of(PAIR).decode_infer(infer_request(right, left, names=["right", "left"]), NOWHERE)
    assert [array.tolist() for array in floats(rows)] == [list(range(8)), [8, 9, 10, 11]]


def test_a_network_without_a_batch_axis_takes_a_whole_tensor() -> None:
    rows = codec_of(WHOLE).decode_infer(infer_request(np.ones((4, 2), np.float32)), NOWHERE)
    assert (rows.rows, rows.kind.shapes) == (1, ((4, 2),))


def test_without_named_outputs_the_files_own_are_computed() -> None:
    assert codec_of().decode_infer(infer_request(ROW), NOWHERE).wanted == ("logits",)
    text = infer_request(strings_array(["a", "b"]).reshape(1, 2), names=["text"])
    assert codec_of(TEXT).decode_infer(text, NOWHERE).wanted == ("echo", "size")


def test_named_outputs_are_computed_in_the_order_asked_and_equal_askings_share_one_tuple() -> None:
    codec = codec_of()
    one, two = (codec.decode_infer(infer_request(ROW, outputs=["argmax", "logits"]), NOWHERE).wanted for _ in range(2))
    assert one == ("argmax", "logits")
    assert one is two


@pytest.mark.parametrize(
    ("change", "beginning"),
    [
        (lambda r: r.inputs[0].shape.__setitem__(1, 3), "unexpected shape for input 'input' for model 'm'. Expected [-1,4]"),
        (lambda r: r.inputs[0].shape.__setitem__(0, -1), "unexpected shape for input 'input' for model 'm'. Expected [-1,4]"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 9), "inference request batch-size must be <= 8 for 'm'"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 0), "inference request batch-size must be >= 1 for 'm'"),
        (lambda r: r.inputs[0].ClearField("shape"), "input 'input' has no shape but model requires batch dimension"),
        (lambda r: setattr(r.inputs[0], "datatype", "INT32"), "inference input 'input' data-type is 'INT32', but model 'm' exp"),
        (lambda r: setattr(r.inputs[0], "name", "z"), "unexpected inference input 'z'"),
        (lambda r: r.inputs.append(r.inputs[0]), "input 'input' already exists in request"),
        (lambda r: r.ClearField("inputs"), "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing"),
        (lambda r: r.outputs.add(name="z"), "unexpected inference output 'z'"),
        (lambda r: r.outputs.extend([r.InferRequestedOutputTensor(name="logits")] * 2), "output 'logits' already exists"),
        (lambda r: r.raw_input_contents.__setitem__(0, bytes(12)), "input byte size mismatch for input 'input' for model 'm'. Expected 16, got 12"),
        (lambda r: r.ClearField("raw_input_contents"), "unable to find data for input tensor 'input'"),
        (lambda r: r.raw_input_contents.append(b""), "expected 1 raw_input_contents for model 'm', one for each input, got 2"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(1), "contents field must not be specified when using raw_input_contents"),
        (lambda r: r.inputs[0].contents.SetInParent(), "contents field must not be specified when using raw_input_contents"),
        (lambda r: r.parameters["triton_x"].SetInParent(), "parameter keys starting with 'triton_' are reserved"),
    ],
)  # fmt: skip
def test_a_request_that_does_not_fit_says_so_in_the_words_clients_know(change: Any, beginning: str) -> None:
    request = infer_request(ROW)
    change(request)
    assert refused(request).startswith(beginning)


def test_the_wrong_number_of_typed_values_is_refused_in_bytes() -> None:
    message = refused(typed_request(ROW, "fp32_contents", [1, 2, 3]))
    assert message.startswith("input byte size mismatch for input 'input' for model 'm'. Expected 16, got 12")


def test_parameters_that_are_hints_are_ignored() -> None:
    request = infer_request(ROW)
    for name in ("binary_data_output", "my_trace", "triton_enable_empty_final_response"):
        request.parameters[name].int64_param = 1
    request.inputs[0].parameters["binary_data_size"].int64_param = 16
    assert codec_of().decode_infer(request, NOWHERE) == codec_of().decode_infer(infer_request(ROW), NOWHERE)


def test_a_request_with_both_bad_shape_and_bad_parameters_is_refused_once() -> None:
    request = infer_request(np.zeros((1, 5), np.float32))
    request.parameters["sequence_id"].int64_param = 1
    assert refused(request).startswith("unexpected shape")


# Open Inference Protocol out


def infer_response(codec: Codec, wanted: tuple[str, ...], outputs: Sequence[Array], request_id: str = "") -> Any:
    return pb.ModelInferResponse.FromString(bytes(codec.encode_infer(wanted, outputs, request_id)))


def test_an_answer_reads_back_as_the_message_it_stands_for() -> None:
    response = infer_response(codec_of(), ("logits",), [LOGITS])
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("logits", "FP32", [2, 3])
    assert not output.HasField("contents")
    assert list(response.raw_output_contents) == [LOGITS.tobytes()]


@pytest.mark.parametrize("request_id", ["", "7", "é日本🦆", "x" * 127, "x" * 128, "x" * 20_000])
def test_the_clients_id_comes_back_whatever_it_is(request_id: str) -> None:
    response = infer_response(codec_of(), ("logits", "argmax"), [LOGITS, ARGMAX], request_id)
    assert response.id == request_id
    assert [output.name for output in response.outputs] == ["logits", "argmax"]
    assert list(response.raw_output_contents) == [LOGITS.tobytes(), ARGMAX.tobytes()]


def test_an_answer_is_byte_for_byte_what_protobuf_would_write_apart_from_field_order() -> None:
    expected = pb.ModelInferResponse(model_name="m", model_version="3", id="abc")
    expected.outputs.add(name="argmax", datatype="INT64", shape=[2])
    expected.raw_output_contents.append(ARGMAX.tobytes())
    got = bytes(codec_of().encode_infer(("argmax",), [ARGMAX], "abc"))
    assert len(got) == expected.ByteSize()
    assert pb.ModelInferResponse.FromString(got) == expected


@pytest.mark.parametrize("times", [1, 40_000])
@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BYTES"}))
def test_every_data_type_is_answered_raw(datatype: str, times: int) -> None:
    array = np.tile(np.array([[0, 1], [1, 0]]).astype(DTYPES[datatype]), times)
    response = infer_response(codec_of(), ("out",), [array])
    assert response.outputs[0].datatype == datatype
    assert response.raw_output_contents[0] == array.tobytes()


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16_383, 16_384, 3_000_000])
def test_answers_of_any_length_read_back(size: int) -> None:
    array = np.arange(size, dtype=np.uint8).reshape(1, size)
    response = infer_response(codec_of(), ("out", "again"), [array, array], "id")
    assert list(response.raw_output_contents) == [array.tobytes()] * 2


def test_a_large_answer_that_lies_in_pieces_is_put_together() -> None:
    array = np.arange(400 * 400, dtype=np.float32).reshape(400, 400).T
    assert not array.flags.c_contiguous
    response = infer_response(codec_of(), ("logits",), [array])
    assert response.raw_output_contents[0] == array.tobytes()


def test_rows_cut_out_of_a_batch_are_answered_with_their_own_elements() -> None:
    batch = np.arange(24, dtype=np.float32).reshape(8, 3)
    response = infer_response(codec_of(), ("logits",), [batch[2:4]])
    assert response.raw_output_contents[0] == batch[2:4].tobytes()


def test_strings_are_answered_with_their_lengths() -> None:
    texts = np.array([["a", "é"], ["", "x" * 300]], object)
    response = infer_response(codec_of(TEXT), ("echo", "size"), [texts, np.array([1, 2])], "id")
    assert [output.datatype for output in response.outputs] == ["BYTES", "INT64"]
    assert list(response.raw_output_contents) == [pack_bytes(texts.ravel()), np.array([1, 2]).tobytes()]


def test_answers_of_one_shape_share_their_head_and_not_their_elements() -> None:
    codec = codec_of()
    for number, request_id in ((1, "a"), (2, ""), (3, "c")):
        array = np.full((2, 3), number, np.float32)
        response = infer_response(codec, ("logits",), [array], request_id)
        assert (response.id, response.raw_output_contents[0]) == (request_id, array.tobytes())
    assert len(codec._answers) == 1


def test_the_memory_of_askings_and_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "_MAX_CACHED", 3)
    codec = codec_of()
    for rows in range(1, 10):
        infer_response(codec, ("logits",), [np.zeros((rows, 3), np.float32)])
        assert len(codec._answers) <= 3
    for outputs in (["logits"], ["softmax"], ["argmax"], ["logits", "argmax"], ["argmax", "logits"], []):
        wanted = codec.decode_infer(infer_request(ROW, outputs=outputs), NOWHERE).wanted
        assert wanted == (tuple(outputs) or ("logits",))
        assert len(codec._wanted) <= 4


@given(
    st.lists(st.sampled_from(sorted(DTYPES.keys() - {"BYTES"})), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(0, 4),
    st.text(max_size=10),
)
def test_any_answer_reads_back(datatypes: list[str], rows: int, width: int, request_id: str) -> None:
    arrays = [np.ones((rows, width), DTYPES[datatype]) for datatype in datatypes]
    names = tuple(f"out{index}" for index in range(len(arrays)))
    response = infer_response(codec_of(), names, arrays, request_id)
    assert response.id == request_id
    assert [output.datatype for output in response.outputs] == datatypes
    assert list(response.raw_output_contents) == [array.tobytes() for array in arrays]


# Typed API in


def predict_request(*arrays: Array, names: Sequence[str] = ("",), **fields: Any) -> typed.PredictRequest:
    request = typed.PredictRequest(model="m", **fields)
    for name, array in zip(names, arrays, strict=True):
        dtype = typed.DataType.Value(datatype_of(array))
        request.inputs.add(name=name, dtype=dtype, shape=array.shape, data=raw(array))
    return request


@pytest.mark.parametrize(
    ("outputs", "top_k", "wanted"),
    [
        ([], 0, ("logits", "softmax", "argmax")),
        ([], 2, ("softmax",)),
        (["ARGMAX"], 0, ("argmax",)),
        (["ARGMAX", "LOGITS", "ARGMAX"], 0, ("argmax", "logits")),
        (["LOGITS"], 1, ("logits", "softmax")),
        (["SOFTMAX"], 1, ("softmax",)),
    ],
)
def test_a_typed_request_computes_only_what_it_asks_for(
    outputs: list[str], top_k: int, wanted: tuple[str, ...]
) -> None:
    request = predict_request(ROW, outputs=outputs, top_k=top_k)
    assert codec_of().decode_predict(request).wanted == wanted


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int8])
def test_a_typed_request_brings_rows_of_any_type_the_input_takes(dtype: Any) -> None:
    rows = codec_of().decode_predict(predict_request(ROW.astype(dtype)))
    assert (rows.rows, floats(rows)[0].tolist()) == (1, [1, 2, 3, 4])


def test_strings_come_through_the_typed_api() -> None:
    codec = codec_of(classifier(spec("text", "BYTES", 2)))
    rows = codec.decode_predict(predict_request(strings_array(["a", "é"]).reshape(1, 2)))
    assert floats(rows)[0].tolist() == ["a", "é"]


def test_several_inputs_must_be_named() -> None:
    left, right = ROW, np.array([[1, 2]])
    codec = codec_of(PAIR)
    assert codec.decode_predict(predict_request(right, left, names=["right", "left"])).rows == 1
    told = r"unexpected inference input ''.*it takes \['left', 'right'\]; name each of several inputs .*send a dict of arrays"
    with pytest.raises(InvalidInput, match=told):
        codec.decode_predict(predict_request(left, right, names=["left", ""]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: setattr(r.inputs[0], "dtype", 0), "input '' for model 'm' has no dtype"),
        (lambda r: setattr(r.inputs[0], "dtype", 99), "input '' for model 'm' has no dtype"),
        (lambda r: setattr(r.inputs[0], "dtype", typed.FP64), "data-type is 'FP64'"),
        (lambda r: setattr(r.inputs[0], "data", b""), "input byte size mismatch for input 'input' for model 'm'. Expected 16, got 0"),
        (lambda r: setattr(r.inputs[0], "name", "z"), "unexpected inference input 'z'"),
        (lambda r: r.ClearField("inputs"), "expected 1 inputs but got 0 inputs"),
        (lambda r: r.outputs.append(0), "outputs must be LOGITS, SOFTMAX, ARGMAX, VALUES or STATES, got 0"),
        (lambda r: r.outputs.append(99), "outputs must be LOGITS, SOFTMAX, ARGMAX, VALUES or STATES, got 99"),
    ],
)  # fmt: skip
def test_a_typed_request_that_does_not_fit_is_refused(change: Any, message: str) -> None:
    request = predict_request(ROW)
    change(request)
    with pytest.raises(InvalidInput) as caught:
        codec_of().decode_predict(request)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: r.outputs.append(typed.LOGITS), "LOGITS"),
        (lambda r: r.outputs.extend([typed.VALUES, typed.SOFTMAX]), "SOFTMAX"),
        (lambda r: setattr(r, "top_k", 1), r"ranking of classes \(top_k\)"),
    ],
)
def test_a_network_that_chooses_no_class_has_no_reading_of_classes(change: Any, what: str) -> None:
    tensor = typed.Tensor(dtype=typed.BYTES, shape=[1, 2], data=pack_bytes([b"a", b"b"]))
    request = typed.PredictRequest(model="m", inputs=[tensor])
    change(request)
    with pytest.raises(
        Unsupported,
        match=rf"^model 'm' does not choose .*\(its task is 'any'\), so it has no {what}; ask for VALUES "
        r"\(in Python outputs=\['values'\]\), its outputs \['echo', 'size'\]$",
    ):
        codec_of(TEXT).decode_predict(request)


def test_a_network_that_chooses_no_class_answers_with_its_outputs_by_name() -> None:
    codec = Codec("m", "3", TEXT, 8, ["a", "b"], Task("multi-label", (0.25, 0.5)))
    tensor = typed.Tensor(dtype=typed.BYTES, shape=[1, 2], data=pack_bytes([b"a", b"b"]))
    for outputs in ([], [typed.VALUES]):
        request = typed.PredictRequest(model="m", inputs=[tensor], outputs=outputs)
        decoded = codec.decode_predict(request)
        assert decoded.wanted == ("echo", "size")
        assert isinstance(decoded.deliveries, Readings)
        echo, size = np.array([["x", "yz"]], object), np.array([[2.5]], np.float32)
        answer = typed.PredictResponse.FromString(
            codec.encode_predict(decoded.deliveries, decoded.wanted, [echo, size])
        )
        assert (answer.task, list(answer.names), list(answer.thresholds)) == ("multi-label", ["a", "b"], [0.25, 0.5])
        texts, numbers = answer.values
        assert (texts.name, texts.dtype, list(texts.shape), texts.data) == (
            "echo", typed.BYTES, [1, 2], pack_bytes([b"x", b"yz"]))  # fmt: skip
        assert (numbers.name, numbers.dtype, list(numbers.shape), numbers.data) == (
            "size", typed.FP32, [1, 1], size.tobytes())  # fmt: skip
        assert not answer.HasField("logits")


def test_a_classifier_has_its_own_outputs_too_if_they_are_asked_for() -> None:
    codec = codec_of(CLASSIFIER)
    request = predict_request(ROW)
    request.outputs.extend([typed.ARGMAX, typed.VALUES])
    decoded = codec.decode_predict(request)
    assert decoded.wanted == ("argmax", "logits")
    assert isinstance(decoded.deliveries, Readings)
    answer = typed.PredictResponse.FromString(
        codec.encode_predict(decoded.deliveries, decoded.wanted, [ARGMAX, LOGITS])
    )
    assert [tensor.name for tensor in answer.values] == ["logits"]
    assert answer.values[0].data == LOGITS.tobytes()
    assert answer.argmax.data == ARGMAX.tobytes()
    assert answer.task == "single-label"


# Typed API out


def predict_response(codec: Codec, request: typed.PredictRequest) -> typed.PredictResponse:
    readings = {"logits": LOGITS, "softmax": SOFTMAX, "argmax": ARGMAX}
    wanted = codec.decode_predict(request).wanted
    return typed_answer(codec, request, wanted, [readings[name] for name in wanted])


def typed_answer(
    codec: Codec, request: typed.PredictRequest, wanted: tuple[str, ...], outputs: Sequence[Array]
) -> typed.PredictResponse:
    readings = codec.decode_predict(request).deliveries
    assert isinstance(readings, Readings)
    return typed.PredictResponse.FromString(codec.encode_predict(readings, wanted, outputs, request.id))


def array_of(tensor: typed.Tensor) -> Array:
    return np.frombuffer(tensor.data, DTYPES[typed.DataType.Name(tensor.dtype)]).reshape(tuple(tensor.shape))


def test_by_default_all_three_readings_come_with_labels() -> None:
    response = predict_response(codec_of(), predict_request(ROW, id="é7"))
    assert (response.model, response.version, response.id) == ("m", "3", "é7")
    np.testing.assert_array_equal(array_of(response.logits), LOGITS)
    np.testing.assert_array_equal(array_of(response.softmax), SOFTMAX)
    np.testing.assert_array_equal(array_of(response.argmax), ARGMAX)
    assert list(response.labels) == ["bee", "ant"]
    assert not response.top
    assert (response.task, list(response.thresholds), list(response.names)) == ("single-label", [], [])


def test_only_the_readings_asked_for_come() -> None:
    response = predict_response(codec_of(), predict_request(ROW, outputs=["LOGITS"]))
    assert response.HasField("logits")
    assert not response.HasField("softmax")
    assert not response.HasField("argmax")
    assert not response.labels


def test_without_labels_the_classes_are_numbers_only() -> None:
    response = predict_response(codec_of(labels=None), predict_request(ROW, top_k=1, outputs=["ARGMAX"]))
    assert not response.labels
    assert [ranking.classes[0].label for ranking in response.top] == ["", ""]


def test_a_class_beyond_the_labels_has_an_empty_label() -> None:
    response = predict_response(codec_of(labels=["ant"]), predict_request(ROW))
    assert list(response.labels) == ["", "ant"]


def test_the_most_probable_classes_come_first_and_equal_ones_by_index() -> None:
    response = predict_response(codec_of(), predict_request(ROW, top_k=2))
    assert [[(best.index, best.label) for best in ranking.classes] for ranking in response.top] == [
        [(1, "bee"), (2, "cat")],
        [(0, "ant"), (1, "bee")],
    ]
    assert response.top[0].classes[0].probability == np.float32(0.6)
    assert not response.HasField("softmax")


def test_of_many_equal_classes_the_lowest_indices_come_first() -> None:
    codec = codec_of(labels=None)
    softmax = np.tile(np.array([0.25, 0.75], np.float32), 500)[None] / 500
    request = predict_request(ROW, top_k=3)
    response = typed_answer(codec, request, ("softmax",), [softmax])
    assert [best.index for best in response.top[0].classes] == [1, 3, 5]


def test_an_answer_of_another_rank_than_the_graph_declares_has_no_ranking_and_no_labels() -> None:
    codec, odd = codec_of(), np.zeros((1, 2, 2), np.float32)
    request = predict_request(ROW, outputs=["SOFTMAX", "ARGMAX"])
    response = typed_answer(codec, request, ("softmax", "argmax"), [odd, np.zeros((1, 2), np.int64)])
    assert (list(response.softmax.shape), list(response.argmax.shape)) == ([1, 2, 2], [1, 2])
    assert not response.labels
    with pytest.raises(InvalidInput, match=r"with shape \[1, 2, 2\], so there is no ranking"):
        typed_answer(codec, predict_request(ROW, top_k=1), ("softmax",), [odd])


@pytest.mark.parametrize("classes", [0, 3])
def test_an_answer_without_classes_has_empty_rankings(classes: int) -> None:
    softmax = np.zeros((2, classes), np.float32)
    answer = typed_answer(codec_of(labels=None), predict_request(ROW, top_k=3), ("softmax",), [softmax])
    assert [len(ranking.classes) for ranking in answer.top] == [classes, classes]


@pytest.mark.parametrize("top_k", [3, 4, 2**32 - 1])
def test_no_more_classes_come_than_there_are(top_k: int) -> None:
    response = predict_response(codec_of(), predict_request(ROW, top_k=top_k))
    assert [[best.index for best in ranking.classes] for ranking in response.top] == [[1, 2, 0], [0, 1, 2]]


def test_readings_and_a_ranking_may_be_asked_for_together() -> None:
    response = predict_response(codec_of(), predict_request(ROW, outputs=["ARGMAX", "SOFTMAX"], top_k=1))
    assert len(response.top) == 2
    assert response.HasField("softmax")
    assert response.HasField("argmax")
    assert not response.HasField("logits")


def test_half_precision_readings_keep_their_type() -> None:
    codec = codec_of(classifier(element="FP16"))
    request = predict_request(ROW, outputs=["LOGITS"], top_k=1)
    outputs = [LOGITS.astype(np.float16), SOFTMAX.astype(np.float16)]
    response = typed_answer(codec, request, ("logits", "softmax"), outputs)
    assert response.logits.dtype == typed.FP16
    assert [ranking.classes[0].index for ranking in response.top] == [1, 0]


def two_classes() -> Codec:
    """Whose label is "yes" from 0.25 on."""
    return Codec("m", "3", classifier(classes=2), 8, ["no", "yes"], Task("single-label", (0.25,), positive=1))


@pytest.mark.parametrize(
    ("outputs", "top_k"), [([], 0), (["ARGMAX"], 0), ([], 1), (["LOGITS"], 2), (["ARGMAX"], 1), (["SOFTMAX"], 1)]
)
def test_the_threshold_decides_the_labels_whatever_brings_them(outputs: list[str], top_k: int) -> None:
    codec, request = two_classes(), predict_request(ROW, outputs=outputs, top_k=top_k)
    softmax = np.array([[0.75, 0.25], [0.8, 0.2], [0.1, 0.9], [np.nan, np.nan]], np.float32)
    there = {"logits": softmax, "softmax": softmax, "argmax": np.array([0, 0, 1, 0])}
    wanted = codec.decode_predict(request).wanted
    response = typed_answer(codec, request, wanted, [there[name] for name in wanted])
    # NaN decides nothing.
    assert list(response.labels) == ["yes", "no", "yes", ""]
    assert (response.task, list(response.thresholds)) == ("single-label", [0.25])
    if top_k:
        assert [ranking.classes[0].label for ranking in response.top] == ["no", "no", "yes", "no"]


def test_an_answer_of_softmax_alone_has_no_labels_of_a_threshold() -> None:
    request = predict_request(ROW, outputs=["SOFTMAX"])
    response = typed_answer(two_classes(), request, ("softmax",), [np.array([[0.5, 0.5]], np.float32)])
    assert not response.labels


def test_a_class_at_each_place_comes_with_the_names_of_the_classes() -> None:
    codec = Codec("m", "3", classifier(places=(2, 2)), 8, LABELS)
    response = typed_answer(
        codec, predict_request(ROW, outputs=["ARGMAX"]), ("argmax",), [np.zeros((1, 2, 2), np.int64)]
    )
    assert (response.task, list(response.names), list(response.labels)) == ("dense", LABELS, [])


def test_a_plain_network_is_decoded_like_any_other() -> None:
    rows = codec_of(plain((spec("input", "FP32", 4),)), None).decode_infer(infer_request(ROW), NOWHERE)
    assert rows.wanted == ("out",)


# More than a network has


def test_of_many_inputs_an_error_quotes_some() -> None:
    tensors = [{"name": f"x{number}", "datatype": "FP32", "shape": [1]} for number in range(1000)]
    text = refused(pb.ModelInferRequest(model_name="m", inputs=tensors))
    assert text.startswith("expected 1 inputs but got 1000 inputs for model 'm'. Got input(s) ['x0', 'x1', ")
    assert text.endswith("'x15'] and more, but it takes ['input']")


def test_of_many_outputs_the_first_that_is_wrong_is_named() -> None:
    request = infer_request(ROW)
    request.outputs.extend([pb.ModelInferRequest.InferRequestedOutputTensor(name="logits")] * 10_000)
    assert refused(request) == "output 'logits' already exists in request for model 'm'"


def test_readings_are_asked_for_once() -> None:
    tensor = typed.Tensor(dtype=typed.FP32, shape=[1, 4], data=ROW.tobytes())
    request = typed.PredictRequest(model="m", inputs=[tensor], outputs=[typed.LOGITS] * 100)
    with pytest.raises(InvalidInput, match="outputs has 100 readings, and there are 5; name each once"):
        codec_of(CLASSIFIER).decode_predict(request)


def test_the_size_of_an_answer_is_known_where_the_file_says_it() -> None:
    codec = codec_of(CLASSIFIER)
    assert codec.answer_bytes(("logits",), 5) == 60
    assert codec.answer_bytes(("softmax", "argmax"), 2) == 40
    assert codec_of(WHOLE).answer_bytes(("out",), 1) == 12
    assert codec_of(TEXT).answer_bytes(("echo",), 3) is None
    assert codec_of(TEXT).answer_bytes(("size",), 3) == 24
