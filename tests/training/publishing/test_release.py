"""What goes live: a version that is staged, one that is better, one that is worse, and two at once."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from frostline.cli import main as cli
from frostline.dates import written
from frostline_training.data.raw import Category, Date, Number
from frostline_training.data.rows import Column, DateOf, Image, Text
from frostline_training.errors import PublishError
from frostline_training.evaluation.compare import compare
from frostline_training.evaluation.evaluate import score
from frostline_training.publishing import artifact, gate, rollout
from frostline_training.publishing.gate import Gate
from frostline_training.publishing.publish import Published, publish
from frostline_training.publishing.release import Released, release
from tests.support import onnx_models as zoo

Array = np.ndarray[Any, Any]

CLASSES, ROWS = 3, 240
TARGETS = np.arange(ROWS) % CLASSES


def _network(wrong: int) -> onnx.ModelProto:
    """Has the class of a row right, unless its number is one of the first `wrong`; rows are (class, number)."""
    constants = {
        "zero": np.int64(0),
        "one": np.int64(1),
        "last": np.array([1]),
        "classes": np.arange(CLASSES, dtype=np.float32),
        "count": np.float32(CLASSES),
        "wrong": np.float32(wrong),
    }
    nodes = [
        helper.make_node("Gather", ["input", "zero"], ["class"], axis=1),
        helper.make_node("Gather", ["input", "one"], ["number"], axis=1),
        helper.make_node("Less", ["number", "wrong"], ["is_wrong"]),
        helper.make_node("Cast", ["is_wrong"], ["off"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["class", "off"], ["moved"]),
        helper.make_node("Mod", ["moved", "count"], ["chosen"], fmod=1),
        helper.make_node("Unsqueeze", ["chosen", "last"], ["chosen_column"]),
        helper.make_node("Sub", ["classes", "chosen_column"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "right",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _rows() -> Array:
    return np.stack([TARGETS, np.arange(ROWS)], 1).astype(np.float32)


def _answers(wrong: int) -> Array:
    chosen = (TARGETS + (np.arange(ROWS) < wrong)) % CLASSES
    return np.asarray(-np.abs(np.arange(CLASSES) - chosen[:, None]).astype(np.float32))


CARD = {
    "labels": ["a", "b", "c"],
    "task": "single-label",
    "input": {"name": "input", "shape": ["batch", 2]},
    "output": {"name": "logits"},
}


def _release(models: Path, wrong: int, condition: str = "", *, stage: bool = False) -> Released:
    """Release a network that is proved and staged, as `publish` does."""
    compared = condition and gate.scorer(
        Gate.parse(condition),
        "single-label",
        answers=_answers(wrong),
        targets=TARGETS,
        probabilities=False,
        inputs={"input": _rows()},
        raw=None,
    )
    with artifact.staging(models / "m") as hidden:
        onnx.save_model(_network(wrong), hidden / "model.onnx")
        return release(hidden, CARD, stage=stage, compared=compared or None)


def _rollout(models: Path) -> Any:
    path = models / "m" / "rollout.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_staged_version_leaves_the_live_one_live(tmp_path: Path) -> None:
    _release(tmp_path, 24)
    staged = _release(tmp_path, 0, stage=True)
    assert (staged.version, staged.live) == (2, False)
    assert staged.told == "version 2 is staged: version 1 answers"
    assert _rollout(tmp_path) == {"labels": {"stable": 1}}
    assert not _release(tmp_path, 0, stage=True).live
    assert _rollout(tmp_path) == {"labels": {"stable": 1}}


def test_a_file_or_a_number_that_no_server_takes_is_no_live_version(tmp_path: Path) -> None:
    _release(tmp_path, 24)
    (tmp_path / "m" / "7").write_text("notes")
    (tmp_path / "m" / "99999999999999999999").mkdir()
    staged = _release(tmp_path, 0, stage=True)
    assert staged.told == "version 8 is staged: version 1 answers"
    assert _rollout(tmp_path) == {"labels": {"stable": 1}}


def test_the_first_version_is_live_although_it_is_staged_and_says_so(tmp_path: Path) -> None:
    first = _release(tmp_path, 0, stage=True)
    assert (first.version, first.live, _rollout(tmp_path)) == (1, True, None)
    assert first.told == "version 1 is live; it is the first one, so there is no other that could answer"


def test_without_being_asked_the_newest_is_live_unless_another_is_stable(tmp_path: Path) -> None:
    assert _release(tmp_path, 0).live
    assert _release(tmp_path, 0).told == "version 2 is live, in place of version 1"
    assert _rollout(tmp_path) is None
    rollout.hold(tmp_path / "m")
    third = _release(tmp_path, 0)
    assert not third.live
    assert third.told == "version 3 is not live, because a version is called stable: version 2 answers"


def test_a_better_version_goes_live_and_ends_the_trial_of_any_other(tmp_path: Path) -> None:
    _release(tmp_path, 24)
    document = {
        "labels": {"stable": 1, "canary": 9, "eu": 1},
        "split": {"canary": 5},
        "shadow": 9,
        "previous": [7],
        "take_back": {"errors": 0.1},
    }
    (tmp_path / "m" / "rollout.json").write_text(json.dumps(document))
    better = _release(tmp_path, 4, "accuracy:0.05")
    assert better.live
    assert _rollout(tmp_path) == {"labels": {"stable": 2, "eu": 1}, "previous": [7, 1]}
    assert better.comparison is not None
    assert (better.comparison.live, better.comparison.new) == (216 / 240, 236 / 240)
    assert better.told.startswith(
        "version 2 is live, in place of version 1: accuracy 98.33%, the live version 90.00% on the same 240 rows: 8.33 points better "
        "(McNemar's mid-p test: p = "
    )
    assert better.told.endswith("20 rows right only now and 0 only before)")
    told = json.loads((better.path / "card.json").read_text())["comparison"]
    assert (told["version"], told["metric"], told["better"]) == (1, "accuracy", True)


@pytest.mark.parametrize(
    ("wrong", "condition", "words"),
    [
        (36, "accuracy", "5.00 points worse"),
        (24, "accuracy", "no better"),
        (23, "accuracy:0.05", "0.42 points better, and 5.00 points are wanted"),
        (23, "accuracy:0.05", "p = 0.5, 1 rows right only now and 0 only before; the difference may be chance"),
        (36, "loss", "worse (paired bootstrap"),
    ],
)
def test_a_version_that_is_not_better_is_staged(tmp_path: Path, wrong: int, condition: str, words: str) -> None:
    _release(tmp_path, 24)
    worse = _release(tmp_path, wrong, condition)
    assert not worse.live
    assert worse.told.startswith("version 2 is staged, version 1 stays live: ")
    assert words in worse.told
    assert _rollout(tmp_path) == {"labels": {"stable": 1}}


@pytest.mark.parametrize("condition", ["macro_f1", "roc_auc", "average_precision"])
def test_every_score_of_a_classifier_lets_the_better_one_live(tmp_path: Path, condition: str) -> None:
    _release(tmp_path, 60)
    assert _release(tmp_path, 2, condition).live


def test_the_first_version_is_live_because_there_is_none_to_compare_it_with(tmp_path: Path) -> None:
    first = _release(tmp_path, 200, "accuracy")
    assert first.live
    assert first.told == "version 1 is live; it is the first one, so there is none to compare it with"


def test_regressions_are_compared_by_their_errors_where_lower_is_better() -> None:
    random = np.random.default_rng(3)
    wanted = random.normal(size=(200, 1))
    noise = random.normal(size=(200, 1))
    live, new = (score((wanted + off * noise).astype(np.float32), wanted, "regression") for off in (0.5, 0.3))
    for metric in ("mae", "rmse", "r2"):
        better, worse = compare(metric, live, new), compare(metric, new, live)
        assert (better.better, worse.better, better.gain > 0) == (True, False, True)
        assert better.p_value < 0.01
    assert not compare("mae", live, new, margin=0.5).better


def test_labels_that_all_must_be_right_are_compared_row_by_row() -> None:
    wanted = np.tile([[1, 0], [0, 1]], (50, 1))
    right = np.where(wanted == 1, 3.0, -3.0).astype(np.float32)
    wrong = right.copy()
    wrong[:10, 0] *= -1
    live, new = score(wrong, wanted, "multi-label"), score(right, wanted, "multi-label")
    comparison = compare("exact_match", live, new)
    assert (comparison.live, comparison.new, comparison.better) == (0.9, 1.0, True)
    assert comparison.detail == "10 rows right only now and 0 only before"
    # Exact, two-sided: 2 * 0.5 ** 10, less half of it.
    assert comparison.p_value == pytest.approx(0.5**10)
    for metric in ("micro_f1", "average_precision", "roc_auc"):
        assert compare(metric, live, new).better


@pytest.mark.parametrize("metric", ["average_precision", "roc_auc"])
def test_many_rare_classes_are_ranked_though_no_resample_has_all_of_them(metric: str) -> None:
    random = np.random.default_rng(3)
    wanted = np.repeat(np.arange(100), 2)
    hints = 2.0 * np.eye(100)[wanted]
    live, new = (score((hints + off * random.normal(size=(200, 100))).astype(np.float32), wanted, "single-label")
                 for off in (2.0, 0.5))  # fmt: skip
    better, worse = compare(metric, live, new), compare(metric, new, live)
    assert (better.better, worse.better) == (True, False)
    assert better.p_value < 0.01
    low, high = (float(word) for word in better.detail.removeprefix("95 % interval of the difference ").split(" to "))
    assert low <= better.gain <= high


# Through publish


class Plans(nn.Module):
    """The class of a plan is its place in `PLANS`, whatever number it is encoded as; rows below `wrong` have another."""

    def __init__(self, order: list[int], wrong: int) -> None:
        super().__init__()
        self.register_buffer("classes", torch.tensor([0, *order]))
        self.register_buffer("places", torch.arange(CLASSES).float())
        self.register_buffer("wrong", torch.tensor(float(wrong)))

    def forward(self, row: Tensor) -> Tensor:
        which = self.get_buffer("classes")[row[:, 0].long()].float()
        off = (torch.nan_to_num(row[:, 1], nan=1e4) < self.get_buffer("wrong")).float()
        chosen = torch.remainder(which + off, CLASSES)
        logits: Tensor = -(self.get_buffer("places") - chosen[:, None]).abs()
        return logits


PLANS = np.array(["basic", "pro", "plus"], object)


def _publish(models: Path, order: list[int], wrong: int, **options: Any) -> Published:
    inputs = [Category("plan", [str(PLANS[at]) for at in order]), Number("number")]
    rows = {"plan": PLANS[TARGETS], "number": np.arange(ROWS)}
    network = Plans(order, wrong)
    taken: dict[str, Any] = {"labels": ("a", "b", "c"), "test": (rows, TARGETS), "inputs": inputs, **options}
    return publish(network, rows, name="m", models=models, **taken)


def test_a_live_version_with_other_categories_reads_the_raw_rows_by_its_own(tmp_path: Path) -> None:
    assert _publish(tmp_path, [0, 1, 2], 24).release == "version 1 is live"
    # By the new one's numbers of the categories the live version would have two thirds of the rows wrong.
    worse = _publish(tmp_path, [2, 0, 1], 48, if_better="accuracy")
    assert worse.comparison is not None
    assert (worse.live, worse.comparison.live, worse.comparison.new) == (False, 0.9, 0.8)
    assert _publish(tmp_path, [2, 0, 1], 0, if_better="accuracy:0.05").live
    assert _rollout(tmp_path) == {"labels": {"stable": 3}, "previous": [1]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"if_better": "acuracy"}, "there is no score 'acuracy'; there are: accuracy"),
        ({"if_better": "accuracy:much"}, "the margin of accuracy is 'much'"),
        ({"if_better": "accuracy:-1"}, "give a number of at least 0"),
        ({"if_better": "mae"}, "the task 'single-label' has no score 'mae'; it has: accuracy"),
        ({"if_better": "accuracy", "stage": True}, "exclude each other"),
        ({"if_better": "accuracy", "labels": ("a", "c", "b")}, "has other labels: a, b, c, and this one a, c, b"),
        ({"if_better": "accuracy"}, "takes other columns: none, and this one plan, number"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_changed(
    tmp_path: Path, everything_under: Callable[[Path], list[str]], options: dict[str, Any], words: str
) -> None:
    _release(tmp_path, 24)
    before = everything_under(tmp_path)
    with pytest.raises(PublishError, match=words):
        _publish(tmp_path, [0, 1, 2], 0, **options)
    assert everything_under(tmp_path) == before


def test_without_what_was_right_nothing_can_be_compared(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="nothing can be scored without held-out rows"):
        _publish(tmp_path, [0, 1, 2], 0, if_better="accuracy", test=None)
    assert list(tmp_path.iterdir()) == []


def test_a_live_version_without_a_card_or_a_damaged_rollout_is_said(tmp_path: Path) -> None:
    first = _release(tmp_path, 24)
    (first.path / "card.json").unlink()
    with pytest.raises(PublishError, match=r"card.json cannot be read .*publish without if_better"):
        _release(tmp_path, 0, "accuracy")
    (tmp_path / "m" / "rollout.json").write_text("[]")
    with pytest.raises(PublishError, match="cannot be used"):
        _release(tmp_path, 0, stage=True)


class Months(nn.Module):
    """The class of a row is its month, from 1, but for rows whose number is below `wrong`; a missing month is the first."""

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(CLASSES).float())
        self.register_buffer("wrong", torch.tensor(float(wrong)))

    def forward(self, row: Tensor) -> Tensor:
        off = (torch.nan_to_num(row[:, 1], nan=1e4) < self.get_buffer("wrong")).float()
        chosen = torch.remainder(torch.nan_to_num(row[:, 0], nan=1.0) - 1 + off, CLASSES)
        logits: Tensor = -(self.get_buffer("places") - chosen[:, None]).abs()
        return logits


def _publish_months(models: Path, form: str, wrong: int, *, day: int = 28, **options: Any) -> Published:
    days = [date(2024, 1 + month, day) for month in TARGETS]
    rows = {"day": [written(day, form) for day in days], "number": np.arange(ROWS)}
    inputs: list[Any] = [Date("day", ("month",), form), Number("number")]
    return publish(Months(wrong), rows, name="m", models=models, test=(rows, TARGETS), inputs=inputs, **options)


def test_a_live_version_is_sent_dates_as_it_reads_them(tmp_path: Path) -> None:
    _publish_months(tmp_path, "iso", 24)
    worse = _publish_months(tmp_path, "%d.%m.%Y", 48, if_better="accuracy")
    assert worse.comparison is not None
    # It can read none of the new one's dates, and takes every month that it cannot read for the first.
    assert (worse.live, worse.comparison.live, worse.comparison.new) == (False, 0.9, 0.8)


def test_a_date_that_the_live_version_cannot_read_is_not_scored_as_a_missing_one(tmp_path: Path) -> None:
    _publish_months(tmp_path, "%d.%m.", 24)
    with pytest.raises(
        PublishError, match=r"cannot be scored: it cannot read '29\.02\.', as the column 'day' is written"
    ):
        _publish_months(tmp_path, "iso", 0, day=29, if_better="accuracy")
    assert not (tmp_path / "m/2").exists()


WHEN = {"name": "when", "kind": "date", "format": "iso", "parts": [{"part": "year"}, {"part": "month"}]}


@pytest.mark.parametrize(
    ("told", "columns", "words"),
    [
        (
            {"name": "floor", "kind": "number"},
            [Column("floor", ("(unknown)", "first"))],
            "takes the column 'floor' as one of the kind 'number', and this one as 'category'",
        ),
        ({"name": "floor", "kind": "category"}, [Column("floor")], "the kind 'category', and this one as 'number'"),
        (WHEN, [Column("when")], "the kind 'date', and this one as 'number'"),
        ({"name": "words", "kind": "text"}, [Image("words", (4, 4))], "the kind 'text', and this one as 'image'"),
        (WHEN, [Column("when.day", date=DateOf("when", "%d %m", "day"))], "takes the year of the date 'when', which"),
        (WHEN, [Column("when.day", date=DateOf("when", "%Y-%m-%d", "day"))], ""),
        ({"name": "words", "kind": "text"}, [Text("words", bytes=8)], ""),
    ],
)
def test_columns_that_the_live_version_reads_otherwise_are_told_before_the_training(
    tmp_path: Path, told: dict[str, Any], columns: list[Any], words: str
) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/card.json").write_text(json.dumps({"rows": {"columns": [told], "missing": [""]}}))
    refused = pytest.raises(PublishError, match=words) if words else nullcontext()
    with refused:
        gate.check(Gate("accuracy"), tmp_path / "m", "single-label", None, columns, {})


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("float32", "takes other inputs: 'input' int64 [2], and this one 'input' float32 [2]"),
        ("uint8", "takes other inputs: 'input' int64 [2], and this one 'input' uint8 [2]"),
        ("int64", ""),
    ],
)
def test_inputs_of_another_type_are_told_before_the_training(tmp_path: Path, dtype: str, words: str) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    card = {"input": {"name": "input", "dtype": "int64", "shape": ["batch", 2]}}
    (tmp_path / "m/1/card.json").write_text(json.dumps(card))
    inputs = gate.tensors({"input": np.zeros((3, 2), dtype)}, {})
    refused = pytest.raises(PublishError, match=re.escape(words)) if words else nullcontext()
    with refused:
        gate.check(Gate("accuracy"), tmp_path / "m", "single-label", None, (), inputs)


@pytest.mark.parametrize(("task", "metric"), [("multi-label", "micro_f1"), ("regression", "mae")])
def test_targets_of_a_single_label_or_value_need_no_axis_for_it(tmp_path: Path, task: Any, metric: str) -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    wanted = (rows[:, 0] > 0).long()
    networks = [nn.Linear(4, 1), nn.Linear(4, 1)]
    for network, weight in zip(networks, (-1.0, 1.0), strict=True):
        nn.init.zeros_(network.bias)
        with torch.no_grad():
            network.weight.copy_(torch.tensor([[weight, 0, 0, 0]]))
    for network in networks:
        done = publish(
            network, rows[:8], name="m", task=task, models=tmp_path, test=(rows, wanted), labels=["a"], if_better=metric
        )
    assert done.comparison is not None
    assert (done.live, done.comparison.rows) == (True, 60)
    if task == "multi-label":
        assert (done.comparison.live, done.comparison.new) == (0.0, 1.0)


# Races


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"stage": True}, "; it is the first one, so there is no other that could answer"),
        ({"condition": "accuracy"}, "; it is the first one, so there is none to compare it with"),
    ],
)
def test_a_first_version_that_another_job_holds_at_once_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    placed = artifact.place

    def place(*arguments: Any) -> Any:
        found = placed(*arguments)
        rollout.hold(tmp_path / "m")  # as another --stage or --if-better begins
        return found

    monkeypatch.setattr(artifact, "place", place)
    first = _release(tmp_path, 0, **options)
    assert (first.version, first.live, first.told) == (1, True, f"version 1 is live{words}")
    assert _rollout(tmp_path) == {"labels": {"stable": 1}}


@pytest.mark.parametrize("condition", ["", "accuracy"])
def test_a_version_that_is_promoted_by_hand_at_once_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    _release(tmp_path, 24)
    placed = artifact.place

    def place(*arguments: Any) -> Any:
        found = placed(*arguments)
        assert rollout.promote(tmp_path / "m", 2, rollout.live(tmp_path / "m"))
        return found

    monkeypatch.setattr(artifact, "place", place)
    second = _release(tmp_path, 48, condition)
    assert second.live
    assert second.told.startswith("version 2 is live, in place of version 1")


def test_a_version_that_went_live_meanwhile_is_what_the_new_one_is_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _release(tmp_path, 48)
    placed, others = artifact.place, [10]

    def place(*arguments: Any) -> Any:
        while others:  # another training ends just now, with a better one
            assert _release(tmp_path, others.pop(), "accuracy").live
        return placed(*arguments)

    monkeypatch.setattr(artifact, "place", place)
    late = _release(tmp_path, 24, "accuracy")
    assert (late.version, late.live) == (3, False)
    assert late.told.startswith("version 3 is staged, version 2 stays live: accuracy 90.00%")
    assert _rollout(tmp_path) == {"labels": {"stable": 2}, "previous": [1]}


def test_of_two_first_trainings_at_once_the_better_one_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed, others = artifact.place, [10]

    def place(*arguments: Any) -> Any:
        while others:
            assert _release(tmp_path, others.pop(), "accuracy").live
        return placed(*arguments)

    monkeypatch.setattr(artifact, "place", place)
    late = _release(tmp_path, 24, "accuracy")
    assert (late.version, late.live) == (2, False)
    assert _rollout(tmp_path) == {"labels": {"stable": 1}}


def test_a_rollout_that_changed_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    for version in ("1", "2", "3"):
        (folder / version).mkdir(parents=True)
    before = rollout.hold(folder)
    assert before.version == 3
    assert rollout.promote(folder, 1, before)
    assert not rollout.promote(folder, 2, before)
    assert rollout.live(folder).version == 1


# Through the command


def test_train_stages_what_is_not_better_and_says_so_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(5).normal(size=(150, 4)).astype(np.float32)
    # What the live version answers is right for every row.
    np.savez(tmp_path / "rows.npz", input=rows, target=np.array(zoo.LABELS)[zoo.logits_of(rows).argmax(1)])
    zoo.write_artifact(tmp_path / "models", "points")
    (tmp_path / "recipe.py").write_text(
        "from frostline_training.config import Hyperparameters, Mlp, Recipe\n"
        "from frostline_training.sources import NpzFile\n"
        f"recipe = Recipe(name='points', data=NpzFile(path={str(tmp_path / 'rows.npz')!r}),\n"
        "    network=Mlp(hidden=(4,)), baselines=False, hyperparameters=Hyperparameters(epochs=1, batch_size=32))\n"
    )

    def train(*arguments: str) -> tuple[int, str]:
        folders = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
        code = cli.run(["train", str(tmp_path / "recipe.py"), *folders, *arguments])
        printed = capsys.readouterr()
        return code, " ".join((printed.out + printed.err).replace("│", " ").split())

    code, said = train("--stage", "--if-better", "accuracy")
    assert (code, "--stage never makes the version live" in said) == (2, True)
    card = tmp_path / "models/points/1/card.json"
    told = json.loads(card.read_text())
    card.write_text(json.dumps(told | {"input": {"name": "input", "dtype": "int64", "shape": ["batch", 4]}}))
    code, said = train("--if-better", "accuracy")
    assert (code, "takes other inputs: 'input' int64" in said, "epoch" in said) == (2, True, False)
    card.write_text(json.dumps(told))
    code, said = train("--if-better", "mae")
    assert (code, "has no score 'mae'" in said, "epoch" in said) == (2, True, False)
    code, said = train("--if-better", "accuracy")
    assert (code, "version 2 is staged, version 1 stays live: accuracy" in said) == (3, True)
    assert "the live version 100.00% on the same 30 rows" in said
    document = json.loads((tmp_path / "models/points/rollout.json").read_text())
    assert document == {"labels": {"stable": 1}}
