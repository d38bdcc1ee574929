"""The interpreter of a server: short turns, and a garbage collector that looks at everything when asked to."""

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from frostline_server.interpreter import COLLECT_S, Collector, leave, settle, share


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    interval_s, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(interval_s)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_turns_become_short_and_shorter_ones_stay() -> None:
    sys.setswitchinterval(0.005)
    share()
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    sys.setswitchinterval(0.0001)
    share()
    assert sys.getswitchinterval() == pytest.approx(0.0001, rel=0.02)


def test_what_is_there_is_kept_out_and_everything_is_looked_at_only_when_it_is_time() -> None:
    class Node:
        pass

    settle()
    assert gc.get_freeze_count() > 0
    node = Node()
    node.itself = node  # type: ignore[attr-defined]
    gone = weakref.ref(node)
    # It grows old, and what is old is not looked at, however much that is new comes and goes.
    gc.collect(1)
    gc.collect(1)
    del node
    for _ in range(100):
        assert [[number] for number in range(2000)]
    assert gone() is not None
    collector = Collector(10.0)
    assert not collector.look(10.0 + COLLECT_S / 2)
    assert collector.look(10.0 + COLLECT_S)
    assert gone() is None
    assert not collector.look(11.0 + COLLECT_S)
    assert gc.get_threshold()[2] > 10**9
    leave()
    assert gc.get_threshold()[2] < 1000
