"""What Kubernetes does with a pod, played with a real server process: probes, endpoints, volumes and a graceful end.

Every time is the manifest's own, and a tenth of it, but for what a probe may take: the machine is no faster than a node.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.kubernetes import Manifest, settings
from tests.support.processes import Served
from tests.support.servers import TIMEOUT_S

SCALE = 0.1
LAG_S = 2.5 * SCALE
"""When the endpoints have lost a pod that is deleted, in seconds: that takes a moment in a cluster."""
_DEFAULTS: Mapping[str, int] = {"periodSeconds": 10, "failureThreshold": 3, "timeoutSeconds": 1}


class Volume:
    """A ConfigMap or a Secret as the kubelet mounts it: links to `..data`, which is a link that is replaced.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = 0
        folder.mkdir(parents=True)

    def write(self, content: Path) -> None:
        """Replace all that is in it by what is in a folder, at once."""
        self._written += 1
        data, before = self._folder / "..data", self._folder / f"..{self._written - 1}"
        new = self._folder / f"..{self._written}"
        shutil.copytree(content, new)
        (self._folder / "..data_tmp").symlink_to(new.name)
        (self._folder / "..data_tmp").rename(data)
        for each in new.iterdir():
            if not (self._folder / each.name).is_symlink():
                (self._folder / each.name).symlink_to(Path("..data", each.name))
        if before.exists():
            shutil.rmtree(before)


@dataclass
class Endpoints:
    """The addresses that are ready, as a headless Service's name has them.

    Attributes:
        addresses: the list that a name server answers with.
        refused: how many readiness probes failed, by address.
    """

    addresses: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def set(self, address: str, *, ready: bool) -> None:
        """Add an address, or take it out."""
        with self.changed:
            if not ready:
                self.refused[address] = self.refused.get(address, 0) + 1
            if ready != (address in self.addresses):
                (self.addresses.append if ready else self.addresses.remove)(address)
            self.changed.notify_all()

    def wait_for(self, *addresses: str) -> None:
        """Wait until these are ready and no others."""
        with self.changed:
            assert self.changed.wait_for(lambda: set(self.addresses) == set(addresses), TIMEOUT_S), self.addresses


@dataclass(frozen=True)
class Probe:
    """A probe of the manifest.

    Attributes:
        url: what is asked.
        period_s: from one to the next.
        timeout_s: how long it may take.
        failures: so many in a row have failed before something is done.
    """

    url: str
    period_s: float
    timeout_s: float
    failures: int

    @classmethod
    def of(cls, manifest: Manifest, host: str, ports: Mapping[str | int, int]) -> "Probe":
        """The probe that the manifest describes, of a pod with these ports."""
        numbers = {name: manifest.get(name, default) for name, default in _DEFAULTS.items()}
        asked = manifest["httpGet"]
        return cls(
            f"http://{host}:{ports[asked['port']]}{asked['path']}",
            numbers["periodSeconds"] * SCALE,
            numbers["timeoutSeconds"],
            numbers["failureThreshold"],
        )

    def passes(self) -> bool:
        """Ask once."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url, timeout=self.timeout_s) as response:
                return bool(response.status < 400)
        except (OSError, urllib.error.HTTPError):
            return False


class Pod:
    """A server process, started, probed and ended as its manifest says.

    Args:
        spec: the pod's specification.
        host: its address.
        ports: the numbers of gRPC's, HTTP's and the metrics' ports here; gRPC's is the same for all pods of a Service.
        mounts: where the mount paths of its container lie here.
        endpoints: which it joins when it is ready.
        environment: what differs from the manifest.

    Attributes:
        host: its address.
        kills: why the kubelet has killed it, if it has.
        probed: how many probes have passed and failed, by name.
    """

    def __init__(
        self,
        spec: Manifest,
        host: str,
        ports: Mapping[str, int],
        mounts: Mapping[str, Path],
        endpoints: Endpoints,
        environment: Mapping[str, str],
    ) -> None:
        [container] = spec["containers"]
        self.host = host
        self.kills: list[str] = []
        self.probed: Counter[tuple[str, bool]] = Counter()
        self._spec = spec
        self._endpoints = endpoints
        self._stop_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1]) * SCALE
        # By name or by number, as a probe may say it.
        known = {**ports, **{port["containerPort"]: ports[port["name"]] for port in container["ports"]}}
        self._probes = {
            name: Probe.of(container[f"{name}Probe"], host, known) for name in ("startup", "liveness", "readiness")
        }
        given = settings(container) | dict(environment)
        given["FROSTLINE_GRACE_S"] = str(float(given["FROSTLINE_GRACE_S"]) * SCALE)
        numbers = {"grpc": "FROSTLINE_PORT", "http": "FROSTLINE_HTTP_PORT", "metrics": "FROSTLINE_METRICS_PORT"}
        # Tests elsewhere turn HTTP off.
        given |= {"FROSTLINE_HTTP": "true"} | {numbers[name]: str(number) for name, number in ports.items()}
        given = {name: _moved(value, mounts) for name, value in given.items()}
        arguments = [_moved(each, mounts) for each in container["args"]]
        # On its own address instead of all, because the pods of this machine share the ports.
        arguments[arguments.index("0.0.0.0")] = host
        self.process = subprocess.Popen(
            [sys.executable, "-m", "frostline", *arguments],
            env=os.environ | given,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = Served(self.process)
        self._closed = False
        self._deleted = threading.Event()
        self._kubelet = threading.Thread(target=self._probe, name=f"kubelet-{host}", daemon=True)
        self._kubelet.start()

    def _probe(self) -> None:
        """Probe until the pod is deleted."""
        startup, failed = self._probes["startup"], 0
        while not startup.passes():
            failed += 1
            if self._deleted.wait(startup.period_s):
                return
            if failed == startup.failures:
                self._kill("startup")
                return
        due = dict.fromkeys(("liveness", "readiness"), time.monotonic())
        failures = dict.fromkeys(due, 0)
        while not self._deleted.wait(max(0.0, min(due.values()) - time.monotonic())):
            name = min(due, key=lambda each: due[each])
            probe = self._probes[name]
            due[name] += probe.period_s
            passed = probe.passes()
            self.probed[name, passed] += 1
            failures[name] = 0 if passed else failures[name] + 1
            if self._deleted.is_set():
                return
            if name == "readiness" and (passed or failures[name] >= probe.failures or self._unready):
                self._endpoints.set(self.host, ready=passed)
            elif name == "liveness" and failures[name] == probe.failures:
                self._kill("liveness")
                return

    @property
    def _unready(self) -> bool:
        return self.host not in self._endpoints.addresses

    def _kill(self, why: str) -> None:
        self.kills.append(why)
        self.process.kill()

    def delete(self) -> int:
        """End it as Kubernetes does: preStop while the endpoints still have it, then SIGTERM, then SIGKILL.

        Returns:
            The exit code of the process.
        """
        began_s = time.monotonic()
        self._deleted.set()
        lagging = threading.Timer(LAG_S, self._endpoints.set, [self.host], {"ready": False})
        lagging.start()
        subprocess.run(["sleep", str(self._stop_s)], check=True)
        self.process.terminate()
        left_s = self._spec["terminationGracePeriodSeconds"] * SCALE - (time.monotonic() - began_s)
        try:
            code = self.process.wait(left_s)
        except subprocess.TimeoutExpired:
            self._kill("grace")
            code = self.process.wait(TIMEOUT_S)
        lagging.join()
        self.close()
        return code

    def close(self) -> None:
        """End it at once, if nothing else has."""
        if self._closed:
            return
        self._closed = True
        self._deleted.set()
        self._kubelet.join(TIMEOUT_S)
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self.log.rest()
        assert self.process.stderr is not None
        self.process.stderr.close()


def _moved(text: str, mounts: Mapping[str, Path]) -> str:
    """A path of the container, where it lies here."""
    for path, here in mounts.items():
        if text == path or text.startswith(f"{path}/"):
            return f"{here}{text.removeprefix(path)}"
    return text


def free_ports(host: str, *names: str, **taken: int) -> dict[str, int]:
    """A free port of an address for each name, besides those that are taken."""
    with contextlib.ExitStack() as doors:
        found = dict(taken)
        for name in names:
            door = doors.enter_context(socket.socket())
            door.bind((host, 0))
            found[name] = door.getsockname()[1]
        return found


@contextlib.contextmanager
def pods() -> Iterator[list[Pod]]:
    """A list of pods, which end with the block whatever happens in it."""
    started: list[Pod] = []
    try:
        yield started
    finally:
        for pod in started:
            pod.close()


def spec_of(deployment: Manifest) -> dict[str, Any]:
    """The specification of a Deployment's pods."""
    return dict(deployment["spec"]["template"]["spec"])
