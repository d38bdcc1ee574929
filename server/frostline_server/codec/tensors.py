"""The validation of input tensors: headers against the signature, and bytes against headers.

The headers of a request are checked once for each distinct set, and remembered.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from frostline.pictures import CHANNELS, FORMATS, MOST_PIXELS, MOST_PIXELS_TOGETHER, pixels_in
from frostline.protocol import varint
from frostline_server.batching.entry import RowKind
from frostline_server.codec.message_scan import BRIEF_STRINGS, MOST_STRINGS, TakesLong
from frostline_server.errors import InvalidInput, Unsupported
from frostline_server.runtime.dtypes import DTYPES
from frostline_server.runtime.signature import Signature, TensorSpec, reshaped

Array = np.ndarray[Any, Any]
TensorHeader = tuple[str, str, tuple[int, ...]]
"""A tensor's name, data type and shape, as the client gave them."""

WIRE_CASTS: dict[str, frozenset[str]] = {"FP32": frozenset(("UINT8", "INT8", "FP16"))}
"""Narrower types accepted for an input, cast without loss while the batch is assembled."""

COLUMN_CASTS: dict[str, frozenset[str]] = {"FP64": frozenset(DTYPES) - {"FP64", "BYTES"}}
"""Types of numbers accepted for a column of a table: what the network takes of them is single precision in any case."""

_BYTE = np.dtype(np.uint8)
_MOST_AXES = 64
"""As many as NumPy's arrays can have."""

_MOST_BESIDE_ZERO = 1 << 24
"""Elements that a tensor without any may have apart from its axes of size 0. They cost no bytes in the message, and what a
network makes of them, such as sums over nothing, costs as many as there are."""

_CHUNK = 1 << 14
"""Elements that are converted in one go; other threads can take their turn in between."""

_LONGEST_KNOWN = 64
_MOST_KNOWN = 1 << 14
"""Texts of up to so many bytes, and so many of them, are kept for a version that takes tables: eight megabytes at most."""

_SEND_PICTURES = (
    f"send {FORMATS} files as BYTES, or pixels from 0 to 255 as UINT8 [rows,height,width,3], [rows,height,width,4] with opacity, "
    "or [rows,height,width,1] or [rows,height,width] in grey"
)

_MAX_LAYOUTS, MAX_TENSORS = 4096, 1 << 15
"""Distinct headers remembered for each version, and their tensors, of which each takes about 400 bytes; a client that never
repeats a shape must not grow the server."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A request's headers, checked.

    Attributes:
        kind: what each row is like.
        rows: how many rows the request has; 1 for a network without a batch axis.
        specs: the inputs.
        takes_long: whether there are so many strings that to take them apart takes long.
        plan: for each input, its spec, how many bytes it must have (-1 for strings), how many elements, and where in the
            request it is.
        pictures: whether each row is a picture: a file or pixels.
        picture: the shape of each row that is the pixels of a picture; None where none is.
    """

    kind: RowKind
    rows: int
    specs: tuple[TensorSpec, ...]
    takes_long: bool
    plan: tuple[tuple[TensorSpec, int, int, int], ...]
    pictures: bool
    picture: tuple[int, ...] | None

    @property
    def nbytes(self) -> tuple[int, ...]:
        """For each input, how many bytes it must have; -1 for strings."""
        return tuple([nbytes for _, nbytes, _, _ in self.plan])

    @property
    def count(self) -> tuple[int, ...]:
        """For each input, how many elements it must have."""
        return tuple([count for _, _, count, _ in self.plan])

    @property
    def order(self) -> tuple[int, ...]:
        """For each input, where in the request it is."""
        return tuple([at for _, _, _, at in self.plan])


class Layouts:
    """Checks headers against a signature, each distinct set of headers once.

    Args:
        model: the model's name, for messages.
        signature: what the network takes.
        max_batch_size: the most rows in one request.
        casts: for a type the others that are taken for it.
        instead: the names of the inputs that other requests to the model have, for messages.
        remark: what else is to be said to whom sends other inputs.
    """

    def __init__(
        self,
        model: str,
        signature: Signature,
        max_batch_size: int,
        casts: Mapping[str, frozenset[str]] = WIRE_CASTS,
        instead: Sequence[str] = (),
        remark: str = "",
    ) -> None:
        self._model = model
        self._instead = (f", or {_listed(instead)}" if instead else "") + (remark and f"; {remark}")
        self._casts = casts
        self._signature = signature
        self._max_batch_size = max_batch_size
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._known: dict[tuple[TensorHeader, ...], Layout] = {}
        self._kinds: dict[RowKind, RowKind] = {}
        self._tensors = 0

    def check(self, headers: tuple[TensorHeader, ...], *, brief: bool = False) -> Layout:
        """The layout of a request with these headers.

        Raises:
            InvalidInput: they do not fit the network; the message says what it expects and what came.
            TakesLong: there are so many strings that to take them apart takes long; only if `brief`.
        """
        layout = self._known.get(headers)
        if layout is None:
            layout = self._check(headers)
            self._tensors += len(headers)
            if len(self._known) >= _MAX_LAYOUTS or self._tensors > MAX_TENSORS:
                self._known.clear()
                self._kinds.clear()
                self._tensors = len(headers)
            self._known[headers] = layout
        if brief and layout.takes_long:
            raise TakesLong
        return layout

    def _check(self, headers: tuple[TensorHeader, ...]) -> Layout:
        self._check_names([name for name, _, _ in headers])
        place = {name: index for index, (name, _, _) in enumerate(headers)}
        order = tuple(place[spec.name] for spec in self._signature.inputs)
        shapes, wires, nbytes, counts = [], [], [], []
        rows: int | None = None
        picture: tuple[int, ...] | None = None
        row_shape: tuple[int, ...]
        for spec, index in zip(self._signature.inputs, order, strict=True):
            _, datatype, shape = headers[index]
            self._check_size(spec, shape)
            if spec.most_pixels is not None and datatype == "UINT8":
                # Each row is one element, as an encoded picture is, so that both share a batch.
                wire, row_shape, picture = spec.dtype, (), self._picture_shape(spec, shape)
            else:
                wire, row_shape = self._wire_dtype(spec, datatype), self._row_shape(spec, shape)
            if self._signature.batched:
                self._check_rows(spec, shape[0], rows)
                rows = shape[0]
            count = math.prod(shape)
            shapes.append(row_shape if spec.reshape is None else reshaped(row_shape, spec.shape, spec.reshape))
            wires.append(wire)
            counts.append(count)
            nbytes.append(count if picture else -1 if wire.hasobject else count * wire.itemsize)
        kind = RowKind(tuple(shapes), tuple(wires), tuple(spec.dtype for spec in self._signature.inputs))
        # Equal kinds are one object, so that the batcher compares them by identity.
        kind = self._kinds.setdefault(kind, kind)
        strings = sum(count for count, size in zip(counts, nbytes, strict=True) if size < 0)
        if strings > MOST_STRINGS:
            raise InvalidInput(
                f"a request for model '{self._model}' may have {MOST_STRINGS} strings, got {strings}; send fewer rows in one "
                "request"
            )
        specs = self._signature.inputs
        return Layout(
            kind,
            1 if rows is None else rows,
            specs,
            takes_long=strings > BRIEF_STRINGS,
            plan=tuple(zip(specs, nbytes, counts, order, strict=True)),
            pictures=any([spec.most_pixels is not None for spec in specs]),
            picture=picture,
        )

    def weighed(self, layout: Layout, pictures: Array) -> RowKind:
        """The kind of rows that are pictures: the more pixels these have, the fewer of them share a batch.

        Files are looked at by their headers alone. One that has too many pixels by itself, or is damaged, counts for nothing,
        because it is refused before it is decoded.

        Args:
            layout: the request's.
            pictures: files, or pixels, one for each row.

        Raises:
            InvalidInput: they have too many pixels together.
        """
        if layout.picture is not None:
            height, width, *_ = layout.picture
            pixels = height * width * layout.rows
        else:
            pixels = sum([size for size in map(pixels_in, pictures) if size <= MOST_PIXELS])
            self._check_pixels(layout.specs[0], pixels)
        weight = pixels * self._max_batch_size // (MOST_PIXELS_TOGETHER * layout.rows)
        if weight <= 1:
            return layout.kind
        kind = replace(layout.kind, weight=weight)
        return self._kinds.setdefault(kind, kind)

    def _check_pixels(self, spec: TensorSpec, pixels: int) -> None:
        if pixels > MOST_PIXELS_TOGETHER:
            raise InvalidInput(
                f"input '{spec.name}' for model '{self._model}': at most {MOST_PIXELS_TOGETHER // 10**6} megapixels in one "
                f"request, these have {math.ceil(pixels / 10**6)}: send fewer pictures at once"
            )

    def refuse(self, names: Sequence[str], count: int) -> NoReturn:
        """Refuse a request that has more inputs than the network, by the names of the first of them."""
        raise InvalidInput(
            f"expected {len(self._specs)} inputs but got {count} inputs for model '{self._model}'. Got input(s) "
            f"{_listed(names)}{' and more' if count > len(names) else ''}, but it takes {_listed(list(self._specs))}"
            f"{self._instead}"
        )

    def _check_size(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Refuse what no array can have, before any of it is computed with."""
        if len(shape) > _MOST_AXES:
            raise InvalidInput(
                f"input '{spec.name}' for model '{self._model}' has {len(shape)} axes; a tensor has at most {_MOST_AXES}"
            )
        beside = math.prod([abs(size) for size in shape if size]) if 0 in shape else 0
        if beside > _MOST_BESIDE_ZERO:
            raise InvalidInput(
                f"input '{spec.name}' for model '{self._model}' has shape {_shape(shape)}; without its axes of size 0 it "
                f"may have {_MOST_BESIDE_ZERO} elements"
            )

    def _check_names(self, names: Sequence[str]) -> None:
        expected = list(self._specs)
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise InvalidInput(f"input '{twice}' already exists in request for model '{self._model}'")
        if len(names) > len(expected):
            self.refuse(names, len(names))
        for name in names:
            if name not in self._specs:
                hint = "" if name else "; name each of several inputs (in Python, send a dict of arrays)"
                raise InvalidInput(
                    f"unexpected inference input '{name}' for model '{self._model}'; it takes "
                    f"{_listed(expected)}{self._instead}{hint}"
                )
        missing = [name for name in expected if name not in names]
        if missing:
            raise InvalidInput(
                f"expected {len(expected)} inputs but got {len(names)} inputs for model '{self._model}'. Got input(s) "
                f"{_listed(names)}, but missing required input(s) {_listed(missing)}. Please provide all required "
                "input(s)."
            )

    def _wire_dtype(self, spec: TensorSpec, datatype: str) -> np.dtype[Any]:
        if datatype == spec.datatype or datatype in self._casts.get(spec.datatype, ()):
            # Every byte but 0 is true, as in C; to the network it must be 1, or its "not" would be true as well.
            return _BYTE if spec.datatype == "BOOL" else DTYPES[datatype]
        if spec.most_pixels is not None:
            raise InvalidInput(
                f"input '{spec.name}' for model '{self._model}' is of {datatype}, and holds pictures; {_SEND_PICTURES}"
            )
        also = "".join(f" or {name}" for name in sorted(self._casts.get(spec.datatype, ())))
        raise InvalidInput(
            f"inference input '{spec.name}' data-type is '{datatype}', but model '{self._model}' expects "
            f"'{spec.datatype}'" + (f" (also taken:{also.removeprefix(' or')})" if also else "")
        )

    def _picture_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a row that is the pixels of a picture: height, width and, beside grey, channels."""
        what = f"input '{spec.name}' for model '{self._model}' has shape {_shape(shape)}"
        channels = bool(shape) and shape[-1] in CHANNELS
        if len(shape) == 3 and channels:
            # Otherwise the rows of a picture would be answered as if each were one.
            raise InvalidInput(
                f"{what}, which may be one picture [height,width,channels] or grey ones [rows,height,width]; send "
                "[rows,height,width,channels]"
            )
        if len(shape) not in (3, 4) or (len(shape) == 4 and not channels) or min(shape) < 0:
            raise InvalidInput(f"{what}; {_SEND_PICTURES}")
        _, height, width, *_ = shape
        if not 0 < height * width <= spec.most_pixels:  # type: ignore[operator]  # asked only of pictures
            raise InvalidInput(
                f"{what}: {width} x {height} pixels; send pictures of 1 to {spec.most_pixels} pixels, for example smaller copies"
            )
        self._check_pixels(spec, shape[0] * height * width)
        return shape[1:]

    def _row_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        batched = self._signature.batched
        if batched and not shape:
            raise InvalidInput(
                f"input '{spec.name}' has no shape but model requires batch dimension for '{self._model}'"
            )
        row = shape[1:] if batched else shape
        if row == (1,) and spec.shape == () and spec.ranked:
            # Triton has no empty dims: it describes a scalar as one axis of 1, and its clients send it so.
            row = ()
        fits = not spec.ranked or (
            len(row) == len(spec.shape) and all(want in (None, got) for want, got in zip(spec.shape, row, strict=True))
        )
        if not fits or any(size < 0 for size in shape):
            expected = [-1 if size is None else size for size in ((None, *spec.shape) if batched else spec.shape)]
            note = " NOTE: the first axis is the batch axis and no axis may be negative." if batched else ""
            raise InvalidInput(
                f"unexpected shape for input '{spec.name}' for model '{self._model}'. Expected {_shape(expected)}, got "
                f"{_shape(shape)}.{note}"
            )
        if 0 in shape and self._signature.traits.recurrent:
            raise InvalidInput(
                f"input '{spec.name}' for model '{self._model}' has shape {_shape(shape)}; the model has a "
                f"{self._signature.traits.recurrent}, which takes no axis of size 0"
            )
        return row

    def _check_rows(self, spec: TensorSpec, rows: int, others: int | None) -> None:
        if others is not None and rows != others:
            raise InvalidInput(
                f"input '{spec.name}' batch size does not match other inputs for '{self._model}': {rows} rows, the "
                f"others have {others}; with max_batch_size: 0 in config.pbtxt each request runs alone, whatever its axes"
            )
        if rows > self._max_batch_size:
            raise InvalidInput(
                f"inference request batch-size must be <= {self._max_batch_size} for '{self._model}', got {rows} rows; send "
                "fewer in one request, or set a larger max_batch_size in config.pbtxt"
            )
        if rows == 0:
            raise InvalidInput(
                f"inference request batch-size must be >= 1 for '{self._model}', got no rows; with "
                "max_batch_size: 0 in config.pbtxt a network is run with none"
            )


def check_outputs(model: str, signature: Signature, names: tuple[str, ...]) -> None:
    """Check names of requested outputs.

    Raises:
        InvalidInput: a name is unknown or comes twice.
    """
    known = [spec.client_name for spec in signature.outputs]
    for index, name in enumerate(names):
        if name not in known:
            raise InvalidInput(f"unexpected inference output '{name}' for model '{model}'; it has {_listed(known)}")
        if name in names[:index]:
            raise InvalidInput(f"output '{name}' already exists in request for model '{model}'")


class Texts:
    """Texts that came before, so that they need not be decoded again; their number and size are bounded."""

    def __init__(self) -> None:
        # By the bytes of an element, its length included.
        self._known: dict[bytes, str] = {}
        self.alone: dict[bytes, Array] = {}
        """By the bytes of a tensor of one such text, the tensor; nobody may write into it."""

    def unpack(self, data: bytes, count: int) -> Array | None:
        """The elements of a BYTES tensor if so many short ones of valid texts are all of it, or None."""
        known, at = self._known, 0
        texts: list[str] = []
        while len(texts) < count:
            end = at
            try:
                for _ in range(count - len(texts)):
                    # The length is a byte and three times 0. Where it is not, no such bytes are known.
                    end = at + 4 + data[at]
                    texts.append(known[data[at:end]])
                    at = end
            except IndexError:
                return None
            except KeyError:
                if not self._learn(data[at:end]):
                    return None
        if at != len(data):
            return None
        array = strings_array(texts)
        if count == 1:
            array.flags.writeable = False
            self.alone[data] = array
        return array

    def _learn(self, packed: bytes) -> bool:
        """Decode an element; False if it is long, or no text."""
        size = int.from_bytes(packed[:4], "little")
        if size > _LONGEST_KNOWN or len(packed) != 4 + size:
            return False
        try:
            text = packed[4:].decode()
        except UnicodeDecodeError:
            return False
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
            self.alone.clear()
        self._known[packed] = text
        return True


def check_bytes(
    model: str, spec: TensorSpec, nbytes: int, count: int, data: bytes | memoryview, texts: Texts | None = None
) -> bytes | memoryview | Array:
    """Check an input's bytes against its header; strings are taken apart.

    Args:
        model: the model's name, for messages.
        spec: the input.
        nbytes: how many bytes there must be; -1 for strings.
        count: how many elements there must be.
        data: the bytes.
        texts: takes apart texts, where the same ones come often.

    Raises:
        InvalidInput: there are too many or too few.
    """
    if nbytes >= 0:
        if len(data) != nbytes:
            raise InvalidInput(
                f"input byte size mismatch for input '{spec.name}' for model '{model}'. Expected {nbytes}, got "
                f"{len(data)}"
            )
        return data
    data = bytes(data)
    if texts is not None and (unpacked := texts.unpack(data, count)) is not None:
        return unpacked
    return unpack_strings(model, spec.name, count, data, spec.most_bytes, binary=spec.binary, rows=not spec.shape)


def unpack_strings(
    model: str,
    name: str,
    count: int,
    data: bytes,
    most_bytes: int | None = None,
    *,
    binary: bool = False,
    rows: bool = False,
) -> Array:
    """The elements of a BYTES tensor: for each a 4-byte little-endian length, then its bytes, which must be UTF-8.

    Args:
        model: the model's name, for messages.
        name: the input's.
        count: how many elements there must be.
        data: the tensor.
        most_bytes: how long one may be; None for as long as any.
        binary: whether they are left as bytes, of any kind.
        rows: whether each is a row, in messages.

    Raises:
        InvalidInput: the lengths do not add up, the count is wrong, or an element is too long or not text.
    """
    elements: list[str | bytes] = []
    end, at = len(data), 0
    most = end if most_bytes is None else most_bytes
    try:
        for _ in range(count):
            start = at + 4
            at = start + int.from_bytes(data[at:start], "little")
            if at > end:
                break
            if at - start > most:
                raise _too_long(model, name, len(elements), at - start, most)
            elements.append(data[start:at] if binary else data[start:at].decode())
    except UnicodeDecodeError as error:
        raise _no_text(model, name, len(elements), error, rows=rows) from error
    if at != end or len(elements) != count:
        raise InvalidInput(
            f"input byte size mismatch for input '{name}' for model '{model}'. Expected {count} strings, each after "
            f"its 4-byte length, got {len(data)} bytes that hold {len(elements)}"
        )
    return strings_array(elements)


def pictures_array(data: Sequence[bytes | memoryview | Array], layout: Layout) -> Array:
    """The only input as a 1-d array of pictures: files, or pixels, which are views of their bytes."""
    (pixels,) = data
    if layout.picture is None:
        return np.asarray(pixels)
    array = np.empty(layout.rows, object)
    for row, picture in enumerate(np.frombuffer(pixels, np.uint8).reshape(layout.rows, *layout.picture)):
        array[row] = picture
    return array


def strings_array(elements: Sequence[str | bytes]) -> Array:
    """A 1-d array of Python strings, as ONNX Runtime takes them, or of bytes."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def _no_text(model: str, name: str, index: int, error: UnicodeDecodeError, *, rows: bool) -> InvalidInput:
    return InvalidInput(
        f"input '{name}' for model '{model}', {'row' if rows else 'element'} {index}: the bytes are not UTF-8, which ONNX "
        f"strings must be: {error}"
    )


def _too_long(model: str, name: str, row: int, size: int, most: int) -> InvalidInput:
    return InvalidInput(
        f"input '{name}' for model '{model}', row {row}: {size} bytes are too many; send at most {most} bytes"
    )


def typed_contents(model: str, spec: TensorSpec, datatype: str, contents: Any, count: int) -> bytes | Array:
    """An input's elements out of the typed field its data type belongs in.

    Args:
        model: the model's name, for messages.
        spec: the input.
        datatype: the data type the request gives.
        contents: an `InferTensorContents`.
        count: how many elements there must be.

    Raises:
        InvalidInput: nothing is there, or not that many, or a value does not fit the data type.
        Unsupported: the data type has no typed field.
    """
    if datatype not in _TYPED_FIELDS:
        raise Unsupported(f"{datatype} has no typed contents field; send input '{spec.name}' in raw_input_contents")
    field = _TYPED_FIELDS[datatype]
    values = getattr(contents, field)
    if not values and count:
        raise InvalidInput(
            f"unable to find data for input tensor '{spec.name}' for model '{model}' in request; expected {count} "
            f"elements in {field} or raw_input_contents"
        )
    if len(values) != count:
        size = 1 if datatype == "BYTES" else DTYPES[datatype].itemsize
        raise InvalidInput(
            f"input byte size mismatch for input '{spec.name}' for model '{model}'. Expected {count * size}, got "
            f"{len(values) * size} ({count} elements expected in {field}, {len(values)} came)"
        )
    if datatype == "BYTES":
        return _typed_strings(model, spec, values)
    dtype = DTYPES[datatype]
    if field in _WHOLE:
        # Packed, they are the bytes of the array already, after the field's tag and length.
        packed, size = contents.SerializeToString(), count * dtype.itemsize
        if len(packed) == (1 + len(varint(size)) + size if size else 0):
            return bytes(packed[len(packed) - size :])
    wire = np.empty(count, _WIDE.get(field, dtype))
    for at in range(0, count, _CHUNK):
        wire[at : at + _CHUNK] = values[at : at + _CHUNK]
    # Not left to the conversion: whether it refuses or wraps round depends on the releases of protobuf and NumPy.
    outside = (wire < np.iinfo(dtype).min) | (wire > np.iinfo(dtype).max) if field in _WIDE else np.False_
    if outside.any():
        raise InvalidInput(
            f"input '{spec.name}' for model '{model}' holds a value that is no {datatype}: {wire[outside][0]}"
        )
    return wire.astype(dtype, copy=False).tobytes()


def _typed_strings(model: str, spec: TensorSpec, values: Sequence[bytes]) -> Array:
    if spec.most_bytes is not None:
        for row, value in enumerate(values):
            if len(value) > spec.most_bytes:
                raise _too_long(model, spec.name, row, len(value), spec.most_bytes)
    try:
        return strings_array(list(values) if spec.binary else [value.decode() for value in values])
    except UnicodeDecodeError as error:
        raise _no_text(model, spec.name, list(values).index(error.object), error, rows=not spec.shape) from error


_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}
"""The fields that hold narrower types too, with what their numbers are on the wire."""

_WHOLE = ("bool_contents", "fp32_contents", "fp64_contents")
"""The fields whose elements have the same size on the wire and in an array."""

_TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def _listed(names: Sequence[str]) -> str:
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"
