"""The interpreter's turns: short while the event loop is busy, and else as long as they were."""

import pytest

from frostline_server.turns import Turns


@pytest.fixture
def changes() -> list[float]:
    return []


@pytest.fixture
def turns(changes: list[float]) -> Turns:
    made = Turns(0.005, changes.append)
    made.look(10.0, 100.0)
    return made


def test_turns_are_short_while_the_thread_is_busy(turns: Turns, changes: list[float]) -> None:
    turns.look(11.0, 100.9)
    turns.look(12.0, 101.8)
    assert changes == [0.0001]

    turns.look(13.0, 101.9)
    turns.look(14.0, 102.0)
    assert changes == [0.0001, 0.005]


def test_a_thread_that_mostly_waits_changes_nothing(turns: Turns, changes: list[float]) -> None:
    turns.look(11.0, 100.05)
    turns.look(11.0, 100.05)
    turns.stop()

    assert not changes


def test_at_the_end_they_are_as_they_were(turns: Turns, changes: list[float]) -> None:
    turns.look(11.0, 101.0)
    turns.stop()
    turns.stop()

    assert changes == [0.0001, 0.005]


def test_turns_that_are_shorter_already_stay_so() -> None:
    changes: list[float] = []
    turns = Turns(0.00005, changes.append)
    turns.look(1.0, 1.0)
    turns.look(2.0, 2.0)

    assert changes == [0.00005]


def test_a_request_makes_them_short_at_once_until_there_is_none(turns: Turns, changes: list[float]) -> None:
    turns.begin()
    turns.begin()
    turns.look(11.0, 100.0, asked=True)
    assert changes == [0.0001]

    turns.look(12.0, 100.0)
    assert changes == [0.0001, 0.005]
