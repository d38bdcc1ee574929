"""The corpus: for each target the inputs that reach all that is known to be reached, and every one that found a fault."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from bench.fuzz.readers.target import Check, Target

FOLDER = Path(__file__).parents[3] / "tests" / "fuzz" / "corpus"
FAULT = "fault-"
"""How the names of inputs begin that found a fault; they are kept whatever they reach."""

_LARGEST = 4096
_ROOM = 40_000
"""Bytes of the inputs of one target, so that all together stay below 1 MiB."""

Reached = frozenset[tuple[str, int, int]]
"""Steps from line to line, in the server's own files."""


def inputs(target: Target) -> list[bytes]:
    """A target's seeds and all that is in its corpus."""
    return [*target.seeds, *(path.read_bytes() for path in sorted((FOLDER / target.name).glob("*")))]


def keep(target: Target, check: Check, found: Iterable[bytes]) -> int:
    """Write the smallest of a target's inputs that reach all that these and the corpus's reach; returns their bytes."""
    folder = FOLDER / target.name
    folder.mkdir(parents=True, exist_ok=True)
    before = [path for path in sorted(folder.glob("*")) if not path.name.startswith(FAULT)]
    candidates = {one for one in (*found, *(path.read_bytes() for path in before)) if len(one) <= _LARGEST}
    known: set[tuple[str, int, int]] = set()
    for one in inputs(target):
        if one not in candidates:
            known |= reached(check, one)
    for path in before:
        path.unlink()
    size = 0
    for one in sorted(candidates, key=lambda each: (len(each), each)):
        new = reached(check, one) - known
        if new and size + len(one) <= _ROOM:
            known |= new
            size += len(one)
            (folder / hashlib.sha256(one).hexdigest()[:12]).write_bytes(one)
    return size


def reached(check: Check, data: bytes) -> Reached:
    """What an input reaches."""
    steps: set[tuple[str, int, int]] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        if "frostline_server" not in file:
            return None
        before = [frame.f_lineno]

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "line":
                steps.add((file, before[0], frame.f_lineno))
                before[0] = frame.f_lineno
            return step

        return step

    tracing = sys.gettrace()
    sys.settrace(enter)
    try:
        check(data)
    finally:
        sys.settrace(tracing)
    return frozenset(steps)
