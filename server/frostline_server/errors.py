"""The exceptions of the server: how a prediction, a model or the server itself can fail.

No exception here depends on gRPC. Each kind of failed prediction has a word for clients, the canonical status name that
they see, and the reason under which Triton's failure counter counts it, so logs, metrics and clients agree.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class PredictionError(Exception):
    """A request that cannot be answered; the message says what was expected and what came."""

    kind: ClassVar[str] = "unknown"
    """The class as one word that clients can rely on; see docs/clients.md. No two classes have the same."""
    code: ClassVar[str] = "UNKNOWN"
    reason: ClassVar[str] = "OTHER"
    pushback_ms: int | None = None
    """After how many milliseconds the client may try again, where that is known."""


class InvalidInput(PredictionError):
    """The request contradicts the model's inputs, outputs or limits."""

    kind = "invalid_input"
    code = "INVALID_ARGUMENT"


class MessageTooLarge(PredictionError):
    """The message is larger than the server accepts."""

    kind = "message_too_large"
    code = "RESOURCE_EXHAUSTED"
    reason = "REJECTED"


class NetworkFull(PredictionError):
    """The messages in flight, requests and answers together, leave no room for this one."""

    kind = "network_full"
    code = "RESOURCE_EXHAUSTED"
    reason = "REJECTED"


class TooManyCalls(PredictionError):
    """The connection has as many calls that last, such as watches, as it may have."""

    kind = "too_many_calls"
    code = "RESOURCE_EXHAUSTED"
    reason = "REJECTED"


class MetadataTooLarge(PredictionError):
    """The call has more metadata than one may have."""

    kind = "metadata_too_large"
    code = "RESOURCE_EXHAUSTED"
    reason = "REJECTED"


class Unsupported(PredictionError):
    """The request uses a part of the protocol that is not answered here."""

    kind = "unsupported"
    code = "UNIMPLEMENTED"


class ModelNotFound(PredictionError):
    """No such model, or no such version of it."""

    kind = "model_not_found"
    code = "NOT_FOUND"


class RegionNotFound(PredictionError):
    """No region of shared memory is registered under that name."""

    kind = "region_not_found"
    code = "NOT_FOUND"


class AlreadyExists(PredictionError):
    """The name is taken."""

    kind = "already_exists"
    code = "ALREADY_EXISTS"


class TooManyRegions(PredictionError):
    """As many regions of shared memory are registered as may be."""

    kind = "too_many_regions"
    code = "RESOURCE_EXHAUSTED"
    reason = "REJECTED"


class ModelNotReady(PredictionError):
    """The version exists and cannot answer now."""

    kind = "model_not_ready"
    code = "UNAVAILABLE"


class QueueFull(PredictionError):
    """As many rows wait as may wait."""

    kind = "queue_full"
    code = "UNAVAILABLE"
    reason = "REJECTED"


class Overloaded(PredictionError):
    """The answer would come later than the model's `slo_ms` allows, or than the client waits."""

    kind = "overloaded"
    code = "RESOURCE_EXHAUSTED"
    reason = "REJECTED"

    def __init__(self, message: str, pushback_ms: int | None = None) -> None:
        super().__init__(message)
        self.pushback_ms = pushback_ms


class QueueTimeout(PredictionError):
    """The request waited for the device longer than its queue's policy lets it."""

    kind = "queue_timeout"
    code = "UNAVAILABLE"
    reason = "REJECTED"


class ProcessSilent(PredictionError):
    """One of several processes does not answer, without which the answer to a question to all would be wrong."""

    kind = "process_silent"
    code = "UNAVAILABLE"


class ServerStopping(PredictionError):
    """The server is draining and takes no new requests."""

    kind = "server_stopping"
    code = "UNAVAILABLE"
    reason = "REJECTED"


class BatcherClosed(ServerStopping):
    """The version's queue is closing: it was replaced, or the server stops."""

    kind = "version_closing"


class Unauthenticated(PredictionError):
    """The caller shows credentials that are not known here, or shows none and needs some."""

    kind = "unauthenticated"
    code = "UNAUTHENTICATED"
    reason = "REJECTED"


class PermissionDenied(PredictionError):
    """The caller is known and lacks the role, or the role cannot be used through this port."""

    kind = "permission_denied"
    code = "PERMISSION_DENIED"
    reason = "REJECTED"


class RateLimited(PredictionError):
    """The caller sends more requests a second than it may."""

    kind = "rate_limited"
    code = "RESOURCE_EXHAUSTED"
    reason = "REJECTED"

    def __init__(self, message: str, pushback_ms: int | None = None) -> None:
        super().__init__(message)
        self.pushback_ms = pushback_ms


class ModelControlOff(PredictionError):
    """Models are not loaded and unloaded by request on this server."""

    kind = "model_control_off"
    code = "UNAVAILABLE"


class LoadFailed(PredictionError):
    """A model that was asked for could not be loaded."""

    kind = "load_failed"
    code = "INVALID_ARGUMENT"


class DeadlineExceeded(PredictionError):
    """The client's deadline passed before the request reached the device."""

    kind = "deadline_exceeded"
    code = "DEADLINE_EXCEEDED"
    reason = "CANCELED"


class Cancelled(PredictionError):
    """The client gave the request up."""

    kind = "cancelled"
    code = "CANCELLED"
    reason = "CANCELED"


class RunFailed(PredictionError):
    """The network failed on this batch; where no subclass says otherwise, the server, its device or the file is at fault."""

    kind = "run_failed"
    code = "INTERNAL"
    reason = "BACKEND"


class InvalidData(RunFailed):
    """The network failed on the values or shapes of this batch, and would fail on them again."""

    kind = "invalid_data"
    code = "INVALID_ARGUMENT"

    def __init__(self, message: str, where: str = "", rows: Mapping[int, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self._where = where
        self._rows = rows

    @classmethod
    def of_rows(cls, where: str, rows: Mapping[int, str]) -> "InvalidData":
        """The error that some rows of a batch are bad, and all others are not.

        Args:
            where: the column, in words.
            rows: what is wrong with each, by its number in the batch; one or more.
        """
        row, fact = next(iter(rows.items()))
        return cls(f"{where}, row {row}: {fact}", where, rows)

    def within(self, start: int, stop: int) -> "InvalidData | None":
        """The error of those of the rows that it names from `start` to `stop`, counted from `start`; None if there are none."""
        bad = {row - start: fact for row, fact in self._rows.items() if start <= row < stop}
        return InvalidData.of_rows(self._where, bad) if bad else None


class OutOfMemory(RunFailed):
    """There was not enough memory to run this batch; a smaller one may run, now or later.

    Not INTERNAL, because one request can ask for more memory than any machine has.
    """

    kind = "out_of_memory"
    code = "RESOURCE_EXHAUSTED"


class RunTimedOut(RunFailed):
    """The run took longer than `max_run_s` allows and was ended, or given up because it did not end.

    Not INTERNAL, because a request's values may decide how long a run takes; whose, in a batch of several, is not known.
    """

    kind = "run_timed_out"
    code = "DEADLINE_EXCEEDED"


class RunStopped(RunTimedOut):
    """The run was ended because the server stops and could wait no longer; another server may answer."""

    kind = "run_stopped"
    code = "UNAVAILABLE"
    reason = "REJECTED"


class LoadError(Exception):
    """A version that cannot be served; the message is the reason operators see."""


class GraphsFailed(Exception):
    """CUDA graphs could not be captured, and the session that tried must be given up; the message says why."""


class ConfigError(Exception):
    """A setting that makes no sense; one sentence for the person who set it."""


class StartError(Exception):
    """The server cannot start; one sentence saying why and what to do."""

    def naming(self, host: str, port: str) -> "StartError":
        """The same with the settings that say where to listen, where it is that which the system refuses.

        Args:
            host: the setting of the address, as a flag.
            port: the setting of the port, as a flag.
        """
        if not isinstance(self.__cause__, OSError):
            return self
        return StartError(f"{self}; {port} chooses another port, and {host} another address")


def sendable(text: str) -> str:
    """A text as UTF-8 can hold it: what an error quotes of a file, or of its name, may not be."""
    return text.encode(errors="backslashreplace").decode()
