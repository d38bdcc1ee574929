"""The message scan: it counts what a message holds before protobuf makes objects of it.

Two bytes can be an empty tensor, and so 64 MiB of them, or 60 KiB compressed, 32 million objects of a hundred bytes and
more. The scan walks through the fields as protobuf would, follows those that the message's type makes objects of, and
stops at the first that is too many. https://protobuf.dev/programming-guides/encoding/
"""

from functools import cache
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from frostline_server.errors import InvalidInput

MOST_FIELDS = 1 << 14
"""Fields of one message on all levels, and axes, but not elements. A tensor [rows, 1] has six and its raw content one more,
so that a request may have 2000 inputs."""

MOST_STRINGS = 1 << 18
"""Strings in one message: 4096 rows of 64 texts. Each becomes an object of its own, here and in ONNX Runtime, and part of
that work keeps all other threads of the interpreter waiting."""

MOST_NUMBERS = 1 << 21
"""Integers in typed contents, which are taken apart one by one: a batch of 13 pictures of 224 x 224 x 3. Floats and truth
values are not: as many as a message may hold can be sent."""

_MOST_TEXT_BYTES = 1 << 20
"""A name, an id, or a value that is text. It may be quoted in errors, in logs and in answers."""

SMALL_BYTES = 1 << 13
"""Messages up to this size hold too little to be counted: each object takes two bytes at least."""

BRIEF_FIELDS = 1 << 11
BRIEF_STRINGS = 1 << 12
BRIEF_NUMBERS = 1 << 15
BRIEF_BYTES = 1 << 20
"""What takes more than a few milliseconds to decode, and so is not decoded by a thread for which others wait."""

_RAW = "send them in raw_input_contents, or in several requests"

# Wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_VARINT_BYTES, _LARGEST = 10, 2**64 - 1

_PLAIN, _TEXT, _MESSAGE, _PACKED, _STRING, _NUMBERS, _WHOLE = range(7)
"""What a field is: nothing that needs a look, a text, a message, numbers in a row, an element, elements in a row, elements
that are copied all at once."""

_FIXED = frozenset(
    {
        FieldDescriptor.TYPE_FLOAT,
        FieldDescriptor.TYPE_DOUBLE,
        FieldDescriptor.TYPE_FIXED32,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED32,
        FieldDescriptor.TYPE_SFIXED64,
    }
)
_ELEMENTS = "inference.InferTensorContents"
"""The one type whose repeated fields hold elements, of which there may be many."""

Plan = dict[int, tuple[int, str, Any]]
"""By tag: what the field is, its name, and the plan of its message."""


class TakesLong(Exception):
    """The message holds so much that it must be decoded by a thread for which nobody waits."""


@cache
def plan(message: Any) -> Plan:
    """What the scan looks for in messages with a descriptor, which must not contain themselves."""
    fields: Plan = {}
    for field in message.fields:
        many, kind = field.is_repeated, field.type
        tag = field.number << 3
        if kind == FieldDescriptor.TYPE_MESSAGE:
            fields[tag | _BYTES] = (_MESSAGE, field.name, plan(field.message_type))
        elif kind == FieldDescriptor.TYPE_STRING:
            fields[tag | _BYTES] = (_TEXT, field.name, None)
        elif kind == FieldDescriptor.TYPE_BYTES:
            element = many and message.full_name == _ELEMENTS
            fields[tag | _BYTES] = (_STRING if element else _PLAIN, field.name, None)
        elif many:
            element = message.full_name == _ELEMENTS
            # Truth values and numbers of a fixed size are taken as they are, all at once.
            whole = element and (kind in _FIXED or kind == FieldDescriptor.TYPE_BOOL)
            fields[tag | _BYTES] = (_WHOLE if whole else _NUMBERS if element else _PACKED, field.name, None)
            # Numbers may also come one by one, each with its tag.
            for wire in (_VARINT, _FIXED32, _FIXED64):
                fields[tag | wire] = (_STRING if element else _PLAIN, field.name, None)
    return fields


class _Scan:
    """One walk through one message; see `check`."""

    __slots__ = ("_brief", "_fields", "_least_fields", "_numbers", "_payload", "_strings")

    def __init__(self, payload: bytes, *, brief: bool) -> None:
        self._payload = payload
        self._brief = brief
        self._fields = MOST_FIELDS
        # As many are left when it has gone on for long enough.
        self._least_fields = MOST_FIELDS - BRIEF_FIELDS if brief else 0
        self._strings = MOST_STRINGS
        self._numbers = MOST_NUMBERS

    def walk(self, fields: Plan, at: int, end: int) -> None:
        """Walk through the fields between two places."""
        payload = self._payload
        while at < end:
            tag = payload[at]
            at += 1
            if tag > 0x7F:
                tag, at = self._varint(at - 1, end)
            kind, name, inner = fields.get(tag, _UNKNOWN)
            size = wire = tag & 7
            if wire in (_BYTES, _VARINT):
                if at >= end:
                    raise _Damaged
                size = payload[at]
                at += 1
                if size > 0x7F:
                    size, at = self._varint(at - 1, end)
                if wire == _VARINT:
                    size = 0
            else:
                size = _SIZES[wire]
            begin, at = at, at + size
            if at > end or size < 0:
                raise _Damaged
            if kind == _STRING:
                at = self._count_strings(tag, at, end)
                continue
            self._fields -= 1
            if self._fields < self._least_fields:
                raise self._too_many_fields(name)
            if kind == _MESSAGE:
                self.walk(inner, begin, at)
            elif kind:
                self._look(kind, name, begin, at)

    def _too_many_fields(self, name: str) -> Exception:
        if self._brief:
            return TakesLong()
        return InvalidInput(
            f"the message has more than {MOST_FIELDS} fields, the last of them '{name}'; tensors, outputs, parameters and "
            "axes are fields; send several requests with fewer"
        )

    def _look(self, kind: int, name: str, begin: int, end: int) -> None:
        """Look at a field that is between two places."""
        if kind == _TEXT and end - begin > _MOST_TEXT_BYTES:
            raise InvalidInput(
                f"the message has a {name} of {end - begin} bytes; a name, an id or a text may have {_MOST_TEXT_BYTES}"
            )
        if kind == _PACKED:
            self._fields -= self._numbers_in(begin, end, self._fields)
            if self._fields < self._least_fields:
                raise self._too_many_fields(name)
        elif kind == _NUMBERS:
            self._count_numbers(begin, end)
        elif kind == _WHOLE and self._brief and end - begin > BRIEF_BYTES:
            raise TakesLong

    def _count_strings(self, tag: int, at: int, end: int) -> int:
        """Count a string, and faster than one by one the short ones that follow it; returns where they end."""
        payload = self._payload
        left = most = BRIEF_STRINGS + 1 if self._brief else self._strings + 1
        last = end - 1 if tag & 7 == _BYTES else at
        while left and at < last and payload[at] == tag and (size := payload[at + 1]) < 0x80:
            at += size + 2
            left -= 1
        if at > end:
            raise _Damaged
        self._strings -= 1 + most - left
        if self._strings < 0:
            remedy = "send several requests" if tag & 7 == _BYTES else _RAW
            raise InvalidInput(f"the message has more than {MOST_STRINGS} elements in fields of their own; {remedy}")
        if self._brief and self._strings < MOST_STRINGS - BRIEF_STRINGS:
            raise TakesLong
        return at

    def _count_numbers(self, begin: int, end: int) -> None:
        if self._brief and end - begin > _LARGEST_VARINT_BYTES * BRIEF_NUMBERS:
            raise TakesLong
        self._numbers -= self._numbers_in(begin, end, self._numbers)
        if self._numbers < 0:
            raise InvalidInput(f"the message has more than {MOST_NUMBERS} integers in typed contents; {_RAW}")
        if self._brief and self._numbers < MOST_NUMBERS - BRIEF_NUMBERS:
            raise TakesLong

    def _numbers_in(self, begin: int, end: int, most: int) -> int:
        """How many numbers there are between two places; of too many not exactly how many."""
        size = end - begin
        if size > _LARGEST_VARINT_BYTES * most:
            return most + 1
        # The last byte of each has its first bit clear.
        row = np.frombuffer(self._payload, np.int8, size, begin)
        return int(np.count_nonzero(row >= 0))

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        payload, value = self._payload, 0
        for shift in range(0, 7 * _LARGEST_VARINT_BYTES, 7):
            if at >= end:
                break
            byte = payload[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                # What does not fit is dropped, as protobuf does.
                return value & _LARGEST, at
        raise _Damaged


def check(message: Any, payload: bytes, *, brief: bool = False) -> bool:
    """Count what a message holds.

    Args:
        message: the descriptor of its type.
        payload: the message.
        brief: whether to stop where decoding would take long.

    Returns:
        Whether the bytes can be a message at all.

    Raises:
        InvalidInput: it holds more than is taken; the error says of what, and what to do.
        TakesLong: it is to be decoded elsewhere; only if `brief`.
    """
    try:
        _Scan(payload, brief=brief).walk(plan(message), 0, len(payload))
    except _Damaged:
        return False
    return True


class _Damaged(Exception):
    """No such message, or a group, which no message here has."""


_UNKNOWN: tuple[int, str, Any] = (_PLAIN, "unknown", None)
_SIZES = (0, 8, 0, -1, -1, 4, -1, -1)
"""By wire type; -1 is a group or none."""
