"""A `frostline serve` among hostile models: started without waiting for it, asked what it says of them, and stopped.

It may never become ready, end, or take all memory; whoever measures that cannot wait for it as users do.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.hostile_models.guard import Guard
from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER
from frostline_server.config import ServerConfig

INDEX = "/inference.GRPCInferenceService/RepositoryIndex"
METADATA = "/inference.GRPCInferenceService/ModelMetadata"
STOP_S = 45.0
DEFENCES: Mapping[str, str] = {"load_timeout_s": "5", "load_memory_bytes": str(2**30), "max_run_s": "3"}
"""Settings that bound loading and runs, tight enough for a machine that has other things to do."""


def defences() -> list[str]:
    """The flags of those settings that this server has."""
    there = {name: value for name, value in DEFENCES.items() if name in ServerConfig.model_fields}
    return [part for name, value in there.items() for part in (f"--{name.replace('_', '-')}", value)]


@dataclass(frozen=True)
class Said:
    """What a server says of a version or a folder.

    Attributes:
        state: READY, LOADING, UNLOADING or UNAVAILABLE; in its log also FAILED, or "".
        reason: why.
    """

    state: str
    reason: str


class Server:
    """A running server.

    Args:
        process: its process.
        port: of gRPC.
        guard: of its memory.
        log: the file of its log.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, guard: Guard, log: Path) -> None:
        self.pid = process.pid
        self.address = f"127.0.0.1:{port}"
        self.guard = guard
        self._process = process
        self._log = log
        self._channel = grpc.insecure_channel(
            self.address, [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
        )

    def close(self) -> None:
        """End it, however it is."""
        self._channel.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def death(self) -> str:
        """How it ended; "" while it lives."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"killed at {self.guard.peak_mib:,.0f} MiB" if self.guard.killed else f"ended with code {code}"

    def ask(self, message: bytes, timeout_s: float = 5.0) -> str:
        """The status of a ModelInfer."""
        call: Any = self._channel.unary_unary(MODEL_INFER, None, None)
        try:
            call(message, timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def index(self) -> dict[tuple[str, str], Said]:
        """What it says by name and version; a folder that is no version has an empty one."""
        call: Any = self._channel.unary_unary(INDEX, None, pb.RepositoryIndexResponse.FromString)
        try:
            answer = call(b"", timeout=10)
        except grpc.RpcError:
            return {}
        return {(each.name, each.version): Said(each.state, each.reason) for each in answer.models}

    def inputs(self, name: str) -> list[tuple[str, str, Sequence[int]]]:
        """Name, datatype and shape of each input of a model; nothing if it does not say."""
        call: Any = self._channel.unary_unary(METADATA, None, pb.ModelMetadataResponse.FromString)
        try:
            answer = call(pb.ModelMetadataRequest(name=name).SerializeToString(), timeout=10)
        except grpc.RpcError:
            return []
        return [(each.name, each.datatype, tuple(each.shape)) for each in answer.inputs]

    def log(self) -> list[str]:
        """The lines of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()

    def stop(self) -> tuple[float, int | None]:
        """Send SIGTERM; returns the seconds until it ended, and its exit code, None if it had to be killed."""
        begin = time.monotonic()
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return STOP_S, None
        return time.monotonic() - begin, code


@contextmanager
def serving(models: Path, log: Path, flags: Sequence[str], guard_mib: float) -> Iterator[Server]:
    """Start a server, and end it with the block.

    Args:
        models: its folder.
        log: is written.
        flags: further ones.
        guard_mib: memory, with that of its processes, at which it is killed.
    """
    port, metrics = _free_ports(2)
    command = [sys.executable, "-m", "frostline", "serve", "--models", str(models), "--port", str(port)]
    command += ["--metrics-port", str(metrics), "--log-format", "json", "--device", "cpu", *flags]
    with log.open("wb") as written:
        process = subprocess.Popen(command, stderr=written, stdout=subprocess.DEVNULL, env={**os.environ})
    with Guard(process.pid, guard_mib) as guard:
        server = Server(process, port, guard, log)
        try:
            yield server
        finally:
            server.close()


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def spellings(name: str) -> set[str]:
    """The ways in which a server may write the name of a folder that is no text."""
    data = os.fsencode(name)
    decoded = {data.decode(errors=how) for how in ("replace", "backslashreplace", "surrogateescape")}
    return {name, ascii(name)[1:-1], repr(name)[1:-1]} | decoded


def said_of(name: str, index: Mapping[tuple[str, str], Said], log: Sequence[str]) -> Said | None:
    """What a server says of a folder: in its index, or else in its log; None for nothing.

    Args:
        name: of the folder.
        index: its own.
        log: its lines.
    """
    names = spellings(name)
    entries = [said for (model, _), said in index.items() if model in names]
    # Of several versions, the one that is worst to have.
    for state in ("READY", "LOADING", "UNLOADING"):
        for said in entries:
            if said.state == state:
                return said
    if entries:
        return entries[0]
    events = [event for event in map(_event, log) if names & set(map(str, event.values()))]
    if not events:
        return None
    last = events[-1]
    return Said(str(last.get("state", "")), str(last.get("reason") or last.get("remark") or ""))


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
