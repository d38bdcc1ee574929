"""The blocking client against a real socket."""

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

import frostline
from frostline.client import channel, messages
from frostline.client.messages import OutputName
from frostline.pb import predictor_pb2 as typed
from tests.support.fake_server import LABELS, LIMIT, MODEL, FakeServer, fake_server

ROWS = np.array([[0.0, 2.0, 1.0], [5.0, -1.0, 5.0]], np.float32)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[frostline.Client]:
    with frostline.connect(server.address) as connected:
        yield connected


def test_a_prediction_holds_logits_probabilities_classes_and_labels(client: frostline.Client) -> None:
    prediction = client.predict(MODEL, ROWS)
    np.testing.assert_array_equal(prediction.logits, ROWS)
    np.testing.assert_allclose(prediction.softmax.sum(axis=1), 1, rtol=1e-6)
    assert prediction.argmax.tolist() == [1, 0]
    assert prediction.labels == ("bee", "ant")
    assert (prediction.model, prediction.version, len(prediction)) == (MODEL, "2", 2)
    assert repr(prediction) == "<Prediction of 2 rows by echo version 2>"


def test_answers_are_views_of_the_message_with_their_declared_types(client: frostline.Client) -> None:
    prediction = client.predict(MODEL, ROWS)
    assert prediction.logits.dtype == np.float32
    assert prediction.argmax.dtype == np.int64
    assert not prediction.logits.flags.owndata
    assert not prediction.logits.flags.writeable


def test_a_reading_that_was_not_asked_for_says_how_to_ask(client: frostline.Client, server: FakeServer) -> None:
    prediction = client.predict(MODEL, ROWS, outputs=["argmax"])
    assert list(server.requests[0].outputs) == [typed.ARGMAX]
    assert prediction.argmax.tolist() == [1, 0]
    assert not hasattr(prediction, "softmax")
    with pytest.raises(AttributeError, match=r"holds no logits: ask for it with predict\(\.\.\., outputs=\['logits'\]"):
        _ = prediction.logits
    with pytest.raises(AttributeError, match=r"ranking of 2 classes.*top_k=2"):
        prediction.top(2)


def test_an_unknown_output_is_refused_before_anything_is_sent(client: frostline.Client, server: FakeServer) -> None:
    with pytest.raises(ValueError, match="no output 'logit'; there are: logits, softmax, argmax"):
        client.predict(MODEL, ROWS, outputs=["logit"])  # type: ignore[list-item]  # that is the mistake
    with pytest.raises(ValueError, match="top_k must be at least 0"):
        client.predict(MODEL, ROWS, top_k=-1)
    assert server.requests == []


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (ROWS.astype(np.float64), typed.FP32),
        (ROWS.astype(">f8"), typed.FP32),
        (ROWS.tolist(), typed.FP32),
        ([[1, 2, 3]], typed.FP32),
        (ROWS, typed.FP32),
        (ROWS.astype(">f4"), typed.FP32),
        (ROWS[:, ::-1], typed.FP32),
        (ROWS.astype(np.float16), typed.FP16),
        (np.array([[1, 2, 255]], np.uint8), typed.UINT8),
        (np.array([[1, 2, 3]], np.int64), typed.INT64),
    ],
)
def test_to_a_model_that_takes_them_numbers_are_sent_as_they_are_and_float64_and_lists_as_float32(
    client: frostline.Client, server: FakeServer, value: object, dtype: typed.DataType
) -> None:
    prediction = client.predict(MODEL, value)  # type: ignore[arg-type]  # the point is that many types do
    assert server.requests[0].inputs[0].dtype == dtype
    np.testing.assert_array_equal(prediction.logits, np.asarray(value, np.float32))


@pytest.mark.parametrize("shape", [(), (0, 4), (1, 4), (2, 31), (2, 32), (1, 3, 224, 224)])
@pytest.mark.parametrize("top_k", [0, 300])
def test_a_request_is_the_message_that_protobuf_would_have_made(shape: tuple[int, ...], top_k: int) -> None:
    left, right = np.full(shape, 1.5, np.float32), np.full(shape, -7, np.int64)
    sent = messages.request(MODEL, {"l": left, "right": right}, version="7", outputs=["argmax", "logits"], top_k=top_k)
    assert typed.PredictRequest.FromString(sent) == typed.PredictRequest(
        model=MODEL,
        version="7",
        inputs=[
            typed.Tensor(name="l", dtype=typed.FP32, shape=shape, data=left.tobytes()),
            typed.Tensor(name="right", dtype=typed.INT64, shape=shape, data=right.tobytes()),
        ],
        outputs=[typed.ARGMAX, typed.LOGITS],
        top_k=top_k,
    )


def test_texts_are_sent_with_their_lengths(client: frostline.Client, server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "no texts here")]
    with pytest.raises(frostline.InvalidInput):
        client.predict(MODEL, np.array([["né"], [b"x"]], dtype=object))
    tensor = server.requests[0].inputs[0]
    assert (tensor.dtype, list(tensor.shape)) == (typed.BYTES, [2, 1])
    assert tensor.data == b"\x03\x00\x00\x00n\xc3\xa9\x01\x00\x00\x00x"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([[1.0], [1.0, 2.0]], "the input is not an array"),
        (np.array([1j]), "the input has elements of type complex128"),
        (np.array([None]), r"the input holds None at \[0\] where a number was expected"),
        ({"left": np.array([1j])}, "input 'left' has elements"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_name(
    client: frostline.Client, server: FakeServer, value: object, sentence: str
) -> None:
    with pytest.raises(frostline.InvalidInput, match=sentence):
        client.predict(MODEL, value)  # type: ignore[arg-type]  # that is the mistake
    assert server.requests == []


@pytest.mark.parametrize(
    ("datatype", "value", "logits"),
    [
        ("FP64", [[0.1, 2, 3]], [[np.float32(0.1), 2, 3]]),
        ("INT64", ROWS.astype(np.float64), ROWS.tolist()),
        ("UINT8", [[1, 2, 255]], [[1, 2, 255]]),
        ("FP16", ROWS, ROWS.tolist()),
        ("FP32", np.array([[1, 2, 3]], np.int64), [[1, 2, 3]]),
    ],
)
def test_rows_are_converted_to_the_type_of_the_model_which_is_looked_up_once(
    client: frostline.Client, server: FakeServer, datatype: str, value: Any, logits: Any
) -> None:
    server.strict, server.datatype = True, datatype
    for _ in range(3):
        np.testing.assert_array_equal(client.predict(MODEL, value).logits, np.array(logits, np.float32))
    assert [typed.DataType.Name(request.inputs[0].dtype) for request in server.requests][1:] == [datatype] * 3
    assert len(server.asked_metadata) == 1


def test_a_float32_array_asks_the_server_nothing_else(client: frostline.Client, server: FakeServer) -> None:
    server.strict = True
    for rows in (ROWS, ROWS.astype(np.float64), ROWS.tolist(), ROWS.astype(np.float16)):
        client.predict(MODEL, rows)
    assert len(server.requests) == 4
    assert server.asked_metadata == []


def test_more_rows_than_the_model_takes_are_sent_in_several_requests_and_joined(
    client: frostline.Client, server: FakeServer
) -> None:
    server.strict = True
    rows = np.eye(3, dtype=np.float32)[np.arange(2 * LIMIT + 1) % 3]
    prediction = client.predict(MODEL, rows)
    assert prediction.argmax.tolist() == [i % 3 for i in range(2 * LIMIT + 1)]
    assert prediction.labels == tuple(LABELS[i % 3] for i in range(2 * LIMIT + 1))
    assert prediction.softmax.shape == (2 * LIMIT + 1, 3)
    assert [request.inputs[0].shape[0] for request in server.requests[1:]] == [LIMIT, LIMIT, 1]
    once: Iterator[OutputName] = iter(["argmax"])
    ranked = client.predict(MODEL, rows, outputs=once, top_k=1)
    assert [row[0][0] for row in ranked.top()] == [LABELS[i % 3] for i in range(2 * LIMIT + 1)]
    assert [list(request.outputs) for request in server.requests[4:]] == [[typed.ARGMAX]] * 3
    server.requests.clear()
    client.predict(MODEL, rows[:LIMIT])
    assert len(server.requests) == 1


def test_several_inputs_go_by_name(client: frostline.Client, server: FakeServer) -> None:
    client.predict(MODEL, {"left": ROWS, "right": np.array([[1], [2]], np.int64)}, version="7")
    request = server.requests[0]
    assert [(tensor.name, tensor.dtype) for tensor in request.inputs] == [("left", typed.FP32), ("right", typed.INT64)]
    assert request.version == "7"


def test_top_ranks_locally_by_index_and_breaks_ties_towards_the_lowest(client: frostline.Client) -> None:
    best, tied = client.predict(MODEL, ROWS).top(2)
    assert [what for what, _ in best] == [1, 2]
    assert [what for what, _ in tied] == [0, 2]
    assert tied[0][1] == tied[1][1]
    assert len(client.predict(MODEL, ROWS).top(9)[0]) == 3
    with pytest.raises(ValueError, match="at least 1"):
        client.predict(MODEL, ROWS).top(0)


def test_the_servers_ranking_brings_labels_and_the_same_order(client: frostline.Client, server: FakeServer) -> None:
    prediction = client.predict(MODEL, ROWS, top_k=2)
    assert [[what for what, _ in row] for row in prediction.top(2)] == [["bee", "cat"], ["ant", "cat"]]
    assert [row[0][0] for row in prediction.top()] == ["bee", "ant"]
    assert prediction.argmax.tolist() == [1, 0]
    assert prediction.labels == ("bee", "ant")
    assert len(prediction) == 2
    server.labels = ()
    unlabelled = client.predict(MODEL, ROWS, top_k=2)
    assert [[what for what, _ in row] for row in unlabelled.top(2)] == [[1, 2], [0, 2]]
    assert unlabelled.labels == ()


def test_one_array_for_several_inputs_is_refused_with_their_names(client: frostline.Client, server: FakeServer) -> None:
    server.input_names = ("a", "b")
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "unexpected inference input ''")]
    told = (
        r"^echo has the inputs a, b, and one array without a name was given; send a dict: \{'a': \.\.\., 'b': \.\.\.\}$"
    )
    for _ in range(2):  # the second time it is known before anything is sent
        with pytest.raises(frostline.InvalidInput, match=told):
            client.predict(MODEL, ROWS)
    assert len(server.requests) == 1


def test_an_unknown_model_is_answered_with_the_ones_there_are(client: frostline.Client) -> None:
    with pytest.raises(frostline.ModelNotFound) as caught:
        client.predict("ecco", ROWS)
    assert str(caught.value) == (
        "Request for unknown model: 'ecco' is not found; the server has: broken version 1, echo version 2"
    )
    assert caught.value.code == "NOT_FOUND"
    with pytest.raises(frostline.ModelNotFound, match="the server has: broken version 1, echo version 2"):
        client.model("ecco")


def test_a_bad_input_is_answered_with_the_one_expected(client: frostline.Client, server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'input'")]
    with pytest.raises(frostline.InvalidInput) as caught:
        client.predict(MODEL, ROWS)
    assert str(caught.value) == "unexpected shape for input 'input'; echo expects input FP32 [any, 3]"


def test_a_failure_is_reported_even_if_nothing_more_can_be_learnt(client: frostline.Client, server: FakeServer) -> None:
    server.mute = True
    with pytest.raises(
        frostline.ModelNotFound, match="'ecco' is not found; list what is there with `frostline models`"
    ):
        client.predict("ecco", ROWS)
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape")]
    with pytest.raises(frostline.InvalidInput, match=r"^unexpected shape$"):
        client.predict(MODEL, ROWS)


def test_a_model_unloaded_while_the_list_is_made_is_left_out(client: frostline.Client, server: FakeServer) -> None:
    server.unloaded = "gone"
    assert [model.name for model in client.models()] == ["broken", MODEL]


def test_an_answer_that_contradicts_itself_is_refused() -> None:
    for shape, size in (([2, 3], 4), ([1], 8), ([2**40, 2**40], 4)):
        damaged = typed.PredictResponse(logits=typed.Tensor(dtype=typed.FP32, shape=shape, data=bytes(size)))
        with pytest.raises(frostline.FrostlineError, match="the server's answer is damaged: logits"):
            messages.prediction(damaged, 0)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_readings_come_in_the_networks_own_precision(dtype: str) -> None:
    names: dict[str, typed.DataType] = {"<f2": typed.FP16, "<f4": typed.FP32, "<f8": typed.FP64}
    scores = np.array([[0.1, 0.9], [0.7, 0.3]], dtype)
    reading = typed.Tensor(dtype=names[dtype], shape=[2, 2], data=scores.tobytes())
    classes = typed.Tensor(dtype=typed.INT64, shape=[2], data=np.array([1, 0], "<i8").tobytes())
    made = messages.prediction(typed.PredictResponse(logits=reading, softmax=reading, argmax=classes), 0)
    assert made.softmax.dtype == made.logits.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(made.softmax, scores)
    assert made.argmax.tolist() == [1, 0]


def test_a_reading_of_a_type_that_none_has_is_refused() -> None:
    texts = typed.PredictResponse(logits=typed.Tensor(dtype=typed.BYTES, shape=[1], data=bytes(4)))
    with pytest.raises(frostline.FrostlineError, match="the server's answer has logits of type BYTES"):
        messages.prediction(texts, 0)


def test_an_unavailable_server_is_tried_again_until_it_answers(client: frostline.Client, server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")] * 2
    assert client.predict(MODEL, ROWS).argmax.tolist() == [1, 0]
    attempts = [headers.get("grpc-previous-rpc-attempts") for headers in server.headers]
    assert attempts == [None, "1", "2"]


def test_a_large_request_is_tried_again_too(client: frostline.Client, server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")]
    client.predict(MODEL, np.zeros((400_000, 3), np.float32), outputs=["argmax"])
    assert len(server.requests) == 2


def test_after_five_attempts_the_failure_is_reported(client: frostline.Client, server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")] * 9
    server.trailers = {"frostline-error": "queue_full"}
    with pytest.raises(frostline.Overloaded) as caught:
        client.predict(MODEL, ROWS)
    assert (caught.value.code, caught.value.kind) == ("UNAVAILABLE", "queue_full")
    assert len(server.requests) == 5


def test_a_server_that_keeps_failing_is_not_tried_again_until_it_answers(
    client: frostline.Client, server: FakeServer
) -> None:
    refusal = (grpc.StatusCode.UNAVAILABLE, "no capacity")
    # Told not to try again, the client reports each failure at once, and remembers it like any other.
    server.trailers = {"grpc-retry-pushback-ms": "-1"}
    server.failures = [refusal] * 60
    for _ in range(60):
        with pytest.raises(frostline.ServerUnavailable):
            client.predict(MODEL, ROWS)
    server.trailers, server.requests, server.failures = {}, [], [refusal]
    with pytest.raises(frostline.ServerUnavailable):
        client.predict(MODEL, ROWS)
    assert len(server.requests) == 1
    # 39 tokens are left, a success gives a tenth back, and more than half of the hundred allow a retry.
    for _ in range(121):
        client.predict(MODEL, ROWS)
    server.requests, server.failures = [], [refusal]
    client.predict(MODEL, ROWS)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "trailers", "kind"),
    [
        # A model may be called `queue-router`, or `stopping`: only the trailer says what failed.
        ("UNAVAILABLE", {"frostline-error": "model_not_ready"}, frostline.ModelNotReady),
        ("UNAVAILABLE", {}, frostline.ServerUnavailable),
        ("RESOURCE_EXHAUSTED", {"frostline-error": "overloaded"}, frostline.Overloaded),
        ("RESOURCE_EXHAUSTED", {}, frostline.MessageTooLarge),
    ],
)
def test_the_trailer_tells_what_failed_and_words_do_not(
    client: frostline.Client,
    server: FakeServer,
    status: str,
    trailers: dict[str, str],
    kind: type[frostline.FrostlineError],
) -> None:
    words = "model 'queue-router' version 1 is not at ready state, Overloaded: stopping"
    server.failures = [(grpc.StatusCode[status], words)] * 5
    server.trailers = {**trailers, "grpc-retry-pushback-ms": "-1"}
    with pytest.raises(frostline.FrostlineError) as caught:
        client.predict(MODEL, ROWS)
    assert type(caught.value) is kind
    assert caught.value.kind == trailers.get("frostline-error", "")


def test_what_is_added_to_an_error_keeps_its_kind(client: frostline.Client, server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "idx=7 must be within the inclusive range [-3,2]")]
    server.trailers = {"frostline-error": "invalid_data"}
    with pytest.raises(frostline.InvalidInput, match="; echo expects input FP32") as caught:
        client.predict(MODEL, ROWS)
    assert (caught.value.code, caught.value.kind) == ("INVALID_ARGUMENT", "invalid_data")
    server.failures = [(grpc.StatusCode.NOT_FOUND, "gone")]
    server.trailers = {"frostline-error": "model_not_found"}
    with pytest.raises(frostline.ModelNotFound, match="gone; the server has: ") as missing:
        client.predict(MODEL, ROWS)
    assert missing.value.kind == "model_not_found"


@pytest.mark.parametrize("status", ["INTERNAL", "NOT_FOUND", "RESOURCE_EXHAUSTED", "ABORTED"])
def test_no_other_failure_is_tried_again(client: frostline.Client, server: FakeServer, status: str) -> None:
    server.failures = [(grpc.StatusCode[status], "no")]
    with pytest.raises(frostline.FrostlineError):
        client.predict(MODEL, ROWS)
    assert len(server.requests) == 1


def test_a_late_answer_is_given_up_and_the_server_is_told(client: frostline.Client, server: FakeServer) -> None:
    server.silent = True
    with pytest.raises(frostline.DeadlineExceeded, match=r"no answer from 127.0.0.1:\d+ within 0.1 s; allow more"):
        client.predict(MODEL, ROWS, timeout_s=0.1)
    assert server.gone.wait(10)


def test_the_clients_own_timeout_holds_for_calls_without_one(server: FakeServer) -> None:
    server.silent = True
    with frostline.connect(server.address, timeout_s=0.1) as client, pytest.raises(frostline.DeadlineExceeded):
        client.predict(MODEL, ROWS)


def test_without_a_server_the_error_says_how_to_start_one() -> None:
    address = _closed_port()
    with frostline.connect(address) as client:
        with pytest.raises(frostline.ServerUnavailable) as caught:
            client.predict(MODEL, ROWS)
        assert not client.ready()
    assert str(caught.value) == (
        f"no Frostline server answers at {address}; start one with `frostline serve --models models` "
        "(Connection refused)"
    )


def test_the_http_port_is_said_to_be_one() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        serving = threading.Thread(target=http.serve_forever)
        serving.start()
        try:
            with (
                frostline.connect(f"127.0.0.1:{http.server_port}") as client,
                pytest.raises(frostline.ServerUnavailable, match="this may be the HTTP port of a Frostline server"),
            ):
                client.predict(MODEL, ROWS)
        finally:
            http.shutdown()
            serving.join()


def test_closing_ends_calls_under_way_and_later_ones_with_one_error(server: FakeServer) -> None:
    client = frostline.connect(server.address)
    server.silent = True
    failures: list[frostline.FrostlineError] = []

    def call(rows: Any) -> None:
        try:
            client.predict(MODEL, rows)
        except frostline.FrostlineError as error:
            failures.append(error)

    waiting = threading.Thread(target=call, args=[ROWS])
    waiting.start()
    assert server.asked.wait(10)
    client.close()
    waiting.join()
    call(ROWS)
    call(ROWS.tolist())
    with pytest.raises(frostline.FrostlineError) as caught:
        client.ready()
    told = {(error.code, str(error)) for error in (*failures, caught.value)}
    assert len(failures) == 3
    assert told == {("CANCELLED", f"this client of {server.address} is closed; make another one")}
    client.close()


def test_a_forked_child_is_told_to_make_its_own_client(client: frostline.Client) -> None:
    client.predict(MODEL, ROWS)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Where it hangs, as without the refusal it may, the test fails and does not.
        signal.alarm(30)
        for rows in (ROWS, ROWS.tolist()):
            with suppress(frostline.FrostlineError):
                try:
                    client.predict(MODEL, rows, timeout_s=1)
                except RuntimeError as error:
                    os.write(writing, f"{error}\n".encode())
        client.close()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        told = answers.read().splitlines()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(told) == 2
    assert all("was made in another process, from which this one was forked; make one in each" in each for each in told)
    assert client.predict(MODEL, ROWS).argmax.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"top_k": 1.5}, "top_k must be a whole number, but is 1.5 (float)"),
        ({"top_k": "3"}, "top_k must be a whole number, but is '3' (str)"),
        ({"top_k": None}, "top_k must be a whole number, but is None (NoneType)"),
        ({"top_k": [1]}, "top_k must be a whole number, but is [1] (list)"),
        ({"outputs": 5}, "outputs must be a name or a list of names, such as ['softmax'], but is 5"),
        ({"outputs": [5]}, "outputs must be a name or a list of names, such as ['softmax'], but is [5]"),
        (
            {"outputs": (["argmax"],)},
            "outputs must be a name or a list of names, such as ['softmax'], but is (['argmax'],)",
        ),
        ({"version": 1.0}, "version must be a whole number or a label, but is 1.0 (float)"),
        ({"version": b"1"}, "version must be a whole number or a label, but is b'1' (bytes)"),
        ({"version": True}, "version must be a whole number or a label, but is True (bool)"),
        ({"model": 5}, "the model must be its name, a text (str), but is 5 (int)"),
        ({"model": None}, "the model must be its name, a text (str), but is None (NoneType)"),
    ],
)
async def test_what_is_asked_in_another_type_is_refused_with_its_name(
    client: frostline.Client, server: FakeServer, arguments: dict[str, Any], sentence: str
) -> None:
    for rows in (ROWS, ROWS.tolist(), [{"a": 1}]):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            client.predict(**{"model": MODEL, "inputs": rows, **arguments})
        async with frostline.connect_async(server.address) as other:
            with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
                await other.predict(**{"model": MODEL, "inputs": rows, **arguments})
    assert server.requests == []


def test_every_question_refuses_what_is_no_name(client: frostline.Client) -> None:
    for question in (client.model, client.schema, client.ready):
        with pytest.raises(ValueError, match=r"^the model must be its name, a text .* but is 5"):
            question(5)  # type: ignore[arg-type]  # that is the question
        with pytest.raises(ValueError, match=r"^version must be a whole number or a label, but is 1\.0"):
            question(MODEL, version=1.0)  # type: ignore[arg-type]  # likewise


def test_versions_may_be_whole_numbers_and_none_is_any(client: frostline.Client, server: FakeServer) -> None:
    client.predict(MODEL, ROWS, version=2, top_k=np.int64(1), outputs="argmax")  # type: ignore[arg-type]  # NumPy has no type that says so
    client.predict(MODEL, ROWS, version=None)
    assert client.ready(MODEL, version=2)
    assert [request.version for request in server.requests] == ["2", ""]


def test_an_input_whose_name_is_no_text_is_refused(client: frostline.Client) -> None:
    with pytest.raises(frostline.InvalidInput, match=r"^the name of an input must be a text .*, but is 0 \(int\)"):
        client.predict(MODEL, {0: ROWS, "mask": ROWS})


def test_a_server_that_hangs_is_given_up_before_the_time_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    pings = ("grpc.keepalive_time_ms", "grpc.http2.ping_timeout_ms")
    quick = tuple((key, 100 if key in pings else value) for key, value in channel._OPTIONS)
    monkeypatch.setattr(channel, "_OPTIONS", quick)
    with socket.create_server(("127.0.0.1", 0)) as door:

        def hang() -> None:
            accepted, _ = door.accept()
            with accepted:
                accepted.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS, as if all were well
                while accepted.recv(1 << 16):
                    pass

        hanging = threading.Thread(target=hang)
        hanging.start()
        with frostline.connect(f"127.0.0.1:{door.getsockname()[1]}") as client:
            assert not client.ready(timeout_s=20)
        hanging.join()


def test_servers_are_pinged_as_often_as_ours_let_them() -> None:
    told = dict(channel.arguments("box").options)
    assert (told["grpc.keepalive_time_ms"], told["grpc.http2.ping_timeout_ms"]) == (10_000, 30_000)


def test_names_that_are_no_text_are_refused(client: frostline.Client) -> None:
    for call in (
        lambda: client.predict("\ud800", ROWS),
        lambda: client.predict("\ud800", ROWS.tolist()),
        lambda: client.predict(MODEL, ROWS, version="\ud800"),
        lambda: client.schema("\ud800"),
        lambda: client.ready("\ud800"),
    ):
        with pytest.raises(
            frostline.InvalidInput, match=r"^'\\ud800' has half of a surrogate pair, which is no character"
        ):
            call()


def test_a_row_over_the_servers_limit_says_what_to_change() -> None:
    with (
        fake_server(max_message_bytes=4096) as server,
        frostline.connect(server.address) as client,
        pytest.raises(frostline.MessageTooLarge, match="--max-message-bytes"),
    ):
        client.predict(MODEL, np.zeros((2, 3000), np.float32))


def test_rows_over_the_servers_limit_are_sent_in_several_messages() -> None:
    rows = np.eye(3, dtype=np.float32)[np.arange(8) % 3].repeat(100, axis=1)
    with fake_server(max_message_bytes=4096) as server, frostline.connect(server.address) as client:
        assert client.predict(MODEL, rows).logits.tolist() == rows[:, :3].tolist()
        # 1200 bytes a row: 8, 4, and then as many as fit.
        assert [request.inputs[0].shape[0] for request in server.requests] == [2, 2, 2, 2]
        server.requests.clear()
        assert len(client.predict(MODEL, rows[:3])) == 3
        assert [request.inputs[0].shape[0] for request in server.requests] == [3]


def test_models_lists_states_reasons_and_inputs(client: frostline.Client) -> None:
    broken, echo = client.models()
    assert (broken.name, broken.state, broken.ready) == ("broken", "UNAVAILABLE", False)
    assert broken.reason == "golden check: row 3 is off by 0.5"
    assert echo == client.model(MODEL)
    assert (echo.version, echo.ready, echo.max_batch_size) == ("2", True, 4)
    assert echo.inputs == (frostline.TensorSpec("input", "FP32", (-1, 3)),)
    assert str(echo.outputs[0]) == "logits FP32 [any, 3]"


def test_ready_tells_about_the_server_and_about_one_model(client: frostline.Client, server: FakeServer) -> None:
    assert client.ready()
    assert client.ready(MODEL)
    server.ready = False
    assert not client.ready()
    assert not client.ready(MODEL, version="2")
    with pytest.raises(frostline.ModelNotFound):
        client.ready("ecco")


def test_metadata_goes_with_every_call(server: FakeServer) -> None:
    with frostline.connect(server.address, metadata={"authorization": "Bearer x"}) as client:
        client.predict(MODEL, ROWS)
    assert server.headers[0]["authorization"] == "Bearer x"


def test_metadata_goes_in_lower_case_and_as_bytes_where_the_key_says_so(server: FakeServer) -> None:
    with frostline.connect(server.address, metadata={"X-Tenant": "b c", "x-empty": "", "X-Id-Bin": b"\n"}) as client:
        client.predict(MODEL, ROWS)
    assert (server.headers[0]["x-tenant"], server.headers[0]["x-empty"]) == ("b c", "")
    assert server.headers[0]["x-id-bin"] == str(b"\n")


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"Bad Key": "x"}, "the key 'Bad Key'; a key is letters, digits"),
        ({"": "x"}, "the key ''; a key is"),
        ({5: "x"}, "the key 5; a key is"),
        ({"x": 5}, r"metadata\['x'\] must be a text \(str\), but is int; give bytes to a key that ends in -bin"),
        ({"x": b"a"}, r"metadata\['x'\] must be a text \(str\), but is bytes"),
        ({"x-bin": "a"}, r"metadata\['x-bin'\] must be bytes, as its key ends in -bin, but is str"),
        (
            {"x": "secret\n"},
            r"^metadata\['x'\] must be printable ASCII without spaces around it, but has '\\n' at 6; give",
        ),
        ({"x": "ü"}, "but has 'ü' at 0"),
        ({"x": "a "}, "but has ' ' at 1"),
        ({"grpc-timeout": "1n"}, "the key 'grpc-timeout', which is gRPC's own"),
        ({"Connection": "close"}, "the key 'Connection', which is the connection's own"),
        ({"X-A": "1", "x-a": "2"}, "the key 'x-a' twice; capital letters make no difference"),
    ],
)
def test_metadata_that_cannot_be_sent_is_refused_at_once(metadata: Mapping[Any, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        frostline.connect("localhost", metadata=metadata)


@pytest.mark.parametrize("timeout_s", [1e10, sys.maxsize, 1e300])
def test_a_timeout_beyond_grpcs_clock_is_a_long_one(server: FakeServer, timeout_s: float) -> None:
    with frostline.connect(server.address, timeout_s=timeout_s) as client:
        assert client.predict(MODEL, ROWS).argmax.tolist() == [1, 0]
        assert client.predict(MODEL, ROWS.tolist(), timeout_s=timeout_s).argmax.tolist() == [1, 0]
        assert client.ready(timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ([], "the list of addresses is empty"),
        (
            ["10.0.0.1", "box:8001"],
            "a list holds IP addresses, .* not 10.0.0.1:8001, box:8001; for all addresses of a name",
        ),
        (["10.0.0.1", "[::1]"], "all of version 4 or all of version 6"),
    ],
)
def test_a_list_that_grpc_cannot_use_is_refused(address: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        frostline.connect(address)


@pytest.mark.parametrize(
    ("address", "sentence"), [("http://localhost:8001", "is a URL"), ("", "names no host"), (":8001", "names no host")]
)
def test_an_address_that_makes_no_sense_is_refused(address: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        frostline.connect(address)


@pytest.mark.parametrize("form", ["box:{}", "127.0.0.1:{}", "[::1]:{}", "dns:box:{}", "dns:///box:{}", "ipv4:10.0.0.1:{}", "ipv6:[::1]:{}", "dns://10.0.0.1/box:{}", "dns://10.0.0.1:{}/box"])  # fmt: skip
@pytest.mark.parametrize("port", ["87636", "65536", "0", "-43436", "+22100", " 22100", "2_000", "abc", "", "\u0663", "9" * 5000])  # fmt: skip
async def test_a_port_that_there_cannot_be_is_refused(form: str, port: str) -> None:
    for connect in (frostline.connect, frostline.connect_async):
        with pytest.raises(
            ValueError, match=r"has the port .* no number from 1 to 65535; write the address as host:port"
        ):
            connect(form.format(port))


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("localhost:22100/", "write the address as host:port"),
        (" localhost:9", "write the address as host:port"),
        ("a b", "write the address as host:port"),
        ("dns:///", "write the address as host:port"),
        ("ipv4:10.0.0.1:9,,10.0.0.2:9", "write the address as host:port"),
        (["10.0.0.1:9", "10.0.0.2:65536"], "has the port '65536', which is no number from 1 to 65535"),
        ("10.0.0.1:9,10.0.0.2:9", "names several servers; give them as a list"),
        ("dns:/box:9", "is no name to look up; write it as dns:///host:port"),
        ("dns://box:9", "is no name to look up; write it as dns:///host:port"),
        ("2001:db8::1", "write an IPv6 address in brackets, such as [::1]:8001"),
        ("/run/frostline.sock", "write the address of a Unix socket as unix:/run/frostline.sock"),
    ],
)
def test_what_is_no_host_and_port_is_refused_with_what_would_be(address: str | list[str], remedy: str) -> None:
    with pytest.raises(ValueError, match=re.escape(remedy)):
        frostline.connect(address)


@pytest.mark.parametrize(
    ("argument", "value", "sentence"),
    [
        ("address", None, "an address must be a text (str) such as localhost:8001, but is NoneType"),
        ("address", 5, "an address must be a text (str) such as localhost:8001, but is int"),
        ("address", b"box", "an address must be a text (str) such as localhost:8001, but is bytes"),
        ("address", ["10.0.0.1", 5], "an address must be a text (str) such as localhost:8001, but is int"),
        ("timeout_s", "x", "timeout_s must be a number of seconds, but is str"),
        ("timeout_s", None, "timeout_s must be a number of seconds, but is NoneType"),
        ("tls", None, "tls must be True, False or the path of a PEM file, but is NoneType"),
        ("certificate", 5, "certificate must be the path of a PEM file, but is int"),
        ("key", True, "key must be the path of a PEM file, but is bool"),
        ("server_name", 5, "server_name must be a text (str), but is int"),
        ("token", 5, "the token must be a text (str), but is int"),
        ("metadata", [("a", "b")], "metadata must be a dict of texts, or of bytes, by their keys, but is list"),
    ],
)
async def test_an_argument_of_another_type_is_refused_with_the_type_that_is_expected(
    argument: str, value: Any, sentence: str
) -> None:
    for connect in (frostline.connect, frostline.connect_async):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            connect(**{argument: value})


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_makes_no_sense_is_refused(client: frostline.Client, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s must be positive and finite, but is"):
        frostline.connect("localhost", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="timeout_s must be positive and finite, but is"):
        client.predict(MODEL, ROWS, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("box", "box:8001"),
        ("127.0.0.1:9", "127.0.0.1:9"),
        ("[::1]", "[::1]:8001"),
        ("[::1]:9", "[::1]:9"),
        ("unix:/run/frostline.sock", "unix:/run/frostline.sock"),
        ("dns:///box:9", "dns:///box:9"),
        ("dns:///box", "dns:///box"),
        ("dns:box:65535", "dns:box:65535"),
        ("dns://10.0.0.1:53/box:9", "dns://10.0.0.1:53/box:9"),
        ("ipv4:10.0.0.1:9,10.0.0.2:1", "ipv4:10.0.0.1:9,10.0.0.2:1"),
        ("ipv6:[::1]:9", "ipv6:[::1]:9"),
        ("[fe80::1%lo]:9", "[fe80::1%lo]:9"),
        ("m\u00fcnchen.example:09", "m\u00fcnchen.example:09"),
        (["box"], "box:8001"),
        (["127.0.0.1", "127.0.0.2:9"], "127.0.0.1:8001, 127.0.0.2:9"),
        (["[::1]", "[::2]:9"], "[::1]:8001, [::2]:9"),
    ],
)
def test_the_port_is_8001_when_left_out(address: str | list[str], target: str) -> None:
    with frostline.connect(address) as client:
        assert client.address == target


def test_a_certificate_file_turns_tls_on(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())]
    )
    with fake_server(credentials=credentials) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        with frostline.connect(address, tls=roots) as client:
            assert client.predict(MODEL, ROWS).labels == (LABELS[1], LABELS[0])
        with frostline.connect(address) as client, pytest.raises(frostline.ServerUnavailable):
            client.predict(MODEL, ROWS, timeout_s=10)


async def test_a_server_that_is_not_there_is_unavailable_also_where_the_time_is_too_short_to_try_again() -> None:
    address, words = _closed_port(), "no Frostline server answers at .*Connection refused"
    with frostline.connect(address, timeout_s=0.4) as client:
        for call in (client.models, lambda: client.predict(MODEL, ROWS)):
            with pytest.raises(frostline.ServerUnavailable, match=words):
                call()
    async with frostline.connect_async(address, timeout_s=0.4) as other:
        for awaited in (other.models, lambda: other.predict(MODEL, ROWS)):
            with pytest.raises(frostline.ServerUnavailable, match=words):
                await awaited()


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_a_proxy_of_the_environment_is_named_where_no_server_answers(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://user:secret@{_closed_port()}")
    with (
        frostline.connect("10.0.0.1:9") as client,
        pytest.raises(frostline.ServerUnavailable, match=f"through the proxy .* variable {variable} names") as caught,
    ):
        client.models()
    assert "secret" not in str(caught.value)
    assert channel.arguments("LOCALHOST:9").proxy == ""
    monkeypatch.setenv("no_proxy", "10.0.0.0/8, .Example,box")
    found = [channel.arguments(to).proxy for to in ("10.1.2.3:9", "a.example:9", "dns:///box:9", "pool.test:9", ["10.0.0.1:9", "11.0.0.1:9"])]  # fmt: skip
    assert found == ["", "", "", variable, variable]


def _closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
