"""SIGKILL at any moment: a training goes on as if nothing had happened, and models/ holds only whole versions."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from frostline_training.config import Hyperparameters, Mlp, Recipe
from frostline_training.data import Split
from frostline_training.loop.runs import Run, start
from frostline_training.loop.trainer import train
from tests.support.training import victims

KILLS = 50


class _Nobody:
    def step(self) -> None:
        pass

    def epoch(self, epoch: object) -> None:
        pass


def _recipe() -> Recipe:
    # With dropout and batch-norm: random numbers and running statistics must go on where they were too.
    return Recipe(
        name="small",
        data="blobs",
        network=Mlp(hidden=(8,), dropout=0.2, norm="batch"),
        hyperparameters=Hyperparameters(epochs=12, batch_size=16, learning_rate=0.05, patience=5),
    )


def _killed(recipe: Recipe, split: Split, run: Run, *, epochs: int, steps: int, resume: bool) -> None:
    """Train in a process that is killed after so many whole epochs and so many steps of the next."""
    with victims.victim(victims.training, recipe, split, run, resume) as (reports, kill):
        for _ in range(epochs):
            while reports.recv() == 0:
                pass
            reports.send("go on")
        for _ in range(steps):
            reports.recv()
        kill()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_training_killed_at_random_moments_and_resumed_gives_the_same_weights_bit_for_bit(
    seed: int, blobs_split: Split, tmp_path: Path
) -> None:
    recipe, device = _recipe(), torch.device("cpu")
    run, whole_run = start(tmp_path, "killed"), start(tmp_path, "whole")
    whole = train(recipe, blobs_split, device=device, watcher=_Nobody(), run=whole_run)
    random = np.random.default_rng(seed)
    for resume in (False, True):
        _killed(
            recipe,
            blobs_split,
            run,
            epochs=int(random.integers(1, 4)),
            steps=int(random.integers(0, 4)),
            resume=resume,
        )
    resumed = train(recipe, blobs_split, device=device, watcher=_Nobody(), run=run, resume=True)
    assert len(whole.history) >= 8  # so that every one of them was killed in the middle
    assert resumed.history == whole.history
    assert resumed.best == whole.best
    states = [trained.network.state_dict() for trained in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for name in ("metrics.csv", "metrics.jsonl"):
        assert (run.folder / name).read_text() == (whole_run.folder / name).read_text()


def _seen(folder: Path) -> dict[int, dict[str, str]]:
    """Return every visible version's files with their hashes."""
    return {
        int(version.name): {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in version.iterdir()}
        for version in folder.glob("[0-9]*")
    }


def _assert_whole(version: Path) -> None:
    card = json.loads((version / "card.json").read_text())
    assert (card["name"], card["version"]) == ("m", int(version.name))
    assert card["sha256"] == hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    with np.load(version / "golden.npz") as golden:
        (logits,) = session.run(["logits"], {"input": golden["input"]})
        np.testing.assert_allclose(logits, golden["logits"], rtol=golden["rtol"], atol=golden["atol"])


def test_publishing_killed_at_50_random_moments_leaves_only_whole_versions(
    linear: nn.Module, sample: Tensor, frozen_linear: bytes, tmp_path: Path
) -> None:
    random = np.random.default_rng(11)
    versions: dict[int, dict[str, str]] = {}
    interrupted = set()
    for _ in range(KILLS):
        with victims.victim(victims.publishing, linear, sample, frozen_linear, tmp_path) as (reports, kill):
            for _ in range(random.integers(1, 40)):
                event = reports.recv()
            kill()
        interrupted.add(event)
        seen = _seen(tmp_path / "m")
        assert sorted(seen) == list(range(1, len(seen) + 1))
        assert versions.items() <= seen.items()  # what stood there stands there unchanged
        for version in seen.keys() - versions.keys():
            _assert_whole(tmp_path / "m" / str(version))
        versions = seen
    assert len(versions) > KILLS // 4
    assert {"open", "os.mkdir", "os.rename"} <= interrupted
    assert list((tmp_path / "m").glob(".staging-*"))  # some were killed half-way, and nobody sees it
