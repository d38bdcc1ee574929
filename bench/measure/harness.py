"""The benchmark harness: it starts servers and baselines when they are first needed, and puts load on them."""

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
import trustme

from bench.load import baselines, h2load, networks, rest
from bench.load.baselines import Target
from bench.load.probe import NotMeasured, probing
from bench.load.workload import Asked, framed
from bench.measure import process
from frostline import server_process
from frostline.protocol import MODEL_INFER

_OPEN = ("--host", "0.0.0.0", "--allow-anonymous", "predict")

Sample = dict[str, float]
"""What one run measured: rate (answers a second), p50_ms, p99_ms, cpu_ms (the server's, for each answer), memory_mib."""

Samples = dict[str, Sample]
"""The same by the name of what was measured."""


class Lab:
    """One round, as a context manager; leaving it ends every process that it started.

    Args:
        seconds: how long one load lasts.
        flags: further flags of every server.
        number: of the round.
    """

    def __init__(self, seconds: float, flags: Sequence[str] = (), number: int = 0) -> None:
        self.seconds = seconds
        self.flags = tuple(flags)
        self.number = number
        self._open = ExitStack()
        self._targets: dict[str, Target] = {}
        self._kinds: list[str] | None = None

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def server(
        self,
        key: str,
        models: dict[str, onnx.ModelProto],
        *flags: str,
        config: str = "",
        tls: bool = False,
        program: Sequence[str] = server_process.PROGRAM,
    ) -> Target:
        """The server with these models, open to the network; a later row with the same `key` gets the same server.

        Args:
            key: the name of the server within this round.
            models: by name.
            flags: its own, before those that every server has.
            config: the text of every model's config.pbtxt; empty for none.
            tls: whether it is encrypted.
            program: what serves.
        """
        if key not in self._targets:
            folder = networks.publish(Path(self._open.enter_context(tempfile.TemporaryDirectory())), models)
            if config:
                for name in models:
                    (folder / name / "config.pbtxt").write_text(config, encoding="utf-8")
            return self.serving(key, folder, *(_certificate(folder) if tls else ()), *flags, tls=tls, program=program)
        return self._targets[key]

    def serving(
        self,
        key: str,
        models: Path,
        *flags: str,
        tls: bool = False,
        program: Sequence[str] = server_process.PROGRAM,
    ) -> Target:
        """The same of a folder of models."""
        if key not in self._targets:
            served = self._open.enter_context(
                server_process.serve(
                    ["--models", str(models), *_OPEN, *flags, *self.flags], _errors_only, program=program
                )
            )
            http = str(served.ready.get("http", "")).rpartition("//")[2]
            self._targets[key] = Target(served.address, served.pid, tls=tls, http=http)
        return self._targets[key]

    def closed(
        self,
        target: Target,
        questions: Asked,
        in_flight: int,
        *,
        method: str = MODEL_INFER,
        stream_of: int = 1,
        connections: int = 1,
        beside: Target | None = None,
    ) -> Sample:
        """Put closed-loop load on a server, and check a sample of its answers meanwhile.

        Args:
            target: the server.
            questions: the load sends the first one; the probe sends all.
            in_flight: calls in flight.
            method: of the calls.
            stream_of: messages in one call; the rate and the CPU time are for messages then.
            connections: over which the calls are spread.
            beside: a server with the same answers, of which the sample is; for one that the probe cannot reach.
        """
        with probing((beside or target).address, method, questions) as size:
            body = framed(questions.messages[0]) * stream_of
            sample = self._load(target, method, body, in_flight, size * stream_of, connections)
        sample["rate"] *= stream_of
        sample["cpu_ms"] /= stream_of
        return sample

    def rest(self, target: Target, questions: Asked, connections: int) -> Sample:
        """Put closed-loop load on a server's HTTP port: the first question in binary, one at a time on each connection."""
        path, headers, body = rest.asking(questions.messages[0])
        size = rest.answer_size(target.http, path, headers, body, questions)
        before_s = process.cpu_s(target.pid)
        run = h2load.run(
            target.http,
            path,
            body,
            connections,
            self.seconds,
            answer_bytes=size,
            connections=connections,
            headers=headers,
            http1=True,
        )
        return self._sample(target, run, before_s)

    def echo(self, kind: str, message: bytes, in_flight: int) -> Sample:
        """Put load on an echo with one message.

        Raises:
            NotMeasured: it is not available here.
        """
        body = framed(message)
        return self._load(self.echo_server(kind), baselines.ECHO, body, in_flight, len(body), 1)

    def echo_server(self, kind: str) -> Target:
        """The address and process of an echo.

        Raises:
            NotMeasured: it is not available here.
        """
        if kind not in self._targets:
            self._targets[kind] = self._open.enter_context(baselines.echo(kind))
        return self._targets[kind]

    def echoes(self, name: str, message: bytes, in_flight: int) -> Samples:
        """The samples of the available echoes, by "`name` `kind`"."""
        return {f"{name} {kind}": self.echo(kind, message, in_flight) for kind in self.echo_kinds()}

    def echo_kinds(self) -> list[str]:
        """The echoes that are available here; prints once a round why another is not."""
        if self._kinds is None:
            self._kinds = []
            for kind in (baselines.CPP, baselines.H2):
                try:
                    self.echo_server(kind)
                    self._kinds.append(kind)
                except NotMeasured as reason:
                    sys.stderr.write(f"no {kind}: {reason}\n")
        return self._kinds

    def _load(
        self, target: Target, method: str, body: bytes, in_flight: int, answer_bytes: int, connections: int
    ) -> Sample:
        before_s = process.cpu_s(target.pid)
        run = h2load.run(
            target.address,
            method,
            body,
            in_flight,
            self.seconds,
            answer_bytes=answer_bytes,
            connections=connections,
            tls=target.tls,
        )
        return self._sample(target, run, before_s)

    def _sample(self, target: Target, run: h2load.Run, before_s: float) -> Sample:
        return {
            "rate": run.rate,
            "p50_ms": run.p50_ms,
            "p99_ms": run.p99_ms,
            "cpu_ms": (process.cpu_s(target.pid) - before_s) / run.answered * 1000,
            "memory_mib": process.memory_mib(target.pid),
        }


def _certificate(folder: Path) -> list[str]:
    """The flags of a server with a certificate made for it."""
    issued = trustme.CA().issue_cert("localhost")
    chain, key = folder / ".chain.pem", folder / ".key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return ["--tls-cert", str(chain), "--tls-key", str(key)]


def _errors_only(event: dict[str, Any]) -> None:
    """Print error events, and lines that are not events, such as a message about an unknown flag."""
    if event.get("level", "error") == "error":
        sys.stderr.write((json.dumps(event) if "level" in event else str(event["event"])) + "\n")
