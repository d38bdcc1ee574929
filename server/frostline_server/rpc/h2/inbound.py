"""The messages of a call that come in pieces, compressed, or in numbers."""

from collections import deque

from frostline_server.errors import MessageTooLarge
from frostline_server.rpc.h2.call import Call, Malformed
from frostline_server.rpc.h2.framing import LARGEST_RATIO, MessageReader, inflated

_COPIED_BYTES = 1 << 20
_UNPACK_BYTES = 1 << 20
"""What may become larger than this is unpacked by another thread, so that it holds nothing up."""


class Inbound:
    """The messages of a call that come in pieces, compressed, or in numbers.

    Args:
        call: whose.
        encoding: of compressed messages, b"" for none.
        unary: whether there must be exactly one message.
    """

    __slots__ = ("_call", "_count", "_encoding", "_ended", "_reader", "_unary", "_unpacking", "_waiting")

    def __init__(self, call: Call, encoding: bytes, *, unary: bool) -> None:
        self._call = call
        self._encoding = encoding
        self._unary = unary
        self._reader = MessageReader()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._count = 0
        self._ended = False
        self._unpacking = False

    @property
    def awaited(self) -> bool:
        """Whether a message is on its way that must arrive: the only one, or one that has begun."""
        return self._unary or self._reader.inside

    def append(self, data: bytes) -> bool:
        """Take what has come, if it is all part of a message and does not end it; otherwise nothing."""
        return self._reader.append(data)

    def feed(self, data: bytes, *, end: bool, now_s: float) -> None:
        """Take what has come; passes on to the receiver what that completed.

        Raises:
            PredictionError: a message is too large, or there is no room for it now.
            Malformed: see there.
        """
        inside = self._reader.inside
        messages = self._reader.feed(data, self._reserve)
        if messages or not inside:  # another message began
            self._call.since_s = now_s
        self._waiting.extend(messages)
        if self._unary and self._count + len(self._waiting) > 1:
            raise Malformed("the method takes one message, and the call has more")
        if end:
            if self._reader.inside:
                raise Malformed("the call ended in the middle of a message")
            if self._unary and not self._count + len(self._waiting):
                raise Malformed("the method takes one message, and the call has none")
            self._ended = True
        if not self._unpacking:
            self._pass_on()

    def _pass_on(self) -> None:
        call = self._call
        while self._waiting:
            # A unary call is looked at when it is whole, as whether it is one only shows then.
            if call.over or (self._unary and not self._ended):
                return
            compressed, message = self._waiting.popleft()
            self._count += 1
            if not compressed:
                call.receiver.message(call, message)
                if not call.over and (spare := _spare(len(message))):
                    call.release(spare)
                continue
            if compressed != 1 or self._encoding in (b"", b"identity"):
                raise Malformed("a message says that it is compressed, and the call names no grpc-encoding")
            if not self._unpack(message):
                return
        if self._ended and not self._unary and not call.over:
            call.receiver.finished(call)

    def _unpack(self, message: bytes) -> bool:
        """Unpack a message and pass it on; False if that will happen later."""
        call = self._call
        limit = call.shared.limits.max_message_bytes
        # Nothing says what it will become, so the most it can is held meanwhile.
        most = min(limit, LARGEST_RATIO * len(message) + 1)
        call.hold(most)
        held = most + len(message) + _spare(len(message))
        if most <= _UNPACK_BYTES:
            self._unpacked(_try_inflate(message, self._encoding, limit), held)
            return True
        self._unpacking = True
        encoding = self._encoding
        call.shared.elsewhere(
            lambda: _try_inflate(message, encoding, limit), lambda result: self._unpacked_elsewhere(result, held)
        )
        return False

    def _unpacked(self, result: bytes | Exception, held: int) -> None:
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # or it would be in its own traceback, and the call with it
        call = self._call
        call.release(held - len(result))
        call.receiver.message(call, result)

    def _unpacked_elsewhere(self, result: bytes | Exception, held: int) -> None:
        self._unpacking = False

        def go_on() -> None:
            self._unpacked(result, held)
            self._pass_on()

        if not self._call.over:
            self._call.connection.guarded(self._call, go_on)

    def _reserve(self, size: int) -> None:
        most = self._call.shared.limits.max_message_bytes
        if size > most:
            raise MessageTooLarge(f"SERVER: Received message larger than max ({size} vs. {most})")
        self._call.hold(size + _spare(size))


def _spare(size: int) -> int:
    """What is held for a message beside its own size, until it has been decoded: large ones are copied meanwhile."""
    return size if size > _COPIED_BYTES else 0


def _try_inflate(message: bytes, encoding: bytes, limit: int) -> bytes | Exception:
    try:
        unpacked = inflated(message, encoding, limit)
    except ValueError as error:
        return Malformed(f"a message cannot be unpacked as {encoding.decode()}: {error}")
    if unpacked is None:
        return MessageTooLarge(f"SERVER: Received message larger than max (unpacked more than {limit})")
    return unpacked
