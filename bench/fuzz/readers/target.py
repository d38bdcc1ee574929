"""A fuzz target: one reader, and what must hold of it whatever bytes come."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Check = Callable[[bytes], None]
"""Reads an input. It returns if the reader refused it as documented, or read it right; whatever it raises is a fault."""

Mutate = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
"""Makes an input of another one; the last argument is more of them, to take parts from."""


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: what the command calls it.
        reads: what it reads, in a few words.
        open: makes ready to check; it is given an empty folder of its own.
        seeds: valid inputs, from which others are made.
        mutate: makes inputs that keep enough of the format to get into the reader.
    """

    name: str
    reads: str
    open: Callable[[Path], Check]
    seeds: Sequence[bytes]
    mutate: Mutate
