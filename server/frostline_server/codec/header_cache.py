"""The header cache: it recognises a `ModelInferRequest` whose header was seen before, without parsing it.

A client's requests differ in their id and their elements; everything else (the model, the names, types and shapes of
the tensors) is the same bytes again. A header is those bytes: all of the message but the id's text and the one raw
content, the length of both included.

Why a recognised message is what parsing it would have given: its length is that of the remembered one, and so are all
its bytes outside the two holes. The walk through the remembered message showed that the holes are exactly the id's
text and the last field's content, and that whole fields lie between them; protobuf reads fields one after the other,
so it reads the same fields here. What may differ in the holes is checked: the id must be UTF-8; elements may be any
bytes.
"""

from frostline.pb import inference_pb2

# Field number and wire type 2 (length-delimited), which is the type of every field of the message.
_ID = 3 << 3 | 2
_RAW = 7 << 3 | 2
_FIELDS = frozenset(number << 3 | 2 for number in range(1, 8))

_MAX_HEADERS = 4096
_MAX_HEADER_BYTES = 512
_VIEWED_BYTES = 1 << 16
"""From this size on a message's elements are looked at where they are: a copy would cost more than the view."""
_MAX_CUTS = 4
"""Requests of one length that are cut in different ways: rare, and each is tried in turn."""


class RequestHeader:
    """A header seen before; each is one object, so that it can be looked up by identity.

    Attributes:
        model: the model asked for.
        version: the version asked for.
    """

    __slots__ = ("model", "version")

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version


Cut = tuple[int, int, int]
"""Where the id begins and ends, and where the elements begin, which go on to the end of the message."""


class Headers:
    """The headers seen before; their number and size are bounded."""

    def __init__(self) -> None:
        # By the length of the message: the ways it may be cut, and for each the headers of such messages.
        self._known: dict[int, tuple[tuple[Cut, dict[bytes, RequestHeader]], ...]] = {}
        self._count = 0

    def find(self, payload: bytes) -> tuple[RequestHeader, str, bytes | memoryview] | None:
        """The header, id and elements of a message, or None: it must then be parsed."""
        for (id_from, id_to, start), headers in self._known.get(len(payload), ()):
            header = headers.get(payload[:id_from] + payload[id_to:start])
            if header is not None:
                try:
                    large = len(payload) >= _VIEWED_BYTES
                    elements = memoryview(payload)[start:] if large else payload[start:]
                    return header, payload[id_from:id_to].decode(), elements
                except UnicodeDecodeError:
                    return None
        return None

    def remember(self, payload: bytes, request: inference_pb2.ModelInferRequest) -> RequestHeader | None:
        """The header of a message that was parsed, from now on remembered; None if it is not of the kind that is."""
        cut = _cut(payload)
        if cut is None:
            return None
        id_from, id_to, start = cut
        key = payload[:id_from] + payload[id_to:start]
        if len(key) > _MAX_HEADER_BYTES:
            return None
        if self._count >= _MAX_HEADERS:
            self._known.clear()
            self._count = 0
        cuts = dict(self._known.get(len(payload), ()))
        if cut not in cuts:
            if len(cuts) >= _MAX_CUTS:
                cuts.clear()
            cuts[cut] = {}
            self._known[len(payload)] = tuple(cuts.items())
        headers = cuts[cut]
        if key not in headers:
            headers[key] = RequestHeader(request.model_name, request.model_version)
            self._count += 1
        # The one there is, if there is one: several versions may know it.
        return headers[key]


def _cut(payload: bytes) -> Cut | None:
    """Walk through the fields of a valid message: at most one id, and one raw content, which is the last."""
    at = id_from = id_to = 0
    while at < len(payload):
        tag = payload[at]
        size, at = _varint(payload, at + 1)
        if tag == _RAW:
            return (id_from, id_to, at) if at + size == len(payload) else None
        if tag == _ID:
            if id_to:
                return None
            id_from, id_to = at, at + size
        elif tag not in _FIELDS:
            return None
        at += size
    return None


def _varint(payload: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer, and where it ends."""
    value = shift = 0
    while payload[at] > 0x7F:
        value |= (payload[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | payload[at] << shift, at + 1
