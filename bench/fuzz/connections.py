"""Connections whose frames are broken, many at once, beside an honest caller whose answers are checked."""

import random
import re
import selectors
import socket
import struct
import time
import zlib
from collections.abc import Callable, Sequence

import hpack

from bench.fuzz import oracle
from bench.fuzz.messages import PATIENCE_S, Honest, Tally
from bench.fuzz.mutations import mutated_frames
from bench.fuzz.oracle import Found
from bench.load.workload import framed
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER, PREDICT
from frostline.tune.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from frostline.tune.http2 import ConnectionBroken

_TAG = re.compile(rb"#[0-9]{9}\.[0-9]#")
_OTHERS = 999_999_999
"""The number of the connections to splice with, which are never sent themselves."""
_AT_ONCE = 64
_UNMUTATED = 0.05
_QUIET_S = 0.05
"""How long a connection is open after the last byte came: most answers take less."""


def _block(path: str, *more: tuple[str, str], indexed: bool = False, huffman: bool = True) -> bytes:
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
    ]
    fields += [("content-type", "application/grpc"), *more]
    kept = fields if indexed else [hpack.NeverIndexedHeaderTuple(*pair) for pair in fields]
    return hpack.Encoder().encode(kept, huffman=huffman)


_BLOCKS = (
    _block(MODEL_INFER),
    _block(MODEL_INFER, ("grpc-timeout", "5S"), ("x-note", "größe"), huffman=False),
    _block(MODEL_INFER, ("grpc-accept-encoding", "identity, gzip"), indexed=True),
    _block(MODEL_INFER, ("content-length", "90")),
    _block(PREDICT),
    _block("/grpc.health.v1.Health/Watch"),
    _block("/no.Service/Method"),
)
_STREAMED = _block(MODEL_STREAM_INFER)
_GZIP = _block(MODEL_INFER, ("grpc-encoding", "gzip"))


def _call(rng: random.Random, stream: int, tag: str) -> list[bytes]:
    """The frames of one call."""
    message = oracle.infer(rng.randrange(1_000_000), tag)
    match rng.randrange(8):
        case 0:  # a stream of three messages, over frames that know nothing of them
            body = 3 * framed(message)
            cut = rng.randint(0, 12)  # never in the id, which is looked for whole
            pieces = [frame(DATA, 0, stream, body[:cut]), frame(DATA, END_STREAM, stream, body[cut:])]
            return [frame(HEADERS, END_HEADERS, stream, _STREAMED), *pieces]
        case 1:  # padding
            body = b"\x05" + framed(message) + bytes(5)
            return [
                frame(HEADERS, END_HEADERS, stream, _BLOCKS[0]),
                frame(DATA, END_STREAM | PADDED, stream, body),
            ]
        case 2:  # headers in pieces
            block = rng.choice(_BLOCKS)
            cut = rng.randint(0, len(block))
            rest = frame(CONTINUATION, END_HEADERS, stream, block[cut:])
            return [frame(HEADERS, 0, stream, block[:cut]), rest, frame(DATA, END_STREAM, stream, framed(message))]
        case 3:
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            packed = packer.compress(message) + packer.flush()
            body = b"\1" + len(packed).to_bytes(4, "big") + packed
            return [frame(HEADERS, END_HEADERS, stream, _GZIP), frame(DATA, END_STREAM, stream, body)]
        case 4:  # trailers, and a reset
            closing = rng.choice((frame(HEADERS, 5, stream, b"\x00\x01x\x01y"), frame(RST_STREAM, 0, stream, bytes(4))))
            return [
                frame(HEADERS, END_HEADERS, stream, _BLOCKS[0]),
                frame(DATA, 0, stream, framed(message)),
                closing,
            ]
        case _:
            block = frame(HEADERS, END_HEADERS, stream, rng.choice(_BLOCKS))
            return [block, frame(DATA, END_STREAM, stream, framed(message))]


def connection(rng: random.Random, number: int) -> tuple[list[bytes], list[str]]:
    """The frames of a connection of a few calls, and the tags in their ids, which no other connection has."""
    tags = [f"#{number:09d}.{index}#" for index in range(rng.randint(1, 4))]
    settings = struct.pack(">HIHI", 4, rng.choice((0, 1, 65535, 2**31 - 1)), 1, rng.choice((0, 4096)))
    frames = [PREFACE, frame(SETTINGS, 0, 0, rng.choice((b"", settings)))]
    calls = [_call(rng, 2 * index + 1, tag) for index, tag in enumerate(tags)]
    for frames_of_call in calls:
        frames += frames_of_call
        match rng.randrange(6):
            case 0:
                frames.append(frame(PING, 0, 0, rng.randbytes(8)))
            case 1:
                frames.append(frame(WINDOW_UPDATE, 0, rng.choice((0, 1)), (70_000).to_bytes(4, "big")))
            case 2:
                frames.append(frame(PRIORITY, 0, rng.choice((1, 3, 9)), b"\0\0\0\0\x10"))
            case 3:
                frames.append(frame(SETTINGS, 1, 0, b""))
            case _:
                pass
    return frames, tags


class _Attempt:
    """One broken connection, from its first byte until the server has closed it."""

    def __init__(self, host: str, port: int, sent: bytes, number: int) -> None:
        self.sent = sent
        self._unsent = memoryview(sent)
        self._received: list[bytes] = []
        self._began_s = self._heard_s = time.monotonic()
        self._finished = False
        # Many addresses of our own, because a port of one may be used again only after a while.
        source = (f"127.0.0.{2 + number % 200}", 0) if host == "127.0.0.1" else None
        self.socket = socket.create_connection((host, port), PATIENCE_S, source_address=source)
        self.socket.setblocking(False)

    def send(self, size: int) -> None:
        """Send more of the bytes, and FIN when nothing has come for a while after the last of them."""
        try:
            if self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent[:size]) :]
                self._heard_s = time.monotonic()
            elif not self._finished and time.monotonic() - self._heard_s > _QUIET_S:
                self.socket.shutdown(socket.SHUT_WR)
                self._finished = True
        except BlockingIOError:
            return
        except OSError:  # it has been closed; what it said before is read first
            self._unsent, self._finished = memoryview(b""), True

    def receive(self) -> bool:
        """Take what has come; returns whether the server has closed the connection."""
        try:
            received = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        self._heard_s = time.monotonic()
        self._received.append(received)
        return not received

    def check(self, tags: Sequence[str]) -> None:
        """See that nothing came that another had asked for.

        Raises:
            Found: something did.
        """
        own = {tag.encode() for tag in tags}
        for tag in _TAG.findall(b"".join(self._received)):
            if tag not in own and tag not in self.sent and not tag.startswith(b"#%09d" % _OTHERS):
                raise Found(f"an answer to {tag.decode()} came to {tags}", self.sent)

    def answered(self, tags: Sequence[str]) -> bool:
        """Whether one of its calls was answered."""
        received = b"".join(self._received)
        return any(tag.encode() in received for tag in tags)

    @property
    def hangs(self) -> bool:
        """Whether the server should have closed it long ago."""
        return time.monotonic() - self._began_s > PATIENCE_S


def send_connections(
    address: str, count: int, rng: random.Random, tally: Tally, on_progress: Callable[[int], None]
) -> int:
    """Open so many connections, most of them broken, some at once.

    Returns:
        How many of them got an answer with a tag of theirs.

    Raises:
        Found: an answer came to the wrong one, a connection was not closed, or an honest call failed.
    """
    host, _, port = address.rpartition(":")
    honest = Honest(address, tally)
    honest.connection.open()
    others = [one for _ in range(50) for one in connection(rng, _OTHERS)[0][1:]]
    cuts = random.Random(rng.getrandbits(64))
    open_: dict[_Attempt, list[str]] = {}
    begun = done = answered = 0
    with selectors.DefaultSelector() as selector:
        selector.register(honest.connection, selectors.EVENT_READ, honest)
        try:
            while done < count:
                while len(open_) < _AT_ONCE and begun < count:
                    frames, tags = connection(rng, begun)
                    sent = b"".join(frames) if rng.random() < _UNMUTATED else mutated_frames(rng, frames, others)
                    attempt = _Attempt(host, int(port), sent, begun)
                    begun += 1
                    open_[attempt] = tags
                    selector.register(attempt.socket, selectors.EVENT_READ, attempt)
                honest.ask()
                for attempt in open_:
                    attempt.send(cuts.choice((9, 100, 1 << 16)))
                    if attempt.hangs:
                        raise Found("the server does not close a connection that its client has", attempt.sent)
                for key, _ in selector.select(0.005):
                    if key.data is honest:
                        honest.receive()
                    elif key.data.receive():
                        selector.unregister(key.data.socket)
                        key.data.socket.close()
                        key.data.check(open_[key.data])
                        answered += key.data.answered(open_.pop(key.data))
                        done += 1
                on_progress(done)
        except (ConnectionBroken, ConnectionError) as error:
            sent = b"\n\n\n".join(attempt.sent for attempt in open_)
            raise Found(f"the honest caller's connection, or a new one, broke: {error!r}", sent) from error
        finally:
            honest.connection.close()
            for attempt in open_:
                attempt.socket.close()
    return answered
