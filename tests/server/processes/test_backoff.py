"""How long the supervisor waits before it starts a process again."""

from frostline_server.processes.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 4.0, 60.0)
    assert [backoff.wait_s(1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]


def test_a_long_life_is_not_held_against_it() -> None:
    backoff = Backoff(0.5, 4.0, 60.0)
    backoff.wait_s(1.0)
    backoff.wait_s(1.0)
    assert backoff.wait_s(60.0) == 0.0
    assert backoff.wait_s(1.0) == 0.5


def test_many_failures_are_no_overflow() -> None:
    backoff = Backoff(0.5, 30.0, 60.0)
    assert {backoff.wait_s(0.0) for _ in range(3000)} == {0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0}
