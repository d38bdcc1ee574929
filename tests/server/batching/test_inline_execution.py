"""When a front end runs a batch itself: run times and a clock that are only numbers."""

from hypothesis import given
from hypothesis import strategies as st

from frostline_server.batching.inline_execution import BRIEF_S, CREDIT_S, LONG_S, SUSPENSION, InlineExecution

SHAPE = ((4,),)
OTHER = ((5,),)
TOO_LONG_S = 2 * BRIEF_S


def known(rows: int, max_rows: int = 64) -> InlineExecution:
    """So many rows are known to run briefly."""
    inline = InlineExecution(max_rows, enabled=True)
    inline.ran(rows, SHAPE, BRIEF_S)
    return inline


def allowed(inline: InlineExecution, up_to: int = 100) -> list[int]:
    """The numbers of rows that a front end may run itself."""
    return [rows for rows in range(1, up_to + 1) if inline.allows(rows, SHAPE, 0.0)]


def test_nothing_runs_inline_before_the_first_run_was_measured() -> None:
    assert not InlineExecution(64, enabled=True).allows(1, SHAPE, 0.0)
    assert not InlineExecution(64, enabled=True).allows(1, (), 0.0)


def test_as_many_rows_as_ran_briefly_may_run_inline_and_no_more() -> None:
    assert allowed(known(8)) == list(range(1, 9))


def test_a_small_run_takes_nothing_back_of_what_is_known_of_larger_ones() -> None:
    inline = known(8)
    inline.ran(2, SHAPE, BRIEF_S)
    assert allowed(inline) == list(range(1, 9))


def test_a_run_that_was_not_brief_takes_its_number_of_rows_and_more_back() -> None:
    inline = known(8)
    inline.ran(4, SHAPE, TOO_LONG_S)
    assert allowed(inline) == [1, 2, 3]
    inline.ran(1, SHAPE, TOO_LONG_S)
    assert allowed(inline) == []
    inline.ran(4, SHAPE, BRIEF_S)
    assert allowed(inline) == [1, 2, 3, 4]


def test_a_run_of_more_rows_that_was_not_brief_says_nothing_of_fewer() -> None:
    inline = known(8)
    inline.ran(20, SHAPE, TOO_LONG_S)
    assert allowed(inline) == list(range(1, 9))


def test_what_waits_beyond_a_full_batch_is_not_of_that_batch() -> None:
    assert allowed(known(8, max_rows=8)) == list(range(1, 101))


def test_of_another_shape_nothing_is_known() -> None:
    inline = known(8)
    assert not inline.allows(1, OTHER, 0.0)
    inline.ran(2, OTHER, BRIEF_S)
    assert [inline.allows(rows, OTHER, 0.0) for rows in (2, 3)] == [True, False]
    assert allowed(inline) == []


def test_where_batches_wait_for_more_rows_nothing_runs_inline() -> None:
    inline = InlineExecution(64, enabled=False)
    inline.ran(64, SHAPE, 0.0)
    assert not inline.allows(1, SHAPE, 1e9)


def test_runs_that_hold_a_front_end_for_long_suspend_the_model_for_a_hundred_times_as_long_less_the_credit() -> None:
    inline = known(8)
    inline.held(0.0, LONG_S)
    assert inline.allows(1, SHAPE, LONG_S)
    inline.held(10.0, 12.0)
    until_s = 12.0 + SUSPENSION * 2.0 - CREDIT_S
    assert not inline.allows(1, SHAPE, 12.0)
    assert not inline.allows(1, SHAPE, until_s - 0.001)
    assert inline.allows(1, SHAPE, until_s)


def test_one_long_run_suspends_nothing_and_the_next_ones_do() -> None:
    inline = known(8)
    inline.held(10.0, 10.0 + 1.5 * LONG_S)
    assert inline.allows(1, SHAPE, 10.1)
    inline.held(10.1, 10.1 + 1.5 * LONG_S)
    assert not inline.allows(1, SHAPE, 10.2)
    # Much later it is again the first one.
    inline.held(60.0, 60.0 + 1.5 * LONG_S)
    assert inline.allows(1, SHAPE, 60.1)


runs = st.lists(st.tuples(st.integers(1, 64), st.floats(0.0, 10.0)), max_size=200)


@given(runs=runs)
def test_long_runs_hold_a_front_end_for_no_more_than_a_hundredth_of_its_time(runs: list[tuple[int, float]]) -> None:
    inline = InlineExecution(64, enabled=True)
    now = held_s = 0.0
    for rows, seconds in runs:
        inlined = inline.allows(rows, SHAPE, now)
        now += seconds
        inline.ran(rows, SHAPE, seconds)
        if inlined:
            inline.held(now - seconds, now)
            if seconds > LONG_S:
                # Whatever came before this run has been paid for with a pause, but for the credit.
                assert held_s * SUSPENSION <= now - seconds + CREDIT_S + 1e-6
                held_s += seconds
