"""The exceptions of the client; each says what to do about it."""


class FrostlineError(Exception):
    """A call to a server failed.

    Attributes:
        code: The gRPC status name, such as `NOT_FOUND`.
    """

    code = "UNKNOWN"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ServerUnavailable(FrostlineError):
    """No server answers at the address, or the one that does is stopping."""

    code = "UNAVAILABLE"


class Overloaded(FrostlineError):
    """The model's queue is full, or an answer would come too late; the request was refused and may be sent again later."""

    code = "UNAVAILABLE"


class ModelNotReady(FrostlineError):
    """The model is there but is still loading, or failed to load."""

    code = "UNAVAILABLE"


class ModelNotFound(FrostlineError):
    """The server has no such model or version."""

    code = "NOT_FOUND"


class InvalidInput(FrostlineError):
    """The input does not fit the model, or cannot be sent at all."""

    code = "INVALID_ARGUMENT"


class DeadlineExceeded(FrostlineError):
    """No answer came within the time allowed."""

    code = "DEADLINE_EXCEEDED"


class MessageTooLarge(FrostlineError):
    """The request is larger than the server accepts."""

    code = "RESOURCE_EXHAUSTED"


class PredictionFailed(FrostlineError):
    """The server accepted the request and failed while answering it."""

    code = "INTERNAL"


def from_status(code: str, details: str, *, address: str, timeout_s: float) -> FrostlineError:
    """Translates a gRPC status into the error to raise.

    Args:
        code: The status name.
        details: The status message.
        address: Where the call went.
        timeout_s: The time the call was allowed.

    Returns:
        The error, naming the fact and the fix.
    """
    sentence = details.rstrip(". ") or code
    if code == "UNAVAILABLE":
        return _unavailable(sentence, address)
    if code == "RESOURCE_EXHAUSTED" and "overloaded:" in sentence.lower():
        return Overloaded(f"{sentence}; the server at {address} has more to do than its limit allows", code)
    if code == "UNIMPLEMENTED" and sentence.startswith("model "):
        # The model is served, but not by this call.
        return InvalidInput(sentence, code)
    kind, template = _BY_CODE.get(code, (FrostlineError, "{code} from {address}: {sentence}"))
    return kind(template.format(sentence=sentence, code=code, address=address, timeout_s=timeout_s), code)


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
    "INTERNAL": (PredictionFailed, "the server failed while answering: {sentence}"),
    "UNIMPLEMENTED": (FrostlineError, "what answers at {address} is not a Frostline server: {sentence}"),
}


# gRPC uses UNAVAILABLE for its own connection troubles, and the protocol uses it for three conditions of the server
# that are told apart only by their sentences.
def _unavailable(sentence: str, address: str) -> FrostlineError:
    lowered = sentence.lower()
    if "queue" in lowered or "request timeout expired" in lowered:
        return Overloaded(f"{sentence}; the server at {address} is overloaded: send less at once, or try again later")
    if "ready state" in lowered or "not ready" in lowered:
        return ModelNotReady(f"{sentence}; see its state and the reason with `frostline models --server {address}`")
    if "stopping" in lowered or "draining" in lowered:
        return ServerUnavailable(f"the server at {address} is stopping: {sentence}")
    # gRPC nests its reasons, the innermost last: "failed to connect to all addresses; ...: Connection refused".
    reason = sentence.rpartition(": ")[2]
    if reason in ("OK", "Socket closed"):
        # What gRPC says when the two ends do not speak the same protocol.
        return ServerUnavailable(
            f"the connection to {address} was dropped ({reason}); is TLS on at one end only, or its certificate not trusted?"
        )
    return ServerUnavailable(
        f"no Frostline server answers at {address}; start one with `frostline serve --models models` ({reason})"
    )
