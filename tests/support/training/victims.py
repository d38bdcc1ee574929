"""Processes that do their work, say where they are, and are killed for it.

They are forked from one server process that has imported PyTorch already, so that many can die in a few seconds.
"""

import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline_training.config import Recipe
from frostline_training.data import Split
from frostline_training.loop.progress import Epoch
from frostline_training.loop.runs import Run
from frostline_training.loop.trainer import train
from frostline_training.publishing import publish as export


@contextmanager
def victim(work: Callable[..., None], *arguments: object) -> Iterator[tuple[Connection, Callable[[], None]]]:
    """Start a process that does ``work(report, *arguments)``; give where its reports arrive, and what kills it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["frostline_training.pipeline", "sklearn.model_selection", "torch._dynamo"])
    reports, report = context.Pipe()
    process = context.Process(target=work, args=(report, *arguments))
    process.start()
    report.close()

    def kill() -> None:
        process.kill()
        process.join()

    try:
        yield reports, kill
    finally:
        kill()
        reports.close()


class Reporter:
    """A watcher that reports the number of every epoch, and 0 for every step.

    After an epoch it waits for an answer: on a busy machine a victim would else be done before anybody kills it.
    """

    def __init__(self, report: Connection) -> None:
        self._report = report

    def step(self) -> None:
        self._report.send(0)

    def epoch(self, epoch: Epoch) -> None:
        self._report.send(epoch.number)
        self._report.recv()


def training(report: Connection, recipe: Recipe, split: Split, run: Run, resume: bool) -> None:
    """Train, reporting every step and epoch."""
    train(recipe, split, device=torch.device("cpu"), watcher=Reporter(report), run=run, resume=resume)


def publishing(report: Connection, network: nn.Module, sample: Tensor, frozen: bytes, models: Path) -> None:
    """Publish `network` for ever, reporting whenever it is about to touch a file or folder in `models`.

    What `network` freezes to is given as `frozen`: the export takes seconds, and writes nothing into `models`.
    """

    def copy(*arguments: Any, **_: Any) -> None:
        next(path for path in arguments if isinstance(path, Path)).write_bytes(frozen)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(("open", "os.", "shutil.")) and str(arguments[0]).startswith(str(models)):
            report.send(event)

    setattr(export, "freeze", copy)  # noqa: B010 it is not among what the module exports; this process ends with it
    sys.addaudithook(audit)
    while True:
        export.publish(network, sample, name="m", models=models)


def publishing_once(report: Connection, models: Path) -> None:
    """Publish once, when told to; reports "ready" before, and the version after."""
    from tests.support import foreign  # noqa: PLC0415  takes a second to import, in each of fifty that do not export

    warnings.simplefilter("error")
    foreign.quicken()
    torch.manual_seed(0)
    report.send("ready")
    report.recv()
    report.send(export.publish(nn.Linear(4, 3), torch.randn(9, 4), name="m", models=models).version)
