"""One whole training job, on real data."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from training import data, job
from training.config import Cnn, Hyperparameters, find_recipe
from training.errors import DeviceError
from training.export import Published

Listing = Callable[[Path], list[str]]


def _console() -> Console:
    return Console(file=io.StringIO(), width=100)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, str]:
    console = _console()
    models = tmp_path_factory.mktemp("models")
    return job.run(find_recipe("iris"), models=models, device="cpu", console=console), _said(console)


def test_iris_is_learnt(iris: tuple[Published, str]) -> None:
    assert iris[0].accuracy is not None
    assert iris[0].accuracy >= 0.93


def test_the_published_file_takes_raw_values_and_scores_as_the_card_says(iris: tuple[Published, str]) -> None:
    card = json.loads((iris[0].path / "card.json").read_text())
    test = data.prepare(find_recipe("iris")).test
    session = onnxruntime.InferenceSession(iris[0].path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": test.inputs})
    assert card["scores"]["test_accuracy"] == np.mean(logits.argmax(1) == test.targets)
    assert card["data"]["rows"] == {"train": 97, "validation": 23, "test": 30}
    assert card["labels"] == ["setosa", "versicolor", "virginica"]


def test_the_golden_rows_are_rows_the_training_never_saw(iris: tuple[Published, str]) -> None:
    split = data.prepare(find_recipe("iris"))
    with np.load(iris[0].path / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["input"], split.test.inputs)


def test_the_summary_says_how_good_it_is_and_where_it_stands(iris: tuple[Published, str]) -> None:
    published, said = iris
    for word in ("97 rows to train on", "test accuracy", f"{published.accuracy:.2%}", "iris version 1", "near-ties"):
        assert word in said
    assert published.sha256 in said


def test_the_same_recipe_gives_the_same_file(iris: tuple[Published, str], tmp_path: Path) -> None:
    again = job.run(find_recipe("iris"), models=tmp_path, device="auto", console=_console())
    assert again.sha256 == iris[0].sha256


def test_a_few_epochs_of_digits_with_batch_norm_are_learnt_and_published(tmp_path: Path) -> None:
    quick = find_recipe("digits").model_copy(
        update={
            "network": Cnn(channels=(8, 16), hidden=()),
            "hyperparameters": Hyperparameters(epochs=5, learning_rate=0.01),
        }
    )
    published = job.run(quick, models=tmp_path, device="cpu", console=_console())
    assert published.rows == 360
    assert published.accuracy is not None
    assert published.accuracy > 0.9


def test_a_device_that_is_not_there_is_refused_before_anything_else(tmp_path: Path, everything_under: Listing) -> None:
    console = _console()
    with pytest.raises(DeviceError):
        job.run(find_recipe("iris"), models=tmp_path, device="tpu", console=console)
    assert _said(console) == ""
    assert everything_under(tmp_path) == []


def test_an_interrupt_during_the_training_leaves_nothing(
    tmp_path: Path, everything_under: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.report.LiveReport.step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        job.run(find_recipe("iris"), models=tmp_path / "models", device="cpu", console=_console())
    assert everything_under(tmp_path) == []
