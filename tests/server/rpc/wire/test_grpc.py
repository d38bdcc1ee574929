"""gRPC over HTTP/2 as its PROTOCOL-HTTP2.md and compression.md have it: requests, refusals, and the shape of answers."""

import base64
import gzip
import re
import zlib
from urllib.parse import unquote

import pytest

from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER, PREDICT
from tests.support import wire as w
from tests.support.wire import data, headers, literal, message, request
from tests.support.wires import MODEL, Case, Wire, assert_answers, call, outcome, question

PAYLOAD = question(1)
BODY = message(PAYLOAD)
ANSWERED = ("answered",)
UNSUPPORTED_TYPE = ("http 415",)
UNIMPLEMENTED = ("status 12",)
INTERNAL = ("status 13",)
LIMIT = 64 << 20


def asking(body: bytes = BODY, path: str = MODEL_INFER, **changed: str) -> bytes:
    """A call with headers of its own, or a body of its own."""
    return headers(1, literal(request(path, **changed))) + data(1, body, end=True)


def whole_with_path(path: bytes) -> bytes:
    """A call whose path is any bytes."""
    fields = [(name.encode(), value.encode()) for name, value in request(MODEL_INFER, without=[":path"])]
    return headers(1, literal([*fields[:1], (b":path", path), *fields[1:]])) + data(1, BODY, end=True)


ONLY_POST = ("http 405", "status 12", "status 13", "stream PROTOCOL_ERROR", "stream INTERNAL_ERROR")
NO_SUCH_PATH = ("status 12", "stream PROTOCOL_ERROR", "connection PROTOCOL_ERROR", "http 400")
FATAL: dict[str, tuple[str, ...]] = {"grpcio": ()}  # it stops listening, for everybody and for good
# It looks only at whether the type begins with application/grpc, and answers any other as gRPC does.
ANY_TYPE = {"grpcio": ("answered", *UNSUPPORTED_TYPE)}
# What grpcio does otherwise than gRPC's own documents say.
NEEDS_TE = {"grpcio": ("stream INTERNAL_ERROR",)}
NOT_SPLIT = {"grpcio": INTERNAL}
UNANSWERED: dict[str, tuple[str, ...]] = {"grpcio": ()}  # such a call never ends
AS_MALFORMED = {"grpcio": INTERNAL}  # an encoding that it does not know is a malformed header to it
AS_EMPTY = {"grpcio": ("status 5",)}  # it takes such a message for one of 0 bytes

HEADERS = [
    Case("content-type application/grpc", asking(content_type="application/grpc"), ANSWERED),
    Case("content-type application/grpc+proto", asking(content_type="application/grpc+proto"), ANSWERED),
    Case("content-type with a parameter", asking(content_type="application/grpc;charset=utf-8"), ANSWERED),
    Case("content-type application/grpc-web", asking(content_type="application/grpc-web"), UNSUPPORTED_TYPE, ANY_TYPE),
    Case("content-type application/grpc-web+proto", asking(content_type="application/grpc-web+proto"), UNSUPPORTED_TYPE, ANY_TYPE),
    Case("content-type text/plain", asking(content_type="text/plain"), UNSUPPORTED_TYPE, ANY_TYPE),
    Case("content-type application/json", asking(content_type="application/json"), UNSUPPORTED_TYPE, ANY_TYPE),
    Case("content-type application/grpcx", asking(content_type="application/grpcx"), UNSUPPORTED_TYPE, ANY_TYPE),
    Case("no content-type", headers(1, literal(request(MODEL_INFER, without=["content-type"]))) + data(1, BODY, end=True), UNSUPPORTED_TYPE, ANY_TYPE),
    Case("te is for proxies, and may be missing", headers(1, literal(request(MODEL_INFER, without=["te"]))) + data(1, BODY, end=True), ANSWERED, NEEDS_TE),
    Case("method GET", headers(1, literal(request(MODEL_INFER, _method="GET")), end=True), ONLY_POST),
    Case("method PUT", asking(_method="PUT"), ONLY_POST),
    Case("method CONNECT, which has no path", headers(1, literal([(":method", "CONNECT"), (":authority", "localhost:80")])), ONLY_POST),
    Case("method OPTIONS of the path *", headers(1, literal(request("*", _method="OPTIONS")), end=True), ONLY_POST),
    Case("scheme https", asking(_scheme="https"), ANSWERED),
    Case("an unknown method", asking(path="/inference.GRPCInferenceService/Other"), UNIMPLEMENTED),
    Case("an unknown service", asking(path="/other.Service/ModelInfer"), UNIMPLEMENTED),
    Case("a path is case-sensitive", asking(path=MODEL_INFER.lower()), UNIMPLEMENTED),
    Case("a path has no query", asking(path=f"{MODEL_INFER}?x=1"), UNIMPLEMENTED),
    Case("a path has no further part", asking(path=f"{MODEL_INFER}/x"), UNIMPLEMENTED),
    Case("the path /", asking(path="/"), UNIMPLEMENTED),
    Case("a path that is no UTF-8", whole_with_path(b"/\xff"), NO_SUCH_PATH, FATAL),
    Case("a method that is no UTF-8", whole_with_path(MODEL_INFER.encode() + b"\xee"), NO_SUCH_PATH, FATAL),
    Case("a method of another service that is no UTF-8", whole_with_path(b"/grpc.health.v1.Health/Check\xc3"), NO_SUCH_PATH, FATAL),
    Case("a path that is UTF-8 beyond ASCII", whole_with_path("/größe/Größe".encode()), NO_SUCH_PATH),
    Case("an unknown method without a message", headers(1, literal(request("/a/b")), end=True), UNIMPLEMENTED),
    Case("user-agent and other metadata", asking(user_agent="grpc-x/1.2 (y; z)", x_any="a, b;c=\"d\"", x_empty=""), ANSWERED),
    Case("reserved headers that mean nothing here", asking(grpc_future="1", grpc_message_type="a.B", grpc_previous_rpc_attempts="2", grpc_tags_bin="AAAA", grpc_trace_bin="AAAA"), ANSWERED),
    Case("binary metadata, unpadded, padded, empty and joined", asking(a_bin="AA", b_bin="AA==", c_bin="", d_bin="AA,AAAA"), ANSWERED, NOT_SPLIT),
    Case("binary metadata that is no base64", asking(a_bin="!*"), (*ANSWERED, "status 13", "stream PROTOCOL_ERROR")),
    Case("a status of the client's own means nothing", asking(grpc_status="5", grpc_message="no"), ANSWERED),
    Case("accepting encodings that nobody knows", asking(grpc_accept_encoding="snappy,  ,zstd;q=1"), ANSWERED),
]  # fmt: skip

BAD_TIMEOUT = ("status 13", "status 3", "http 400", "stream PROTOCOL_ERROR", "answered")
"""The specification leaves open what a server does; C++ and Python ignore such a timeout."""

SLOW: dict[str, tuple[str, ...]] = {"grpcio": ()}  # to refuse a malformed header takes it a tenth of a second

TIMEOUTS = [
    *[Case(f"grpc-timeout {value}", asking(grpc_timeout=value), ANSWERED) for value in ("1H", "1M", "99S", "99999m", "99999999u", "99999999H", "00000099S")],
    *[
        Case(f"grpc-timeout {value!r} is none", asking(grpc_timeout=value), BAD_TIMEOUT, SLOW)
        for value in ("", "S", "9", "9x", "9s", "-9S", "+9S", "9.5S", "9_9S", "999999999S", "9SS", "S9", "\u0669S", "9 S", "inf")
    ],
]  # fmt: skip

MESSAGES = [
    Case("a message of a model that is none", asking(message(question(1, model="other"))), ("status 5",)),
    Case("a message of 0 bytes", asking(message(b"")), ("status 3", "status 5")),
    Case("bytes that are no message", asking(message(b"\xff" * 50)), ("status 3", "status 13")),
    Case("no message, END_STREAM on HEADERS", headers(1, literal(request(MODEL_INFER)), end=True), (*UNIMPLEMENTED, *INTERNAL), UNANSWERED),
    Case("no message, END_STREAM on an empty DATA frame", asking(b""), (*UNIMPLEMENTED, *INTERNAL), UNANSWERED),
    Case("two messages", asking(BODY + BODY), (*UNIMPLEMENTED, *INTERNAL), {"grpcio": ANSWERED}),  # it reads one
    Case("a message and an empty one", asking(BODY + message(b"")), (*UNIMPLEMENTED, *INTERNAL), {"grpcio": ANSWERED}),
    Case("a prefix that ends early", asking(BODY[:3]), INTERNAL, UNANSWERED),
    Case("a message that ends early", asking(BODY[:-1]), INTERNAL, UNANSWERED),
    Case("a second message that ends early", asking(BODY + BODY[:-1]), (*UNIMPLEMENTED, *INTERNAL), {"grpcio": ANSWERED}),
    Case("a byte after the message", asking(BODY + b"\0"), (*UNIMPLEMENTED, *INTERNAL), {"grpcio": ANSWERED}),
    Case("a message larger than allowed is refused before it comes", headers(1, literal(request(MODEL_INFER))) + data(1, message(b"", length=LIMIT + 1)), ("status 8",)),
    Case("a message of 4 GiB is refused before it comes", headers(1, literal(request(MODEL_INFER))) + data(1, b"\0\xff\xff\xff\xff"), ("status 8",)),
    Case("the same in a stream", headers(1, literal(request(MODEL_STREAM_INFER))) + data(1, b"\0\xff\xff\xff\xff"), ("status 8",)),
    Case("the same of another method", headers(1, literal(request("/inference.GRPCInferenceService/ServerLive"))) + data(1, b"\0\xff\xff\xff\xff"), ("status 8",)),
    Case("the same of Predict", headers(1, literal(request(PREDICT))) + data(1, b"\0\xff\xff\xff\xff"), ("status 8",)),
    Case("the same compressed", headers(1, literal(request(MODEL_INFER, grpc_encoding="gzip"))) + data(1, b"\1\xff\xff\xff\xff"), ("status 8",)),
]  # fmt: skip

GZIPPED, DEFLATED = gzip.compress(PAYLOAD), zlib.compress(PAYLOAD)


def compressed(payload: bytes, encoding: str = "gzip", flag: int = 1) -> bytes:
    """A call whose message is of these bytes."""
    return asking(message(payload, compressed=flag), grpc_encoding=encoding)


COMPRESSION = [
    Case("gzip", compressed(GZIPPED), ANSWERED),
    Case("deflate, which is zlib's format", compressed(DEFLATED, "deflate"), ANSWERED),
    Case("identity", compressed(PAYLOAD, "identity", 0), ANSWERED),
    Case("gzip is named, and the message is not compressed", compressed(PAYLOAD, flag=0), ANSWERED),
    Case("deflate is named, and the message is not compressed", compressed(PAYLOAD, "deflate", 0), ANSWERED),
    Case("the flag without an encoding", asking(message(GZIPPED, compressed=1)), INTERNAL),
    Case("the flag with identity", compressed(PAYLOAD, "identity"), INTERNAL),
    Case("a flag of 2", asking(message(PAYLOAD, compressed=2)), INTERNAL, AS_EMPTY),
    Case("a flag of 255 with gzip", compressed(GZIPPED, flag=255), INTERNAL, AS_EMPTY),
    Case("an unknown encoding", compressed(GZIPPED, "snappy"), UNIMPLEMENTED, AS_MALFORMED),
    Case("an encoding is case-sensitive", compressed(GZIPPED, "GZIP"), UNIMPLEMENTED, AS_MALFORMED),
    Case("an unknown encoding, and the message is not compressed", compressed(PAYLOAD, "snappy", 0), (*UNIMPLEMENTED, *ANSWERED), AS_MALFORMED),
    Case("gzip in the place of deflate", compressed(GZIPPED, "deflate"), INTERNAL),
    Case("deflate in the place of gzip", compressed(DEFLATED), INTERNAL),
    Case("bytes that are no gzip", compressed(b"\0" * 40), INTERNAL),
    Case("gzip that ends early", compressed(GZIPPED[:-9]), INTERNAL),
    Case("gzip without its checksum", compressed(GZIPPED[:-8]), INTERNAL),
    Case("deflate that ends early", compressed(DEFLATED[:-1], "deflate"), INTERNAL),
    Case("gzip with a wrong checksum", compressed(GZIPPED[:-8] + bytes(4) + GZIPPED[-4:]), INTERNAL),
    Case("gzip with a wrong length", compressed(GZIPPED[:-1] + b"\x7f"), INTERNAL),
    Case("deflate with a wrong checksum", compressed(DEFLATED[:-1] + bytes([DEFLATED[-1] ^ 1]), "deflate"), INTERNAL),
    Case("gzip with a changed byte", compressed(GZIPPED[:15] + bytes([GZIPPED[15] ^ 0xFF]) + GZIPPED[16:]), INTERNAL),
    Case("gzip in two members is one message", compressed(gzip.compress(PAYLOAD[:20]) + gzip.compress(PAYLOAD[20:])), (*ANSWERED, *INTERNAL)),
    Case("gzip with garbage after it", compressed(GZIPPED + b"garbage"), INTERNAL),
    Case("deflate with garbage after it", compressed(DEFLATED + b"garbage", "deflate"), INTERNAL),
    Case("0 bytes with the flag", compressed(b""), INTERNAL, AS_EMPTY),
    Case("a compressed message of 0 bytes", compressed(gzip.compress(b"")), ("status 3", "status 5")),
    Case("gzip of more than a message may have", compressed(gzip.compress(bytes(LIMIT + 1), 1)), ("status 8",)),
    Case("deflate of more than a message may have", compressed(zlib.compress(bytes(LIMIT + 1), 1), "deflate"), ("status 8",)),
]  # fmt: skip


@pytest.mark.parametrize("case", HEADERS + TIMEOUTS + MESSAGES + COMPRESSION, ids=lambda case: case.sentence)
def test_call(wire: Wire, case: Case) -> None:
    expected = case.on(wire.transport)
    if not expected:
        pytest.skip(f"{wire.transport} answers that late or never, or does not survive it")
    with wire.greeted() as peer:
        assert outcome(peer, case.sent, expected) in expected


def test_an_answer_is_headers_a_message_and_trailers(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(call(1, 1))
        answer = peer.answer(1)
        assert_answers(answer, 1)
        assert answer.reset is None
        assert set(answer.headers) <= {
            ":status",
            "content-type",
            "grpc-encoding",
            "grpc-accept-encoding",
            "date",
            "server",
        }
        assert answer.headers.get("grpc-encoding", "identity") == "identity"
        assert answer.trailers["grpc-status"] == "0"
        assert answer.trailers.get("grpc-message", "") == ""


@pytest.mark.parametrize(
    "sent",
    [
        call(1, 1, model="other"),
        call(1, 1, path="/no.Service/Method"),
        asking(message(b"\xff" * 50)),
        headers(1, literal(request(MODEL_INFER))) + data(1, message(b"", length=LIMIT + 1)),
    ],
    ids=["no model", "no method", "no message", "too large"],
)
def test_an_error_is_one_block_of_headers(wire: Wire, sent: bytes) -> None:
    with wire.greeted() as peer:
        peer.send(sent)
        answer = peer.answer(1)
        assert answer.ended
        assert (answer.blocks, answer.body) == (1, b"")
        assert answer.headers[":status"] == "200"
        assert answer.headers["content-type"].startswith("application/grpc")
        assert re.fullmatch("[1-9][0-9]?", answer.headers["grpc-status"])
        assert answer.headers["grpc-message"]
        details = answer.headers.get("grpc-status-details-bin")
        if details is not None:
            assert base64.b64decode(details + "=" * (-len(details) % 4), validate=True)


def test_a_stream_that_the_server_ends_first_is_reset_without_an_error(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(headers(1, literal(request("/no.Service/Method"))))
        answer = peer.answer(1)
        assert answer.status == 12
        peer.until(lambda: answer.reset is not None)
        assert answer.reset == w.Code.NO_ERROR
        # What was under way means nothing any more, and harms nothing.
        peer.send(data(1, BODY[:9]), data(1, BODY[9:], end=True), call(3, 3))
        assert_answers(peer.answer(3), 3)


@pytest.mark.parametrize("text", ["größe", "100 %", "line\nbreak\r\ttab", "%41", "\x01\x7f", "日本語 🙂", "a" * 300])
def test_a_message_is_percent_encoded(wire: Wire, text: str) -> None:
    with wire.greeted() as peer:
        peer.send(w.unary(1, request(MODEL_INFER), question(1, model="no", request_id=text)))
        said = peer.answer(1).trailers["grpc-message"]
    assert re.fullmatch("(?:[ -$&-~]|%[0-9A-F]{2})+", said)
    assert unquote(said, errors="strict").startswith(f"[request id: {text[:100]}")


def test_the_encodings_that_are_understood_are_said(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(compressed(GZIPPED, "snappy"), call(3, 3))
        refused = peer.answer(1)
        assert refused.status is not None
        said = refused.headers.get("grpc-accept-encoding") or peer.answer(3).headers["grpc-accept-encoding"]
    assert {"gzip", "deflate"} <= {encoding.strip() for encoding in said.split(",")} <= {"identity", "gzip", "deflate"}
    assert "grpc-accept-encoding" in refused.headers or wire.transport == "grpcio"


@pytest.mark.parametrize("timeout", ["1n", "5m"])
def test_a_call_whose_time_has_passed_ends_while_the_device_is_busy(wire: Wire, timeout: str) -> None:
    with wire.greeted() as peer:
        with wire.server.held(MODEL) as held:
            peer.send(call(1, 1, grpc_timeout=timeout), call(3, 3, grpc_timeout="1M"))
            answer = peer.answer(1)
            assert answer.status == 4 or answer.reset == w.Code.CANCEL
            held.wait_until_queued(1)
        assert_answers(peer.answer(3), 3)


def test_a_call_whose_message_does_not_come_in_time_ends(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(headers(1, literal(request(MODEL_INFER, grpc_timeout="5m"))), data(1, BODY[:9]), call(3, 3))
        answer = peer.answer(1)
        assert answer.status == 4 or answer.reset == w.Code.CANCEL
        assert_answers(peer.answer(3), 3)


def test_headers_beyond_the_limit_are_refused_and_harm_no_other_call(wire: Wire) -> None:
    with wire.greeted() as peer:
        peer.send(call(1, 1))
        assert_answers(peer.answer(1), 1)
        long = literal([*request(MODEL_INFER), *[(f"x-{index}", "x" * 4000) for index in range(10)]])
        peer.send(headers(3, long[:16000], rest=[long[16000:32000], long[32000:]]), data(3, BODY, end=True), call(5, 5))
        refused = peer.answer(3)
        assert not refused.body
        after = peer.answer(5)
        if peer.closed:
            assert peer.goaway is not None
            assert peer.goaway[0] in {w.Code.ENHANCE_YOUR_CALM, w.Code.PROTOCOL_ERROR}
        else:
            assert_answers(after, 5)
