"""Recipes whose task is no class or value of a row: from the data to a file that answers as the trained network."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from frostline import connect
from frostline_training import data, pipeline, publish
from frostline_training.config import Cnn, Hyperparameters, Mlp, Recipe, Rnn, Unet
from frostline_training.errors import DataError, SettingError
from frostline_training.evaluation import evaluate
from frostline_training.evaluation.evaluate import Evaluation
from frostline_training.sources import CsvFile, ImageFolder, MaskFolder, NpzFile
from tests.support.servers import running
from tests.support.training.datasets import picture_folder
from tests.support.training.published import trained

Array = np.ndarray[Any, Any]


def _answered(folder: Path, rows: Array) -> Array:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": rows})[0])


def _card(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "card.json").read_text(encoding="utf-8")))


def _squares(count: int = 60) -> tuple[Array, Array]:
    """Pictures [N, 3, 20, 24] with a bright square at random, and its pixels."""
    random = np.random.default_rng(0)
    pictures, masks = random.normal(80, 20, (count, 3, 20, 24)), np.zeros((count, 20, 24), np.int64)
    for picture, mask in zip(pictures, masks, strict=True):
        top, left = random.integers(0, 12, 2)
        picture[:, top : top + 8, left : left + 8] += 100
        mask[top : top + 8, left : left + 8] = 1
    return np.clip(pictures, 0, 255).astype(np.uint8), masks


def _of_squares(folder: Path, **options: Any) -> Recipe:
    inputs, targets = _squares()
    np.savez(folder / "squares.npz", input=inputs, target=targets)
    return Recipe(
        name="squares",
        data=NpzFile(path=folder / "squares.npz", task="dense", labels=("ground", "square")),
        network=Unet(channels=(4, 8)),
        hyperparameters=Hyperparameters(epochs=12, batch_size=8, learning_rate=0.02, **options),
    )


@dataclass(frozen=True)
class Job:
    """What came of a recipe: the recipe, the network, the folders and what was printed."""

    recipe: Recipe
    network: torch.nn.Module
    models: Path
    runs: Path


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("squares")
    recipe = _of_squares(folder, class_weights=True)
    network = trained(recipe, folder / "models", precision=["fp16", "int8"], bound=100)
    return Job(recipe, network, folder / "models", folder / "runs")


def test_the_file_of_a_dense_recipe_answers_each_pixel_as_the_trained_network(squares: Job) -> None:
    test = data.prepare(squares.recipe).test
    logits = _answered(squares.models / "squares" / "1", np.asarray(test.inputs))
    with torch.no_grad():
        wanted = squares.network(torch.from_numpy(test.inputs)).numpy()
    assert logits.shape == (12, 2, 20, 24)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    scores = _card(squares.models / "squares" / "1")["scores"]
    assert scores["test_pixel_accuracy"] == pytest.approx(np.mean(logits.argmax(1) == test.targets))
    assert scores["test_mean_iou"] > 0.8
    assert scores["test_mean_iou"] > scores["baselines"]["majority class"]["test_mean_iou"]
    assert set(scores["per_class"]) == {"ground", "square"}
    assert len(scores["class_weights"]) == len(scores["bias"]) == 2


def test_its_pictures_show_the_masks(squares: Job) -> None:
    drawn = {path.name for path in (squares.models / "squares" / "1").iterdir()}
    assert {"mistakes.png", "confusion.png", "calibration.png", "network.svg"} <= drawn
    with Image.open(squares.models / "squares" / "1" / "mistakes.png") as picture:
        assert picture.width > picture.height > 500


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_its_variants_are_scored_pixel_by_pixel(squares: Job, precision: str) -> None:
    test = data.prepare(squares.recipe).test
    full, small = (
        _answered(squares.models / name / "1", np.asarray(test.inputs)).argmax(1)
        for name in ("squares", f"squares-{precision}")
    )
    told = _card(squares.models / f"squares-{precision}" / "1")["variant"]
    assert told["score"] == "mean_iou"
    assert told["disagreement_rate"] == pytest.approx(np.mean(full != small), abs=1e-3)


@pytest.mark.parametrize("metric", ["mean_iou", "pixel_accuracy:0.001", "loss"])
def test_a_dense_recipe_goes_live_only_if_it_is_better(squares: Job, tmp_path: Path, metric: str) -> None:
    shutil.copytree(squares.models / "squares", tmp_path / "models" / "squares")
    worse = squares.recipe.model_copy(
        update={
            "hyperparameters": squares.recipe.hyperparameters.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
        }
    )
    published = pipeline.run(
        worse, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None, if_better=metric
    )
    assert not published.live
    assert published.comparison is not None
    assert published.comparison.p_value < 0.05


def test_an_interrupted_dense_recipe_goes_on(squares: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = squares.recipe.model_copy(update={"baselines": False})

    def run(*, resume: bool = False) -> str:
        console = Console(quiet=True)
        arguments = {"models": tmp_path / "models", "runs": tmp_path / "runs", "resume": resume}
        return pipeline.run(recipe, device="cpu", console=console, **arguments).sha256  # type: ignore[arg-type]

    whole = run()
    with monkeypatch.context() as patch:
        ended: list[int] = []

        def epoch(self: Any, epoch: Any) -> None:
            ended.append(epoch.number)
            if epoch.number == 2:
                raise KeyboardInterrupt

        patch.setattr("frostline_training.report.LiveReport.epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert ended == [1, 2]
    assert run(resume=True) == whole


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"threshold": "max-f1"}, DataError, "threshold is for two classes .* the task dense: leave threshold out"),
        ({"positive": "square"}, DataError, "positive is for two classes, .* the task dense: leave positive out"),
        ({"network": Cnn()}, DataError, "the network is cnn: only unet answers each pixel"),
    ],
)
def test_what_a_dense_recipe_cannot_have_is_refused_before_it_trains(
    tmp_path: Path, everything_under: Callable[[Path], list[str]], changes: Any, error: type[Exception], said: str
) -> None:
    recipe = _of_squares(tmp_path).model_copy(update=changes)
    with pytest.raises(error, match=said):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
    assert everything_under(tmp_path) == ["squares.npz"]


def test_a_score_that_pixels_do_not_have_is_refused_before_they_are_learnt(squares: Job) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(
        SettingError, match="the task 'dense' has no score 'accuracy'; it has: mean_iou, pixel_accuracy, loss"
    ):
        pipeline.run(
            squares.recipe, models=squares.models, device="cpu", console=console, runs=None, if_better="accuracy"
        )


def test_pictures_with_masks_are_asked_about_as_files(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "scenes" / kind).mkdir(parents=True)
    for number, (picture, mask) in enumerate(zip(*_squares(), strict=True)):
        name = f"{number}.png"
        Image.fromarray(np.moveaxis(picture, 0, -1)).save(tmp_path / "scenes" / "images" / name)
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "scenes" / "masks" / name)
    source = MaskFolder(path=tmp_path / "scenes", labels=("ground", "square"), size=(16, 16), fit="stretch")
    recipe = Recipe(
        name="scenes",
        data=source,
        network=Unet(channels=(4, 8)),
        hyperparameters=Hyperparameters(epochs=2, batch_size=8, learning_rate=0.02),
        baselines=False,
    )
    network = trained(recipe, tmp_path / "models")
    test = data.prepare(recipe).test
    assert test.cells is not None
    with torch.no_grad():
        wanted = network(torch.from_numpy(test.inputs)).numpy()
    files = [Path(path or "").read_bytes() for path in test.cells.columns["image"]]
    with running(tmp_path / "models", log_level="error") as server, connect(server.address) as client:
        prediction = client.predict("scenes", files)
        assert prediction.names == ("ground", "square")
        np.testing.assert_array_equal(prediction.map, wanted.argmax(1))


def _of_digits(folder: Path, **options: Any) -> Recipe:
    digits = data.load("digits")
    np.savez(folder / "digits.npz", input=data.named(digits.rows.inputs)["input"], target=digits.rows.targets)
    return Recipe(
        name="alike",
        data=NpzFile(path=folder / "digits.npz", task="embedding"),
        network=Cnn(channels=(8, 16), hidden=()),
        hyperparameters=Hyperparameters(epochs=3, batch_size=128, learning_rate=0.01, dimensions=8, **options),
    )


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("alike")
    recipe = _of_digits(folder)
    network = trained(recipe, folder / "models", precision=["fp16"], bound=100)
    return Job(recipe, network, folder / "models", folder / "runs")


def test_the_file_of_an_embedding_recipe_answers_unit_vectors_as_the_trained_network(alike: Job) -> None:
    test = data.prepare(alike.recipe).test
    vectors = _answered(alike.models / "alike" / "1", np.asarray(test.inputs))
    with torch.no_grad():
        wanted = alike.network(torch.from_numpy(test.inputs)).numpy()
    assert vectors.shape == (360, 8)
    np.testing.assert_allclose(vectors, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    card = _card(alike.models / "alike" / "1")
    assert card["scores"]["test_recall_at_1"] == pytest.approx(np.mean(test.targets[similar.argmax(1)] == test.targets))
    baselines = card["scores"]["baselines"]
    assert card["scores"]["test_map_at_r"] > baselines["raw inputs"]["test_map_at_r"] + 0.1
    assert (card["labels"], card["data"]["classes"]) == (None, [str(digit) for digit in range(10)])
    assert not {"temperature", "bias", "decision"} & set(card["scores"])


def test_the_map_of_an_embedding_is_drawn(alike: Job) -> None:
    drawn = {path.name for path in (alike.models / "alike" / "1").iterdir()}
    assert {"embedding.png", "mistakes.png", "learning-curves.png", "network.svg"} <= drawn
    assert "confusion.png" not in drawn


def test_a_variant_of_an_embedding_is_scored_by_its_neighbours(alike: Job) -> None:
    told = _card(alike.models / "alike-fp16" / "1")["variant"]
    assert (told["score"], told["disagreement_rate"]) == ("recall_at_1", None)
    assert abs(told["drop_points"]) < 5


def test_an_embedding_goes_live_only_if_it_is_better(alike: Job, tmp_path: Path) -> None:
    shutil.copytree(alike.models / "alike", tmp_path / "alike")
    few = alike.recipe.hyperparameters.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
    worse = alike.recipe.model_copy(update={"hyperparameters": few})
    published = pipeline.run(
        worse, models=tmp_path, device="cpu", console=Console(quiet=True), runs=None, if_better="map_at_r:0.01"
    )
    assert not published.live
    assert published.comparison is not None
    assert published.comparison.metric == "map_at_r"


def test_a_folder_of_pictures_is_embedded_and_asked_about_as_files(tmp_path: Path) -> None:
    source = ImageFolder(path=picture_folder(tmp_path / "p", classes=2, each=12), size=(8, 8), task="embedding")
    recipe = Recipe(
        name="p",
        data=source,
        network=Cnn(channels=(4,), hidden=()),
        hyperparameters=Hyperparameters(epochs=2, batch_size=8, dimensions=3),
        test=0.4,
    )
    network = trained(recipe, tmp_path / "models")
    test = data.prepare(recipe).test
    assert test.cells is not None
    files = [Path(path or "").read_bytes() for path in test.cells.columns["image"]]
    with torch.no_grad():
        wanted = network(torch.from_numpy(test.inputs)).numpy()
    with running(tmp_path / "models", log_level="error") as server, connect(server.address) as client:
        np.testing.assert_allclose(client.predict("p", files).vector, wanted, rtol=1e-4, atol=1e-5)


def test_a_table_is_embedded_and_asked_about_as_raw_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = [
        f"{'' if index % 11 == 0 else round(random.normal(index % 3), 2)},{'xyz'[index % 3 - index % 5 // 4]},c{index % 3}"
        for index in range(120)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["size,kind,class", *lines]), encoding="utf-8")
    recipe = Recipe(
        name="t",
        data=CsvFile(path=tmp_path / "t.csv", target="class", task="embedding"),
        network=Mlp(hidden=(8,)),
        hyperparameters=Hyperparameters(epochs=3, batch_size=16, dimensions=4),
    )
    network = trained(recipe, tmp_path / "models")
    test = data.prepare(recipe).test
    assert test.cells is not None
    with torch.no_grad():
        wanted = network(torch.from_numpy(test.inputs)).numpy()
    columns = test.cells.columns
    rows = [
        {"size": float(size) if size else None, "kind": kind}
        for size, kind in zip(columns["size"], columns["kind"], strict=True)
    ]
    with running(tmp_path / "models", log_level="error") as server, connect(server.address) as client:
        np.testing.assert_allclose(client.predict("t", rows).vector, wanted, rtol=1e-4, atol=1e-5)
    better = pipeline.run(
        recipe,
        models=tmp_path / "models",
        device="cpu",
        console=Console(quiet=True),
        runs=None,
        if_better="recall_at_1",
    )
    assert not better.live  # it is the same network
    assert better.comparison is not None
    assert better.comparison.gain == 0


@pytest.mark.parametrize(("task", "metric"), [("dense", "mean_iou"), ("embedding", "map_at_r")])
def test_a_module_of_ones_own_goes_live_only_if_it_is_better(tmp_path: Path, task: Any, metric: str) -> None:
    random = np.random.default_rng(0)
    classes = np.arange(60) % 3 if task == "embedding" else random.integers(0, 3, (60, 4, 5))
    shape = (60, 3) if task == "embedding" else (60, 3, 4, 5)
    rows = np.moveaxis(np.eye(3)[classes], -1, 1) * 4 + random.normal(size=shape)
    layer = (nn.Linear if task == "embedding" else partial(nn.Conv2d, kernel_size=1))(3, 3, bias=False)
    sample, live = torch.from_numpy(rows.astype(np.float32)), []
    worse = torch.eye(3).roll(1, 0) if task == "dense" else torch.diag(torch.tensor([1.0, 0.0, 0.0]))
    for weight in (worse, torch.eye(3), worse):
        with torch.no_grad():
            layer.weight.copy_(weight.reshape(layer.weight.shape))
        options = {"name": "own", "models": tmp_path, "task": task, "test": (sample, classes), "probabilities": None}
        live.append(publish(layer, sample, if_better=metric, **options).live)
    assert live == [True, True, False]


def test_sequences_with_lengths_are_embedded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    inputs, classes = random.normal(size=(60, 5, 3)).astype(np.float32), np.arange(60) % 3
    np.savez(tmp_path / "s.npz", input=inputs, target=classes, lengths=random.integers(1, 6, 60))
    recipe = Recipe(
        name="s",
        data=NpzFile(path=tmp_path / "s.npz", task="embedding"),
        network=Rnn(state=6),
        hyperparameters=Hyperparameters(epochs=2, batch_size=16, dimensions=4),
        baselines=False,
    )
    published = pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
    assert published.task == "embedding"
    assert set(published.differences_by_length) == {"time=3", "time=11"}


def test_after_the_training_an_embedding_is_judged_by_its_test_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "e.npz", input=random.normal(size=(50, 3)), target=np.arange(50) % 5)
    recipe = Recipe(
        name="e",
        data=NpzFile(path=tmp_path / "e.npz", task="embedding"),
        network=Mlp(hidden=(4,)),
        hyperparameters=Hyperparameters(epochs=1, batch_size=16, dimensions=4),
        validation=0.24,
        baselines=False,
    )
    judged: list[int] = []
    real = evaluate.evaluate

    def counted(network: nn.Module, rows: data.Rows, *others: Any) -> Evaluation:
        judged.append(len(rows.targets))
        return real(network, rows, *others)

    monkeypatch.setattr(evaluate, "evaluate", counted)
    pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
    assert judged == [10]


def test_a_regression_of_sequences_with_lengths_is_learnt(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(60, 5, 3)).astype(np.float32)
    np.savez(tmp_path / "s.npz", input=inputs, target=inputs[:, 0, 0], lengths=random.integers(1, 6, 60))
    recipe = Recipe(
        name="s",
        data=NpzFile(path=tmp_path / "s.npz", task="regression"),
        network=Rnn(state=6),
        hyperparameters=Hyperparameters(epochs=2, batch_size=16),
        baselines=False,
    )
    published = pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
    assert published.task == "regression"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": "max-f1"}, "threshold is for two classes .* the task embedding: leave threshold out"),
        ({"positive": "1"}, "positive is for two classes, .* the task embedding: leave positive out"),
        ({"network": Unet()}, "the network is unet: it answers each pixel, for the task dense"),
        (
            {"hyperparameters": Hyperparameters(class_weights=True)},
            "learns from pairs of rows, not from classes: leave out",
        ),
        ({"hyperparameters": Hyperparameters(label_smoothing=0.1)}, "no labels to smooth: leave out label_smoothing"),
    ],
)
def test_what_an_embedding_cannot_have_is_refused_before_it_trains(
    tmp_path: Path, everything_under: Callable[[Path], list[str]], changes: Any, said: str
) -> None:
    recipe = _of_digits(tmp_path).model_copy(update=changes)
    with pytest.raises(DataError, match=said):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
    assert everything_under(tmp_path) == ["digits.npz"]
