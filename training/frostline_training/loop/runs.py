"""The run folder: a training's configuration, metrics, checkpoint and pictures.

``runs/<name>/<started>/`` holds ``config.json``, ``metrics.csv``, ``metrics.jsonl`` and ``checkpoint.pt``; once a
version came of it also ``published.json`` and ``pictures/``. The metrics are called by what they measure, see
`progress.Scores`: ``train_accuracy``, ``train_labels_right`` or ``train_r2``.
"""

import csv
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from frostline_training.errors import TrainingError
from frostline_training.loop.checkpoint import ResumeError
from frostline_training.loop.progress import Epoch


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Where the training stood after the last epoch that has a checkpoint; the first and the last always have one."""
        return self.folder / "checkpoint.pt"

    @property
    def pictures(self) -> Path:
        """The folder of its pictures."""
        return self.folder / "pictures"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from resuming it meanwhile.

        Raises:
            ResumeError: Another process runs it.
        """
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            if not _locked(folder):
                raise ResumeError(f"{self.folder} is run by another process; wait for it, or end it")
            yield
        finally:
            os.close(folder)

    @property
    def goes_on(self) -> bool:
        """Whether a process runs it."""
        try:
            with self.held():
                return False
        except ResumeError:
            return True

    def begin(self, config: Mapping[str, object]) -> None:
        """Write down what is run, and how.

        Raises:
            TrainingError: It cannot be written.
        """
        _write_json(self.folder / "config.json", config)

    def log(self, epoch: Epoch) -> None:
        """Add one epoch to the metrics.

        Raises:
            TrainingError: They cannot be written.
        """
        self._write((epoch,), "a")

    def rewrite(self, history: Sequence[Epoch]) -> None:
        """Bring the metrics to exactly `history`: a killed run may have noted an epoch that it will run again.

        Raises:
            TrainingError: They cannot be written.
        """
        self._write(history, "w")

    def finish(self, published: Path, *, version: int) -> None:
        """Note which version came of it, so that nobody resumes it, and keep the pictures of the `published` folder.

        Raises:
            TrainingError: They cannot be written.
        """
        _write_json(self.folder / "published.json", {"folder": str(published), "version": version})
        for picture in (*published.glob("*.png"), *published.glob("*.svg")):
            with _writing(self.pictures / picture.name):
                self.pictures.mkdir(exist_ok=True)
                shutil.copy(picture, self.pictures)

    @property
    def finished(self) -> bool:
        """Whether a version came of it."""
        return (self.folder / "published.json").exists()

    def _write(self, epochs: Sequence[Epoch], mode: str) -> None:
        rows = [_row(epoch) for epoch in epochs]
        lines, table = self.folder / "metrics.jsonl", self.folder / "metrics.csv"
        with _writing(lines), lines.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        with _writing(table), table.open(mode, encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ())
            if rows and file.tell() == 0:
                writer.writeheader()
            writer.writerows(rows)


def start(runs: Path, name: str) -> Run:
    """Make a new run's folder in `runs`, named by the time (UTC).

    Raises:
        TrainingError: There cannot be one.
    """
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    count = 1
    try:
        (runs / name).mkdir(parents=True, exist_ok=True)
        while True:
            folder = runs / name / (started if count == 1 else f"{started}-{count}")
            try:
                folder.mkdir()
            except FileExistsError:
                count += 1
            else:
                return Run(folder)
    except OSError as error:
        raise TrainingError(
            f"cannot make a folder for the run: {error.filename}: {error.strerror}; say another one with --runs"
        ) from error


def unfinished(runs: Path, name: str) -> Run | None:
    """Return the newest run of `name` in `runs` that got as far as a checkpoint, if no version came of it and nobody runs it.

    Runs that go on in another process are left out.

    Raises:
        ResumeError: There is only such a one.
    """
    configs = sorted((runs / name).glob("*/config.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    elsewhere: Run | None = None
    for run in (Run(config.parent) for config in configs):
        if not run.checkpoint.exists():
            continue
        if run.finished:
            break
        if not run.goes_on:
            return run
        elsewhere = elsewhere or run
    if elsewhere:
        raise ResumeError(f"{elsewhere.folder} is run by another process; wait for it, or leave out --resume")
    return None


def _locked(descriptor: int) -> bool:
    """Lock a folder until it is closed; False if somebody else has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def tensorboard(folder: Path) -> Iterator["TensorBoard"]:
    """Give a watcher that writes TensorBoard's logs into `folder`.

    Raises:
        TrainingError: The package is not installed.
    """
    try:
        writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))
    except ImportError as error:
        raise TrainingError("TensorBoard logs need its package: pip install tensorboard") from error
    try:
        yield TensorBoard(writer)
    finally:
        writer.close()


class TensorBoard:
    """A watcher that hands every epoch's numbers on to `writer`, a SummaryWriter."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def step(self) -> None:
        """Batches are not logged."""

    def epoch(self, epoch: Epoch) -> None:
        """Log one epoch."""
        self._writer.add_scalar("learning_rate", epoch.learning_rate, epoch.number)
        for part, scores in (("train", epoch.train), ("validation", epoch.validation)):
            self._writer.add_scalar(f"loss/{part}", scores.loss, epoch.number)
            if not math.isnan(scores.score):
                self._writer.add_scalar(f"{scores.measure}/{part}", scores.score, epoch.number)


def _row(epoch: Epoch) -> dict[str, object]:
    scores = {
        f"{part}_{name}": None if math.isnan(value) else value
        for part, found in (("train", epoch.train), ("validation", epoch.validation))
        for name, value in (("loss", found.loss), (found.measure, found.score))
    }
    return {"epoch": epoch.number, "learning_rate": epoch.learning_rate, **scores, "improved": epoch.improved}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in a sentence which file could not be written; of a full disk the error itself does not tell."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}; if the disk is full, make room, or say another folder with --runs"
        ) from error


def _write_json(path: Path, value: object) -> None:
    with _writing(path):
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
