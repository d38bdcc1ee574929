"""The training report: a live line while a network trains, and a table of the results."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from frostline_training.config import Recipe
from frostline_training.data import Split, overview
from frostline_training.evaluation.baselines import Baseline
from frostline_training.evaluation.decide import Cut, Decision
from frostline_training.evaluation.evaluate import Evaluation
from frostline_training.loop.progress import MEASURE_NAMES, Epoch, Scores
from frostline_training.loop.trainer import Trained
from frostline_training.networks.families import count_parameters
from frostline_training.publishing.publish import Published

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "accuracy",
        "macro_f1": "macro F1",
        "micro_f1": "micro F1",
        "exact_match": "share of rows with every label right",
        "loss": "loss",
        "r2": "R²",
        "mae": "mean absolute error",
        "rmse": "root mean square error",
        "rmse_over_std": "RMSE / standard deviation",
        "mae_over_mad": "MAE / mean absolute deviation",
        "roc_auc": "ROC AUC",
        "average_precision": "average precision",
        "mean_iou": "mean IoU",
        "pixel_accuracy": "pixel accuracy",
        "recall_at_1": "recall@1",
        "map_at_r": "MAP@R",
        "mean_score": "mean score",
    }
)
"""What people call the scores of a card."""
# Of a baseline, behind its first score.
_COMPARED = ("roc_auc", "average_precision", "mae", "rmse", "pixel_accuracy", "map_at_r")
_LINES = 10  # how many epochs are printed where a live line cannot be


class LiveReport:
    """A progress bar with loss, accuracy and learning rate; plain lines where the console is not a terminal.

    Args:
        console: Where to write.
        epochs: The most there can be.
        steps: Batches per epoch.
    """

    def __init__(self, console: Console, *, epochs: int, steps: int) -> None:
        self._console = console
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}"),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._task = self._progress.add_task("", total=epochs * steps, epoch=f"1/{epochs}", line="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self) -> None:
        """Advance the bar by one batch."""
        self._progress.advance(self._task)

    def epoch(self, epoch: Epoch) -> None:
        """Show how the epoch went."""
        line = epoch_line(epoch)
        self._progress.update(self._task, epoch=f"{epoch.number}/{self._epochs}", line=line)
        every = max(1, self._epochs // _LINES)
        if not self._console.is_terminal and (epoch.number == 1 or epoch.number % every == 0):
            self._console.print(f"epoch {epoch.number:>3}  {line}", soft_wrap=True)


def epoch_line(epoch: Epoch) -> str:
    """Return one epoch in one line."""
    train, validation = map(_of_epoch, (epoch.train, epoch.validation))
    name = MEASURE_NAMES[epoch.train.measure]
    return (
        f"loss {epoch.train.loss:.4f} {name} {train}, "
        f"validation {epoch.validation.loss:.4f} {validation}, lr {epoch.learning_rate:.0e}"
    )


def _of_epoch(scores: Scores) -> str:
    if math.isnan(scores.score):
        return "undefined"
    return f"{scores.score:.3f}" if scores.measure in ("r2", "mean_score") else f"{scores.score:.1%}"


def print_start(console: Console, recipe: Recipe, split: Split, device: str) -> None:
    """Say what is about to be trained, on what."""
    console.print(
        f"[bold]{recipe.name}[/]: {recipe.network.family} on {split.dataset.name}, "
        f"{len(split.train.targets)} rows to train on, {len(split.validation.targets)} to stop by, "
        f"{len(split.test.targets)} held out; device {device}",
        soft_wrap=True,
    )
    for part in overview(split.dataset):
        console.print(part)


def print_summary(
    console: Console,
    recipe: Recipe,
    trained: Trained,
    test: Evaluation,
    published: Published,
    *,
    labels: Sequence[str] = (),
    uncalibrated: Evaluation | None = None,
    decision: Decision | None = None,
    weighted: Mapping[str, float] | None = None,
    simpler: Sequence[Baseline] = (),
) -> None:
    """Show what came out: scores, the proof, and where the version stands.

    Args:
        console: Where to write.
        recipe: What was trained.
        trained: How it went.
        test: The scores on the test rows.
        published: What was published.
        labels: The classes' names.
        uncalibrated: The scores before calibration, where there is one.
        decision: The thresholds, where the highest probability does not decide.
        weighted: What the answers by class weights score, where the most probable class is the answer in spite of them.
        simpler: The baselines, with their scores on the same rows.
    """
    table = Table(title=f"{published.name} version {published.version}", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    last = trained.history[-1]
    rows = {
        **_scores(test, labels, uncalibrated),
        **({} if decision is None else _decided(decision)),
        **({} if weighted is None else _weighted(weighted)),
        **{f"baseline: {one.name}": _compared(one) for one in simpler},
        "best epoch": f"{trained.best.number} (validation loss {trained.best.validation.loss:.4f}); "
        f"ended after {last.number} of at most {recipe.hyperparameters.epochs}",
        "training": f"{trained.seconds:.1f} s, {count_parameters(trained.network):,} parameters",
        "export": f"ONNX Runtime within {published.max_abs_difference:.1e} of PyTorch "
        f"in batches of {', '.join(str(size) for size in published.differences)}; "
        f"{len(published.near_ties)} near-ties",
        "sha256": published.sha256,
        "published": escape(str(published.path)),
        "traffic": escape(published.release),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _scores(test: Evaluation, labels: Sequence[str], uncalibrated: Evaluation | None) -> dict[str, str]:
    name, value = test.headline
    rows = {
        f"test {_words(test, name)}": f"[bold green]{_shown(test, value)}[/] of {len(test.targets)} rows never seen in training"
    }
    if test.heads:
        for head, own in test.heads:
            told = _scores(own, head.outputs, None)
            rows |= {f"{escape(head.name)}: {what}": value for what, value in told.items()}
        return rows
    if test.interval is not None:
        what = "" if name in ("accuracy", "recall_at_1") else "of rows with every label right, "
        rows["95 % interval"] = f"{what}{test.interval[0]:.2%} to {test.interval[1]:.2%}"
    rows |= _ranked(test, labels)
    others = (
        f"{WORDS[other]} {number:.4g}" if other in ("mae", "rmse") else f"{WORDS[other]} {number:.4f}"
        for other, number in list(test.scores.items())[1:]
        if other not in ("roc_auc", "average_precision")
    )
    rows["also"] = ", ".join(others)
    if test.task == "regression" and labels:
        unit = (
            f"in the unit of {labels[0]!r}" if len(labels) == 1 else "each value in its own unit, and the mean of them"
        )
        rows["also"] += f" (errors {escape(unit)})"
    if test.per_class is not None and len(test.per_class.recall):
        worst = test.per_class.weakest
        iou = "" if test.overlaps is None else f"IoU {test.overlaps.iou()[worst]:.1%}, "
        rows["weakest class"] = (
            f"{_named(labels, worst)}: {iou}precision {test.per_class.precision[worst]:.1%}, recall {test.per_class.recall[worst]:.1%}"
        )
    if test.ece is not None:
        before = f", {uncalibrated.ece:.2%} before calibration" if uncalibrated and uncalibrated.ece else ""
        rows["calibration error"] = f"{test.ece:.2%}{before}"
    each = [bins.ece for bins in test.class_reliability]
    if test.positive is not None:
        mean, share = test.probabilities[:, test.positive].mean(), np.mean(test.targets == test.positive)
        rows[f"calibration of {_named(labels, test.positive)}"] = (
            f"{each[test.positive]:.2%}; mean probability {mean:.2%}, true share {share:.2%}"
        )
    elif test.classwise_ece is not None and len(each) > 1:
        worst = int(np.argmax(each))
        rows["calibration of each class"] = (
            f"{test.classwise_ece:.2%} on average, worst {_named(labels, worst)} {each[worst]:.2%}"
        )
    return rows


def _words(test: Evaluation, name: str) -> str:
    # Of several targets without a score in common it is one of the first's own.
    for head, _ in test.heads:
        if name.startswith(f"{head.name}."):
            return f"{WORDS[name.removeprefix(f'{head.name}.')]} of {escape(head.name)}"
    return WORDS[name]


def _shown(evaluation: Evaluation, value: float) -> str:
    return f"{value:.4f}" if evaluation.task in ("regression", "any") else f"{value:.2%}"


def _named(labels: Sequence[str], index: int) -> str:
    return escape(labels[index]) if labels else f"number {index}"


def _ranked(test: Evaluation, labels: Sequence[str]) -> dict[str, str]:
    if "roc_auc" not in test.scores:
        return {}
    if test.positive is None:
        whose = "mean over the classes" if test.task == "single-label" else "mean over the labels"
    else:
        share = np.mean(test.targets == test.positive)
        whose = f"of {_named(labels, test.positive)}, which {share:.1%} of the rows have"
    scores = ", ".join(f"{WORDS[name]} {test.scores[name]:.4f}" for name in ("roc_auc", "average_precision"))
    return {"ranking": f"{scores} ({whose})"}


def _decided(decision: Decision) -> dict[str, str]:
    rule = decision.rule if isinstance(decision.rule, str) else str(decision.rule).replace("=", " ")
    if len(decision.cuts) == 1:
        return {"threshold": _cut(decision.cuts[0], rule)}
    return {"thresholds": f"one for each label; the weakest: {_cut(decision.weakest, rule)}"}


def _weighted(scores: Mapping[str, float]) -> dict[str, str]:
    told = ", ".join(f"{WORDS[name]} {value:.2%}" for name, value in scores.items())
    return {
        "class weights": "the answer is the most probable class, without the weights; by the highest probability times "
        f"weight (scores.class_weights in the card) it would have {told}"
    }


def _cut(cut: Cut, rule: str) -> str:
    missed = "" if cut.reached else "; the validation rows do not reach it"
    return (
        f"{escape(cut.label)} from a probability of {cut.threshold:.4f} on ({escape(rule)}{missed}): on the test rows "
        f"precision {cut.test.precision:.1%}, recall {cut.test.recall:.1%}, F1 {cut.test.f1:.4f}"
    )


def _compared(baseline: Baseline) -> str:
    if baseline.evaluation is None:
        return f"skipped: {escape(baseline.skipped)}"
    name, value = baseline.evaluation.headline
    first = f"{_words(baseline.evaluation, name)} {_shown(baseline.evaluation, value)}"
    others = [
        f"{WORDS[other]} {baseline.evaluation.scores[other]:.4g}"
        for other in _COMPARED
        if other in baseline.evaluation.scores and other != name
    ]
    for head, own in baseline.evaluation.heads:
        name, value = own.headline
        others.append(f"{WORDS[name]} of {escape(head.name)} {_shown(own, value)}")
    return ", ".join((first, *others))
