"""Mutators that know a little of a format: texts, protobuf messages, archives, and several of them in one input."""

import io
import random
import zipfile
from collections.abc import Sequence

from google.protobuf.message import DecodeError, Message

from bench.fuzz.mutations import mutated
from bench.fuzz.readers.target import Mutate

_LARGEST = 8192
"""Bytes of an input: enough for every branch, and few enough to be quick."""
_TIMES = (2, 2, 2, 3, 4, 8, 16, 32, 64, 2000)
"""How often a word comes in a row; the last is more than anything may be nested."""


def text(*words: bytes) -> Mutate:
    """For texts: words of the format are put in, and parts are repeated, nested or taken from other inputs."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randint(0, len(changed))
            end = min(len(changed), at + rng.choice((0, 0, 1, 4, 16)))
            match rng.randrange(6):
                case 0 | 1 | 2:
                    changed[at:end] = rng.choice(words)
                case 3:
                    changed[at:end] = rng.choice(words) * rng.choice(_TIMES)
                case 4:
                    changed[at:end] = str(rng.choice((0, -1, 2**31, 2**63, 10**40, 10**400))).encode()
                case _:
                    changed = bytearray(mutated(rng, bytes(changed), others))
        return bytes(changed[:_LARGEST])

    return mutate


def message(kind: type[Message]) -> Mutate:
    """For serialised messages: their bytes and lengths lie, or fields of several are merged, or come in another order."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        if rng.random() < 0.6:
            return mutated(rng, data, others)[:_LARGEST]
        whole = kind()
        try:
            whole.MergeFromString(data)
            if rng.random() < 0.4:
                whole.MergeFromString(rng.choice(others))
        except DecodeError:
            return mutated(rng, data, others)[:_LARGEST]
        _change(rng, whole)
        return whole.SerializeToString()[:_LARGEST]

    return mutate


def _change(rng: random.Random, whole: Message) -> None:
    """Drop or repeat one field of a message, or of one in it."""
    present = whole.ListFields()
    if not present:
        return
    field, value = rng.choice(present)
    nested = field.message_type is not None and not field.message_type.GetOptions().map_entry
    if not field.is_repeated:
        if nested and rng.random() < 0.7:
            _change(rng, value)
        else:
            whole.ClearField(field.name)
    elif nested and rng.random() < 0.7:
        _change(rng, rng.choice(value))
    elif field.message_type is None or nested:
        value.extend(list(value)[: rng.randint(1, 3)]) if rng.random() < 0.5 else value.pop()
    else:
        value.clear()


def pair(one: Mutate) -> Mutate:
    """For two inputs in one, see `joined`: either is mutated, or the second becomes the first with bytes changed."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        first, second = split(data)
        parts = [part for other in others for part in split(other)]
        match rng.randrange(5):
            case 0:
                first = one(rng, first, parts)
            case 1:
                second = one(rng, second, parts)
            case 2:
                second = first
            case 3:
                first = second = one(rng, first, parts)
            case _:
                # As long as the first, and of the same fields most often: what a cache of headers must tell apart.
                changed = bytearray(first)
                for _ in range(rng.randint(1, 3)):
                    if changed:
                        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x0A, 0x1A, 0x3A, 0x80, 0xFF))
                second = bytes(changed)
        return joined(first, second)

    return mutate


def joined(first: bytes, second: bytes) -> bytes:
    """Two inputs in one: the length of the first in two bytes, and then both."""
    return len(first).to_bytes(2, "big") + first + second


def split(data: bytes) -> tuple[bytes, bytes]:
    """The two inputs in one, whatever it is."""
    end = 2 + int.from_bytes(data[:2], "big")
    return data[2:end], data[end:]


def archive(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """For archives: the members are mutated and their checksums right, or a member is left out or taken from another."""
    if rng.random() < 0.2:
        return mutated(rng, data, others)[:_LARGEST]
    members = _members(data) or _members(others[0])
    more = _members(rng.choice(others))
    name = rng.choice(list(members))
    match rng.randrange(6):
        case 0:
            del members[name]
        case 1 if more:
            members[name] = rng.choice(list(more.values()))
        case _:
            members[name] = mutated(rng, members[name], list(members.values()))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as file:
        for each, content in members.items():
            file.writestr(zipfile.ZipInfo(each), content)
    return packed.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return {name: file.read(name) for name in file.namelist()}
    except Exception:  # noqa: BLE001  a mutated archive raises whatever it likes, and is then mutated as bytes
        return {}
