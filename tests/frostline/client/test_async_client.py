"""The asyncio client is the blocking client's twin."""

import asyncio
import inspect
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn

import grpc
import numpy as np
import pytest

import frostline
from frostline.pb import predictor_pb2 as typed
from tests.support.fake_server import LIMIT, MODEL, FakeServer, fake_server

ROWS = np.array([[0.0, 2.0, 1.0], [5.0, -1.0, 5.0]], np.float32)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


async def test_a_prediction_is_the_one_the_blocking_client_gets(server: FakeServer) -> None:
    async with frostline.connect_async(server.address) as client:
        prediction = await client.predict(MODEL, ROWS, outputs=["logits", "argmax"], top_k=1)
    with frostline.connect(server.address) as blocking:
        twin = blocking.predict(MODEL, ROWS, outputs=["logits", "argmax"], top_k=1)
    np.testing.assert_array_equal(prediction.logits, twin.logits)
    assert prediction.labels == twin.labels
    assert prediction.top() == twin.top()


async def test_many_requests_at_once_each_get_their_own_answer(server: FakeServer) -> None:
    rows = np.eye(3, dtype=np.float32)
    async with frostline.connect_async(server.address) as client:
        answers = await asyncio.gather(*(client.predict(MODEL, rows[[i % 3]]) for i in range(30)))
    assert [answer.argmax.item() for answer in answers] == [i % 3 for i in range(30)]


async def test_the_catalogue_is_the_same(server: FakeServer) -> None:
    async with frostline.connect_async(server.address) as client:
        models = await client.models()
        model = await client.model(MODEL)
        assert await client.ready()
        assert await client.ready(MODEL)
    with frostline.connect(server.address) as blocking:
        assert models == blocking.models()
        assert model == blocking.model(MODEL)


async def test_failures_are_the_same(server: FakeServer) -> None:
    async with frostline.connect_async(server.address) as client:
        with pytest.raises(frostline.ModelNotFound, match="the server has: broken version 1, echo version 2"):
            await client.predict("ecco", ROWS)
        server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape")]
        with pytest.raises(frostline.InvalidInput, match=r"unexpected shape; echo expects input FP32 \[any, 3\]"):
            await client.predict(MODEL, ROWS)


async def test_an_unavailable_server_is_tried_again_until_it_answers(server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")]
    async with frostline.connect_async(server.address) as client:
        assert (await client.predict(MODEL, ROWS)).argmax.tolist() == [1, 0]
    assert len(server.requests) == 2


async def test_the_trailer_tells_what_failed(server: FakeServer) -> None:
    server.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")]
    server.trailers = {"frostline-error": "overloaded"}
    async with frostline.connect_async(server.address) as client:
        with pytest.raises(frostline.Overloaded) as caught:
            await client.predict(MODEL, ROWS)
    assert (caught.value.code, caught.value.kind) == ("RESOURCE_EXHAUSTED", "overloaded")


async def test_a_late_answer_is_given_up(server: FakeServer) -> None:
    server.silent = True
    async with frostline.connect_async(server.address, timeout_s=0.1) as client:
        with pytest.raises(frostline.DeadlineExceeded):
            await client.predict(MODEL, ROWS)


async def test_cancelling_the_task_cancels_the_call_on_the_server(server: FakeServer) -> None:
    server.silent = True
    async with frostline.connect_async(server.address) as client:
        task = asyncio.ensure_future(client.predict(MODEL, ROWS))
        assert await asyncio.to_thread(server.asked.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(server.gone.wait, 10)


@pytest.mark.parametrize("rows", [1, LIMIT + 1])
async def test_closing_ends_calls_under_way_with_an_error_and_cancels_no_task(server: FakeServer, rows: int) -> None:
    server.strict = True
    client = frostline.connect_async(server.address)
    parts = np.zeros((rows, 3), np.float32)
    await client.predict(MODEL, parts)  # from here on it is known what goes in one request
    server.asked.clear()
    server.silent = True
    task = asyncio.ensure_future(client.predict(MODEL, parts))
    assert await asyncio.to_thread(server.asked.wait, 10)
    await client.close()
    with pytest.raises(frostline.FrostlineError, match=r"^this client of .* is closed; make another one$") as caught:
        await task
    assert caught.value.code == "CANCELLED"
    assert not task.cancelled()


async def test_a_task_that_is_cancelled_while_the_client_is_closed_is_cancelled(server: FakeServer) -> None:
    server.silent = True
    client = frostline.connect_async(server.address)
    task = asyncio.ensure_future(client.predict(MODEL, ROWS))
    assert await asyncio.to_thread(server.asked.wait, 10)
    task.cancel()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_closed_client_says_so(server: FakeServer) -> None:
    client = frostline.connect_async(server.address)
    await client.close()
    for call in (client.predict(MODEL, ROWS), client.predict(MODEL, ROWS.tolist()), client.ready()):
        with pytest.raises(frostline.FrostlineError, match="is closed; make another one") as caught:
            await call
        assert caught.value.code == "CANCELLED"
    await client.close()


async def test_names_that_are_no_text_are_refused(server: FakeServer) -> None:
    async with frostline.connect_async(server.address) as client:
        for call in (
            client.predict("\ud800", ROWS),
            client.predict(MODEL, ROWS, version="\ud800"),
            client.model("\ud800"),
        ):
            with pytest.raises(frostline.InvalidInput, match=r"^'\\ud800' has half of a surrogate pair"):
                await call


async def test_rows_are_converted_and_split_as_by_the_blocking_client(server: FakeServer) -> None:
    server.strict, server.datatype = True, "INT64"
    rows = np.eye(3)[np.arange(LIMIT + 1) % 3]
    async with frostline.connect_async(server.address) as client:
        for _ in range(2):
            assert (await client.predict(MODEL, rows)).argmax.tolist() == [i % 3 for i in range(LIMIT + 1)]
    sent = [(typed.DataType.Name(r.inputs[0].dtype), r.inputs[0].shape[0]) for r in server.requests]
    assert sent == [("FP32", LIMIT + 1), *[("INT64", LIMIT), ("INT64", 1)] * 2]
    assert len(server.asked_metadata) == 1


async def test_rows_that_cannot_be_converted_are_refused_with_the_place(server: FakeServer) -> None:
    server.strict, server.datatype = True, "INT64"
    async with frostline.connect_async(server.address) as client:
        with pytest.raises(frostline.InvalidInput, match=r"the input holds 1.5 at \[0, 1\], but the model takes INT64"):
            await client.predict(MODEL, [[1, 1.5, 2]])


def test_a_client_in_another_event_loop_says_so(server: FakeServer) -> None:
    async def connect() -> frostline.AsyncClient:
        client = frostline.connect_async(server.address)
        await client.predict(MODEL, ROWS)
        return client

    with asyncio.Runner() as first:
        client = first.run(connect())
        for call in (client.predict(MODEL, ROWS), client.models(), client.ready(), client.close()):
            with pytest.raises(
                RuntimeError, match=r"this client of .* was made in another event loop; make one in each"
            ):
                asyncio.run(call)
        first.run(client.close())


def test_outside_of_an_event_loop_the_client_says_where_to_make_it() -> None:
    asyncio.run(asyncio.sleep(0))  # after which asyncio makes no loop by itself
    with pytest.raises(RuntimeError, match=r"no event loop here; call connect_async inside of a coroutine: async with"):
        frostline.connect_async("localhost:9")


def test_a_forked_child_can_use_no_asyncio_client_and_a_blocking_one_of_its_own(server: FakeServer) -> None:
    async def talk() -> str:
        async with frostline.connect_async(server.address) as client:
            await client.predict(MODEL, ROWS)
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                # Where it hangs, as without the refusals it may, the test fails and does not.
                signal.alarm(30)
                _use_in_child(client, server.address, writing)
            os.close(writing)
            with os.fdopen(reading) as answers:
                told = await asyncio.to_thread(answers.read)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert (await client.predict(MODEL, ROWS)).argmax.tolist() == [1, 0]
            return told

    inherited, models, made, blocking = asyncio.run(talk()).splitlines()
    assert "was made in another process, from which this one was forked" in inherited
    assert models == inherited
    assert "gRPC cannot use asyncio here; start it with the method 'spawn'" in made
    assert blocking == "[1, 0]"


def _use_in_child(client: frostline.AsyncClient, address: str, writing: int) -> NoReturn:
    """Tries what a child may and may not do, step by step without the parent's event loop, and ends the child."""
    for use in (lambda: client.predict(MODEL, ROWS).send(None), lambda: client.models().send(None), lambda: frostline.connect_async(address)):  # fmt: skip
        try:
            use()
        except RuntimeError as error:
            os.write(writing, f"{error}\n".encode())
    with suppress(StopIteration):
        client.close().send(None)
    with frostline.connect(address, timeout_s=10) as own:
        os.write(writing, f"{own.predict(MODEL, ROWS).argmax.tolist()}\n".encode())
    os._exit(0)


@pytest.mark.parametrize("method", ["predict", "models", "model", "ready"])
def test_the_twins_take_the_same_arguments_and_return_the_same(method: str) -> None:
    assert inspect.signature(getattr(frostline.Client, method)) == inspect.signature(
        getattr(frostline.AsyncClient, method)
    )
