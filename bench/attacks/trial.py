"""A trial: one attack on a fresh server, with what is measured before, during and after it."""

import dataclasses
import os
import resource
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from bench.attacks.attacker import BURN
from bench.attacks.catalogue import ATTACKS
from bench.attacks.child import Child, child
from bench.attacks.honest import NEW, Seen
from bench.attacks.result import Footprint, Result
from bench.attacks.target import Sent
from bench.attacks.workload import publish
from bench.measure import process
from frostline import server_process
from frostline.server_process import Served, ServerFailed

WARM_S = 3.0
IDLE_S = 5.0
SETTLE_S = 10.0
CONTROL_S = 4.0
_LEAST_SHARE = 0.1
"""Of a core that an attacker takes, for a control to be worth its time."""
_METRIC = "frostline_network_bytes"
_SOURCE = "127.0.0.2"
"""Not the honest client's address: limits for an address must hold the attacker up and not the client."""


@dataclass(frozen=True)
class Setup:
    """How all trials are made.

    Attributes:
        flags: of every server.
        seconds: how long an attack goes on at least.
        mbit: the speed of the attacker's link in Mbit/s.
        guard_mib: resident memory at which the server is killed, for the machine's sake.
    """

    flags: Sequence[str]
    seconds: float
    mbit: float
    guard_mib: float


class Watch(threading.Thread):
    """Samples a server's resident memory, and kills it at a limit.

    Args:
        pid: its process.
        guard_mib: the limit.

    Attributes:
        peak_mib: the largest sample since `begin`.
        most_threads: the same of threads.
        killed: whether it was killed.
    """

    def __init__(self, pid: int, guard_mib: float) -> None:
        super().__init__(name="memory-watch", daemon=True)
        self.peak_mib = 0.0
        self.most_threads = 0
        self.killed = False
        self._pid = pid
        self._guard_mib = guard_mib
        self._stopped = threading.Event()

    def begin(self) -> None:
        """Forget the peak so far, the kernel's too where that is allowed."""
        try:
            Path(f"/proc/{self._pid}/clear_refs").write_text("5", encoding="utf-8")
            self._exact = True
        except OSError:
            self._exact = False
        self.peak_mib = 0.0
        self.most_threads = 0

    def end(self) -> float:
        """The peak, by the kernel's account where it has one."""
        if self._exact and (footprint(self._pid) is not None):
            self.peak_mib = max(self.peak_mib, process.memory_mib(self._pid, "VmHWM"))
        return self.peak_mib

    def run(self) -> None:
        """Sample every 20 ms."""
        while not self._stopped.wait(0.02) and (now := footprint(self._pid)) is not None:
            self.peak_mib = max(self.peak_mib, now.memory_mib)
            self.most_threads = max(self.most_threads, now.threads)
            if now.memory_mib > self._guard_mib:
                self.killed = True
                os.kill(self._pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self.join()


def footprint(pid: int) -> Footprint | None:
    """What a process takes now; None if it has ended."""
    try:
        files, threads = (len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("fd", "task"))
        return Footprint(process.memory_mib(pid), files, threads)
    except (OSError, ValueError):
        return None


def metric(url: str) -> float | None:
    """The bytes that the server's budget holds, by its metrics; None if they do not say."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
    except OSError:
        return None
    values = [line.rpartition(" ")[2] for line in lines if line.startswith((f"{_METRIC} ", f"{_METRIC}{{"))]
    return sum(map(float, values)) if values else None


def run(name: str, setup: Setup, on_phase: Callable[[str], None]) -> Result:
    """Make the trial of an attack.

    Args:
        name: of the attack.
        setup: how.
        on_phase: is told what is being done.

    Raises:
        ServerFailed: the server did not start.
        ChildFailed: the honest client or the attacker failed.
    """
    trial = _Trial(name, setup, on_phase)
    try:
        trial.make()
    except ServerFailed as failed:
        if trial.measured is None:
            raise
        trial.measured["death"] = "killed by the guard" if trial.killed else str(failed)
    assert trial.measured is not None
    return Result(**trial.measured, log_lines=len(trial.events))


class _Trial:
    def __init__(self, name: str, setup: Setup, on_phase: Callable[[str], None]) -> None:
        self.events: list[dict[str, Any]] = []
        self.measured: dict[str, Any] | None = None
        self.killed = False
        self._name = name
        self._attack = ATTACKS[name]
        self._setup = setup
        self._on_phase = on_phase

    def _phase(self, doing: str) -> None:
        self._on_phase(f"{self._name}: {doing}")

    def make(self) -> None:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            flags, ca = ["--models", str(publish(folder / "models")), *self._setup.flags], []
            if self._attack.tls:
                flags += certificate(folder)
                ca = ["--ca", str(folder / "ca.pem")]
            self._phase("starting the server")
            served = stack.enter_context(server_process.serve(flags, self.events.append))
            self.events.clear()
            if self._attack.spare_mib:
                most = int((process.memory_mib(served.pid, "VmSize") + self._attack.spare_mib) * 2**20)
                resource.prlimit(served.pid, resource.RLIMIT_AS, (most, most))
            if self._attack.spare_files:
                limit = len(list(Path(f"/proc/{served.pid}/fd").iterdir())) + self._attack.spare_files
                resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (limit, limit))
            watch = Watch(served.pid, self._setup.guard_mib)
            watch.start()
            stack.callback(watch.stop)
            address = served.address.replace("0.0.0.0:", "127.0.0.1:")
            honest = stack.enter_context(
                child("bench.attacks.honest", [address, "--http", str(served.ready["http"]), *ca])
            )
            self._measure(served, address, honest, watch)

    def _measure(self, served: Served, address: str, honest: Child, watch: Watch) -> None:
        setup = self._setup
        with ExitStack() as stack:
            metrics = ["--metrics", served.metrics.rpartition("//")[2].replace("0.0.0.0:", "127.0.0.1:")]
            http = ["--http", str(served.ready["http"]).rpartition("//")[2].replace("0.0.0.0:", "127.0.0.1:")]
            common = [*metrics, *http, "--seconds", str(setup.seconds), "--mbit", str(setup.mbit)]
            # A server elsewhere cannot answer an address of this machine's loopback.
            source = ["--source", _SOURCE] if address.startswith("127.") else []
            attacker = stack.enter_context(
                child("bench.attacks.attacker", [self._name, "--address", address, *source, *common])
            )
            self._phase("at rest")
            time.sleep(WARM_S)
            honest.ask()
            time.sleep(IDLE_S)
            idle = Seen(**honest.ask())
            before = footprint(served.pid)
            if before is None:
                raise ServerFailed("the server ended before the attack")
            watch.begin()
            cpu_s, begin = process.cpu_s(served.pid), time.monotonic()
            self._phase("under attack")
            said = attacker.ask()
            took_s = time.monotonic() - begin
            during = Seen(**honest.ask())
            if self._attack.spare_files:
                during = but_for_new_connections(during)
            alive = footprint(served.pid) is not None
            server_cpu = (process.cpu_s(served.pid) - cpu_s) / took_s if alive else float("nan")
        self._phase("recovering")
        time.sleep(SETTLE_S)
        after = footprint(served.pid)
        recovered = Seen(**honest.ask())
        self.killed = watch.killed
        self.measured = {
            "name": self._name,
            "what": self._attack.what,
            "sent": Sent.from_json(said["sent"]),
            "idle": idle,
            "during": during,
            "recovered": recovered,
            "control_ms": None,
            "before": before,
            "after": after,
            "peak_mib": watch.end(),
            "most_threads": watch.most_threads,
            "server_cpu": server_cpu,
            "attacker_cpu": said["cpu_s"] / took_s,
            "held_bytes": metric(served.metrics) if after else None,
        }
        if after is not None and self.measured["attacker_cpu"] >= _LEAST_SHARE:
            self._phase("control")
            self.measured["control_ms"] = control(honest, self.measured["attacker_cpu"])


def but_for_new_connections(seen: Seen) -> Seen:
    """What a client saw without what became of its new connections, where those must be refused."""
    return dataclasses.replace(seen, bad={how: count for how, count in seen.bad.items() if NEW not in how})


def control(honest: Child, share: float) -> float:
    """The honest client's p99 in ms beside a process that only takes processor time."""
    flags = ["--seconds", str(CONTROL_S), "--share", str(share)]
    with child("bench.attacks.attacker", [BURN, *flags]) as burner:
        honest.ask()
        burner.ask()
        return Seen(**honest.ask()).p99_ms


def certificate(folder: Path) -> list[str]:
    """Write a certificate of an authority of its own; returns the server's flags."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.pem")]
