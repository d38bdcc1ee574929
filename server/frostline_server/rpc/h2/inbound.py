"""The messages of a call that come in pieces, compressed, or in numbers."""

from collections import deque

from frostline_server.errors import MessageTooLarge, NetworkFull
from frostline_server.rpc.h2.call import EMPTY, Call, Malformed
from frostline_server.rpc.h2.framing import BRIEF_BYTES, LARGEST_RATIO, MessageReader, inflated


class Inbound:
    """The messages of a call that come in pieces, compressed, or in numbers.

    Args:
        call: whose.
        encoding: of compressed messages, b"" for none.
        unary: whether there must be exactly one message.
    """

    __slots__ = ("_call", "_count", "_encoding", "_ended", "_reader", "_unary", "_waiting", "_working")

    def __init__(self, call: Call, encoding: bytes, *, unary: bool) -> None:
        self._call = call
        self._encoding = encoding
        self._unary = unary
        self._reader = MessageReader()
        self._waiting: deque[tuple[int, bytes | list[bytes]]] = EMPTY
        self._count = 0
        self._ended = False
        self._working = False  # another thread has a message

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
        if messages and self._waiting is EMPTY:
            self._waiting = deque()
        self._waiting.extend(messages)
        if self._unary and self._count + len(self._waiting) > 1:
            raise Malformed("the method takes one message, and the call has more")
        if end:
            if self._reader.inside:
                raise Malformed("the call ended in the middle of a message")
            if self._unary and not self._count + len(self._waiting):
                raise Malformed("the method takes one message, and the call has none")
            self._ended = True
        if not self._working:
            self._pass_on()

    def _pass_on(self) -> None:
        call = self._call
        while self._waiting:
            # A unary call is looked at when it is whole, as whether it is one only shows then.
            if call.over or (self._unary and not self._ended):
                return
            compressed, message = self._waiting.popleft()
            self._count += 1
            if not compressed and isinstance(message, bytes):
                if spare := _spare(len(message)):
                    call.release(spare)
                call.receiver.message(call, message)
                continue
            if compressed and (compressed != 1 or self._encoding in (b"", b"identity")):
                raise Malformed("a message says that it is compressed, and the call names no grpc-encoding")
            if not self._put_together(message, self._encoding if compressed else b""):
                return
        if self._ended and not self._unary and not call.over:
            call.receiver.finished(call)

    def _put_together(self, message: bytes | list[bytes], encoding: bytes) -> bool:
        """Join and unpack a message, and pass it on; False if that will happen later."""
        call = self._call
        size = len(message) if isinstance(message, bytes) else sum(map(len, message))
        limit = call.shared.limits.max_message_bytes
        # Nothing says what a compressed message will become, so the most it can is held meanwhile.
        most = min(limit, LARGEST_RATIO * size + 1) if encoding else 0
        call.hold(most)
        held = size + _spare(size) + most
        if max(size, most) <= BRIEF_BYTES:
            self._pass(_whole(message, encoding, limit), held)
            return True
        # Not the call's, because it is in memory until its turn has come, whether or not somebody still waits.
        call.held -= held
        self._working = True
        call.shared.elsewhere(
            lambda: None if call.over else _whole(message, encoding, limit), lambda whole: self._take_back(whole, held)
        )
        return False

    def _take_back(self, whole: bytes | Exception | None, held: int) -> None:
        self._working = False
        call = self._call
        if call.over or whole is None:
            call.shared.budget.give(held)
            return
        call.held += held

        def go_on() -> None:
            self._pass(whole, held)
            self._pass_on()

        call.connection.guarded(call, go_on)

    def _pass(self, whole: bytes | Exception, held: int) -> None:
        if isinstance(whole, Exception):
            try:
                raise whole
            finally:
                del whole  # or it would be in its own traceback, and the call with it
        call = self._call
        call.release(held - len(whole))
        call.receiver.message(call, whole)

    def _reserve(self, size: int) -> None:
        most = self._call.shared.limits.max_message_bytes
        if size > most:
            raise MessageTooLarge(f"SERVER: Received message larger than max ({size} vs. {most})")
        self._call.hold(size + _spare(size))


def _spare(size: int) -> int:
    """What is held for a message beside its own size, until it has been put together: large ones are copied meanwhile."""
    return size if size > BRIEF_BYTES else 0


def _whole(message: bytes | list[bytes], encoding: bytes, limit: int) -> bytes | Exception:
    try:
        # Joining nothing but bytes lets other threads run.
        joined = message if isinstance(message, bytes) else b"".join(message)
        whole = inflated(joined, encoding, limit) if encoding else joined
    except ValueError as error:
        return Malformed(f"a message cannot be unpacked as {encoding.decode()}: {error}")
    except MemoryError:
        # A value too, or what is held for it would be held for ever.
        return NetworkFull("the server has no memory for the message; send it again later, or a smaller one")
    if whole is None:
        return MessageTooLarge(f"SERVER: Received message larger than max (unpacked more than {limit})")
    return whole
