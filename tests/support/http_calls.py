"""Requests over HTTP as anything makes them, without a client of the protocol."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.support.servers import TIMEOUT_S


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        status: the HTTP status.
        headers: by their names in small letters.
        body: the bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What the server says is wrong."""
        told: str = self.json["error"]
        return told


def ask(url: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, method: str = "") -> Answer:
    """Make one request on a connection of its own.

    Args:
        url: the base URL of the server.
        path: the path.
        body: bytes as they are, or what becomes JSON; None for a GET.
        headers: of the request.
        method: of the request; "" for POST where there is a body, else GET.
    """
    there = urlsplit(url)
    connection = http.client.HTTPConnection(there.hostname or "", there.port, timeout=TIMEOUT_S)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, content, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def unrouted(metrics_url: str, code: str) -> float:
    """How many requests were refused with this code of gRPC before their version was known."""
    series = f'frostline_requests_total{{code="{code}",model="",version=""}} '
    lines = ask(metrics_url, "/metrics").body.decode().splitlines()
    return sum(float(line.removeprefix(series)) for line in lines if line.startswith(series))
