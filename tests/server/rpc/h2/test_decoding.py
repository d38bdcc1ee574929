"""Messages that another thread decodes, and what is held for them meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import pytest

from frostline_server.errors import NetworkFull
from frostline_server.inference import Inference
from frostline_server.rpc.h2.decoding import Decoder, Decoding
from tests.server.rpc.h2.pair import Pair

MESSAGE = b"x" * 1000


class Slow:
    """Prepares when it is told to, as the one thread that decodes does when a message's turn comes."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], bool]]] = []

    def prepare_elsewhere(self, *arguments: Any) -> "Future[Any]":
        self.waiting.append((Future(), arguments[-1]))
        return self.waiting[-1][0]

    def go_on(self) -> None:
        """Take the next one."""
        future, wanted = self.waiting.pop(0)
        future.set_result("an entry" if wanted() else None)


def begun(pair: Pair, slow: Slow, took: list[object]) -> Decoding:
    """A message that waits for its turn; its call holds nothing else."""
    pair.client.send_data(pair.begin(), b"", end_stream=False)
    pair.client.send_data(pair.begin(), b"\0\0\0\0\0", end_stream=True)
    pair.exchange()
    call = pair.kept.messages[-1][0]
    before = call.held
    decoder = Decoder(cast("Inference", slow), lambda function, *arguments: function(*arguments))
    decoding = decoder.begin(call, "m", MESSAGE, lambda _: None, call, took.append)
    assert call.held == before
    return decoding


def test_a_message_is_held_until_it_was_decoded() -> None:
    pair, slow, took = Pair(), Slow(), list[object]()
    begun(pair, slow, took)
    assert pair.held >= len(MESSAGE)
    slow.go_on()
    assert pair.held < len(MESSAGE)
    assert took == ["an entry"]


def test_a_message_that_nobody_wants_any_more_is_held_until_its_turn_comes() -> None:
    pair, slow, took = Pair(), Slow(), list[object]()
    begun(pair, slow, took).cancel()
    # It waits in memory for the thread that decodes.
    assert pair.held >= len(MESSAGE)
    slow.go_on()
    assert pair.held < len(MESSAGE)
    assert took == [None]


def test_a_message_that_no_thread_can_decode_is_held_no_longer() -> None:
    class Full(Slow):
        def prepare_elsewhere(self, *arguments: Any) -> "Future[Any]":
            raise RuntimeError("can't start new thread")

    pair = Pair()
    with pytest.raises(RuntimeError):
        begun(pair, Full(), [])
    assert pair.held < len(MESSAGE)


def test_a_message_for_which_there_is_no_room_is_refused() -> None:
    slow = Slow()
    with pytest.raises(NetworkFull):
        begun(Pair(budget=len(MESSAGE) // 2), slow, [])
    assert slow.waiting == []
