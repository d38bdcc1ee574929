"""All pictures of a training, for every kind of task and of rows."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from frostline_training.data import Dataset, Rows, Split
from frostline_training.evaluation.evaluate import evaluate, score
from frostline_training.loop.progress import Epoch, Scores
from frostline_training.loop.trainer import Trained
from frostline_training.plots import draw_all

ALWAYS = {"network.svg", "network.png", "learning-curves.png", "mistakes.png"}
PROBABILITIES = {"calibration.png", "calibration-classes.png", "precision-recall.png"}


def _trained(network: nn.Module) -> Trained:
    epochs = tuple(
        Epoch(number, 1e-3, Scores(2 / number, 1 - 0.6 / number), Scores(2.1 / number, 1 - 0.7 / number), improved=True)
        for number in range(1, 9)
    )
    return Trained(network, epochs, epochs[5], 1.0)


def _split(inputs: NDArray[np.generic], targets: NDArray[np.generic], task: str, labels: tuple[str, ...]) -> Split:
    rows = Rows(inputs, targets)
    dataset = Dataset("d", rows, labels, "numbers", "made here", task=task)  # type: ignore[arg-type]
    return Split(dataset, rows, rows, rows)


def _draw(folder: Path, network: nn.Module, split: Split) -> set[str]:
    task = split.dataset.task
    evaluation = evaluate(network, split.test, task)
    before = None if task == "regression" else evaluation
    after = evaluation if before is None else score(evaluation.logits / np.float32(2), evaluation.targets, task)
    drawn = draw_all(folder, _trained(network), after, split, title="d version 1", uncalibrated=before)
    for path in drawn:
        assert path.parent == folder
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert min(picture.size) > 200
    return {path.name for path in drawn}


def _numbers(rows: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(rows, *shape)).astype(np.float32)


def test_a_classifier_of_images_gets_confusion_calibration_and_the_images_it_got_wrong(tmp_path: Path) -> None:
    split = _split(_numbers(60, 1, 8, 8), np.arange(60) % 3, "single-label", ("a", "$b", "a rather long name indeed"))
    names = _draw(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), split)
    assert names == ALWAYS | {"confusion.png", *PROBABILITIES}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_several_labels_get_a_picture_of_each_labels_precision(tmp_path: Path) -> None:
    targets = (_numbers(50, 4) > 0).astype(np.float32)
    split = _split(_numbers(50, 12), targets, "multi-label", ("a", "b", "c", "d"))
    assert _draw(tmp_path, nn.Linear(12, 4), split) == ALWAYS | {"labels.png", *PROBABILITIES}


def test_a_regression_gets_answers_against_truth_and_no_calibration(tmp_path: Path) -> None:
    split = _split(_numbers(50, 3), _numbers(50, 2), "regression", ("price", "rent"))
    assert _draw(tmp_path, nn.Linear(3, 2), split) == ALWAYS | {"predictions.png"}


def test_texts_that_were_mistaken_are_shown_as_texts(tmp_path: Path) -> None:
    texts = np.zeros((20, 300), np.uint8)
    texts[:, :240] = np.frombuffer(("a $b$ \n" * 60).encode()[:240], np.uint8)

    class Lengths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer((tokens != 0).float().mean(1, keepdim=True))
            return logits

    split = _split(texts, np.arange(20) % 2, "single-label", ("no", "yes"))
    assert "mistakes.png" in _draw(tmp_path, Lengths(), split)


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8)])
def test_a_network_without_a_mistake_is_drawn_as_such(tmp_path: Path, shape: tuple[int, ...]) -> None:
    inputs = _numbers(30, *shape)
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))
    targets = network(torch.from_numpy(inputs)).argmax(1).numpy()
    assert _draw(tmp_path, network, _split(inputs, targets, "single-label", ("a", "b"))) >= ALWAYS


def test_labels_in_any_script_and_emoji_are_drawn_without_a_warning(tmp_path: Path) -> None:
    # Warnings are errors here, and matplotlib warns of a letter that its font lacks.
    split = _split(_numbers(40, 3), np.arange(40) % 3, "single-label", ("猫", "🔥", "ไทย"))
    evaluation = evaluate(nn.Linear(3, 3), split.test, "single-label")
    drawn = draw_all(tmp_path, _trained(nn.Linear(3, 3)), evaluation, split, title="한국 👍🏽")
    assert len(drawn) == 8


def test_the_users_own_matplotlib_settings_stay_as_they_are(tmp_path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 as its user would

    before = dict(mpl.rcParams)
    split = _split(_numbers(10, 3), np.arange(10) % 2, "single-label", ("a", "b"))
    _draw(tmp_path, nn.Linear(3, 2), split)
    assert dict(mpl.rcParams) == before


def test_matplotlib_is_imported_only_to_draw_and_pyplot_never() -> None:
    script = "import sys, frostline_training.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    script = "import sys, frostline_training.plots.diagram, frostline_training.plots.scores, frostline_training.plots.mistakes; "
    subprocess.run([sys.executable, "-c", script + "assert 'matplotlib.pyplot' not in sys.modules"], check=True)
