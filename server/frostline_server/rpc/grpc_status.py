"""The gRPC status mapping: it translates a prediction error into the status that the client sees.

Each class in `errors` names its own code. No other module translates errors into statuses.
"""

import grpc

from frostline.protocol import ERROR_KIND
from frostline_server.errors import PredictionError, sendable

# In bytes. The message travels in a header, where escaping may triple it, and clients refuse headers of more than 8 KiB.
_MAX_MESSAGE = 2000
_MAX_ID = 128


def status(error: PredictionError, request_id: str = "") -> tuple[grpc.StatusCode, str]:
    """The status code and message of an error; the message starts with the request's id if it has one."""
    message = _cut(str(error), _MAX_MESSAGE)
    if request_id:
        message = f"[request id: {_cut(request_id, _MAX_ID)}] {message}"
    return grpc.StatusCode[error.code], message


def _cut(text: str, size: int) -> str:
    encoded = sendable(text).encode()
    return encoded.decode() if len(encoded) <= size else f"{encoded[:size].decode(errors='ignore')}..."


PUSHBACK = "retry-pushback-ms"
GRPC_PUSHBACK = f"grpc-{PUSHBACK}"
"""The key that gRPC's own retries obey."""


def trailers(error: PredictionError, *keys: str) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of an error: its kind, and under each of `keys` the milliseconds to wait before a retry, if known."""
    waits = () if error.pushback_ms is None else tuple([(key, str(error.pushback_ms)) for key in keys])
    return ((ERROR_KIND, error.kind), *waits)


Ending = tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]
"""The status, message and trailing metadata that a call ends with."""


def ending(error: PredictionError, request_id: str = "") -> Ending:
    """How a call ends with an error."""
    return *status(error, request_id), trailers(error, PUSHBACK, GRPC_PUSHBACK)
