"""A recognised request is what parsing it would have given, whatever bytes come; and what is remembered is bounded."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.protocol import MODEL_INFER, PREDICT, pack_bytes
from frostline_server.batching.entry import Entry
from frostline_server.codec import header_cache
from frostline_server.codec.codec import Codec
from frostline_server.codec.decoder import RequestDecoder
from frostline_server.codec.header_cache import (
    Headers,
    RequestHeader,
    RowHeaders,
    infer_headers,
    predict_headers,
    without_raw_contents,
)
from frostline_server.codec.shared_memory import Regions
from frostline_server.errors import InvalidInput, ModelNotFound
from frostline_server.inference import Inference, Refused
from frostline_server.model.stats import Unrouted
from frostline_server.runtime.signature import Signature
from tests.support.signatures import CLASSIFIER, NOWHERE, PAIR, TEXT

ROW = np.array([[1, 2, 3, 4]], np.float32).tobytes()


def request_of(raw: bytes = ROW, **fields: Any) -> pb.ModelInferRequest:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4]}
    return pb.ModelInferRequest(**{"model_name": "m", "inputs": [tensor], "raw_input_contents": [raw], **fields})


def remember(headers: Headers, payload: bytes, request: pb.ModelInferRequest) -> RequestHeader | None:
    return headers.remember(payload, request.model_name, request.model_version)


def remembered(*requests: pb.ModelInferRequest) -> Headers:
    headers = infer_headers()
    for request in requests:
        remember(headers, request.SerializeToString(), request)
    return headers


# What is recognised


@pytest.mark.parametrize("fields", [{}, {"id": "123"}, {"id": "é!"}, {"model_version": "3", "id": "abc"}])
def test_a_request_with_other_elements_and_another_id_of_the_same_length_is_recognised(fields: dict[str, Any]) -> None:
    headers = remembered(request_of(**fields))
    other = request_of(ROW[::-1], **{**fields, "id": fields["id"][::-1]} if "id" in fields else fields)
    found = headers.find(other.SerializeToString())
    assert found is not None
    header, request_id, elements = found
    assert (header.model, header.version) == ("m", fields.get("model_version", ""))
    assert (request_id, elements) == (other.id, ROW[::-1])


def test_large_elements_are_a_view_of_the_message_and_not_a_copy() -> None:
    raw = bytes(range(256)) * 512
    request = request_of(raw, id="7")
    payload, headers = request.SerializeToString(), infer_headers()
    remember(headers, payload, request)
    found = headers.find(payload)
    assert found is not None
    elements = found[2]
    assert isinstance(elements, memoryview)
    assert elements == raw
    assert elements.obj is payload


def test_the_same_header_is_the_same_object_each_time() -> None:
    request = request_of(id="1")
    payload, headers = request.SerializeToString(), infer_headers()
    first = remember(headers, payload, request)
    assert first is not None
    found = headers.find(payload)
    assert found is not None
    assert first is remember(headers, payload, request) is found[0]


@pytest.mark.parametrize(
    "other",
    [
        request_of(model_name="n"),
        request_of(model_version="1"),
        request_of(id="1"),
        request_of(ROW + b"1234"),
        request_of(outputs=[{"name": "logits"}]),
        request_of(parameters={"priority": {"uint64_param": 1}}),
        request_of(inputs=[{"name": "input", "datatype": "FP32", "shape": [2, 2]}]),
        request_of(raw_input_contents=[ROW[:7], ROW[9:]]),
    ],
)
def test_a_request_with_another_header_is_not(other: pb.ModelInferRequest) -> None:
    assert remembered(request_of()).find(other.SerializeToString()) is None


@pytest.mark.parametrize(
    "request_",
    [
        request_of(raw_input_contents=[]),
        request_of(raw_input_contents=[ROW, ROW]),
        request_of(model_name="m" * 600),
        pb.ModelInferRequest(),
    ],
)
def test_requests_without_exactly_one_raw_content_or_with_a_huge_header_are_not_remembered(
    request_: pb.ModelInferRequest,
) -> None:
    payload, headers = request_.SerializeToString(), infer_headers()
    assert remember(headers, payload, request_) is None
    assert headers.find(payload) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload + b"\x0a\x01m",  # a field after the elements
        lambda payload: payload + b"\x3a\x00",  # elements twice
        lambda payload: b"\x1a\x011\x1a\x012" + payload,  # an id twice
        lambda payload: b"\x7a\x01x" + payload,  # a field that nobody knows
        lambda payload: b"\x08\x01" + payload,  # a known field of another wire type
    ],
)
def test_a_valid_message_of_an_odd_form_is_not_remembered(change: Any) -> None:
    payload = change(request_of().SerializeToString())
    headers = infer_headers()
    assert remember(headers, payload, pb.ModelInferRequest.FromString(payload)) is None
    assert headers.find(payload) is None


def test_fields_in_another_order_and_long_spellings_of_a_length_are_read_right() -> None:
    # The id comes after the inputs, and both lengths have two bytes more than they need.
    before = request_of(raw_input_contents=[]).SerializeToString()
    payload = before + b"\x1a\x82\x80\x00id" + b"\x3a\x90\x80\x00" + ROW
    parsed = pb.ModelInferRequest.FromString(payload)
    assert (parsed.id, parsed.raw_input_contents[0]) == ("id", ROW)
    headers = infer_headers()
    remember(headers, payload, parsed)
    found = headers.find(payload.replace(b"\x00id", b"\x00di"))
    assert found is not None
    assert found[1:] == ("di", ROW)


def test_an_id_that_is_not_text_is_left_to_the_parser() -> None:
    payload = request_of(id="ab").SerializeToString()
    headers = remembered(request_of(id="ab"))
    assert headers.find(payload) is not None
    assert headers.find(payload.replace(b"ab", b"\xff\xfe")) is None


def test_the_number_of_headers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_cache, "_MAX_HEADERS", 3)
    requests = [request_of(model_name=name) for name in "abcd"]
    headers = remembered(*requests)
    found = [headers.find(request.SerializeToString()) is not None for request in requests]
    assert found == [False, False, False, True]


def test_requests_of_one_length_may_be_cut_in_several_ways_but_not_in_any_number() -> None:
    # The name grows as the id shrinks.
    requests = [request_of(model_name="m" * size, id="i" * (8 - size)) for size in range(1, 7)]
    headers = remembered(*requests[:4])
    assert all(headers.find(request.SerializeToString()) for request in requests[:4])
    headers = remembered(*requests[:5])
    found = [headers.find(request.SerializeToString()) is not None for request in requests]
    assert found == [False, False, False, False, True, False]


# Whatever comes

short = st.text(st.sampled_from("am1é"), max_size=3)
values = st.builds(pb.InferParameter, int64_param=st.integers(0, 3))
tensors = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["input", "inpu"]),
    datatype=st.sampled_from(["FP32", "UINT8"]),
    shape=st.sampled_from([[1, 4], [4, 1], [1]]),
)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=short,
    model_version=short,
    id=short,
    parameters=st.dictionaries(st.sampled_from(["priority", "x"]), values, max_size=1),
    inputs=st.lists(tensors, max_size=2),
    outputs=st.lists(
        st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=st.sampled_from(["logits", "argmax"])),
        max_size=2,
    ),
    raw_input_contents=st.lists(st.sampled_from([ROW, ROW[:4], b"", b"\x1a\x01a", b"\x3a\x00"]), max_size=2),
)


@st.composite
def damaged(draw: st.DrawFn, payload: bytes) -> bytes:
    """The bytes of a message, cut short, lengthened or changed in places."""
    changed = bytearray(payload)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.sampled_from(["set", "cut", "insert", "swap"])):
            case "set" if at < len(changed):
                changed[at] = draw(st.sampled_from([0, 1, 0x0A, 0x1A, 0x3A, 0x61, 0x80, 0xFF]))
            case "cut":
                del changed[at : at + draw(st.integers(1, 3))]
            case "insert":
                changed[at:at] = draw(st.sampled_from([b"\x1a\x01a", b"\x3a\x00", b"a", b"\x00"]))
            case "swap":
                changed = changed[at:] + changed[:at]
    return bytes(changed)


@given(st.lists(requests, min_size=1, max_size=6), st.data())
def test_whatever_is_recognised_parses_to_exactly_that(seen: list[pb.ModelInferRequest], data: st.DataObject) -> None:
    headers = infer_headers()
    for request in seen:
        payload = data.draw(damaged(request.SerializeToString()))
        try:
            parsed = pb.ModelInferRequest.FromString(payload)
        except DecodeError:
            parsed, payload = request, request.SerializeToString()
        remember(headers, payload, parsed)
        for other in (payload, data.draw(damaged(payload))):
            found = headers.find(other)
            if found is None:
                continue
            header, request_id, elements = found
            now = pb.ModelInferRequest.FromString(other)
            assert (now.model_name, now.model_version) == (header.model, header.version)
            assert (now.id, list(now.raw_input_contents)) == (request_id, [elements])


# Several tensors, and strings


def table_of(cells: list[bytes], **fields: Any) -> pb.ModelInferRequest:
    names = [{"name": f"column{at}", "datatype": "BYTES", "shape": [1, 1]} for at in range(len(cells))]
    return pb.ModelInferRequest(**{"model_name": "m", "inputs": names, "raw_input_contents": cells, **fields})


def remembered_row(request: pb.ModelInferRequest) -> tuple[RowHeaders, RequestHeader | None]:
    headers = RowHeaders()
    return headers, headers.remember(request.SerializeToString(), request.model_name, request.model_version)


@pytest.mark.parametrize("fields", [{}, {"id": "é!"}, {"model_version": "3", "id": "abc", "outputs": [{"name": "a"}]}])
def test_a_row_is_recognised_whatever_the_length_of_its_cells(fields: dict[str, Any]) -> None:
    headers, header = remembered_row(table_of([b"a", b"", ROW], **fields))
    assert header is not None
    assert (header.model, header.version) == ("m", fields.get("model_version", ""))
    request_id = fields.get("id", "")[::-1]
    for cells in ([b"", b"longer", ROW], [bytes(300), b"\x3a\x01a", b"\x1a\x01a"]):
        other = table_of(cells, **{**fields, "id": request_id})
        assert headers.find(other.SerializeToString()) == (header, request_id, cells)
    for change in (
        {"model_name": "n"},
        {"model_version": "4"},
        {"id": "of another length"},
        {"outputs": [{"name": "b"}]},
    ):
        assert headers.find(table_of([b"a", b"", ROW], **{**fields, **change}).SerializeToString()) is None
    for cells in ([b"a", b""], [b"a", b"", ROW, b""]):
        fewer = table_of([b"a", b"", ROW], **{**fields, "raw_input_contents": cells})
        assert headers.find(fewer.SerializeToString()) is None


@pytest.mark.parametrize(
    "payload",
    [
        table_of([b"a", b"b"]).SerializeToString() + b"\x0a\x01m",  # a field after the elements
        b"\x1a\x011\x1a\x012" + table_of([b"a", b"b"]).SerializeToString(),  # an id twice
        table_of([b"a", b"b"]).SerializeToString() + b"\x1a\x011\x3a\x00",  # an id among them
        table_of([b"a", b"b"], id="i" * 128).SerializeToString(),  # lengths of two bytes
        table_of([b"a", b"b"], model_name="m" * 128, id="1").SerializeToString(),
        table_of([b"a", b"b"], model_name="m" * (1 << 22)).SerializeToString(),  # a huge header
        b"",
        b"\x0a\x01m",
    ],
)
def test_a_row_of_an_odd_form_is_not_remembered(payload: bytes) -> None:
    headers = RowHeaders()
    assert headers.remember(payload, "m", "") is None
    assert headers.find(payload) is None


def test_the_length_of_a_cell_that_never_ends_is_given_up_soon() -> None:
    headers, header = remembered_row(table_of([b"a", b"b"]))
    assert header is not None
    assert (
        headers.find(table_of([], inputs=table_of([b"a", b"b"]).inputs).SerializeToString() + b"\x3a" + b"\xff" * 11)
        is None
    )


def test_the_headers_of_rows_are_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [table_of([b"a", b"b"], model_name=name) for name in "abcd"]
    sizes = [len(request.SerializeToString()) - 6 for request in requests]
    for limit, value in (("_MAX_HEADERS", 3), ("_MAX_ROW_HEADERS_BYTES", 4 * sizes[0] - 1)):
        with monkeypatch.context() as patched:
            patched.setattr(header_cache, limit, value)
            headers = RowHeaders()
            for request in requests:
                assert headers.remember(request.SerializeToString(), request.model_name, "") is not None
            found = [headers.find(request.SerializeToString()) is not None for request in requests]
            assert found == [False, False, False, True]


@given(st.lists(requests, min_size=1, max_size=6), st.data())
def test_whatever_row_is_recognised_parses_to_exactly_that(
    seen: list[pb.ModelInferRequest], data: st.DataObject
) -> None:
    headers = RowHeaders()
    # What a recognised message was remembered as, without the holes.
    known: dict[RequestHeader, pb.ModelInferRequest] = {}
    for request in seen:
        payload = data.draw(damaged(request.SerializeToString()))
        try:
            parsed = pb.ModelInferRequest.FromString(payload)
        except DecodeError:
            parsed, payload = request, request.SerializeToString()
        header = headers.remember(payload, parsed.model_name, parsed.model_version)
        if header is not None:
            known.setdefault(header, parsed)
        for other in (payload, data.draw(damaged(payload))):
            found = headers.find(other)
            if found is None:
                continue
            header, request_id, contents = found
            expected = pb.ModelInferRequest()
            expected.CopyFrom(known[header])
            expected.id = request_id
            expected.raw_input_contents[:] = contents
            assert pb.ModelInferRequest.FromString(other) == expected


# The typed API


def typed_request(data: bytes = ROW, **fields: Any) -> bytes:
    """A serialised PredictRequest whose one input comes last, as our client sends it."""
    tensor = typed.Tensor(name=fields.pop("name", ""), dtype=typed.FP32, shape=[1, 4], data=data)
    before = typed.PredictRequest(**{"model": "m", **fields})
    return before.SerializeToString() + typed.PredictRequest(inputs=[tensor]).SerializeToString()


def remembered_typed(payload: bytes) -> tuple[Headers, RequestHeader | None]:
    request, headers = typed.PredictRequest.FromString(payload), predict_headers()
    return headers, headers.remember(payload, request.model, request.version)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": "é!"},
        {"version": "3", "name": "input", "outputs": [typed.ARGMAX, typed.LOGITS], "top_k": 300, "id": "abc"},
    ],
)
def test_a_typed_request_is_recognised_by_all_but_its_id_and_its_elements(fields: dict[str, Any]) -> None:
    headers, header = remembered_typed(typed_request(**fields))
    request_id = fields.get("id", "")[::-1]
    found = headers.find(typed_request(ROW[::-1], **{**fields, "id": request_id}))
    assert found == (header, request_id, ROW[::-1])
    assert header is not None
    assert (header.model, header.version) == ("m", fields.get("version", ""))
    for other in ({"model": "n"}, {"version": "4"}, {"top_k": 301}, {"outputs": [typed.SOFTMAX]}, {"name": "inpux"}):
        assert headers.find(typed_request(**{**fields, **other})) is None


@pytest.mark.parametrize(
    "payload",
    [
        typed_request() + b"\x0a\x01m",  # a field after the input
        typed_request() + b"\x1a\x00",  # another input, and an empty one
        typed_request(model="m" * 600),  # a huge header
        b"\x32\x011\x32\x012" + typed_request(),  # an id twice
        b"\x7a\x01x" + typed_request(),  # a field that nobody knows
        b"\x08\x01" + typed_request(),  # a known field of another wire type
        typed.PredictRequest(model="m").SerializeToString(),  # no input
        # An input whose elements are not its last field, or are there twice.
        b"\x1a\x08\x22\x04abcd\x10\x0b",
        b"\x1a\x08\x22\x02ab\x22\x02cd",
    ],
)
def test_a_typed_request_of_an_odd_form_is_not_remembered(payload: bytes) -> None:
    headers, header = remembered_typed(payload)
    assert header is None
    assert headers.find(payload) is None


typed_tensors = st.builds(
    typed.Tensor,
    name=st.sampled_from(["input", ""]),
    dtype=st.sampled_from([typed.FP32, typed.UINT8]),
    shape=st.sampled_from([[1, 4], [4, 1], [200]]),
    data=st.sampled_from([ROW, ROW[:4], b"", b"\x1a\x01a", b"\x22\x00"]),
)
typed_requests = st.tuples(
    st.builds(
        typed.PredictRequest,
        model=short,
        version=short,
        id=short,
        outputs=st.lists(st.sampled_from([typed.LOGITS, typed.ARGMAX]), max_size=2),
        top_k=st.sampled_from([0, 1, 300]),
    ),
    st.lists(typed_tensors, max_size=2),
).map(lambda parts: b"".join([parts[0].SerializeToString(), typed.PredictRequest(inputs=parts[1]).SerializeToString()]))


@settings(deadline=None)
@given(st.lists(typed_requests, min_size=1, max_size=6), st.data())
def test_whatever_typed_request_is_recognised_parses_to_exactly_that(seen: list[bytes], data: st.DataObject) -> None:
    headers = predict_headers()
    # What a recognised message was remembered as, without the holes.
    known: dict[RequestHeader, typed.PredictRequest] = {}
    for original in seen:
        payload = data.draw(damaged(original))
        try:
            parsed = typed.PredictRequest.FromString(payload)
        except DecodeError:
            parsed, payload = typed.PredictRequest.FromString(original), original
        header = headers.remember(payload, parsed.model, parsed.version)
        if header is not None:
            known.setdefault(header, parsed)
        for other in (payload, data.draw(damaged(payload))):
            found = headers.find(other)
            if found is None:
                continue
            header, request_id, elements = found
            expected = typed.PredictRequest()
            expected.CopyFrom(known[header])
            expected.id = request_id
            expected.inputs[0].data = bytes(elements)
            assert typed.PredictRequest.FromString(other) == expected


# Through the inference


class Repository:
    """Hands out codecs by the name and version asked for."""

    def __init__(self, signature: Signature = CLASSIFIER) -> None:
        self.signature = signature
        self.load("1")

    def load(self, version: str) -> None:
        codec = Codec("m", version, self.signature, 8, None)
        self.served = SimpleNamespace(version=version, codec=codec, stats=Unrouted())

    def get(self, name: str, version: str) -> Any:
        if name != "m" or version not in ("", self.served.version):
            raise ModelNotFound(f"no '{name}' '{version}'")
        return self.served


def inference_of(repository: Any, regions: Regions = NOWHERE) -> Inference:
    return Inference(repository, Unrouted(), 1 << 20, regions)


def outcome(inference: Inference, payload: bytes, method: str = MODEL_INFER) -> Any:
    """What becomes of a message: all that a front end sees of it."""
    try:
        entry: Entry = inference.prepare(method, payload, 2.5, print, 7)
    except Refused as refused:
        return type(refused.error), str(refused.error), refused.request_id
    call = entry.call
    elements = [data if isinstance(data, bytes) else data.tolist() for data in entry.data]
    return (
        (entry.kind, entry.rows, elements, entry.wanted, entry.priority, entry.timeout_s, entry.deadline_s),
        (call.token, call.request_id, call.served.version, call.request),
    )


FIRST = request_of(id="first", outputs=[{"name": "softmax"}], parameters={"priority": {"uint64_param": 2}})


likely = st.builds(
    request_of,
    raw=st.sampled_from([ROW, ROW[::-1], ROW[:8]]),
    id=st.sampled_from(["first", "other", "é12", ""]),
    outputs=st.sampled_from([[], [{"name": "softmax"}], [{"name": "nobody"}]]),
    parameters=st.sampled_from([{}, {"priority": {"uint64_param": 2}}, {"sequence_id": {"int64_param": 1}}]),
)
messages = st.lists((likely | requests).map(pb.ModelInferRequest.SerializeToString), min_size=1, max_size=4)


@given(messages, st.data(), st.sampled_from([CLASSIFIER, PAIR, TEXT]))
def test_a_server_that_has_seen_requests_answers_as_one_that_has_not(
    payloads: list[bytes], data: st.DataObject, signature: Signature
) -> None:
    repository = Repository(signature)
    seasoned = inference_of(repository)
    for payload in (FIRST.SerializeToString(), *payloads):
        for sent in (payload, payload, data.draw(damaged(payload))):
            assert outcome(seasoned, sent) == outcome(inference_of(repository), sent)


@settings(deadline=None)
@given(st.lists(typed_requests, min_size=1, max_size=4), st.data(), st.sampled_from([CLASSIFIER, PAIR, TEXT]))
def test_a_server_that_has_seen_typed_requests_answers_as_one_that_has_not(
    payloads: list[bytes], data: st.DataObject, signature: Signature
) -> None:
    repository = Repository(signature)
    seasoned = inference_of(repository)
    for payload in (typed_request(outputs=[typed.ARGMAX]), *payloads):
        for sent in (payload, payload, data.draw(damaged(payload))):
            assert outcome(seasoned, sent, PREDICT) == outcome(inference_of(repository), sent, PREDICT)


def test_bytes_that_both_methods_could_mean_are_kept_apart() -> None:
    inference, both = inference_of(Repository()), typed_request()
    for _ in range(2):
        ((_, rows, *_), _), refusal = outcome(inference, both, PREDICT), outcome(inference, both, MODEL_INFER)
        assert rows == 1
        assert refusal[0] is InvalidInput


def test_an_equal_typed_request_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    inference = inference_of(Repository())
    outcome(inference, typed_request(id="first", outputs=[typed.ARGMAX], top_k=2), PREDICT)
    # Whoever parses now fails.
    monkeypatch.setattr("frostline_server.codec.decoder.parse", None)
    second = typed_request(ROW[::-1], id="secnd", outputs=[typed.ARGMAX], top_k=2)
    (_, _, elements, wanted, *_), (_, request_id, _, readings) = outcome(inference, second, PREDICT)
    assert (elements, wanted, request_id) == ([ROW[::-1]], ("argmax", "softmax"), "secnd")
    assert readings == ((typed.ARGMAX,), 2)


def test_an_equal_request_is_not_parsed_again_and_its_id_and_elements_are_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inference = inference_of(Repository())
    ((_, _, elements, _, *_), _) = outcome(inference, FIRST.SerializeToString())
    assert elements == [ROW]
    # Whoever parses now fails.
    monkeypatch.setattr("frostline_server.codec.decoder.parse", None)
    second = request_of(
        ROW[::-1], id="secnd", outputs=[{"name": "softmax"}], parameters={"priority": {"uint64_param": 2}}
    )
    (_, _, elements, wanted, priority, timeout_s, _), (_, request_id, _, _) = outcome(
        inference, second.SerializeToString()
    )
    assert (elements, wanted, priority, timeout_s, request_id) == ([ROW[::-1]], ("softmax",), 2, None, "secnd")


def test_a_new_version_decodes_for_itself_and_an_unloaded_one_is_refused() -> None:
    repository = Repository()
    inference = inference_of(repository)
    latest, pinned = request_of().SerializeToString(), request_of(model_version="1").SerializeToString()
    assert [outcome(inference, payload)[1][2] for payload in (latest, pinned)] == ["1", "1"]
    repository.load("2")
    assert outcome(inference, latest)[1][2] == "2"
    assert outcome(inference, pinned)[0] is ModelNotFound
    repository.signature = PAIR
    repository.load("3")
    assert outcome(inference, latest)[0] is InvalidInput


def test_two_versions_that_share_a_header_both_keep_knowing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository()
    inference, payload = inference_of(repository), request_of().SerializeToString()
    outcome(inference, payload)
    stable = repository.served
    repository.load("2")
    outcome(inference, payload)
    canary = repository.served
    monkeypatch.setattr("frostline_server.codec.decoder.parse", None)
    for served in (stable, canary, stable):
        repository.served = served
        assert outcome(inference, payload)[1][2] == served.version


def test_strings_are_taken_apart_anew_each_time() -> None:
    inference = inference_of(Repository(TEXT))
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 2]}
    for words in (["a", "b"], ["c", "d"]):
        raw = b"".join(b"\1\0\0\0" + word.encode() for word in words)
        (_, _, elements, *_), _ = outcome(inference, request_of(raw, inputs=[tensor]).SerializeToString())
        assert elements == [words]


def test_classes_are_ranked_and_places_in_shared_memory_found_anew_each_time() -> None:
    inference = inference_of(Repository())
    request = request_of(outputs=[{"name": "logits"}])
    request.outputs[0].parameters["classification"].int64_param = 2
    for _ in range(2):
        _, (_, _, _, deliveries) = outcome(inference, request.SerializeToString())
        assert [delivery.classes for delivery in deliveries] == [2]


def test_what_is_remembered_of_one_version_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline_server.codec.codec._MAX_CACHED", 2)
    inference = inference_of(Repository())
    payloads = [request_of(id="i" * size).SerializeToString() for size in range(4)]
    first = [outcome(inference, payload) for payload in payloads]
    assert [outcome(inference, payload) for payload in payloads] == first


# Large messages


def test_a_large_message_is_taken_apart_without_a_copy_of_what_is_large() -> None:
    large, small = bytes(range(256)) * 256, b"123"
    request = pb.ModelInferRequest(
        model_name="m",
        model_version="2",
        id="7",
        inputs=[{"name": "a", "datatype": "UINT8", "shape": [1, len(large)]}, {"name": "b"}],
        outputs=[{"name": "c"}],
        parameters={"priority": pb.InferParameter(int64_param=1)},
    )
    # In any order, as protobuf allows it.
    payload = (
        pb.ModelInferRequest(raw_input_contents=[large]).SerializeToString()
        + request.SerializeToString()
        + pb.ModelInferRequest(raw_input_contents=[small]).SerializeToString()
    )
    apart = without_raw_contents(payload)
    assert apart is not None
    head, contents = apart
    assert pb.ModelInferRequest.FromString(head) == request
    assert [bytes(each) for each in contents] == [large, small]
    assert [each.obj is payload if isinstance(each, memoryview) else None for each in contents] == [True, None]


@pytest.mark.parametrize("more", [b"\x40\x01", b"\x42\x00", b"\xba\x80\x00\x00"], ids=["number", "unknown", "long tag"])
def test_a_message_with_fields_that_are_not_known_is_left_to_the_parser(more: bytes) -> None:
    assert without_raw_contents(pb.ModelInferRequest(model_name="m").SerializeToString() + more) is None


@pytest.mark.parametrize("again", [False, True])
def test_large_requests_are_decoded_from_where_they_are(again: bool) -> None:
    rows = np.arange(1 << 15, dtype=np.float32).reshape(-1, 4)
    request = request_of(rows.tobytes())
    request.inputs[0].shape[0] = len(rows)
    payload = request.SerializeToString()
    decoder, codec = RequestDecoder(NOWHERE), Codec("m", "3", CLASSIFIER, 1 << 20, None)
    for _ in range(1 + again):
        *_, body = decoder.read(MODEL_INFER, payload)
        decoded = decoder.decode(codec, body, payload)
    (data,) = decoded.data
    assert isinstance(data, memoryview)
    assert data.obj is payload
    assert bytes(data) == rows.tobytes()


def test_large_texts_are_decoded_as_small_ones() -> None:
    texts = np.array([["é" * 40_000], ["b"]], object)
    request = pb.ModelInferRequest(
        model_name="m",
        inputs=[{"name": "text", "datatype": "BYTES", "shape": [1, 2]}],
        raw_input_contents=[pack_bytes(texts.ravel())],
    )
    payload = request.SerializeToString()
    decoder, codec = RequestDecoder(NOWHERE), Codec("m", "3", TEXT, 8, None)
    *_, body = decoder.read(MODEL_INFER, payload)
    (data,) = decoder.decode(codec, body, payload).data
    assert isinstance(data, np.ndarray)
    assert data.ravel().tolist() == texts.ravel().tolist()
