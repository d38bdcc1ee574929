"""The message codec of one version: requests to rows, and outputs to responses, for both APIs.

It copies no elements: rows stay the bytes of the message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from frostline.pb import inference_pb2, predictor_pb2
from frostline.protocol import pack_bytes, varint
from frostline_server.batching.entry import RowKind
from frostline_server.codec import message_scan, parameters
from frostline_server.codec.chunks import CHUNK_BYTES, Chunks, Serialised, copied
from frostline_server.codec.header_cache import LARGE_BYTES, RequestHeader, without_raw_contents
from frostline_server.codec.message_scan import TakesLong
from frostline_server.codec.outputs import Delivery, deliver, plan_deliveries
from frostline_server.codec.shared_memory import Regions
from frostline_server.codec.tensors import (
    COLUMN_CASTS,
    MAX_TENSORS,
    Array,
    Layout,
    Layouts,
    TensorHeader,
    Texts,
    check_bytes,
    check_outputs,
    pictures_array,
    typed_contents,
)
from frostline_server.codec.typed_answers import READINGS, Readings, Task, TypedAnswers
from frostline_server.errors import InvalidInput, Unsupported
from frostline_server.runtime.dtypes import NAMES
from frostline_server.runtime.row_schema import STATES, RowSchema
from frostline_server.runtime.signature import Signature

M = TypeVar("M", bound=Message)

_MOST_LISTED = 16
"""Names of a request's tensors that an error about their number quotes."""

_LARGE_BYTES = 1 << 16
"""Answers of so many bytes are large: room is looked for before they are computed."""
_BRIEF_REGION_BYTES = 1 << 16
"""More takes long to read out of shared memory, and room for it is looked for."""
_MAX_CACHED = 4096
"""Distinct answers remembered for each version, so that odd requests cannot grow the server."""

# Tags of ModelInferResponse: field number and wire type 2 (length-delimited).
_ID_TAG = bytes([3 << 3 | 2])
_RAW_TAG = bytes([6 << 3 | 2])


# A tuple, because making a frozen dataclass takes twice as long, and every request makes one.
class DecodedRequest(NamedTuple):
    """A decoded request: what the batcher needs to queue it, and how its outputs are delivered.

    Attributes:
        kind: what each row is like.
        rows: how many there are.
        data: for each input, the elements.
        wanted: names of the outputs to compute, in the graph.
        priority: the request's own; 0 for the model's default.
        timeout_s: how many seconds it may wait in the queue; None for as long as any.
        deliveries: how the outputs are delivered: one for each output wanted, or in the typed API as which readings;
            None if all simply go into the answer.
    """

    kind: RowKind
    rows: int
    data: Sequence[bytes | memoryview | Array]
    wanted: tuple[str, ...]
    priority: int = 0
    timeout_s: float | None = None
    deliveries: tuple[Delivery, ...] | Readings | None = None

    @property
    def direct(self) -> bool:
        """Whether all outputs simply go into the answer; a region of shared memory may be another the next time."""
        return self.deliveries is None or isinstance(self.deliveries, Readings)

    @property
    def repeats(self) -> bool:
        """Whether a request that differs in nothing but its elements is decoded to the same but for them.

        Strings are taken apart anew each time, and so are several tensors.
        """
        return self.direct and len(self.data) == 1 and isinstance(self.data[0], bytes | memoryview)


_decoded = partial(tuple.__new__, DecodedRequest)
"""Makes a DecodedRequest of all its fields; the constructor of a named tuple takes twice as long."""


def parse(message: type[M], payload: bytes, *, brief: bool = False) -> M:
    """Parse a message, once it is known that it holds no more than is taken.

    Args:
        message: its type.
        payload: the bytes.
        brief: whether to give up on a message that takes long to decode.

    Raises:
        InvalidInput: the bytes are not one, or it holds too much.
        TakesLong: it takes long; only if `brief`.
    """
    _check(message, payload, brief=brief)
    return _parsed(message, payload, len(payload))


def parse_infer(
    payload: bytes, *, brief: bool = False
) -> tuple[inference_pb2.ModelInferRequest, Sequence[bytes | memoryview]]:
    """As `parse`, of a ModelInferRequest; its raw contents come beside it, and large ones are not copied.

    Raises:
        InvalidInput: as there.
        TakesLong: as there.
    """
    if len(payload) < LARGE_BYTES:
        request = parse(inference_pb2.ModelInferRequest, payload, brief=brief)
        return request, request.raw_input_contents
    message = inference_pb2.ModelInferRequest
    _check(message, payload, brief=brief)
    apart = without_raw_contents(payload)
    if apart is None:
        request = _parsed(message, payload, len(payload))
        return request, request.raw_input_contents
    head, contents = apart
    return _parsed(message, head, len(payload)), contents


def _check(message: type[Message], payload: bytes, *, brief: bool) -> None:
    if len(payload) > message_scan.SMALL_BYTES and not message_scan.check(message.DESCRIPTOR, payload, brief=brief):
        raise InvalidInput(
            f"the message is not a valid {message.DESCRIPTOR.full_name}: its fields do not fit into its {len(payload)} bytes"
        )


def _parsed(message: type[M], payload: bytes, size: int) -> M:
    try:
        return message.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(
            f"the message is not a valid {message.DESCRIPTOR.full_name}: {error} ({size} bytes)"
        ) from error


class Codec:
    """Translates the messages of one version.

    Args:
        model: the model's name.
        version: its number, in decimal.
        signature: what the network takes and gives.
        max_batch_size: the most rows in one request.
        labels: names of the classes or values, or None.
        task: what the network was published for; None where nothing says it.
        rows: the columns that clients may send instead of the network's input; None if they cannot.
        no_rows: why they cannot, where they might expect to; "" where they would not.
        named: the labels of outputs that have their own, by what clients call them.

    Attributes:
        task: what it was published for; without that, what its outputs are.
        many_rows: fewer have no large answer; see `large_answer_bytes`.
    """

    def __init__(
        self,
        model: str,
        version: str,
        signature: Signature,
        max_batch_size: int,
        labels: Sequence[str] | None,
        task: Task | None = None,
        rows: RowSchema | None = None,
        no_rows: str = "",
        named: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self._model = model
        self._version = version
        self._signature = signature
        heads = signature.heads
        self.task = task or Task("any" if heads is None else "single-label" if heads.confidence else "dense")
        own = {spec.name: spec.client_name for spec in signature.outputs if spec.name in signature.own_outputs}
        self._usual: tuple[int, ...] = (predictor_pb2.VALUES,) if heads is None else READINGS
        self._typed = TypedAnswers(model, version, heads, labels, own, self.task)
        # Of each output that may be answered as its best classes; as in Triton, those of another output name none of its.
        self._labels = {**named, **dict.fromkeys(signature.scores, labels or ())}
        own_names, columns = ([spec.name for spec in specs] for specs in (signature.inputs, rows.specs if rows else ()))
        self._layouts = Layouts(model, signature, max_batch_size, instead=columns, remark=no_rows)
        # The same network as one that takes the columns, and says of each cell what it is.
        self._row_signature = (
            replace(signature, inputs=rows.specs, outputs=(*signature.outputs, rows.states)) if rows else signature
        )
        self._columns = frozenset(columns)
        self._row_layouts = (
            Layouts(model, self._row_signature, max_batch_size, COLUMN_CASTS, own_names) if rows else self._layouts
        )
        self._most_inputs = max(len(signature.inputs), len(self._columns))
        # The name of an input that a request of the typed API need not name.
        self._lone = signature.inputs[0].name if len(signature.inputs) == 1 else ""
        self._most_wanted = len(self._row_signature.outputs) + 1
        self._in_graph = {spec.client_name: spec.name for spec in self._row_signature.outputs}
        self._aliases = {spec.name: spec.alias for spec in self._row_signature.outputs if spec.alias}
        # By the names that a request gives.
        self._wanted: dict[tuple[str, ...], tuple[str, ...]] = {(): signature.own_outputs}
        # By the readings that a request of the typed API gives, and whether it wants a ranking.
        self._readings: dict[tuple[tuple[int, ...], bool], tuple[str, ...]] = {}
        self._answers: dict[Any, tuple[bytes, list[bytes]]] = {}
        # By the names of outputs: the bytes of a row of them, as far as the file says; see `answer_bytes`.
        self._row_bytes: dict[tuple[str, ...], int | None] = {}
        self.many_rows = _LARGE_BYTES / max(1, self._row_signature.known_row_bytes)
        self._recognised: dict[RequestHeader, tuple[DecodedRequest, Layout | None]] = {}
        self._tensors = 0
        # Words of a table's cells come again and again.
        self._texts: Texts | None = Texts() if rows and rows.file else None

    # Open Inference Protocol

    def decode_infer(
        self,
        request: inference_pb2.ModelInferRequest,
        regions: Regions,
        raw_contents: Sequence[bytes | memoryview] | None = None,
        *,
        brief: bool = False,
    ) -> DecodedRequest:
        """Check a request and find its rows.

        Args:
            request: the request.
            regions: the shared memory its tensors may lie in.
            raw_contents: its raw contents, if it does not hold them.
            brief: whether to give up on a request that takes long to decode.

        Raises:
            TakesLong: it takes long; only if `brief`.
            InvalidInput: it does not fit the network.
            RegionNotFound: a tensor lies in shared memory that is not known.
            Unsupported: it asks for a part of the protocol that is not answered.
        """
        inputs = request.inputs
        if len(inputs) > self._most_inputs + _MOST_LISTED:
            self._row_layouts.refuse([tensor.name for tensor in inputs[:_MOST_LISTED]], len(inputs))
        layout = self._layout_of(inputs, brief=brief)
        # One more than there are is one that is unknown or comes twice.
        names = tuple([output.name for output in request.outputs[: self._most_wanted]])
        wanted = self._wanted.get(names) or self._check_wanted(names, self._signature_of(layout))
        priority, timeout_s = parameters.scheduling(request.parameters) if request.parameters else (0, None)
        deliveries = None
        for output in request.outputs:
            if output.parameters:
                deliveries = plan_deliveries(
                    self._model, self._signature_of(layout), request.outputs, layout.rows, regions, task=self.task.name
                )
                break
        contents = request.raw_input_contents if raw_contents is None else raw_contents
        raw: Sequence[bytes | memoryview | None] = contents
        places: Sequence[parameters.Place | None] = ()
        for tensor in inputs:
            if tensor.parameters:
                places = [parameters.place(each.parameters, each.name) for each in inputs]
                if brief and sum([each.byte_size for each in places if each is not None]) > _BRIEF_REGION_BYTES:
                    raise TakesLong
                break
        if raw:
            if any([tensor.HasField("contents") for tensor in inputs]):
                raise InvalidInput(
                    f"contents field must not be specified when using raw_input_contents for model '{self._model}'"
                )
            expected = places.count(None) if places else len(inputs)
            if len(raw) != expected:
                raise InvalidInput(
                    f"expected {expected} raw_input_contents for model '{self._model}', one for each input"
                    f"{' that is not in shared memory' if expected < len(inputs) else ''}, got {len(raw)}"
                )
        if places:
            raw = self._read(inputs, places, raw, regions)
        if raw and not places:
            data = self._columns_of(layout, contents)
        else:
            data = [
                typed_contents(self._model, spec, inputs[at].datatype, inputs[at].contents, count)
                if (elements := raw[at] if raw else None) is None
                else check_bytes(self._model, spec, nbytes, count, elements)
                for spec, nbytes, count, at in layout.plan
            ]
        kind, rows = self._pictures(layout, data) if layout.pictures else (layout.kind, data)
        return _decoded((kind, layout.rows, rows, wanted, priority, timeout_s, deliveries))

    def _layout_of(
        self, inputs: Sequence[inference_pb2.ModelInferRequest.InferInputTensor], *, brief: bool = False
    ) -> Layout:
        headers = tuple([(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in inputs])
        return self._layouts_for(headers).check(headers, brief=brief)

    def _pictures(
        self, layout: Layout, data: Sequence[bytes | memoryview | Array]
    ) -> tuple[RowKind, list[bytes | memoryview | Array]]:
        """The kind of rows that are pictures, and these."""
        pictures = pictures_array(data, layout)
        return self._row_layouts.weighed(layout, pictures), [pictures]

    def _layouts_for(self, headers: tuple[TensorHeader, ...]) -> Layouts:
        """What checks these headers: the columns' if one of them names a column."""
        if self._columns and any([name in self._columns for name, _, _ in headers]):
            return self._row_layouts
        return self._layouts

    def _signature_of(self, layout: Layout) -> Signature:
        """What a request with this layout sees of the network."""
        return self._row_signature if layout.specs is self._row_signature.inputs else self._signature

    def remember(
        self,
        header: RequestHeader,
        rows: DecodedRequest,
        request: inference_pb2.ModelInferRequest | None = None,
    ) -> None:
        """Remember what was decoded from a request with this header.

        Args:
            header: the header.
            rows: what was decoded.
            request: what it was decoded from, where the header leaves out a raw content for each input; None if what was
                decoded `repeats`.
        """
        layout = None if request is None else self._layout_of(request.inputs)
        tensors = 1 if layout is None else len(layout.specs)
        self._tensors += tensors
        if len(self._recognised) >= _MAX_CACHED or self._tensors > MAX_TENSORS:
            self._recognised.clear()
            self._tensors = tensors
        self._recognised[header] = rows._replace(data=()), layout

    def recognise(self, header: RequestHeader, elements: bytes | memoryview | Sequence[bytes]) -> DecodedRequest | None:
        """What decoding would find in a request with a header that was remembered; None if it was not.

        Args:
            header: the header.
            elements: of the one tensor, or of each tensor of the request.

        Raises:
            InvalidInput: the elements do not fit the header.
        """
        known = self._recognised.get(header)
        if known is None:
            return None
        (kind, count, _, wanted, priority, timeout_s, deliveries), layout = known
        data: Sequence[bytes | memoryview | Array] = (cast("bytes", elements),)
        if layout is not None:
            data = columns = self._columns_of(layout, cast("Sequence[bytes]", elements))
            if layout.pictures:
                kind, data = self._pictures(layout, columns)
        return _decoded((kind, count, data, wanted, priority, timeout_s, deliveries))

    def _columns_of(self, layout: Layout, raw: Sequence[bytes | memoryview]) -> list[bytes | memoryview | Array]:
        """The elements of each input, of their bytes in the request's order."""
        texts = None if layout.specs is self._signature.inputs else self._texts
        columns: list[bytes | memoryview | Array] = []
        for spec, nbytes, count, at in layout.plan:
            data = raw[at]
            if len(data) == nbytes:
                columns.append(data)
            elif nbytes < 0 and texts is not None and count == 1 and (text := texts.alone.get(bytes(data))) is not None:
                columns.append(text)
            else:
                columns.append(check_bytes(self._model, spec, nbytes, count, data, texts))
        return columns

    def _read(
        self,
        inputs: Sequence[inference_pb2.ModelInferRequest.InferInputTensor],
        places: Sequence[parameters.Place | None],
        raw: Sequence[bytes | memoryview | None],
        regions: Regions,
    ) -> list[bytes | memoryview | None]:
        """For each input its bytes; those in shared memory take no slot of the raw contents. None if they are typed."""
        slots = iter(raw)
        elements: list[bytes | memoryview | None] = []
        for tensor, place in zip(inputs, places, strict=True):
            if place is None:
                elements.append(next(slots, None))
            elif tensor.HasField("contents"):
                raise InvalidInput(
                    f"unexpected 'content' provided when using shared memory for input tensor '{tensor.name}' for "
                    f"model '{self._model}'"
                )
            else:
                elements.append(regions.read(place.region, place.offset, place.byte_size))
        return elements

    def _check_wanted(self, names: tuple[str, ...], signature: Signature) -> tuple[str, ...]:
        check_outputs(self._model, signature, names)
        if len(self._wanted) >= _MAX_CACHED:
            self._wanted = {(): self._signature.own_outputs}
        wanted = tuple([self._in_graph[name] for name in names])
        # Only raw rows have states, so these names must be checked again. Other equal requests share one tuple, so that the
        # batcher's comparison is of identities.
        return wanted if STATES in wanted else self._wanted.setdefault(names, wanted)

    def answer_bytes(self, wanted: tuple[str, ...], rows: int) -> int | None:
        """The bytes of these outputs for so many rows; None if an output has axes of any size, or strings."""
        row = self._row_bytes.get(wanted, -1)
        if row == -1:
            if len(self._row_bytes) >= _MAX_CACHED:
                self._row_bytes.clear()
            row = self._row_bytes[wanted] = self._row_signature.row_bytes(wanted)
        return None if row is None else row * rows

    def large_answer_bytes(self, wanted: tuple[str, ...], rows: int) -> int:
        """As `answer_bytes`, where they are known to be many; otherwise 0."""
        size = self.answer_bytes(wanted, rows) or 0
        return size if size >= _LARGE_BYTES else 0

    def encode_infer(self, wanted: tuple[str, ...], outputs: Sequence[Array], request_id: str) -> Serialised:
        """A serialised ModelInferResponse, outputs raw.

        All that is equal in answers of one shape is serialised once; an answer is that, the id, and the elements. In
        chunks, each begins with a field, or goes on with the raw contents that the one before began.
        """
        key = (wanted, tuple([array.shape for array in outputs]))
        answer = self._answers.get(key)
        if answer is None:
            answer = self._prepare(wanted, outputs)
            if len(self._answers) >= _MAX_CACHED:
                self._answers.clear()
            self._answers[key] = answer
        head, raw_heads = answer
        parts: list[bytes] = [head]
        large = False
        if request_id:
            encoded = request_id.encode()
            parts.append(_ID_TAG + varint(len(encoded)) + encoded)
        for raw_head, array in zip(raw_heads, outputs, strict=True):
            if raw_head:
                parts.append(raw_head)
                if array.nbytes > CHUNK_BYTES:
                    parts += copied(array)
                    large = True
                else:
                    parts.append(array.tobytes())
            else:
                packed = pack_bytes(array.ravel())
                parts += (_RAW_TAG + varint(len(packed)), packed)
        return Chunks(parts) if large else b"".join(parts)

    def deliver_infer(
        self, wanted: tuple[str, ...], outputs: Sequence[Array], request_id: str, deliveries: Sequence[Delivery]
    ) -> bytes:
        """A serialised ModelInferResponse with each output delivered as its request says.

        Raises:
            InvalidInput: an output has no room in its shared memory; nothing was written to any.
        """
        response = inference_pb2.ModelInferResponse(model_name=self._model, model_version=self._version, id=request_id)
        names = [self._aliases.get(name, name) for name in wanted]
        deliver(response, names, outputs, deliveries, self._labels, batched=self._signature.batched)
        return response.SerializeToString()

    def _prepare(self, wanted: tuple[str, ...], outputs: Sequence[Array]) -> tuple[bytes, list[bytes]]:
        response = inference_pb2.ModelInferResponse(model_name=self._model, model_version=self._version)
        raw_heads = []
        for name, array in zip(wanted, outputs, strict=True):
            response.outputs.add(name=self._aliases.get(name, name), datatype=NAMES[array.dtype.str], shape=array.shape)
            raw_heads.append(b"" if array.dtype.hasobject else _RAW_TAG + varint(array.nbytes))
        return response.SerializeToString(), raw_heads

    # Frostline's typed API

    def decode_predict(self, request: predictor_pb2.PredictRequest, *, brief: bool = False) -> DecodedRequest:
        """Check a request and find its rows.

        Args:
            request: the request.
            brief: as for `decode_infer`.

        Raises:
            TakesLong: it takes long; only if `brief`.
            InvalidInput: it does not fit the network.
            Unsupported: it asks for a reading that the network's answers do not have.
        """
        outputs, ranked = tuple(request.outputs[:]), request.top_k > 0
        wanted = self._readings.get((outputs, ranked))
        if wanted is None:
            wanted = self._check_readings(outputs, ranked=ranked)
        inputs = request.inputs
        if len(inputs) > self._most_inputs + _MOST_LISTED:
            self._row_layouts.refuse([each.name for each in inputs[:_MOST_LISTED]], len(inputs))
        headers = tuple([(each.name or self._lone, self._datatype(each), tuple(each.shape[:])) for each in inputs])
        layout = self._layouts_for(headers).check(headers, brief=brief)
        data = self._columns_of(layout, [tensor.data for tensor in inputs])
        kind, rows = self._pictures(layout, data) if layout.pictures else (layout.kind, data)
        if self._columns and STATES in wanted and self._signature_of(layout) is self._signature:
            raise self._no_states()
        readings = Readings(outputs or (() if ranked else self._usual), request.top_k)
        return _decoded((kind, layout.rows, rows, wanted, 0, None, readings))

    def _datatype(self, tensor: predictor_pb2.Tensor) -> str:
        datatype = _TYPED.get(tensor.dtype)
        if datatype is None:
            raise InvalidInput(f"input '{tensor.name}' for model '{self._model}' has no dtype")
        return datatype

    def encode_predict(
        self, readings: Readings, wanted: tuple[str, ...], outputs: Sequence[Array], request_id: str = ""
    ) -> bytes:
        """A serialised PredictResponse; see `TypedAnswers.encode`."""
        return self._typed.encode(readings, wanted, outputs, request_id)

    def _check_readings(self, outputs: tuple[int, ...], *, ranked: bool) -> tuple[str, ...]:
        if len(outputs) > _MOST_LISTED:
            raise InvalidInput(
                f"outputs has {len(outputs)} readings, and there are {len(READINGS) + 2}; name each once"
            )
        heads, own = self._signature.heads, self._signature.own_outputs
        readings: dict[int, tuple[str, ...]] = {predictor_pb2.VALUES: own}
        if heads is not None:
            readings |= {
                reading: (name,)
                for reading, name in zip(READINGS, (heads.logits, heads.softmax, heads.argmax), strict=True)
            }
        if self._columns:
            readings[predictor_pb2.STATES] = (STATES,)
        asked = outputs or (() if ranked else self._usual)
        for reading in asked:
            if reading not in (*READINGS, predictor_pb2.VALUES, predictor_pb2.STATES):
                raise InvalidInput(f"outputs must be LOGITS, SOFTMAX, ARGMAX, VALUES or STATES, got {reading}")
            if reading == predictor_pb2.STATES and not self._columns:
                raise self._no_states()
            if reading not in readings:
                raise self._no_reading(predictor_pb2.Output.Name(reading))
        names = dict.fromkeys(name for reading in asked for name in readings[reading])
        if heads is not None and predictor_pb2.ARGMAX in asked and self.task.positive is not None:
            # Which of the two labels a row has, their probabilities decide.
            names[heads.softmax] = None
        if ranked:
            if heads is None:
                raise self._no_reading("ranking of classes (top_k)")
            if not heads.confidence:
                raise InvalidInput(
                    f"model '{self._model}' has a class at each place of a row, so there is no ranking of classes for "
                    "a row; ask for SOFTMAX (in Python outputs=['softmax']) instead of top_k"
                )
            names[heads.softmax] = None
        if len(self._readings) >= _MAX_CACHED:
            self._readings.clear()
        return self._readings.setdefault((outputs, ranked), tuple(names))

    def _no_states(self) -> Unsupported:
        return Unsupported(
            f"only raw rows have STATES: send model '{self._model}' the columns that Schema says, if any"
        )

    def _no_reading(self, what: str) -> Unsupported:
        names = [spec.client_name for spec in self._signature.outputs]
        return Unsupported(
            f"model '{self._model}' does not choose one of several classes (its task is '{self.task.name}'), so it has no "
            f"{what}; ask for VALUES (in Python outputs=['values']), its outputs {names}"
        )


_TYPED = {value: name for name, value in predictor_pb2.DataType.items() if value != predictor_pb2.DATA_TYPE_UNSPECIFIED}
