"""The interpreter of a server: short turns, and less to look at for the garbage collector."""

import gc
import sys
from collections.abc import Iterator

import pytest

from frostline_server.interpreter import leave, settle, share


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    interval_s = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval_s)
    gc.unfreeze()


def test_turns_become_short_and_shorter_ones_stay_and_in_the_end_all_is_as_it_was() -> None:
    sys.setswitchinterval(0.005)
    share()
    assert sys.getswitchinterval() == pytest.approx(0.0005, rel=0.02)
    sys.setswitchinterval(0.0001)
    share()
    assert sys.getswitchinterval() == pytest.approx(0.0001, rel=0.02)
    leave()
    assert sys.getswitchinterval() > 0.0001


def test_what_is_there_is_kept_out_of_garbage_collection() -> None:
    settle()
    assert gc.get_freeze_count() > 0
