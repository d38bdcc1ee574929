"""Tensors on the wire: NumPy arrays to and from the Open Inference Protocol's messages.

Written for this check alone: a codec shared with the server or its client would prove nothing about either.
"""

import struct
from typing import Any

import numpy as np

from bench.conformance.reference import Array, Tensors
from frostline.pb import inference_pb2 as pb

_NAMES = {
    "b1": "BOOL",
    **{f"u{size}": f"UINT{size * 8}" for size in (1, 2, 4, 8)},
    **{f"i{size}": f"INT{size * 8}" for size in (1, 2, 4, 8)},
    **{f"f{size}": f"FP{size * 8}" for size in (2, 4, 8)},
}
_DTYPES = {name: np.dtype(code) for code, name in _NAMES.items()}


def datatype(array: Array) -> str:
    """The protocol's name of an array's element type, such as FP32."""
    return "BYTES" if array.dtype.kind in "OSU" else _NAMES[f"{array.dtype.kind}{array.dtype.itemsize}"]


def raw(array: Array) -> bytes:
    """The elements of an array as a message or a file holds them."""
    return _pack(array) if datatype(array) == "BYTES" else np.ascontiguousarray(array).tobytes()


def request(model: str, inputs: Tensors) -> pb.ModelInferRequest:
    """A request for every output of a model, with raw elements."""
    message = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        message.inputs.add(name=name, datatype=datatype(array), shape=array.shape)
        message.raw_input_contents.append(raw(array))
    return message


def answer(message: pb.ModelInferResponse) -> dict[str, Array]:
    """The outputs of a response; strings as an array of objects.

    Raises:
        ValueError: the message contradicts itself.
    """
    if len(message.outputs) != len(message.raw_output_contents):
        raise ValueError(f"{len(message.outputs)} outputs have {len(message.raw_output_contents)} raw contents")
    return {
        tensor.name: _array(tensor.datatype, data).reshape(tuple(tensor.shape))
        for tensor, data in zip(message.outputs, message.raw_output_contents, strict=True)
    }


def _array(name: str, data: bytes) -> Array:
    if name != "BYTES":
        return np.frombuffer(data, _DTYPES[name])
    elements: list[str] = []
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from("<I", data, place)
        elements.append(data[place + 4 : place + 4 + length].decode())
        place += 4 + length
    return np.array(elements, object)


def _pack(array: Array) -> bytes:
    encoded = [_encoded(element) for element in array.ravel().tolist()]
    return b"".join(struct.pack("<I", len(element)) + element for element in encoded)


def _encoded(element: Any) -> bytes:
    return element if isinstance(element, bytes) else str(element).encode()
