"""The honest client: it calls at a steady rate by gRPC's own client, checks every answer, and prints what it saw as JSON.

It does not wait for an answer before the next call, and a call's latency counts from when it was due. So a server that
stands still for a second delays all calls of that second. Once a second a new connection makes a call too, as a new client
would, and another one over REST.
"""

import argparse
import itertools
import json
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.attacks.workload import questions
from bench.load import rest
from bench.load.workload import Questions, WrongAnswer
from frostline.protocol import MODEL_INFER

RATE = 200.0
"""Calls a second."""
NEW = "on a new connection"
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Seen:
    """What the client saw in a period.

    Attributes:
        right: right answers.
        p50_ms: of the latency of calls with a right answer, and of the time that others have waited so far; NaN
            without any.
        p99_ms: the same.
        most_ms: the longest.
        new_ms: the longest of a call on a new connection.
        bad: calls with another outcome, by a wrong answer or the status.
    """

    right: int
    p50_ms: float
    p99_ms: float
    most_ms: float
    new_ms: float
    bad: dict[str, int]

    def json(self) -> dict[str, Any]:
        """As the constructor takes it."""
        return asdict(self)


def summed(
    latency_s: Sequence[float], new_s: Sequence[float], bad: Mapping[str, int], open_s: Sequence[float] = ()
) -> Seen:
    """The summary of a period.

    Args:
        latency_s: of its calls with a right answer.
        new_s: the same on new connections.
        bad: other outcomes.
        open_s: how long calls have waited that have no outcome yet.
    """
    ordered = np.array([*latency_s, *open_s] or [np.nan]) * 1000
    p50, p99 = np.percentile(ordered, [50, 99], method="higher")
    return Seen(
        len(latency_s), float(p50), float(p99), float(ordered.max()), max(new_s, default=np.nan) * 1000, dict(bad)
    )


class Client:
    """Calls until it is stopped; `period` ends one period and begins the next.

    Args:
        address: of the server.
        credentials: of TLS; None for none.
        asked: the requests.
        http: the URL of the server's HTTP port; "" for none.
        trusting: what is trusted there.
    """

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        asked: Questions,
        http: str = "",
        trusting: ssl.SSLContext | None = None,
    ) -> None:
        self._http = http
        self._trusting = trusting
        self._address = address
        self._credentials = credentials
        self._asked = asked
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._due_s: dict[int, float] = {}  # of open calls, by their numbers
        self._clear()

    def _clear(self) -> None:
        self._latency_s: list[float] = []
        self._new_s: list[float] = []
        self._bad: Counter[str] = Counter()

    def period(self) -> Seen:
        """What was seen since the last time."""
        with self._lock:
            now_s = time.perf_counter()
            open_s = [now_s - due_s for due_s in self._due_s.values()]
            seen = summed(self._latency_s, self._new_s, self._bad, open_s)
            self._clear()
        return seen

    def stop(self) -> None:
        """Stop calling."""
        self._stopped.set()

    def steady(self) -> None:
        """Call at a steady rate over one connection."""
        with self._channel() as channel:
            call: Any = channel.unary_unary(MODEL_INFER, None, None)
            begin_s = time.perf_counter()
            for number in itertools.count():
                due_s = begin_s + number / RATE
                if self._stopped.wait(max(0.0, due_s - time.perf_counter())):
                    return
                message = self._asked.messages[number % len(self._asked.messages)]
                with self._lock:
                    self._due_s[number] = due_s
                call.future(message, timeout=_TIMEOUT_S).add_done_callback(partial(self._done, number))

    def _done(self, number: int, future: Any) -> None:
        bad = self._outcome(number, future.result)
        now_s = time.perf_counter()
        with self._lock:
            due_s = self._due_s.pop(number)
        self._note(self._latency_s, now_s - due_s, bad)

    def new(self) -> None:
        """Call once a second over a new connection."""
        number = 0
        while not self._stopped.wait(1.0):
            begin = time.perf_counter()
            with self._channel() as channel:
                bad = self.ask(channel.unary_unary(MODEL_INFER, None, None), number)
            self._note(self._new_s, time.perf_counter() - begin, bad and f"{bad} {NEW}")
            number += 1

    def rest(self) -> None:
        """Ask for the same over REST once a second, on a new connection; without a port of HTTP, not at all."""
        number = 0
        while self._http and not self._stopped.wait(1.0):
            begin = time.perf_counter()
            bad = self.ask_rest(number)
            self._note(self._new_s, time.perf_counter() - begin, bad and f"REST: {bad} {NEW}")
            number += 1

    def ask_rest(self, number: int) -> str:
        """Ask over REST and wait; returns what is wrong with its outcome, or nothing."""
        index = number % len(self._asked.messages)
        path, headers, body = rest.asking(self._asked.messages[index])
        url = f"{self._http.replace('0.0.0.0:', '127.0.0.1:')}{path}"
        # S310: the URL is the server's own.
        request = urllib.request.Request(url, body, dict(each.split(": ") for each in headers))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._trusting)
        )
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as answer:
                self._asked.check(index, rest.message_of(answer.read(), int(answer.headers[rest.LENGTH])))
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError as error:
            return type(error).__name__
        except WrongAnswer:
            return "wrong answer"
        return ""

    def _channel(self) -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
        if self._credentials is None:
            return grpc.insecure_channel(self._address, options)
        return grpc.secure_channel(self._address, self._credentials, options)

    def ask(self, call: Any, number: int) -> str:
        """Make a call and wait; returns what is wrong with its outcome, or nothing."""
        message = self._asked.messages[number % len(self._asked.messages)]
        return self._outcome(number, lambda: call(message, timeout=_TIMEOUT_S))

    def _outcome(self, number: int, result: Callable[[], bytes]) -> str:
        try:
            self._asked.check(number % len(self._asked.messages), result())
        except grpc.RpcError as error:
            return str(error.code().name)
        except grpc.FutureCancelledError:
            return "CANCELLED"
        except WrongAnswer:
            return "wrong answer"
        return ""

    def _note(self, latency_s: list[float], took_s: float, bad: str) -> None:
        with self._lock:
            if bad:
                self._bad[bad] += 1
            else:
                latency_s.append(took_s)


def main() -> None:
    """Parse the command line, call, and print a period's summary for every line that comes in."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks.honest", description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="host:port of the server")
    parser.add_argument("--http", default="", help="URL of its HTTP port")
    parser.add_argument("--ca", type=Path, help="PEM file of the authority that signed the server's certificate")
    options = parser.parse_args()
    credentials = grpc.ssl_channel_credentials(options.ca.read_bytes()) if options.ca else None
    trusting = ssl.create_default_context(cafile=str(options.ca)) if options.ca else None
    client = Client(options.address, credentials, questions(), options.http, trusting)
    threads = [threading.Thread(target=task) for task in (client.steady, client.new, client.rest)]
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(client.period().json()) + "\n")
        sys.stdout.flush()
    client.stop()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
