"""One worker as the supervisor hears it, up to its end."""

import asyncio

import pytest

from frostline_server.processes.child import Child


@pytest.mark.parametrize("rest", [b"", b'{"loaded": true, "unre', b'{"loaded": true}'])
async def test_a_line_that_a_killed_worker_has_not_ended_is_its_end(rest: bytes) -> None:
    child = Child(0, "socket")
    child._reader = asyncio.StreamReader()
    child._reader.feed_data(b'{"unready": "loading"}\n' + rest)
    child._reader.feed_eof()
    assert await child.hear(1)
    assert not await child.hear(1)
    assert (child.unready, child.loaded) == ("loading", False)
