"""Bodies unpacked: one gzip member or several, deflate, and what is neither."""

import gzip
import random
import zlib
from functools import partial

import pytest

from frostline_server.rpc.h2 import framing
from frostline_server.rpc.h2.framing import inflated

unpacked = partial(inflated, most_members=4096)
CONTENTS = (b"", b"a", bytes(3 << 20), random.Random(0).randbytes(200_000))


@pytest.mark.parametrize("members", [CONTENTS, CONTENTS[::-1], [b""] * 100, [b"x"]], ids=range(4))
def test_members_are_unpacked_one_behind_the_other(members: list[bytes]) -> None:
    packed, whole = b"".join(map(gzip.compress, members)), b"".join(members)

    assert unpacked(packed, b"gzip", len(whole)) == whole
    assert unpacked(packed, b"gzip", len(whole) - 1) is None


def test_members_are_cut_wherever_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [b"first" * 9, b"", b"second" * 9]
    packed = b"".join(map(gzip.compress, contents))
    for size in range(1, len(packed) + 1):
        monkeypatch.setattr(framing, "_READ_BYTES", size)
        monkeypatch.setattr(framing, "_WRITTEN_BYTES", 1 + size % 7)

        assert unpacked(packed, b"gzip", 1000) == b"".join(contents)


def test_members_are_a_bomb_together() -> None:
    """None of them alone is too large."""
    assert unpacked(gzip.compress(bytes(1 << 20)) * 5, b"gzip", 4 << 20) is None


def test_more_members_than_any_program_writes_are_refused() -> None:
    empty = gzip.compress(b"")

    assert unpacked(empty * 4096, b"gzip", 0) == b""
    with pytest.raises(ValueError, match="more than 4096 members"):
        unpacked(empty * 4097, b"gzip", 0)


@pytest.mark.parametrize("rest", [b"more", b"\0" * 8, b"\x1f\x8b", gzip.compress(b"b")[:-4]], ids=range(4))
def test_what_follows_and_is_no_whole_member_is_refused(rest: bytes) -> None:
    with pytest.raises(ValueError, match=r"after its end|cut off"):
        unpacked(gzip.compress(b"a") + rest, b"gzip", 100)


def test_deflate_has_no_members() -> None:
    assert unpacked(zlib.compress(b"a"), b"deflate", 1) == b"a"
    with pytest.raises(ValueError, match="more after its end"):
        unpacked(zlib.compress(b"a") * 2, b"deflate", 100)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_nothing_is_cut_off(coding: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        unpacked(b"", coding, 100)
