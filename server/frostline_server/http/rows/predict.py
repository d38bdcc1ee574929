"""Predictions of rows as people hold them, in JSON: what Frostline's Python client does, for whoever has no client.

It holds the client's own conversation with the server, inside of the server. So rows mean the same here as there, and are
refused in the same words, but for what is Python in them.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import Message
from pydantic_core import to_json as json_bytes
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frostline.client import asking, errors, messages
from frostline.client.asking import Known, Question
from frostline.client.calls import Conversation
from frostline.client.schema import Schema
from frostline.pb import predictor_pb2 as pb
from frostline.protocol import PREDICT
from frostline_server.http.call import Call, Context
from frostline_server.http.h1.shared import NeverRoom
from frostline_server.http.inference_calls import InferenceCalls
from frostline_server.http.messages import to_json
from frostline_server.http.rows.answers import answer_of, chooses_a_class
from frostline_server.http.rows.body import are_raw, asked_of, most_bytes
from frostline_server.http.rows.json_terms import in_json
from frostline_server.http.statuses import Failure, invalid
from frostline_server.rpc.methods import Methods

T = TypeVar("T")

_TIMEOUT_S = 300.0
_MOST_STARTS = 3
"""How often rows are read and sent, because the version that was to answer has gone."""
_ANSWER_FACTOR = 20
"""About how many bytes of JSON a byte of probabilities becomes: a class has its index, its label and its number."""
_REMEDIES = {"model_not_ready": "; POST /v2/repository/index tells its state and the reason"}
"""What to do about a failure, by its kind, where the server's sentence leaves it to the client to say so."""
_STATES = pb.PredictRequest(outputs=[pb.STATES]).SerializeToString()
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
        call = self._call_of(request)
        with self._calls.counting(call):
            return await self._predict(call)

    async def _predict(self, call: Call) -> Response:
        self._calls.admit(call, PREDICT)
        if query := call.scope["query_string"]:
            raise invalid(
                f"the query {query[:100].decode('latin-1')!r} has no meaning here; say it in the body or the path"
            )
        body = await call.body(most_bytes(call))
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
        asked = await asked_of(call, body, schema)
        if asked.top_k and not chooses_a_class(schema):
            raise invalid(
                f"{model} does not choose one of several classes for a row, so it has no top_k; leave that out"
            )
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
        states = are_raw(asked.rows, schema) and schema.columns[0].kind != "image"
        told, sent = await self._hold(call, asking.predict_rows(question, known), states=states, size=len(body))
        write = partial(answer_of, told, sent, schema, asked.top_k)
        return await call.written(told.ByteSize(), _ANSWER_FACTOR, write, asked=len(body))

    async def _hold(self, call: Call, conversation: Conversation[T], *, states: bool = False, size: int = 0) -> T:
        """What a conversation comes to, whose calls are answered here.

        Raises:
            FrostlineError: it fails.
        """
        step: Callable[[], Any] = partial(next, conversation)
        sent = 0
        while True:
            # Not StopIteration, which no future takes.
            asked, found = await call.elsewhere(size, partial(_stepped, step))
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
                    told = await self._calls.answer(call, PREDICT, message, _ANSWER_FACTOR)
                    answer: Any = pb.PredictResponse.FromString(bytes(told))
                else:
                    answer = await _handled(self._looking_up, call, asked.method, asked.request)
            except NeverRoom:
                # Not for the conversation: all of the answer is written together, in however many requests it was asked for.
                raise
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


def _outputs(schema: Schema) -> tuple[messages.OutputName, ...]:
    """The readings to ask for."""
    if chooses_a_class(schema):
        return ("softmax", "argmax")
    names = {output.name for output in schema.outputs}
    dense = schema.task == "dense" or (not schema.task and "argmax" in names)
    return ("argmax",) if dense else ("values",)


def _refused(failure: Failure) -> errors.FrostlineError:
    """A failed call as the client's conversations know it, in the server's own words: the client's are for its users."""
    code = failure.code or "INVALID_ARGUMENT"
    meant = errors.from_status(code, failure.sentence, kind=failure.kind, address="", timeout_s=_TIMEOUT_S)
    return type(meant)(failure.sentence + _REMEDIES.get(failure.kind, ""), code, failure.kind)


def _failure(error: errors.FrostlineError) -> Failure:
    """How a conversation that failed ends."""
    if not error.kind and error.code == "INVALID_ARGUMENT":
        # Refused before anything was sent.
        return invalid(in_json(str(error)))
    return Failure.of_code(error.code, in_json(str(error)), error.kind)
