"""Variants in fewer bits: as good as stated, or not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from frostline_training import publish
from frostline_training.config import Transformer
from frostline_training.data import Dataset, Rows, Split, sample
from frostline_training.errors import PublishError, RefusedError
from frostline_training.networks.families import Standardise, build
from frostline_training.networks.recurrent import LastState
from frostline_training.publishing.publish import Published
from frostline_training.publishing.variants import make, make_each

Listing = Callable[[Path], list[str]]


class Sequences(nn.Module):
    """A GRU's last state, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.state = LastState(nn.GRU(6, 48, batch_first=True))
        self.output = nn.Linear(48, 3)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output(self.state(steps, None))
        return logits


def _split(network: nn.Module, inputs: NDArray[np.float32], *, right: float = 1.0) -> Split:
    # What is right is what the network answers, but for some rows.
    with torch.no_grad():
        targets = network.eval()(torch.from_numpy(inputs)).argmax(1).numpy()
    wrong = np.random.default_rng(2).random(len(targets)) > right
    rows = Rows(inputs, np.where(wrong, (targets + 1) % 3, targets))
    dataset = Dataset("d", rows, ("a", "b", "c"), "numbers", "made here")
    return Split(dataset, rows, rows, rows)


def _publish(network: nn.Module, split: Split, models: Path, **options: Any) -> Published:
    return publish(network, sample(split.test), name="m", models=models, labels=("a", "b", "c"), test=split.test, **options)  # fmt: skip


def _run(folder: Path, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": rows})[0])


@pytest.fixture(scope="module")
def dense() -> tuple[nn.Module, NDArray[np.float32]]:
    """A dense network over raw values that float16 cannot hold."""
    torch.manual_seed(3)
    inputs = (np.random.default_rng(1).normal(size=(150, 24)) * 1e6 + 3e6).astype(np.float32)
    network = nn.Sequential(Standardise.fit(inputs), nn.Linear(24, 256), nn.ReLU(), nn.Linear(256, 3))
    return network, inputs


@pytest.fixture(scope="module")
def full(dense: tuple[nn.Module, NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The dense network in full precision: one publication for all tests."""
    network, inputs = dense
    scores = {"test_accuracy": 0.9, "best_epoch": 3.0}
    return _publish(network, _split(network, inputs, right=0.9), tmp_path_factory.mktemp("models"), scores=scores)


@pytest.mark.parametrize(("precision", "smaller"), [("fp16", 0.65), ("int8", 0.55)])
def test_a_variant_is_a_smaller_model_of_its_own_that_answers_nearly_the_same(
    full: Published, dense: tuple[nn.Module, NDArray[np.float32]], precision: Any, smaller: float
) -> None:
    network, inputs = dense
    variant = make(full, precision, _split(network, inputs, right=0.9), bound=2)
    assert variant.name == f"m-{precision}"
    assert variant.path == full.path.parent.parent / f"m-{precision}" / str(variant.version)
    assert variant.size == (variant.path / "model.onnx").stat().st_size < smaller * variant.full_size
    for rows in (inputs[:1], inputs[:33]):
        answers = _run(variant.path, rows)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, _run(full.path, rows), atol=0.05)
    onnx.checker.check_model(onnx.load(variant.path / "model.onnx"), full_check=True)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_its_golden_sample_holds_its_own_answers_and_says_how_far_they_may_vary(
    full: Published, dense: tuple[nn.Module, NDArray[np.float32]], precision: Any
) -> None:
    variant = make(full, precision, _split(*dense, right=0.9), bound=2)
    with np.load(variant.path / "golden.npz") as golden:
        for size in (1, 5, 64):
            answers = np.concatenate([_run(variant.path, golden["input"][at : at + size]) for at in range(0, 64, size)])
            allowed = golden["atol"] + golden["rtol"] * np.abs(golden["logits"])
            assert (np.abs(answers - golden["logits"]) <= allowed).all()
        assert golden["atol"] < 0.5


def test_its_card_states_size_accuracy_and_disagreement(
    full: Published, dense: tuple[nn.Module, NDArray[np.float32]]
) -> None:
    split = _split(*dense, right=0.9)
    variant = make(full, "int8", split, bound=2)
    card = json.loads((variant.path / "card.json").read_text())
    told = card["variant"]
    assert told["of"] == {"name": "m", "version": 1, "sha256": full.sha256}
    assert (told["bytes"], told["full_precision_bytes"]) == (variant.size, variant.full_size)
    answers = _run(variant.path, dense[1])
    assert told["accuracy"] == np.mean(answers.argmax(1) == split.test.targets)
    assert told["disagreement_rate"] == np.mean(answers.argmax(1) != _run(full.path, dense[1]).argmax(1))
    assert told["drop_points"] <= told["bound_points"] == 2
    assert (card["name"], card["version"], card["labels"]) == ("m-int8", variant.version, ["a", "b", "c"])
    assert card["scores"]["best_epoch"] == 3
    assert card["scores"]["test_accuracy"] == told["accuracy"]
    properties = {entry.key: entry.value for entry in onnx.load(variant.path / "model.onnx").metadata_props}
    assert properties["frostline.name"] == "m-int8"
    assert json.loads(properties["frostline.labels"]) == ["a", "b", "c"]


def test_in_int8_too_a_row_is_answered_the_same_alone_as_among_others(
    full: Published, dense: tuple[nn.Module, NDArray[np.float32]]
) -> None:
    variant = make(full, "int8", _split(*dense, right=0.9), bound=2)
    extreme = np.concatenate([dense[1][:3], dense[1][3:6] * 50])
    np.testing.assert_array_equal(_run(variant.path, extreme)[:3], _run(variant.path, extreme[:3]))


def test_a_variant_that_scores_too_much_worse_is_refused_and_leaves_nothing(
    tmp_path: Path, everything_under: Listing
) -> None:
    torch.manual_seed(1)
    # All answers are as good as ties, so that rounding turns some of them round.
    network = nn.Sequential(nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3, bias=False))
    inputs = np.random.default_rng(1).normal(size=(400, 40)).astype(np.float32)
    split = _split(network, inputs)
    published = _publish(network, split, tmp_path)
    before = everything_under(tmp_path)
    with pytest.raises(
        RefusedError,
        match=r"m-int8 scores accuracy 9.*points below the full-precision file's 100.*m version 1, .* stays published\.$",
    ):
        make(published, "int8", split, bound=0)
    assert everything_under(tmp_path) == before
    made, refused = make_each(published, ("int8", "fp16"), split, bound=0.5)
    assert [variant.name for variant in made] == ["m-fp16"]
    assert ["m-int8 scores" in str(error) for error in refused] == [True]


def test_weights_that_float16_cannot_hold_are_named_as_the_cause(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = nn.Linear(24, 32)
    with torch.no_grad():
        first.weight *= 1e6
    network = nn.Sequential(first, nn.Tanh(), nn.Linear(32, 3))
    split = _split(network, np.random.default_rng(0).normal(size=(100, 24)).astype(np.float32))
    published = _publish(network, split, tmp_path, rtol=1e-3)
    cause = r"likely cause: weights up to 2\.04e\+05, and float16 ends at 65,504; standardise the network's inputs"
    with pytest.raises(RefusedError, match=rf"m-fp16 scores accuracy .*{cause}.*m version 1, .* stays published\.$"):
        make(published, "fp16", split)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_recurrent_layers_are_shrunk_and_keep_their_open_time_axis(tmp_path: Path, precision: Any) -> None:
    torch.manual_seed(2)
    network = Sequences()
    inputs = np.random.default_rng(1).normal(size=(80, 9, 6)).astype(np.float32)
    split = _split(network, inputs)
    published = _publish(network, split, tmp_path, dynamic={"input": {1: "time"}})
    variant = make(published, precision, split, bound=5)
    assert variant.size < 0.65 * variant.full_size
    for steps in (1, 4, 30):
        rows = np.random.default_rng(steps).normal(size=(3, steps, 6)).astype(np.float32)
        np.testing.assert_allclose(_run(variant.path, rows), _run(published.path, rows), atol=0.05)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_attention_is_shrunk_to_a_file_that_loads_and_keeps_its_open_time_axis(tmp_path: Path, precision: Any) -> None:
    torch.manual_seed(2)
    inputs = np.random.default_rng(1).normal(size=(80, 9, 6)).astype(np.float32)
    rows = Rows(inputs, np.arange(80) % 3)
    dataset = Dataset("d", rows, ("a", "b", "c"), "numbers", "made here", sequence=True)
    network = build(Transformer(width=32, feedforward=64), dataset)
    split = _split(network, inputs)
    published = _publish(network, split, tmp_path, dynamic={"input": {1: "time"}})
    variant = make(published, precision, split, bound=10)
    assert variant.size < 0.75 * variant.full_size
    for steps in (2, 20):
        others = np.random.default_rng(steps).normal(size=(3, steps, 6)).astype(np.float32)
        np.testing.assert_allclose(_run(variant.path, others), _run(published.path, others), atol=0.1)


def test_what_cannot_be_asked_for_is_refused(full: Published, dense: tuple[nn.Module, NDArray[np.float32]]) -> None:
    split = _split(*dense)
    precision: Any = "int4"
    with pytest.raises(PublishError, match="'int4' is not one of fp16, int8"):
        make(full, precision, split)
    with pytest.raises(PublishError, match="the bound is nan points"):
        make(full, "fp16", split, bound=float("nan"))
