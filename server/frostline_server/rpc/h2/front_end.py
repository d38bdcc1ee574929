"""The front end on HTTP/2 sockets of its own: it owns the port, and answers every method on it.

Inference is answered by the thread that reads, without a coroutine for each call; all other methods are handlers on the
event loop.
"""

import asyncio
import math
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog

from frostline.protocol import MODEL_INFER, MODEL_STREAM_INFER, PREDICT
from frostline_server.access.access import Access
from frostline_server.batching.batcher import Batcher
from frostline_server.config import ServerConfig
from frostline_server.inference import Inference
from frostline_server.reserve import most_files
from frostline_server.rpc.h2.budget import Budget
from frostline_server.rpc.h2.call import Call, Receiver
from frostline_server.rpc.h2.handlers import Handlers
from frostline_server.rpc.h2.listener import Crowd, Listener
from frostline_server.rpc.h2.memory import Trim, give_back
from frostline_server.rpc.h2.shared import OK, Limits, Route, Shared
from frostline_server.rpc.h2.stream import StreamInference
from frostline_server.rpc.h2.unary import UnaryInference
from frostline_server.rpc.listening import bound
from frostline_server.rpc.load_report import KEY
from frostline_server.rpc.methods import Methods

_log = structlog.get_logger(__name__)

LOAD_REPORT = KEY.encode()
_SPARE_FILES = 256
"""Files that the process needs for other things than connections."""


class H2FrontEnd:
    """Answers all methods on sockets that it owns.

    Args:
        inference: takes inference calls.
        methods: the handlers of all other methods.
        config: the server's settings, with the memory for messages in flight that is this front end's.
        context: gives the TLS of a new connection; None for no TLS.
        access: who may predict; `methods` ask for themselves.
        report: gives the server's load, measured anew; None for no reports.
    """

    def __init__(
        self,
        inference: Inference,
        methods: Methods,
        config: ServerConfig,
        context: Callable[[], ssl.SSLContext] | None,
        access: Access,
        report: Callable[[float], bytes] | None = None,
    ) -> None:
        self._methods = methods
        self._config = config
        self._context = context
        self._counted = inference.count
        self._access = access
        self._report = report
        self._batchers: list[Batcher] = []
        self._unary = UnaryInference(inference, self._batchers, self._post, self._mine)
        self._streams = StreamInference(inference, self._batchers, self._post, self._mine)
        self._helper = ThreadPoolExecutor(1, "h2-unpack")
        self._trim = Trim(lambda open_now: self._helper.submit(give_back, open_now))
        self.budget = Budget(config.network_bytes)
        # Those that alerts watch are there from the start: a rate needs a number before the first.
        self.refused: dict[str, int] = {"files": 0, "network_full": 0, "connections": 0}
        """What was refused before anything else saw it, by reason."""
        self._listener: Listener | None = None
        self._shared: Shared | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._listener is None else self._listener.connections

    def start(self, address: str, *, reuse_port: bool = False) -> int:
        """Bind an address and start to answer.

        Args:
            address: host:port, or unix:/path.
            reuse_port: whether other processes listen on the same port.

        Returns:
            The port; 0 for a Unix socket.

        Raises:
            StartError: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        sockets = bound(address, reuse_port=reuse_port)
        config = self._config
        shared = self._shared = Shared(
            self._routes(loop),
            self.budget,
            Limits(
                max_message_bytes=config.max_message_bytes,
                max_calls=config.max_calls_per_connection,
                max_header_bytes=config.max_header_bytes,
                message_timeout_s=config.message_timeout_s,
                answer_timeout_s=config.answer_timeout_s,
                handshake_timeout_s=config.handshake_timeout_s,
                resets_per_s=config.max_resets_per_s,
                max_age_s=config.max_connection_age_s or math.inf,
                age_grace_s=config.connection_grace_s or math.inf,
            ),
            self._elsewhere,
            self._counted,
            b"" if config.compression == "none" else config.compression.encode(),
            self.refused,
            access=None if self._access.free else self._access,
            after=partial(self._after, loop),
        )
        if not self.budget.has_room_for(2 * config.max_message_bytes):
            _log.warning(
                "network",
                warning=f"the largest message ({config.max_message_bytes} bytes, max_message_bytes) never finds room in "
                f"{self.budget.limit} bytes (network_bytes); raise this to {4 * config.max_message_bytes}, or lower the other",
            )
        files = most_files()
        most = min(config.max_connections, files - min(_SPARE_FILES, files // 2))
        crowd = Crowd(most, config.max_connections_per_address)
        self._listener = Listener(sockets, shared, crowd, self._context, self._run_inline, self._tick)
        self._listener.start()
        name = sockets[0].getsockname()
        return name[1] if isinstance(name, tuple) else 0

    async def drain(self, timeout_s: float) -> bool:
        """Tell clients to go elsewhere, and end open streams once all their accepted requests are answered.

        Returns:
            Whether all of them ended within `timeout_s` seconds.
        """
        if self._listener is None:
            return True
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self._post(self._listener.leave)
        self._post(self._streams.stop, lambda: loop.call_soon_threadsafe(ended.set))
        try:
            await asyncio.wait_for(ended.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def unsent(self) -> Mapping[tuple[int, int], int]:
        """Bytes that have not left; see `Listener.unsent`."""
        if self._listener is None:
            return {}
        loop = asyncio.get_running_loop()
        unsent: asyncio.Future[Mapping[tuple[int, int], int]] = loop.create_future()
        self._listener.post(_tell, loop, unsent, self._listener)
        return await unsent

    def close(self) -> None:
        """Close the port and every connection. Call it only after all queues are empty."""
        listener = self._listener
        if listener is not None:
            listener.close()
            # What is still decoded or unpacked has nobody to be posted to.
            self._listener = None
            self._helper.shutdown()

    def _routes(self, loop: asyncio.AbstractEventLoop) -> dict[bytes, Route]:
        handlers = Handlers(loop, self._post)
        routes = {
            path.encode(): Route(
                handlers.receiver(handler),
                unary=not handler.request_streaming,
                lasting=handler.request_streaming or handler.response_streaming,
            )
            for path, handler in self._methods
        }
        for method in (MODEL_INFER, PREDICT):
            receiver = self._unary.receiver(method)
            routes[method.encode()] = Route(_always(receiver), unary=True, guarded=method)
        streams = Route(self._streams.receiver, unary=False, guarded=MODEL_STREAM_INFER)
        routes[MODEL_STREAM_INFER.encode()] = streams
        return routes

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        listener = self._listener
        if listener is not None:
            listener.post(function, *arguments)

    def _mine(self) -> bool:
        """Whether the caller is the front end's thread."""
        return self._listener is not None and self._listener.mine

    def _elsewhere(self, function: Callable[[], Any], then: Callable[[Any], None]) -> None:
        self._helper.submit(self._run_elsewhere, function, then)

    def _run_elsewhere(self, function: Callable[[], Any], then: Callable[[Any], None]) -> None:
        try:
            result = function()
        except Exception:  # noqa: BLE001  a defect in one step must not end the thread, and nobody else would say of it
            _log.exception("front end failed unexpectedly")
            return
        self._post(then, result)

    def _after(self, loop: asyncio.AbstractEventLoop, seconds: float, function: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(loop.call_later, seconds, self._post, function)

    def _run_inline(self) -> None:
        """Run what no device's thread was woken for, or wake one now."""
        batchers = self._batchers
        if batchers:
            for batcher in batchers:
                batcher.run_inline()
            batchers.clear()

    def _tick(self, now_s: float) -> None:
        if self._report is not None:
            # Elsewhere: it copies the counts of every version.
            self._elsewhere(partial(self._report, now_s), self._show_load)
        budget, listener = self.budget, self._listener
        if listener is not None:
            self._trim.look(now_s, budget.peak, listener.connections + listener.calls)
            budget.peak = budget.used

    def _show_load(self, report: bytes) -> None:
        if self._shared is not None:
            self._shared.ok = (OK, (LOAD_REPORT, report))


def _tell(
    loop: asyncio.AbstractEventLoop, unsent: "asyncio.Future[Mapping[tuple[int, int], int]]", listener: Listener
) -> None:
    found = listener.unsent
    # Nobody waits for it any more where the time was over.
    loop.call_soon_threadsafe(lambda: None if unsent.done() else unsent.set_result(found))


def _always(receiver: Receiver) -> Callable[[Call], Receiver]:
    return lambda _: receiver
