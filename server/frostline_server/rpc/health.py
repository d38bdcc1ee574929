"""The gRPC health service (grpc.health.v1): the state of the server, of each model and of each version.

Every watcher gets every change, and a slow watcher does not delay others.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_MAX_WAITING = 1024
"""Changes kept for a watcher that does not read; the oldest are dropped first."""

_STATUSES: dict[bool | None, int] = {
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
    None: health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
}


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the library has no annotations
    """Answers Check and Watch. Unlike in the library's service, no watcher misses a change or delays another.

    Use it on the event loop only.
    """

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {"": False}
        self._complete = False
        self._watchers: dict[str, set[asyncio.Queue[int]]] = {}

    def update(self, serving: Mapping[str, bool], *, complete: bool = True) -> None:
        """Replace the state of every service.

        Args:
            serving: whether each service serves.
            complete: whether other names are unknown; otherwise they may become known, and are not serving yet.
        """
        before = {name: self._status(name) for name in {*self._serving, *serving, *self._watchers}}
        self._serving, self._complete = dict(serving), complete
        for name, status in before.items():
            if status == self._status(name):
                continue
            for queue in self._watchers.get(name, ()):
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(self._status(name))

    def _status(self, name: str) -> int:
        return _STATUSES[self._serving.get(name, None if self._complete else False)]

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The state of a service now."""
        if self._status(request.service) == _STATUSES[None]:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no such service: '{request.service[:200]}'")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state of a service now, and again whenever it changes."""
        queue: asyncio.Queue[int] = asyncio.Queue(_MAX_WAITING)
        queue.put_nowait(self._status(request.service))
        watchers = self._watchers.setdefault(request.service, set())
        watchers.add(queue)
        try:
            while True:
                yield health_pb2.HealthCheckResponse(status=await queue.get())
        finally:
            watchers.discard(queue)
            if not watchers:
                self._watchers.pop(request.service, None)
