"""A relay between a client and a server that counts what is on the wire."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.servers import TIMEOUT_S

_PING = b"\x00\x00\x08\x06\x00"
"""How a ping's frame begins: its length, its type, and no flag, as an acknowledgement has."""


class Relay:
    """A started relay.

    Attributes:
        address: where clients connect.
        sent: bytes that clients have sent so far.
        answered: bytes that the server has answered.
        connections: how many clients have made.
        pings: HTTP/2 pings that clients have sent.
    """

    def __init__(self, address: str) -> None:
        self.address = ""
        self.sent = 0
        self.answered = 0
        self.connections = 0
        self.pings = 0
        self._host, _, self._port = address.rpartition(":")

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        other_reader, other_writer = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.gather(self._pump(reader, other_writer, "sent"), self._pump(other_reader, writer, "answered"))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: str) -> None:
        try:
            while data := await reader.read(1 << 16):
                if count == "sent":
                    self.pings += data.count(_PING)
                setattr(self, count, getattr(self, count) + len(data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # one end has gone, and so goes the other
        finally:
            writer.close()

    def wait_for_pings(self, count: int) -> None:
        """Wait until clients have sent so many pings."""
        waiting = threading.Event()
        for _ in range(int(TIMEOUT_S * 100)):
            if self.pings >= count:
                return
            waiting.wait(0.01)
        raise AssertionError(f"{self.pings} pings, not {count}")

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Relay until `stop`."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        server.close()


@contextmanager
def relay(address: str) -> Iterator[Relay]:
    """A relay to a server's address, until the block ends."""
    instance, started, stop = Relay(address), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=[instance.serve(started, stop)])
    thread.start()
    try:
        assert started.wait(TIMEOUT_S)
        yield instance
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
