"""A second reading of inference messages, by protobuf and NumPy alone, to compare the decoder's with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.fuzz.oracle import Found
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline_server.codec.codec import DecodedRequest
from frostline_server.runtime.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]

_NUMPY = {"BOOL": "?", "UINT8": "u1", "INT8": "i1", "FP16": "<f2", "FP32": "<f4", "INT64": "<i8"}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT8": "int_contents",
    "FP32": "fp32_contents",
    "INT64": "int64_contents",
    "BYTES": "bytes_contents",
}
_CASTS = {("FP32", "UINT8"), ("FP32", "INT8"), ("FP32", "FP16")}


def check_infer(
    request: pb.ModelInferRequest, signature: Signature, decoded: DecodedRequest, request_id: str, max_rows: int
) -> None:
    """Compare what a request was decoded to with what it says.

    Raises:
        Found: it was decoded to something else, or should have been refused.
    """
    if request_id != request.id:
        raise Found(f"the id is {request.id!r}, read as {request_id!r}")
    raw, tensors = list(request.raw_input_contents), {}
    for tensor in request.inputs:
        shape = tuple(tensor.shape)
        if "shared_memory_region" in tensor.parameters:
            place = tensor.parameters
            start = place["shared_memory_offset"].int64_param if "shared_memory_offset" in place else 0
            size = place["shared_memory_byte_size"].int64_param
            content: Any = bytes(at % 251 for at in range(start, start + size))
        elif raw:
            content = raw.pop(0)
        else:
            content = list(getattr(tensor.contents, _CONTENTS[tensor.datatype]))
        tensors[tensor.name] = tensor.datatype, shape, content
    if raw or len(tensors) != len(request.inputs):
        raise Found("there is more than the inputs of the network, and nobody minds")
    _check_inputs(tensors, signature, decoded, max_rows)
    names = [output.name for output in request.outputs] or list(signature.own_outputs)
    in_graph = {spec.client_name: spec.name for spec in signature.outputs}
    if [in_graph[name] for name in names] != list(decoded.wanted):
        raise Found(f"asked for {names}, and {decoded.wanted} is computed")
    priority, timeout = request.parameters.get("priority"), request.parameters.get("timeout")
    if decoded.priority != _whole(priority) or (decoded.timeout_s or 0.0) != _whole(timeout) / 1e6:
        raise Found(f"priority {priority} and timeout {timeout} were read as {decoded.priority}, {decoded.timeout_s}")


def _whole(parameter: Any) -> int:
    return 0 if parameter is None else parameter.int64_param or parameter.uint64_param


def check_predict(
    request: typed.PredictRequest, signature: Signature, decoded: DecodedRequest, request_id: str, max_rows: int
) -> None:
    """The same of the typed API.

    Raises:
        Found: see `check_infer`.
    """
    if request_id != request.id:
        raise Found(f"the id is {request.id!r}, read as {request_id!r}")
    lone = signature.inputs[0].name
    tensors = {
        tensor.name or lone: (typed.DataType.Name(tensor.dtype), tuple(tensor.shape), tensor.data)
        for tensor in request.inputs
    }
    if len(tensors) != len(request.inputs):
        raise Found("an input came twice, and nobody minds")
    _check_inputs(tensors, signature, decoded, max_rows)


def _check_inputs(
    tensors: dict[str, tuple[str, tuple[int, ...], Any]], signature: Signature, decoded: DecodedRequest, max_rows: int
) -> None:
    if set(tensors) != {spec.name for spec in signature.inputs} or len(decoded.data) != len(signature.inputs):
        raise Found(f"the inputs are {sorted(tensors)}, and nobody minds")
    for at, spec in enumerate(signature.inputs):
        datatype, shape, content = tensors[spec.name]
        if datatype != spec.datatype and (spec.datatype, datatype) not in _CASTS:
            raise Found(f"'{spec.name}' is {datatype}, and nobody minds")
        expected, rows = _elements(datatype, shape, content), shape[0] if signature.batched else 1
        _check_shape(spec, shape, decoded.kind.shapes[at], batched=signature.batched)
        if decoded.rows != rows or (signature.batched and not 1 <= rows <= max_rows):
            raise Found(f"{rows} rows were read as {decoded.rows}")
        data = decoded.data[at]
        whole = ((rows,) if signature.batched else ()) + decoded.kind.shapes[at]
        if isinstance(data, np.ndarray):
            got, want = data.reshape(whole).tolist(), expected.reshape(whole).tolist()
        else:
            dtype = decoded.kind.wire[at]
            got, want = np.frombuffer(data, dtype).reshape(whole).tobytes(), expected.tobytes()
        if got != want:
            raise Found(f"'{spec.name}' is {want!r}, read as {got!r}")


def _check_shape(spec: TensorSpec, shape: Sequence[int], got: tuple[int, ...], *, batched: bool) -> None:
    row = tuple(shape[1:] if batched else shape)
    row = () if row == (1,) and spec.shape == () else row
    if row != got or len(row) != len(spec.shape):
        raise Found(f"'{spec.name}' has shape {shape}, read as {got}")
    if any(want not in (None, have) for want, have in zip(spec.shape, row, strict=True)):
        raise Found(f"'{spec.name}' has shape {shape}, and nobody minds")


def _elements(datatype: str, shape: Sequence[int], content: Any) -> Array:
    if datatype == "BYTES":
        texts = _strings(content) if isinstance(content, bytes) else content
        array = np.empty(len(texts), object)
        array[:] = [text.decode() for text in texts]
        return array.reshape(shape)
    if isinstance(content, bytes):
        return np.frombuffer(content, _NUMPY[datatype]).reshape(shape)
    wide = np.array(content, object)
    array = wide.astype(_NUMPY[datatype])
    if datatype not in ("FP32", "BOOL") and wide.tolist() != array.tolist():
        raise Found(f"values of {datatype} wrapped round: {content}")
    return array.reshape(shape)


def _strings(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "little")
        found.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(content):
        raise Found("strings do not end where the tensor does, and nobody minds")
    return found
