"""How much of a client is read at a time, by how long it took, and who comes first."""

import pytest

from frostline_server.rpc.h2.fairness import FIRST_BYTES, LONG_S, MOST_BYTES, Address, Queues, Share


def share() -> Share:
    return Share(Address())


def test_a_client_whose_bytes_are_quick_work_is_read_more_and_more_of() -> None:
    client, sizes = share(), []
    for _ in range(10):
        sizes.append(client.appetite)
        client.took(client.appetite, LONG_S / 10)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == MOST_BYTES
    assert not client.takes_long


def test_a_client_that_sends_little_is_read_no_more_of() -> None:
    client = share()
    before = client.appetite
    client.took(100, LONG_S / 10)
    assert client.appetite == before


def test_a_client_whose_bytes_are_much_work_is_read_less_and_less_of_but_never_nothing() -> None:
    client, sizes = share(), []
    for _ in range(10):
        sizes.append(client.appetite)
        client.took(client.appetite, 2 * LONG_S)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == client.appetite > 0
    assert client.takes_long


def test_a_client_takes_long_until_its_first_read_was_brief_and_again_after_one_that_was_not() -> None:
    client = share()
    assert client.new
    assert client.takes_long
    client.took(100, LONG_S / 10)
    assert not client.new
    assert not client.takes_long
    client.took(100, LONG_S)
    assert client.takes_long


def test_what_goes_on_in_later_turns_counts_when_it_is_finished() -> None:
    quick, slow = share(), share()
    for client, took_s in ((quick, LONG_S / 10), (slow, LONG_S)):
        before = client.appetite
        client.took(before, took_s, unfinished=True)
        assert client.takes_long
        client.went_on(took_s, unfinished=True)
        assert client.appetite == before
        client.went_on(took_s, unfinished=False)
        assert client.spent_s == pytest.approx(3 * took_s)
    assert quick.appetite > FIRST_BYTES > slow.appetite
    assert not quick.takes_long
    assert slow.takes_long


def test_first_comes_whose_address_has_taken_least_and_within_it_who_has() -> None:
    one, other = Address(), Address()
    greedy, unlucky, lonely = Share(one), Share(one), Share(other)
    for _ in range(100):
        greedy.took(1000, LONG_S / 10)
    unlucky.took(1000, 5 * LONG_S)
    # More than the unlucky one, less than both at the other address.
    lonely.took(1000, 7 * LONG_S)
    order = sorted((greedy, unlucky, lonely), key=lambda client: client.rank)
    assert order == [lonely, unlucky, greedy]


def test_those_who_wait_come_in_their_order_and_addresses_take_turns() -> None:
    crowded, quiet = Address(), Address()
    waiting: Queues[Address, str] = Queues()
    assert not waiting.waiting
    for client in ("a", "b", "c"):
        waiting.add(crowded, client)
    waiting.add(quiet, "x")
    assert [waiting.next(), waiting.next()] == ["a", "x"]
    waiting.add(quiet, "y")
    assert [waiting.next() for _ in range(3)] == ["b", "y", "c"]
    assert not waiting.waiting
