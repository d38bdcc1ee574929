"""Recipes with several targets: from a table or arrays to a file that answers each target as the trained network."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from frostline import connect, connect_async
from frostline.cli import main as cli
from frostline_training import data, pipeline, report
from frostline_training.config import Hyperparameters, Mlp, Recipe, Rnn, Unet
from frostline_training.data import Split
from frostline_training.errors import DataError, SettingError
from frostline_training.sources import CsvFile, NpzFile
from tests.support.servers import running
from tests.support.training.published import trained

Array = np.ndarray[Any, Any]

SIZE = "size (cm)"


def _table(folder: Path) -> Path:
    """A table of a number and a category, of which a class and a number follow, and some cells are missing."""
    random = np.random.default_rng(0)
    width, form = random.normal(10, 3, 200), random.integers(0, 3, 200)
    lines = [
        f"{'' if index % 17 == 0 else round(width[index], 3)},{'xyz'[form[index]]},"
        f"{'ab'[int(width[index] > 10)]},{2 * width[index] + form[index]:.3f}"
        for index in range(200)
    ]
    path = folder / "parts.csv"
    path.write_text("\n".join([f"width,form,side,{SIZE}", *lines]), encoding="utf-8")
    return path


def _recipe(folder: Path, **options: Any) -> Recipe:
    return Recipe(
        name="parts",
        data=CsvFile(path=_table(folder), target=("side", SIZE), task="any"),
        network=Mlp(hidden=(16,)),
        hyperparameters=Hyperparameters(epochs=20, batch_size=16, learning_rate=0.02, **options),
    )


@dataclass(frozen=True)
class Job:
    """A recipe that was published in `models`, the network that is in the file, and the rows."""

    recipe: Recipe
    network: nn.Module
    models: Path
    split: Split
    said: str

    @property
    def answers(self) -> dict[str, Array]:
        """What the network answers to the test rows."""
        with torch.no_grad():
            answer = self.network(*data.tensors(self.split.test, torch.device("cpu"))[0])
        return {name: tensor.numpy() for name, tensor in answer.items()}

    @property
    def card(self) -> dict[str, Any]:
        """The card of the version."""
        return dict(json.loads((self.models / "parts" / "1" / "card.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("parts")
    recipe = _recipe(folder)
    console, real = Console(record=True, width=200), report.print_summary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "print_summary", lambda _, *args, **named: real(console, *args, **named))
        network = trained(recipe, folder / "models")
    return Job(recipe, network, folder / "models", data.prepare(recipe), console.export_text())


def _rows(split: Split) -> list[dict[str, Any]]:
    """The test rows as clients send them."""
    assert split.test.cells is not None
    columns = split.test.cells.columns
    return [
        {"width": float(width) if width else None, "form": form}
        for width, form in zip(columns["width"], columns["form"], strict=True)
    ]


def _close(served: Any, expected: dict[str, Array]) -> None:
    assert list(served) == list(expected)
    for name, wanted in expected.items():
        np.testing.assert_allclose(served[name], wanted, rtol=1e-4, atol=1e-5)


def test_raw_rows_are_answered_by_the_names_of_the_targets_as_the_network_answers(parts: Job) -> None:
    rows, expected = _rows(parts.split), parts.answers
    assert {name: answer.shape for name, answer in expected.items()} == {"side": (40, 2), SIZE: (40,)}

    async def ask(address: str) -> Any:
        async with connect_async(address) as client:
            return (await client.predict("parts", rows)).outputs

    with running(parts.models, log_level="error") as server:
        with connect(server.address) as client:
            _close(client.predict("parts", rows).outputs, expected)
            _close(client.predict("parts", parts.split.test.inputs).outputs, expected)
        _close(asyncio.run(ask(server.address)), expected)


def test_the_command_line_prints_each_target_of_a_csv_file(
    parts: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, expected = _rows(parts.split)[:4], parts.answers
    cells = (f"{'' if row['width'] is None else row['width']},{row['form']}" for row in rows)
    (tmp_path / "new.csv").write_text("\n".join(["width,form", *cells]), encoding="utf-8")
    said = {}
    with running(parts.models, log_level="error") as server:
        capsys.readouterr()  # what the server has logged
        for form in ("table", "csv", "json"):
            where = ["--server", server.address, "--format", form]
            assert cli.run(["predict", "parts", str(tmp_path / "new.csv"), *where]) == 0
            said[form] = capsys.readouterr().out
    told = json.loads(said["json"])["rows"]
    _close({name: [row[name] for row in told] for name in expected}, {name: own[:4] for name, own in expected.items()})
    header, first, *_ = said["csv"].splitlines()
    assert header == f"id,side_0,side_1,{SIZE}"
    assert [float(cell) for cell in first.split(",")[1:]] == pytest.approx(
        [*expected["side"][0].tolist(), float(expected[SIZE][0])], rel=1e-3
    )
    assert {"side", SIZE} <= {cell.strip() for cell in said["table"].splitlines()[0].split("  ")}


def test_the_scores_of_each_target_are_those_of_its_answers(parts: Job) -> None:
    answers, targets, scores = parts.answers, parts.split.test.targets.astype(np.float64), parts.card["scores"]
    accuracy = np.mean(answers["side"].argmax(1) == targets[:, 0])
    sizes = targets[:, 1]
    r2 = 1 - np.mean((answers[SIZE] - sizes) ** 2) / np.var(sizes)
    assert scores["test_side.accuracy"] == pytest.approx(accuracy)
    assert scores[f"test_{SIZE}.r2"] == pytest.approx(r2, abs=1e-5)
    assert scores["test_mean_score"] == pytest.approx((accuracy + r2) / 2, abs=1e-5)
    assert accuracy > 0.9
    assert r2 > 0.8
    assert not {"temperature", "bias", "decision", "class_weights"} & set(scores)
    assert scores["baselines"]["majority class and mean"]["test_mean_score"] < 0.5


def test_the_card_says_what_each_output_is(parts: Job) -> None:
    card = parts.card
    assert (card["task"], card["labels"]) == ("any", None)
    assert card["data"]["targets"] == {"side": ["a", "b"], SIZE: None}
    assert [(each["name"], each["shape"]) for each in card["outputs"]] == [("side", ["batch", 2]), (SIZE, ["batch"])]
    with np.load(parts.models / "parts" / "1" / "golden.npz") as golden:
        assert {"output.side", f"output.{SIZE}"} <= set(golden)


def test_each_target_is_drawn_and_told(parts: Job, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = {path.name for path in (parts.models / "parts" / "1").glob("*.*g")}
    assert drawn == {
        "network.svg",
        "network.png",
        "learning-curves.png",
        *(f"{name}-1.png" for name in ("confusion", "calibration", "calibration-classes", "precision-recall")),
        "predictions-2.png",
        "mistakes-1.png",
        "mistakes-2.png",
    }
    for told in ("test mean score", "side: test accuracy", f"{SIZE}: test R²", f"R² of {SIZE}"):
        assert told in parts.said
    assert cli.run(["show", "parts", "--models", str(parts.models)]) == 0
    shown = capsys.readouterr().out
    assert "per class of side" in shown
    assert f"{parts.card['scores']['test_side.accuracy']:.2%}" in shown


def test_an_interrupted_recipe_with_several_targets_goes_on(parts: Job, tmp_path: Path) -> None:
    real = report.LiveReport.epoch

    def epoch(self: Any, done: Any) -> None:
        real(self, done)
        if done.number == 7:
            raise KeyboardInterrupt

    run = {"models": tmp_path / "models", "device": "cpu", "console": Console(quiet=True), "runs": tmp_path / "runs"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.LiveReport, "epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(parts.recipe, **run)  # type: ignore[arg-type]  # see above
    published = pipeline.run(parts.recipe, resume=True, **run)  # type: ignore[arg-type]  # see above
    assert published.sha256 == parts.card["sha256"]


def test_sequences_with_lengths_have_several_targets(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(60, 5, 3)).astype(np.float32)
    arrays = {"target.first": inputs[:, 0, 0], "target.up": inputs[:, 0, 1] > 0, "lengths": random.integers(1, 6, 60)}
    np.savez(tmp_path / "s.npz", input=inputs, **arrays)  # type: ignore[arg-type]  # arrays by their names
    recipe = Recipe(
        name="s",
        data=NpzFile(path=tmp_path / "s.npz", task="any"),
        network=Rnn(state=6),
        hyperparameters=Hyperparameters(epochs=2, batch_size=16),
        baselines=False,
    )
    network = trained(recipe, tmp_path / "models")
    test = data.prepare(recipe).test
    named = data.named(test.inputs)
    with torch.no_grad():
        wanted = network(**{name: torch.from_numpy(rows) for name, rows in named.items()})
    with running(tmp_path / "models", log_level="error") as server, connect(server.address) as client:
        _close(client.predict("s", named).outputs, {name: tensor.numpy() for name, tensor in wanted.items()})


@pytest.mark.parametrize(
    ("changes", "options", "error", "said"),
    [
        ({"threshold": "max-f1"}, {}, DataError, "parts.csv has the task any: leave threshold out"),
        ({"positive": "a"}, {}, DataError, "parts.csv has the task any: leave positive out"),
        ({"network": Unet()}, {}, DataError, "the network is unet: it answers each pixel"),
        (
            {"hyperparameters": Hyperparameters(class_weights=True)},
            {},
            DataError,
            "parts.csv has several targets, .* alone can be weighed: leave out class_weights for the task any",
        ),
        ({}, {"precision": ["fp16"]}, SettingError, "--precision compares two networks by one score, .*: leave it out"),
        ({}, {"if_better": "accuracy"}, SettingError, "--if-better compares .*: publish with --stage, compare"),
        ({}, {"if_better": "side.accuracy"}, SettingError, "--if-better compares .*: publish with --stage, compare"),
    ],
)
def test_what_several_targets_cannot_have_is_refused_before_they_are_learnt(
    tmp_path: Path,
    everything_under: Callable[[Path], list[str]],
    changes: Any,
    options: Any,
    error: type[Exception],
    said: str,
) -> None:
    recipe = _recipe(tmp_path).model_copy(update=changes)
    with pytest.raises(error, match=said):
        pipeline.run(
            recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None, **options
        )
    assert everything_under(tmp_path) == ["parts.csv"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("input", "b"), "a target is called 'input', as the network's own input is: rename it"),
        (("lengths", "b"), "a target is called 'lengths', as an input of the network is: rename it"),
        (("", "b"), "'' is no name of a target"),
    ],
)
def test_targets_that_clients_could_not_read_are_refused(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    arrays = {f"target.{name}": np.arange(20) % 2 for name in names}
    np.savez(
        tmp_path / "s.npz",
        input=np.zeros((20, 4, 2)),
        lengths=np.full(20, 4),
        **arrays,  # type: ignore[arg-type]  # as above
    )
    recipe = Recipe(name="s", data=NpzFile(path=tmp_path / "s.npz", task="any"), network=Rnn())
    with pytest.raises(DataError, match=said):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
