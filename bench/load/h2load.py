"""The closed-loop load generator: h2load, a program in C, which sends a new request for every answer."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WARM_UP = 0.2
"""The part of a run, at its start, whose answers do not count."""

GRPC = ("content-type: application/grpc", "te: trailers")
_PATIENCE_S = 10.0
_ATTEMPTS = 3


class LoadFailed(Exception):
    """The load generator is missing, or a request was not answered correctly."""


@dataclass(frozen=True)
class Run:
    """The result of one run.

    Attributes:
        answered: all requests that were answered, those of the warm-up too.
        rate: answers a second after the warm-up.
        p50_ms: median time from request to answer.
        p99_ms: its 99th percentile.
    """

    answered: int
    rate: float
    p50_ms: float
    p99_ms: float


def run(
    address: str,
    method: str,
    body: bytes,
    in_flight: int,
    seconds: float,
    *,
    answer_bytes: int,
    connections: int = 1,
    tls: bool = False,
    headers: Sequence[str] = GRPC,
    http1: bool = False,
) -> Run:
    """Load a server.

    Args:
        address: host:port.
        method: /package.Service/Method, or the path of a URL.
        body: of every request: the length-prefixed messages.
        in_flight: requests in flight, over all connections; a multiple of `connections`.
        seconds: how long, warm-up included.
        answer_bytes: the size of a right answer with its prefix. gRPC reports errors in trailers that h2load does not
            read, but an error has no message, so a run with errors has too few bytes.
        connections: over which the requests are spread.
        tls: whether they are encrypted.
        headers: of every request.
        http1: whether they are of HTTP/1.1, one at a time on a connection.

    Raises:
        LoadFailed: see there.
    """
    program = shutil.which("h2load")
    if program is None:
        raise LoadFailed("h2load is not installed; it is in the Debian package nghttp2-client")
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "body", Path(folder) / "log"
        data.write_bytes(body)
        command = [program, f"-c{connections}", "-t1", f"-m{in_flight // connections}", f"-D{round(seconds * 1000)}ms"]
        command += [f"--log-file={log}", f"--data={data}"]
        command += [part for header in headers for part in ("-H", header)] + (["--h1"] if http1 else [])
        command.append(f"http{'s' if tls else ''}://{address}{method}")
        out = _report(command, seconds)
        answered = checked(out, in_flight, answer_bytes)
        return summary(np.loadtxt(log, np.int64, ndmin=2), answered)


def _report(command: list[str], seconds: float) -> str:
    """The output of h2load, which runs again if it does not end: its time was over before all connections were open."""
    for _ in range(_ATTEMPTS):
        try:
            return subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=seconds + _PATIENCE_S
            ).stdout
        except subprocess.TimeoutExpired:
            continue
    raise LoadFailed(
        f"h2load did not end within {_PATIENCE_S:g} s after its time, {_ATTEMPTS} times: {' '.join(command)}"
    )


def checked(out: str, in_flight: int, answer_bytes: int) -> int:
    """The number of answers in h2load's report.

    Raises:
        LoadFailed: requests failed, or the answers have the wrong size.
    """
    requests = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", out)
    traffic = re.search(r"\((\d+)\) data$", out, re.MULTILINE)
    if not (requests and traffic):
        raise LoadFailed(f"h2load's report cannot be read:\n{out}")
    answered, *failed = map(int, requests.groups())
    if any(failed) or not answered:
        raise LoadFailed(f"h2load reports failures:\n{out}")
    # What was in flight at the end may have been answered in part.
    if not 0 <= int(traffic[1]) - answered * answer_bytes <= in_flight * answer_bytes:
        raise LoadFailed(
            f"{answered} answers have {traffic[1]} bytes, expected {answer_bytes} each: some requests failed"
        )
    return answered


def summary(log: Array, answered: int) -> Run:
    """Rate and percentiles of h2load's log.

    Args:
        log: [N, 3], for each answer when its request left in microseconds, the HTTP status, and the microseconds it took.
        answered: see `Run`.
    """
    start, took = log[:, 0], log[:, 2]
    end = start + took
    mark = start.min() + WARM_UP * (end.max() - start.min())
    # Answers come in bursts, one for each batch. From the end of one burst to the end of another, none is counted whose
    # time is not.
    begin = end[end <= mark].max(initial=start.min())
    counted = end > begin
    p50, p99 = np.percentile(took[counted], [50, 99]) / 1000
    return Run(answered, float(np.count_nonzero(counted) / (end.max() - begin) * 1e6), float(p50), float(p99))
