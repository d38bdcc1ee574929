"""Several processes that train together."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

import frostline_training
from frostline_training import data
from frostline_training.evaluation.evaluate import evaluate
from frostline_training.loop import distributed as group_module
from frostline_training.loop.distributed import ALONE, Group, joined
from frostline_training.loop.trainer import train
from tests.support.training import together, torchrun_job

pytestmark = pytest.mark.usefixtures("traced_processes")

# Of what is trained with, and of what the job takes from the tests.
PACKAGES = os.pathsep.join([str(Path(frostline_training.__file__).parents[1]), str(Path(__file__).parents[3])])


def _torchrun(models: Path, runs: Path, source: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, torchrun_job.__file__, models, runs, source],
        env={**os.environ, "PYTHONPATH": PACKAGES, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_processes_learn_a_recipe_as_one_does_and_publish_once(tmp_path: Path) -> None:
    done = _torchrun(tmp_path / "models", tmp_path / "runs", "digits")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "models/short").iterdir()] == ["1"]
    (run,) = (tmp_path / "runs/short").iterdir()
    assert json.loads((run / "config.json").read_text())["processes"] == 2
    assert json.loads((run / "published.json").read_text())["version"] == 1
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 12
    assert done.stdout.count("rows to train on") == 1
    assert done.stdout.count("this process knows version 1, and 0 threads of gloo are left") == 2

    recipe = torchrun_job.RECIPE
    split = data.prepare(recipe)
    alone = train(recipe, split, device=torch.device("cpu"), watcher=together.Silent())
    accuracy = evaluate(alone.network, split.test, "single-label").accuracy
    card = json.loads((tmp_path / "models/short/1/card.json").read_text())
    assert accuracy is not None
    assert accuracy > 0.96
    assert abs(card["scores"]["test_accuracy"] - accuracy) <= 0.005
    # They make the steps that one makes, but for the rounding of the last digits.
    losses = [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx([epoch.train.loss for epoch in alone.history], rel=1e-3)


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
    network = nn.Linear(2, 2)
    assert ALONE.parallel(network, 5) is network
    assert ALONE.first(lambda: "answer") == "answer"


class _Backend:
    """Stands in for torch.distributed, as the second of two processes sees it, and keeps which group was waited in."""

    ProcessGroup = object

    def __init__(self) -> None:
        self.timeouts: dict[object, timedelta] = {}
        self.waited: list[object] = []

    def init_process_group(self) -> None: ...
    def destroy_process_group(self) -> None: ...
    def get_rank(self) -> int:
        return 1

    def get_world_size(self) -> int:
        return 2

    def new_group(self, *, backend: str, timeout: timedelta) -> object:
        group = (backend,)
        self.timeouts[group] = timeout
        return group

    def broadcast_object_list(self, told: list[object], group: object) -> None:
        self.waited.append(group)
        told[0] = ["published"]


def test_the_first_process_is_waited_for_longer_than_for_a_step_of_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = _Backend()
    monkeypatch.setattr(group_module, "distributed", backend)
    with joined({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}) as group:
        assert group.first(lambda: "not asked of this one") == "published"
    (waited,) = backend.waited
    assert backend.timeouts[waited] >= timedelta(days=1)  # a proof may take hours


def test_every_process_takes_a_cuda_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Group(3, 4, local_rank=1).device("auto") == torch.device("cuda:1")
    assert Group(3, 4, local_rank=1).device("cpu") == torch.device("cpu")
    assert ALONE.device("cuda") == torch.device("cuda")
