"""Compressed messages, unpacked step by step."""

import random
import zlib
from collections.abc import Callable

import pytest

from frostline_server.rpc.h2.framing import deflated, inflated

NOISE = random.Random(7).randbytes(5 << 19)
CONTENTS = {
    "nothing": b"",
    "a byte": b"a",
    "noise of several steps": NOISE,
    "a step": bytes(1 << 20),
    "a step and a byte": bytes((1 << 20) + 1),
    "many steps from one": bytes(5 << 20),
}

pytestmark = pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])


@pytest.mark.parametrize("name", CONTENTS)
def test_what_was_packed_is_unpacked_up_to_its_length(name: str, encoding: bytes) -> None:
    content = CONTENTS[name]
    packed = deflated([content], encoding)
    for limit in (len(content), len(content) + 1, 10 << 20):
        assert inflated(packed, encoding, limit) == content
    if content:
        assert inflated(packed, encoding, len(content) - 1) is None


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda packed: packed[:-1], "it is cut off"),
        (lambda packed: packed[: len(packed) // 2], "it is cut off"),
        (lambda packed: packed + b"x", "there is more after its end"),
        (lambda packed: packed + bytes(2 << 20), "there is more after its end"),
        (lambda packed: b"x" + packed, "incorrect header check"),
    ],
    ids=["cut", "half", "more", "much more", "other"],
)
def test_what_is_no_whole_message_is_refused(
    name: str, change: Callable[[bytes], bytes], said: str, encoding: bytes
) -> None:
    with pytest.raises(ValueError, match=said):
        inflated(change(deflated([CONTENTS[name]], encoding)), encoding, 10 << 20)


def test_chunks_are_packed_as_the_whole(encoding: bytes) -> None:
    packed = deflated([NOISE[:10], memoryview(NOISE)[10:]], encoding, level=1)
    assert zlib.decompress(packed, 47) == NOISE
