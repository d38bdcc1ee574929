"""The client's codec: NumPy arrays to and from the messages of the typed API.

A request is put together from serialised parts, since protobuf messages may be concatenated: what requests of one shape
have in common is serialised once, and the elements are copied once.
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frostline.client.errors import FrostlineError, InvalidInput
from frostline.client.prediction import Prediction, Ranking
from frostline.pb import predictor_pb2 as pb
from frostline.protocol import pack_bytes, varint

OutputName = Literal["logits", "softmax", "argmax", "values"]

_OUTPUTS = {"logits": pb.LOGITS, "softmax": pb.SOFTMAX, "argmax": pb.ARGMAX, "values": pb.VALUES}
# NumPy's own types are equal to these on a little-endian machine.
_DTYPES = {
    np.dtype(numpy_name): dtype
    for numpy_name, dtype in {
        "bool": pb.BOOL,
        "<u1": pb.UINT8,
        "<u2": pb.UINT16,
        "<u4": pb.UINT32,
        "<u8": pb.UINT64,
        "<i1": pb.INT8,
        "<i2": pb.INT16,
        "<i4": pb.INT32,
        "<i8": pb.INT64,
        "<f2": pb.FP16,
        "<f4": pb.FP32,
    }.items()
}
_FLOAT32, _FLOAT64 = np.dtype("<f4"), np.dtype("<f8")
_READINGS: dict[int, np.dtype[Any]] = {**{number: dtype for dtype, number in _DTYPES.items()}, pb.FP64: _FLOAT64}

# The tags of protobuf: the field's number, and that a length and bytes follow.
_INPUTS_TAG = bytes([pb.PredictRequest.INPUTS_FIELD_NUMBER << 3 | 2])
_DATA_TAG = bytes([pb.Tensor.DATA_FIELD_NUMBER << 3 | 2])


def request(
    model: str,
    inputs: ArrayLike | Mapping[str, ArrayLike],
    *,
    version: str,
    outputs: Iterable[OutputName] | None,
    top_k: int,
) -> bytes:
    """Packs one prediction request.

    Args:
        model: The model's name.
        inputs: The network's one input, or its inputs by name.
        version: The version in decimal; empty for the highest ready one.
        outputs: The readings wanted; for None those that the network has: logits, softmax and argmax where it chooses
            one of several classes, and else values. None of them if `top_k` is positive.
        top_k: How many of the most probable classes to rank.

    Returns:
        The serialised PredictRequest.

    Raises:
        InvalidInput: An input cannot be sent.
        ValueError: There is no such reading, or `top_k` is negative.
    """
    wanted = () if outputs is None else (outputs,) if isinstance(outputs, str) else tuple(outputs)
    question = _question(model, str(version), wanted, top_k)
    # The commonest first: asking whether an array is a mapping takes longer than packing a small one.
    if not isinstance(inputs, np.ndarray) and isinstance(inputs, Mapping):
        return b"".join([question, *(part for name, value in inputs.items() for part in tensor(value, name))])
    return b"".join((question, *tensor(inputs)))


def tensor(value: ArrayLike, name: str = "") -> tuple[bytes, memoryview | bytes]:
    """Packs an array into a request.

    float64 arrays, NumPy's default, and Python numbers and lists of them become float32; texts and byte strings
    become BYTES; every other array is sent with its own element type.

    Args:
        value: The array, batch axis first.
        name: The input's name; empty for a network with one input.

    Returns:
        The input in the serialised request, as two parts: its head, and its elements, dense and little-endian.

    Raises:
        InvalidInput: The value is not an array of numbers, truth values or texts.
    """
    try:
        array = np.asarray(value, order="C")
    except ValueError as error:
        raise InvalidInput(f"{_what(name)} is not an array: {error}") from error
    dtype = array.dtype
    if dtype.kind in "SUO":
        packed = _strings(array, _what(name))
        return _head(name, pb.BYTES, array.shape, len(packed)), packed
    if dtype not in _DTYPES:
        dtype = dtype.newbyteorder("<")
    if dtype == _FLOAT64 or (dtype.kind in "iub" and isinstance(value, list | tuple | float | int)):
        dtype = _FLOAT32
    if dtype not in _DTYPES:
        raise InvalidInput(f"{_what(name)} has elements of type {array.dtype}, which no model takes; convert it first")
    elements = array.astype(dtype, copy=False)
    return _head(name, _DTYPES[dtype], array.shape, elements.nbytes), elements.data


@lru_cache(maxsize=256)
def _question(model: str, version: str, wanted: tuple[OutputName, ...], top_k: int) -> bytes:
    for output in wanted:
        if output not in _OUTPUTS:
            raise ValueError(f"there is no output {output!r}; there are: {', '.join(_OUTPUTS)}")
    if not 0 <= top_k < 2**32:
        raise ValueError(f"top_k must be at least 0 and below 2**32, but is {top_k}")
    outputs = [_OUTPUTS[output] for output in wanted]
    return pb.PredictRequest(model=model, version=version, outputs=outputs, top_k=top_k).SerializeToString()


@lru_cache(maxsize=256)
def _head(name: str, dtype: "pb.DataType", shape: tuple[int, ...], size: int) -> bytes:
    fields = pb.Tensor(name=name, dtype=dtype, shape=shape).SerializeToString() + _DATA_TAG + varint(size)
    return _INPUTS_TAG + varint(len(fields) + size) + fields


def prediction(response: pb.PredictResponse, top_k: int) -> Prediction:
    """Unpacks the answer to a request for `top_k` ranked classes.

    Args:
        response: The message.
        top_k: What the request said.

    Returns:
        The prediction, whose arrays are views of the message's bytes.

    Raises:
        FrostlineError: The message contradicts itself.
    """
    rankings: tuple[Ranking, ...] = ()
    if response.top:
        rankings = tuple([tuple([(c.index, c.label, c.probability) for c in row.classes]) for row in response.top])
    argmax = _array(response, "argmax", response.argmax)
    # Protobuf copies a slice at once, and iterates element by element.
    labels = tuple(response.labels[:])
    # An answer without classes has empty rankings.
    if argmax is None and rankings and all(rankings):
        argmax = np.array([ranking[0][0] for ranking in rankings], np.int64)
        labels = tuple(ranking[0][1] for ranking in rankings if ranking[0][1])
    return Prediction(
        model=response.model,
        version=response.version,
        _logits=_array(response, "logits", response.logits),
        _softmax=_array(response, "softmax", response.softmax),
        _argmax=argmax,
        _labels=labels,
        _rankings=rankings,
        _top_k=top_k,
        _values={tensor.name: _values(tensor) for tensor in response.values} if response.values else None,
        _task=response.task,
        _names=tuple(response.names[:]),
        _thresholds=tuple(response.thresholds[:]),
    )


def _values(message: pb.Tensor) -> NDArray[Any]:
    """One of the network's own outputs, of any type."""
    if message.dtype != pb.BYTES:
        return _decoded(message.name, message)
    texts, at, data = [], 0, message.data
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : at + 4 + size].decode(errors="replace"))
        at += 4 + size
    if at != len(data) or len(texts) != math.prod(message.shape):
        sizes = f"{len(texts)} texts for shape {message.shape[:]}"
        raise FrostlineError(f"the server's answer is damaged: {message.name}: {sizes}", "INTERNAL")
    return np.array(texts, object).reshape(message.shape[:])


def _array(response: pb.PredictResponse, field: OutputName, message: pb.Tensor) -> NDArray[Any] | None:
    return _decoded(field, message) if message.dtype or response.HasField(field) else None


def _decoded(field: str, message: pb.Tensor) -> NDArray[Any]:
    dtype = _READINGS.get(message.dtype)
    if dtype is None:
        name = pb.DataType.Name(message.dtype)
        raise FrostlineError(f"the server's answer has {field} of type {name}, which is no reading", "INTERNAL")
    elements, shape = message.data, message.shape[:]
    try:
        array: NDArray[Any] = np.ndarray(shape, dtype, elements)
    except (TypeError, ValueError) as error:
        raise FrostlineError(f"the server's answer is damaged: {field}: {error}", "INTERNAL") from error
    if array.nbytes != len(elements):
        sizes = f"{len(elements)} bytes for shape {shape} of {dtype}"
        raise FrostlineError(f"the server's answer is damaged: {field}: {sizes}", "INTERNAL")
    return array


def _what(name: str) -> str:
    return f"input {name!r}" if name else "the input"


def _strings(array: NDArray[Any], what: str) -> bytes:
    elements = array.ravel().tolist()
    # NumPy makes objects of numbers among which one is something else, or too large.
    texts = any(isinstance(element, str | bytes) for element in elements)
    for place, element in enumerate(elements):
        if not isinstance(element, str | bytes if texts else int | float | np.number | np.bool_):
            at = [int(index) for index in np.unravel_index(place, array.shape)]
            wanted = "a text" if texts else "a number"
            missing = "; a missing number is float('nan'), where the model takes one"
            hint = missing if element is None and not texts else ""
            raise InvalidInput(f"{what} holds {element!r:.40} at {at} where {wanted} was expected{hint}")
    if elements and not texts:
        raise InvalidInput(f"{what} holds numbers of no type that a network takes, such as {elements[0]!r:.40}")
    return pack_bytes(elements)
