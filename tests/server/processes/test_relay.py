"""Control calls to several processes: done by all in one order, and by those that come later."""

import asyncio
from collections.abc import Callable

import pytest

from frostline.pb import inference_pb2 as pb
from frostline_server.errors import LoadFailed, ModelNotFound, PredictionError
from frostline_server.processes import relay as relay_module
from frostline_server.processes.relay import Member, Relay
from frostline_server.rpc.supervised import Gone

LOAD = pb.RepositoryModelLoadRequest(model_name="m").SerializeToString()
UNLOAD = pb.RepositoryModelUnloadRequest(model_name="m").SerializeToString()


class Process:
    """A process that keeps what it was called for, and answers as it is told."""

    def __init__(self, answer: Callable[[], bytes] = lambda: b"") -> None:
        self.called: list[str] = []
        self.answer = answer

    async def __call__(self, method: str, request: bytes) -> bytes:
        self.called.append(method.rpartition("/")[2])
        return self.answer()


def raises(error: Exception) -> Callable[[], bytes]:
    def answer() -> bytes:
        raise error

    return answer


async def stopped(method: str, request: bytes) -> bytes:
    """A process that is there and does not answer."""
    await asyncio.Event().wait()
    raise AssertionError("it never answers")


async def relay_to(*members: Member) -> Relay:
    relay = Relay()
    for number, member in enumerate(members):
        await relay.admit(number, member)
    return relay


async def test_every_process_is_told() -> None:
    processes = Process(), Process()
    await (await relay_to(*processes)).order("RepositoryModelLoad", LOAD)
    assert [process.called for process in processes] == [["RepositoryModelLoad"]] * 2


async def test_a_refusal_by_all_is_passed_on_as_it_is_and_forgotten() -> None:
    relay = await relay_to(*(Process(raises(LoadFailed("no such file"))) for _ in range(2)))
    with pytest.raises(LoadFailed, match=r"^no such file$"):
        await relay.order("RepositoryModelLoad", LOAD)
    later = Process()
    await relay.admit(2, later)
    assert later.called == []


async def test_a_refusal_by_some_says_by_how_many() -> None:
    relay = await relay_to(Process(), Process(raises(LoadFailed("no memory"))), Process())
    with pytest.raises(LoadFailed, match=r"^in 1 of 3 processes: no memory$"):
        await relay.order("RepositoryModelLoad", LOAD)
    later = Process()
    await relay.admit(3, later)
    assert later.called == ["RepositoryModelLoad"]


async def test_a_process_that_ended_meanwhile_is_not_missed() -> None:
    relay = await relay_to(Process(raises(Gone("killed"))), Process(lambda: b"answer"))
    assert await relay.order("RepositoryModelLoad", LOAD) == b"answer"


@pytest.mark.parametrize("method", ["ModelStatistics", "RepositoryIndex"])
@pytest.mark.parametrize("other", [lambda: b"", raises(ModelNotFound("no such model")), raises(Gone("killed"))])
async def test_no_answer_is_made_without_a_process_that_does_not_answer(
    method: str, other: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "_ANSWER_S", 0.01)
    relay = await relay_to(Process(other), stopped)
    with pytest.raises(PredictionError, match=r"^process 1 has not ended and does not answer within 0.01 s") as caught:
        await relay.ask(method, b"")
    assert (caught.value.code, caught.value.kind) == ("UNAVAILABLE", "process_silent")


async def test_a_question_is_answered_without_a_process_that_has_ended() -> None:
    stats = pb.ModelStatistics(name="m", version="1", inference_count=27)
    answer = pb.ModelStatisticsResponse(model_stats=[stats]).SerializeToString()
    relay = await relay_to(Process(raises(Gone("killed"))), Process(lambda: answer))
    assert await relay.ask("ModelStatistics", b"") == answer


async def test_without_any_process_nothing_is_done() -> None:
    with pytest.raises(Gone):
        await Relay().order("RepositoryModelLoad", LOAD)


async def test_a_process_that_comes_later_is_told_what_holds_also_if_it_refuses_a_part() -> None:
    relay = await relay_to(Process())
    await relay.order("RepositoryModelLoad", LOAD)
    await relay.order("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="r").SerializeToString())
    later = Process(raises(PredictionError("not here")))
    await relay.admit(1, later)
    assert later.called == ["RepositoryModelLoad", "SystemSharedMemoryRegister"]
    later.answer = lambda: b""
    await relay.order("RepositoryModelUnload", UNLOAD)
    assert later.called[-1] == "RepositoryModelUnload"


async def test_calls_of_one_topic_come_one_after_the_other() -> None:
    going: list[str] = []
    free = asyncio.Event()

    async def slow(method: str, request: bytes) -> bytes:
        going.append(method.rpartition("/")[2])
        await free.wait()
        return b""

    relay = await relay_to(slow)
    load = asyncio.create_task(relay.order("RepositoryModelLoad", LOAD))
    unload = asyncio.create_task(relay.order("RepositoryModelUnload", UNLOAD))
    # Another topic does not wait for a load, which may take minutes.
    log = asyncio.create_task(relay.order("LogSettings", b""))
    while len(going) < 2:
        await asyncio.sleep(0)
    assert sorted(going) == ["LogSettings", "RepositoryModelLoad"]
    free.set()
    await asyncio.gather(load, unload, log)
    assert going[-1] == "RepositoryModelUnload"


async def test_a_process_that_has_ended_is_asked_no_more() -> None:
    processes = Process(), Process()
    relay = await relay_to(*processes)
    relay.dismiss(0)
    await relay.order("RepositoryModelLoad", LOAD)
    assert [process.called for process in processes] == [[], ["RepositoryModelLoad"]]
