"""What is noted of a network while a sample goes through it."""

# ruff: noqa: RUF001 - the pictures are written with the multiplication sign and Greek letters

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from frostline_training.config import Cnn, Mlp, Network, Rnn, Transformer
from frostline_training.data import Array, Dataset, Rows
from frostline_training.data.heads import Head, output_names
from frostline_training.evaluation.calibrate import Calibrated, Unweighted
from frostline_training.networks.families import build
from frostline_training.plots import canvas, diagram
from frostline_training.plots.stages import Stage, described, parts, stages
from frostline_training.plots.trace import Layer, trace
from frostline_training.sources import Task
from tests.support.training.drawable import FAMILIES, TwoInputs


def _traced(family: str) -> tuple[Layer, ...]:
    network, sample = FAMILIES[family]()
    return trace(network, sample)


def _titles(layers: tuple[Layer, ...]) -> list[str]:
    return [layer.title for layer in layers]


def _of_task(network: Network, shape: tuple[int, ...], task: Task) -> tuple[nn.Module, tuple[Tensor, ...]]:
    inputs = np.random.default_rng(1).normal(size=(12, *shape)).astype(np.float32)
    classes = np.arange(12) % 3
    heads = (Head("kind", ("a", "b", "c")), Head("size")) if task == "any" else ()
    other: dict[Task, Array] = {
        "binary": classes % 2,
        "multi-label": np.ones((12, 9), np.float32),
        "regression": np.arange(12 * 9, dtype=np.float32).reshape(12, 9),
        "any": np.stack([classes, np.arange(12)], axis=1).astype(np.float32),
    }
    targets = other.get(task, classes)
    labels = output_names(heads) or tuple("abcdefghi"[: targets.shape[-1] if targets.ndim > 1 else 3])
    dataset = Dataset("d", Rows(inputs, targets), labels, "", "", task, heads, sequence=len(shape) == 2)
    return build(network, dataset).eval(), (torch.from_numpy(inputs[:2]),)


def _told(found: Sequence[Stage]) -> list[tuple[str, list[str], int]]:
    return [
        (stage.role, [layer.title for layer in stage.layers], part.times)
        for part in parts(found)
        for stage in part.stages
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_learnt_number_is_accounted_for_in_some_layer(family: str) -> None:
    network, sample = FAMILIES[family]()
    assert sum(layer.count for layer in trace(network, sample)) == sum(p.numel() for p in network.parameters())


def test_layers_come_in_order_with_the_shapes_of_one_row() -> None:
    layers = _traced("mlp")
    assert _titles(layers) == ["Linear", "Tanh", "Dropout 0.1", "Linear", "ReLU", "Linear"]
    assert [layer.gave for layer in layers] == [(6,), (6,), (6,), (5,), (5,), (3,)]


def test_activations_that_are_only_called_are_noted_too() -> None:
    assert _titles(_traced("two")) == ["Linear", "ReLU", "Embedding", "join", "Linear"]
    assert "GELU" in _titles(_traced("transformer"))


def test_an_addition_knows_what_came_past() -> None:
    layers = _traced("cnn")
    first = next(index for index, layer in enumerate(layers) if layer.kind == "add")
    skipped = layers[first].skips_from
    assert skipped is not None
    assert layers[skipped + 1].name == "2.first"


def test_learnt_positions_are_a_layer_of_their_own() -> None:
    layers = _traced("transformer")
    assert (layers[1].title, layers[1].count) == ("+ positions", 32 * 16)


def test_what_takes_the_networks_own_input_says_so() -> None:
    layers = trace(TwoInputs(), (torch.randn(2, 5), torch.tensor([3, 4])))
    embedding = next(layer for layer in layers if layer.title == "Embedding")
    assert embedding.takes is None
    assert not embedding.aside


def test_packed_sequences_are_seen_with_their_time_axis() -> None:
    layers = _traced("packed")
    assert [(layer.title, layer.took) for layer in layers] == [
        ("Embedding", (3,)),
        ("GRU", (3, 8)),
        ("Linear", (16,)),
    ]


def test_the_temperature_is_noted_behind_everything() -> None:
    calibrated = Calibrated(nn.Linear(3, 2), 1.5, np.ones(2))
    assert _titles(trace(calibrated, (torch.randn(2, 3),))) == ["Linear", "÷ temperature 1.5, + bias"]


def test_the_network_stays_as_it_was() -> None:
    network, sample = FAMILIES["cnn"]()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trace(network, sample)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_network_that_fails_is_left_without_hooks() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, rows: Tensor) -> Tensor:
            raise ValueError(str(self.layer(rows).shape))

    network = Fails()
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        trace(network, (torch.randn(2, 3),))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_stages_go_from_input_over_hidden_to_output() -> None:
    assert [stage.role for stage in stages(_traced("mlp"))] == ["input", "hidden 1", "hidden 2", "output"]


@pytest.mark.parametrize("task", ["single-label", "multi-label", "binary", "regression", "embedding", "any"])
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Mlp(hidden=()), (5,)),
        (Cnn(channels=(4, 8), hidden=()), (1, 8, 8)),
        (Rnn(state=32), (6, 3)),
        (Rnn(state=8), (6, 3)),
        (Rnn(state=1), (6, 3)),
        (Rnn(state=8, hidden=(4,), norm="layer"), (6, 3)),
        (Transformer(width=8, heads=2, feedforward=8), (6, 3)),
        (Transformer(width=8, heads=2, feedforward=8, layers=1, hidden=(4,)), (6, 3)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_whatever_the_task_the_drawn_stages_are_those_of_a_classifier_and_hold_each_traced_layer_once(
    network: Network, shape: tuple[int, ...], task: Task
) -> None:
    built, sample = _of_task(network, shape, task)
    layers = trace(built, sample)
    found = stages(layers)
    assert [layer for stage in found for layer in stage.layers] == list(layers)
    ends = {"regression": "Rescale", "any": "Rescale", "embedding": "L2Normalise"}
    told = _told(found)
    if task in ends:
        assert told[-1][1].pop() == ends[task]
    assert told == _told(stages(trace(*_of_task(network, shape, "single-label"))))
    with canvas.style():
        diagram.figure(built, sample, title="m")


def test_equal_repeats_are_told_once() -> None:
    told = parts(stages(_traced("transformer")))
    assert [part.times for part in told if part.group] == [3]
    assert [part.times for part in parts(stages(_traced("cnn"))) if part.group] == [2]


def test_weights_and_biases_are_named_with_shape_and_count() -> None:
    lstm = _traced("lstm")[0]
    assert list(described(lstm)) == [
        ("weight", "input weights  64 × 8 and 64 × 32, 4 in all = 5,120"),
        ("weight", "recurrent weights  4 × (64 × 16) = 4,096"),
        ("bias", "biases  8 × 64 = 512"),
    ]


def test_the_correction_of_class_weights_stands_behind_the_logits() -> None:
    layers = trace(Unweighted(nn.Linear(3, 2), torch.ones(2)), (torch.randn(2, 3),))
    assert _titles(layers) == ["Linear", "− log of the class weights"]
    assert [stage.role for stage in stages(layers)] == ["input", "output"]


def test_a_join_knows_every_layer_that_it_takes() -> None:
    layers = _traced("two")
    (join,) = (layer for layer in layers if layer.title == "join")
    assert (join.takes, join.joins) == (2, (1,))


def test_what_passes_a_tensor_on_is_no_layer() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.past = nn.Linear(3, 3), nn.Linear(3, 3), nn.Identity()

        def forward(self, rows: Tensor) -> Tensor:
            rows = self.first(rows)
            added: Tensor = self.second(rows) + self.past(rows)
            return added

    layers = trace(Past(), (torch.randn(2, 3),))
    assert _titles(layers) == ["Linear", "Linear", "+"]
    assert (layers[2].takes, layers[2].skips_from) == (1, 0)
