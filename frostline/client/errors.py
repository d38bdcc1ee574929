"""The exceptions of the client; each says what to do about it."""

import re
import socket


class FrostlineError(Exception):
    """A call to a server failed.

    Attributes:
        code: The gRPC status name, such as `NOT_FOUND`.
        kind: The server's own word for the failure, such as `queue_full`; "" where no Frostline server said one.
    """

    code = "UNKNOWN"

    def __init__(self, message: str, code: str | None = None, kind: str = "") -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.kind = kind


class ServerUnavailable(FrostlineError):
    """No server answers at the address, or the one that does takes no calls now."""

    code = "UNAVAILABLE"


class Overloaded(FrostlineError):
    """The server has as much to do, or to hold, as its limits allow; the request may be sent again later."""

    code = "UNAVAILABLE"


class ModelNotReady(FrostlineError):
    """The model is there but is still loading, or failed to load."""

    code = "UNAVAILABLE"


class ModelNotFound(FrostlineError):
    """The server has no such model or version."""

    code = "NOT_FOUND"


class InvalidInput(FrostlineError):
    """The input does not fit the model, holds values that its network cannot use, or cannot be sent at all.

    Attributes:
        row: The raw row that the server refuses, among all rows of the call, from 0; None where it names none.
        where: The column in which it is refused, as the message names it; "" where it names no row.
        fact: What is wrong there; "" likewise.
    """

    code = "INVALID_ARGUMENT"
    row: int | None = None
    where = ""
    fact = ""


class DeadlineExceeded(FrostlineError):
    """No answer came within the time allowed."""

    code = "DEADLINE_EXCEEDED"


class MessageTooLarge(FrostlineError):
    """The request is larger than the server accepts."""

    code = "RESOURCE_EXHAUSTED"


class Unauthenticated(FrostlineError):
    """The server wants to know who calls: no token or client certificate was shown, or one it does not know."""

    code = "UNAUTHENTICATED"


class PermissionDenied(FrostlineError):
    """The server knows who calls, and does not let them make this call."""

    code = "PERMISSION_DENIED"


class RateLimited(FrostlineError):
    """The caller makes more calls than the server grants it; the request was not run and may be sent again later."""

    code = "RESOURCE_EXHAUSTED"


class PredictionFailed(FrostlineError):
    """The server accepted the request and failed while answering it."""

    code = "INTERNAL"


# A kind and its remedy decide more exactly than a status: UNAVAILABLE alone is a full queue, a model that loads, a server
# that stops, or no server at all.
_OVERLOADED = (Overloaded, "{sentence}; the server at {address} is overloaded: send less at once, or try again later")
_STOPPING = (ServerUnavailable, "the server at {address} is stopping: {sentence}")
_FAILED = (PredictionFailed, "the server failed while answering: {sentence}")
_UNAUTHENTICATED = (
    Unauthenticated,
    "{sentence}; this client shows who it is with a token (token=, on the command line --token-file) or a certificate",
)
_BY_KIND: dict[str, tuple[type[FrostlineError], str]] = {
    "queue_full": _OVERLOADED,
    "queue_timeout": _OVERLOADED,
    "network_full": _OVERLOADED,
    "too_many_calls": (Overloaded, "{sentence}"),
    "metadata_too_large": (MessageTooLarge, "{sentence}; send less with `metadata`"),
    "overloaded": (Overloaded, "{sentence}; the server at {address} has more to do than its limit allows"),
    "model_not_ready": (
        ModelNotReady,
        "{sentence}; see its state and the reason with `frostline models --server {address}`",
    ),
    "server_stopping": _STOPPING,
    "run_stopped": _STOPPING,
    "version_closing": _STOPPING,
    "unauthenticated": _UNAUTHENTICATED,
    "permission_denied": (PermissionDenied, "{sentence}"),
    "rate_limited": (RateLimited, "{sentence}"),
    "out_of_memory": _FAILED,
    # The server's limit of a run, and not this client's of an answer.
    "run_timed_out": _FAILED,
    # The model is served, but not by this call.
    "unsupported": (InvalidInput, "{sentence}"),
}

_NO_SERVER = "no Frostline server answers at {address}; start one with `frostline serve --models models` ({reason})"
_THROUGH_PROXY = (
    "no Frostline server answers at {address} through the proxy that the environment variable {proxy} names; if it is reached "
    "without one, put its host into no_proxy ({reason})"
)
_DROPPED = (
    "the connection to {address} was dropped ({reason}); is TLS on at one end only, its certificate not trusted, or a "
    "certificate of the client missing?"
)
# Words of what gRPC says, wherever they are in it, and what they mean.
_LET_GO = "the server at {address} closed the connection ({sentence}); the usual cause is more metadata than it takes: send less"
_BY_WORDS = {
    "Expected SETTINGS frame as the first frame": "what answers at {address} does not speak gRPC; this may be the HTTP port "
    "of a Frostline server, whose gRPC has a port of its own (8001 by default)",
    # COMPRESSION_ERROR and ENHANCE_YOUR_CALM: headers that are longer than a server reads, and than it allows.
    "GOAWAY received; Error code: 9;": _LET_GO,
    "GOAWAY received; Error code: 11;": _LET_GO,
    "CERTIFICATE_VERIFY_FAILED": "the certificate of the server at {address} is not trusted; give a PEM file of its authority "
    "with tls= (on the command line --tls-ca)",
    "WRONG_VERSION_NUMBER": "what answers at {address} does not speak TLS; leave tls out, or is this the port of another server?",
    # With TLS 1.3 a server looks at the client's certificate when the client takes the handshake for done.
    "Unwrap failed": "the server at {address} ended TLS after the handshake ({reason}); it may want a certificate of the client, "
    "or not trust the one that it was shown: give certificate= and key= (on the command line --certificate and --key)",
    "missing selected ALPN property": "what answers at {address} speaks TLS, but not gRPC; this may be the HTTP port of a "
    "Frostline server, whose gRPC has a port of its own (8001 by default)",
}
# What gRPC says at last, and what it means.
_BY_REASON = {
    # When the two ends do not speak the same protocol, or TLS fails.
    "OK": _DROPPED,
    "Socket closed": _DROPPED,
    "Hostname Verification Check failed": "the certificate of the server at {address} is for another name; "
    "give the name that it has with server_name",
    "Failed to create security handshaker": "TLS to {address} cannot be set up: a certificate or key given is no PEM, or "
    "the key is not the certificate's",
    "backend unhealthy": "no server at {address} is ready; ask one of them for the reason with "
    "`frostline models --server HOST:PORT`",
}

# What a status means where no kind came with it: from gRPC itself, a proxy, or another server of the protocol.
_BY_CODE: dict[str, tuple[type[FrostlineError], str]] = {
    "NOT_FOUND": (ModelNotFound, "{sentence}"),
    "INVALID_ARGUMENT": (InvalidInput, "{sentence}"),
    "DEADLINE_EXCEEDED": (
        DeadlineExceeded,
        "no answer from {address} within {timeout_s:g} s; allow more time, or see in the server's metrics what it does",
    ),
    "RESOURCE_EXHAUSTED": (
        MessageTooLarge,
        "{sentence}; send fewer rows in one call, or raise the limit with `frostline serve --max-message-bytes`",
    ),
    "INTERNAL": _FAILED,
    "UNAUTHENTICATED": _UNAUTHENTICATED,
    "PERMISSION_DENIED": (PermissionDenied, "{address} does not let you make this call: {sentence}"),
    "UNAVAILABLE": (ServerUnavailable, _NO_SERVER),
    "UNIMPLEMENTED": (FrostlineError, "what answers at {address} is not a Frostline server: {sentence}"),
}
_NO_TARGET = "Illegal status code from resolver"
"""Words of gRPC about a target that it cannot look up, whatever it is asked."""
_LAST_REFUSED = re.compile(r"last error: .*ipv([46]):(?:127\.0\.0\.1|%5B::1%5D):([0-9]+): .*Connection refused$")
"""What gRPC says of the last of the addresses of localhost, and of the other nothing."""
_LOOPBACK = {"4": "127.0.0.1", "6": "[::1]"}


def _has_two_addresses() -> bool:
    """Whether this machine's own name stands for an address of each kind, as gRPC looks it up."""
    try:
        found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return {socket.AF_INET, socket.AF_INET6} <= {family for family, *_ in found}


def from_status(
    code: str, details: str, *, kind: str, address: str, timeout_s: float, proxy: str = ""
) -> FrostlineError:
    """Translates a gRPC status into the error to raise.

    Args:
        code: The status name.
        details: The status message.
        kind: The server's word for the failure, from the trailing metadata; "" if there is none.
        address: Where the call went.
        timeout_s: The time the call was allowed.
        proxy: The environment variable that sends the call through a proxy; "" if there is none.

    Returns:
        The error, naming the fact and the fix.
    """
    sentence = details.rstrip(". ") or code
    # gRPC nests its reasons, the innermost last: "failed to connect to all addresses; ...: Connection refused".
    reason = sentence.rpartition(": ")[2]
    if "[" not in reason:
        reason = reason.rstrip("]")  # of a bracket that was opened before it
    if not reason.strip(")"):
        reason = sentence
    error, template = _BY_KIND.get(kind) or _BY_CODE.get(code) or (FrostlineError, "{code} from {address}: {sentence}")
    if not kind and _NO_TARGET in sentence:
        error, template = ServerUnavailable, "{address} cannot be looked up ({reason}); is the address right?"
        reason = sentence.partition("original status: ")[2] or reason
    elif template is _NO_SERVER:
        # A kind without a class of its own has the server's sentence.
        template = (
            "the server at {address} cannot answer now: {sentence}"
            if kind
            else next((meant for words, meant in _BY_WORDS.items() if words in sentence), "")
            or _BY_REASON.get(reason, _THROUGH_PROXY if proxy else _NO_SERVER)
        )
        refused = _LAST_REFUSED.search(sentence)
        if refused and address.casefold().rpartition(":")[0] == "localhost" and _has_two_addresses():
            last, other = (f"{_LOOPBACK[version]}:{refused[2]}" for version in sorted("46", key=refused[1].__ne__))
            reason += f" at {last}, the last of its addresses; if a server runs here, ask {other}, which tells more"
    words = template.format(
        sentence=sentence, reason=reason, code=code, address=address, timeout_s=timeout_s, proxy=proxy
    )
    return error(words, code, kind)
