"""Nobody who watches misses a change, and nobody who watches holds up another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from frostline_server.rpc.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
async def health() -> Health:
    built = Health()
    built.update({"": False})
    return built


@pytest.fixture
async def stub(health: Health) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)
    await server.stop(0)


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_a_service_is_not_serving_until_it_is_said_to_be(health: Health, stub: Any) -> None:
    assert (await stub.Check(asked(""))).status == NOT_SERVING
    health.update({"": True, "m": False})
    assert (await stub.Check(asked(""))).status == SERVING
    assert (await stub.Check(asked("m"))).status == NOT_SERVING


async def test_a_service_nobody_knows_is_not_found(health: Health, stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(asked("nobody"))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such service: 'nobody'")


async def test_until_the_services_are_known_none_is_unknown(stub: Any, health: Health) -> None:
    health.update({"": False}, complete=False)
    watch, other = stub.Watch(asked("m")), stub.Watch(asked("nobody"))
    assert (await stub.Check(asked("m"))).status == NOT_SERVING
    assert (await watch.read()).status == (await other.read()).status == NOT_SERVING
    health.update({"": False, "m": False})
    health.update({"": True, "m": True})
    assert (await watch.read()).status == SERVING
    assert (await other.read()).status == UNKNOWN
    watch.cancel()
    other.cancel()


async def test_every_change_reaches_a_watcher_in_order_and_nothing_else_does(health: Health, stub: Any) -> None:
    watch = stub.Watch(asked("m"))
    assert (await watch.read()).status == UNKNOWN
    # All at once: not one is left out.
    for known in ({"m": False}, {"m": True}, {"m": True, "other": True}, {"m": False}, {}, {"m": True}):
        health.update(known)
    seen = [(await watch.read()).status for _ in range(5)]
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING, UNKNOWN, SERVING]
    watch.cancel()


async def test_one_watcher_that_leaves_takes_nothing_from_another(health: Health, stub: Any) -> None:
    first, second = stub.Watch(asked("")), stub.Watch(asked(""))
    assert (await first.read()).status == (await second.read()).status == NOT_SERVING
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first.read()
    health.update({"": True})
    assert (await second.read()).status == SERVING
    second.cancel()


async def test_a_watcher_that_does_not_read_keeps_the_latest_changes_only(health: Health) -> None:
    watch = health.Watch(asked("m"), None)  # type: ignore[arg-type]  # no context is looked at
    assert (await anext(watch)).status == UNKNOWN
    for turn in range(3000):
        health.update({"m": bool(turn % 2)})
    seen = [(await anext(watch)).status for _ in range(1024)]
    assert seen[-1] == SERVING
    await watch.aclose()  # type: ignore[attr-defined]  # it is a generator
