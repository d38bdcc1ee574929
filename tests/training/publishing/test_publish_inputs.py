"""Publishing networks with several inputs and with sequences of any length, and refusing those that freeze them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from frostline_training import data, publish
from frostline_training.config import Cnn, Mlp, Network, Rnn, Transformer
from frostline_training.data import Dataset, Rows
from frostline_training.errors import PublishError, RefusedError
from frostline_training.evaluation.calibrate import Calibrated
from frostline_training.networks.families import build
from frostline_training.publishing.calling import ByPosition

Listing = Callable[[Path], list[str]]
TIME = {"input": {1: "time"}}


class TwoInputs(nn.Module):
    """A picture and a row of measurements."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Linear(12, 5)
        self.row = nn.Linear(3, 5)
        self.head = nn.Linear(10, 2)

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([self.picture(picture.flatten(1)).relu(), self.row(row).tanh()], 1))
        return logits


class Steps(nn.Module):
    """Sequences [N, T, 4] to logits, by any function of the steps."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, steps: Tensor) -> Tensor:
        return self.function(steps)


class StaysInTraining(nn.BatchNorm1d):
    """Batch-norm that does not hear of evaluation mode."""

    def train(self, mode: bool = True) -> "StaysInTraining":
        return super().train(mode or True)


def _loop(steps: Tensor) -> Tensor:
    state = torch.zeros_like(steps[:, 0])
    for step in steps.unbind(1):
        state = torch.tanh(state + step)
    return state


def _only_eight(steps: Tensor) -> Tensor:
    # Exports as if every length were right, and is right for eight only.
    return steps.sum(1) * ((steps.shape[1] // 8) if torch.compiler.is_exporting() else 1)


@pytest.fixture
def pair() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"picture": torch.randn(9, 1, 3, 4, generator=generator), "row": torch.randn(9, 3, generator=generator)}


@pytest.fixture
def steps() -> Tensor:
    return torch.randn(12, 8, 4, generator=torch.Generator().manual_seed(3))


def _run(path: Path, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], dict(inputs))[0])


def test_a_network_of_two_inputs_takes_them_by_the_names_of_its_arguments(
    tmp_path: Path, pair: dict[str, Tensor]
) -> None:
    module = TwoInputs().eval()
    backwards = dict(reversed(pair.items()))
    published = publish(module, backwards, name="m", models=tmp_path)
    wanted = module(**pair).detach().numpy()
    for rows in (1, 3, 9):
        inputs = {name: tensor[:rows].numpy() for name, tensor in pair.items()}
        np.testing.assert_allclose(_run(published.path, inputs), wanted[:rows], rtol=1e-4, atol=1e-5)


def test_the_golden_sample_and_the_card_name_every_input(tmp_path: Path, pair: dict[str, Tensor]) -> None:
    published = publish(TwoInputs(), pair, name="m", models=tmp_path, send="a picture and a row", probabilities=False)
    with np.load(published.path / "golden.npz") as golden:
        assert sorted(golden) == ["atol", "input.picture", "input.row", "logits", "rtol"]
        np.testing.assert_array_equal(golden["input.row"], pair["row"].numpy())
    card = json.loads((published.path / "card.json").read_text())
    assert card["inputs"] == [
        {"name": "picture", "dtype": "float32", "shape": ["batch", 1, 3, 4]},
        {"name": "row", "dtype": "float32", "shape": ["batch", 3]},
    ]
    assert card["send"] == "a picture and a row"


def test_a_single_named_input_keeps_its_name(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    published = publish(linear, {"features": sample}, name="m", models=tmp_path)
    assert _run(published.path, {"features": sample.numpy()}).shape == (70, 3)
    with np.load(published.path / "golden.npz") as golden:
        assert "input" in golden


def test_held_out_rows_may_come_from_a_loader(tmp_path: Path, linear: nn.Module, sample: Tensor) -> None:
    targets = linear(sample).argmax(1)
    loader = DataLoader(TensorDataset(sample, targets), batch_size=32)
    published = publish(linear, sample[:8], name="m", models=tmp_path, test=loader)
    assert (published.rows, published.accuracy) == (70, 1.0)


def test_held_out_rows_of_several_inputs_may_come_from_a_loader(tmp_path: Path, pair: dict[str, Tensor]) -> None:
    batches = [({name: tensor[part] for name, tensor in pair.items()}, torch.tensor([0] * 3)) for part in
               (slice(0, 3), slice(3, 6))]  # fmt: skip
    assert publish(TwoInputs(), pair, name="m", models=tmp_path, test=batches).rows == 6


FAMILIES: dict[str, Network] = {
    "mlp": Mlp(hidden=(6,), norm="layer"),
    "cnn": Cnn(channels=(3, 4), residual=True),
    "rnn": Rnn(kind="rnn", state=6),
    "lstm": Rnn(kind="lstm", state=6, bidirectional=True, layers=2),
    "gru": Rnn(kind="gru", state=6, bidirectional=True),
    "transformer": Transformer(width=8, heads=2, feedforward=16),
}


def _dataset(family: str, kind: str) -> Dataset:
    random = np.random.default_rng(5)
    targets, labels = np.arange(30) % 3, ("a", "b", "c")
    if family in ("mlp", "cnn"):
        shape = (5,) if family == "mlp" else (1, 6, 6)
        return Dataset(family, Rows(random.normal(size=(30, *shape)).astype(np.float32), targets), labels, "", "")
    lengths = random.integers(1, 9, 30)
    if kind == "tokens":
        tokens = random.integers(1, 256, (30, 8))
        rows = Rows(np.where(np.arange(8) < lengths[:, np.newaxis], tokens, 0).astype(np.uint8), targets)
    else:
        values = random.normal(size=(30, 8, 4)).astype(np.float32)
        rows = Rows({"input": values, "lengths": lengths} if kind == "lengths" else values, targets)
    return Dataset(family, rows, labels, "", "", sequence=True)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("mlp", "rows"),
        ("cnn", "images"),
        *((family, "values") for family in ("rnn", "lstm", "transformer")),
        *((family, "tokens") for family in ("gru", "transformer")),
        *((family, "lengths") for family in ("rnn", "lstm", "transformer")),
    ],
)
def test_every_family_answers_in_onnx_runtime_as_in_pytorch_at_any_batch_and_length(
    tmp_path: Path, family: str, kind: str
) -> None:
    dataset = _dataset(family, kind)
    torch.manual_seed(1)
    network = Calibrated(build(FAMILIES[family], dataset), 1.5, np.zeros(1)).eval()
    names = list(data.named(dataset.rows.inputs))
    callable_by_name = network if len(names) == 1 else ByPosition(network, names)
    published = publish(
        callable_by_name,
        data.sample(dataset.rows),
        name=family,
        models=tmp_path,
        test=dataset.rows,
        dynamic=dataset.dynamic,
    )
    assert list(published.differences_by_length) == (["time=5", "time=17"] if dataset.sequence else [])
    inputs = data.named(dataset.rows.inputs)
    for rows in (1, 3, 30):
        for length in (1, 3, 8, 21) if dataset.sequence else (None,):
            part = {name: array[:rows] for name, array in inputs.items()}
            if length:
                part["input"] = np.ascontiguousarray(part["input"].take(np.arange(length) % 8, 1))
            with torch.no_grad():
                wanted = network(*(torch.from_numpy(array) for array in part.values())).numpy()
            np.testing.assert_allclose(_run(published.path, part), wanted, rtol=1e-4, atol=1e-5)


class LastStep(nn.Module):
    """A recurrent layer, and a head on its last step."""

    def __init__(self, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer, self.head = layer(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, steps: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(steps)[0][:, -1])
        return logits


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_a_recurrent_network_is_published_as_often_as_one_likes_in_one_process(
    tmp_path: Path, steps: Tensor, layer: Callable[..., nn.Module]
) -> None:
    module = LastStep(layer)
    for dynamic in ({}, TIME, TIME, {}, TIME):
        published = publish(module, steps, name="m", models=tmp_path, dynamic=dynamic, probabilities=False)
        assert bool(published.differences_by_length) == bool(dynamic)
    assert published.version == 5


def test_a_publication_leaves_recurrent_layers_to_training_as_they_were(tmp_path: Path, steps: Tensor) -> None:
    publish(LastStep(nn.LSTM), steps, name="m", models=tmp_path, dynamic=TIME, probabilities=False)
    kept = getattr(torch.ops.aten.lstm.input, "_dispatch_cache", {})
    assert kept == {}


class LastValid(nn.Module):
    """The last valid one of padded steps."""

    def __init__(self, place: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.layer, self.place = nn.LSTM(4, 6, batch_first=True), place

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        steps, _ = self.layer(x)
        last: Tensor = steps[self.place(steps, lengths)]
        return last


def _as_told(steps: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(steps.shape[0], device=steps.device), lengths.clamp(max=steps.shape[1]) - 1


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda steps, lengths: (torch.arange(len(steps)), lengths.clamp(max=8) - 1), r"as len\(x\) and int"),
        (
            lambda steps, lengths: (torch.arange(steps.shape[0]), lengths - 1),
            r"out of bounds.*Frostline had cut the rows, to time=5, .*lengths\.clamp\(max=x\.shape\[1\]\)",
        ),
    ],
    ids=["a frozen number of rows", "lengths beyond the rows"],
)
def test_the_last_valid_steps_are_published_as_the_refusals_say(
    tmp_path: Path, steps: Tensor, place: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], said: str
) -> None:
    sample = {"x": steps, "lengths": torch.arange(12) % 8 + 1}
    dynamic = {"x": {1: "time"}} if "cut" in said else None
    with pytest.raises(RefusedError, match=said):
        publish(LastValid(place), sample, name="m", models=tmp_path, dynamic=dynamic)
    published = publish(
        LastValid(_as_told), sample, name="m", models=tmp_path, dynamic={"x": {1: "time"}}, probabilities=False
    )
    assert published.version == 1


def test_the_card_says_which_axes_are_open_and_how_far_they_were_proved(tmp_path: Path, steps: Tensor) -> None:
    published = publish(Steps(lambda steps: steps.mean(1)), steps, name="m", models=tmp_path, dynamic=TIME)
    card = json.loads((published.path / "card.json").read_text())
    assert card["input"]["shape"] == ["batch", "time", 4]
    assert list(card["export"]["max_abs_difference_by_length"]) == ["time=5", "time=17"]


def test_without_being_asked_a_length_is_not_left_open(tmp_path: Path, steps: Tensor) -> None:
    published = publish(Steps(lambda steps: steps.mean(1)), steps, name="m", models=tmp_path)
    card = json.loads((published.path / "card.json").read_text())
    assert card["input"]["shape"] == ["batch", 8, 4]
    assert published.differences_by_length == {}


@pytest.mark.parametrize(
    ("module", "fact", "cause"),
    [
        (Steps(_loop), "takes exactly 8 along axis 1 of input: its time axis is frozen", "loops over it"),
        (Steps(_only_eight), "ONNX Runtime disagrees with PyTorch at time=", "a length frozen into the graph"),
        (Steps(lambda steps: steps.reshape(int(steps.shape[0]), -1)[:, :3]), "", "Python number"),
        (Steps(lambda steps: functional.dropout(steps, 0.5, training=True).sum(1)), "from run to run", "dropout"),
        (
            nn.Sequential(Steps(lambda steps: steps.sum(1)), StaysInTraining(4)),
            "a batch of 1",
            r"1 \(StaysInTraining\) in training mode although eval\(\) was called: batch-norm that uses",
        ),
    ],
)
def test_a_broken_sequence_network_is_refused_with_its_cause(
    tmp_path: Path, everything_under: Listing, steps: Tensor, module: nn.Module, fact: str, cause: str
) -> None:
    with pytest.raises(RefusedError, match=cause) as refusal:
        publish(module, steps, name="m", models=tmp_path, dynamic=TIME)
    assert fact in str(refusal.value)
    assert everything_under(tmp_path) == []


def test_an_operator_that_was_patched_for_the_export_is_refused(
    tmp_path: Path, everything_under: Listing, steps: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = functional.relu

    def patched(values: Tensor, inplace: bool = False) -> Tensor:
        return values.abs() if torch.compiler.is_exporting() else real(values, inplace)

    monkeypatch.setattr(functional, "relu", patched)
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 3), nn.ReLU())
    with pytest.raises(RefusedError, match=r"disagrees with PyTorch .* an operator that the exporter converts wrongly"):
        publish(module, steps, name="m", models=tmp_path)
    assert everything_under(tmp_path) == []


def test_values_of_a_regression_need_no_labels_and_no_same_class(tmp_path: Path, sample: Tensor) -> None:
    targets = np.zeros((70, 2), np.float32)
    published = publish(
        nn.Linear(4, 2), sample, name="m", models=tmp_path, test=(sample.numpy(), targets), task="regression"
    )
    assert published.accuracy is None
    assert json.loads((published.path / "card.json").read_text())["task"] == "regression"


def test_extras_are_in_the_version_when_it_appears_and_stop_it_when_they_fail(
    tmp_path: Path, linear: nn.Module, sample: Tensor, everything_under: Listing
) -> None:
    published = publish(linear, sample, name="m", models=tmp_path, extras=lambda folder: (folder / "note").touch())
    assert (published.path / "note").exists()
    before = everything_under(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError("no ink")

    with pytest.raises(ValueError, match="no ink"):
        publish(linear, sample, name="m", models=tmp_path, extras=fail)
    assert everything_under(tmp_path) == before

    def lack(folder: Path) -> None:
        (tmp_path / "missing.txt").read_text()

    with pytest.raises(
        PublishError, match=f"^{tmp_path}/missing.txt: No such file or directory; nothing was published"
    ):
        publish(linear, sample, name="m", models=tmp_path / "models", extras=lack)
    assert everything_under(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda folder: (folder / "model.onnx").write_bytes(b"mine"),
            "extras has changed model.onnx, which was proved",
        ),
        (lambda folder: (folder / "golden.npz").unlink(), "extras has changed golden.npz, which was proved before"),
        (lambda folder: (folder / "card.json").touch(), "extras has written card.json, which is the version's own"),
    ],
)
def test_extras_that_change_what_was_proved_are_refused_and_nothing_is_published(
    tmp_path: Path, linear: nn.Module, sample: Tensor, change: Callable[[Path], None], sentence: str
) -> None:
    with pytest.raises(PublishError, match=f"^{sentence}.*; nothing was published$"):
        publish(linear, sample, name="m", models=tmp_path, extras=change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sample", "options", "fact"),
    [
        ({}, {}, "the sample is empty"),
        ({"a": torch.zeros(3, 4), "b": torch.zeros(2, 4)}, {}, "disagree on the number of rows"),
        ({"a": torch.zeros(3, 4), "b": 1}, {}, "the sample's 'b' is int, not one tensor"),
        (torch.zeros(3, 4), {"dynamic": {"x": {1: "time"}}}, "dynamic names the input 'x'; there are: input"),
        (torch.zeros(3, 4), {"dynamic": {"input": {2: "time"}}}, "axis 2 called 'time' of input"),
        (torch.zeros(3, 4), {"dynamic": {"input": {0: "rows"}}}, "axis 0 called 'rows'"),
        (torch.zeros(3, 4), {"test": []}, "the test loader gives no batches"),
        (torch.zeros(3, 4), {"test": ({"x": np.zeros((2, 4))}, [0, 1])}, "inputs x, the sample has input"),
        (torch.zeros(3, 4), {"test": (np.zeros((3, 4), "f4"), [0.5, 1]), "task": "regression"}, r"not \[3, K\]"),
        (
            torch.zeros(3, 4),
            {"test": (np.zeros((2, 4), "f4"), np.ones((2, 5))), "task": "regression"},
            "have 5 columns",
        ),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, options: dict[str, object], fact: str
) -> None:
    with pytest.raises(PublishError, match=fact):
        publish(linear, sample, name="m", models=tmp_path, **options)  # type: ignore[arg-type]  # some are wrong on purpose


class Scaled(nn.Module):
    """A network's answers in a unit in which they are small, or large."""

    def __init__(self, network: nn.Module, unit: float) -> None:
        super().__init__()
        self.network, self.unit = network, unit

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * self.unit  # type: ignore[no-any-return]


class Centred(nn.Module):
    """What each row is above the mean of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] - x[:, :1].mean()


class Segments(nn.Module):
    """Means of segments, which the exporter converts to other ones: it includes what was there before."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.tensor([0, 1, 0, 1]).expand(x.shape[0], 4)
        return torch.full((x.shape[0], 2), -1.0).scatter_reduce(1, places, x, "mean", include_self=False)


@pytest.mark.parametrize("network", [Centred(), Segments()], ids=["rows mix", "converted otherwise"])
@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e-6, 1e-9])
def test_in_whatever_unit_the_answers_are_wrong_ones_are_refused(
    tmp_path: Path, network: nn.Module, unit: float
) -> None:
    torch.manual_seed(0)
    with pytest.raises(RefusedError):
        publish(Scaled(network, unit), torch.randn(200, 4), name="m", models=tmp_path, task="regression")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e-9, 1e-20])
def test_in_whatever_unit_the_answers_are_right_ones_are_published(
    tmp_path: Path, linear: nn.Module, unit: float
) -> None:
    torch.manual_seed(0)
    sample = torch.randn(200, 4)
    published = publish(Scaled(linear, unit), sample, name="m", models=tmp_path, task="regression")
    with np.load(published.path / "golden.npz") as golden:
        assert golden["atol"] <= 1e-5
        assert golden["atol"] < float(linear(sample).detach().std()) * unit


def test_a_tolerance_that_a_user_widens_is_as_wide_as_that(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = publish(
        Scaled(Segments(), 1e-6), torch.randn(200, 4), name="m", models=tmp_path, task="regression", atol=1e-4
    )
    with np.load(published.path / "golden.npz") as golden:
        assert golden["atol"] == 1e-4
