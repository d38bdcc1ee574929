"""Descriptors that are kept back."""

import os
import socket

import pytest

from frostline_server.reserve import Reserve
from tests.support.descriptors import descriptors


def test_a_connection_takes_the_place_of_a_reserved_descriptor() -> None:
    reserve, before = Reserve(2), descriptors()
    assert reserve.fill()
    assert len(descriptors() - before) == 2
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        kept = len(descriptors() - before)
        accepted = reserve.accept(listening)
        assert accepted is not None
        assert len(descriptors() - before) == kept
        accepted[0].close()
        assert reserve.fill()
        assert len(descriptors() - before) == kept
    reserve.close()
    assert descriptors() - before == set()


def test_where_nobody_waits_the_reserve_stays_as_it_was() -> None:
    reserve = Reserve(1)
    reserve.fill()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        before = descriptors()
        assert reserve.accept(listening) is None
        assert before - descriptors() == descriptors() - before == set()
    reserve.close()


def test_a_reserve_that_cannot_be_filled_says_so_and_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(1)

    def no_more(*_: object) -> int:
        raise OSError(24, "no more files")

    monkeypatch.setattr(os, "open", no_more)
    assert not reserve.fill()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert reserve.accept(listening) is None
