"""Finding who spoils a batch: the guilty fail, the others are answered, and a dead device is soon given up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline_server.batching.bisect_failures import MAX_STREAK, isolate


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


@pytest.mark.parametrize("size", [2, 3, 5, 8, 64, 100])
def test_one_guilty_entry_fails_alone_and_costs_two_runs_a_halving(size: int) -> None:
    for guilty in range(size):
        device = Device({guilty})
        assert device.isolate(size) == [([guilty], str([guilty]))]
        assert sorted(device.answered) == [entry for entry in range(size) if entry != guilty]
        assert len(device.ran) <= 2 * math.ceil(math.log2(size))


@given(size=st.integers(2, 64), data=st.data())
def test_however_many_are_guilty_in_a_batch_of_the_usual_size_nobody_else_fails(size: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    device = Device(guilty)
    failed = device.isolate(size)
    assert sorted(failed) == [([entry], str([entry])) for entry in sorted(guilty)]
    assert sorted(device.answered) == [entry for entry in range(size) if entry not in guilty]
    assert len(device.ran) < 2 * size


@pytest.mark.parametrize("every", [2, 3, 10, 50])
def test_guilty_entries_all_over_a_large_batch_cost_nobody_else_the_answer(every: int) -> None:
    guilty = set(range(0, 1024, every))
    device = Device(guilty)
    assert sorted(entry for part, _ in device.isolate(1024) for entry in part) == sorted(guilty)
    assert len(device.answered) == 1024 - len(guilty)


@pytest.mark.parametrize("size", [2, 3, 7, 64, 1000, 65_536])
def test_a_dead_device_is_given_up_after_a_number_of_runs(size: int) -> None:
    device = Device(set(range(size)))
    failed = device.isolate(size)
    assert sorted(entry for part, _ in failed for entry in part) == list(range(size))
    assert len(device.ran) <= min(MAX_STREAK + 1, 2 * size)


def test_a_device_that_dies_on_the_way_is_given_up_too() -> None:
    device = Device({999}, dies_after=3)
    device.isolate(1000)
    assert len(device.ran) <= 3 + MAX_STREAK + 1


@given(size=st.integers(2, 70), data=st.data())
def test_every_entry_is_answered_or_fails_once_and_no_entry_runs_after_it_was_answered(
    size: int, data: st.DataObject
) -> None:
    guilty = data.draw(st.sets(st.integers(0, size - 1)))
    device = Device(guilty, dies_after=data.draw(st.integers(0, 40)))
    failed = [entry for part, _ in device.isolate(size) for entry in part]
    assert sorted(failed + device.answered) == list(range(size))
    assert not guilty & set(device.answered)
    assert len(device.ran) < 2 * size


def test_a_fault_that_does_not_come_again_fails_nobody() -> None:
    device = Device(set())
    assert device.isolate(8) == []
    assert sorted(device.answered) == list(range(8))


def test_entries_that_an_error_names_fail_at_once_and_the_others_run_once_more() -> None:
    device = Device({2, 5})

    def named(part: list[int], error: ValueError) -> list[tuple[int, ValueError]]:
        return [(entry, ValueError(f"{entry} of {error}")) for entry in part if entry in {2, 5}]

    failed = isolate(list(range(8)), ValueError("all"), device, named)
    assert [(part, str(error)) for part, error in failed] == [([2], "2 of all"), ([5], "5 of all")]
    assert device.ran == [[0, 1, 3, 4, 6, 7]]
