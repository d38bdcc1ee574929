"""The slow attacks: connections, calls and handshakes that begin and go no further."""

import itertools
import select
import ssl
import time
from collections.abc import Callable, Iterable, Sequence

from bench.attacks import wire
from bench.attacks.target import Sent, Target
from bench.attacks.wire import Wire
from bench.attacks.workload import MESSAGE
from bench.load.workload import framed
from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER

_GREETING = wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0)
_CALL = wire.block(MODEL_INFER)
_BEGINNINGS = (b"", wire.PREFACE[:10], _GREETING, _GREETING + wire.headers(1, _CALL))
"""Nothing, part of the preface, a whole one, and a call without its message."""
HANDSHAKES = 5_000


def hold(
    wires: Sequence[Wire], until: float, every_s: float = 60.0, say: Callable[[Wire, int], bytes] = lambda *_: b""
) -> None:
    """Keep connections open until a time, reading what the server says.

    Args:
        wires: the connections; those that are closed are left out.
        until: the time, of the monotonic clock.
        every_s: how often they say something.
        say: what a connection says, given how often it has spoken.
    """
    poll = select.poll()
    living = {each.fileno(): each for each in wires if not each.closed}
    for number in living:
        poll.register(number, select.POLLIN)
    next_s, times = time.monotonic() + every_s, 0
    while (now := time.monotonic()) < until:
        due = now >= next_s
        if due:
            next_s += every_s
            for each in living.values():
                each.unsent += say(each, times)
            times += 1
        ready = {number for number, _ in poll.poll(max(0.0, min(until, next_s) - time.monotonic()) * 1000)}
        for number in list(living) if due else ready:
            if not living[number].turn(0):
                poll.unregister(number)
                del living[number]


def _begun(target: Target, sent: Sent, sources: Iterable[str], beginnings: Sequence[bytes]) -> list[Wire]:
    """Connections that have said their beginnings, one after another."""
    wires = []
    for source, beginning in zip(sources, itertools.cycle(beginnings), strict=False):
        each = target.wire(sent, source)
        each.open(beginning)
        each.turn(0)
        sent.count += 1
        wires.append(each)
    return wires


def _idle(target: Target, sources: Iterable[str], beginnings: Sequence[bytes] = _BEGINNINGS) -> Sent:
    sent = Sent("connections")
    begin = time.monotonic()
    wires = _begun(target, sent, sources, beginnings)
    hold(wires, time.monotonic() + target.seconds)
    return ended(sent, begin, wires)


def idle(target: Target) -> Sent:
    """2 000 connections of one address, half open and idle."""
    return _idle(target, itertools.repeat(target.source, 2_000))


def idle_of_many(target: Target) -> Sent:
    """2 000 connections of as many addresses."""
    return _idle(target, map(target.another, range(2_000)))


def handshakes(target: Target) -> Sent:
    """5 000 connections that say nothing, half of a ClientHello or all of it, and no more."""
    hello = client_hello()
    beginnings = (b"", hello[: len(hello) // 2], hello)
    # The bytes of a TLS handshake are no frames; what is read is not understood, and need not be.
    return _idle(target, map(target.another, range(HANDSHAKES)), beginnings)


def client_hello() -> bytes:
    """The first message of a TLS handshake, with ALPN h2."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(received, sent, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise ssl.SSLError("a handshake ended with its first message")


def _open_calls(target: Target, block: bytes, body: bytes) -> Sent:
    """1 000 calls on each of 20 connections, held open."""
    sent = Sent("calls")
    begin = time.monotonic()
    wires = _begun(target, sent, itertools.repeat(target.source, 20), (_GREETING,))
    numbers = range(1, 2001, 2)
    frames = b"".join(wire.headers(number, block) + (wire.data(number, body) if body else b"") for number in numbers)
    for each in wires:
        each.unsent += frames
    sent.count = len(wires) * len(numbers)
    hold(wires, begin + target.seconds)
    return ended(sent, begin, wires)


def open_streams(target: Target) -> Sent:
    """20 000 calls of ModelStreamInfer that send no message."""
    return _open_calls(target, wire.block(MODEL_STREAM_INFER), b"")


def watchers(target: Target) -> Sent:
    """20 000 calls of the health service's Watch."""
    return _open_calls(target, wire.block("/grpc.health.v1.Health/Watch"), framed(b""))


def slow_messages(target: Target) -> Sent:
    """200 calls on 4 connections, each sending a byte of its message every half second."""
    sent = Sent("bytes")
    body = framed(MESSAGE)
    begin = time.monotonic()
    wires = _begun(target, sent, itertools.repeat(target.source, 4), (_GREETING,))
    streams = [2 * number + 1 for number in range(50)]
    for each in wires:
        each.unsent += b"".join(wire.headers(stream, _CALL) for stream in streams)

    def say(_: Wire, times: int) -> bytes:
        sent.count += len(streams)
        return b"".join(wire.frame(wire.DATA, 0, stream, body[times : times + 1]) for stream in streams)

    hold(wires, begin + target.seconds, 0.5, say)
    return ended(sent, begin, wires)


def slow_headers(target: Target) -> Sent:
    """200 connections, each sending a byte of a header every half second."""
    sent = Sent("bytes")
    begin = time.monotonic()
    rest = wire.field(b"x", b"y" * 100)
    opening = _GREETING + wire.frame(wire.HEADERS, 0, 1, _CALL)
    wires = _begun(target, sent, itertools.repeat(target.source, 200), (opening,))

    def say(_: Wire, times: int) -> bytes:
        sent.count += 1
        return wire.frame(wire.CONTINUATION, 0, 1, rest[times : times + 1])

    hold(wires, begin + target.seconds, 0.5, say)
    return ended(sent, begin, wires)


def ended(sent: Sent, begin: float, wires: Iterable[Wire]) -> Sent:
    """Hang up, and note how long the attack took."""
    sent.seconds = time.monotonic() - begin
    for each in wires:
        each.close()
    return sent
