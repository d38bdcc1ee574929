"""The audit log: one line for every call that changes what the server does.

A line says who called, from where, what, and with which result. It is written before the caller gets to know the result.
What strangers are refused fills no disk: of one host, only so many refused calls have a line of their own.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from frostline_server import logs
from frostline_server.access.identity import Identity
from frostline_server.access.rate_limit import RateLimit
from frostline_server.codec.codec import parse
from frostline_server.errors import InvalidInput, RateLimited
from frostline_server.rpc.call_report import host_of

_MAX_LOGGED = 200
"""Characters of a name of the caller's choosing that are kept."""
_LINES = 10
_MOST_HOSTS = 1000
_NOBODY = Identity("unknown", frozenset(), "unknown")
"""Whose credentials are not known."""


class Audited:
    """The context of a call that is to have a line.

    Attributes:
        identity: who calls, once that is known.
        calls: for how many calls the line stands.

    Args:
        context: the call's own context.
        method: the method's name.
        about: what the call is about; see `subject`.
    """

    def __init__(self, context: Any, method: str, about: Mapping[str, Any]) -> None:
        self._context = context
        self._method = method
        self._about = about
        self._written = False
        self.identity = _NOBODY
        self.calls = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, *rest: Any) -> Any:
        """End the call."""
        self._write(code.name)
        return await self._context.abort(code, *rest)

    async def until_answered(self, ended: Awaitable[Any]) -> Any:
        """Wait for the answer."""
        try:
            response = await ended
        except asyncio.CancelledError:
            self._write("CANCELLED")
            raise
        except Exception:
            self._write("UNKNOWN")
            raise
        self._write("OK")
        return response

    def _write(self, status: str) -> None:
        if not self._written:
            self._written = True
            who = {"identity": self.identity.name, "credential": self.identity.credential, "peer": self._context.peer()}
            logs.audit(**who, method=self._method, **self._about, status=status, calls=self.calls)


class Refusals:
    """Which refused calls of a method have a line: of each host `_LINES` at once, and then one a second.

    The lines that there are say for how many calls they stand.
    """

    def __init__(self) -> None:
        # The hosts by when they last called, with their limits and how many of their calls have no line yet.
        self._hosts: OrderedDict[str, tuple[RateLimit, int]] = OrderedDict()

    def stands_for(self, peer: str, now_s: float) -> int:
        """For how many refused calls the line about this one stands; 0 if there is to be none.

        Args:
            peer: the caller's address.
            now_s: the time in seconds, on a monotonic clock.
        """
        host = host_of(peer)
        limit, calls = self._hosts.pop(host, (RateLimit(1.0, _LINES), 0))
        calls += 1
        try:
            limit.admit(now_s)
        except RateLimited:
            self._hosts[host] = limit, calls
            return 0
        self._hosts[host] = limit, 0
        if len(self._hosts) > _MOST_HOSTS:
            self._hosts.popitem(last=False)
        return calls


def parsed(message: type[Message], request: Any) -> Any:
    """The request as a message; None if it is damaged, which its handler will say."""
    if isinstance(request, Message):
        return request
    try:
        return parse(message, request)
    except InvalidInput:
        return None


def subject(request: Any) -> Mapping[str, Any]:
    """What a request is about: a model, a region of shared memory, the settings that it changes."""
    fields = request.DESCRIPTOR.fields_by_name if request is not None else {}
    about: dict[str, Any] = {}
    if "model_name" in fields and request.model_name:
        about["model"] = request.model_name[:_MAX_LOGGED]
    if "name" in fields:
        about["region"] = request.name[:_MAX_LOGGED]
    if "settings" in fields:
        about["settings"] = sorted(request.settings)[:16]
    return about
