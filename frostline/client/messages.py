"""The client's codec: NumPy arrays to and from the messages of the typed API.

A request is put together from serialised parts, since protobuf messages may be concatenated: what requests of one shape
have in common is serialised once, and the elements are copied once.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frostline.client.cells import told, unwritable
from frostline.client.datatypes import NAMES
from frostline.client.errors import FrostlineError
from frostline.client.prediction import Prediction, Ranking
from frostline.pb import predictor_pb2 as pb
from frostline.protocol import pack_bytes, varint

OutputName = Literal["logits", "softmax", "argmax", "values"]

_OUTPUTS = {"logits": pb.LOGITS, "softmax": pb.SOFTMAX, "argmax": pb.ARGMAX, "values": pb.VALUES}
_DTYPES = {dtype: pb.DataType.Value(name) for dtype, name in NAMES.items()}
_READINGS: dict[int, np.dtype[Any]] = {pb.DataType.Value(name): dtype for dtype, name in NAMES.items()}

# The tags of protobuf: the field's number, and that a length and bytes follow.
_INPUTS_TAG = bytes([pb.PredictRequest.INPUTS_FIELD_NUMBER << 3 | 2])
_DATA_TAG = bytes([pb.Tensor.DATA_FIELD_NUMBER << 3 | 2])


def request(
    model: str,
    inputs: NDArray[Any] | Mapping[str, NDArray[Any]],
    *,
    version: str,
    outputs: Iterable[OutputName] | None,
    top_k: int,
) -> bytes:
    """Packs one prediction request.

    Args:
        model: The model's name.
        inputs: The network's one input, or its inputs by name; each with its own element type, texts as BYTES.
        version: The version in decimal; empty for the highest ready one.
        outputs: The readings wanted; for None those that the network has: logits, softmax and argmax where it chooses
            one of several classes, and else values. None of them if `top_k` is positive.
        top_k: How many of the most probable classes to rank.

    Returns:
        The serialised PredictRequest.

    Raises:
        ValueError: There is no such reading, or `top_k` is negative.
        InvalidInput: The name of the model, or the version, cannot be written in UTF-8.
        UnicodeEncodeError: The name of an input cannot, or a text.
    """
    question = _question(model, version, readings(outputs) or (), ranked(top_k))
    # The commonest first: asking whether an array is a mapping takes longer than packing a small one.
    if not isinstance(inputs, np.ndarray):
        return b"".join([question, *(part for name, value in inputs.items() for part in tensor(value, name))])
    return b"".join((question, *tensor(inputs)))


def readings(outputs: OutputName | Iterable[OutputName] | None) -> tuple[OutputName, ...] | None:
    """The readings that a user names, which may be one, or can be read only once; None for None.

    Raises:
        ValueError: They are no names.
    """
    if outputs is None:
        return None
    if isinstance(outputs, str):
        return (outputs,)
    wanted = tuple(outputs) if isinstance(outputs, Iterable) else None
    if wanted is None or not all(isinstance(output, str) for output in wanted):
        raise ValueError(f"outputs must be a name or a list of names, such as ['softmax'], but is {outputs!r:.80}")
    return wanted


def asked(model: str, version: str | int | None) -> tuple[str, str]:
    """The name of a model and its version, as a message has them; of no version, "".

    Raises:
        ValueError: One is of another type.
    """
    if not isinstance(model, str):
        raise _mistyped("the model", "its name, a text (str)", model)
    if isinstance(version, str):
        return model, version
    if version is None:
        return model, ""
    return model, str(_whole("version", "a whole number or a label", version))


def ranked(top_k: int) -> int:
    """How many classes to rank.

    Raises:
        ValueError: It is no whole number, or not one that a message can have.
    """
    count = top_k if type(top_k) is int else _whole("top_k", "a whole number", top_k)
    if not 0 <= count < 2**32:
        raise ValueError(f"top_k must be at least 0 and below 2**32, but is {count}")
    return count


def _whole(name: str, expected: str, value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise _mistyped(name, expected, value)


def _mistyped(name: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{name} must be {expected}, but is {told(value)}")


def tensor(array: NDArray[Any], name: str = "") -> tuple[bytes, memoryview | bytes]:
    """Packs an array into a request.

    Args:
        array: Numbers, truth values or texts, batch axis first.
        name: The input's name; empty for a network with one input.

    Returns:
        The input in the serialised request, as two parts: its head, and its elements, dense and little-endian.
    """
    dtype = array.dtype
    if dtype.kind in "SUO":
        packed = pack_bytes(array.ravel().tolist())
        return _head(name, pb.BYTES, array.shape, len(packed)), packed
    if dtype not in _DTYPES:
        dtype = dtype.newbyteorder("<")
    elements = np.asarray(array, dtype, order="C")
    return _head(name, _DTYPES[dtype], array.shape, elements.nbytes), elements.data


@lru_cache(maxsize=256)
def _question(model: str, version: str, wanted: tuple[OutputName, ...], top_k: int) -> bytes:
    for output in wanted:
        if output not in _OUTPUTS:
            raise ValueError(_no_output(output))
    outputs = [_OUTPUTS[output] for output in wanted]
    try:
        return pb.PredictRequest(model=model, version=version, outputs=outputs, top_k=top_k).SerializeToString()
    except UnicodeEncodeError as error:
        raise unwritable(error.object) from None


def _no_output(output: str) -> str:
    there = f"there is no output {output!r}; there are: {', '.join(_OUTPUTS)}"
    if output == "probabilities":
        return (
            f"{there}. Read .probabilities of the answer to outputs=['softmax'] where the model chooses one of several classes, "
            "and else to outputs=['values']; without outputs=, the answer has all that the task reads"
        )
    if hasattr(Prediction, output):
        return f"{there}. Leave outputs= out, and read .{output} of the answer"
    return f"{there}. A model's own outputs are those of outputs=['values'], in .outputs by their names"


@lru_cache(maxsize=256)
def _head(name: str, dtype: "pb.DataType", shape: tuple[int, ...], size: int) -> bytes:
    fields = pb.Tensor(name=name, dtype=dtype, shape=shape).SerializeToString() + _DATA_TAG + varint(size)
    return _INPUTS_TAG + varint(len(fields) + size) + fields


_ONCE = ("names", "thresholds")
"""Fields of an answer that say something of the model and not of the rows."""


def joined(answers: Sequence[pb.PredictResponse]) -> pb.PredictResponse:
    """Joins the answers to the parts of one request.

    Args:
        answers: The answers of one version, in the order of the rows; at least one.

    Returns:
        What the answer to all rows at once would have been.

    Raises:
        FrostlineError: The answers do not fit together.
    """
    whole = pb.PredictResponse()
    whole.CopyFrom(answers[0])
    for field, value in answers[0].ListFields() if len(answers) > 1 else ():
        field_values = [getattr(answer, field.name) for answer in answers]
        if isinstance(value, pb.Tensor):
            getattr(whole, field.name).CopyFrom(_stacked(field.name, field_values))
        elif hasattr(value, "extend") and field.name not in _ONCE:
            if isinstance(value[0], pb.Tensor):
                for at, tensors in enumerate(zip(*field_values, strict=True)):
                    getattr(whole, field.name)[at].CopyFrom(_stacked(field.name, tensors))
            else:
                for more in field_values[1:]:
                    getattr(whole, field.name).extend(more)
    return whole


def _stacked(field: str, tensors: Sequence[pb.Tensor]) -> pb.Tensor:
    first = tensors[0]
    for other in tensors:
        if (other.dtype, other.shape[1:]) != (first.dtype, first.shape[1:]) or not first.shape:
            raise FrostlineError(
                f"the rows were sent in several requests, and their answers do not fit together: {field} of shapes "
                f"{list(first.shape)} and {list(other.shape)}; send rows that are alike together, and not too many at once",
                "INTERNAL",
            )
    shape = [sum(each.shape[0] for each in tensors), *first.shape[1:]]
    return pb.Tensor(name=first.name, dtype=first.dtype, shape=shape, data=b"".join(each.data for each in tensors))


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
        # The server sends them where a threshold decides, which may be for another class than the most probable.
        labels = labels or tuple([ranking[0][1] for ranking in rankings if ranking[0][1]])
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
