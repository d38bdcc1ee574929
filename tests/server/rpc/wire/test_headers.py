"""Header blocks: HPACK in all its forms (RFC 7541), and requests that HTTP/2 calls malformed (RFC 9113, section 8)."""

import hpack
import pytest

from frostline.protocol import MODEL_INFER
from tests.support import wire as w
from tests.support.wire import data, headers, literal, message, request
from tests.support.wires import Case, Wire, assert_answers, call, outcome, question

FIELDS = request(MODEL_INFER)
BODY = message(question(1))
ANSWERED = ("answered",)
NOTHING = ("nothing",)


def asking(block: bytes) -> bytes:
    """A call with this header block."""
    return headers(1, block) + data(1, BODY, end=True)


def asking_in_frames(block: bytes, size: int) -> bytes:
    """A call with this header block in CONTINUATION frames of so many bytes."""
    pieces = [block[at : at + size] for at in range(0, len(block), size)]
    return headers(1, pieces[0], rest=pieces[1:]) + data(1, BODY, end=True)


def whole(fields: list[tuple[str, str]], *, huffman: bool = False) -> bytes:
    return asking(literal(fields, huffman=huffman))


def resized(*sizes: int) -> bytes:
    """Dynamic table size updates (6.3)."""
    return b"".join(bytes((0x20 | size,)) if size < 31 else bytes((0x3F,)) + _rest(size - 31) for size in sizes)


def _rest(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value % 128 | 128)
        value //= 128
    return bytes((*encoded, value))


BLOCK = literal(FIELDS)
LONG = [(f"x-{index}", "v" * 100) for index in range(40)]
HUFFMAN = {"grpcio": ("answered", "nothing")}  # it reads what is left of a huffman code as nothing

READ = [
    Case("literal fields, as they are", whole(FIELDS), ANSWERED),
    Case("literal fields, huffman coded", whole(FIELDS, huffman=True), ANSWERED),
    Case("fields with incremental indexing", asking(hpack.Encoder().encode(FIELDS, huffman=False)), ANSWERED),
    Case("the same, huffman coded", asking(hpack.Encoder().encode(FIELDS)), ANSWERED),
    Case("4.2: a table size update to 0 at the start", asking(resized(0) + BLOCK), ANSWERED),
    Case("4.2: two table size updates at the start", asking(resized(0, 4096) + BLOCK), ANSWERED),
    Case("5.1: an integer with more bytes than it needs", asking(b"\x3f\xe1\x9f\x80\x00" + BLOCK), ANSWERED),
    Case("6.2.1: an entry larger than the table empties it", asking(resized(40) + hpack.Encoder().encode(FIELDS)), ANSWERED),
    Case("fields enough to push others out of the table", asking(hpack.Encoder().encode([*FIELDS, *LONG])), ANSWERED),
    Case("6.1: an index that no entry has", asking(BLOCK + b"\xff\x80\x10"), ("connection COMPRESSION_ERROR",)),
    Case("6.1: index 0", asking(BLOCK + b"\x80"), ("connection COMPRESSION_ERROR",)),
    Case("6.2: a name by an index that no entry has", asking(BLOCK + b"\x7f\x80\x10\x01a"), ("connection COMPRESSION_ERROR",)),
    Case("6.3: a table larger than the setting allows", asking(resized(1 << 24) + BLOCK), ("connection COMPRESSION_ERROR",)),
    Case("4.2: a table size update after a field", asking(BLOCK + resized(0)), ("connection COMPRESSION_ERROR",)),
    Case("5.1: an integer of 12 bytes", asking(BLOCK + b"\xff" + b"\xff" * 11 + b"\x01"), ("connection COMPRESSION_ERROR",)),
    Case("5.2: a string longer than the block", asking(BLOCK + b"\x00\x03abc\x7fa"), ("connection COMPRESSION_ERROR",)),
    Case("a block that ends in the middle of a field", asking(BLOCK + b"\x00"), ("connection COMPRESSION_ERROR",)),
    Case("5.2: huffman code padded with zeros", asking(BLOCK + b"\x00\x81\x18\x01a"), ("connection COMPRESSION_ERROR",)),
    Case("5.2: huffman code padded with more than 7 bits", asking(BLOCK + b"\x00\x82\x1f\xff\x01a"), ("connection COMPRESSION_ERROR",), HUFFMAN),
    Case("5.2: huffman code with its end of string", asking(BLOCK + b"\x00\x84\xff\xff\xff\xff\x01a"), ("connection COMPRESSION_ERROR",), HUFFMAN),
]  # fmt: skip

MALFORMED = ("stream PROTOCOL_ERROR", "connection PROTOCOL_ERROR", "http 400")
# It looks only at what it needs itself; what it answers then, it answers right.
LENIENT = {"grpcio": (*MALFORMED, "answered", "status 12", "status 13", "stream INTERNAL_ERROR")}


def with_field(name: str, value: str) -> bytes:
    return whole([*FIELDS, (name, value)])


def without(*names: str) -> bytes:
    return whole(request(MODEL_INFER, without=names))


# gRPC's own names are of letters, digits and _-. only.
GRPC_NAMES = {"grpcio": ("status 13",)}
TRAILING = headers(1, literal([(":path", "/x")]), end=True)

REQUESTS = [
    Case("8.2.1: a name in capitals", with_field("X-Name", "1"), MALFORMED, LENIENT),
    Case("8.2.1: a name with a space", with_field("x name", "1"), MALFORMED, LENIENT),
    Case("8.2.1: a name with a colon inside", with_field("x:name", "1"), MALFORMED, LENIENT),
    Case("8.2.1: a name that is empty", with_field("", "1"), MALFORMED, LENIENT),
    Case("8.2.1: a name beyond ASCII", with_field("größe", "1"), MALFORMED, LENIENT),
    Case("8.2.1: a value with a NUL", with_field("x-name", "a\0b"), MALFORMED, LENIENT),
    Case("8.2.1: a value with a line feed", with_field("x-name", "a\nb"), MALFORMED, LENIENT),
    Case("8.2.1: a value with a carriage return", with_field("x-name", "a\rb"), MALFORMED, LENIENT),
    Case("8.2.2: connection", with_field("connection", "close"), MALFORMED, LENIENT),
    Case("8.2.2: proxy-connection", with_field("proxy-connection", "close"), MALFORMED, LENIENT),
    Case("8.2.2: keep-alive", with_field("keep-alive", "timeout=5"), MALFORMED, LENIENT),
    Case("8.2.2: transfer-encoding", with_field("transfer-encoding", "chunked"), MALFORMED, LENIENT),
    Case("8.2.2: upgrade", with_field("upgrade", "h2c"), MALFORMED, LENIENT),
    Case("8.2.2: te other than trailers", whole(request(MODEL_INFER, te="gzip")), MALFORMED, LENIENT),
    Case("8.3: a pseudo-header that is none", with_field(":x", "1"), MALFORMED, LENIENT),
    Case("8.3: a pseudo-header of answers", whole([(":status", "200"), *FIELDS]), MALFORMED, LENIENT),
    Case("8.3: a pseudo-header after others", whole([*FIELDS[1:], FIELDS[0]]), MALFORMED, LENIENT),
    Case("8.3: a pseudo-header in trailers", headers(1, BLOCK) + data(1, BODY) + TRAILING, MALFORMED, LENIENT),
    Case("8.1: trailers that do not end the stream", headers(1, BLOCK) + data(1, BODY) + headers(1, literal([("x", "1")])), MALFORMED, LENIENT),
    Case("8.3.1: no method", without(":method"), MALFORMED, LENIENT),
    Case("8.3.1: no scheme", without(":scheme"), MALFORMED, LENIENT),
    Case("8.3.1: no path", without(":path"), MALFORMED, LENIENT),
    Case("8.3.1: an empty path", whole(request("")), MALFORMED, LENIENT),
    Case("8.3.1: two methods", whole([FIELDS[0], *FIELDS]), MALFORMED, LENIENT),
    Case("8.3.1: two paths", whole([FIELDS[2], *FIELDS]), MALFORMED, LENIENT),
    Case("8.3.1: two schemes", whole([FIELDS[1], *FIELDS]), MALFORMED, LENIENT),
    Case("8.1.1: content-length of less than comes", with_field("content-length", str(len(BODY) - 1)), MALFORMED, LENIENT),
    Case("8.1.1: content-length of more than comes", with_field("content-length", str(len(BODY) + 1)), MALFORMED, LENIENT),
    Case("8.1.1: a content-length that is no number", with_field("content-length", "many"), MALFORMED, LENIENT),
    Case("8.1.1: the right content-length", with_field("content-length", str(len(BODY))), ANSWERED),
    Case("8.3.1: neither an authority nor a host", without(":authority"), MALFORMED, LENIENT),
    Case("8.3.1: host in the place of the authority", whole([*request(MODEL_INFER, without=[":authority"]), ("host", "localhost")]), ANSWERED),
    Case("8.2.3: a cookie in pieces", whole([*FIELDS, ("cookie", "a=b"), ("cookie", "c=d")]), ANSWERED),
    Case("8.2.1: a name may have any other character of a token", with_field("x!#$%&'*+-.^_`|~9", "1"), ANSWERED, GRPC_NAMES),
    Case("8.2.1: a value beyond ASCII", with_field("x-name", "größe"), ANSWERED),
    Case("an empty value", with_field("x-name", ""), ANSWERED),
    Case("a name that comes twice", whole([*FIELDS, ("x-name", "1"), ("x-name", "2")]), ANSWERED),
    Case("headers of 5 KiB in frames of 1000 bytes", asking_in_frames(literal([*FIELDS, *LONG]), 1000), ANSWERED),
]  # fmt: skip


@pytest.mark.parametrize("case", READ + REQUESTS, ids=lambda case: case.sentence)
def test_headers(wire: Wire, case: Case) -> None:
    expected = case.on(wire.transport)
    with wire.greeted() as peer:
        assert outcome(peer, case.sent, expected) in expected


def test_later_calls_refer_to_the_fields_of_earlier_ones(wire: Wire) -> None:
    encoder = hpack.Encoder()
    with wire.greeted() as peer:
        sizes = []
        for number in range(1, 9):
            block = encoder.encode([*FIELDS, ("x-number", str(number // 3))], huffman=bool(number % 2))
            sizes.append(len(block))
            peer.send(headers(2 * number - 1, block), data(2 * number - 1, message(question(number)), end=True))
        for number in range(1, 9):
            assert_answers(peer.answer(2 * number - 1), number)
        assert min(sizes[1:]) < sizes[0] / 5


def test_a_reset_calls_fields_stay_in_the_table(wire: Wire) -> None:
    encoder = hpack.Encoder()
    with wire.greeted() as peer:
        peer.send(headers(1, encoder.encode(FIELDS)), w.rst_stream(1))
        peer.send(headers(3, encoder.encode(FIELDS)), data(3, message(question(3)), end=True))
        assert_answers(peer.answer(3), 3)


def test_answers_obey_the_clients_table_size(wire: Wire) -> None:
    with wire.greeted((w.HEADER_TABLE_SIZE, 0)) as peer:
        for stream in (1, 3, 5):
            peer.send(call(stream, stream))
            assert_answers(peer.answer(stream), stream)
        for number, size in enumerate((4096, 0, 100, 1 << 16), 4):
            peer.set((w.HEADER_TABLE_SIZE, size))
            peer.turn()
            for stream in (20 * number + 1, 20 * number + 3):
                peer.send(call(stream, stream))
                assert_answers(peer.answer(stream), stream)
