"""Work that takes long, in another thread: the event loop is what all connections wait for."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

LONG_BYTES = 1 << 16
"""What is of more bytes is read and written in another thread, and the memory that it takes is counted."""

T = TypeVar("T")


async def elsewhere(size: int, work: Callable[[], T]) -> T:
    """Do some work, in another thread if it is of many bytes."""
    if size <= LONG_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)
