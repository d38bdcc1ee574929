"""The access log: one line of JSON for each request, written in one piece for many of them.

A line holds who asked for what, how it ended and how long it took; never what was sent or answered, and no credentials.
"""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from frostline_server.errors import StartError, sendable
from frostline_server.telemetry.finished import Finished
from frostline_server.telemetry.sampling import trace_id_of

STDOUT = "stdout"
_MOST_CHARACTERS = 256
"""Of what a client chooses freely: its id, and the name of a model that may not exist."""
_NEW_FILE = 0o640

_log = structlog.get_logger(__name__)


class AccessLog:
    """Appends lines to a file or to standard output; used by one thread.

    Args:
        target: `STDOUT`, or the path of a file. Several processes may append to it.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._descriptor = -1
        self._failing = False
        self.written = 0
        """Lines that were written."""
        self.lost = 0
        """Lines that could not be."""

    def open(self) -> None:
        """Open the file, or the file that has taken its place.

        Raises:
            StartError: it cannot be opened.
        """
        if self._target == STDOUT:
            self._descriptor = sys.stdout.fileno()
            return
        try:
            opened = os.open(self._target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _NEW_FILE)
        except OSError as error:
            raise StartError(f"cannot open the access log {self._target}: {error.strerror}") from error
        self.close()
        self._descriptor = opened

    def reopen(self) -> None:
        """Open the file again, as after it was rotated; the old one stays if that fails."""
        try:
            self.open()
        except StartError as error:
            _log.error("access log", reason=str(error))

    def write(self, requests: Sequence[Finished], offset_s: float) -> None:
        """Write a line for each request.

        Args:
            requests: all of whom are to be logged.
            offset_s: what turns the `time.monotonic` clock into seconds since 1970.
        """
        text = "".join([_line(request, offset_s) for request in requests]).encode()
        try:
            while text:
                text = text[os.write(self._descriptor, text) :]
        except OSError as error:
            self.lost += len(requests)
            if not self._failing:
                _log.error("access log", target=self._target, reason=f"lines are lost: {error.strerror}")
            self._failing = True
            return
        self.written += len(requests)
        self._failing = False

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0 and self._target != STDOUT:
            os.close(self._descriptor)
        self._descriptor = -1


def _line(request: Finished, offset_s: float) -> str:
    report, batch = request.report, request.batch
    began_s = request.arrived_s if report.received_s is None else report.received_s
    line = {
        "time": datetime.fromtimestamp(request.ended_s + offset_s, UTC).isoformat(timespec="milliseconds"),
        "request_id": _cut(request.request_id),
        "trace_id": request.trace_id or trace_id_of(request.traceparent),
        "identity": report.identity,
        "peer": report.peer,
        "protocol": report.protocol,
        "method": report.method,
        "model": _cut(request.model),
        "version": request.version,
        "status": report.status,
        "error": "" if request.error is None else request.error.kind,
        "rows": request.rows,
        "queue_us": 0 if batch is None else _microseconds(batch.started_s - request.arrived_s),
        "run_us": 0 if batch is None else _microseconds(batch.ran_s - batch.assembled_s),
        "total_us": _microseconds(request.ended_s - began_s),
    }
    return f"{json.dumps(line)}\n"


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _cut(text: str) -> str:
    return sendable(text[:_MOST_CHARACTERS])
