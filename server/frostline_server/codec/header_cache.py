"""The header cache: it recognises a request whose header was seen before, without parsing it.

A client's requests differ in their id and their elements; everything else (the model, the names, types and shapes of
the tensors) is the same bytes again. A header is those bytes: all of the message but the id's text and the one tensor's
elements, the length of both included. Of a request with several tensors, or with strings, it is what comes before the raw
contents, because these may have any length: see `RowHeaders`.

Why a recognised message is what parsing it would have given: its length is that of the remembered one, and so are all
its bytes outside the two holes. The walk through the remembered message showed that the holes are exactly the id's
text and the content of the last field (in the typed API: the last field of the last field), and that whole fields lie
between them; protobuf reads fields one after the other, so it reads the same fields here. What may differ in the holes
is checked: the id must be UTF-8; elements may be any bytes.
"""

from collections.abc import Callable

from frostline.pb import predictor_pb2
from frostline.pb.inference_pb2 import ModelInferRequest
from frostline.pb.predictor_pb2 import PredictRequest

# A tag is a field's number and its wire type: 0 for a number, 2 for a length and so many bytes.
_NUMBER, _BYTES = 0, 2

# Every field of ModelInferRequest is length-delimited.
_INFER_ID = ModelInferRequest.ID_FIELD_NUMBER << 3 | _BYTES
_INFER_RAW = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _BYTES
_INFER_NAMES = (
    ModelInferRequest.MODEL_NAME_FIELD_NUMBER << 3 | _BYTES,
    ModelInferRequest.MODEL_VERSION_FIELD_NUMBER << 3 | _BYTES,
)
_INFER_FIELDS = frozenset(number << 3 | _BYTES for number in range(1, 8))
_INFER_OTHERS = _INFER_FIELDS - {_INFER_ID, _INFER_RAW}

_PREDICT_ID = PredictRequest.ID_FIELD_NUMBER << 3 | _BYTES
_PREDICT_INPUTS = PredictRequest.INPUTS_FIELD_NUMBER << 3 | _BYTES
_PREDICT_OTHERS = frozenset(
    {
        PredictRequest.MODEL_FIELD_NUMBER << 3 | _BYTES,
        PredictRequest.VERSION_FIELD_NUMBER << 3 | _BYTES,
        PredictRequest.OUTPUTS_FIELD_NUMBER << 3 | _BYTES,
        PredictRequest.OUTPUTS_FIELD_NUMBER << 3 | _NUMBER,
        PredictRequest.TOP_K_FIELD_NUMBER << 3 | _NUMBER,
    }
)
_TENSOR_DATA = predictor_pb2.Tensor.DATA_FIELD_NUMBER << 3 | _BYTES
_TENSOR_OTHERS = frozenset(
    {
        predictor_pb2.Tensor.NAME_FIELD_NUMBER << 3 | _BYTES,
        predictor_pb2.Tensor.DTYPE_FIELD_NUMBER << 3 | _NUMBER,
        predictor_pb2.Tensor.SHAPE_FIELD_NUMBER << 3 | _BYTES,
        predictor_pb2.Tensor.SHAPE_FIELD_NUMBER << 3 | _NUMBER,
    }
)

_MAX_HEADERS = 4096
_MAX_HEADER_BYTES = 512
LARGE_BYTES = 1 << 16
"""From this size on a message's elements are looked at where they are: a copy would cost more than the view."""
_MAX_CUTS = 4
"""Requests of one length that are cut in different ways: rare, and each is tried in turn. Also requests that begin alike."""
_LARGEST_SHIFT = 63
_MAX_ROW_HEADERS_BYTES = 1 << 22
"""All of those of tables together; that of 2000 columns is a hundredth of it."""


class RequestHeader:
    """A header seen before; each is one object, so that it can be looked up by identity.

    Attributes:
        model: the model asked for.
        version: the version asked for.
        message: the type of the message.
    """

    __slots__ = ("message", "model", "version")

    def __init__(self, model: str, version: str, message: type[ModelInferRequest | PredictRequest]) -> None:
        self.model = model
        self.version = version
        self.message = message


Cut = tuple[int, int, int]
"""Where the id begins and ends, and where the elements begin, which go on to the end of the message."""


class Headers:
    """The headers of one type of message seen before; their number and size are bounded.

    Args:
        message: the type.
        cut: finds the holes in a valid message of this type.
    """

    def __init__(self, message: type[ModelInferRequest | PredictRequest], cut: Callable[[bytes], Cut | None]) -> None:
        self._message = message
        self._cut = cut
        # By the length of the message: the ways it may be cut, and for each the headers of such messages.
        self._known: dict[int, tuple[tuple[Cut, dict[bytes, RequestHeader]], ...]] = {}
        self._count = 0

    def find(self, payload: bytes) -> tuple[RequestHeader, str, bytes | memoryview] | None:
        """The header, id and elements of a message, or None: it must then be parsed."""
        for (id_from, id_to, start), headers in self._known.get(len(payload), ()):
            header = headers.get(payload[:id_from] + payload[id_to:start])
            if header is not None:
                try:
                    large = len(payload) >= LARGE_BYTES
                    elements = memoryview(payload)[start:] if large else payload[start:]
                    return header, payload[id_from:id_to].decode(), elements
                except UnicodeDecodeError:
                    return None
        return None

    def remember(self, payload: bytes, model: str, version: str) -> RequestHeader | None:
        """The header of a message that was parsed, from now on remembered; None if it is not of the kind that is.

        Args:
            payload: the message.
            model: the model that it asks for.
            version: the version that it asks for.
        """
        cut = self._cut(payload)
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
            headers[key] = RequestHeader(model, version, self._message)
            self._count += 1
        # The one there is, if there is one: several versions may know it.
        return headers[key]


class RowHeaders:
    """The headers of ModelInferRequests with several tensors, or with strings, seen before: only the raw contents differ.

    As above, but what follows the header is read: so many raw contents, each of any length, up to the end of the message.
    """

    def __init__(self) -> None:
        # By the names of model and version: the lengths of what stands between these, or the id, and the raw contents.
        self._sizes: dict[bytes, tuple[int, ...]] = {}
        self._known: dict[bytes, tuple[RequestHeader, int]] = {}
        self._bytes = 0

    def find(self, payload: bytes) -> tuple[RequestHeader, str, list[bytes]] | None:
        """The header, id and raw contents of a message, or None: it must then be parsed."""
        try:
            named, id_from, id_to = _named(payload)
            for size in self._sizes.get(payload[:named], ()):
                found = self._known.get(payload[:id_from] + payload[id_to : id_to + size])
                if found is not None:
                    header, count = found
                    contents = _raw_contents(payload, id_to + size, count)
                    return None if contents is None else (header, payload[id_from:id_to].decode(), contents)
        except (IndexError, UnicodeDecodeError):
            pass
        return None

    def remember(self, payload: bytes, model: str, version: str) -> RequestHeader | None:
        """The header of a message that was parsed, from now on remembered; None if it is not of the kind that is.

        Args:
            payload: the message, with a raw content for each input.
            model: the model that it asks for.
            version: the version that it asks for.
        """
        try:
            named, id_from, id_to = _named(payload)
        except IndexError:
            return None
        at, count = 0, 0
        while at < id_to:
            if payload[at + 1] > 0x7F:
                return None
            at += 2 + payload[at + 1]
        while at < len(payload) and payload[at] in _INFER_OTHERS:
            size, at = read_varint(payload, at + 1)
            at += size
        start = at
        while at < len(payload) and payload[at] == _INFER_RAW:
            size, at = read_varint(payload, at + 1)
            at += size
            count += 1
        key = payload[:id_from] + payload[id_to:start]
        # Otherwise something follows in no usual order, perhaps an id.
        if at != len(payload) or len(key) > _MAX_ROW_HEADERS_BYTES // 2:
            return None
        # Another thread may forget it at any time.
        known = self._known.get(key)
        if known is None:
            self._bytes += len(key)
            if len(self._known) >= _MAX_HEADERS or self._bytes > _MAX_ROW_HEADERS_BYTES:
                self._known.clear()
                self._sizes.clear()
                self._bytes = len(key)
            known = self._known[key] = RequestHeader(model, version, ModelInferRequest), count
        sizes = self._sizes.get(payload[:named], ())
        if start - id_to not in sizes:
            self._sizes[payload[:named]] = (start - id_to, *sizes[: _MAX_CUTS - 1])
        return known[0]


def _named(payload: bytes) -> tuple[int, int, int]:
    """Where the names of model and version end, with which a message begins, and where the id after them begins and ends.

    Wrong where a text has 128 bytes or more: the first byte of its length says something else. No such message is remembered,
    and that byte would be in what is looked up.
    """
    at = 0
    while payload[at] in _INFER_NAMES:
        at += 2 + payload[at + 1]
    return (at, at + 2, at + 2 + payload[at + 1]) if payload[at] == _INFER_ID else (at, at, at)


def _raw_contents(payload: bytes, at: int, count: int) -> list[bytes] | None:
    """So many raw contents, which must end with the message; None if they do not."""
    contents = []
    for _ in range(count):
        if payload[at] != _INFER_RAW:
            return None
        size = payload[at + 1]
        at += 2
        if size > 0x7F:
            size, at = read_varint(payload, at - 1)
        contents.append(payload[at : at + size])
        at += size
    return contents if at == len(payload) else None


def without_raw_contents(payload: bytes) -> tuple[bytes, list[bytes | memoryview]] | None:
    """A ModelInferRequest without its raw contents, and these, of which large ones are not copied.

    Whoever copies much keeps all other threads of the interpreter waiting, and protobuf copies twice.

    Args:
        payload: the message, which was scanned.

    Returns:
        Both; None where there are fields that it does not have.
    """
    kept: list[bytes] = []
    contents: list[bytes | memoryview] = []
    at = 0
    while at < len(payload):
        begin, tag = at, payload[at]
        if tag not in _INFER_FIELDS:
            return None
        size, at = read_varint(payload, at + 1)
        if tag != _INFER_RAW:
            kept.append(payload[begin : at + size])
        elif size < LARGE_BYTES:
            contents.append(payload[at : at + size])
        else:
            contents.append(memoryview(payload)[at : at + size])
        at += size
    return b"".join(kept), contents


def infer_headers() -> Headers:
    """Headers of ModelInferRequests."""
    return Headers(ModelInferRequest, _cut_infer)


def predict_headers() -> Headers:
    """Headers of PredictRequests."""
    return Headers(PredictRequest, _cut_predict)


def _cut_infer(payload: bytes) -> Cut | None:
    """Walk through the fields of a valid message: at most one id, and one raw content, which is the last."""
    return _walk(payload, 0, _INFER_RAW, _INFER_ID, _INFER_OTHERS)


def _cut_predict(payload: bytes) -> Cut | None:
    """Walk through the fields of a valid message: at most one id, and one input, which is the last, as its data is."""
    found = _walk(payload, 0, _PREDICT_INPUTS, _PREDICT_ID, _PREDICT_OTHERS)
    if found is None:
        return None
    id_from, id_to, start = found
    inner = _walk(payload, start, _TENSOR_DATA, None, _TENSOR_OTHERS)
    return None if inner is None else (id_from, id_to, inner[2])


def _walk(payload: bytes, at: int, last: int, text: int | None, others: frozenset[int]) -> Cut | None:
    """Walk through fields up to the end of the message.

    Args:
        payload: the message.
        at: where the fields begin.
        last: the tag of the field that must be the last.
        text: the tag of the field that may come once; None for no such field.
        others: the tags of the other fields that may come.

    Returns:
        Where the content of `text` begins and ends, and where that of `last` begins; None if other fields come.
    """
    text_from = text_to = 0
    while at < len(payload):
        tag = payload[at]
        value, at = read_varint(payload, at + 1)
        if tag == last:
            return (text_from, text_to, at) if at + value == len(payload) else None
        if tag == text:
            if text_to:
                return None
            text_from, text_to = at, at + value
        elif tag not in others:
            return None
        if tag & 7 == _BYTES:
            at += value
    return None


def read_varint(payload: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer, and where it ends."""
    value = shift = 0
    while payload[at] > 0x7F:
        if shift > _LARGEST_SHIFT:
            raise IndexError("no number of a valid message is longer")
        value |= (payload[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | payload[at] << shift, at + 1
