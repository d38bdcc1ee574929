"""Errors as HTTP statuses: the same errors as over gRPC, each with the status that web clients expect."""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Self

from frostline_server.errors import PredictionError, sendable

_STATUSES: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""By the names of gRPC's codes."""
_OF_KINDS: Mapping[str, int] = {"message_too_large": 413, "network_full": 503, "out_of_memory": 503}
"""Where an error's kind says more than its code."""

KIND = "frostline-error"
"""The header with an error's kind, as in gRPC's trailing metadata."""
_MOST_CHARACTERS = 4000


class Failure(Exception):
    """How a request ends that is not answered.

    Args:
        status: the HTTP status.
        sentence: what was expected, what came, what to do.
        kind: one word that clients can rely on; see docs/clients.md.
        retry_s: seconds after which it may be tried again, where that is known.
        code: the name of the gRPC code that says the same, where there is one.
        allowed: the methods that the path has, where the request's is none of them.
    """

    def __init__(
        self, status: int, sentence: str, kind: str = "", retry_s: int | None = None, code: str = "", allowed: str = ""
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.allowed = allowed
        self.sentence = sendable(sentence)[:_MOST_CHARACTERS]
        self.kind = kind
        self.retry_s = retry_s

    @classmethod
    def of_code(cls, code: str, sentence: str, kind: str = "", retry_s: int | None = None) -> Self:
        """What an error of gRPC is here.

        Args:
            code: the name of its code.
            sentence: as above.
            kind: as above.
            retry_s: as above.
        """
        return cls(_OF_KINDS.get(kind) or _STATUSES.get(code, 500), sentence, kind, retry_s, code)

    @property
    def body(self) -> bytes:
        """The JSON object that Triton's clients read."""
        return json.dumps({"error": self.sentence}).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers beside those of every answer."""
        said = [(b"content-type", b"application/json")]
        if self.kind:
            said.append((KIND.encode(), self.kind.encode()))
        if self.retry_s is not None:
            said.append((b"retry-after", str(self.retry_s).encode()))
        if self.allowed:
            said.append((b"allow", self.allowed.encode("latin-1")))
        if self.status == HTTPStatus.UNAUTHORIZED:
            said.append((b"www-authenticate", b"Bearer"))
        return said


def invalid(sentence: str) -> Failure:
    """The failure of a request that contradicts the model, the protocol or itself."""
    return Failure(400, sentence, "invalid_input")


def failure_of(error: PredictionError, request_id: str = "") -> Failure:
    """A failed prediction as an HTTP failure; the message starts with the request's id if it has one."""
    sentence = f"[request id: {request_id[:128]}] {error}" if request_id else str(error)
    retry_s = None if error.pushback_ms is None else math.ceil(error.pushback_ms / 1000)
    return Failure.of_code(error.code, sentence, error.kind, retry_s)


def failure_head(failure: Failure, more: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A whole answer that says why a request failed and that the connection ends.

    Args:
        failure: why.
        more: further headers.
    """
    body = failure.body
    lines = [
        f"HTTP/1.1 {failure.status} {_phrase(failure.status)}".encode(),
        *(name + b": " + value for name, value in (*failure.headers, *more)),
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    return b"\r\n".join((*lines, b"", body))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # such as 499
        return ""
