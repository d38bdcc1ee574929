"""Requests over HTTP as tests make them, with nothing but Python's own client."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.support.servers import TIMEOUT_S


@dataclass(frozen=True)
class Answer:
    """What a server answered; `headers` by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON, in which there is no NaN: JSON has none."""
        return json.loads(self.body, parse_constant=lambda word: {"no JSON": word})

    @property
    def refusal(self) -> tuple[int, str, str]:
        """The status, the kind and the sentence of an error."""
        return self.status, self.headers.get("frostline-error", ""), self.json["error"]


def ask(
    url: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None
) -> Answer:
    """Send one request, on a connection of its own.

    Args:
        url: the server's.
        path: with the query, if any.
        body: bytes as they are, anything else as JSON; None for a request without.
        headers: further ones.
        method: POST with a body and GET without, if None.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if sent is None else "POST"), path, sent, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()
