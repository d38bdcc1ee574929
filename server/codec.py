"""Protobuf <-> rows, for one version of a model: both APIs in, both APIs out, and nothing copied twice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from frostline.pb import inference_pb2, predictor_pb2
from server.batcher import RowKind
from server.errors import InvalidInput, Unsupported
from server.session import Signature
from server.tensors import DTYPES, Array, Layouts, check_bytes, check_outputs, pack_strings, typed_contents

M = TypeVar("M", bound=Message)

_NAMES = {np.dtype(dtype).str: name for name, dtype in DTYPES.items()}
_MAX_CACHED = 4096
"""Distinct answers remembered for each version, so that odd requests cannot grow the server."""

# Tags of ModelInferResponse: field number and wire type 2 (length-delimited).
_ID_TAG = bytes([3 << 3 | 2])
_RAW_TAG = bytes([6 << 3 | 2])


@dataclass(frozen=True, slots=True)
class Rows:
    """A decoded request: what the batcher needs to queue it."""

    kind: RowKind
    rows: int
    data: Sequence[bytes | Array]
    wanted: tuple[str, ...]


def parse(message: type[M], payload: bytes) -> M:
    """Parse a message.

    Raises:
        InvalidInput: the bytes are not one.
    """
    try:
        return message.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(
            f"the message is not a valid {message.DESCRIPTOR.full_name}: {error} ({len(payload)} bytes)"
        ) from error


class Codec:
    """Translates the messages of one version.

    Args:
        model: the model's name.
        version: its number, in decimal.
        signature: what the network takes and gives.
        max_batch_size: the most rows in one request.
        labels: names of the classes, or None.
    """

    def __init__(
        self, model: str, version: str, signature: Signature, max_batch_size: int, labels: Sequence[str] | None
    ) -> None:
        self._model = model
        self._version = version
        self._signature = signature
        self._labels = labels
        self._layouts = Layouts(model, signature, max_batch_size)
        self._specs = signature.inputs
        self._wanted: dict[tuple[str, ...], tuple[str, ...]] = {(): signature.own_outputs}
        self._answers: dict[Any, tuple[bytes, list[bytes]]] = {}

    # Open Inference Protocol

    def decode_infer(self, request: inference_pb2.ModelInferRequest) -> Rows:
        """Check a request and find its rows.

        Raises:
            InvalidInput: it does not fit the network.
            Unsupported: it asks for a part of the protocol that is not answered.
        """
        inputs = request.inputs
        layout = self._layouts.check(tuple([(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in inputs]))
        wanted = self._wanted.get(tuple([output.name for output in request.outputs]))
        if wanted is None:
            wanted = self._check_wanted(tuple([output.name for output in request.outputs]))
        raw = request.raw_input_contents
        if request.parameters:
            _refuse_parameters(request.parameters)
        for tensor in inputs:
            if tensor.parameters:
                _refuse_parameters(tensor.parameters)
        for output in request.outputs:
            if output.parameters:
                _refuse_parameters(output.parameters)
        data: list[bytes | Array] = []
        if raw:
            if any([tensor.HasField("contents") for tensor in inputs]):
                raise InvalidInput(
                    f"contents field must not be specified when using raw_input_contents for model '{self._model}'"
                )
            if len(raw) != len(inputs):
                raise InvalidInput(
                    f"expected {len(inputs)} raw_input_contents for model '{self._model}', one for each input, got {len(raw)}"
                )
            for spec, nbytes, count, at in zip(self._specs, layout.nbytes, layout.count, layout.order, strict=True):
                data.append(check_bytes(self._model, spec, nbytes, count, raw[at]))
        else:
            for spec, count, at in zip(self._specs, layout.count, layout.order, strict=True):
                data.append(typed_contents(self._model, spec, inputs[at].datatype, inputs[at].contents, count))
        return Rows(layout.kind, layout.rows, data, wanted)

    def _check_wanted(self, names: tuple[str, ...]) -> tuple[str, ...]:
        check_outputs(self._model, self._signature, names)
        if len(self._wanted) >= _MAX_CACHED:
            self._wanted = {(): self._signature.own_outputs}
        # Equal requests share one tuple, so that the batcher's comparison is of identities.
        return self._wanted.setdefault(names, names)

    def encode_infer(self, wanted: tuple[str, ...], outputs: Sequence[Array], request_id: str) -> bytes:
        """A serialised ModelInferResponse, outputs raw.

        All that is equal in answers of one shape is serialised once; an answer is that, the id, and the elements.
        """
        key = (wanted, tuple([array.shape for array in outputs]))
        answer = self._answers.get(key)
        if answer is None:
            answer = self._prepare(wanted, outputs)
            if len(self._answers) >= _MAX_CACHED:
                self._answers.clear()
            self._answers[key] = answer
        head, raw_heads = answer
        parts = [head]
        if request_id:
            encoded = request_id.encode()
            parts += (_ID_TAG, _varint(len(encoded)), encoded)
        for raw_head, array in zip(raw_heads, outputs, strict=True):
            if raw_head:
                parts += (raw_head, array.tobytes())
            else:
                packed = pack_strings(array)
                parts += (_RAW_TAG, _varint(len(packed)), packed)
        return b"".join(parts)

    def _prepare(self, wanted: tuple[str, ...], outputs: Sequence[Array]) -> tuple[bytes, list[bytes]]:
        response = inference_pb2.ModelInferResponse(model_name=self._model, model_version=self._version)
        raw_heads = []
        for name, array in zip(wanted, outputs, strict=True):
            response.outputs.add(name=name, datatype=_NAMES[array.dtype.str], shape=array.shape)
            raw_heads.append(b"" if array.dtype.hasobject else _RAW_TAG + _varint(array.nbytes))
        return response.SerializeToString(), raw_heads

    # Frostline's typed API

    def decode_predict(self, request: predictor_pb2.PredictRequest) -> Rows:
        """Check a request and find its rows.

        Raises:
            InvalidInput: it does not fit the network.
            Unsupported: the network does not end at logits.
        """
        heads = self._signature.heads
        if heads is None:
            raise Unsupported(
                f"model '{self._model}' does not end at logits [N, C, ...], so it has no softmax or argmax; call ModelInfer instead"
            )
        lone = len(self._specs) == 1
        headers = []
        for tensor in request.inputs:
            if tensor.dtype not in _TYPED:
                raise InvalidInput(f"input '{tensor.name}' for model '{self._model}' has no dtype")
            name = tensor.name or (self._specs[0].name if lone else "")
            headers.append((name, _TYPED[tensor.dtype], tuple(tensor.shape)))
        layout = self._layouts.check(tuple(headers))
        data = [
            check_bytes(self._model, spec, nbytes, count, request.inputs[at].data)
            for spec, nbytes, count, at in zip(self._specs, layout.nbytes, layout.count, layout.order, strict=True)
        ]
        readings = dict(zip(_READINGS, (heads.logits, heads.softmax, heads.argmax), strict=True))
        asked = request.outputs or ([] if request.top_k else _READINGS)
        for reading in asked:
            if reading not in readings:
                raise InvalidInput(f"outputs must be LOGITS, SOFTMAX or ARGMAX, got {reading}")
        names = dict.fromkeys(readings[reading] for reading in asked)
        if request.top_k:
            if not heads.confidence:
                raise InvalidInput(
                    f"model '{self._model}' has a class at each place of a row, so there is no ranking of classes for a row; ask "
                    "for SOFTMAX instead of top_k"
                )
            names[heads.softmax] = None
        return Rows(layout.kind, layout.rows, data, tuple(names))

    def encode_predict(
        self, request: predictor_pb2.PredictRequest, wanted: tuple[str, ...], outputs: Sequence[Array]
    ) -> bytes:
        """A serialised PredictResponse."""
        heads = self._signature.heads
        assert heads is not None, "decode_predict refuses models without heads"  # noqa: S101  an invariant, not a check
        by_name = dict(zip(wanted, outputs, strict=True))
        response = predictor_pb2.PredictResponse(model=self._model, version=self._version, id=request.id)
        asked = request.outputs or ([] if request.top_k else _READINGS)
        if predictor_pb2.LOGITS in asked:
            response.logits.CopyFrom(_tensor(by_name[heads.logits]))
        if predictor_pb2.SOFTMAX in asked:
            response.softmax.CopyFrom(_tensor(by_name[heads.softmax]))
        if predictor_pb2.ARGMAX in asked:
            classes = by_name[heads.argmax]
            response.argmax.CopyFrom(_tensor(classes))
            if self._labels and heads.confidence:
                response.labels.extend([self._label(int(index)) for index in classes])
        if request.top_k:
            response.top.extend(self._rankings(by_name[heads.softmax], request.top_k))
        return response.SerializeToString()

    def _rankings(self, softmax: Array, top_k: int) -> list[predictor_pb2.Ranking]:
        # A stable sort of the negated probabilities leaves equal ones in order of their index.
        order = np.argsort(-softmax, axis=1, kind="stable")[:, :top_k]
        return [
            predictor_pb2.Ranking(
                classes=[
                    predictor_pb2.Class(index=int(index), label=self._label(int(index)), probability=float(row[index]))
                    for index in best
                ]
            )
            for row, best in zip(softmax, order, strict=True)
        ]

    def _label(self, index: int) -> str:
        return self._labels[index] if self._labels and index < len(self._labels) else ""


_TYPED = {value: name for name, value in predictor_pb2.DataType.items() if value != predictor_pb2.DATA_TYPE_UNSPECIFIED}
_READINGS = (predictor_pb2.LOGITS, predictor_pb2.SOFTMAX, predictor_pb2.ARGMAX)


def _tensor(array: Array) -> predictor_pb2.Tensor:
    return predictor_pb2.Tensor(dtype=_NAMES[array.dtype.str], shape=array.shape, data=array.tobytes())


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_REFUSED: dict[str, str] = {
    "sequence_id": "sequences",
    "sequence_start": "sequences",
    "sequence_end": "sequences",
    "shared_memory_region": "shared memory",
    "classification": "the classification extension; ask for the output 'argmax', or call Predict with top_k",
}


def _refuse_parameters(names: Iterable[str]) -> None:
    """Name a parameter that would change the answer and is not honoured; others are hints, and ignored as Triton does."""
    for name in names:
        if name in _REFUSED:
            raise Unsupported(f"parameter '{name}' is not supported: this server does not answer {_REFUSED[name]}")
        if name.startswith("triton_") and name != "triton_enable_empty_final_response":
            raise InvalidInput(f"parameter keys starting with 'triton_' are reserved for Triton usage, got '{name}'")
