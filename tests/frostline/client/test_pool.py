"""A pool of servers: our client's service config, with servers that say by hand how loaded and how healthy they are."""

import json
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2_grpc

import frostline
from frostline.client.channel import SERVICE_CONFIG
from frostline.pb import predictor_pb2 as typed
from frostline.pb import predictor_pb2_grpc
from frostline_server.rpc.health import Health
from tests.support.servers import TIMEOUT_S

ROW = np.zeros((1, 3), np.float32)


def load_report(utilization: float, calls_per_s: float) -> bytes:
    """A serialised `xds.data.orca.v3.OrcaLoadReport`: rps_fractional is field 6, application_utilization field 9."""
    doubles = {6: calls_per_s, 9: utilization}
    return b"".join([bytes([number << 3 | 1]) + struct.pack("<d", value) for number, value in doubles.items()])


class Backend(predictor_pb2_grpc.PredictorServicer):
    """A server that answers at once, and reports its load in the trailer that gRPC's load balancing reads."""

    def __init__(self, version: str, utilization: float) -> None:
        self.version = version
        self.address = ""
        self.health = Health()
        self.health.update({"": True})
        self._report = load_report(utilization, 100.0)

    async def Predict(self, request: typed.PredictRequest, context: Any) -> typed.PredictResponse:
        context.set_trailing_metadata((("endpoint-load-metrics-bin", self._report),))
        return typed.PredictResponse(model=request.model, version=self.version)


@asynccontextmanager
async def backends(*utilizations: float) -> AsyncIterator[list[Backend]]:
    """Started servers, versions `0` and up."""
    async with AsyncExitStack() as stack:
        started = []
        for number, utilization in enumerate(utilizations):
            backend, server = Backend(str(number), utilization), grpc.aio.server()
            predictor_pb2_grpc.add_PredictorServicer_to_server(backend, server)
            health_pb2_grpc.add_HealthServicer_to_server(backend.health, server)
            backend.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, None)
            started.append(backend)
        yield started


async def calls_until(
    client: frostline.AsyncClient, enough: Callable[[list[int]], bool], *, backends: int, calls: int = 100
) -> list[int]:
    """Calls, some at a time, until their shares are as wanted; how many of the last ones each server answered."""
    give_up_s = time.monotonic() + TIMEOUT_S
    while True:
        answered = [0] * backends
        for _ in range(calls):
            answered[int((await client.predict("m", ROW)).version)] += 1
        if enough(answered) or time.monotonic() > give_up_s:
            return answered


async def test_the_less_a_server_is_loaded_the_more_calls_it_gets() -> None:
    async with backends(0.9, 0.1) as (busy, idle), frostline.connect_async([busy.address, idle.address]) as client:
        # Of weights 1 / 0.9 and 1 / 0.1 the idle one has nine tenths; before the reports count, each has a half.
        answered = await calls_until(client, lambda answered: answered[1] > 4 * answered[0], backends=2)
    assert answered[1] > 4 * answered[0] > 0


async def test_a_server_that_says_it_is_not_ready_gets_no_calls_until_it_is() -> None:
    async with backends(0.5, 0.5) as pool, frostline.connect_async([each.address for each in pool]) as client:
        assert all(await calls_until(client, all, backends=2))
        pool[0].health.update({"": False})
        assert await calls_until(client, lambda answered: answered[0] == 0, backends=2) == [0, 100]
        pool[1].health.update({"": False})
        with pytest.raises(frostline.ServerUnavailable, match=r"no server at 127.* is ready; ask one of them"):
            await calls_until(client, lambda _: False, backends=2)
        pool[0].health.update({"": True})
        assert await calls_until(client, lambda answered: answered[0] == 100, backends=2) == [100, 0]


async def test_one_server_is_asked_whatever_it_says_of_its_health() -> None:
    async with backends(0.5) as (only,), frostline.connect_async(only.address) as client:
        only.health.update({"": False})
        assert (await client.predict("m", ROW)).version == "0"


def test_the_service_config_of_the_documentation_is_the_clients_own() -> None:
    text = (Path(__file__).parents[3] / "docs/clients.md").read_text(encoding="utf-8")
    shown = text.partition("## Several servers")[2].partition("```json\n")[2].partition("```")[0]
    assert json.loads(shown) == SERVICE_CONFIG
