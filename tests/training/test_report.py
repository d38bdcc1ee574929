"""What a person sees of a training run."""

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import nn

from frostline_training import data
from frostline_training.config import LeastPrecision, Mlp, Recipe
from frostline_training.evaluation.baselines import Baseline
from frostline_training.evaluation.decide import Cut, Decision, Outcome
from frostline_training.evaluation.evaluate import score
from frostline_training.loop.progress import Epoch, Measure, Scores
from frostline_training.loop.trainer import Trained
from frostline_training.publishing.publish import Published
from frostline_training.report import LiveReport, epoch_line, print_start, print_summary
from frostline_training.sources import CsvFile, ImageFolder, Task


def _epoch(number: int, measure: Measure = "accuracy") -> Epoch:
    return Epoch(number, 3e-3, Scores(0.25, 0.875, measure), Scores(0.5, 0.75, measure), improved=True)


def _shown(*, terminal: bool, epochs: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with LiveReport(console, epochs=epochs, steps=2) as report:
        for number in range(1, epochs + 1):
            report.step()
            report.step()
            report.epoch(_epoch(number))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_epoch_in_one_line_has_loss_accuracy_and_learning_rate() -> None:
    assert epoch_line(_epoch(1)) == "loss 0.2500 accuracy 87.5%, validation 0.5000 75.0%, lr 3e-03"


@pytest.mark.parametrize(
    ("measure", "words"),
    [("r2", "R² 0.875, validation 0.5000 0.750"), ("labels_right", "labels right 87.5%")],
)
def test_the_line_calls_the_score_what_it_is(measure: Measure, words: str) -> None:
    assert words in epoch_line(_epoch(1, measure))


def test_the_line_says_that_a_score_is_undefined() -> None:
    alone = replace(_epoch(1, "r2"), validation=Scores(0.5, math.nan, "r2"))
    assert epoch_line(alone) == "loss 0.2500 R² 0.875, validation 0.5000 undefined, lr 3e-03"


def _summary(
    logits: NDArray[np.float32],
    targets: NDArray[np.float64],
    task: Task,
    *,
    labels: tuple[str, ...] = ("a", "[b]"),
    decision: Decision | None = None,
    weighted: dict[str, float] | None = None,
    simpler: Sequence[Baseline] = (),
) -> str:
    console = Console(file=io.StringIO(), width=240, color_system=None)
    trained = Trained(nn.Linear(4, 3), (_epoch(1), _epoch(2)), _epoch(2), 1.5)
    published = Published(
        name="m",
        version=3,
        path=Path("models/m/3"),
        sha256="f" * 64,
        max_abs_difference=2e-7,
        differences={1: 1e-7, 64: 2e-7},
        differences_by_length={},
        near_ties=(),
        rows=len(targets),
        accuracy=None,
    )
    recipe = Recipe(name="m", data="iris", network=Mlp())
    test = score(logits, targets, task)
    before = None if task == "regression" else score(logits * 3, targets, task)
    print_summary(
        console,
        recipe,
        trained,
        test,
        published,
        labels=labels,
        uncalibrated=before,
        decision=decision,
        weighted=weighted,
        simpler=simpler,
    )
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_the_summary_has_the_interval_the_weakest_class_and_the_calibration_before_and_after() -> None:
    logits = np.array([[2, 0], [2, 0], [0, 2], [2, 0]], np.float32)
    said = _summary(logits, np.array([0.0, 0, 1, 1]), "single-label")
    for words in (
        "test accuracy │ 75.00% of 4 rows",
        "30.06% to 95.44%",
        "[b]: precision 100.0%, recall 50.0%",
        "before calibration",
    ):
        assert words in said


def test_a_regressions_summary_has_r2_and_errors_and_no_classes() -> None:
    values = np.array([[1], [2], [4]], np.float32)
    said = _summary(values, np.array([[1.0], [2], [3]]), "regression", labels=("price",))
    assert "test R² │ 0.5000" in said
    assert "mean absolute error 0.3333" in said
    assert "RMSE / standard deviation 0.7071, MAE / mean absolute deviation 0.5000" in said
    assert "in the unit of 'price'" in said
    assert "class" not in said


def test_the_summary_ranks_the_positive_class_and_says_how_far_its_probability_is_off() -> None:
    logits = np.log(np.tile(np.array([[0.8, 0.2]], np.float32), (4, 1)))
    logits[3] = [0, 0]
    said = _summary(logits, np.array([0.0, 0, 0, 1]), "single-label")
    assert "ROC AUC 1.0000, average precision 1.0000 (of [b], which 25.0% of the rows have)" in said
    assert "calibration of [b]" in said
    assert "mean probability 27.50%, true share 25.00%" in said


def test_the_summary_has_the_threshold_and_one_line_for_each_baseline() -> None:
    logits = np.array([[2, 0], [2, 0], [0, 2], [2, 0]], np.float32)
    targets = np.array([0.0, 0, 1, 1])
    cut = Cut("[b]", 1, 0.25, reached=False, validation=Outcome(1, 1, 0), test=Outcome(1, 3, 1))
    simpler = (
        Baseline("majority class", score(np.zeros((4, 2), np.float32), targets, "single-label")),
        Baseline("gradient boosting", None, "too large"),
    )
    decision = Decision(LeastPrecision(precision=0.9), (cut,), each=False)
    said = _summary(logits, targets, "single-label", decision=decision, simpler=simpler)
    assert "[b] from a probability of 0.2500 on (precision 0.9; the validation rows do not reach it" in said
    assert "on the test rows precision 25.0%, recall 50.0%, F1 0.3333" in said
    assert "baseline: majority class │ accuracy 50.00%, ROC AUC 0.5, average precision 0.5" in said
    assert "baseline: gradient boosting │ skipped: too large" in said


def test_a_terminal_gets_a_live_line_that_ends_at_the_last_epoch() -> None:
    shown = _shown(terminal=True, epochs=3)
    assert "epoch 3/3" in shown
    assert epoch_line(_epoch(3)) in shown


@pytest.mark.parametrize(("epochs", "lines"), [(5, 5), (40, 11)])
def test_elsewhere_a_few_plain_lines_are_printed(epochs: int, lines: int) -> None:
    shown = _shown(terminal=False, epochs=epochs).splitlines()
    assert len(shown) == lines
    assert all(line.startswith("epoch ") for line in shown)
    assert "\x1b" not in "".join(shown)


def test_what_each_column_was_taken_for_is_printed_before_training(tmp_path: Path) -> None:
    lines = [f"{index},{'' if index % 4 else 'red[/]'},2024-01-{index + 1:02},{'uv'[index % 2]}" for index in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["size,colour,day,y", *lines]))
    recipe = Recipe(name="r", data=CsvFile(path=tmp_path / "t.csv", target="y"), network=Mlp())
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_start(console, recipe, data.prepare(recipe), "cpu")
    assert isinstance(console.file, io.StringIO)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]
    assert [row for row in cells if row] == [
        ["size", "number", "", "0 to 11"],
        ["colour", "category", "9", "1: red[/]"],
        ["day", "date", "", "2024-01-01 to 2024-01-12"],
        ["y", "target", "", "2: u, v"],
    ]


def test_what_is_no_picture_is_said_before_training(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "p" / label).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (2, 2), number + 100 * (label == "b")).save(tmp_path / "p" / label / f"{number}.png")
    (tmp_path / "p" / "a" / "Thumbs.db").write_bytes(b"")
    recipe = Recipe(name="r", data=ImageFolder(path=tmp_path / "p"), network=Mlp())
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_start(console, recipe, data.prepare(recipe), "cpu")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().endswith("1 of p not read: a/Thumbs.db (hidden, or a system's own).\n")


def test_the_weakest_class_and_threshold_are_of_what_some_test_row_has() -> None:
    logits = np.array([[2, -2, -2], [2, 2, -2], [2, 2, -2]], np.float32)
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]], np.float64)
    cuts = [
        Cut(label, place, 0.5, reached=True, validation=Outcome(1, 0, 0), test=test)
        for place, (label, test) in enumerate(
            {"a": Outcome(3, 0, 0), "[b]": Outcome(1, 1, 0), "rare": Outcome(0, 0, 0)}.items()
        )
    ]
    decision = Decision("max-f1", tuple(cuts), each=True)
    said = _summary(logits, targets, "multi-label", labels=("a", "[b]", "rare"), decision=decision)
    assert "weakest class │ [b]: precision 50.0%, recall 100.0%" in " ".join(said.split())
    assert "the weakest: [b] from a probability" in said


def test_the_summary_tells_what_class_weights_would_answer_where_no_threshold_can() -> None:
    logits = np.eye(3, dtype=np.float32)
    said = _summary(
        logits, np.arange(3.0), "single-label", labels=("a", "b", "c"), weighted={"accuracy": 0.5, "macro_f1": 0.75}
    )
    assert "the answer is the most probable class, without the weights" in said
    assert "it would have accuracy 50.00%, macro F1 75.00%" in said
