"""`frostline show`, on folders made by hand."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from frostline.cli import show
from frostline.cli.usage import BadUsage, CannotDo

CARD: dict[str, Any] = {
    "name": "m",
    "version": 2,
    "parameters": 73002,
    "labels": ["a", "[b]"],
    "scores": {
        "test_accuracy": 0.975,
        "test_rows": 200,
        "interval_95": [0.943, 0.989],
        "ece": 0.0125,
        "ece_before": 0.03125,
        "temperature": 1.5,
        "per_class": {"a": {"precision": 1.0, "recall": 0.95, "f1": 0.974, "support": 120}, "[b]": {"precision": 0.9, "recall": 1.0, "f1": 0.95, "support": 80}},
    },
    "input": {"name": "input", "dtype": "float32", "shape": ["batch", 4], "send": "four lengths"},
    "recipe": {"network": {"family": "mlp", "hidden": [8]}},
}  # fmt: skip


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model with two versions; only the second has pictures."""
    for version in ("1", "2", "10x", ".staging-1"):
        (tmp_path / "m" / version).mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / "m" / str(number) / "card.json").write_text(json.dumps(CARD | {"version": number}))
    for name in ("network.png", "network.svg", "confusion.png", "notes.txt"):
        (tmp_path / "m/2" / name).touch()
    return tmp_path


def _said(models: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(show.command)
    try:
        code = app([*arguments, "--models", str(models)], standalone_mode=False)
    except (CannotDo, BadUsage) as error:
        return 2 if isinstance(error, BadUsage) else 1, "", str(error)
    shown = capsys.readouterr()
    return int(code or 0), shown.out, shown.err


def test_the_latest_versions_card_is_printed_with_its_scores(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _said(models, "m", capsys=capsys)
    assert code == 0
    for words in ("m version 2", "97.50%", "94.30% to 98.90%", "200 rows", "1.25%; 3.12% before", "73,002", "four"):
        assert words in " ".join(out.split())


def test_classes_of_pixels_have_their_overlap_and_one_that_no_pixel_has_has_none(models: Path) -> None:
    each = {"precision": 0.8, "recall": 0.9, "f1": 0.85}
    scores = {
        "test_mean_iou": 0.75,
        "per_class": {"road": {"iou": 0.75, **each, "support": 12345}, "moon": {"iou": None, **each, "support": 0}},
    }
    console = Console(file=io.StringIO(), width=100)
    show.show(models / "m/2", CARD | {"task": "dense", "scores": scores}, console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().replace("┃", "│").replace("│", " ").splitlines()]
    assert ["test", "mean", "iou", "75.00%"] in lines
    assert ["class", "iou", "precision", "recall", "f1", "pixels"] in lines
    assert ["road", "75.0%", "80.0%", "90.0%", "85.0%", "12345"] in lines
    assert ["moon", "80.0%", "90.0%", "85.0%", "0"] in lines


def test_the_recall_of_an_embedding_has_its_interval(models: Path) -> None:
    scores = {"test_recall_at_1": 0.9, "test_rows": 50, "interval_95": [0.8, 0.95]}
    console = Console(file=io.StringIO(), width=120)
    show.show(models / "m/2", CARD | {"task": "embedding", "scores": scores}, console)
    assert isinstance(console.file, io.StringIO)
    assert "90.00%  (95 % interval 80.00% to 95.00%)" in console.file.getvalue()


def test_each_class_has_a_line_and_a_label_in_brackets_is_no_markup(models: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    show.show(models / "m/2", CARD, console)
    assert isinstance(console.file, io.StringIO)
    assert "│ [b]" in console.file.getvalue()


def shown(models: Path, **card: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    show.show(models / "m/2", card, console)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().replace("│", " ").split())


def test_a_card_cannot_command_the_terminal(models: Path) -> None:
    text = shown(models, name="a\x1b[2J", labels=["\x1b[8mred"], data={"name": "[bold]\x9b"})
    for told in (r"a\x1b[2J version", r"\x1b[8mred", r"[bold]\x9b"):
        assert told in text
    assert not set(text) & {"\x1b", "\x9b"}


def test_the_task_the_labels_and_the_tensors_are_shown(models: Path) -> None:
    one = {"name": "input", "dtype": "float32", "shape": ["batch", 2], "send": None}
    two = [{"name": name, "dtype": "float32", "shape": ["batch", 1]} for name in ("logits", "probabilities")]
    said = shown(models, task="binary", labels=["no", "yes"], input=one, outputs=two)
    for words in (
        "task binary", "2 labels no; yes", "input input: float32 [batch, 2]",
        "output logits: float32 [batch, 1], probabilities: float32 [batch, 1]",
    ):  # fmt: skip
        assert words in said
    assert "20 labels 0; 1; 2; 3; 4; 5; 6; 7; 8; 9; 10; 11, and 8 more" in shown(
        models, labels=list(map(str, range(20)))
    )
    # A card of before there were tasks.
    assert "task single-label" in shown(models)


def test_only_shares_are_percentages(models: Path) -> None:
    said = shown(
        models,
        scores={
            "test_accuracy": 0.95, "test_macro_f1": 0.4872, "test_roc_auc": 0.8178, "test_average_precision": 0.2,
            "test_loss": 0.5, "test_rows": 1000,
            "baselines": {
                "majority class": {"test_accuracy": 0.9, "test_loss": 1.0, "test_roc_auc": 0.5},
                "gradient boosting": {"skipped": "too many rows"},
            },
        },
    )  # fmt: skip
    for words in (
        "test accuracy 95.00% of 1000 rows", "test macro f1 48.72%", "test roc auc 0.8178", "test average precision 0.2 ",
        "baseline: majority class accuracy 90.00%, roc auc 0.5", "baseline: gradient boosting skipped: too many rows",
    ):  # fmt: skip
        assert words in said
    said = shown(
        models,
        task="regression",
        labels=["price", "rent"],
        scores={
            "test_r2": 0.1535, "test_mae": 67902.72, "test_rmse_over_std": 0.9182, "test_mae_over_mad": 1.5, "test_rows": 9,
            "per_value": {"price": {"r2": 0.047, "mae": 135431.9}, "[rent]": {"r2": 0.26, "mae": 373.5}},
        },
    )  # fmt: skip
    for words in (
        "2 values price; rent",
        "test r2 0.1535 of 9 rows", "test mae 67,903", "test rmse over std 0.9182", "test mae over mad 1.5",
        "price 0.047 135,432", "[rent] 0.26 373.5",
    ):  # fmt: skip
        assert words in said


def test_the_thresholds_are_shown_with_what_they_do(models: Path) -> None:
    test = {"precision": 0.133, "recall": 0.74, "f1": 0.225, "true_positives": 37}
    decision = {"threshold": 0.04941, "rule": {"recall": 0.8}, "label": "yes", "reached": True, "test": test}
    said = shown(models, scores={"decision": decision})
    assert "threshold of yes 0.04941 (recall 0.8); on the test rows precision 13.3%, recall 74.0%, f1 22.5%" in said
    several = {"threshold": [0.2, 0.6], "rule": "max-f1", "label": ["red", "blue"], "reached": [True, False]}
    said = shown(models, scores={"decision": several})
    assert "threshold of red 0.2 (max-f1) " in said
    assert "threshold of blue 0.6 (max-f1; the validation rows do not reach it)" in said
    assert "threshold 0.7 " in shown(models, scores={"decision": {"threshold": 0.7}})


def test_a_module_of_ones_own_has_the_accuracy_of_its_proof(models: Path) -> None:
    export = {"accuracy": {"pytorch": 0.55, "onnxruntime": 0.55}, "held_out_rows": 20}
    assert "accuracy 55.00% of 20 held-out rows" in shown(models, scores=None, export=export)


def test_the_pictures_are_listed_and_nothing_else(models: Path) -> None:
    assert [path.name for path in show.pictures(models / "m/2")] == ["confusion.png", "network.png", "network.svg"]


def test_an_older_version_can_be_asked_for(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _said(models, "m", "--model-version", "1", capsys=capsys)
    assert "m version 1" in out
    assert "no pictures" in out


def test_open_opens_each_picture_once(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def launch(path: str) -> int:
        opened.append(Path(path).name)
        return 0

    monkeypatch.setattr(typer, "launch", launch)
    _said(models, "m", "--open", capsys=capsys)
    assert opened == ["confusion.png", "network.png"]


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        (("n",), 2, "has no model 'n'; it has: m"),
        (("../m",), 2, "has no model"),
        (("m", "--model-version", "7"), 2, "model 'm' has no version 7; it has: 1, 2"),
        (("m", "--model-version", "new"), 2, "neither latest nor a positive number"),
        (("m", "--model-version", "1", "--open"), 1, "has no pictures to open"),
    ],
)
def test_what_is_not_there_is_one_clear_sentence_and_wrong_usage_where_it_was_named(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: int, words: str
) -> None:
    code, _, said = _said(models, *arguments, capsys=capsys)
    assert code == expected
    assert words in said


def test_a_version_without_a_card_is_one_clear_sentence(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "m/2/card.json").unlink()
    assert "version 2 of 'm' has no card" in _said(models, "m", capsys=capsys)[2]


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_broken_card_is_one_clear_sentence(models: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (models / "m/2/card.json").write_text(text)
    assert "the card" in _said(models, "m", capsys=capsys)[2]


def test_a_card_that_says_next_to_nothing_is_shown(models: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    show.show(models / "m/1", {"scores": None, "input": 3}, console)
    assert isinstance(console.file, io.StringIO)
    assert "m version 1" in console.file.getvalue()


def test_each_of_several_targets_is_shown_with_its_scores() -> None:
    card = {
        "task": "any",
        "labels": None,
        "data": {"targets": {"[kind]": ["a", "b"], "size": None}},
        "scores": {
            "test_mean_score": 0.7,
            "test_[kind].accuracy": 0.9,
            "test_[kind].loss": 0.3,
            "test_size.r2": 0.5,
            "test_rows": 20,
            "targets": {"[kind]": {"per_class": CARD["scores"]["per_class"]}, "size": {}},
            "baselines": {"mean": {"test_[kind].accuracy": 0.25}},
        },
    }
    console = Console(file=io.StringIO(), width=100)
    show.show(Path(), card, console)
    assert isinstance(console.file, io.StringIO)
    shown = " ".join(console.file.getvalue().split())
    for words in (
        "target [kind] │ 2 classes: a; b",
        "target size │ a number",
        "test mean score │ 0.7 of 20 rows",
        "test [kind].accuracy │ 90.00%",
        "test size.r2 │ 0.5 │",
        "[kind].accuracy 25.00%",
        "per class of [kind]",
    ):
        assert words in shown
    assert "loss" not in shown
