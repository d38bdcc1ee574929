"""A raw HTTP/2 client for tests of the wire: it sends exactly the bytes it is given, and checks every frame it gets.

What it sends may break any rule. What it receives may break none: a frame that HTTP/2 forbids a server to send, or that
the windows it granted do not allow, fails the test.
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITISED = 4, 8, 32
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
FIRST_WINDOW = 65535
SMALLEST_MAX_FRAME = 16384
PATIENCE_S = 10.0
"""Longer than any answer here takes; a test that waits this long has failed."""

Fields = Sequence[tuple[str | bytes, str | bytes]]


class Code(IntEnum):
    """Error codes of RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", length: int | None = None) -> bytes:
    """A frame; `length` is what its head claims, if not the truth."""
    claimed = len(payload) if length is None else length
    return claimed.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def padded(payload: bytes, padding: int) -> bytes:
    """The payload of a padded frame."""
    return bytes((padding,)) + payload + bytes(padding)


def data(stream: int, payload: bytes, *, end: bool = False, padding: int | None = None) -> bytes:
    """A DATA frame."""
    flags = (END_STREAM if end else 0) | (0 if padding is None else PADDED)
    return frame(DATA, flags, stream, payload if padding is None else padded(payload, padding))


def headers(stream: int, block: bytes, *, end: bool = False, rest: Sequence[bytes] = ()) -> bytes:
    """A HEADERS frame with a block, and a CONTINUATION frame for each further piece of it."""
    flags = (END_STREAM if end else 0) | (0 if rest else END_HEADERS)
    frames = [frame(HEADERS, flags, stream, block)]
    frames += [frame(CONTINUATION, 0, stream, piece) for piece in rest[:-1]]
    frames += [frame(CONTINUATION, END_HEADERS, stream, piece) for piece in rest[-1:]]
    return b"".join(frames)


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame of numbers and values."""
    return frame(
        SETTINGS, payload=b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in pairs)
    )


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def rst_stream(stream: int, code: int = Code.CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int = 0, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, payload=last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def literal(fields: Iterable[tuple[str | bytes, str | bytes]], *, huffman: bool = False) -> bytes:
    """A header block that neither reads nor changes the dynamic table, so it means the same anywhere."""
    encoded = [hpack.NeverIndexedHeaderTuple(_bytes(name), _bytes(value)) for name, value in fields]
    return hpack.Encoder().encode(encoded, huffman=huffman)


def message(payload: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A message with gRPC's prefix; `length` is what it claims, if not the truth."""
    claimed = len(payload) if length is None else length
    return bytes((compressed,)) + claimed.to_bytes(4, "big") + payload


def request(path: str, *, without: Iterable[str] = (), **changed: str) -> list[tuple[str, str]]:
    """The headers of a call; a changed or further one as `content_type`, a pseudo-header as `_method`."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    given = {(f":{name[1:]}" if name.startswith("_") else name).replace("_", "-"): v for name, v in changed.items()}
    return [(name, value) for name, value in (fields | given).items() if name not in without]


def unary(stream: int, fields: Fields, payload: bytes) -> bytes:
    """A whole call of one message, in two frames."""
    return headers(stream, literal(fields)) + data(stream, message(payload), end=True)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


@dataclass
class Answer:
    """What has come on one stream.

    Attributes:
        headers: of the first HEADERS frame.
        body: of all DATA frames.
        trailers: of the last HEADERS frame; those of an answer of one such frame are its headers too.
        blocks: how many HEADERS frames came.
        reset: the code of RST_STREAM.
        ended: whether END_STREAM has come.
    """

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    blocks: int = 0
    reset: Code | None = None
    ended: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more may come."""
        return self.ended or self.reset is not None

    @property
    def status(self) -> int | None:
        """gRPC's, once the answer has ended with one."""
        return int(self.trailers["grpc-status"]) if "grpc-status" in self.trailers else None

    @property
    def messages(self) -> list[bytes]:
        """The whole messages of the body so far, without their prefixes."""
        found, at = [], 0
        while len(self.body) - at >= 5:
            length = int.from_bytes(self.body[at + 1 : at + 5], "big")
            if len(self.body) - at - 5 < length:
                break
            found.append(self.body[at + 5 : at + 5 + length])
            at += 5 + length
        return found


class Peer:
    """One connection.

    Attributes:
        answers: what has come, by stream.
        goaway: the code of the last GOAWAY, and the last stream it promises to serve.
        debug: what that GOAWAY said in words.
        closed: whether the server has closed the connection.
        greeted: whether the server's first settings have come.
        offered: the server's settings, by number.
        pongs: the payloads of acknowledged pings.
        updates: how much more the server allowed to send, by stream.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.answers: dict[int, Answer] = {}
        self.goaway: tuple[Code, int] | None = None
        self.debug = b""
        self.closed = False
        self.greeted = False
        self.offered: dict[int, int] = {}
        self.pongs: list[bytes] = []
        self.updates: dict[int, int] = {}
        self._socket = connection
        self._received = b""
        self._decoder = hpack.Decoder()
        self._unacknowledged: deque[dict[int, int]] = deque()
        self._first_window = FIRST_WINDOW
        self._windows = {0: FIRST_WINDOW}
        self._granted: dict[int, int] = {}
        self._spent: dict[int, int] = {}

    def open(self, *pairs: tuple[int, int]) -> None:
        """Greet with these settings, and wait for the server's own and for its acknowledgement."""
        self.send(PREFACE)
        self.set(*pairs)
        self.until(lambda: self.greeted and not self._unacknowledged)
        assert not self.closed, f"the server closed the connection: {self.goaway} {self.debug!r}"

    def send(self, *pieces: bytes) -> None:
        """Send bytes as they are; to a server that has closed the connection, in vain, so that what it said is read next."""
        with suppress(ConnectionError, ssl.SSLEOFError):
            self._socket.sendall(b"".join(pieces))

    def set(self, *pairs: tuple[int, int]) -> None:
        """Send settings, which the server must obey once it has acknowledged them."""
        self._unacknowledged.append(dict(pairs))
        self.send(settings(*pairs))

    def grant(self, stream: int, more: int) -> None:
        """Allow the server to send more on a stream, or with 0 on the connection."""
        if stream == 0:
            self._windows[0] += more
        else:
            self._granted[stream] = self._granted.get(stream, 0) + more
        self.send(window_update(stream, more))

    def pour(self, stream: int, body: bytes, *, end: bool = True, size: int = SMALLEST_MAX_FRAME) -> None:
        """Send a body in DATA frames of at most `size` bytes, as far and as soon as the server's windows allow."""
        at = 0
        while at < len(body) and not self.closed:
            self.until(lambda: self.allowance(stream) > 0)
            piece = body[at : at + min(size, self.allowance(stream))]
            self.spend(stream, len(piece))
            at += len(piece)
            self.send(data(stream, piece, end=end and at == len(body)))

    def spend(self, stream: int, size: int) -> None:
        """Note that the server's windows are smaller by what a DATA frame holds, padding included."""
        for window in (0, stream):
            self._spent[window] = self._spent.get(window, 0) + size

    def allowance(self, stream: int) -> int:
        """How many bytes of DATA the server's windows allow."""
        first = self.offered.get(INITIAL_WINDOW_SIZE, FIRST_WINDOW)
        of_stream = first + self.updates.get(stream, 0) - self._spent.get(stream, 0)
        return min(of_stream, FIRST_WINDOW + self.updates.get(0, 0) - self._spent.get(0, 0))

    def turn(self) -> None:
        """Exchange settings once more: the server has then read everything that was sent before."""
        self.set()
        self.until(lambda: not self._unacknowledged)
        assert not self.closed, f"the server closed the connection: {self.goaway} {self.debug!r}"

    def until(self, happened: Callable[[], bool]) -> None:
        """Read frames until something has happened or the connection has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened() and not self.closed:
            self._read(deadline)

    def answer(self, stream: int) -> Answer:
        """The whole answer on a stream, or what came of it before the connection ended."""
        found = self.answers.setdefault(stream, Answer())
        self.until(lambda: found.over)
        return found

    def end_sending(self) -> None:
        """Send FIN, and go on reading."""
        # Not SSLSocket's own, which forgets the keys and would then read ciphertext.
        socket.socket.shutdown(self._socket, socket.SHUT_WR)

    def abort(self) -> None:
        """Disappear with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
        self._socket.close()

    def _read(self, deadline: float) -> None:
        while (taken := self._take()) is None:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"nothing came for {PATIENCE_S:g} s; so far: {self.answers}, {self.goaway}"
            self._socket.settimeout(left_s)
            try:
                received = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except (ConnectionError, ssl.SSLEOFError):
                received = b""
            if not received:
                self.closed = True
                return
            self._received += received
        self._file(*taken)

    def _take(self) -> tuple[int, int, int, bytes] | None:
        if len(self._received) < 9:
            return None
        stop = 9 + int.from_bytes(self._received[:3], "big")
        if len(self._received) < stop:
            return None
        head, payload = self._received[:9], self._received[9:stop]
        self._received = self._received[stop:]
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    def _file(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert len(payload) <= SMALLEST_MAX_FRAME, "a frame larger than any setting allows"
        assert stream % 2 == 1 or stream == 0, f"a frame on stream {stream}, which no client opens"
        assert (stream == 0) == (kind in {SETTINGS, PING, GOAWAY}) or kind == WINDOW_UPDATE, f"frame {kind} on {stream}"
        if kind in {DATA, HEADERS}:
            self._file_answer(kind, flags, stream, payload)
        elif kind == RST_STREAM:
            found = self.answers.setdefault(stream, Answer())
            assert found.reset is None, f"a second RST_STREAM on stream {stream}"
            found.reset = Code(int.from_bytes(payload, "big"))
        elif kind == SETTINGS:
            self._file_settings(flags, payload)
        elif kind == PING:
            assert len(payload) == 8
            if flags & ACK:
                self.pongs.append(payload)
            else:
                self.send(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.goaway = Code(int.from_bytes(payload[4:8], "big")), int.from_bytes(payload[:4], "big")
            self.debug = payload[8:]
        elif kind == WINDOW_UPDATE:
            self.updates[stream] = self.updates.get(stream, 0) + int.from_bytes(payload, "big")
        else:
            raise AssertionError(f"a frame of type {kind} from a server")

    def _file_answer(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        found = self.answers.setdefault(stream, Answer())
        assert not found.over, f"a frame of type {kind} on stream {stream} after its end"
        if kind == DATA:
            assert found.blocks, "DATA before HEADERS"
            self._windows[0] -= len(payload)
            self._windows[stream] = self._windows.get(stream, 0) - len(payload)
            allowed = self._first_window + self._granted.get(stream, 0)
            assert not payload or (self._windows[0] >= 0 and allowed + self._windows[stream] >= 0), "beyond the window"
            found.body += payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
        else:
            assert flags & ~END_STREAM == END_HEADERS, "no answer here needs CONTINUATION, padding or a priority"
            decoded = [(str(name), str(value)) for name, value in self._decoder.decode(payload)]
            assert all(name == name.lower() for name, _ in decoded), decoded
            found.trailers = dict(decoded)
            found.headers = found.headers or found.trailers
            found.blocks += 1
        found.ended = bool(flags & END_STREAM)

    def _file_settings(self, flags: int, payload: bytes) -> None:
        if not flags & ACK:
            self.greeted = True
            for at in range(0, len(payload), 6):
                self.offered[int.from_bytes(payload[at : at + 2], "big")] = int.from_bytes(
                    payload[at + 2 : at + 6], "big"
                )
            self.send(frame(SETTINGS, ACK))
            return
        assert not payload
        changed = self._unacknowledged.popleft() if self._unacknowledged else {}
        self._first_window = changed.get(INITIAL_WINDOW_SIZE, self._first_window)
        self._decoder.max_allowed_table_size = changed.get(HEADER_TABLE_SIZE, self._decoder.max_allowed_table_size)


@contextmanager
def connected(address: str, tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """A connection that has said nothing yet, for as long as the block."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            yield Peer(plain)
            return
        with tls.wrap_socket(plain, server_hostname="localhost") as secure:
            assert secure.selected_alpn_protocol() == "h2"
            yield Peer(secure)


@contextmanager
def greeted(address: str, tls: ssl.SSLContext | None = None, *pairs: tuple[int, int]) -> Iterator[Peer]:
    """A connection on which both sides have exchanged these settings, for as long as the block."""
    with connected(address, tls) as peer:
        peer.open(*pairs)
        yield peer
