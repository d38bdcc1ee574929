"""A Prometheus with the shipped configuration and rules, at a faster pace, and its HTTP API."""

import http.client
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
_POLL_S = 0.1
_START_S = 60.0
_STOP_S = 30.0


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus' HTTP API.

    Attributes:
        address: host:port.
    """

    address: str

    def get(self, path: str) -> tuple[int, str]:
        """The status and the body of a page."""
        host, _, port = self.address.partition(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def ask(self, path: str, **parameters: str) -> Any:
        """The data that a part of the API answers with.

        Raises:
            ValueError: Prometheus refuses the question; the message has its reason.
        """
        status, body = self.get(f"/api/v1/{path}?{urlencode(parameters)}")
        answer = json.loads(body)
        if status != http.client.OK:
            raise ValueError(f"Prometheus refuses {parameters}: {answer.get('error', body)}")
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """The values of an expression now."""
        return [float(sample["value"][1]) for sample in self.ask("query", query=expression)["result"]]


def configure(
    folder: Path, targets: Mapping[str, str], pace_s: int = 1, windows: Mapping[str, str] | None = None
) -> Path:
    """Write the shipped configuration and rules with other targets, and at another pace; returns the configuration.

    Args:
        folder: where the files go.
        targets: the addresses to scrape, by the instance they are called.
        pace_s: seconds between two scrapes, and between two evaluations.
        windows: what takes the place of ranges in the rules, such as `{"5m": "20s"}`.
    """
    shipped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    pace = f"{pace_s}s"
    shipped["global"] = {"scrape_interval": pace, "evaluation_interval": pace}
    [scrape] = shipped["scrape_configs"]
    scrape["static_configs"] = [
        {"targets": [address], "labels": {"instance": instance}} for instance, address in targets.items()
    ]
    for name in shipped["rule_files"]:
        text = (DEPLOY / "prometheus" / name).read_text(encoding="utf-8").replace("interval: 1m", f"interval: {pace}")
        text = re.sub(r"\[(\w+)\]", lambda found: f"[{(windows or {}).get(found[1], found[1])}]", text)
        (folder / name).write_text(text, encoding="utf-8")
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump(shipped), encoding="utf-8")
    return written


@contextmanager
def running(binary: str, configuration: Path) -> Iterator[Prometheus]:
    """A Prometheus that listens on loopback, for as long as the block.

    Args:
        binary: the program.
        configuration: its file; data and log go beside it.

    Raises:
        RuntimeError: it does not start; the message has its log.
    """
    folder = configuration.parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        api = Prometheus(f"127.0.0.1:{free.getsockname()[1]}")
    command = [
        binary,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={api.address}",
        "--enable-feature=exemplar-storage",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _until_ready(api, process, log)
            yield api
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _until_ready(api: Prometheus, process: "subprocess.Popen[bytes]", log: Path) -> None:
    pause = threading.Event()
    for _ in range(round(_START_S / _POLL_S)):
        try:
            if process.poll() is None and api.get("/-/ready")[0] == http.client.OK:
                return
        except OSError:
            pass
        if process.poll() is not None:
            break
        pause.wait(_POLL_S)
    raise RuntimeError(f"Prometheus does not start: {log.read_text(encoding='utf-8')}")
