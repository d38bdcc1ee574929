"""Load reports for balancing clients: how busy this server is, in the trailers of its answers, in ORCA's format.

A client with the policy `weighted_round_robin` gives a server the more calls, the more answers it gives for each unit of
its utilisation. https://github.com/grpc/proposal/blob/master/A51-custom-backend-metrics.md
"""

import base64
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from frostline_server.repository.registry import VersionSnapshot

KEY = "endpoint-load-metrics-bin"

# xds.data.orca.v3.OrcaLoadReport: the numbers of its fields of type double, and of its map of named metrics.
_RPS_FRACTIONAL, _EPS, _NAMED_METRICS, _APPLICATION_UTILIZATION = 6, 7, 8, 9
_DOUBLE, _BYTES = 1, 2


@dataclass(frozen=True, slots=True)
class Totals:
    """What a server has done since it started.

    Attributes:
        answered: requests.
        failed: requests.
        queue_s: time that the answered ones waited, in seconds, added up.
        run_s: for each version, how long its devices ran.
        cpu_s: CPU time of the process.
    """

    answered: int
    failed: int
    queue_s: float
    run_s: dict[tuple[str, str], float]
    cpu_s: float

    @classmethod
    def of(cls, versions: list[VersionSnapshot]) -> "Totals":
        """The totals of these versions, and of this process."""
        loaded = [(version, version.loaded.stats) for version in versions if version.loaded is not None]
        return cls(
            sum(stats.succeeded for _, stats in loaded),
            sum(sum(stats.codes.values()) - stats.succeeded for _, stats in loaded),
            sum(stats.queue_seconds.total for _, stats in loaded),
            {(version.name, version.version): stats.run_seconds.total for version, stats in loaded},
            time.process_time(),
        )


class LoadReport:
    """Measures the load between two looks.

    Args:
        totals: what the server has done since it started.
        cpus: that the process may keep busy; a fraction where several processes share them.
        now_s: the time, on the `time.monotonic` clock.
    """

    def __init__(self, totals: Callable[[], Totals], cpus: float, now_s: float) -> None:
        self._totals = totals
        self._cpus = cpus
        self._before = totals()
        self._before_s = now_s

    def measure(self, now_s: float) -> bytes:
        """The value of the trailer, for what happened since the last look.

        The utilisation is the larger one of the CPUs' and of the busiest version's device.
        """
        before, seconds = self._before, max(now_s - self._before_s, 1e-3)
        now = self._before = self._totals()
        self._before_s = now_s
        answered = max(0, now.answered - before.answered)
        busy_s = [run_s - before.run_s.get(version, 0.0) for version, run_s in now.run_s.items()]
        utilization = max((now.cpu_s - before.cpu_s) / self._cpus, *busy_s, 0.0) / seconds
        queue_s = max(0.0, now.queue_s - before.queue_s) / answered if answered else 0.0
        report = (
            _double(_RPS_FRACTIONAL, answered / seconds)
            + _double(_EPS, max(0, now.failed - before.failed) / seconds)
            + _named("queue_seconds", queue_s)
            + _double(_APPLICATION_UTILIZATION, utilization)
        )
        # As gRPC sends binary metadata.
        return base64.b64encode(report).rstrip(b"=")


def _double(number: int, value: float) -> bytes:
    return bytes([number << 3 | _DOUBLE]) + struct.pack("<d", value)


def _named(name: str, value: float) -> bytes:
    """An entry of the map of named metrics."""
    key = name.encode()
    entry = bytes([1 << 3 | _BYTES, len(key)]) + key + _double(2, value)
    return bytes([_NAMED_METRICS << 3 | _BYTES, len(entry)]) + entry
