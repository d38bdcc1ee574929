"""The table of RPC methods: what grpc's own registration functions fill in, by path.

Both front ends take their handlers from it, so a method is registered once and means the same on both.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import grpc

from frostline_server.codec.codec import parse


class Methods:
    """Handlers by path, such as /package.Service/Method.

    It has the two functions of a grpc.aio server that generated code and `enable_server_reflection` call.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_registered_method_handlers(
        self, service: str, handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Add a service's methods, by their names. What they parse is counted before."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = _counted(handler)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Do nothing: generated code adds each method by its name too."""

    def __iter__(self) -> "Iterator[tuple[str, grpc.RpcMethodHandler[Any, Any]]]":
        """Each path and its handler."""
        return iter(self._handlers.items())

    def register(self, server: grpc.aio.Server) -> None:
        """Have a grpc.aio server answer all of them."""
        for path, handler in self._handlers.items():
            _, service, name = path.split("/")
            server.add_registered_method_handlers(service, {name: handler})  # type: ignore[attr-defined]  # the stubs predate it


def _counted(handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
    """A handler of generated code, whose deserialiser is a method of the request's type, with `parse` in its place."""
    message = getattr(handler.request_deserializer, "__self__", None)
    if message is None:
        return handler
    counted: Any = handler
    return counted._replace(request_deserializer=partial(parse, message))  # type: ignore[no-any-return]
