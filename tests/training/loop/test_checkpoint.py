"""The checkpoint: whole or not there, and only for the training it is of."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from frostline_training.config import Recipe
from frostline_training.data import Split, split
from frostline_training.errors import TrainingError
from frostline_training.loop import checkpoint
from frostline_training.loop.checkpoint import Moving, ResumeError
from frostline_training.loop.progress import Epoch, Progress, Scores

EPOCH = Epoch(1, 0.1, Scores(1.0, 0.5), Scores(0.9, 0.6), improved=True)


def _moving(start: float) -> Moving:
    network = nn.Linear(2, 1)
    nn.init.constant_(network.weight, start)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {"network": network, "optimizer": optimizer, "scaler": torch.amp.GradScaler("cpu", enabled=False)}


@dataclass(frozen=True)
class Saved:
    path: Path
    moving: Moving
    progress: Progress


@pytest.fixture
def saved(small: Recipe, blobs_split: Split, tmp_path: Path) -> Saved:
    """A checkpoint after one epoch."""
    moving = _moving(3.0)
    progress = Progress().then(EPOCH, moving["network"].state_dict(), 2.5)
    checkpoint.save(tmp_path / "c.pt", checkpoint.origin(small, blobs_split), moving, progress)
    return Saved(tmp_path / "c.pt", moving, progress)


def test_what_was_saved_is_restored(saved: Saved, small: Recipe, blobs_split: Split) -> None:
    other = _moving(0.0)
    progress = checkpoint.restore(other, checkpoint.load(saved.path, checkpoint.origin(small, blobs_split)))
    assert torch.equal(other["network"].state_dict()["weight"], saved.moving["network"].state_dict()["weight"])
    moments = [moving["optimizer"].state_dict()["state"][0]["exp_avg"] for moving in (other, saved.moving)]
    assert torch.equal(*moments)
    assert progress.history == (EPOCH,)
    assert progress.best == EPOCH
    assert progress.seconds == 2.5
    assert [path.name for path in saved.path.parent.iterdir()] == ["c.pt"]


def test_a_save_that_fails_leaves_the_one_before(saved: Saved, small: Recipe, blobs_split: Split) -> None:
    origin = checkpoint.origin(small, blobs_split)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpoint.save(saved.path, {"recipe": {"no value": lambda: None}, "rows": ""}, saved.moving, saved.progress)
    assert checkpoint.load(saved.path, origin)["origin"] == origin


def test_a_disk_that_is_full_is_said(
    saved: Saved, small: Recipe, blobs_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.path.read_bytes()

    def full(_: object, file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 606848 vs 606736")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"cannot write the checkpoint .*c.pt: .* if the disk is full"):
        checkpoint.save(saved.path, checkpoint.origin(small, blobs_split), saved.moving, saved.progress)
    assert saved.path.read_bytes() == before
    assert [path.name for path in saved.path.parent.iterdir()] == ["c.pt"]


def test_a_checkpoint_of_another_recipe_is_refused_with_what_differs(
    saved: Saved, small: Recipe, blobs_split: Split
) -> None:
    hyper = small.hyperparameters.model_copy(update={"epochs": 9})
    other = small.model_copy(update={"seed": 1, "hyperparameters": hyper})
    with pytest.raises(
        ResumeError,
        match=r"c\.pt is of another recipe \(hyperparameters.epochs was 8, is 9, seed was 20, is 1\); give that one",
    ):
        checkpoint.load(saved.path, checkpoint.origin(other, blobs_split))


def test_a_checkpoint_of_other_rows_is_refused(saved: Saved, small: Recipe, blobs_split: Split) -> None:
    other = split(blobs_split.dataset, seed=4, validation=0.2, test=0.2)
    with pytest.raises(ResumeError, match=r"of other rows than the data set has now; train without --resume"):
        checkpoint.load(saved.path, checkpoint.origin(small, other))


class _Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_refused_in_one_sentence(
    small: Recipe, blobs_split: Split, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ResumeError, match=r"c\.pt cannot be read; train without --resume"):
        checkpoint.load(tmp_path / "c.pt", checkpoint.origin(small, blobs_split))


def test_what_lacks_a_part_is_refused(small: Recipe, blobs_split: Split, tmp_path: Path) -> None:
    torch.save({"states": {}}, tmp_path / "c.pt")
    with pytest.raises(ResumeError, match="cannot be read"):
        checkpoint.load(tmp_path / "c.pt", checkpoint.origin(small, blobs_split))


def test_code_in_a_checkpoint_is_never_run(
    small: Recipe, blobs_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"origin": _Harmful()}, tmp_path / "c.pt")
    with pytest.raises(ResumeError, match="cannot be read"):
        checkpoint.load(tmp_path / "c.pt", checkpoint.origin(small, blobs_split))
    assert not (tmp_path / "harm").exists()
