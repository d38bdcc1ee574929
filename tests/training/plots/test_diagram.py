"""The diagrams are legible: no text over another, none cut off, everything named."""

# ruff: noqa: RUF001 - the pictures are written with the multiplication sign and Greek letters

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from torch import nn

from frostline_training.data import Column
from frostline_training.evaluation.decide import Cut, Decision, Outcome
from frostline_training.networks.families import Table
from frostline_training.plots import canvas, diagram
from frostline_training.sources import Task
from tests.support.training.drawable import FAMILIES

LABELS = ("setosa", "versi$color$", "virginica")


def _texts(made: Figure) -> list[Text]:
    return [text for text in made.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]


def assert_legible(made: Figure) -> None:
    made.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent().padded(-1.5)) for text in _texts(made)]
    width, height = made.get_size_inches() * made.dpi
    outside = [words for words, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    assert outside == []
    over = [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]
    assert over == []


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_is_over_another_or_cut_off(family: str) -> None:
    network, sample = FAMILIES[family]()
    with canvas.style():
        assert_legible(diagram.figure(network, sample, title="m version 1", labels=LABELS))


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("mlp", ["weights W₁", "6 × 4 = 24", "biases b₁: 6", "no biases", "activation Tanh", "OUTPUT: 3 outputs", "b₁"]),
        ("wide", ["⋮", "x₆₄", "BatchNorm1d", "1 × 8 × 8 in one row", "HIDDEN 1: 100 units"]),
        ("cnn", ["Conv2d 3×3", "weights  8 × 1 × 3 × 3 = 72", "biases  8", "ReLU", "1 × 8 × 8", "adds what went into first"]),
        ("lstm", ["LSTM × 2, both ways", "t=1", "σ gates: input, forget, output", "8 × 32 → 32", "OUTPUT"]),
        ("transformer", ["Attention, 4 heads", "softmax of query · key", "adds positions", "adds what went into norm1", "GELU"]),
        ("two", ["takes raw values"]),
    ],
)  # fmt: skip
def test_weights_biases_activations_and_shapes_are_written(family: str, words: list[str]) -> None:
    network, sample = FAMILIES[family]()
    with canvas.style():
        written = [text.get_text() for text in _texts(diagram.figure(network, sample, title="m", labels=LABELS))]
    assert [word for word in words if word not in written] == []


def _written(network: nn.Module, *sample: torch.Tensor, **options: Sequence[str]) -> list[str]:
    with canvas.style():
        made = diagram.figure(network, sample, title="m", **options)
        assert_legible(made)
    return [text.get_text() for text in _texts(made)]


def _arrows(made: Figure) -> list[Annotation]:
    return [found for found in made.findobj(Annotation) if isinstance(found, Annotation)]


def test_the_columns_of_a_table_stand_side_by_side_under_their_names() -> None:
    columns = (
        Column("age"),
        Column("plan", ("(unknown)", "a", "b")),
        Column("fee"),
        Column("city", ("(unknown)", "x")),
    )
    rows = np.array([[30, 1, 9.5, 1], [40, 2, 8.5, 0]], np.float32)
    network = nn.Sequential(Table(columns, rows), nn.Linear(23, 2))
    written = _written(network, torch.from_numpy(rows), columns=[column.name for column in columns])
    for words in ("age", "fee", "standardised: mean, std", "plan", "3 × 3 = 9", "city", "2 × 2 = 4", "join  → 23"):
        assert words in written
    assert "takes raw values" not in written


def test_the_inputs_of_a_small_network_are_called_by_their_columns() -> None:
    network, sample = FAMILIES["mlp"]()
    columns = ("age", "a column with a name of more than 22 letters", "fee", "city")
    written = _written(network, *sample, columns=columns, labels=LABELS)
    assert {"age", "a column with a name…", "fee", "city"} <= set(written)


def test_a_table_of_numbers_alone_is_drawn_as_neurons() -> None:
    columns = (Column("age"), Column("fee"))
    rows = np.array([[30, 9.5], [40, 8.5]], np.float32)
    network = nn.Sequential(Table(columns, rows), nn.Linear(2, 3))
    written = _written(network, torch.from_numpy(rows), columns=["age", "fee"])
    assert {"INPUT: 2 values", "standardised: mean, std", "age", "fee", "biases b₁: 3"} <= set(written)


def test_a_table_of_many_columns_is_still_legible() -> None:
    columns = tuple(Column(f"column number {index}", ("(unknown)", "a")) for index in range(40))
    network = nn.Sequential(Table(columns, np.zeros((2, 40), np.float32)), nn.Linear(96, 2))
    written = _written(network, torch.zeros(2, 40), columns=[column.name for column in columns])
    assert "and 16 more" in written


@pytest.mark.parametrize(("family", "count"), [("cnn", 5), ("two", 4), ("lstm", 2)])
def test_paths_past_a_card_are_arrows_of_their_own(family: str, count: int) -> None:
    # The chain of cards has one arrow less than cards, and where a card takes nothing of the one before, one less.
    network, sample = FAMILIES[family]()
    with canvas.style():
        made = diagram.figure(network, sample, title="m")
    steps = 6 if family == "lstm" else 0  # three from step to step, in each direction
    assert len(_arrows(made)) == count + steps


def test_both_directions_of_a_recurrent_layer_are_drawn() -> None:
    network, sample = FAMILIES["lstm"]()
    assert _written(network, *sample).count("t=T") == 2
    network, sample = FAMILIES["packed"]()
    assert _written(network, *sample).count("t=T") == 1


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("single-label", ["softmax", "argmax: the class"]),
        ("multi-label", ["sigmoid", "yes above 0.5, label by label"]),
        ("binary", ["sigmoid", "yes from 0.5 on"]),
        ("regression", []),
    ],
)
def test_what_becomes_of_the_outputs_stands_behind_them(task: Task, words: list[str]) -> None:
    network, sample = FAMILIES["cnn"]()
    written = _written(network, *sample, answer=diagram.behind(task))
    assert [word for word in words if word not in written] == []
    assert ("behind the network" in written) == bool(words)
    network, sample = FAMILIES["mlp"]()
    written = _written(network, *sample, answer=diagram.behind(task))
    assert [word for word in words if f"→ {word}" not in written] == []


def test_a_chosen_threshold_stands_behind_the_outputs() -> None:
    cut = Cut("yes", 1, 0.125, reached=True, validation=Outcome(1, 0, 0), test=Outcome(1, 0, 0))
    assert diagram.behind("single-label", Decision("max-f1", (cut,), each=False)) == ("softmax", "yes from 0.125 on")


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(3, 2))

    def forward(self, *, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.weights


def test_a_network_that_cannot_be_followed_is_listed_with_the_reason(tmp_path: Path) -> None:
    written = _written(_Own(), torch.zeros(2, 3))
    assert any(words.startswith("_Own is not drawn: it could not be followed") for words in written)
    assert "weights  3 × 2 = 6" in written
    diagram.draw(_Own(), [torch.zeros(2, 3)], [tmp_path / "network.png"], title="m")
    assert (tmp_path / "network.png").exists()


def test_a_network_without_layers_is_listed_with_the_reason() -> None:
    assert any("it consists of no layers" in words for words in _written(nn.Identity(), torch.zeros(2, 3)))


def test_parameters_that_are_used_twice_are_not_counted_below_zero() -> None:
    layer = nn.Linear(3, 3)
    written = _written(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(2, 3))
    assert "12 learnt parameters: 3 × 3 + 3 + 3 × 3 + 3, some of them used more than once" in written


def test_it_is_written_as_svg_and_png_and_the_same_each_time(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network, sample = FAMILIES["mlp"]()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"network.{ending}" for ending in ("svg", "png")]
        diagram.draw(network, sample, paths, title="m")
    assert (tmp_path / "a/network.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for ending in ("svg", "png"):
        name = f"network.{ending}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
