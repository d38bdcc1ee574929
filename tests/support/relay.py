"""A relay between a client and a server that counts the bytes on the wire."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.servers import TIMEOUT_S


class Relay:
    """A started relay.

    Attributes:
        address: where clients connect.
        sent: bytes that clients have sent so far.
        answered: bytes that the server has answered.
    """

    def __init__(self, address: str) -> None:
        self.address = ""
        self.sent = 0
        self.answered = 0
        self._host, _, self._port = address.rpartition(":")

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(self._host, int(self._port))
        await asyncio.gather(self._pump(reader, other_writer, "sent"), self._pump(other_reader, writer, "answered"))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: str) -> None:
        try:
            while data := await reader.read(1 << 16):
                setattr(self, count, getattr(self, count) + len(data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # one end has gone, and so goes the other
        finally:
            writer.close()

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
