"""The HTTP front end: it listens, answers on the event loop, and stops.

It is a second way in to the same inference, not a second server: its requests join the batches of gRPC's.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.routing import BaseRoute
from uvicorn.config import Config
from uvicorn.server import ServerState

from frostline_server.access.reach import local_only
from frostline_server.config import ServerConfig
from frostline_server.errors import StartError
from frostline_server.http.application import Application
from frostline_server.http.h1.connection import Connection
from frostline_server.http.h1.listener import Listener
from frostline_server.http.h1.shared import Limits, Shared
from frostline_server.http.security import Origins
from frostline_server.reserve import most_files
from frostline_server.rpc.h2.budget import Budget
from frostline_server.rpc.h2.memory import Trim, give_back
from frostline_server.rpc.server import tls_contexts

_BACKLOG = 1024
_IDLE_S = 75
"""How long a connection may be open without a request, in seconds."""
_CLOSING_S = 0.01
"""How often it is looked whether all connections have ended."""
_LOOK_S = 1.0
"""How often every connection is looked at, in seconds."""
_MOST_CONNECTIONS = 4096
"""And never more than a quarter of the files that the process may open: gRPC and models need some too."""
_MOST_CONNECTIONS_EACH = _MOST_CONNECTIONS // 4
"""From one address, so that one does not take all of them, as a connection with a request makes no way."""


class HttpFrontEnd:
    """Answers HTTP on one address.

    Args:
        config: the server's settings.
        routes: what is answered.
        network_bytes: memory for messages in flight, in bytes.
        begin: is called when a request begins.
        reuse_port: whether other processes listen on the same port.
    """

    def __init__(
        self,
        config: ServerConfig,
        routes: Sequence[BaseRoute],
        network_bytes: int,
        begin: Callable[[], None],
        *,
        reuse_port: bool = False,
    ) -> None:
        self._config = config
        self._reuse_port = reuse_port
        self._listener: Listener | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._long_work = ThreadPoolExecutor(1, "http-long-work")
        self._certificate = tls_contexts(config, "http/1.1")
        self.budget = Budget(network_bytes)
        local = local_only(config.host)
        self._origins = Origins(
            config.host_names,
            config.cors_origins,
            trusted=local and bool(config.anonymous_roles(local=local)),
        )
        # What could never find room, as large bodies are held twice, is too long, and not to be sent again.
        most = min(Limits.body_of(config.max_message_bytes), self.budget.largest // 2)
        application = Application(routes, self._origins, most)
        self._uvicorn = Config(
            application,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_IDLE_S,
        )
        files = most_files()
        self._limits = Limits(
            head_bytes=config.max_header_bytes,
            body_bytes=most,
            head_s=config.handshake_timeout_s,
            body_s=config.message_timeout_s,
            unread_s=config.answer_timeout_s,
            connections=min(config.max_connections, _MOST_CONNECTIONS, max(1, files // 4)),
            connections_per_address=min(config.max_connections_per_address, _MOST_CONNECTIONS_EACH),
        )
        self._shared: Shared | None = None
        self._begin = begin
        self._trim = Trim(lambda calls: asyncio.get_running_loop().run_in_executor(None, give_back, calls))

    async def start(self) -> str:
        """Start to listen.

        Returns:
            The base URL.

        Raises:
            StartError: the address cannot be bound, or the certificate cannot be read.
        """
        config = self._config
        host = config.host.strip("[]")
        # Its lines would be of clients' faults, which are counted.
        for library in ("uvicorn.error", "python_multipart"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self._uvicorn.load()
        loop = asyncio.get_running_loop()
        shared = self._shared = Shared(
            self._uvicorn, ServerState(), loop, self._limits, self.budget, self._origins, self._begin, self._long_work
        )
        if self._certificate is not None:
            self._certificate.start()
        try:
            listening = socket.create_server(
                (host, config.http_port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=_BACKLOG,
                reuse_port=self._reuse_port,
                dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}:{config.http_port} for HTTP: {error.strerror}; choose another port with --http-port, or "
                "turn HTTP off with --no-http"
            ) from error
        self._listener = Listener(listening, shared, None if self._certificate is None else self._certificate.look)
        self._listener.start()
        self._look()
        port = listening.getsockname()[1]
        return f"{'https' if self._certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def reload(self) -> None:
        """Read the certificate again if its files have changed."""
        if self._certificate is not None:
            self._certificate.look()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._listener is None else self._listener.open

    @property
    def asked(self) -> bool:
        """Whether there are requests."""
        return self._shared is not None and bool(self._shared.state.tasks)

    @property
    def refused(self) -> Mapping[str, int]:
        """What was refused before anything else saw it, by reason."""
        return {} if self._shared is None else dict(self._shared.refused)

    @property
    def unsent(self) -> dict[object, int]:
        """What has not left: bytes by connection, and -1 by request whose answer is being made."""
        found: dict[object, int] = {}
        for connection in self._connections():
            found |= {id(exchange): -1 for exchange in connection.unanswered}
            if size := connection.unsent:
                found[id(connection)] = size
        return found

    def _connections(self) -> list[Connection]:
        return (
            []
            if self._shared is None
            else [each for each in self._shared.state.connections if isinstance(each, Connection)]
        )

    def leave(self) -> None:
        """Tell all clients, with their next answers, to make further requests elsewhere."""
        if self._shared is not None:
            self._shared.leaving = True

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls still open get `grace_s` seconds to end."""
        if self._looking is not None:
            self._looking.cancel()
        shared, listener = self._shared, self._listener
        if shared is None or listener is None:
            return
        await listener.close()
        for connection in list(shared.state.connections):
            connection.shutdown()
        until_s = time.monotonic() + grace_s
        # Until all have ended, not only all tasks: the next request may have come already, and answers must leave.
        while shared.state.connections and time.monotonic() < until_s:
            await asyncio.sleep(_CLOSING_S)
        for task in list(shared.state.tasks):
            task.cancel()
        for connection in list(shared.state.connections):
            connection.transport.abort()
        if shared.state.tasks:
            await asyncio.wait(list(shared.state.tasks))
        self._long_work.shutdown(cancel_futures=True)
        # Transports close their sockets in the turn after the one in which they are told to.
        await asyncio.sleep(0)

    def _look(self) -> None:
        shared = self._shared
        if shared is None:
            return
        now_s = time.monotonic()
        open_now = self.connections
        for connection in self._connections():
            open_now += connection.requests
            connection.look(now_s)
        self._trim.look(now_s, self.budget.peak, open_now)
        self.budget.peak = self.budget.used
        self._looking = shared.loop.call_later(_LOOK_S, self._look)
