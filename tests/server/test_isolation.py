"""Finding who spoils a batch: the guilty fail, the others are answered, and a dead device is soon given up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.isolation import isolate


class Device:
    """Runs parts of a batch and keeps what it ran.

    Attributes:
        ran: every part, in order.
        answered: every entry of a part that succeeded.
    """

    def __init__(self, guilty: set[int], *, dies_after: float = math.inf) -> None:
        self.ran: list[list[int]] = []
        self.answered: list[int] = []
        self._guilty = guilty
        self._dies_after = dies_after

    def __call__(self, part: list[int]) -> ValueError | None:
        self.ran.append(part)
        if len(self.ran) > self._dies_after or self._guilty & set(part):
            return ValueError(str(part))
        self.answered += part
        return None

    def isolate(self, size: int) -> list[tuple[list[int], str]]:
        found = isolate(list(range(size)), ValueError("all"), self)
        return [(part, str(error)) for part, error in found]


def log2(size: int) -> int:
    """The power of two above a size: what the bounds are multiples of."""
    return size.bit_length()


@pytest.mark.parametrize("size", [2, 3, 5, 8, 64, 100])
def test_one_guilty_entry_fails_alone_and_costs_two_runs_a_halving(size: int) -> None:
    for guilty in range(size):
        device = Device({guilty})
        assert device.isolate(size) == [([guilty], str([guilty]))]
        assert sorted(device.answered) == [entry for entry in range(size) if entry != guilty]
        assert len(device.ran) <= 2 * math.ceil(math.log2(size))


@given(size=st.integers(2, 1100), data=st.data())
def test_up_to_three_guilty_entries_are_found_wherever_they_are(size: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=3))
    device = Device(guilty)
    failed = device.isolate(size)
    assert sorted(failed) == [([entry], str([entry])) for entry in sorted(guilty)]
    assert sorted(device.answered) == [entry for entry in range(size) if entry not in guilty]


@pytest.mark.parametrize("streak", [range(20), range(30, 50), range(44, 64), range(32)])
def test_a_streak_of_guilty_entries_costs_nobody_else_the_answer(streak: range) -> None:
    device = Device(set(streak))
    device.isolate(64)
    assert sorted(device.answered) == [entry for entry in range(64) if entry not in streak]


@pytest.mark.parametrize("size", [2, 3, 7, 64, 1000])
def test_a_dead_device_is_given_up_after_a_number_of_runs_that_grows_with_the_logarithm(size: int) -> None:
    device = Device(set(range(size)))
    failed = device.isolate(size)
    assert sorted(entry for part, _ in failed for entry in part) == list(range(size))
    assert len(device.ran) <= 3 * log2(size) + 1


def test_a_device_that_dies_on_the_way_is_given_up_too() -> None:
    device = Device({63}, dies_after=3)
    device.isolate(64)
    assert len(device.ran) <= 6 * log2(64) + 1


@given(size=st.integers(2, 70), data=st.data())
def test_every_entry_is_answered_or_fails_once_and_no_entry_runs_after_it_was_answered(
    size: int, data: st.DataObject
) -> None:
    guilty = data.draw(st.sets(st.integers(0, size - 1)))
    device = Device(guilty, dies_after=data.draw(st.integers(0, 40)))
    failed = [entry for part, _ in device.isolate(size) for entry in part]
    assert sorted(failed + device.answered) == list(range(size))
    assert not guilty & set(device.answered)
    assert len(device.ran) <= 6 * log2(size) + 1


def test_a_fault_that_does_not_come_again_fails_nobody() -> None:
    device = Device(set())
    assert device.isolate(8) == []
    assert sorted(device.answered) == list(range(8))
