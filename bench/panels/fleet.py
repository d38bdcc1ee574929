"""A small fleet under load: three servers with three models, a canary, a shadow, a version that fails, and trouble.

What is asked for changes in the middle: rows drift from those of the training, and one server gets more than it can
take. Some callers make mistakes all the time.
"""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trustme
from sklearn import datasets

from bench.load import networks
from bench.measure import gpu_baselines
from frostline import Client, FrostlineError, connect, server_process

_SERVERS = 3
_VALID = timedelta(days=20)
_QUEUED_ROWS = 96
_STANDIN = ("env", f"PYTHONPATH={Path(__file__).parent / 'standin'}")
"""Runs a program with a stand-in for NVIDIA's library."""
_CALM = 0.45
"""The share of the time before trouble begins."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fleet:
    """Servers that are ready.

    Attributes:
        targets: the addresses of their metrics, by the names of the instances.
        clients: one for each of them.
    """

    targets: Mapping[str, str]
    clients: tuple[Client, ...]


@dataclass(frozen=True)
class Table:
    """Rows to ask with.

    Attributes:
        data: [N, C].
        names: of the columns.
    """

    data: Array
    names: Sequence[str]


def publish(models: Path) -> None:
    """Train, publish and promote: iris 2 is a canary, digits-mlp 2 a shadow, and digits-mlp 3 no network at all."""
    for seed in ("0", "1"):
        for recipe in ("iris", "digits-mlp"):
            _frostline("train", recipe, "--models", models, "--runs", models.parent / "runs", "--seed", seed)
    networks.publish(models, {"pictures": networks.cnn()})
    for name, test in (("iris", ("--canary", "20")), ("digits-mlp", ("--shadow",))):
        _frostline("promote", name, "1", "--models", models)
        _frostline("promote", name, "2", "--models", models, *test)
    (models / "digits-mlp" / "3").mkdir()
    (models / "digits-mlp" / "3" / "model.onnx").write_bytes(b"half a file")


@contextmanager
def serving(models: Path, folder: Path) -> Iterator[Fleet]:
    """Start the servers on a folder of models; the last one has TLS. They stop at the end of the block.

    Where there is no GPU, they are told that the machine's cores are some.

    Args:
        models: the folder of models.
        folder: for the files of TLS.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("localhost", "127.0.0.1", not_after=datetime.now(UTC) + _VALID)
    issued.private_key_pem.write_to_path(folder / "tls.key")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    secure = ["--tls-cert", f"{folder}/tls.crt", "--tls-key", f"{folder}/tls.key"]
    common = ["--models", str(models), "--device", "cpu", "--threads", "1", "--max-queue-size", str(_QUEUED_ROWS)]
    program = [*(_STANDIN if gpu_baselines.obstacle() else ()), *server_process.PROGRAM]
    with ExitStack() as stack:
        targets, clients = {}, []
        for number in range(_SERVERS):
            last = number == _SERVERS - 1
            served = stack.enter_context(
                server_process.serve([*common, *(secure if last else ())], _ignored, program=program)
            )
            targets[f"frostline-{number}:8002"] = served.metrics.removeprefix("http://").removesuffix("/metrics")
            tls: bool | Path = folder / "ca.pem" if last else False
            clients.append(stack.enter_context(connect(served.address, tls=tls, timeout_s=5)))
        yield Fleet(targets, tuple(clients))


def load(fleet: Fleet, seconds: float) -> None:
    """Ask all servers for a while; trouble begins in the middle, and ends before the end."""
    began_s = time.monotonic()
    stopped = threading.Event()

    def progress() -> float:
        return (time.monotonic() - began_s) / seconds

    iris, digits = datasets.load_iris(), datasets.load_digits()
    flowers, images = Table(iris.data, iris.feature_names), Table(digits.data, digits.feature_names)
    threads = [
        threading.Thread(target=_repeat, args=(stopped, pause_s, number, ask, progress))
        for number, client in enumerate(fleet.clients)
        for ask, pause_s in (
            (partial(_ask_iris, client, flowers), 0.02),
            (partial(_ask_digits, client, images), 0.03),
            (partial(_mistake, client), 0.8),
        )
    ]
    # More than one server can take, from enough callers to fill its queue.
    threads += [
        threading.Thread(
            target=_repeat, args=(stopped, 0.01, number, partial(_ask_pictures, fleet.clients[1]), progress)
        )
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    stopped.wait(seconds)
    stopped.set()
    for thread in threads:
        thread.join()


def _frostline(*arguments: object) -> None:
    """Run a command of `frostline`; its output is shown only where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "frostline", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"frostline {arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")


def _ignored(_: dict[str, Any]) -> None:
    """The log: a version that fails is part of the play."""


def _repeat(
    stopped: threading.Event,
    pause_s: float,
    seed: int,
    ask: Callable[[random.Random, bool], None],
    progress: Callable[[], float],
) -> None:
    """Ask again and again, with pauses as of independent people; `ask` is told whether there is trouble."""
    chance = random.Random(seed)
    while not stopped.wait(chance.expovariate(1 / pause_s)):
        with suppress(FrostlineError):
            ask(chance, _CALM < progress() < 1 - _CALM / 2)


def _ask_iris(client: Client, table: Table, chance: random.Random, trouble: bool) -> None:
    rows = table.data[[chance.randrange(len(table.data)) for _ in range(chance.choice((1, 1, 4, 20)))]]
    if trouble:
        rows = rows + np.array([0.0, 0.0, 1.5, 0.8])
        rows[:: chance.choice((2, 5)), 1] = np.nan
    columns = {name: rows[:, at].tolist() for at, name in enumerate(table.names)}
    client.predict("iris", columns, version="2" if chance.random() < 0.02 else "")


def _ask_digits(client: Client, table: Table, chance: random.Random, _: bool) -> None:
    picked = [chance.randrange(len(table.data)) for _ in range(chance.choice((1, 2, 8)))]
    client.predict("digits-mlp", table.data[picked].astype(np.float32))


def _ask_pictures(client: Client, chance: random.Random, trouble: bool) -> None:
    if trouble or chance.random() < 0.05:
        rows = np.random.default_rng(chance.randrange(100)).normal(size=(32 if trouble else 1, *networks.CNN_SHAPE))
        client.predict("pictures", rows.astype(np.float32))


def _mistake(client: Client, chance: random.Random, _: bool) -> None:
    model, width = chance.choice((("digits-mlp", 63), ("weeds", 64), ("iris", 5)))
    client.predict(model, np.zeros((1, width), np.float32))
