"""Large serialised messages in chunks: nobody waits for the interpreter while much of one is copied.

Whoever copies bytes out of an array keeps all other threads of the interpreter waiting meanwhile, 50 ms for 64 MiB. Chunks
are copied one after the other, and are sent as they are.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

CHUNK_BYTES = 1 << 20


class Chunks:
    """A message in chunks; its length is that of all of them, and `bytes` joins them.

    Args:
        chunks: in their order.
    """

    __slots__ = ("_chunks", "_size")

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks
        self._size = sum(map(len, chunks))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __bytes__(self) -> bytes:
        # Joining nothing but bytes lets other threads run.
        return b"".join(self._chunks)


Serialised = bytes | Chunks
"""A serialised message."""


def chunks_of(message: Serialised) -> Sequence[bytes] | Chunks:
    """The chunks of a message, of which there may be one."""
    return (message,) if isinstance(message, bytes) else message


def copied(data: np.ndarray[Any, Any] | memoryview) -> Iterator[bytes]:
    """The elements of an array, or bytes, in chunks, each copied when it is asked for.

    Args:
        data: an array of numbers, or bytes.
    """
    view = data if isinstance(data, memoryview) else data.reshape(-1).view(np.uint8).data
    for at in range(0, len(view), CHUNK_BYTES):
        yield view[at : at + CHUNK_BYTES].tobytes()
