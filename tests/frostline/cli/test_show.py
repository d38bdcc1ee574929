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
        return 1, "", str(error)
    shown = capsys.readouterr()
    return int(code or 0), shown.out, shown.err


def test_the_latest_versions_card_is_printed_with_its_scores(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _said(models, "m", capsys=capsys)
    assert code == 0
    for words in ("m version 2", "97.50%", "94.30% to 98.90%", "200 rows", "1.25%; 3.12% before", "73,002", "four"):
        assert words in " ".join(out.split())


def test_each_class_has_a_line_and_a_label_in_brackets_is_no_markup(models: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    show.show(models / "m/2", CARD, console)
    assert isinstance(console.file, io.StringIO)
    assert "│ [b]" in console.file.getvalue()


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
    ("arguments", "words"),
    [
        (("n",), "has no model 'n'; it has: m"),
        (("../m",), "has no model"),
        (("m", "--model-version", "7"), "model 'm' has no version 7; it has: 1, 2"),
        (("m", "--model-version", "new"), "neither latest nor a positive number"),
        (("m", "--model-version", "1", "--open"), "has no pictures to open"),
    ],
)
def test_what_is_not_there_is_one_clear_sentence(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, _, said = _said(models, *arguments, capsys=capsys)
    assert code == 1
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
