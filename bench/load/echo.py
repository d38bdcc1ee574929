"""An echo server on the server's own HTTP/2 front end, without inference: `python -m bench.load.echo`.

It is the baseline of the transport. It prints its port, and serves until its standard input closes.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from frostline_server.rpc.h2.budget import Budget
from frostline_server.rpc.h2.call import Call, Receiver
from frostline_server.rpc.h2.listener import Crowd, Listener
from frostline_server.rpc.h2.shared import Limits, Route, Shared
from frostline_server.rpc.listening import bound

ECHO = "/bench.Echo/Echo"


class Echo:
    """Answers each call with its message; see `Receiver`."""

    def message(self, call: Call, message: bytes) -> None:
        """Send it back."""
        call.connection.answer(call, message)

    def finished(self, _: Call) -> None:
        """Not of unary calls."""

    def cancelled(self, _: Call) -> None:
        """Nothing is under way."""

    def sent(self, _: Call) -> None:
        """Nothing waits for that."""


@contextmanager
def listening(receiver: Receiver, method: str = ECHO, max_calls: int = 1024) -> Iterator[tuple[str, Listener]]:
    """A front end with one method, for as long as the block; gives its address, and itself.

    Args:
        receiver: takes the calls.
        method: its path.
        max_calls: of one connection, at one time.
    """
    limits = Limits(
        max_message_bytes=2**31 - 1,
        max_calls=max_calls,
        max_header_bytes=16384,
        message_timeout_s=math.inf,
        answer_timeout_s=math.inf,
        handshake_timeout_s=math.inf,
        resets_per_s=1000,
        max_age_s=math.inf,
        age_grace_s=math.inf,
    )

    def at_once(function: Callable[[], Any], then: Callable[[Any], None]) -> None:
        then(function())

    routes = {method.encode(): Route(lambda _: receiver, unary=True, guarded=method)}
    shared = Shared(routes, Budget(2**40), limits, at_once, counted=lambda *_: None)
    sockets = bound("127.0.0.1:0")
    listener = Listener(sockets, shared, Crowd(2**20, 2**20), None, turn=lambda: None, tick=lambda _: None)
    listener.start()
    yield f"127.0.0.1:{sockets[0].getsockname()[1]}", listener
    listener.close()


def main() -> None:
    """Serve."""
    with listening(Echo()) as (address, _):
        sys.stdout.write(f"{address.rpartition(':')[2]}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
