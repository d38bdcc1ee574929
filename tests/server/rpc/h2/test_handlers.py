"""Which calls of the other methods begin when: a real event loop, on which later is when the test says so."""

import asyncio
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from frostline_server.rpc.h2.call import Call
from frostline_server.rpc.h2.handlers import BURST, REST_S, Handlers, Handling
from frostline_server.rpc.h2.shared import Peer

HERE, THERE = "ipv4:10.0.0.1", "ipv4:10.0.0.2"


class Loop(asyncio.SelectorEventLoop):
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[Callable[[], object]] = []

    def call_later(self, delay: float, callback: Any) -> Any:  # type: ignore[override]  # it is given no arguments here
        assert delay == REST_S
        self.later.append(callback)

    def settle(self) -> None:
        """Run what is due now."""
        for _ in range(10):
            self.call_soon(self.stop)
            self.run_forever()

    def rest(self) -> None:
        """Let the time pass."""
        (rested,) = self.later
        self.later = []
        rested()
        self.settle()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Callers:
    """Clients of one method, whose handler says what came."""

    def __init__(self, loop: Loop) -> None:
        self.began: list[bytes] = []
        self.answers: list[bytes] = []
        self.ended: list[grpc.StatusCode] = []

        async def behaviour(request: bytes, _: Any) -> bytes:
            self.began.append(request)
            return request.upper()

        handler = grpc.unary_unary_rpc_method_handler(behaviour)
        self.receiver = Handlers(loop, lambda function, *arguments: function(*arguments)).receiver(handler)

    def call(self, message: bytes, host: str = HERE, deadline_s: float | None = None) -> tuple[Handling, Call]:
        """A client that has sent its message."""
        owner: Any = SimpleNamespace(
            peer=Peer(f"{host}:{50000 + len(message)}"),
            answer=lambda _, answer: self.answers.append(answer),
            finish=lambda _, code, *__: self.ended.append(code),
        )
        shared: Any = None
        call = Call(owner, shared, 1, SimpleNamespace(), {}, 0.0)
        call.deadline_s = deadline_s
        handling = self.receiver(call)
        handling.message(call, message)
        return handling, call


def test_few_calls_begin_at_once(loop: Loop) -> None:
    callers = Callers(loop)
    for number in range(BURST):
        callers.call(b"%d" % number)
        loop.settle()
    assert callers.answers == [b"%d" % number for number in range(BURST)]
    loop.rest()
    assert loop.later == [], "a loop without calls has nothing to wake for"


def test_of_many_calls_so_many_begin_until_the_next_rest_and_hosts_take_turns(loop: Loop) -> None:
    callers = Callers(loop)
    for number in range(2 * BURST + 1):
        callers.call(b"a%d" % number)
    loop.settle()
    callers.call(b"b", THERE)
    loop.settle()
    assert callers.began == [b"a%d" % number for number in range(BURST)]
    loop.rest()
    assert b"b" in callers.began
    assert len(callers.began) == 2 * BURST
    loop.rest()
    assert len(callers.answers) == 2 * BURST + 2
    loop.rest()
    assert loop.later == []


def test_a_call_that_is_given_up_before_its_turn_never_begins_and_takes_nobodys_turn(loop: Loop) -> None:
    callers = Callers(loop)
    calls = [callers.call(b"a%d" % number) for number in range(2 * BURST)]
    loop.settle()
    for handling, call in calls[BURST:]:
        handling.cancelled(call)
    callers.call(b"b")
    loop.settle()
    loop.rest()
    assert callers.began == [*(b"a%d" % number for number in range(BURST)), b"b"]


def test_a_call_for_whose_answer_nobody_waits_any_more_never_begins(loop: Loop) -> None:
    callers = Callers(loop)
    callers.call(b"late", deadline_s=0.0)
    callers.call(b"never", deadline_s=math.inf)
    loop.settle()
    assert callers.began == [b"never"]
    assert callers.ended == [grpc.StatusCode.DEADLINE_EXCEEDED]


def test_messages_of_a_stream_are_held_until_the_handler_has_taken_them(loop: Loop) -> None:
    taken: list[bytes] = []
    held = [0]

    async def behaviour(requests: Any, _: Any) -> Any:
        async for each in requests:
            taken.append(each)
            yield each

    handler = grpc.stream_stream_rpc_method_handler(behaviour)
    call: Any = SimpleNamespace(
        headers={b":path": b"/t"},
        connection=SimpleNamespace(peer=Peer(HERE, {}), send=lambda *_: None),
        deadline_s=None, over=False, held=5, release=lambda size: held.append(held[-1] - size),
    )  # fmt: skip
    handling = Handlers(loop, lambda function, *arguments: function(*arguments)).receiver(handler)(call)
    loop.settle()
    handling.message(call, b"abc")
    handling.message(call, b"de")
    loop.settle()
    assert (taken, held[-1]) == ([b"abc", b"de"], -5)
    call.over = True
    handling.cancelled(call)
    loop.settle()
