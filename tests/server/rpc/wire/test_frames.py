"""HTTP/2 frames, as RFC 9113 has them: what a client may send is understood, and what it may not ends what it harms."""

import itertools

import pytest

from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER
from tests.support import wire as w
from tests.support.wire import data, frame, headers, literal, message, request, settings, unary
from tests.support.wires import Case, Wire, call, outcome, question

FIELDS = request(MODEL_INFER)
BLOCK = literal(FIELDS)
BODY = message(question(1))
OPEN = headers(1, BLOCK)
CALL = OPEN + data(1, BODY, end=True)
PRIORITY_OF_3 = (3).to_bytes(4, "big") + b"\x10"
EXCLUSIVE_OF_0 = (1 << 31).to_bytes(4, "big") + b"\xff"
ITSELF = (1).to_bytes(4, "big") + b"\x10"


def at(payload: bytes, *cuts: int) -> list[bytes]:
    """The pieces of a payload between cuts."""
    edges = [0, *cuts, len(payload)]
    return [payload[a:b] for a, b in itertools.pairwise(edges)]


def in_frames(body: bytes, size: int, padding: int | None = None) -> bytes:
    """DATA frames of so many bytes; the last ends the stream."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(data(1, piece, end=index == len(pieces) - 1, padding=padding) for index, piece in enumerate(pieces))


ANSWERED = ("answered",)
NOTHING = ("nothing",)

# What the front ends' libraries do instead of what RFC 9113 says, where that harms nobody but the client that asks for it.
NO_PADDING = {"grpcio": ("stream PROTOCOL_ERROR", "closed")}  # it knows no padding, which no gRPC client sends
UNTESTED: dict[str, tuple[str, ...]] = {"grpcio": ()}  # it resets the stream, and goes on with it nevertheless
NO_OTHER_FLAGS = {"grpcio": ("stream PROTOCOL_ERROR", "closed")}  # it insists on the flags that it knows
SKIPPED = {"grpcio": NOTHING}  # it skips frames of a stream that it does not have, and of types it has no use for
LARGE_WINDOWS = {"grpcio": NOTHING}  # it counts windows in 64 bits
NO_PRIORITIES = {"h2": NOTHING}  # nghttp2 reads no priorities any more
FORGOTTEN = {"h2": NOTHING}  # nghttp2 keeps no list of closed streams, and skips what comes on one

ALLOWED = [
    Case("a call in one HEADERS and one DATA frame", CALL, ANSWERED),
    Case("DATA in frames of 1 byte", OPEN + in_frames(BODY, 1), ANSWERED),
    Case("DATA in frames of 7 bytes", OPEN + in_frames(BODY, 7), ANSWERED),
    Case("an empty DATA frame first", OPEN + data(1, b"") + data(1, BODY, end=True), ANSWERED),
    Case(
        "empty DATA frames between pieces of the message",
        OPEN + b"".join(data(1, b"") + data(1, piece) for piece in at(BODY, 3, 5, 20)) + data(1, b"", end=True),
        ANSWERED,
    ),
    Case("END_STREAM on an empty DATA frame", OPEN + data(1, BODY) + data(1, b"", end=True), ANSWERED),
    Case("6.1: padded DATA", OPEN + data(1, BODY, end=True, padding=10), ANSWERED, NO_PADDING),
    Case("6.1: DATA padded with 0 bytes", OPEN + data(1, BODY, end=True, padding=0), ANSWERED, NO_PADDING),
    Case("6.1: DATA padded with 255 bytes, in frames of 9", OPEN + in_frames(BODY, 9, 255), ANSWERED, NO_PADDING),
    Case("6.1: a DATA frame of padding only ends the stream", OPEN + data(1, BODY) + data(1, b"", end=True, padding=9), ANSWERED, UNTESTED),
    Case("6.2: padded HEADERS", frame(w.HEADERS, w.END_HEADERS | w.PADDED, 1, w.padded(BLOCK, 200)) + data(1, BODY, end=True), ANSWERED, NO_PADDING),
    Case("6.2: HEADERS with a priority", frame(w.HEADERS, w.END_HEADERS | w.PRIORITISED, 1, PRIORITY_OF_3 + BLOCK) + data(1, BODY, end=True), ANSWERED),
    Case(
        "6.2: padded HEADERS with an exclusive priority",
        frame(w.HEADERS, w.END_HEADERS | w.PADDED | w.PRIORITISED, 1, w.padded(EXCLUSIVE_OF_0 + BLOCK, 3)) + data(1, BODY, end=True),
        ANSWERED, NO_PADDING),
    Case("6.10: headers in two frames", headers(1, BLOCK[:20], rest=[BLOCK[20:]]) + data(1, BODY, end=True), ANSWERED),
    Case("6.10: an empty HEADERS frame, the block in CONTINUATION", headers(1, b"", rest=[BLOCK]) + data(1, BODY, end=True), ANSWERED),
    Case("6.10: an empty CONTINUATION frame at the end", headers(1, BLOCK, rest=[b""]) + data(1, BODY, end=True), ANSWERED),
    Case(
        "8.1: trailers of the client end the stream",
        OPEN + data(1, BODY) + headers(1, literal([("x-checksum", "1")]), end=True),
        ANSWERED,
    ),
    Case("4.2: a DATA frame of the largest size that needs no setting", OPEN + data(1, b"") + data(1, BODY, end=True), ANSWERED),
    Case("4.1: unknown frame types are ignored", frame(0xB, 0xFF, 0, b"any") + OPEN + frame(0xFA, 0, 1, b"thing") + data(1, BODY, end=True) + frame(0x20, 1, 7, b""), ANSWERED),
    Case("4.1: undefined flags are ignored", frame(w.HEADERS, w.END_HEADERS | 0x40 | 0x80, 1, BLOCK) + frame(w.DATA, 0xF6 & ~w.PADDED, 1, BODY) + data(1, b"", end=True), ANSWERED, NO_OTHER_FLAGS),
    Case("4.1: the reserved bit of a stream identifier is ignored", frame(w.HEADERS, w.END_HEADERS, 1 | 1 << 31, BLOCK) + frame(w.DATA, 1, 1 | 1 << 31, BODY), ANSWERED),
    Case("6.5: unknown settings are ignored", settings((0x99, 7), (0xFFFF, 1 << 31)) + CALL, ANSWERED),
    Case("6.5: one setting may come twice", settings((4, 0), (4, 65535)) + CALL, ANSWERED),
    Case("6.5: settings in the middle of a call", OPEN + settings((1, 0), (3, 5), (5, 20000)) + data(1, BODY[:7]) + settings() + data(1, BODY[7:], end=True), ANSWERED),
    Case("6.3: PRIORITY of an idle stream", frame(w.PRIORITY, 0, 9, PRIORITY_OF_3) + frame(w.PRIORITY, 0, 1, EXCLUSIVE_OF_0) + CALL, ANSWERED),
    Case("6.3: PRIORITY of an open stream", OPEN + frame(w.PRIORITY, 0, 1, PRIORITY_OF_3) + data(1, BODY, end=True), ANSWERED),
    Case("6.3: PRIORITY after the end of the stream", CALL + frame(w.PRIORITY, 0, 1, PRIORITY_OF_3), ANSWERED),
    Case("6.7: pings in the middle of a call", OPEN + frame(w.PING, 0, 0, b"pingpong") + data(1, BODY, end=True), ANSWERED),
    Case("6.7: a ping's undefined flags are ignored", frame(w.PING, 0xFE, 0, b"pingpong") + CALL, ANSWERED, NO_OTHER_FLAGS),
    Case("6.7: an acknowledgement of a ping that never was is ignored", frame(w.PING, w.ACK, 0, b"pingpong") + CALL, ANSWERED),
    Case("6.9: windows up to their largest", w.window_update(0, 2**31 - 1 - 65535) + OPEN + w.window_update(1, 2**31 - 1 - 65535) + data(1, BODY, end=True), ANSWERED),
    Case("6.9: the reserved bit of a window's increment is ignored", OPEN + frame(w.WINDOW_UPDATE, 0, 1, b"\x80\0\0\1") + data(1, BODY, end=True), ANSWERED),
    Case("6.9: WINDOW_UPDATE after END_STREAM", CALL + w.window_update(1, 9), ANSWERED),
    Case("5.1: RST_STREAM of a call in the middle of its message", OPEN + data(1, BODY[:9]) + w.rst_stream(1), NOTHING),
    Case("5.1: RST_STREAM right after HEADERS", OPEN + w.rst_stream(1), NOTHING),
    Case("7: an unknown error code is no error", OPEN + w.rst_stream(1, 0xDEAD), NOTHING),
    Case("5.1: RST_STREAM and WINDOW_UPDATE after RST_STREAM", OPEN + w.rst_stream(1) + w.rst_stream(1) + w.window_update(1, 5), NOTHING),
    Case("5.1.1: skipped stream numbers are closed, and no loss", unary(1, FIELDS, question(1)) + call(77, 77), ANSWERED),
]  # fmt: skip

PROTOCOL = ("connection PROTOCOL_ERROR",)
SIZE = ("connection FRAME_SIZE_ERROR",)
CLOSED = ("connection STREAM_CLOSED", "connection PROTOCOL_ERROR")
STREAM_IS_CLOSED = ("stream STREAM_CLOSED", "connection STREAM_CLOSED")
ANY_SIZE = ("stream FRAME_SIZE_ERROR", "connection FRAME_SIZE_ERROR")

FORBIDDEN = [
    Case("8.4: a client pushes nothing", OPEN + frame(w.PUSH_PROMISE, w.END_HEADERS, 1, (2).to_bytes(4, "big") + BLOCK), PROTOCOL, SKIPPED),
    Case("6.1: DATA on stream 0", data(0, BODY), PROTOCOL, SKIPPED),
    Case("6.2: HEADERS on stream 0", headers(0, BLOCK), PROTOCOL, SKIPPED),
    Case("6.3: PRIORITY on stream 0", frame(w.PRIORITY, 0, 0, PRIORITY_OF_3), PROTOCOL, {**SKIPPED, **NO_PRIORITIES}),
    Case("6.4: RST_STREAM on stream 0", w.rst_stream(0), PROTOCOL, SKIPPED),
    Case("6.10: CONTINUATION on stream 0", frame(w.CONTINUATION, w.END_HEADERS, 0, BLOCK), PROTOCOL),
    Case("6.5: SETTINGS on a stream", frame(w.SETTINGS, 0, 1), PROTOCOL),
    Case("6.7: PING on a stream", frame(w.PING, 0, 1, b"pingpong"), PROTOCOL, SKIPPED),
    Case("6.8: GOAWAY on a stream", frame(w.GOAWAY, 0, 1, bytes(8)), PROTOCOL, SKIPPED),
    Case("5.1.1: a client opens no even stream", headers(2, BLOCK), PROTOCOL, SKIPPED),
    Case("5.1.1: stream numbers only grow", call(5, 5) + call(3, 3), CLOSED, {**SKIPPED, **FORGOTTEN}),
    Case("5.1: DATA on an idle stream", data(1, BODY), PROTOCOL, SKIPPED),
    Case("5.1: RST_STREAM on an idle stream", w.rst_stream(1), PROTOCOL, SKIPPED),
    Case("5.1: WINDOW_UPDATE on an idle stream", w.window_update(1, 5), PROTOCOL, SKIPPED),
    Case("5.1: CONTINUATION on an idle stream", frame(w.CONTINUATION, w.END_HEADERS, 1, BLOCK), PROTOCOL),
    Case("5.1: DATA after END_STREAM", headers(1, BLOCK, end=True) + data(1, BODY), STREAM_IS_CLOSED, SKIPPED),
    Case("5.1: HEADERS after END_STREAM", headers(1, BLOCK, end=True) + headers(1, BLOCK, end=True), (*STREAM_IS_CLOSED, "connection PROTOCOL_ERROR"), SKIPPED),
    Case("6.10: CONTINUATION after the end of the headers", OPEN + frame(w.CONTINUATION, w.END_HEADERS, 1, BLOCK), PROTOCOL),
    Case("6.10: a PING between HEADERS and CONTINUATION", frame(w.HEADERS, 0, 1, BLOCK) + frame(w.PING, 0, 0, bytes(8)), PROTOCOL),
    Case("6.10: DATA between HEADERS and CONTINUATION", frame(w.HEADERS, 0, 1, BLOCK) + data(1, BODY), PROTOCOL),
    Case("6.10: HEADERS between HEADERS and CONTINUATION", frame(w.HEADERS, 0, 1, BLOCK) + headers(3, BLOCK), PROTOCOL),
    Case("6.10: CONTINUATION of another stream", frame(w.HEADERS, 0, 1, BLOCK) + frame(w.CONTINUATION, w.END_HEADERS, 3, b""), PROTOCOL),
    Case("5.5: an unknown frame between HEADERS and CONTINUATION", frame(w.HEADERS, 0, 1, BLOCK) + frame(0x99, 0, 1, b"x"), PROTOCOL),
    Case("6.1: as much padding as DATA", OPEN + frame(w.DATA, w.PADDED, 1, b"\x05abcd"), PROTOCOL, NO_PADDING),
    Case("6.1: padded DATA without its length", OPEN + frame(w.DATA, w.PADDED, 1, b""), (*PROTOCOL, *SIZE), NO_PADDING),
    Case("6.2: more padding than HEADERS", frame(w.HEADERS, w.END_HEADERS | w.PADDED, 1, bytes([len(BLOCK) + 1]) + BLOCK), PROTOCOL),
    Case("6.2: HEADERS too short for its priority", frame(w.HEADERS, w.END_HEADERS | w.PRIORITISED, 1, b"\0\0\0"), (*PROTOCOL, *SIZE)),
    Case("4.2: DATA larger than the largest frame", OPEN + frame(w.DATA, 0, 1, BODY, length=2**24 - 1), ANY_SIZE),
    Case("4.2: HEADERS larger than the largest frame", frame(w.HEADERS, 0, 1, BLOCK, length=2**24 - 1), SIZE),
    Case("6.5: SETTINGS larger than the largest frame", frame(w.SETTINGS, 0, 0, b"", length=6 * 2**21), SIZE),
    Case("6.3: PRIORITY of 4 bytes", OPEN + frame(w.PRIORITY, 0, 1, PRIORITY_OF_3[:4]), ANY_SIZE, SKIPPED),
    Case("6.4: RST_STREAM of 3 bytes", OPEN + frame(w.RST_STREAM, 0, 1, b"abc"), SIZE),
    Case("6.5: SETTINGS of 5 bytes", frame(w.SETTINGS, 0, 0, b"abcde"), SIZE),
    Case("6.5: an acknowledgement of settings that has some", frame(w.SETTINGS, w.ACK, 0, bytes(6)), SIZE),
    Case("6.5.2: ENABLE_PUSH of 2", settings((w.ENABLE_PUSH, 2)), PROTOCOL),
    Case("6.5.2: INITIAL_WINDOW_SIZE of 2^31", settings((w.INITIAL_WINDOW_SIZE, 2**31)), ("connection FLOW_CONTROL_ERROR",)),
    Case("6.5.2: MAX_FRAME_SIZE of 16383", settings((w.MAX_FRAME_SIZE, 16383)), PROTOCOL),
    Case("6.5.2: MAX_FRAME_SIZE of 2^24", settings((w.MAX_FRAME_SIZE, 2**24)), PROTOCOL),
    Case("6.7: PING of 7 bytes", frame(w.PING, 0, 0, bytes(7)), SIZE),
    Case("6.7: PING of 9 bytes", frame(w.PING, 0, 0, bytes(9)), SIZE),
    Case("6.8: GOAWAY of 7 bytes", frame(w.GOAWAY, 0, 0, bytes(7)), SIZE),
    Case("6.9: WINDOW_UPDATE of 3 bytes", frame(w.WINDOW_UPDATE, 0, 0, b"abc"), SIZE),
    Case("6.9: WINDOW_UPDATE by 0", w.window_update(0, 0), PROTOCOL),
    Case("6.9: WINDOW_UPDATE of a stream by 0", OPEN + w.window_update(1, 0), ("stream PROTOCOL_ERROR", *PROTOCOL)),
    Case("6.9.1: a window beyond 2^31 - 1", w.window_update(0, 2**31 - 1), ("connection FLOW_CONTROL_ERROR",), LARGE_WINDOWS),
    Case("6.9.1: a stream's window beyond 2^31 - 1", OPEN + w.window_update(1, 2**31 - 1), ("stream FLOW_CONTROL_ERROR", "connection FLOW_CONTROL_ERROR"), LARGE_WINDOWS),
    Case("6.9.2: a window beyond 2^31 - 1 by settings", OPEN + w.window_update(1, 2**30) + settings((w.INITIAL_WINDOW_SIZE, 2**31 - 1)), ("connection FLOW_CONTROL_ERROR", "stream FLOW_CONTROL_ERROR"), LARGE_WINDOWS),
    Case("6.3: a stream that depends on itself", OPEN + frame(w.PRIORITY, 0, 1, ITSELF) + data(1, BODY, end=True), ("answered", "stream PROTOCOL_ERROR", *PROTOCOL)),
    Case("5.1: DATA after the client's RST_STREAM", OPEN + w.rst_stream(1) + data(1, BODY, end=True), (*STREAM_IS_CLOSED, "nothing")),
]  # fmt: skip


@pytest.mark.parametrize("case", ALLOWED + FORBIDDEN, ids=lambda case: case.sentence)
def test_frame(wire: Wire, case: Case) -> None:
    expected = case.on(wire.transport)
    if not expected:
        pytest.skip(f"{wire.transport} breaks the protocol itself")
    with wire.greeted() as peer:
        assert outcome(peer, case.sent, expected) in expected
    # Whatever came of it, it came of it on that connection alone.
    with wire.greeted() as peer:
        assert outcome(peer, CALL, ANSWERED) == "answered"


BEFORE = {
    "nothing": b"",
    "a call": CALL,
    "half a message": OPEN + data(1, BODY[:9]),
    "an empty frame": OPEN + data(1, b""),
    "an unknown method": headers(1, literal(request("/no.Service/Method")), end=True),
    "the rest of what is refused": headers(1, literal(request("/no.Service/Method"))) + data(1, BODY, end=True),
    "another method than POST": headers(1, literal(request(MODEL_INFER, _method="GET")), end=True),
    "another content type": headers(1, literal(request(MODEL_INFER, content_type="text/plain"))),
    "a message too large": OPEN + data(1, b"\0\xff\xff\xff\xff"),
    "two messages": OPEN + data(1, BODY + BODY, end=True),
    "a stream": headers(1, literal(request(MODEL_STREAM_INFER))) + data(1, BODY + BODY),
    "a reset": OPEN + data(1, BODY[:9]) + w.rst_stream(1),
}


@pytest.mark.parametrize("before", BEFORE)
def test_an_error_of_the_connection_is_said_whatever_came_right_before_it(wire: Wire, before: str) -> None:
    with wire.greeted() as peer:
        peer.send(BEFORE[before] + frame(w.SETTINGS, 0, 1))
        peer.until(lambda: peer.closed)
        # grpcio closes the connection without a word.
        assert wire.transport == "grpcio" or (peer.goaway is not None and peer.goaway[0] == w.Code.PROTOCOL_ERROR)
