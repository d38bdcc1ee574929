"""The folder of a run."""

import csv
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from frostline_training.errors import TrainingError
from frostline_training.loop import runs
from frostline_training.loop.checkpoint import ResumeError
from frostline_training.loop.progress import Epoch, Scores
from frostline_training.loop.runs import Run


def _epoch(number: int) -> Epoch:
    return Epoch(number, 0.1, Scores(1 / number, 0.5), Scores(2 / number, 0.25), improved=True)


def _started(folder: Path, *, checkpoint: bool, published: bool = False) -> Run:
    run = runs.start(folder, "m")
    run.begin({"recipe": {"name": "m"}})
    if checkpoint:
        run.checkpoint.touch()
    if published:
        run.finish(folder, version=1)
    return run


def test_every_run_has_a_folder_of_its_own_in_order(tmp_path: Path) -> None:
    folders = [runs.start(tmp_path, "m").folder for _ in range(3)]
    assert len(set(folders)) == 3
    assert sorted(folders) == folders


def test_the_configuration_can_be_read_again(tmp_path: Path) -> None:
    run = _started(tmp_path, checkpoint=False)
    assert json.loads((run.folder / "config.json").read_text()) == {"recipe": {"name": "m"}}


def test_every_epoch_is_one_row_of_both_metrics_files(tmp_path: Path) -> None:
    run = runs.start(tmp_path, "m")
    for number in (1, 2):
        run.log(_epoch(number))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    with (run.folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert lines[1] == {
        "epoch": 2,
        "learning_rate": 0.1,
        "train_loss": 0.5,
        "train_accuracy": 0.5,
        "validation_loss": 1.0,
        "validation_accuracy": 0.25,
        "improved": True,
    }
    assert [{name: str(value) for name, value in line.items()} for line in lines] == table


def test_the_columns_are_called_by_what_they_measure(tmp_path: Path) -> None:
    run = runs.start(tmp_path, "m")
    run.log(Epoch(1, 0.1, Scores(1.0, 0.5, "r2"), Scores(2.0, -0.25, "r2"), improved=True))
    line = json.loads((run.folder / "metrics.jsonl").read_text())
    assert (line["train_r2"], line["validation_r2"]) == (0.5, -0.25)
    assert not [name for name in line if "accuracy" in name]


def test_metrics_are_brought_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    run = runs.start(tmp_path, "m")
    for number in (1, 2, 3):
        run.log(_epoch(number))
    run.rewrite([_epoch(1)])
    run.log(_epoch(2))
    assert [line["epoch"] for line in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())] == [
        1,
        2,
    ]
    assert len((run.folder / "metrics.csv").read_text().splitlines()) == 3


def test_the_newest_run_goes_on_if_it_was_interrupted(tmp_path: Path) -> None:
    assert runs.unfinished(tmp_path, "m") is None
    _started(tmp_path, checkpoint=True)
    newest = _started(tmp_path, checkpoint=True)
    assert runs.unfinished(tmp_path, "m") == newest
    assert runs.unfinished(tmp_path, "other") is None


def test_a_run_without_a_checkpoint_hides_none_that_was_interrupted(tmp_path: Path) -> None:
    _started(tmp_path, checkpoint=False)
    assert runs.unfinished(tmp_path, "m") is None
    interrupted = _started(tmp_path, checkpoint=True)
    _started(tmp_path, checkpoint=False)
    assert runs.unfinished(tmp_path, "m") == interrupted


def test_nothing_goes_on_once_a_version_came_of_a_newer_run(tmp_path: Path) -> None:
    _started(tmp_path, checkpoint=True)
    _started(tmp_path, checkpoint=True, published=True)
    assert runs.unfinished(tmp_path, "m") is None


def test_a_run_of_another_process_does_not_go_on_here(tmp_path: Path) -> None:
    interrupted = _started(tmp_path, checkpoint=True)
    running = _started(tmp_path, checkpoint=True)
    with running.held():
        assert runs.unfinished(tmp_path, "m") == interrupted
        with pytest.raises(ResumeError, match="is run by another process; wait for it, or end it"), running.held():
            pass
        with interrupted.held(), pytest.raises(ResumeError, match=f"{running.folder} is run by another process"):
            runs.unfinished(tmp_path, "m")
    assert runs.unfinished(tmp_path, "m") == running


@pytest.mark.parametrize("name", ["file", "dangling"])
def test_where_no_folder_can_be_made_it_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(TrainingError, match=rf"cannot make a folder for the run: {tmp_path}/{name}"):
        runs.start(tmp_path / name, "m")


def test_a_finished_run_keeps_the_pictures_and_says_which_version_came_of_it(tmp_path: Path) -> None:
    version = tmp_path / "models/m/3"
    version.mkdir(parents=True)
    for name in ("card.json", "network.svg", "confusion.png"):
        (version / name).write_text(name)
    run = _started(tmp_path / "runs", checkpoint=True)
    run.finish(version, version=3)
    assert sorted(path.name for path in run.pictures.iterdir()) == ["confusion.png", "network.svg"]
    assert json.loads((run.folder / "published.json").read_text()) == {"folder": str(version), "version": 3}


@pytest.mark.parametrize(
    ("taken", "write"),
    [
        ("config.json", lambda run: run.begin({})),
        ("metrics.jsonl", lambda run: run.log(_epoch(1))),
        ("metrics.csv", lambda run: run.log(_epoch(1))),
        ("metrics.jsonl", lambda run: run.rewrite([_epoch(1)])),
        ("published.json", lambda run: run.finish(run.folder, version=1)),
        ("pictures/network.svg", lambda run: run.finish(run.folder, version=1)),
    ],
)
def test_a_file_that_cannot_be_written_is_said_with_the_reason(
    tmp_path: Path, taken: str, write: Callable[[Run], None]
) -> None:
    run = runs.start(tmp_path, "m")
    (run.folder / "network.svg").touch()
    (run.folder / taken).mkdir(parents=True)
    with pytest.raises(TrainingError) as refused:
        write(run)
    assert str(refused.value).startswith(f"cannot write {run.folder / taken}: Is a directory; if the disk is full")


class _FakeWriter:
    def __init__(self, folder: str) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.folder, self.closed = folder, False
        _FakeWriter.made = self

    made: "_FakeWriter"

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_every_number_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = _FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with runs.tensorboard(tmp_path) as watcher:
        watcher.step()
        watcher.epoch(_epoch(2))
    assert _FakeWriter.made.scalars == [
        ("learning_rate", 0.1, 2),
        ("loss/train", 0.5, 2),
        ("accuracy/train", 0.5, 2),
        ("loss/validation", 1.0, 2),
        ("accuracy/validation", 0.25, 2),
    ]
    assert _FakeWriter.made.closed


def test_without_tensorboard_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(TrainingError, match="TensorBoard logs need its package: pip install tensorboard"),
        runs.tensorboard(tmp_path),
    ):
        pass
