"""When a connection is read, and how it is closed: what uvicorn does at once, and must wait here."""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """uvicorn's back pressure, which also ends reading while what was read waits for its turn."""

    held = False

    def resume_reading(self) -> None:
        """Read again, if nothing waits."""
        if not self.held:
            super().resume_reading()

    def hold(self) -> None:
        """Read no more, whoever wants to, until `let_go`."""
        self.held = True
        self.pause_reading()

    def let_go(self) -> None:
        """Read again."""
        self.held = False
        self.resume_reading()


class Lingering:
    """A transport that is closed only after the client has had time to read what it was told.

    Args:
        transport: of the connection.
        end_soon: closes it in a moment.
    """

    def __init__(self, transport: asyncio.Transport, end_soon: Callable[[], None]) -> None:
        self._transport = transport
        self.close = end_soon
        """Closes it, later."""

    def write(self, data: bytes) -> None:
        """Send."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self._transport.is_closing()
