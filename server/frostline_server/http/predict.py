"""Predictions of rows as people hold them, in JSON: what Frostline's Python client does, for whoever has no client.

It holds the client's own conversation with the server, inside of the server. So rows mean the same here as there, and are
refused in the same words.
"""

import base64
import binascii
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from pydantic import Field
from pydantic_core import to_json as json_bytes
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frostline.client import asking, errors, messages
from frostline.client.asking import Known, Question
from frostline.client.calls import Conversation
from frostline.client.prediction import Prediction
from frostline.client.rows import are_of, may_be
from frostline.client.schema import Schema
from frostline.pb import predictor_pb2 as pb
from frostline.protocol import PREDICT
from frostline_server.http.call import Call, Context
from frostline_server.http.elsewhere import LONG_BYTES, elsewhere
from frostline_server.http.infer import Strict, memory_of, parsed
from frostline_server.http.inference_calls import InferenceCalls
from frostline_server.http.messages import to_json
from frostline_server.http.numbers import NOT_FINITE, elements, nested
from frostline_server.http.statuses import Failure
from frostline_server.rpc.methods import Methods

T = TypeVar("T")
Json = dict[str, Any]

_TIMEOUT_S = 300.0
_MOST_STARTS = 3
"""How often rows are read and sent, because the version that was to answer has gone."""
_NO_JSON = (
    "image/",
    "audio/",
    "video/",
    "application/pdf",
    "application/zip",
    "application/xml",
    "text/html",
    "text/csv",
)
"""Types of bodies that are certainly no JSON; programs are careless with others."""
_ANSWER_FACTOR = 20
"""About how many bytes of JSON a byte of probabilities becomes: a class has its index, its label and its number."""
_MOST_PARTS = 4096
_MOST_CLASSES = 1000
"""Of an answer that nobody said another number for."""
_STATES = pb.PredictRequest(outputs=[pb.STATES]).SerializeToString()
_WORDS = {1: "missing", 2: "unknown", 3: "outside"}
"""What a cell is to the training, by its state."""
_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif", "application/octet-stream")
_SERVICES = {
    name: f"/{service}/{name}"
    for service, names in {
        "inference.GRPCInferenceService": ("ModelConfig", "ModelMetadata", "RepositoryIndex"),
        "frostline.v1.Predictor": ("Schema",),
    }.items()
    for name in names
}

_LOOKED_UP = frozenset(_SERVICES[name] for name in ("ModelConfig", "ModelMetadata", "Schema"))
"""What whoever may predict may ask. The list of all models is for other roles."""


class PredictRequest(Strict):
    """Rows to predict, or the inputs of a network that has several.

    Rows are, of a table, an object for each, by column, with null for what is missing; texts; pictures as `{"b64": ...}`;
    or lists of numbers.
    """

    rows: Any = None
    inputs: dict[str, Any] | None = None
    top_k: int = Field(0, ge=0, lt=2**31, description="how many of the most probable classes to list; 0 for up to 1000")
    extra: str = Field(
        "refuse", pattern="^(refuse|ignore)$", description="what becomes of columns that the model does not take"
    )


@dataclass(frozen=True)
class _Asked:
    rows: Any
    top_k: int = 0
    extra: Any = "refuse"


class Predict:
    """The endpoints of raw rows.

    Args:
        methods: the guarded handlers of all methods but inference, by path.
        own: the handlers without their guards.
        calls: has inference requests answered.
        call_of: makes the call of a request.
    """

    def __init__(
        self, methods: Methods, own: Methods, calls: InferenceCalls, call_of: Callable[[Request], Call]
    ) -> None:
        self._methods = dict(methods)
        # What is looked up to read rows is a part of the one call that was admitted, or it would be counted twice.
        self._looking_up = self._methods | {path: handler for path, handler in own if path in _LOOKED_UP}
        self._calls = calls
        self._call_of = call_of

    def routes(self) -> list[Route]:
        """Each path with what answers it."""
        routes = []
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(f"{path}/predict", self.predict, methods=["POST"]),
                Route(f"{path}/schema", self.schema),
            ]
        return routes

    async def schema(self, request: Request) -> Response:
        """What a version takes and answers."""
        call = self._call_of(request)
        path = call.parameters
        question = pb.SchemaRequest(model=path["model"], version=path.get("version", ""))
        told = to_json(await _handled(self._methods, call, "Schema", question))
        told["example"] = parsed_or_none(told["example"])
        told["reading"] = parsed_or_none(told["reading"])
        return Response(json_bytes(told), media_type="application/json")

    async def predict(self, request: Request) -> Response:
        """Predict rows."""
        with self._calls.counting():
            return await self._predict(request)

    async def _predict(self, request: Request) -> Response:
        call = self._call_of(request)
        self._calls.admit(call, PREDICT)
        if query := call.scope["query_string"]:
            raise _bad(
                f"the query {query[:100].decode('latin-1')!r} has no meaning here; say it in the body or the path"
            )
        body = await call.body()
        model, version = call.parameters["model"], call.parameters.get("version", "")
        try:
            for start in range(1, _MOST_STARTS + 1):
                try:
                    answer = await self._answer(call, model, version, body)
                except (errors.ModelNotFound, errors.ModelNotReady, errors.ServerUnavailable):
                    # The version that was to answer may have been replaced since its schema was read.
                    if version.isdecimal() or start == _MOST_STARTS:
                        raise
                else:
                    return Response(answer, media_type="application/json")
        except errors.FrostlineError as error:
            raise _failure(error) from error
        raise AssertionError("the last start returns or raises")

    async def _answer(self, call: Call, model: str, version: str, body: bytes) -> bytes:
        """The body of an answer.

        Raises:
            FrostlineError: there is none.
        """
        known = Known()
        try:
            schema = await self._hold(call, asking.schema(model, version, known, None))
        except errors.FrostlineError as error:
            failure = _failure(error)
            # No request has come as far as to be counted.
            failure.code = ""
            raise failure from error
        asked = await self._asked(call, body, schema)
        if asked.top_k and not chooses_a_class(schema):
            raise _bad(f"{model} does not choose one of several classes for a row, so it has no top_k; leave that out")
        # Of the version whose schema it is: where versions share the traffic, another one might answer, to which these are other
        # rows, and what is refused is not sent twice.
        question = Question(
            model,
            schema.version,
            asked.rows,
            _outputs(schema),
            top_k=0,
            timeout_s=_TIMEOUT_S,
            until=time.monotonic() + _TIMEOUT_S,
            extra=asked.extra,
            paths=False,
        )
        states = _are_raw(asked.rows, schema) and schema.columns[0].kind != "image"
        told = await self._hold(call, asking.predict(question, known), states=states, size=len(body))
        size = told.ByteSize()
        if size > LONG_BYTES:
            call.hold(_ANSWER_FACTOR * size)
        return await elsewhere(max(size, len(body)), partial(_answer, told, schema, asked.top_k))

    async def _asked(self, call: Call, body: bytes, schema: Schema) -> "_Asked":
        """What a request asks.

        Raises:
            Failure: it is of a type, or has a form, that is not understood.
        """
        kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await _form(call, body)
        if kind in _PICTURES:
            return _Asked([body])
        if kind.startswith(_NO_JSON):
            raise Failure(
                415,
                f"Content-Type is {kind[:100]}; send JSON (application/json), a form (multipart/form-data), or a picture "
                "(image/png, image/jpeg, image/webp)",
                "unsupported",
            )
        if len(body) > LONG_BYTES:
            call.hold(memory_of(body))
        return await elsewhere(len(body), partial(_json, body, schema))

    async def _hold(self, call: Call, conversation: Conversation[T], *, states: bool = False, size: int = 0) -> T:
        """What a conversation comes to, whose calls are answered here.

        Raises:
            FrostlineError: it fails.
        """
        step: Callable[[], Any] = partial(next, conversation)
        sent = 0
        while True:
            # Not StopIteration, which no future takes.
            asked, found = await elsewhere(size, partial(_stepped, step))
            if asked is None:
                result: T = found
                return result
            try:
                if asked.method == "Predict":
                    sent += 1
                    if sent > 1:
                        # Many rows are many requests, also to the caller's limit.
                        self._calls.admit(call, PREDICT)
                    message = asked.request + _STATES if states else asked.request
                    answer: Any = pb.PredictResponse.FromString(await self._calls.answer(call, PREDICT, message))
                else:
                    answer = await _handled(self._looking_up, call, asked.method, asked.request)
            except Failure as failure:
                step = partial(conversation.throw, _refused(failure))
            else:
                step = partial(conversation.send, answer)


async def _handled(methods: Mapping[str, Any], call: Call, method: str, message: Message) -> Any:
    """The answer of a handler to a message.

    Raises:
        Failure: it has none.
    """
    answer = methods[_SERVICES[method]].unary_unary
    return await answer(message.SerializeToString(), Context(call))


def _stepped(step: Callable[[], Any]) -> tuple[Any, Any]:
    try:
        return step(), None
    except StopIteration as end:
        return None, end.value


def parsed_or_none(text: str) -> Any:
    """A JSON text of a schema; None where there is none."""
    return json.loads(text) if text else None


# Rows


def _json(body: bytes, schema: Schema) -> _Asked:
    """The rows of a body.

    Raises:
        Failure: it is no JSON, or has no rows.
    """
    asked = parsed(PredictRequest, body)
    if (asked.rows is None) == (asked.inputs is None):
        has = "has neither `rows` nor `inputs`" if asked.rows is None else "has both `rows` and `inputs`"
        raise _bad(f"the body {has}; give one of them; {schema.expects}")
    given = asked.rows if asked.inputs is None else asked.inputs
    if not isinstance(given, list | dict):
        raise _bad(f"rows is {_told(given)}; a list with a value for each row is expected; {schema.expects}")
    if pictures := [column.name for column in schema.columns if column.kind == "image"]:
        given = _pictures(given, pictures[0])
    elif not _are_raw(given, schema) and all(spec.datatype != "BYTES" for spec in schema.inputs):
        given = _numbers(given)
    return _Asked(given, asked.top_k, asked.extra)


def _are_raw(given: Any, schema: Schema) -> bool:
    """Whether these are raw rows, and not the network's own input."""
    return bool(schema.columns) and may_be(given) and are_of(given, schema)


def _numbers(value: Any) -> Any:
    """Lists of numbers, which may have the words for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    if isinstance(value, list) and not {str, list}.isdisjoint(map(type, value)):
        return [_numbers(each) for each in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _pictures(given: Any, column: str) -> Any:
    """The files of pictures: in a list, in one or more rows, or as a column."""
    if isinstance(given, dict) and "b64" not in given:
        cells = given.get(column)
        if isinstance(cells, list):
            return {**given, column: [_file(cell, f"row {row}, column {column!r}") for row, cell in enumerate(cells)]}
        return _picture(given, column, "the row")
    listed = given if isinstance(given, list) else [given]
    return [_picture(row, column, f"row {number}") for number, row in enumerate(listed)]


def _picture(row: Any, column: str, where: str) -> Any:
    if isinstance(row, dict) and "b64" not in row:
        return {
            name: _file(cell, f"{where}, column {name!r}") if name == column else cell for name, cell in row.items()
        }
    return row if isinstance(row, list) else _file(row, where)


def _file(cell: Any, where: str) -> bytes:
    text = cell.get("b64") if isinstance(cell, dict) and len(cell) == 1 else cell
    if isinstance(text, str):
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        try:
            # Programs break its lines.
            return base64.b64decode("".join(encoded.split()), validate=True)
        except (ValueError, binascii.Error) as error:
            if text is not cell:
                raise _bad(
                    f"{where}: b64 is no base64 ({error}); send the bytes of a PNG, JPEG or WebP file"
                ) from error
    raise _bad(
        f'{where} is {_told(cell)}; a picture is {{"b64": "..."}}, the bytes of a PNG, JPEG or WebP file in base64'
    )


async def _form(call: Call, body: bytes) -> _Asked:
    """The pictures of a form.

    Raises:
        Failure: it is no form, or has something else.
    """

    async def stream() -> Any:
        yield body

    headers = Headers({"content-type": call.headers.get("content-type", "")})
    try:
        parser = MultiPartParser(headers, stream(), max_files=_MOST_PARTS, max_fields=16, max_part_size=1 << 16)
        # They are in memory already, and not every server has a disk to write to.
        parser.spool_max_size = len(body) + 1
        form: FormData = await parser.parse()
    except (MultiPartException, MultipartParseError, KeyError, ValueError) as error:
        raise _bad(f"the body is no form of the type multipart/form-data: {error or type(error).__name__}") from error
    files, said = [], {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append(await value.read())
            elif name in ("top_k", "extra"):
                said[name] = value
            else:
                raise _bad(f"the form has the field {name[:100]!r}; it may have files, `top_k` and `extra`")
    finally:
        await form.close()
    if not files:
        raise _bad("the form has no files; give each picture as a file, as in `curl -F file=@picture.jpg`")
    top_k = said.get("top_k", "0")
    if (
        not (top_k.isascii() and top_k.isdecimal())
        or len(top_k) > 9
        or said.get("extra", "refuse") not in ("refuse", "ignore")
    ):
        raise _bad("top_k must be a whole number, and extra refuse or ignore")
    return _Asked(files, int(top_k), said.get("extra", "refuse"))


def chooses_a_class(schema: Schema) -> bool:
    """Whether a version chooses one of several classes for a row."""
    # A file that nobody published with a task has a softmax where it does.
    return schema.task == "single-label" or (
        not schema.task and "softmax" in {output.name for output in schema.outputs}
    )


def _outputs(schema: Schema) -> tuple[messages.OutputName, ...]:
    """The readings to ask for."""
    if chooses_a_class(schema):
        return ("softmax", "argmax")
    names = {output.name for output in schema.outputs}
    dense = schema.task == "dense" or (not schema.task and "argmax" in names)
    return ("argmax",) if dense else ("values",)


# Answers


def _answer(told: pb.PredictResponse, schema: Schema, top_k: int) -> bytes:
    """The body of an answer, row by row: all rows' objects together would take many times its memory."""
    prediction = messages.prediction(told, 0)
    task = prediction.task or schema.task or ("single-label" if told.HasField("softmax") else "any")
    rows = _rows(prediction, task, schema, top_k)
    if told.HasField("states"):
        states = np.frombuffer(told.states.data, np.uint8).reshape(tuple(told.states.shape))
        rows = _with_states(rows, states, [column.name for column in schema.columns])
    said: dict[str, Any] = {"model": told.model, "version": told.version, "task": task}
    if task == "dense":
        said["names"] = list(prediction.names or schema.labels)
    listed = b",".join(json_bytes(row, inf_nan_mode="strings") for row in rows)
    return json_bytes(said)[:-1] + b',"predictions":[' + listed + b"]}"


def _with_states(rows: Iterator[Json], states: np.ndarray[Any, Any], names: Sequence[str]) -> Iterator[Json]:
    for row, cells in zip(rows, states, strict=True):
        by_state = {
            word: [name for name, cell in zip(names, cells.tolist(), strict=True) if cell == state]
            for state, word in _WORDS.items()
        }
        yield row | by_state


def _rows(prediction: Prediction, task: str, schema: Schema, top_k: int) -> Iterator[Json]:
    """What each row is answered."""
    match task:
        case "single-label":
            yield from _classes(prediction, schema.labels, top_k)
        case "binary":
            probabilities = elements(prediction.probabilities.reshape(len(prediction)))
            labels = schema.labels
            for label, probability in zip(prediction.labels, probabilities, strict=True):
                at = labels.index(label) if label in labels else None
                yield {"label": label, "class": at, "probability": probability}
        case "multi-label":
            names = _named(prediction.names, prediction.probabilities.shape[1], "label")
            for held, row in zip(prediction.labels, prediction.probabilities, strict=True):
                # None where a probability is NaN: nothing is decided.
                told = None if held is None else list(held)
                yield {"labels": told, "probabilities": dict(zip(names, elements(row), strict=True))}
        case "regression":
            values = prediction.values.reshape(len(prediction), -1)
            names = _named(prediction.names, values.shape[1], "value")
            for row in values:
                yield {"values": dict(zip(names, elements(row), strict=True))}
        case "embedding":
            for row in prediction.vector:
                yield {"vector": nested(row)}
        case "dense":
            for row in prediction.map:
                yield {"map": nested(row)}
        case _:
            yield from _outputs_of_rows(prediction.outputs, schema)


def _outputs_of_rows(outputs: Mapping[str, np.ndarray[Any, Any]], schema: Schema) -> Iterator[Json]:
    counts = {len(array) if array.ndim else -1 for array in outputs.values()}
    if not schema.max_rows or len(counts) > 1 or -1 in counts:
        # Of the input as a whole.
        yield {"outputs": {name: nested(array) for name, array in outputs.items()}}
        return
    for number in range(max(counts, default=0)):
        yield {"outputs": {name: nested(np.asarray(array[number])) for name, array in outputs.items()}}


def _classes(prediction: Prediction, names: Sequence[str], top_k: int) -> Iterator[Json]:
    softmax = prediction.softmax
    decided = prediction.labels or [None] * len(softmax)
    for probabilities, label, first in zip(softmax, decided, prediction.argmax.tolist(), strict=True):
        order = np.argsort(-probabilities, kind="stable")[: top_k or _MOST_CLASSES]
        ranked = zip(order.tolist(), elements(probabilities[order]), strict=True)
        # A threshold may decide for another class than the most probable.
        chosen = names.index(label) if label in names and names[first] != label else first
        undecided = not np.isfinite(probabilities).all()
        yield {
            "label": label,
            "class": None if undecided else chosen,
            "probability": elements(probabilities[chosen : chosen + 1])[0],
            "probabilities": [
                {"class": at, "label": names[at] if at < len(names) else None, "probability": each}
                for at, each in ranked
            ],
        }


def _named(names: Sequence[str], count: int, kind: str) -> list[str]:
    """A name for each of so many, of which no two are alike."""
    if len(names) == count and len(set(names)) == count and all(names):
        return list(names)
    return [f"{kind}{at}" for at in range(count)]


# Failures


def _refused(failure: Failure) -> errors.FrostlineError:
    """A failed call as the client's conversations know it."""
    code = failure.code or "INVALID_ARGUMENT"
    return errors.from_status(code, failure.sentence, kind=failure.kind, address="this server", timeout_s=_TIMEOUT_S)


def _failure(error: errors.FrostlineError) -> Failure:
    """How a conversation that failed ends."""
    if not error.kind and error.code == "INVALID_ARGUMENT":
        # Refused before anything was sent.
        return _bad(str(error))
    return Failure.of_code(error.code, str(error), error.kind)


def _told(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return "no number of JSON's"
    return "null" if value is None else f"the text {value[:40]!r}" if isinstance(value, str) else str(value)


def _bad(sentence: str) -> Failure:
    return Failure(400, sentence, "invalid_input")
