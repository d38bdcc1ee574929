"""Several processes that train together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchrun_job
from torch import nn

import training
from training import data
from training.distributed import ALONE, Group, joined
from training.evaluate import evaluate
from training.progress import Epoch
from training.trainer import train

ROOT = Path(training.__file__).parents[1]


class Silent:
    def step(self) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        pass


def _torchrun(models: Path, runs: Path, source: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, torchrun_job.__file__, models, runs, source],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_processes_learn_a_recipe_without_dropout_or_batch_norm_as_one_does_and_publish_once(
    tmp_path: Path,
) -> None:
    done = _torchrun(tmp_path / "models", tmp_path / "runs", "digits")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "models/short").iterdir()] == ["1"]
    (run,) = (tmp_path / "runs/short").iterdir()
    assert json.loads((run / "config.json").read_text())["processes"] == 2
    assert json.loads((run / "published.json").read_text())["version"] == 1
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 12
    assert done.stdout.count("rows to train on") == 1
    assert done.stdout.count("this process knows version 1") == 2

    recipe = torchrun_job.RECIPE
    split = data.prepare(recipe)
    alone = train(recipe, split, device=torch.device("cpu"), watcher=Silent())
    accuracy = evaluate(alone.network, split.test, "single-label").accuracy
    card = json.loads((tmp_path / "models/short/1/card.json").read_text())
    assert accuracy is not None
    assert accuracy > 0.96
    assert abs(card["scores"]["test_accuracy"] - accuracy) <= 0.005
    # Their mean gradient is that of the whole batch, so they go the same way to the last digits.
    losses = [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx([epoch.train.loss for epoch in alone.history], rel=1e-2)


def test_what_is_wrong_is_said_by_one_process_and_ends_all(tmp_path: Path) -> None:
    done = _torchrun(tmp_path / "models", tmp_path / "runs", "mnist")
    assert done.returncode != 0
    assert done.stderr.count("no data set is called 'mnist'") == 1
    assert not (tmp_path / "models").exists()


def test_without_torchrun_a_process_is_alone() -> None:
    with joined({}) as group:
        assert group is ALONE
    with joined({"WORLD_SIZE": "1", "RANK": "0"}) as group:
        assert group.leads
        assert group.size == 1


def test_alone_nothing_is_shared() -> None:
    rows, network = torch.arange(5), nn.Linear(2, 2)
    assert ALONE.share(rows).tolist() == [0, 1, 2, 3, 4]
    assert ALONE.parallel(network) is network
    assert ALONE.total(torch.ones(2)).tolist() == [1, 1]
    assert ALONE.first(lambda: "answer") == "answer"


@pytest.mark.parametrize(("rows", "size", "each"), [(64, 2, 32), (64, 3, 21), (5, 4, 1)])
def test_every_process_takes_another_part_of_equal_size(rows: int, size: int, each: int) -> None:
    parts = [Group(rank, size).share(torch.arange(rows)).tolist() for rank in range(size)]
    assert [len(part) for part in parts] == [each] * size
    assert sorted(row for part in parts for row in part) == list(range(each * size))


def test_every_process_takes_a_cuda_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Group(3, 4, local_rank=1).device("auto") == torch.device("cuda:1")
    assert Group(3, 4, local_rank=1).device("cpu") == torch.device("cpu")
    assert ALONE.device("cuda") == torch.device("cuda")
