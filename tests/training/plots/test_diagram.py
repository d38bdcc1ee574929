"""The diagrams are legible: no text over another, none cut off, everything named."""

# ruff: noqa: RUF001 - the pictures are written with the multiplication sign and Greek letters

from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from frostline_training.plots import canvas, diagram
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
