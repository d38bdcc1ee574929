"""File descriptors: how many there may be, and some that are kept back for the moment when the process may open no more.

A connection that waits is reported again and again until it is accepted, and to accept one takes a descriptor. Whoever
has one in reserve can accept it, and say no or answer, instead of letting it wait without a word.
"""

import errno
import os
import resource
import socket
from contextlib import suppress
from typing import Any

OUT_OF_FILES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Why a connection cannot be accepted, although it is there."""


def most_files() -> int:
    """How many files the process may open; as many as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A service often starts with 1024, for programs that use select().
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS has no such thing as no limit
            return soft
    return 2**31 if hard == resource.RLIM_INFINITY else hard


class Reserve:
    """Some descriptors; for one thread.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[int] = []

    def fill(self) -> bool:
        """Have all of them again, as far as they are to be had; returns whether all are."""
        with suppress(OSError):
            while len(self._kept) < self._count:
                self._kept.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        return len(self._kept) == self._count

    def accept(self, listening: socket.socket) -> tuple[socket.socket, Any] | None:
        """Accept a connection in the place of one of them.

        Returns:
            The connection and its address; None if none waits, or the place was taken by another thread.
        """
        if not self._kept:
            return None
        os.close(self._kept.pop())
        try:
            return listening.accept()
        except OSError:
            self.fill()
            return None

    def close(self) -> None:
        """Give them up."""
        while self._kept:
            os.close(self._kept.pop())
