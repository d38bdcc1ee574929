"""Length-prefixed messages of gRPC: five bytes, a flag for compression and the length, and then the message.

The prefix says how long a message will be before any of it has come, so a message that is too large is refused before
it is held. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import zlib
from collections.abc import Callable, Iterable

from frostline_server.codec.chunks import Serialised, chunks_of

PREFIX_BYTES = 5

ENCODINGS = b"identity,deflate,gzip"
"""The encodings of messages that are understood, as the header grpc-accept-encoding has them."""

_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
LARGEST_RATIO = 1032
"""How many times its size a compressed message can become at most (deflate, https://zlib.net/zlib_tech.html)."""

_READ_BYTES = 1 << 16
"""So much of a packed message is read at a time. What follows a member within it is copied, for each member."""
_WRITTEN_BYTES = 1 << 20
"""So much is unpacked at a time: whoever joins large parts within zlib keeps all other threads waiting."""
BRIEF_BYTES = 1 << 20
"""What is larger than this, or may become so, is joined and unpacked by another thread, so that it holds nothing up."""
_LARGE_BYTES = 1 << 16
"""From this size on a copy of a message costs more than what it saves."""


def prefixed(message: bytes, *, compressed: bool = False) -> bytes:
    """A message with its prefix."""
    return b"".join((b"\1" if compressed else b"\0", len(message).to_bytes(4, "big"), message))


def pieces(message: Serialised, *, compressed: bool = False) -> tuple[bytes, ...]:
    """A message with its prefix, in pieces to be sent one after the other; a large message is not copied."""
    if isinstance(message, bytes) and len(message) < _LARGE_BYTES:
        return (prefixed(message, compressed=compressed),)
    return prefixed(b"", compressed=compressed)[:1] + len(message).to_bytes(4, "big"), *chunks_of(message)


class MessageReader:
    """Puts messages together from the pieces in which they come, cut anywhere."""

    __slots__ = ("_head", "_parts", "_size")

    def __init__(self) -> None:
        self._head = b""
        self._parts: list[bytes] = []
        self._size = 0  # of the message that is coming, less what has come

    @property
    def inside(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._head)

    def append(self, data: bytes) -> bool:
        """Take what came, if it is all part of a message that has begun and does not end it; otherwise nothing."""
        size = len(data)
        if not 0 < size < self._size:
            return False
        self._parts.append(data)
        self._size -= size
        return True

    def feed(self, data: bytes, reserve: Callable[[int], None]) -> list[tuple[int, bytes | list[bytes]]]:
        """Take what has come; returns the messages it completed, each with its flag, 1 if it is compressed.

        To join the parts of a large one takes long: it comes in parts, for somebody else to join.

        Args:
            data: what has come.
            reserve: is told the length of each message, in bytes, as soon as that has come; raises to refuse it.

        Raises:
            whatever `reserve` raises.
        """
        messages: list[tuple[int, bytes | list[bytes]]] = []
        at, end = 0, len(data)
        while at < end:
            if len(self._head) < PREFIX_BYTES:
                taken = data[at : at + PREFIX_BYTES - len(self._head)]
                self._head += taken
                at += len(taken)
                if len(self._head) < PREFIX_BYTES:
                    break
                self._size = int.from_bytes(self._head[1:], "big")
                reserve(self._size)
            part = data[at : at + self._size] if at or end - at > self._size else data
            if part:
                self._parts.append(part)
                self._size -= len(part)
                at += len(part)
            if not self._size:
                messages.append((self._head[0], self._joined()))
                self._head, self._parts = b"", []
        return messages

    def _joined(self) -> bytes | list[bytes]:
        parts = self._parts
        if len(parts) == 1:
            return parts[0]
        return parts if int.from_bytes(self._head[1:], "big") > BRIEF_BYTES else b"".join(parts)


def inflated(message: bytes, encoding: bytes, limit: int, most_members: int = 1) -> bytes | None:
    """A message unpacked; None if it would become larger than `limit` bytes.

    Args:
        message: what came.
        encoding: gzip or deflate, the value of the header grpc-encoding.
        limit: in bytes.
        most_members: of gzip, how many may be one behind the other. A member is a whole gzip file (RFC 1952).

    Raises:
        ValueError: it is not such a message, more comes after its end, or it has too many members.
    """
    view, parts = memoryview(message), list[bytes]()
    at = size = 0
    members, most = 1, most_members if encoding == b"gzip" else 1
    unpack = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        while at < len(view):
            if unpack.eof:
                if members == most:
                    more = "there is more after its end"
                    raise ValueError(more if most == 1 else f"it has more than {most} members; pack more in each")
                members += 1
                unpack = zlib.decompressobj(_WINDOW_BITS[encoding])
            rest: bytes | memoryview = view[at : at + _READ_BYTES]
            at += len(rest)
            while rest and not unpack.eof:
                parts.append(unpack.decompress(rest, _WRITTEN_BYTES))
                rest = unpack.unconsumed_tail
                size += len(parts[-1])
                if size > limit:
                    return None
            at -= len(unpack.unused_data)
        parts.append(unpack.flush())
    except zlib.error as error:
        where = f"there is more after its end, which is no further member: {error}" if members > 1 else str(error)
        raise ValueError(where) from error
    if not unpack.eof:
        raise ValueError("it is cut off")
    return None if size + len(parts[-1]) > limit else b"".join(parts)


def deflated(chunks: Iterable[bytes | memoryview], encoding: bytes, level: int = -1) -> bytes:
    """A message packed; see `inflated`.

    Args:
        chunks: what it consists of.
        encoding: gzip or deflate.
        level: 1 for fast to 9 for small; -1 for zlib's choice.
    """
    pack = zlib.compressobj(level, wbits=_WINDOW_BITS[encoding])
    return b"".join((*map(pack.compress, chunks), pack.flush()))


def understood(encoding: bytes) -> bool:
    """Whether compressed messages of this encoding can be unpacked."""
    return encoding in _WINDOW_BITS
