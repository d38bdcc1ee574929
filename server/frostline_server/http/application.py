"""The HTTP application: it checks where a request comes from, has it answered, and makes every failure a JSON object."""

import asyncio
from collections.abc import Sequence

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router

from frostline_server.http.call import Call, ClientGone, Receive, Scope
from frostline_server.http.security import Origins
from frostline_server.http.sending import Send, Sending
from frostline_server.http.statuses import Failure

_CALL = "frostline.call"

_log = structlog.get_logger(__name__)


def call_of(request: Request) -> Call:
    """The call of a request."""
    call: Call = request.scope[_CALL]
    return call


class Application:
    """An ASGI application.

    Args:
        routes: what is answered.
        origins: which pages' requests are.
        most_bytes: the longest body, unpacked.
    """

    def __init__(self, routes: Sequence[BaseRoute], origins: Origins, most_bytes: int) -> None:
        self._router = Router(routes, redirect_slashes=False, default=_nothing_there)
        self._origins = origins
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        call = scope[_CALL] = Call(scope, receive, self._most_bytes)
        # Starlette raises its errors only inside of an application.
        scope["app"] = self
        sending = Sending(call, send, self._origins.cors(call.headers))
        try:
            failure = await self._answered(call, scope, receive, sending)
        except ClientGone:
            return
        finally:
            # The call leads back to its scope; see `Connection._forget`.
            del scope[_CALL]
        if failure is not None:
            response = Response(failure.body, failure.status)
            response.raw_headers = [(b"content-length", str(len(failure.body)).encode()), *failure.headers]
            await response(scope, receive, sending.send)

    async def _answered(self, call: Call, scope: Scope, receive: Receive, sending: "Sending") -> Failure | None:
        """Answer a request, or say why that failed."""
        try:
            self._check_origin(call, scope["method"])
            if scope["method"] == "OPTIONS":
                allowed = self._origins.cors(call.headers, preflight=True)
                await Response(status_code=204)(scope, receive, Sending(call, sending.plain, allowed).send)
            elif b"%" in scope["raw_path"] and b"%2f" in scope["raw_path"].lower():
                # The router would take a slash within a name for one between two; none may be within a name.
                await _nothing_there(scope, receive, sending.send)
            else:
                await self._router(scope, receive, sending.send)
        except Failure as failure:
            # Where it comes from is not held while it is told: large bodies and answers may be there.
            failure.__context__ = failure.__cause__ = None
            return failure.with_traceback(None)
        except HTTPException as error:  # Starlette's own: another method
            sentence = f"{scope['method']} is no method of {scope['path'][:200]}"
            methods = (error.headers or {}).get("Allow", "")
            return Failure(error.status_code, sentence, "unsupported", allowed=methods)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as defect:
            _log.exception("an HTTP request failed unexpectedly", path=scope["path"][:200])
            if sending.started:
                raise
            return Failure(500, f"unexpected {type(defect).__name__}: {defect}", "unknown")
        return None

    def _check_origin(self, call: Call, method: str) -> None:
        """Refuse what a page of another site has caused, and count it."""
        try:
            self._origins.check(method, call.headers)
        except Failure as failure:
            call.exchange.count(failure.kind)
            raise


async def _nothing_there(scope: Scope, _: Receive, __: Send) -> None:
    path = scope["raw_path"][:200].decode("latin-1")
    raise Failure(404, f"there is nothing at {path}; /openapi.json lists what there is", "not_found")
