"""Answers leave in the order of their turns, whoever finishes first."""

import itertools

import pytest

from frostline_server.batching.reorder_buffer import ReorderBuffer


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_answers_leave_in_turn_whatever_finishes_first(order: tuple[int, ...]) -> None:
    buffer, left = ReorderBuffer(), list[object]()
    taken = [buffer.take() for _ in range(4)]
    for position, index in enumerate(order):
        buffer.leave(taken[index], [lambda index=index: left.append(index)])  # type: ignore[misc]
        done = set(order[: position + 1])
        assert left == list(itertools.takewhile(done.__contains__, range(4)))


def test_a_turn_with_nothing_to_say_lets_the_next_one_speak() -> None:
    buffer, left = ReorderBuffer(), list[object]()
    first, second = buffer.take(), buffer.take()
    buffer.leave(second, [lambda: left.append("second")])
    buffer.leave(first, [])
    assert left == ["second"]


def test_an_answer_that_lets_another_turn_leave_does_not_call_it_inside_itself() -> None:
    buffer, left = ReorderBuffer(), list[object]()
    first, second = buffer.take(), buffer.take()

    def answer() -> None:
        buffer.leave(second, [lambda: left.append("second")])
        left.append("first")

    buffer.leave(first, [answer])
    assert left == ["first", "second"]


def test_an_answer_that_raises_does_not_hold_up_the_turns_behind_it() -> None:
    buffer, left = ReorderBuffer(), list[object]()
    first, second = buffer.take(), buffer.take()

    def broken() -> None:
        raise RuntimeError("the observer is gone")

    with pytest.raises(RuntimeError, match="the observer is gone"):
        buffer.leave(first, [broken])
    buffer.leave(second, [lambda: left.append("second")])
    assert left == ["second"]
