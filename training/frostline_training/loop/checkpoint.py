"""The training checkpoint: the state after an epoch, in one file that is written as a whole or not at all."""

import hashlib
import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from frostline_training import data
from frostline_training.config import Recipe
from frostline_training.data import Split
from frostline_training.errors import SettingError, TrainingError, first_line
from frostline_training.loop.progress import Progress


class ResumeError(SettingError):
    """The training cannot go on from that checkpoint."""


class Origin(TypedDict):
    """What a training is of: the recipe as JSON values, and a fingerprint of the rows to learn from and to stop by."""

    recipe: dict[str, Any]
    rows: str


class Moving(TypedDict):
    """What changes while it learns."""

    network: nn.Module
    optimizer: Optimizer
    scaler: GradScaler


class Checkpoint(TypedDict):
    """All that the rest of a training depends on.

    There is no random state among it: what an epoch draws is decided by the seed and the epoch's number.

    Attributes:
        origin: What it is of.
        states: Of everything in `Moving`.
        progress: `Progress.packed`.
    """

    origin: Origin
    states: dict[str, Any]
    progress: dict[str, Any]


def origin(recipe: Recipe, split: Split) -> Origin:
    """Say what a training of `recipe` on `split` is of."""
    digest = hashlib.sha256()
    for rows in (split.train, split.validation):
        for array in (*data.named(rows.inputs).values(), rows.targets):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return {"recipe": recipe.model_dump(mode="json"), "rows": digest.hexdigest()}


def save(path: Path, origin: Origin, moving: Moving, progress: Progress) -> None:
    """Write a checkpoint to `path`: whoever looks finds the one before or this one, also after a power cut.

    Raises:
        TrainingError: It cannot be written.
    """
    states = {name: part.state_dict() for name, part in _parts(moving)}
    checkpoint: Checkpoint = {"origin": origin, "states": states, "progress": progress.packed()}
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except (OSError, RuntimeError) as error:  # the latter is PyTorch's, also of a disk that is full
        with suppress(OSError):
            new.unlink(missing_ok=True)
        why = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise TrainingError(
            f"cannot write the checkpoint {path}: {why}; if the disk is full, make room and go on with --resume, or say another "
            "folder with --runs"
        ) from error


def load(path: Path, origin: Origin) -> Checkpoint:
    """Read the checkpoint at `path`, which must be of this `origin`. No code in the file is run.

    Raises:
        ResumeError: It is of another recipe or other rows, or cannot be read.
    """
    try:
        checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        then = checkpoint["origin"]
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ResumeError(f"the checkpoint {path} cannot be read; train without --resume") from error
    changed = list(_changes(then["recipe"], origin["recipe"]))
    if changed:
        raise ResumeError(
            f"the checkpoint {path} is of another recipe ({', '.join(changed[:3])}); give that one, or train without --resume"
        )
    if then["rows"] != origin["rows"]:
        raise ResumeError(f"the checkpoint {path} is of other rows than the data set has now; train without --resume")
    return checkpoint


def restore(moving: Moving, checkpoint: Checkpoint) -> Progress:
    """Bring everything in `moving` to where it was, and return how far it had come."""
    for name, part in _parts(moving):
        part.load_state_dict(checkpoint["states"][name])
    return Progress.unpacked(checkpoint["progress"])


def _parts(moving: Moving) -> tuple[tuple[str, nn.Module | Optimizer | GradScaler], ...]:
    return ("network", moving["network"]), ("optimizer", moving["optimizer"]), ("scaler", moving["scaler"])


def _changes(then: object, now: object, where: str = "") -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*then, *now)):
            yield from _changes(then.get(name), now.get(name), f"{where}.{name}" if where else name)
    elif then != now:
        yield f"{where} was {then}, is {now}"
