"""Mutations of inputs: protobuf messages whose bytes and lengths lie, and HTTP/2 connections whose frames do."""

import random
from collections.abc import Callable, Sequence

from frostline.tune.frames import frame

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]
"""Changes bytes in place; the last argument is other inputs, to splice with."""

_FRAME_KINDS = range(12)
_INTERESTING = (0, 1, 127, 128, 255, 16383, 16384, 16385, 65535, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def mutated(rng: random.Random, payload: bytes, others: Sequence[bytes]) -> bytes:
    """A message with one to four mutations."""
    changed = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_OF_MESSAGES)(rng, changed, others)
    return bytes(changed)


def _flip(rng: random.Random, payload: bytearray, _: Sequence[bytes]) -> None:
    if payload:
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, payload: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randint(0, len(payload))
    payload[at : at + rng.randint(1, 4)] = rng.randbytes(rng.randint(1, 4))


def _truncate(rng: random.Random, payload: bytearray, _: Sequence[bytes]) -> None:
    del payload[rng.randint(0, len(payload)) :]


def _cut_out(rng: random.Random, payload: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randint(0, len(payload))
    del payload[at : at + rng.randint(1, 16)]


def _repeat(rng: random.Random, payload: bytearray, _: Sequence[bytes]) -> None:
    start, end = sorted(rng.randint(0, len(payload)) for _ in range(2))
    payload[end:end] = payload[start:end]


def _splice(rng: random.Random, payload: bytearray, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    payload[rng.randint(0, len(payload)) :] = other[rng.randint(0, len(other)) :]


def _lie_about_a_length(rng: random.Random, payload: bytearray, _: Sequence[bytes]) -> None:
    found = list(length_bytes(payload))
    if found:
        start, end = rng.choice(found)
        payload[start:end] = varint(rng.choice((rng.randint(0, 300), *_INTERESTING, 2**63, 2**64 - 1)))


_OF_MESSAGES: tuple[Mutation, ...] = (
    _flip, _flip, _overwrite, _truncate, _cut_out, _repeat, _splice, _lie_about_a_length, _lie_about_a_length
)  # fmt: skip


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def length_bytes(payload: bytes | bytearray, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Where the lengths of a message's fields stand, those of nested messages included; none, if it is no message."""
    end = len(payload) if end is None else end
    found, at = [], start
    while at < end:
        tag, at = _varint_at(payload, at, end)
        kind = tag & 7
        if kind == 2:
            begin = at
            length, at = _varint_at(payload, at, end)
            if at + length > end:
                return []
            found += [(begin, at), *length_bytes(payload, at, at + length)]
            at += length
        elif kind == 0:
            _, at = _varint_at(payload, at, end)
        elif kind in {1, 5}:
            at += 8 if kind == 1 else 4
        else:
            return []
    return found if at == end else []


def _varint_at(payload: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = payload[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return value, end + 1


def mutated_frames(rng: random.Random, frames: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """The bytes of a connection with one to three mutations, each of its frames or of its bytes."""
    changed = [bytearray(one) for one in frames]
    for _ in range(rng.randint(1, 3)):
        _mutate_frames(rng, changed, others)
    sent = bytearray().join(changed)
    if rng.random() < 0.3:
        rng.choice((_flip, _overwrite, _truncate, _cut_out))(rng, sent, others)
    return bytes(sent)


def _mutate_frames(rng: random.Random, frames: list[bytearray], others: Sequence[bytes]) -> None:  # noqa: PLR0912  a table of one-liners
    if not frames:
        return
    # Late ones more often: what breaks the first ends the connection before anything else is tried.
    at = max(rng.randrange(len(frames)) for _ in range(2))
    one = frames[at]
    match rng.randrange(11):
        case 0:
            del frames[at]
        case 1:
            frames.insert(rng.randint(0, len(frames)), one[:])
        case 2:
            frames.insert(rng.randint(0, len(frames) - 1), frames.pop(at))
        case 3:
            one[3:4] = bytes((rng.choice(_FRAME_KINDS),))
        case 4:
            one[4:5] = bytes((one[4] ^ 1 << rng.randrange(8) if len(one) > 4 else 0,))
        case 5:
            one[5:9] = rng.choice((0, 1, 2, 3, 5, 7, 2**31 - 1, 2**31, rng.getrandbits(32))).to_bytes(4, "big")
        case 6:
            one[0:3] = (rng.choice((*_INTERESTING, len(one), len(one) - 10)) % 2**24).to_bytes(3, "big")
        case 7:
            del one[rng.randint(0, len(one)) :]
        case 8:
            payload = rng.randbytes(rng.choice((0, 1, 4, 5, 6, 8, 12, 64)))
            stream = rng.choice((0, 1, 3, 5, 9))
            frames.insert(at, bytearray(frame(rng.choice(_FRAME_KINDS), rng.getrandbits(8), stream, payload)))
        case 9:
            frames.insert(at, bytearray(rng.choice(others)))
        case _:
            if len(one) > 9:
                one[rng.randrange(9, len(one))] ^= 1 << rng.randrange(8)
