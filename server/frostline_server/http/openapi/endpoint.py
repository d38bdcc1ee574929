"""Answers `GET /openapi.json`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from frostline.client import schema as schemas
from frostline.client.schema import Schema
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline_server.http.call import Call, Context
from frostline_server.http.statuses import Failure
from frostline_server.rpc.methods import Methods

PATH = "/openapi.json"
_MOST_MODELS = 50
"""Models whose rows are told where none was named."""
_INDEX = "/inference.GRPCInferenceService/RepositoryIndex"
_METADATA = "/inference.GRPCInferenceService/ServerMetadata"
_SCHEMA = "/frostline.v1.Predictor/Schema"


class OpenApi:
    """The endpoint of the document.

    Args:
        methods: the guarded handlers of all methods but inference, by path.
        own: the handlers without their guards.
        call_of: makes the call of a request.
        routes: all others.
    """

    def __init__(
        self, methods: Methods, own: Methods, call_of: Callable[[Request], Call], routes: Sequence[BaseRoute]
    ) -> None:
        self._methods, self._own = dict(methods), dict(own)
        self._call_of = call_of
        self._routes = {
            (method, route.path)
            for route in [*routes, *self.routes()]
            if isinstance(route, Route)
            for method in route.methods or ()
        }

    def routes(self) -> list[Route]:
        """The path with what answers it."""
        return [Route(PATH, self.openapi)]

    async def openapi(self, request: Request) -> Response:
        """The document, with the rows of the models that were named, or of all that are ready."""
        call = self._call_of(request)
        named = request.query_params.getlist("model")
        if len(named) > _MOST_MODELS:
            raise Failure(400, f"{len(named)} models are named; name at most {_MOST_MODELS}", "invalid_input")
        models = [await self._schema(self._methods, call, name) for name in named] or await self._all(call)
        server = await _asked(self._own, _METADATA, call, pb.ServerMetadataRequest())
        told = await asyncio.get_running_loop().run_in_executor(None, self._document, server.version, models)
        return Response(told, media_type="application/json")

    def _document(self, version: str, models: Sequence[Schema]) -> bytes:
        # Few servers are ever asked for it, and it takes many schemas to be made.
        from frostline_server.http.openapi.document import document  # noqa: PLC0415

        return to_json(document(version, self._routes, models))

    async def _all(self, call: Call) -> list[Schema]:
        """What all ready models take; nothing where they are many, or the caller may not list them."""
        try:
            index = await _asked(self._methods, _INDEX, call, pb.RepositoryIndexRequest(ready=True))
        except Failure:
            return []
        names = sorted({model.name for model in index.models})
        if len(names) > _MOST_MODELS:
            return []
        found = []
        for name in names:
            try:
                found.append(await self._schema(self._own, call, name))
            except Failure:  # unloaded meanwhile
                continue
        return found

    async def _schema(self, methods: dict[str, Any], call: Call, name: str) -> Schema:
        return schemas.described(await _asked(methods, _SCHEMA, call, typed.SchemaRequest(model=name)))


async def _asked(methods: dict[str, Any], path: str, call: Call, message: Any) -> Any:
    return await methods[path].unary_unary(message.SerializeToString(), Context(call))
