"""Targets of inference messages: the request decoder, its header cache, and the answers made of what was decoded."""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.fuzz.oracle import Found
from bench.fuzz.readers.mutators import joined, message, pair, split
from bench.fuzz.readers.target import Check, Target
from bench.fuzz.readers.targets import reference
from bench.fuzz.readers.targets.networks import signatures
from bench.fuzz.readers.targets.samples import INFERS, PREDICTS
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.protocol import MODEL_INFER, PREDICT, pack_bytes
from frostline_server.codec.codec import Codec, DecodedRequest
from frostline_server.codec.decoder import RequestDecoder
from frostline_server.codec.outputs import Delivery
from frostline_server.codec.shared_memory import FOLDER, Regions
from frostline_server.codec.typed_answers import Readings
from frostline_server.errors import ModelNotFound, PredictionError
from frostline_server.rpc.grpc_status import ending
from frostline_server.runtime.signature import Signature, TensorSpec

REGION_BYTES = 4096
"""Of the one region of shared memory, named `region`; each byte is its place modulo 251."""

_REGION = bytes(at % 251 for at in range(REGION_BYTES))
_MAX_ROWS = 8
_LABELS = ("ant", "bee", "größe")

Accepted = tuple[DecodedRequest, str, Codec]
Outcome = tuple[str, str, str] | Accepted


class _Server:
    """What is behind a front end: a decoder, and a version of each network."""

    def __init__(self, known: Mapping[str, Signature], regions: Regions) -> None:
        self._decoder = RequestDecoder(regions)
        self._known = known
        self._codecs: dict[str, Codec] = {}

    def outcome(self, method: str, payload: bytes) -> Outcome:
        """What a message decodes to, with its id and codec; or the refusal, its reason and the id."""
        request_id = ""
        try:
            model, _, request_id, body = self._decoder.read(method, payload)
            decoded = self._decoder.decode(self._codec(model), body, payload)
        except PredictionError as error:
            ending(error, request_id)
            return type(error).__name__, str(error), request_id
        return decoded, request_id, self._codec(model)

    def _codec(self, model: str) -> Codec:
        if model not in self._codecs:
            if model not in self._known:
                raise ModelNotFound(model)
            self._codecs[model] = Codec(model, "1", self._known[model], _MAX_ROWS, _LABELS)
        return self._codecs[model]


def _essence(outcome: Outcome) -> Any:
    """All that must be equal of two outcomes."""
    if isinstance(outcome[0], str):
        return outcome
    decoded, request_id, _ = outcome
    elements = [data.tolist() if isinstance(data, np.ndarray) else bytes(data) for data in decoded.data]
    return (*decoded[:2], elements, *decoded[3:], request_id)


def _accepted(server: _Server, method: str, data: bytes) -> Accepted | None:
    """What a message decodes to, which must be the same the second time; None if it is refused."""
    first = server.outcome(method, data)
    if _essence(server.outcome(method, data)) != _essence(first):
        raise Found("the same message decodes to something else the second time", data)
    return None if isinstance(first[0], str) else first


def shared_memory() -> Regions:
    """Shared memory with one region."""
    regions = Regions(enabled=True, max_tensor_bytes=REGION_BYTES)
    if FOLDER.is_dir():
        key = f"frostline-fuzz-{uuid.uuid4().hex}"
        (FOLDER / key).write_bytes(_REGION)
        try:
            regions.register("region", key, 0, REGION_BYTES)
        finally:
            # Whoever has it open keeps it, and nobody else finds it.
            os.unlink(FOLDER / key)  # noqa: PTH108  as the line above
    return regions


def _infer(folder: Path) -> Check:
    known, regions = signatures(folder), shared_memory()

    def check(data: bytes) -> None:
        accepted = _accepted(_Server(known, regions), MODEL_INFER, data)
        if accepted is None:
            return
        request = pb.ModelInferRequest.FromString(data)
        decoded, request_id, codec = accepted
        signature = known[request.model_name]
        reference.check_infer(request, signature, decoded, request_id, _MAX_ROWS)
        _check_answer(request, signature, decoded, request_id, codec)

    return check


def _check_answer(
    request: pb.ModelInferRequest, signature: Signature, decoded: DecodedRequest, request_id: str, codec: Codec
) -> None:
    """The answer must have the outputs that were asked for, in that order, with their elements."""
    arrays = [_output(spec, decoded.rows, signature) for spec in _wanted(signature, decoded)]
    if decoded.deliveries is None:
        encoded = bytes(codec.encode_infer(decoded.wanted, arrays, request_id))
    else:
        assert not isinstance(decoded.deliveries, Readings)
        try:
            encoded = codec.deliver_infer(decoded.wanted, arrays, request_id, decoded.deliveries)
        except PredictionError:
            return
        finally:
            _fill(decoded.deliveries)
    response = pb.ModelInferResponse.FromString(encoded)
    names = [output.name for output in request.outputs] or list(signature.own_outputs)
    if [output.name for output in response.outputs] != names or response.id != request.id:
        raise Found(f"asked for {names} by {request.id!r}, got {response}")
    for index, (output, array) in enumerate(zip(response.outputs, arrays, strict=True)):
        raw = response.raw_output_contents[index]
        delivery = decoded.deliveries[index] if decoded.deliveries else None
        if delivery is None or not (delivery.classes or delivery.region):
            packed = pack_bytes(array.ravel()) if array.dtype.hasobject else array.tobytes()
            if tuple(output.shape) != array.shape or raw != packed:
                raise Found(f"the output {output.name} is not what was computed")
        elif delivery.classes and output.shape[-1] > delivery.classes:
            raise Found(f"asked for {delivery.classes} classes, got {output.shape[-1]}")


def _fill(deliveries: Sequence[Delivery]) -> None:
    """Undo what an answer wrote into the region."""
    for delivery in deliveries:
        if delivery.region is not None:
            delivery.region.write(0, _REGION)


def _wanted(signature: Signature, decoded: DecodedRequest) -> list[TensorSpec]:
    specs = {spec.name: spec for spec in signature.outputs}
    return [specs[name] for name in decoded.wanted]


def _output(spec: TensorSpec, rows: int, signature: Signature) -> Any:
    shape = [2 if size is None else size for size in spec.shape]
    whole = [rows, *shape] if signature.batched else shape
    count = int(np.prod(whole))
    if spec.dtype.hasobject:
        return np.array([f"é{at}" for at in range(count)], object).reshape(whole)
    return (np.arange(count) % 3).astype(spec.dtype).reshape(whole)


def _predict(folder: Path) -> Check:
    known, regions = signatures(folder), shared_memory()

    def check(data: bytes) -> None:
        accepted = _accepted(_Server(known, regions), PREDICT, data)
        if accepted is None:
            return
        request = typed.PredictRequest.FromString(data)
        decoded, request_id, codec = accepted
        signature = known[request.model]
        reference.check_predict(request, signature, decoded, request_id, _MAX_ROWS)
        assert isinstance(decoded.deliveries, Readings)
        arrays = [_output(spec, decoded.rows, signature) for spec in _wanted(signature, decoded)]
        response = typed.PredictResponse.FromString(
            codec.encode_predict(decoded.deliveries, decoded.wanted, arrays, request_id)
        )
        asked = set(request.outputs) or (set() if request.top_k else {typed.LOGITS, typed.SOFTMAX, typed.ARGMAX})
        got = {
            reading
            for reading, field in ((typed.LOGITS, "logits"), (typed.SOFTMAX, "softmax"), (typed.ARGMAX, "argmax"))
            if response.HasField(field)
        }
        ranked = {min(request.top_k, 3)} if request.top_k else set()
        if got != asked or response.id != request.id or {len(row.classes) for row in response.top} != ranked:
            raise Found(f"asked for {asked} and {request.top_k} classes by {request.id!r}, got {response}")

    return check


def _seasoned(method: str) -> Callable[[Path], Check]:
    """A server that has seen one message must take another as a server that has seen none."""

    def opened(folder: Path) -> Check:
        known, regions = signatures(folder), shared_memory()

        def check(data: bytes) -> None:
            first, second = split(data)
            seasoned = _Server(known, regions)
            seasoned.outcome(method, first)
            seasoned.outcome(method, first)
            got = _essence(seasoned.outcome(method, second))
            expected = _essence(_Server(known, regions).outcome(method, second))
            if got != expected:
                raise Found(f"after {first!r}, {second!r} is {got}, not {expected}", data)

        return check

    return opened


TARGETS = (
    Target("infer", "ModelInfer requests, to the answer", _infer, INFERS, message(pb.ModelInferRequest)),
    Target("predict", "Predict requests, to the answer", _predict, PREDICTS, message(typed.PredictRequest)),
    Target(
        "infer-seasoned",
        "ModelInfer requests after others",
        _seasoned(MODEL_INFER),
        (*(joined(one, one) for one in INFERS), joined(INFERS[0], INFERS[1])),
        pair(message(pb.ModelInferRequest)),
    ),
    Target(
        "predict-seasoned",
        "Predict requests after others",
        _seasoned(PREDICT),
        (*(joined(one, one) for one in PREDICTS), joined(PREDICTS[0], PREDICTS[1])),
        pair(message(typed.PredictRequest)),
    ),
)
