"""The memory of large batches is predicted from that of small ones."""

import numpy as np

from frostline_server.model.memory_growth import MemoryGrowth, peak_bytes, reset_peak


def growth(budget_bytes: int, *peaks: int) -> MemoryGrowth:
    given = iter(peaks)
    return MemoryGrowth(budget_bytes, lambda: next(given), lambda: None)


def test_before_anything_ran_everything_fits() -> None:
    assert growth(0, 100).fits(1)


def test_one_run_grows_in_proportion() -> None:
    grown = growth(40, 100, 110)
    grown.ran(1)
    assert grown.predicted(4) == 40
    assert grown.fits(4)
    assert not grown.fits(5)


def test_what_does_not_grow_with_the_rows_is_counted_once() -> None:
    grown = growth(1000, 100, 210, 220, 240)
    for rows in (1, 2, 4):
        grown.ran(rows)
    assert grown.predicted(64) == 140 + 10 * 60


def test_memory_that_was_given_back_in_between_is_no_growth() -> None:
    grown = growth(1000, 100, 90)
    grown.ran(1)
    assert grown.predicted(64) == 0


def test_the_peak_is_the_systems_own() -> None:
    reset_peak()
    before = peak_bytes()
    # So much that what this process gives back meanwhile does not matter.
    np.ones(400_000_000, np.uint8)
    assert peak_bytes() - before > 300_000_000
    reset_peak()
    assert peak_bytes() - before < 300_000_000
