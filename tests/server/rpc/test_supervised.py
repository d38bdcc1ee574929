"""Calls between the processes of one server: what one refuses, the other raises; what has ended is told from that."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from frostline.pb import inference_pb2 as pb
from frostline_server.errors import LoadFailed, ServerStopping
from frostline_server.rpc.oip_service import InferenceService
from frostline_server.rpc.private_port import METRICS, OPEN, PrivatePort
from frostline_server.rpc.supervised import ControlOfAll, Gone, call, path_of


class Models:
    """Refuses to load, and never comes to the end of an unloading."""

    def __init__(self) -> None:
        self.unloading = asyncio.Event()

    def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> Any:
        raise LoadFailed(f"{request.model_name} is damaged")

    async def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest) -> Any:
        self.unloading.set()
        await asyncio.Event().wait()

    def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        return pb.RepositoryIndexResponse(models=[{"name": "m"}])


@pytest.fixture
async def models() -> Models:
    return Models()


@pytest.fixture
async def socket() -> AsyncIterator[str]:
    """A path that is short: a socket's has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "a.sock")


@pytest.fixture
async def port(models: Models, socket: str) -> AsyncIterator[PrivatePort]:
    port = PrivatePort(socket, InferenceService((models,)), lambda: b"numbers")
    await port.start()
    yield port
    await port.stop()


@pytest.fixture
async def channel(port: PrivatePort, socket: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        yield channel


async def test_a_process_answers_with_its_metrics_and_opens_when_it_is_told(
    port: PrivatePort, channel: grpc.aio.Channel
) -> None:
    assert await call(channel, METRICS, b"") == b"numbers"
    assert not port.opened.is_set()
    await call(channel, OPEN, b"")
    assert port.opened.is_set()


async def test_what_a_process_refuses_is_raised_as_the_same_error(channel: grpc.aio.Channel) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="m").SerializeToString()
    with pytest.raises(LoadFailed, match=r"^m is damaged$"):
        await call(channel, path_of("RepositoryModelLoad"), request)


async def test_a_process_that_does_not_answer_in_time_is_gone(channel: grpc.aio.Channel) -> None:
    with pytest.raises(Gone, match="DEADLINE_EXCEEDED"):
        await call(channel, path_of("RepositoryModelUnload"), b"", 0.05)


async def test_a_process_whose_channel_is_closed_in_the_middle_of_a_call_is_gone(
    channel: grpc.aio.Channel, models: Models
) -> None:
    calling = asyncio.create_task(call(channel, path_of("RepositoryModelUnload"), b""))
    await models.unloading.wait()
    await channel.close(None)
    with pytest.raises(Gone):
        await calling


async def test_a_call_that_is_cancelled_is_cancelled(channel: grpc.aio.Channel, models: Models) -> None:
    calling = asyncio.create_task(call(channel, path_of("RepositoryModelUnload"), b""))
    await models.unloading.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_control_call_is_the_supervisors_to_answer(port: PrivatePort, socket: str) -> None:
    control = ControlOfAll(socket)
    index = await control.RepositoryIndex(pb.RepositoryIndexRequest())
    assert [entry.name for entry in index.models] == ["m"]
    with pytest.raises(LoadFailed, match=r"^m is damaged$"):
        await control.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"))


async def test_without_the_supervisor_a_control_call_can_be_tried_again(socket: str) -> None:
    with pytest.raises(ServerStopping, match="the supervisor does not answer: UNAVAILABLE"):
        await ControlOfAll(socket).RepositoryIndex(pb.RepositoryIndexRequest())


def test_methods_that_need_only_one_process_are_not_passed_on() -> None:
    assert not hasattr(ControlOfAll("unused"), "ModelMetadata")
