"""Infer requests of REST, with tensors in JSON or in Triton's binary extension, and the same messages of gRPC.

A request becomes a serialised ModelInferRequest, and its answer is a ModelInferResponse: so it means exactly what it means
over gRPC, is decoded by the same codec and joins the same batches. The JSON in front of binary tensors is the same in most
requests of a client, so what it becomes is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field
from pydantic_core import to_json

from frostline.pb import inference_pb2 as pb
from frostline.protocol import varint
from frostline_server.codec.chunks import Serialised, chunks_of, copied
from frostline_server.codec.header_cache import read_varint
from frostline_server.codec.message_scan import MOST_FIELDS
from frostline_server.http.json_bodies import Parameters, Strict, as_written, parsed
from frostline_server.http.messages import parameter, parameters_to_json
from frostline_server.http.numbers import elements, raw_elements
from frostline_server.http.statuses import invalid
from frostline_server.runtime.dtypes import DTYPES

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Of a body that begins with JSON and goes on with binary tensors: how long the JSON is."""

_RAW_TAG = bytes(((7 << 3) | 2,))
"""Of `raw_input_contents` in a ModelInferRequest."""
_RAW_OUTPUT_TAG = (6 << 3) | 2
"""Of `raw_output_contents` in a ModelInferResponse."""
_SLICE = 1 << 15
_MOST_REMEMBERED = 256
_MOST_REMEMBERED_BYTES = 4096
_OWN_PARAMETERS = frozenset({"binary_data", "binary_data_size", "binary_data_output"})
"""Of how tensors travel, which gRPC has no use for."""

Size = Annotated[int, Field(ge=0, lt=2**40)]


class InputTensor(Strict):
    """An input: its elements in `data`, behind the JSON (`binary_data_size`), or in shared memory."""

    name: str
    shape: list[Size] = Field(max_length=32)
    datatype: str
    parameters: Parameters | None = None
    data: Any = Field(None, description="a list, flat or nested; NaN and infinities as texts")


class RequestedOutput(Strict):
    """An output that is asked for; with `classification` N its N highest classes, with `binary_data` behind the JSON."""

    name: str
    parameters: Parameters | None = None


class InferRequest(Strict):
    """An inference request of the Open Inference Protocol; null is as if a field was not there."""

    model_name: str | None = Field(None, description="as in the path, where it is given: KServe's client sends it")
    model_version: str | None = Field(None, description="as in the path, where it is given")
    id: str | None = Field(None, description="comes back in the answer and in messages of errors")
    parameters: Parameters | None = None
    inputs: list[InputTensor] = Field(max_length=MOST_FIELDS, fail_fast=True)
    outputs: list[RequestedOutput] | None = Field(None, max_length=MOST_FIELDS, fail_fast=True)


class OutputTensor(BaseModel):
    """An output: its elements in `data`, behind the JSON (`binary_data_size`), or in shared memory."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """An answer of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[OutputTensor]


@dataclass(frozen=True, slots=True)
class Form:
    """How the outputs of an answer travel.

    Attributes:
        binary: whether those travel behind the JSON of which nothing else is said.
        outputs: whether each travels so that is asked for, by its name; empty where all are.
    """

    binary: bool = False
    outputs: Mapping[str, bool] = field(default_factory=dict)

    def is_binary(self, output: str) -> bool:
        """Whether an output travels behind the JSON."""
        return self.outputs.get(output, self.binary)

    @property
    def is_all_binary(self) -> bool:
        """Whether no output travels in the JSON."""
        return all(self.outputs.values()) if self.outputs else self.binary


@dataclass(frozen=True, slots=True)
class Header:
    """What the JSON of a request becomes.

    Attributes:
        message: the ModelInferRequest without the elements.
        parts: for each input with elements in the request, how many bytes behind the JSON it has, or its elements.
        form: how the outputs travel.
    """

    message: bytes
    parts: tuple[int | bytes, ...]
    form: Form


class Headers:
    """The JSON headers that were read lately, by what they were for; used by one thread only."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, bytes], Header] = {}

    def read(self, model: str, version: str, text: bytes) -> Header:
        """What the JSON of a request becomes.

        Args:
            model: the model's name.
            version: its version, as the path has it; may be empty.
            text: the JSON.

        Raises:
            Failure: it is none, or no infer request.
        """
        key = model, version, text
        known = self._known.get(key)
        if known is None:
            known = header_of(model, version, text)
            if len(text) <= _MOST_REMEMBERED_BYTES:
                if len(self._known) >= _MOST_REMEMBERED:
                    self._known.clear()
                self._known[key] = known
        return known


def header_of(model: str, version: str, text: bytes) -> Header:
    """See `Headers.read`."""
    asked = parsed(InferRequest, text)
    for name, said, path in (
        ("model_name", asked.model_name, model),
        ("model_version", asked.model_version, version),
    ):
        if said and said != path:
            raise invalid(f"{name} is {said!r}, and the path says {path!r}; leave it out, or say the same")
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=asked.id or "")
    _set(message.parameters, asked.parameters or {})
    parts: list[int | bytes] = []
    written = _Written(text)
    for place, tensor in enumerate(asked.inputs):
        given = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        parameters = tensor.parameters or {}
        _set(given.parameters, parameters)
        size = parameters.get("binary_data_size")
        if size is not None:
            if tensor.data is not None:
                raise invalid(f"input '{tensor.name}' has both data and binary_data_size; send one of them")
            if type(size) is not int or size < 0:
                raise invalid(f"binary_data_size of input '{tensor.name}' is {size!r}; a number of bytes is expected")
            parts.append(size)
        elif "shared_memory_region" in parameters:
            continue
        elif tensor.data is None:
            raise invalid(
                f"input '{tensor.name}' has no data; send `data`, or `binary_data_size` and the bytes behind the JSON"
            )
        else:
            as_it_is = partial(written.data, place)
            parts.append(raw_elements(tensor.name, tensor.datatype, tensor.shape, tensor.data, as_it_is))
    binary = _truth(asked.parameters or {}, "binary_data_output", "of the request")
    wanted = {}
    for output in asked.outputs or ():
        parameters = output.parameters or {}
        _set(message.outputs.add(name=output.name).parameters, parameters)
        wanted[output.name] = _truth(parameters, "binary_data", f"of output '{output.name}'", default=binary)
    return Header(message.SerializeToString(), tuple(parts), Form(binary, wanted))


class _Written:
    """The numbers of a request as they are written; see `as_written`. Few requests have any for which that is asked."""

    __slots__ = ("_read", "_text")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._read: Any = None

    def data(self, place: int) -> Any:
        """Those of one input."""
        if self._read is None:
            self._read = as_written(self._text)
        return self._read["inputs"][place]["data"]


def _truth(parameters: Mapping[str, Any], name: str, of: str, *, default: bool = False) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise invalid(f"the parameter {name} {of} is {found!r}; true or false is expected")
    return found


def _set(target: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if name not in _OWN_PARAMETERS:
            target[name].CopyFrom(parameter(value, name))


def message_of(header: Header, behind: memoryview) -> bytes:
    """The serialised ModelInferRequest.

    Args:
        header: what its JSON became.
        behind: the bytes behind the JSON.

    Raises:
        Failure: there are more or fewer bytes than the JSON says.
    """
    announced = sum(part for part in header.parts if isinstance(part, int))
    if announced != len(behind):
        raise invalid(f"{len(behind)} bytes follow the JSON, and its inputs say binary_data_size {announced} together")
    pieces = [header.message]
    start = 0
    for part in header.parts:
        if isinstance(part, int):
            # All are bytes, so that joining them lets other threads run.
            pieces += (_RAW_TAG, varint(part), *copied(behind[start : start + part]))
            start += part
        else:
            pieces += (_RAW_TAG, varint(len(part)), part)
    return b"".join(pieces)


def split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a body, and what is behind it.

    Args:
        body: the body.
        header_length: the value of `HEADER_LENGTH`; None where that was not sent.

    Raises:
        Failure: it is no length of a part of the body.
    """
    if header_length is None:
        return body, memoryview(b"")
    length = int(header_length[:20]) if header_length.isascii() and header_length.isdecimal() else -1
    if not 0 <= length <= len(body):
        raise invalid(
            f"{HEADER_LENGTH} is {header_length[:40]!r}; one whole number is expected, and the body has {len(body)} bytes"
        )
    return body[:length], memoryview(body)[length:]


def answer_of(message: Serialised, form: Form) -> tuple[Sequence[bytes | memoryview], int | None]:
    """The body of an answer, in pieces; those behind the JSON are parts of the message.

    Args:
        message: the serialised ModelInferResponse.
        form: how the outputs travel.

    Returns:
        The body; and how much of it is JSON, None for all of it.

    Raises:
        Failure: an output has bytes that JSON cannot hold.
    """
    head, raws = _taken_apart(message)
    response = pb.ModelInferResponse.FromString(head)
    outputs: list[bytes] = []
    behind: list[bytes | memoryview] = []
    binary = False
    for tensor, raw in zip(response.outputs, raws, strict=True):
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.parameters:
            told["parameters"] = parameters_to_json(tensor.parameters)
        data = b""
        if "shared_memory_region" not in tensor.parameters:
            if form.is_binary(tensor.name):
                binary = True
                told.setdefault("parameters", {})["binary_data_size"] = sum(map(len, raw))
                behind += raw
            else:
                data = b',"data":[' + b",".join(_slices(array_of(tensor.datatype, b"".join(raw)))) + b"]"
        outputs.append(_json(told)[:-1] + data + b"}")
    said: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        said["id"] = response.id
    if response.parameters:
        said["parameters"] = parameters_to_json(response.parameters)
    text = _json(said)[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    return (text, *behind), len(text) if binary else None


def _taken_apart(message: Serialised) -> tuple[bytes, list[list[bytes | memoryview]]]:
    """A ModelInferResponse without its raw contents, and these, in pieces, none of which is copied."""
    kept: list[memoryview] = []
    raws: list[list[bytes | memoryview]] = []
    chunks = iter(chunks_of(message))
    for chunk in chunks:
        view, at = memoryview(chunk), 0
        while at < len(chunk):
            # Every field of it is one with a length.
            begin, tag = at, chunk[at]
            size, at = read_varint(chunk, at + 1)
            field = view[at : at + size]
            at += size
            if tag != _RAW_OUTPUT_TAG:
                kept.append(view[begin:at])
                continue
            raws.append([field])
            missing = size - len(field)
            while missing:
                raws[-1].append(more := next(chunks))
                missing -= len(more)
    return b"".join(kept), raws


def _json(told: Any) -> bytes:
    return to_json(told, inf_nan_mode="strings")


def _slices(array: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """The elements of an array as JSON, in slices: each keeps other threads waiting while it is written."""
    for at in range(0, len(array), _SLICE):
        yield _json(elements(array[at : at + _SLICE]))[1:-1]


def array_of(datatype: str, raw: bytes | memoryview, shape: Sequence[int] | None = None) -> np.ndarray[Any, Any]:
    """Raw elements as an array.

    Args:
        datatype: the protocol's name of their type.
        raw: the elements as they are on the wire.
        shape: of the array; None for one axis.
    """
    if datatype != "BYTES":
        array = np.frombuffer(raw, DTYPES[datatype])
    else:
        raw, found, start = bytes(raw), [], 0
        while start < len(raw):
            stop = start + 4 + int.from_bytes(raw[start : start + 4], "little")
            found.append(raw[start + 4 : stop])
            start = stop
        array = np.array([*found, None], object)[:-1]
    return array if shape is None else array.reshape(shape)
