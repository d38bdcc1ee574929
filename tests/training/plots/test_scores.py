"""What stands in the pictures of scores."""

# ruff: noqa: RUF001 - the pictures are written with the minus sign

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import TextPath

from frostline_training.evaluation.decide import Cut, Decision, Outcome
from frostline_training.evaluation.evaluate import score
from frostline_training.loop.progress import Epoch, Measure, Scores
from frostline_training.plots import canvas, scores

Shown = Callable[[], tuple[Figure, list[str]]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Return the figure that was saved last, with all its words."""
    saved: list[Figure] = []

    def save(made: Figure, path: Path) -> Path:
        made.draw_without_rendering()
        saved.append(made)
        return path

    monkeypatch.setattr(canvas, "save", save)

    def last() -> tuple[Figure, list[str]]:
        words = [text.get_text() for text in saved[-1].findobj(Text) if isinstance(text, Text)]
        return saved[-1], [text for text in words if text]

    return last


def _history(losses: list[float], measure: Measure = "accuracy") -> tuple[Epoch, ...]:
    return tuple(
        Epoch(number, 1e-3, Scores(loss, 0.5, measure), Scores(loss, 0.5, measure), improved=True)
        for number, loss in enumerate(losses, start=1)
    )


def test_the_powers_on_a_logarithmic_axis_are_written_as_powers(tmp_path: Path, shown: Shown) -> None:
    history = _history([1.0, 0.1, 0.01, 0.001])
    scores.learning_curves(tmp_path / "x.png", history, history[-1], "m")
    _, words = shown()
    assert {"10⁰", "10⁻¹", "10⁻²", "10⁻³"} <= set(words)
    assert not [word for word in words if "$" in word or "math" in word]


def test_learning_curves_say_what_they_measure_and_what_sets_train_apart(tmp_path: Path, shown: Shown) -> None:
    history = _history([1.0, 0.9], "r2")
    scores.learning_curves(tmp_path / "x.png", history, history[-1], "m", dropout=True)
    _, words = shown()
    assert "R²" in words
    assert "accuracy" not in words
    (note,) = (word for word in words if word.startswith("the same loss on both"))
    assert "smooth L1" in note
    assert "train: the mean over the epoch, with dropout, while the weights move; validation: after the epoch" in note


def _panels(made: Figure) -> int:
    return sum(axes.axison for axes in made.axes)


def test_of_fifteen_classes_the_twelve_worst_calibrated_are_drawn(tmp_path: Path, shown: Shown) -> None:
    random = np.random.default_rng(2)
    targets = np.arange(300) % 15
    logits = random.normal(size=(300, 15)).astype(np.float32)
    logits[np.arange(300), targets] += 9
    logits[targets >= 12] = random.normal(size=(60, 15))  # classes 12 to 14 are guessed
    evaluation = score(logits, targets, "single-label")
    labels = tuple(f"class {number}" for number in range(15))
    scores.class_calibration(tmp_path / "x.png", evaluation, labels, "m")
    made, words = shown()
    assert _panels(made) == 12
    assert any("the 12 furthest off of 15" in word for word in words)
    assert all(any(word.startswith(f"class {number}: ECE") for word in words) for number in (12, 13, 14))


def test_of_two_classes_the_positive_one_is_drawn_with_its_threshold(tmp_path: Path, shown: Shown) -> None:
    logits = np.array([[0, 4], [0, 3], [0, 2], [0, 1], [5, 0]], np.float32)
    evaluation = score(logits, np.array([1, 0, 1, 0, 0]), "single-label")
    decision = Decision("max-f1", (Cut("yes", 1, 0.8, True, Outcome(2, 1, 0), Outcome(2, 1, 0)),), each=False)
    scores.precision_recall(tmp_path / "x.png", evaluation, ("no", "yes"), "m", decision=decision)
    made, words = shown()
    assert _panels(made) == 1
    assert "yes: average precision 0.833" in words
    assert "probability 0.8: precision 67%, recall 100%" in words
    assert "at random: 40.0%" in words


def test_without_a_rule_the_threshold_of_two_classes_is_a_half(tmp_path: Path, shown: Shown) -> None:
    logits = np.array([[0, 4], [0, 3], [5, 0]], np.float32)
    evaluation = score(logits, np.array([1, 0, 0]), "single-label")
    scores.precision_recall(tmp_path / "x.png", evaluation, ("no", "yes"), "m", decision=None)
    assert "probability 0.5: precision 50%, recall 100%" in shown()[1]


def test_several_classes_have_curves_and_no_threshold(tmp_path: Path, shown: Shown) -> None:
    evaluation = score(np.eye(3, dtype=np.float32).repeat(2, 0), np.arange(3).repeat(2), "single-label")
    scores.precision_recall(tmp_path / "x.png", evaluation, ("a", "b", "c"), "m", decision=None)
    made, words = shown()
    assert _panels(made) == 3
    assert not [word for word in words if word.startswith("probability")]


def test_a_regression_has_residuals_and_axes_with_names(tmp_path: Path, shown: Shown) -> None:
    targets = np.array([[1.0], [2], [3], [6]])
    evaluation = score(np.array([[2.0], [1], [3], [8]], np.float32), targets, "regression")
    scores.predicted(tmp_path / "x.png", evaluation, ("price",), "m")
    made, words = shown()
    above, below = made.axes
    assert (above.get_xlabel(), above.get_ylabel()) == ("true price", "predicted price")
    assert (below.get_xlabel(), below.get_ylabel()) == ("predicted price", "residual: predicted − true")
    assert "MAE 1, RMSE 1.225" in words
    assert "mean residual +0.5" in words
    # One row that is far off has the others, and both lines, at any edge of the panel.
    legend = below.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y0 >= below.bbox.y1


def test_a_regression_of_one_row_is_drawn_with_its_error_and_without_r2(tmp_path: Path, shown: Shown) -> None:
    evaluation = score(np.array([[2.0]], np.float32), np.array([[1.5]]), "regression")
    scores.predicted(tmp_path / "x.png", evaluation, ("price",), "m")
    assert "m: MAE 0.5" in shown()[1]


def test_learning_curves_of_a_score_that_is_undefined_are_drawn_without_it(tmp_path: Path, shown: Shown) -> None:
    alone = Scores(1.0, math.nan, "r2")
    history = (Epoch(1, 1e-3, alone, alone, improved=True), Epoch(2, 1e-3, alone, alone, improved=True))
    scores.learning_curves(tmp_path / "x.png", history, history[-1], "m")
    assert "R²" in shown()[1]


@pytest.mark.parametrize(
    ("label", "shown_as"),
    [
        ("é → ²", "é → ²"),
        ("$x$", "$x$"),
        ("🔥 hot", "[fire] hot"),
        ("\x00", "[U+0000]"),
        ("two\nlines", "two\nlines"),
        ("\u202e12\u202c \u2066a\u2069 \u200fb\u200e\u061c", "12 a b"),
    ],
)
def test_what_no_font_has_is_replaced_by_its_name_or_number(label: str, shown_as: str) -> None:
    assert canvas.readable(label) == shown_as


def test_a_title_that_is_wider_than_its_picture_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda made, *_, **__: saved.append(made))
    evaluation = score(np.array([[2.0, 0], [0, 2.0]], np.float32), np.array([0, 1]), "single-label")
    scores.confusion(tmp_path / "x.png", evaluation, ("a", "b"), "m")
    scores.confusion(tmp_path / "x.png", evaluation, ("a", "b"), "long" * 30)
    history = _history([1.0])
    scores.learning_curves(tmp_path / "x.png", history, history[-1], "long" * 60)
    whole, narrow, wide = saved
    assert whole.axes[0].get_title(loc="left") == "m: 2 of 2 test rows right"
    for made, title in ((narrow, narrow.axes[0].get_title(loc="left")), (wide, wide.get_suptitle())):
        assert re.fullmatch("(long){7,}l?o?n?…", title)
        (drawn,) = (text for text in made.findobj(Text) if isinstance(text, Text) and text.get_text() == title)
        assert 0.9 * made.bbox.x1 < drawn.get_window_extent().x1 < made.bbox.x1


def test_a_script_without_a_font_is_still_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "_missing", lambda letter: letter in "猫犬")  # whatever fonts this machine has
    assert canvas.readable("猫犬 cat") == "[U+732B U+72AC] cat"


@pytest.mark.parametrize("text", ["hidden layer 32 → 10", "Größe, 5 m", "(W)"])
def test_a_text_is_as_wide_as_its_outline(text: str) -> None:
    outline = TextPath((0, 0), text, size=9, prop=FontProperties(weight="bold")).get_extents().x1
    assert canvas.text_width(text, 9, "bold") == pytest.approx(outline, abs=0.01)


def test_a_text_of_nothing_but_spaces_has_no_width() -> None:
    assert (canvas.text_width("", 9), canvas.text_width("  ", 9)) == (0, 0)
