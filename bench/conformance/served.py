"""A served folder: a real `frostline serve` in a process of its own, asked over gRPC and HTTP as clients ask it."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.conformance import tensors
from bench.conformance.reference import Array, Tensors
from frostline import server_process
from frostline.pb import inference_pb2 as pb
from frostline.pb.inference_pb2_grpc import GRPCInferenceServiceStub

TIMEOUT_S = 60.0

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]

Answer = dict[str, Array] | grpc.RpcError
"""The outputs of a request by name, or the status it ended with."""


class Log:
    """The lines a server logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    @property
    def not_json(self) -> list[str]:
        """The lines that are no JSON object, or lack a level."""
        return [str(event.get("event")) for event in self.events if "level" not in event]

    def last(self) -> str:
        """The last lines, in one."""
        return " | ".join(str(event.get("event")) for event in self.events[-3:])


class Served:
    """A running server.

    Args:
        process: its addresses and its process.
    """

    def __init__(self, process: server_process.Served) -> None:
        self.pid = process.pid
        self.metrics_url = process.metrics
        self._channel = grpc.insecure_channel(process.address, _OPTIONS)
        self._stub: Any = GRPCInferenceServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def states(self) -> dict[str, tuple[str, str]]:
        """The state of every model, READY or why it is not: (state, reason) by name."""
        index = self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S)
        return {model.name: (model.state, model.reason) for model in index.models}

    def ask(self, model: str, inputs: Tensors) -> Answer:
        """The answer to one request."""
        return self.ask_at_once(model, [inputs])[0]

    def ask_at_once(self, model: str, callers: Sequence[Tensors]) -> list[Answer]:
        """The answers to requests that are sent without waiting for one another."""
        messages = [tensors.request(model, inputs) for inputs in callers]
        calls = [self._stub.ModelInfer.future(message, timeout=TIMEOUT_S) for message in messages]
        return [_outcome(call) for call in calls]

    def shared(self, model: str) -> int:
        """How many answered requests of a model were in a batch with others, at least."""
        statistics = self._stub.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=TIMEOUT_S)
        return sum(
            int(each.inference_stats.success.count) - int(each.execution_count) for each in statistics.model_stats
        )

    def ready(self, model: str) -> bool:
        """Whether ModelReady and the gRPC health service both say that the model is ready."""
        answered = self._stub.ModelReady(pb.ModelReadyRequest(name=model), timeout=TIMEOUT_S).ready
        health = self._health.Check(health_pb2.HealthCheckRequest(service=model), timeout=TIMEOUT_S).status
        return bool(answered) and health == health_pb2.HealthCheckResponse.SERVING

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the HTTP port; status 0 where nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.metrics_url}{path}", timeout=TIMEOUT_S) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_until_settled(self, models: Mapping[str, str], timeout_s: float) -> dict[str, tuple[str, str]]:
        """Wait until models are in these states (a state, or "" for a model that must be gone); returns all states."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = self.states()
            wrong = {name: want for name, want in models.items() if states.get(name, ("", ""))[0] != want}
            if not wrong or time.monotonic() > deadline:
                return states
            time.sleep(0.1)


@contextmanager
def serving(models: Path, flags: Sequence[str], log: Log) -> Iterator[Served]:
    """Serve a folder until the block ends.

    Args:
        models: the folder.
        flags: further flags.
        log: is given the lines that the server logs.

    Raises:
        ServerFailed: it did not start, or ended by itself or with another code than 0.
    """
    command = ["--models", str(models), "--device", "cpu", "--threads", "1", *flags]
    with server_process.serve(command, log.events.append) as process:
        served = Served(process)
        try:
            yield served
        finally:
            served.close()


def publish(folder: Path, name: str, model: bytes, config: str = "") -> Path:
    """Write a model as version 1 of a folder to serve, with its config.pbtxt if there is one; returns its folder."""
    version = folder / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model)
    if config:
        (folder / name / "config.pbtxt").write_text(config, encoding="utf-8")
    return folder / name


def _outcome(call: Any) -> Answer:
    try:
        return tensors.answer(call.result())
    except grpc.RpcError as error:
        return error
