"""The client's codec: NumPy arrays to and from the messages of the typed API."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frostline.client.errors import FrostlineError, InvalidInput
from frostline.client.prediction import Prediction
from frostline.pb import predictor_pb2 as pb
from frostline.protocol import pack_bytes

OutputName = Literal["logits", "softmax", "argmax"]

_OUTPUTS = {"logits": pb.LOGITS, "softmax": pb.SOFTMAX, "argmax": pb.ARGMAX}
_DTYPES = {
    np.dtype(numpy_name): dtype
    for numpy_name, dtype in {
        "bool": pb.BOOL,
        "uint8": pb.UINT8,
        "uint16": pb.UINT16,
        "uint32": pb.UINT32,
        "uint64": pb.UINT64,
        "int8": pb.INT8,
        "int16": pb.INT16,
        "int32": pb.INT32,
        "int64": pb.INT64,
        "float16": pb.FP16,
        "float32": pb.FP32,
    }.items()
}


_READINGS: dict[int, np.dtype[Any]] = {
    pb.FP16: np.dtype("<f2"),
    pb.FP32: np.dtype("<f4"),
    pb.FP64: np.dtype("<f8"),
    pb.INT64: np.dtype("<i8"),
}
"""Types of the last layer's readings: scores come in the network's own precision, classes as whole numbers."""


def tensor(value: ArrayLike, name: str = "") -> pb.Tensor:
    """Packs an array into a message.

    float64 arrays, NumPy's default, and Python numbers and lists of them become float32; texts and byte strings
    become BYTES; every other array is sent with its own element type.

    Args:
        value: The array, batch axis first.
        name: The input's name; empty for a network with one input.

    Returns:
        The message.

    Raises:
        InvalidInput: The value is not an array of numbers, truth values or texts.
    """
    what = f"input {name!r}" if name else "the input"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidInput(f"{what} is not an array: {error}") from error
    if array.dtype.kind in "SUO":
        return pb.Tensor(name=name, dtype=pb.BYTES, shape=array.shape, data=_strings(array, what))
    if array.dtype == np.float64 or (isinstance(value, list | tuple | float | int) and array.dtype.kind in "iub"):
        array = array.astype(np.float32)
    dtype = _DTYPES.get(array.dtype.newbyteorder("="))
    if dtype is None:
        raise InvalidInput(f"{what} has elements of type {array.dtype}, which no model takes; convert it first")
    return pb.Tensor(name=name, dtype=dtype, shape=array.shape, data=_little_endian(array).tobytes())


def request(
    model: str,
    inputs: ArrayLike | Mapping[str, ArrayLike],
    *,
    version: str,
    outputs: Iterable[OutputName] | None,
    top_k: int,
) -> pb.PredictRequest:
    """Packs one prediction request.

    Args:
        model: The model's name.
        inputs: The network's one input, or its inputs by name.
        version: The version in decimal; empty for the highest ready one.
        outputs: The readings wanted; all three for None, unless `top_k` is positive.
        top_k: How many of the most probable classes to rank.

    Returns:
        The message.

    Raises:
        InvalidInput: An input cannot be sent.
        ValueError: There is no such reading, or `top_k` is negative.
    """
    named: Mapping[str, ArrayLike] = inputs if isinstance(inputs, Mapping) else {"": inputs}
    wanted = [] if outputs is None else [outputs] if isinstance(outputs, str) else list(outputs)
    for output in wanted:
        if output not in _OUTPUTS:
            raise ValueError(f"there is no output {output!r}; there are: {', '.join(_OUTPUTS)}")
    if not 0 <= top_k < 2**32:
        raise ValueError(f"top_k must be at least 0 and below 2**32, but is {top_k}")
    return pb.PredictRequest(
        model=model,
        version=str(version),
        inputs=[tensor(value, name) for name, value in named.items()],
        outputs=[_OUTPUTS[output] for output in wanted],
        top_k=top_k,
    )


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
    rankings = tuple(tuple((c.index, c.label, c.probability) for c in row.classes) for row in response.top)
    argmax = _array(response, "argmax")
    labels = tuple(response.labels)
    # An answer without classes has empty rankings.
    if argmax is None and rankings and all(rankings):
        argmax = np.array([ranking[0][0] for ranking in rankings], np.int64)
        labels = tuple(ranking[0][1] for ranking in rankings if ranking[0][1])
    return Prediction(
        model=response.model,
        version=response.version,
        _logits=_array(response, "logits"),
        _softmax=_array(response, "softmax"),
        _argmax=argmax,
        _labels=labels,
        _rankings=rankings,
        _top_k=top_k,
    )


def _array(response: pb.PredictResponse, field: Literal["logits", "softmax", "argmax"]) -> NDArray[Any] | None:
    if not response.HasField(field):
        return None
    message: pb.Tensor = getattr(response, field)
    try:
        dtype = _READINGS[message.dtype]
        return np.frombuffer(message.data, dtype).reshape(tuple(message.shape))
    except KeyError as error:
        name = pb.DataType.Name(message.dtype)
        raise FrostlineError(
            f"the server's answer has {field} of type {name}, which is no reading", "INTERNAL"
        ) from error
    except ValueError as error:
        raise FrostlineError(f"the server's answer is damaged: {field}: {error}", "INTERNAL") from error


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


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
