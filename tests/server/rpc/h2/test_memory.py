"""Memory goes back to the system after a peak, and nobody pays for it meanwhile."""

from frostline_server.rpc.h2.memory import Trim, give_back

MIB = 1 << 20


def test_memory_goes_back_when_much_was_held_and_little_is() -> None:
    trimmed: list[int] = []
    trim = Trim(trimmed.append)
    assert not trim.look(10.0, 500 * MIB, 10)
    assert not trim.look(11.0, 400 * MIB, 10)
    assert trim.look(12.0, 5 * MIB, 10)
    assert trimmed == [10]
    # Once more later, and then no more.
    assert not trim.look(16.0, 5 * MIB, 10)
    assert trim.look(17.5, 5 * MIB, 10)
    assert not trim.look(30.0, 5 * MIB, 10)


def test_it_goes_back_when_many_calls_have_ended() -> None:
    trim = Trim(lambda _: None)
    assert not trim.look(10.0, 0, 20_000)
    assert not trim.look(11.0, 0, 15_000)
    assert trim.look(12.0, 0, 100)


def test_the_usual_load_gives_nothing_back() -> None:
    trim = Trim(lambda _: None)
    for second in range(100):
        assert not trim.look(float(second), (second % 7) * MIB, 64 * (second % 5))


def test_it_does_not_happen_more_often_than_every_few_seconds() -> None:
    trim = Trim(lambda _: None)
    assert not trim.look(10.0, 500 * MIB, 0)
    assert trim.look(11.0, 0, 0)
    assert not trim.look(12.0, 500 * MIB, 0)
    assert not trim.look(13.0, 0, 0)
    assert trim.look(16.5, 0, 0)


def test_giving_back_is_possible_on_every_platform() -> None:
    give_back(0)
    give_back(5000)
