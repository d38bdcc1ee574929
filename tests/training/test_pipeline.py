"""One whole training job, on real data."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image as pillow  # noqa: N813 the column is called so
from rich.console import Console

from frostline_training import data, pipeline, report
from frostline_training.config import Cnn, Hyperparameters, LeastRecall, Mlp, Recipe
from frostline_training.errors import DataError, DeviceError, SettingError, TrainingError
from frostline_training.loop import runs
from frostline_training.loop.checkpoint import ResumeError
from frostline_training.loop.progress import Epoch
from frostline_training.plots import scores
from frostline_training.publishing import raw_pictures
from frostline_training.publishing.publish import Published
from frostline_training.report import LiveReport
from frostline_training.sources import CsvFile, ImageFolder, NpzFile, Task

Listing = Callable[[Path], list[str]]

IRIS = Recipe(
    name="flowers",
    data="iris",
    network=Mlp(hidden=(32, 32), activation="tanh"),
    hyperparameters=Hyperparameters(epochs=60, batch_size=16, learning_rate=1e-2, patience=30),
)

SHORT = IRIS.model_copy(update={"hyperparameters": Hyperparameters(epochs=2, batch_size=16), "baselines": False})


def _console() -> Console:
    return Console(file=io.StringIO(), width=100)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def iris(folder: Path) -> tuple[Published, str]:
    console = _console()
    published = pipeline.run(IRIS, models=folder / "models", device="cpu", console=console, runs=folder / "runs")
    return published, _said(console)


def test_iris_is_learnt(iris: tuple[Published, str]) -> None:
    assert iris[0].accuracy is not None
    assert iris[0].accuracy >= 0.93


def test_the_published_file_takes_raw_values_and_scores_as_the_card_says(iris: tuple[Published, str]) -> None:
    card = json.loads((iris[0].path / "card.json").read_text())
    test = data.prepare(IRIS).test
    session = onnxruntime.InferenceSession(iris[0].path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": test.inputs})
    assert card["scores"]["test_accuracy"] == np.mean(logits.argmax(1) == test.targets)
    assert card["data"]["rows"] == {"train": 97, "validation": 23, "test": 30}
    assert card["labels"] == ["setosa", "versicolor", "virginica"]


def test_the_golden_rows_are_rows_the_training_never_saw(iris: tuple[Published, str]) -> None:
    split = data.prepare(IRIS)
    with np.load(iris[0].path / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["input"], split.test.inputs)


def test_the_summary_says_how_good_it_is_and_where_it_stands(iris: tuple[Published, str]) -> None:
    published, said = iris
    for word in ("97 rows to train on", "test accuracy", f"{published.accuracy:.2%}", "flowers version 1", "near-ties"):
        assert word in said
    assert published.sha256 in said


def test_the_same_recipe_gives_the_same_file(iris: tuple[Published, str], tmp_path: Path) -> None:
    again = pipeline.run(IRIS, models=tmp_path, device="auto", console=_console(), runs=None)
    assert again.sha256 == iris[0].sha256


def test_a_few_epochs_of_digits_with_batch_norm_are_learnt_and_published(tmp_path: Path) -> None:
    quick = Recipe(
        name="quick",
        data="digits",
        network=Cnn(channels=(8, 16), hidden=()),
        hyperparameters=Hyperparameters(epochs=5, learning_rate=0.01),
    )
    published = pipeline.run(quick, models=tmp_path, device="cpu", console=_console(), runs=None)
    assert published.rows == 360
    assert published.accuracy is not None
    assert published.accuracy > 0.9


def test_a_device_that_is_not_there_is_refused_before_anything_else(tmp_path: Path, everything_under: Listing) -> None:
    console = _console()
    with pytest.raises(DeviceError):
        pipeline.run(IRIS, models=tmp_path, device="tpu", console=console, runs=tmp_path / "runs")
    assert _said(console) == ""
    assert everything_under(tmp_path) == []


def test_the_run_folder_holds_configuration_metrics_checkpoint_and_pictures(
    iris: tuple[Published, str], folder: Path
) -> None:
    (run,) = (folder / "runs/flowers").iterdir()
    names = {path.name for path in run.iterdir()}
    assert names == {"config.json", "metrics.csv", "metrics.jsonl", "checkpoint.pt", "published.json", "pictures"}
    config = json.loads((run / "config.json").read_text())
    assert Recipe.model_validate(config["recipe"]) == IRIS
    assert (config["device"], config["processes"]) == ("cpu", 1)
    card = json.loads((iris[0].path / "card.json").read_text())
    assert len((run / "metrics.jsonl").read_text().splitlines()) == card["scores"]["epochs"]
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert {"network.svg", "learning-curves.png", "confusion.png"} <= pictures
    assert pictures <= {path.name for path in iris[0].path.iterdir()}


def test_the_card_says_how_far_probabilities_can_be_believed_before_and_after(iris: tuple[Published, str]) -> None:
    scores = json.loads((iris[0].path / "card.json").read_text())["scores"]
    assert scores["temperature"] > 0
    assert 0 <= scores["ece"] <= 1
    assert 0 <= scores["ece_before"] <= 1


def test_the_card_of_two_weighted_classes_has_ranking_decision_and_baselines(tmp_path: Path) -> None:
    recipe = Recipe(
        name="cells",
        data="breast-cancer",
        network=Mlp(hidden=(8,)),
        hyperparameters=Hyperparameters(epochs=10, learning_rate=0.01, class_weights=True),
        threshold=LeastRecall(recall=0.95),
    )
    console = _console()
    published = pipeline.run(recipe, models=tmp_path, device="cpu", console=console, runs=None)
    scores = json.loads((published.path / "card.json").read_text())["scores"]
    test = data.prepare(recipe).test
    session = onnxruntime.InferenceSession(published.path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": test.inputs})
    malignant = 1 / (1 + np.exp(logits[:, 1].astype(np.float64) - logits[:, 0]))
    decision = scores["decision"]
    assert (scores["positive"], decision["label"]) == ("malignant", "malignant")
    assert decision["rule"] == {"recall": 0.95}
    assert decision["validation"]["recall"] >= 0.95
    taken = malignant >= decision["threshold"]
    assert decision["test"]["true_positives"] == np.sum(taken & (test.targets == 0))
    assert decision["test"]["false_positives"] == np.sum(taken & (test.targets == 1))
    assert scores["test_roc_auc"] > 0.97
    assert set(scores["baselines"]) == {"majority class", "logistic regression", "gradient boosting"}
    assert scores["per_class"]["malignant"]["mean_probability"] == pytest.approx(malignant.mean(), abs=1e-6)
    pictures = {path.name for path in published.path.glob("*.png")}
    assert {"precision-recall.png", "calibration-classes.png"} <= pictures
    assert "malignant from a probability of" in " ".join(_said(console).split())


@pytest.mark.parametrize("weighted", [True, False])
def test_the_mean_probability_of_a_rare_class_is_its_share_with_class_weights_and_without(
    tmp_path: Path, weighted: bool
) -> None:
    # One row in twenty is positive; weights alone would bring the mean probability to about a third.
    random = np.random.default_rng(11)
    inputs = random.normal(size=(6000, 3)).astype(np.float32)
    noise = random.logistic(size=6000)
    odds = 1.5 * inputs[:, 0] - inputs[:, 1] + noise
    np.savez(tmp_path / "rare.npz", input=inputs, target=(odds > np.quantile(odds, 0.95)).astype(np.int64))
    recipe = Recipe(
        name="rare",
        data=NpzFile(path=tmp_path / "rare.npz", labels=("no", "yes")),
        network=Mlp(hidden=(8,)),
        hyperparameters=Hyperparameters(epochs=8, learning_rate=0.01, class_weights=weighted),
        baselines=False,
    )
    published = pipeline.run(recipe, models=tmp_path, device="cpu", console=_console(), runs=None)
    scores = json.loads((published.path / "card.json").read_text())["scores"]
    assert scores["per_class"]["yes"]["mean_probability"] == pytest.approx(0.05, abs=0.005)
    assert scores["test_roc_auc"] > 0.8
    assert "baselines" not in scores
    assert ("decision" in scores) == weighted
    if weighted:
        assert scores["decision"]["rule"] == "class-weights"
        assert scores["decision"]["threshold"] == pytest.approx(0.05, abs=0.001)  # where the weights are even
        assert scores["decision"]["test"]["recall"] > 0.7


def test_a_binary_recipe_trains_one_logit_and_is_scored_as_two_classes(tmp_path: Path) -> None:
    # One row in twenty leaves. Yes is the class that the recipe calls positive, although it comes first in the alphabet.
    random = np.random.default_rng(11)
    inputs = random.normal(size=(3000, 3)).astype(np.float32)
    odds = 1.5 * inputs[:, 0] - inputs[:, 1] + random.logistic(size=3000)
    left = odds > np.quantile(odds, 0.95)
    np.savez(tmp_path / "rare.npz", input=inputs, target=np.where(left, "left", "stayed"))
    recipe = Recipe(
        name="rare",
        data=NpzFile(path=tmp_path / "rare.npz", task="binary"),
        network=Mlp(hidden=(8,)),
        hyperparameters=Hyperparameters(epochs=8, learning_rate=0.01, class_weights=True),
        positive="left",
    )
    published = pipeline.run(recipe, models=tmp_path, device="cpu", console=_console(), runs=None)
    card = json.loads((published.path / "card.json").read_text())
    scores = card["scores"]
    test = data.prepare(recipe).test
    assert test.targets.mean() == pytest.approx(0.05)
    session = onnxruntime.InferenceSession(published.path / "model.onnx", providers=["CPUExecutionProvider"])
    logits, shares = session.run(["logits", "probabilities"], {"input": test.inputs})
    assert logits.shape == shares.shape == (600, 1)
    assert (card["task"], card["labels"], scores["positive"]) == ("binary", ["stayed", "left"], "left")
    assert scores["per_class"]["left"]["mean_probability"] == pytest.approx(shares.mean(), abs=1e-6)
    assert shares.mean() == pytest.approx(0.05, abs=0.01)
    assert scores["test_accuracy"] == published.accuracy == np.mean((logits[:, 0] > 0) == test.targets)
    assert scores["class_weights"] == pytest.approx([1, 19], rel=0.05)
    assert scores["decision"]["threshold"] == pytest.approx(0.05, abs=0.003)
    assert scores["decision"]["test"]["true_positives"] == np.sum(
        (shares[:, 0] >= scores["decision"]["threshold"]) & (test.targets == 1)
    )
    assert scores["test_roc_auc"] > 0.8
    assert scores["test_roc_auc"] > scores["baselines"]["gradient boosting"]["test_roc_auc"] - 0.05


def test_a_smaller_variant_is_scored_by_the_class_that_the_recipe_calls_positive(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    inputs = random.normal(size=(600, 3)).astype(np.float32)
    stays = 2 * inputs[:, 0] + random.logistic(size=600) > -1
    np.savez(tmp_path / "rows.npz", input=inputs, target=np.where(stays, "stays", "leaves"))
    recipe = Recipe(
        name="rows",
        data=NpzFile(path=tmp_path / "rows.npz"),
        network=Mlp(hidden=(8,)),
        hyperparameters=Hyperparameters(epochs=3),
        positive="stays",
        baselines=False,
    )
    pipeline.run(
        recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=None, precision=["fp16"], bound=5
    )
    full, variant = (
        json.loads((tmp_path / "models" / name / "1" / "card.json").read_text())["scores"]
        for name in ("rows", "rows-fp16")
    )
    assert (full["positive"], variant["positive"]) == ("stays", "stays")
    for name in ("test_average_precision", "test_roc_auc"):
        assert variant[name] == pytest.approx(full[name], abs=0.01)


@pytest.mark.parametrize(
    ("changed", "bound", "sentence"),
    [
        ({"name": "my model"}, 0.5, "name 'my model': use letters, digits"),
        ({"name": "../x"}, 0.5, "name '../x': use letters, digits"),
        ({}, 150.0, "the bound is 150.0 points; it must be from 0 to 100"),
    ],
)
def test_what_could_not_be_published_is_refused_before_the_training(
    tmp_path: Path, changed: dict[str, Any], bound: float, sentence: str
) -> None:
    recipe = IRIS.model_copy(update=changed)
    with pytest.raises(SettingError, match=re.escape(sentence)):
        pipeline.run(
            recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=tmp_path / "runs", bound=bound
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["models", "runs"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_the_training(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a file")
    with pytest.raises(SettingError, match=f"^--{name} {tmp_path / name} is a file, and a folder is expected"):
        pipeline.run(IRIS, models=tmp_path / "models", device="cpu", console=_console(), runs=tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_class_without_a_name_is_refused_before_the_training(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", input=np.zeros((60, 2)), target=np.array(["a", " "] * 30))
    recipe = IRIS.model_copy(update={"data": NpzFile(path=tmp_path / "rows.npz")})
    with pytest.raises(TrainingError, match="nobody can read"):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]


def test_a_class_that_is_no_text_is_refused_before_the_training(tmp_path: Path) -> None:
    # As Python reads the name of a folder that is not UTF-8.
    np.savez(tmp_path / "rows.npz", input=np.zeros((60, 2)), target=np.array(["caf\udce9", "tea"] * 30))
    recipe = IRIS.model_copy(update={"data": NpzFile(path=tmp_path / "rows.npz")})
    with pytest.raises(DataError, match="which is no text in UTF-8"):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]


@pytest.mark.parametrize(("suffix", "part"), [({"a": "bmp", "b": "bmp"}, "training"), ({"a": "bmp", "b": "png"}, "")])
def test_pictures_of_which_no_server_takes_one_are_refused_before_the_training(
    tmp_path: Path, suffix: dict[str, str], part: str
) -> None:
    random = np.random.default_rng(0)
    for label, form in suffix.items():
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for index in range(12):
            pixels = random.integers(0, 255, (4, 4, 3)).astype(np.uint8)
            pillow.fromarray(pixels).save(tmp_path / f"pictures/{label}/{index}.{form}")
    recipe = IRIS.model_copy(update={"data": ImageFolder(path=tmp_path / "pictures", size=(4, 4))})
    if not part:
        raw_pictures.check_taken(data.prepare(recipe))
        return
    with pytest.raises(DataError, match=f"no {part} picture is PNG, JPEG or WebP, which a server takes"):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_binary_recipe_of_three_classes_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "three.npz", input=np.zeros((30, 2)), target=np.arange(30) % 3)
    recipe = IRIS.model_copy(update={"data": NpzFile(path=tmp_path / "three.npz", task="binary")})
    with pytest.raises(
        TrainingError, match=r"three\.npz has 3 classes, and a binary task has no and yes: leave task out"
    ):
        pipeline.run(recipe, models=tmp_path, device="cpu", console=_console(), runs=None)


def test_a_threshold_that_the_data_cannot_have_is_refused_before_the_training(
    tmp_path: Path, everything_under: Listing
) -> None:
    recipe = IRIS.model_copy(update={"threshold": "max-f1"})
    with pytest.raises(TrainingError, match="iris has 3 classes: leave threshold out"):
        pipeline.run(recipe, models=tmp_path, device="cpu", console=_console(), runs=None)
    assert everything_under(tmp_path) == []


class _Interrupt:
    """Stands in for LiveReport.epoch, and interrupts the training when it comes to the epoch `at`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, epoch: Epoch) -> None:
        if epoch.number == self.at:
            raise KeyboardInterrupt


def _interrupted(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LiveReport, "epoch", _Interrupt(at))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, models=folder / "models", device="cpu", console=_console(), runs=folder / "runs")


def test_an_interrupted_job_leaves_no_version_and_goes_on_to_the_same_file(
    iris: tuple[Published, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupted(IRIS, tmp_path, monkeypatch, at=7)
    assert not (tmp_path / "models").exists()
    console = _console()
    again = pipeline.run(
        IRIS, models=tmp_path / "models", device="cpu", console=console, runs=tmp_path / "runs", resume=True
    )
    assert "Going on with" in _said(console)
    assert again.sha256 == iris[0].sha256
    assert len(list((tmp_path / "runs/flowers").iterdir())) == 1


def test_another_recipe_does_not_go_on_where_this_one_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupted(IRIS, tmp_path, monkeypatch, at=2)
    other = IRIS.model_copy(update={"seed": 5, "validation": 0.2})
    console = _console()
    with pytest.raises(ResumeError, match=r"is of another recipe \(seed was 20, is 5, validation was 0.15, is 0.2\)"):
        pipeline.run(
            other, models=tmp_path / "models", device="cpu", console=console, runs=tmp_path / "runs", resume=True
        )
    assert "Going on" not in _said(console)
    assert not (tmp_path / "models").exists()


def test_resuming_starts_anew_where_nothing_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.start(tmp_path / "runs", "flowers").begin({})  # killed before its first epoch was over
    console = _console()
    with monkeypatch.context() as patch:
        patch.setattr(LiveReport, "epoch", _Interrupt(1))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(
                IRIS, models=tmp_path / "models", device="cpu", console=console, runs=tmp_path / "runs", resume=True
            )
    assert "was interrupted after an epoch: starting anew" in _said(console)
    assert len(list((tmp_path / "runs/flowers").iterdir())) == 2


def test_a_run_that_goes_on_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def epoch(*_: object) -> None:
        if not refused and list(tmp_path.glob("runs/flowers/*/checkpoint.pt")):
            with pytest.raises(ResumeError) as caught:
                runs.unfinished(tmp_path / "runs", "flowers")
            refused.append(str(caught.value))

    monkeypatch.setattr(LiveReport, "epoch", epoch)
    pipeline.run(IRIS, models=tmp_path / "models", device="cpu", console=_console(), runs=tmp_path / "runs")
    assert "is run by another process" in refused[0]
    assert runs.unfinished(tmp_path / "runs", "flowers") is None


def test_a_run_that_is_killed_behind_its_publication_is_not_published_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "print_summary", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(SHORT, models=tmp_path / "models", device="cpu", console=_console(), runs=tmp_path / "runs")
    assert (tmp_path / "models/flowers/1/card.json").exists()
    assert runs.unfinished(tmp_path / "runs", "flowers") is None


def test_what_the_run_cannot_note_is_said_once_all_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epoch(*_: object) -> None:  # something is in the way of what the run writes at its end
        for run in (tmp_path / "runs/flowers").iterdir():
            (run / "published.json").mkdir(exist_ok=True)

    monkeypatch.setattr(LiveReport, "epoch", epoch)
    console = _console()
    with pytest.raises(
        TrainingError, match=r"^version 1 of flowers is published, but cannot write .*published\.json: Is a"
    ):
        pipeline.run(
            SHORT, models=tmp_path / "models", device="cpu", console=console, runs=tmp_path / "runs", precision=["fp16"],
            bound=100,
        )  # fmt: skip
    assert "version 1 is live" in _said(console)
    assert (tmp_path / "models/flowers-fp16/1/card.json").exists()


def test_a_picture_that_cannot_be_drawn_is_told_and_the_version_is_published_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, *_: object, **__: object) -> Path:
        path.write_bytes(b"half of it")
        raise IndexError("index 63 is out of bounds\nand more")

    monkeypatch.setattr(scores, "learning_curves", broken)
    console = _console()
    published = pipeline.run(SHORT, models=tmp_path, device="cpu", console=console, runs=None)
    assert (
        "Warning: learning-curves.png cannot be drawn, and the version is published without: IndexError: index 63 is out of "
        "bounds\n"
    ) in _said(console)
    pictures = {path.name for path in published.path.iterdir() if path.suffix in (".png", ".svg")}
    assert "learning-curves.png" not in pictures
    assert {"network.svg", "network.png", "confusion.png", "mistakes.png"} <= pictures


@pytest.mark.parametrize(
    ("task", "rows", "fractions"),
    [
        ("regression", 5, {}),
        ("regression", 100, {"test": 0.01}),
        ("multi-label", 60, {"test": 0.01, "validation": 0.01}),
    ],
)
def test_a_test_part_of_one_row_is_published(
    tmp_path: Path, task: Task, rows: int, fractions: dict[str, float]
) -> None:
    random = np.random.default_rng(4)
    targets = random.integers(0, 2, size=(rows, 2))
    np.savez(tmp_path / "d.npz", input=random.normal(size=(rows, 4)), target=targets)
    recipe = Recipe(
        name="one",
        data=NpzFile(path=tmp_path / "d.npz", task=task),
        network=Mlp(hidden=(4,)),
        hyperparameters=Hyperparameters(epochs=2, batch_size=16),
        **fractions,
    )
    published = pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=None)
    assert published.rows == 1
    with np.load(published.path / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["input"], data.prepare(recipe).test.inputs)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"if_better": "r2"},
            "if_better: the held-out rows have no r2, because there is one, or all have the same target",
        ),
        (
            {"precision": ("fp16",)},
            "--precision: a smaller variant is judged by its R², which 1 test row cannot have: give",
        ),
    ],
)
def test_what_one_test_row_cannot_judge_is_refused_before_the_training(
    tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    np.savez(tmp_path / "d.npz", input=np.arange(100.0)[:, None], target=np.arange(100.0))
    source = NpzFile(path=tmp_path / "d.npz", task="regression")
    recipe = SHORT.model_copy(update={"data": source, "test": 0.01})
    console = _console()
    with pytest.raises(SettingError, match=said):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=console, runs=None, **asked)
    assert _said(console) == ""


def test_a_ranking_that_the_test_rows_cannot_have_is_refused_before_the_training(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input=np.arange(100.0)[:, None], target=np.eye(2, dtype=int)[np.arange(100) % 2])
    source = NpzFile(path=tmp_path / "d.npz", task="multi-label")
    recipe = SHORT.model_copy(update={"data": source, "test": 0.01})
    with pytest.raises(SettingError, match="have no roc_auc, because all or none have a label"):
        pipeline.run(recipe, models=tmp_path, device="cpu", console=_console(), runs=None, if_better="roc_auc")


def test_the_card_leaves_out_r2_of_one_test_row_and_knows_none_of_one_validation_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input=np.arange(100.0)[:, None], target=np.arange(100.0))
    source = NpzFile(path=tmp_path / "d.npz", task="regression")
    recipe = SHORT.model_copy(update={"data": source, "test": 0.01, "validation": 0.01, "baselines": True})
    console = _console()
    published = pipeline.run(recipe, models=tmp_path, device="cpu", console=console, runs=None)
    scores = json.loads((published.path / "card.json").read_text())["scores"]
    assert "test_r2" not in scores
    assert scores["validation_r2"] is None
    assert scores["test_mae"] > 0
    assert scores["validation_loss"] > 0
    assert "test mean absolute error" in _said(console)
    assert "R²" not in _said(console).partition("flowers version 1")[2]


def test_without_run_folders_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="without a folder for runs there is no checkpoint to resume from"):
        pipeline.run(IRIS, models=tmp_path, device="cpu", console=_console(), runs=None, resume=True)


def test_a_table_is_published_with_raw_rows_of_its_test_part_and_ranges_of_its_training_part(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    sizes = random.normal(size=160).round(3)
    lines = [
        f"2024-0{1 + index % 9}-11;{str(size).replace('.', ',') if index % 7 else '-999'};{'red' if size > 0 else 'blue'};{index % 2}"
        for index, size in enumerate(sizes)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["day;size;colour;y", *lines]))
    source = CsvFile(path=tmp_path / "t.csv", target="y", decimal=",", missing=("", "-999"))
    recipe = Recipe(name="t", data=source, network=Mlp(hidden=(8,)), hyperparameters=Hyperparameters(epochs=2))
    published = pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=None)
    split = data.prepare(recipe)
    told = json.loads((published.path / "card.json").read_text())["rows"]
    assert [column["name"] for column in told["columns"]] == ["day", "size", "colour"]
    assert told["missing"] == ["", "-999"]
    size = told["columns"][1]
    trained = np.asarray(split.train.inputs)[:, [column.name for column in split.dataset.columns].index("size")]
    assert (size["lowest"], size["highest"]) == (np.nanmin(trained), np.nanmax(trained))
    assert size["share_missing"] == np.isnan(trained).mean()
    with np.load(published.path / "golden.npz") as golden:
        assert -999 in golden["rows.size"]
        assert set(golden["rows.colour"]) > {"red", "blue", "Narnia", " red "}
        np.testing.assert_array_equal(golden["rows_logits"][: len(golden["logits"])], golden["logits"])


def test_a_column_whose_name_clients_cannot_send_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("input,y\n" + "1,u\n2,v\n" * 20)
    recipe = Recipe(name="t", data=CsvFile(path=tmp_path / "t.csv", target="y"), network=Mlp(hidden=(8,)))
    with pytest.raises(TrainingError, match="a column is called 'input', as the network's own input is: rename it"):
        pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=_console(), runs=None)
