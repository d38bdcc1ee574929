"""How much a JSON text may hold, and what is counted of it."""

import pytest

from frostline_server.http import json_size
from frostline_server.http.json_size import MOST_BYTES, MOST_VALUES, memory_of
from frostline_server.http.statuses import Failure


def test_as_many_values_as_there_may_be_are_counted_and_one_more_is_refused() -> None:
    text = b"[" + b"1," * (MOST_VALUES - 1) + b"1]"
    assert memory_of(text) == 12 * len(text) + 72
    with pytest.raises(Failure, match=f"the JSON has about {MOST_VALUES + 1} values, and it may have") as refused:
        memory_of(b"[" + b"1," * MOST_VALUES + b"1]")
    assert (refused.value.status, refused.value.kind) == (413, "message_too_large")
    assert "send tensors in binary" in refused.value.sentence


@pytest.mark.parametrize("opening", [b"[", b"{"])
def test_brackets_are_values(opening: bytes) -> None:
    with pytest.raises(Failure, match="values"):
        memory_of(opening * (MOST_VALUES + 1))


def test_white_space_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_size, "MOST_SPACE", 1000)
    assert memory_of(b" \n\t\r" * 250) == 12_000
    with pytest.raises(Failure, match="the JSON has 1001 bytes of white space, and it may have 1000"):
        memory_of(b" \n\t\r" * 250 + b" ")


def test_pictures_in_base64_have_room() -> None:
    text = b'{"rows":[{"b64":"%b"}]}' % (b"A" * (MOST_BYTES - 100))
    assert memory_of(text) < 13 * len(text)
