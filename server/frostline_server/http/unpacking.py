"""Unpacks the body of a request: gzip (RFC 1952), of as many members as it has, and deflate (RFC 9110).

A member is a whole gzip file; programs write several, one behind the other, where they pack in blocks or append. gRPC's
messages have one, see `rpc.h2.framing`.
"""

import zlib

_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_READ_BYTES = 1 << 16
"""So much is read at a time. What follows a member within it is copied, for each member."""
_WRITTEN_BYTES = 1 << 20
"""So much is unpacked at a time: whoever joins large parts within zlib keeps all other threads waiting."""
_MOST_MEMBERS = 4096
"""Programs that pack in blocks have 64 KiB in each. An empty member takes 20 bytes, and much longer to read than they."""


def unpacked(packed: bytes, coding: bytes, limit: int) -> bytes | None:
    """A body unpacked; None if it would become larger than `limit` bytes.

    Args:
        packed: what came.
        coding: gzip or deflate.
        limit: in bytes, of all members together.

    Raises:
        ValueError: it is not so packed, more comes after its end, or it has too many members.
    """
    view, parts = memoryview(packed), list[bytes]()
    at = size = 0
    members = 1
    unpack = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        while at < len(view):
            if unpack.eof:
                if coding != b"gzip":
                    raise ValueError("there is more after its end")
                if members == _MOST_MEMBERS:
                    raise ValueError(f"it has more than {_MOST_MEMBERS} members; pack more in each")
                members += 1
                unpack = zlib.decompressobj(_WINDOW_BITS[coding])
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
