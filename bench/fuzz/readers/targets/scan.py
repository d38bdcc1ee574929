"""Targets of the message scan: what it passes, protobuf parses within its bounds; what it refuses is too much or no message."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from google.protobuf.message import DecodeError, Message

from bench.fuzz.oracle import Found
from bench.fuzz.readers.mutators import message
from bench.fuzz.readers.target import Check, Target
from bench.fuzz.readers.targets.samples import INFERS, PREDICTS
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline_server.codec import message_scan
from frostline_server.codec.message_scan import TakesLong, check
from frostline_server.errors import InvalidInput

_ELEMENTS = "inference.InferTensorContents"
_SMALL: dict[str, Any] = {
    "MOST_FIELDS": 48,
    "MOST_STRINGS": 8,
    "MOST_NUMBERS": 16,
    "BRIEF_STRINGS": 4,
    "BRIEF_NUMBERS": 8,
}
"""Bounds that a small input can exceed."""
_MOST_TEXT_BYTES = 64


def _scan(kind: type[Message]) -> Callable[[Path], Check]:
    def opened(_: Path) -> Check:
        def run(data: bytes) -> None:
            with patch.multiple(message_scan, **_SMALL, _MOST_TEXT_BYTES=_MOST_TEXT_BYTES):
                _compare(kind, data)

        return run

    return opened


def _compare(kind: type[Message], data: bytes) -> None:
    try:
        parsed = kind.FromString(data)
    except DecodeError:
        parsed = None
    try:
        passes = check(kind.DESCRIPTOR, data)
    except InvalidInput as error:
        held = None if parsed is None else _on_wire(kind.DESCRIPTOR, data)
        if held is not None and not _too_much(held):
            raise Found(f"refused without a reason: {error}", data) from error
        return
    counts = None if parsed is None else _on_wire(kind.DESCRIPTOR, data)
    if counts is not None and not passes:
        raise Found("protobuf parses it, and the scan says that it is no message", data)
    if passes and _too_much(counts):
        raise Found(f"{counts} passed", data)
    try:
        check(kind.DESCRIPTOR, data, brief=True)
    except TakesLong as error:
        if len(data) <= min(_SMALL["BRIEF_STRINGS"], _SMALL["BRIEF_NUMBERS"]):
            raise Found("so little cannot take long", data) from error


def _too_much(counts: "_Counts | None") -> bool:
    return counts is not None and (
        counts.fields > _SMALL["MOST_FIELDS"]
        or counts.strings > _SMALL["MOST_STRINGS"]
        or counts.numbers > _SMALL["MOST_NUMBERS"]
        or counts.text > _MOST_TEXT_BYTES
    )


@dataclass
class _Counts:
    """What a message holds on the wire: fields, elements in fields of their own, integers in a row, the longest text."""

    fields: int = 0
    strings: int = 0
    numbers: int = 0
    text: int = 0

    def add(self, other: "_Counts") -> None:
        """Add what an inner message holds."""
        self.fields += other.fields
        self.strings += other.strings
        self.numbers += other.numbers
        self.text = max(self.text, other.text)


def _on_wire(kind: Any, data: bytes) -> _Counts | None:
    """What a message that protobuf parses holds; None with a group, which no message here has."""
    counts, at = _Counts(), 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        size = {1: 8, 5: 4}.get(wire, 0)
        if wire in (3, 4):
            return None
        if wire == 0:
            _, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
        content, at = data[at : at + size], at + size
        field = kind.fields_by_number.get(tag >> 3)
        if field is None:
            counts.fields += 1
        elif wire == 2 and field.type == field.TYPE_MESSAGE:
            counts.fields += 1
            inner = _on_wire(field.message_type, content)
            if inner is None:
                return None
            counts.add(inner)
        else:
            _count(counts, field, wire, content, elements=kind.full_name == _ELEMENTS)
    return counts


def _count(counts: _Counts, field: Any, wire: int, content: bytes, *, elements: bool) -> None:
    """Count a field that is no message."""
    is_bytes, is_text = field.type == field.TYPE_BYTES, field.type == field.TYPE_STRING
    if elements and (is_bytes if wire == 2 else not is_bytes):
        counts.strings += 1
        return
    counts.fields += 1
    if wire != 2:
        return
    if is_text:
        counts.text = max(counts.text, len(content))
    elif field.is_repeated and not is_bytes:
        many = sum(byte < 0x80 for byte in content)
        if not elements:
            counts.fields += many
        elif field.type not in (field.TYPE_FLOAT, field.TYPE_DOUBLE, field.TYPE_BOOL):
            counts.numbers += many


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] > 0x7F:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return (value | data[at] << shift) & (2**64 - 1), at + 1


TARGETS = (
    Target(
        "scan-infer", "ModelInfer requests, counted", _scan(pb.ModelInferRequest), INFERS, message(pb.ModelInferRequest)
    ),
    Target(
        "scan-predict",
        "Predict requests, counted",
        _scan(typed.PredictRequest),
        PREDICTS,
        message(typed.PredictRequest),
    ),
)
