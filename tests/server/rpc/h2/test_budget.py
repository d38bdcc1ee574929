"""The memory budget: who finds room, and that large messages do not lock out small ones."""

import pytest

from frostline_server.rpc.h2.budget import Budget

MIB = 1 << 20


def test_what_is_given_back_can_be_taken_again() -> None:
    budget = Budget(64 * MIB)
    assert budget.take(40 * MIB)
    assert not budget.take(30 * MIB)
    assert (budget.used, budget.peak) == (40 * MIB, 40 * MIB)
    budget.give(40 * MIB)
    assert budget.take(30 * MIB)
    assert (budget.used, budget.peak) == (30 * MIB, 40 * MIB)


@pytest.mark.parametrize(("size", "left"), [(MIB, 8 * MIB), (16 << 10, MIB), (1000, 0)])
def test_larger_messages_leave_more_to_others(size: int, left: int) -> None:
    budget = Budget(64 * MIB)
    while budget.take(size):
        pass
    assert left <= 64 * MIB - budget.used < left + size
    assert budget.take(1000) == (left > 0)


def test_it_says_which_message_can_never_be_held() -> None:
    budget = Budget(64 * MIB)
    assert budget.has_room_for(56 * MIB)
    assert not budget.has_room_for(57 * MIB)
    assert not budget.take(57 * MIB)
