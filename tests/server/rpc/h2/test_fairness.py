"""How much of a client is read at a time, by how long it took."""

from frostline_server.rpc.h2.fairness import LONG_S, MOST_BYTES, Share


def test_a_client_whose_bytes_are_quick_work_is_read_more_and_more_of() -> None:
    share, sizes = Share(), []
    for now_s in range(10):
        sizes.append(share.appetite)
        share.took(share.appetite, now_s, now_s + LONG_S / 10)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == MOST_BYTES
    assert not share.busy


def test_a_client_that_sends_little_is_read_no_more_of() -> None:
    share = Share()
    before = share.appetite
    share.took(100, 0.0, LONG_S / 10)
    assert share.appetite == before


def test_a_client_whose_bytes_are_much_work_is_read_less_and_less_of_but_never_nothing() -> None:
    share, sizes = Share(), []
    for now_s in range(10):
        sizes.append(share.appetite)
        share.took(share.appetite, now_s, now_s + 2 * LONG_S)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == share.appetite > 0
    assert share.busy


def test_among_busy_clients_the_one_that_took_least_of_late_comes_first() -> None:
    greedy, unlucky, long_ago = Share(), Share(), Share()
    for turn in range(100):
        greedy.took(1000, 10 + turn * 2 * LONG_S, 10 + (turn * 2 + 1) * LONG_S)
    # Held up once, by whatever else runs on the machine.
    unlucky.took(1000, 10.0, 10 + 5 * LONG_S)
    long_ago.took(1000, 0.0, 100 * LONG_S)
    order = sorted(
        (("greedy", greedy), ("unlucky", unlucky), ("long ago", long_ago)), key=lambda at: at[1].spent_s(10.6)
    )
    assert [name for name, _ in order] == ["long ago", "unlucky", "greedy"]


def test_a_brief_read_ends_being_busy_and_costs_nothing() -> None:
    share = Share()
    share.took(1000, 0.0, LONG_S)
    spent_s = share.spent_s(0.0)
    share.took(1000, 0.0, LONG_S / 10)
    assert not share.busy
    assert share.spent_s(0.0) == spent_s > 0
