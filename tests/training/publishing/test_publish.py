"""Publishing: what is proved becomes a version, and nothing else does."""

import hashlib
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from frostline_training import publish
from frostline_training.config import Recipe, find_recipe
from frostline_training.errors import PublishError, RefusedError
from frostline_training.publishing.publish import Published
from tests.support.training import victims

Listing = Callable[[Path], list[str]]


class OnlyInTheExport(nn.Module):
    """Answers like the layer it holds, except in the export, where something else happens."""

    def __init__(self, layer: nn.Module, otherwise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.otherwise = otherwise

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.layer(rows)
        return self.otherwise(logits) if torch.compiler.is_exporting() else logits


class OwnStatistics(nn.Module):
    """Batch-norm that trains whatever the mode, and so also moves its running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, rows: Tensor) -> Tensor:
        mean, var = self.get_buffer("mean"), self.get_buffer("var")
        return functional.batch_norm(torch.stack([rows, rows], 2), mean, var, training=True)[:, :, 0]


class AlwaysDropout(nn.Module):
    """Dropout that evaluation mode does not switch off."""

    def forward(self, rows: Tensor) -> Tensor:
        return functional.dropout(rows, 0.3, training=True)


def _interrupt(_: Tensor) -> Tensor:
    raise KeyboardInterrupt


def _run(path: Path, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": rows})[0])


def test_what_is_published_answers_like_the_network(published: Published, linear: nn.Module, sample: Tensor) -> None:
    for rows in (sample[:1], sample[:33], sample.repeat(3, 1)):
        np.testing.assert_allclose(
            _run(published.path, rows.numpy()), linear(rows).detach().numpy(), rtol=1e-5, atol=1e-6
        )


def test_a_publication_is_the_version_after_the_highest(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    (tmp_path / "7ResNet-50_v1.5" / "4").mkdir(parents=True)
    published = publish(linear, sample, name="7ResNet-50_v1.5", models=str(tmp_path))
    assert (published.version, published.path) == (5, tmp_path / "7ResNet-50_v1.5" / "5")


def test_a_version_holds_the_model_the_golden_sample_and_the_card(
    published: Published, everything_under: Listing
) -> None:
    assert (published.name, published.version) == ("m", 1)
    assert everything_under(published.path.parents[1]) == [
        "m",
        "m/1",
        "m/1/card.json",
        "m/1/golden.npz",
        "m/1/model.onnx",
    ]


def test_the_golden_sample_is_held_out_rows_with_the_networks_own_logits(
    published: Published, linear: nn.Module, sample: Tensor
) -> None:
    with np.load(published.path / "golden.npz") as golden:
        rows, logits = golden["input"], golden["logits"]
        assert (float(golden["rtol"]), float(golden["atol"])) == (2e-4, 3e-5)
    assert rows.shape == (64, 4)
    assert rows.dtype == np.float32
    assert {row.tobytes() for row in rows} <= {row.tobytes() for row in sample.numpy()}
    np.testing.assert_allclose(logits, linear(torch.from_numpy(rows)).detach().numpy(), rtol=1e-6, atol=1e-6)


def test_the_card_says_what_it_is_and_where_it_comes_from(published: Published) -> None:
    card = json.loads((published.path / "card.json").read_text(encoding="utf-8"))
    assert (card["name"], card["version"], card["labels"]) == ("m", 1, ["a", "b", "ö"])
    assert card["sha256"] == hashlib.sha256((published.path / "model.onnx").read_bytes()).hexdigest()
    assert card["sha256"] == published.sha256
    assert card["input"] == {"name": "input", "dtype": "float32", "shape": ["batch", 4], "send": "four lengths"}
    assert card["output"] == {"name": "logits", "dtype": "float32", "shape": ["batch", 3]}
    assert card["parameters"] == 15
    assert card["recipe"]["hyperparameters"]["batch_size"] == 16
    assert card["data"] == {"name": "flowers", "rows": {"train": 9}}
    assert card["scores"] == {"test_accuracy": 0.5}
    assert card["frameworks"]["torch"] == torch.__version__
    assert card["frameworks"]["onnxruntime"] == onnxruntime.__version__
    assert abs(datetime.now(UTC) - datetime.fromisoformat(card["created"])).total_seconds() < 600


def test_the_card_says_how_far_the_file_can_be_trusted(published: Published) -> None:
    export = json.loads((published.path / "card.json").read_text(encoding="utf-8"))["export"]
    assert list(export["max_abs_difference_by_batch_size"]) == ["1", "2", "7", "64"]
    assert export["max_abs_difference"] == published.max_abs_difference < 1e-5
    assert (export["rtol"], export["atol"]) == (2e-4, 3e-5)
    assert export["near_ties"] == []
    assert export["accuracy"] == {"pytorch": 69 / 70, "onnxruntime": 69 / 70}
    assert published.accuracy == 69 / 70
    assert published.rows == export["held_out_rows"] == 70


def test_labels_and_provenance_are_in_the_onnx_file_too(published: Published) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(published.path / "model.onnx").metadata_props}
    assert sorted(properties) == ["frostline.labels", "frostline.name", "frostline.recipe"]
    assert properties["frostline.name"] == "m"
    assert json.loads(properties["frostline.labels"]) == ["a", "b", "ö"]
    assert Recipe.model_validate_json(properties["frostline.recipe"]) == find_recipe("iris")


def test_a_module_in_training_mode_is_published_in_evaluation_mode_and_left_as_it_was(
    tmp_path: Path, sample: Tensor
) -> None:
    frozen_layer = nn.BatchNorm1d(4).eval()
    module = nn.Sequential(nn.BatchNorm1d(4), frozen_layer, nn.Dropout(0.9), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    published = publish(module, sample, name="m", models=tmp_path)
    assert [part.training for part in module.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())
    wanted = module.eval()(sample).detach().numpy()
    np.testing.assert_allclose(_run(published.path, sample.numpy()), wanted, rtol=1e-5, atol=1e-6)


def test_a_refused_module_is_left_as_it_was_even_if_it_changes_its_own_buffers(tmp_path: Path, sample: Tensor) -> None:
    module = OwnStatistics()
    with pytest.raises(RefusedError):
        publish(module, sample, name="m", models=tmp_path)
    assert torch.equal(module.get_buffer("mean"), torch.zeros(4))


def test_a_compiled_module_is_published_as_what_was_compiled(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    compiled = torch.compile(linear, backend="eager")
    assert isinstance(compiled, nn.Module)
    assert publish(compiled, sample, name="m", models=tmp_path).version == 1


def test_a_near_tie_is_published_and_reported(tmp_path: Path, sample: Tensor) -> None:
    sample[3] = torch.tensor([1, 1 + 4e-6, 0, 0])
    module = OnlyInTheExport(nn.Identity(), lambda logits: logits + torch.tensor([8e-6, 0, 0, 0]))
    published = publish(module, sample, name="m", models=tmp_path)
    assert published.near_ties == (3,)
    assert json.loads((published.path / "card.json").read_text())["export"]["near_ties"] == [3]


@pytest.mark.parametrize(
    ("otherwise", "cause"),
    [
        (lambda logits: logits + 0.25, "taken only during the export"),
        (lambda logits: logits.repeat(1, 2), "taken only during the export"),
        (lambda logits: logits.log(), "taken only during the export"),
        (functional.dropout, "dropout"),
    ],
)
def test_an_export_that_disagrees_is_refused_and_nothing_appears(
    tmp_path: Path,
    linear: nn.Module,
    sample: Tensor,
    everything_under: Listing,
    otherwise: Callable[[Tensor], Tensor],
    cause: str,
) -> None:
    with pytest.raises(RefusedError, match="Nothing was published") as refusal:
        publish(OnlyInTheExport(linear, otherwise), sample, name="m", models=tmp_path)
    assert cause in refusal.value.cause
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize("module", [OwnStatistics(), AlwaysDropout()])
def test_a_network_that_does_not_answer_row_by_row_is_refused_and_nothing_appears(
    tmp_path: Path, sample: Tensor, everything_under: Listing, module: nn.Module
) -> None:
    with pytest.raises(RefusedError) as refusal:
        publish(module, sample, name="m", models=tmp_path)
    assert refusal.value.largest is not None
    assert refusal.value.row is not None
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize(
    ("noisy", "operator"),
    [
        (lambda rows: functional.dropout(rows, 1e-9, training=True), "Dropout"),
        (lambda rows: rows + 1e-9 * torch.randn_like(rows), "RandomNormalLike"),
        (lambda rows: rows * torch.bernoulli(torch.full_like(rows, 1 - 1e-7)), "Bernoulli"),
    ],
)
def test_randomness_that_no_run_shows_is_found_in_the_file(
    tmp_path: Path, linear: nn.Module, sample: Tensor, noisy: Callable[[Tensor], Tensor], operator: str
) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, rows: Tensor) -> Tensor:
            return torch.as_tensor(self.linear(noisy(rows)))

    with pytest.raises(RefusedError, match=rf"draws random numbers \(its operator {operator}\)") as refusal:
        publish(Noisy(), sample, name="m", models=tmp_path)
    assert "dropout" in refusal.value.cause


def test_a_refusal_leaves_earlier_versions_alone(
    tmp_path: Path, linear: nn.Module, sample: Tensor, everything_under: Listing
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").touch()
    before = everything_under(tmp_path)
    with pytest.raises(RefusedError):
        publish(OnlyInTheExport(linear, torch.neg), sample, name="m", models=tmp_path)
    assert everything_under(tmp_path) == before


def test_an_interrupt_in_the_middle_of_the_export_leaves_nothing(
    tmp_path: Path, linear: nn.Module, sample: Tensor, everything_under: Listing
) -> None:
    with pytest.raises(KeyboardInterrupt):
        publish(OnlyInTheExport(linear, _interrupt), sample, name="m", models=tmp_path)
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".hidden", "-m", "a/b", "..", "a b", "ü", "m\n"])
def test_a_name_that_is_no_plain_folder_name_is_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, name: str
) -> None:
    with pytest.raises(PublishError, match="use letters, digits"):
        publish(linear, sample, name=name, models=tmp_path)


@pytest.mark.parametrize(
    ("sample", "fact"),
    [
        (torch.zeros(1, 4), "at least 2 rows"),
        (torch.zeros(()), "at least 2 rows"),
        (np.zeros((3, 4)), "the sample is ndarray, not one tensor"),
        (torch.zeros(2, 4, dtype=torch.bfloat16), "which NumPy and clients do not have"),
        (torch.zeros(0, 4), r"shape \[0, 4\]: give at least 2 rows"),
        (np.zeros((3, 4)), "convert it with torch.from_numpy"),
        ([torch.zeros(3, 4)], "the sample is list, not one tensor .*; give several inputs as {'name': tensor"),
        (None, "the sample is NoneType, not one tensor"),
        ({0: torch.zeros(3, 4)}, "the sample names 0: use the names of forward..'s arguments, which are text"),
        (torch.zeros(3, 4).to_sparse(), "the sample is no dense tensor with values; .to_dense"),
        (torch.zeros(3, 4, dtype=torch.complex64), "complex64, which clients do not have; give torch.view_as_real"),
    ],
)
def test_a_sample_that_cannot_be_traced_is_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, fact: str
) -> None:
    with pytest.raises(PublishError, match=fact):
        publish(linear, sample, name="m", models=tmp_path)


@pytest.mark.parametrize(
    ("test", "fact"),
    [
        ((np.zeros((5, 3), np.float32), np.zeros(5, int)), "do not have the sample's shape"),
        ((np.zeros((0, 4), np.float32), np.zeros(0, int)), "do not have the sample's shape"),
        ((np.zeros((5, 4), complex), np.zeros(5, int)), "test rows are complex128, the sample is float32"),
        ((np.zeros((5, 4), np.float32), np.zeros(4, int)), "not one whole number for each of 5 rows"),
        ((np.zeros((5, 4), np.float32), np.zeros(5)), "not one whole number for each of 5 rows"),
    ],
)
def test_held_out_rows_that_do_not_fit_are_refused(
    tmp_path: Path,
    linear: nn.Module,
    sample: Tensor,
    test: tuple[NDArray[np.generic], NDArray[np.generic]],
    fact: str,
) -> None:
    with pytest.raises(PublishError, match=fact):
        publish(linear, sample, name="m", models=tmp_path, test=test)


def test_labels_that_do_not_fit_the_classes_are_refused(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    with pytest.raises(PublishError, match="2 labels for a network with 3 classes"):
        publish(linear, sample, name="m", models=tmp_path, labels=["a", "b"])


@pytest.mark.parametrize("labels", [{"a", "b", "c"}, "abc", {0: "a", 1: "b", 2: "c"}])
def test_labels_without_an_order_of_their_own_are_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, labels: object
) -> None:
    with pytest.raises(PublishError, match="give a list of the classes' names, in the order of the network's outputs"):
        publish(linear, sample, name="m", models=tmp_path, labels=labels)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("label", "fact"),
    [
        ("", "label 1 is '', which nobody can read: give the name"),
        (" \t", "which nobody can read"),
        (None, "label 1 is None: give the name of the class as text or a number"),
        (float("nan"), "label 1 is nan: give the name"),
        (b"cat", "label 1 is b'cat': give"),
        (["b"], "as text or a number"),
        ("caf\udce9", r"label 1 is 'caf\\udce9', which is no text in UTF-8: give the class another name"),
    ],
)
def test_a_label_that_names_nothing_is_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, label: Any, fact: str
) -> None:
    with pytest.raises(PublishError, match=fact):
        publish(linear, sample, name="m", models=tmp_path, labels=["a", label, "c"])


def test_labels_may_be_numbers_and_twice_the_same(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    published = publish(linear, sample, name="m", models=tmp_path, labels=["crane", 7, "crane"])  # type: ignore[list-item]  # taken
    assert json.loads((published.path / "card.json").read_text())["labels"] == ["crane", "7", "crane"]


def test_an_output_called_like_an_input_is_refused(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"input": linear(x), "other": x * 2}

    with pytest.raises(PublishError, match="an input and an output are both called 'input'"):
        publish(Named(), sample, name="m", models=tmp_path)


class Tokens(nn.Module):
    """Answers under the name that it is given; the exporter calls the values inside after its operators and weights."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.table, self.linear, self.output = nn.Embedding(9, 4), nn.Linear(4, 3), output

    def forward(self, linear: Tensor) -> dict[str, Tensor]:
        vectors = functional.relu(self.table(linear.long()).mean(1))
        return {self.output: self.linear(vectors)}


@pytest.mark.parametrize(
    "output",
    ["embedding", "mean", "relu", "linear_1", "output", "network.table.weight", "network.linear.bias", "val_0"],
)
def test_a_public_name_may_be_that_of_a_value_inside_the_graph(tmp_path: Path, output: str) -> None:
    tokens = torch.randint(9, (4, 5))
    published = publish(Tokens(output), {"linear": tokens}, name="m", models=tmp_path, task="any")
    graph = onnx.load(published.path / "model.onnx").graph
    assert ([each.name for each in graph.input], [each.name for each in graph.output]) == (["linear"], [output])


def test_the_name_that_a_task_gives_an_output_may_be_that_of_a_value_inside_the_graph(tmp_path: Path) -> None:
    published = publish(
        Tokens("vector"), {"linear": torch.randint(9, (4, 5))}, name="m", models=tmp_path, task="embedding"
    )
    (output,) = onnx.load(published.path / "model.onnx").graph.output
    assert output.name == "embedding"


@pytest.mark.parametrize("tolerance", [-1e-5, float("nan"), float("inf")])
def test_a_tolerance_that_proves_nothing_is_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, tolerance: float
) -> None:
    with pytest.raises(PublishError, match="must be finite and not negative"):
        publish(linear, sample, name="m", models=tmp_path, atol=tolerance)


@pytest.mark.parametrize("scores", [{"accuracy": float("nan")}, {"accuracy": object()}])
def test_what_does_not_go_into_the_card_is_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, scores: dict[str, float]
) -> None:
    with pytest.raises(PublishError, match="scores does not go into the card"):
        publish(linear, sample, name="m", models=tmp_path, scores=scores)


def test_a_module_that_cannot_be_copied_is_refused(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    linear.stream = sys.stdout  # type: ignore[assignment]  # an open file cannot be copied
    with pytest.raises(PublishError, match=r"the module cannot be copied: .*; copy\.deepcopy"):
        publish(linear, sample, name="m", models=tmp_path)


def test_two_trainers_publishing_at_once_get_two_versions(tmp_path: Path, everything_under: Listing) -> None:
    with (
        victims.victim(victims.publishing_once, tmp_path) as (one, _),
        victims.victim(victims.publishing_once, tmp_path) as (other, _),
    ):
        for trainer in (one, other):
            assert trainer.recv() == "ready"
        for trainer in (one, other):
            trainer.send("go")
        assert {one.recv(), other.recv()} == {1, 2}
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "2"]
    assert len(everything_under(tmp_path)) == 1 + 2 * 4
