"""The training report: a live line while a network trains, and a table of the results."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from frostline_training.config import Recipe
from frostline_training.data import Split, overview
from frostline_training.evaluation.evaluate import Evaluation
from frostline_training.loop.progress import Epoch
from frostline_training.loop.trainer import Trained
from frostline_training.networks.families import count_parameters
from frostline_training.publishing.publish import Published
from frostline_training.sources import Task

_WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "exact_match": "share of rows with every label right",
    "loss": "loss",
    "r2": "R²",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
}
_LINES = 10  # how many epochs are printed where a live line cannot be


class LiveReport:
    """A progress bar with loss, accuracy and learning rate; plain lines where the console is not a terminal.

    Args:
        console: Where to write.
        epochs: The most there can be.
        steps: Batches per epoch.
        task: What is learnt, which decides what the scores are called.
    """

    def __init__(self, console: Console, *, epochs: int, steps: int, task: Task = "single-label") -> None:
        self._console = console
        self._learns: Task = task
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
        line = epoch_line(epoch, self._learns)
        self._progress.update(self._task, epoch=f"{epoch.number}/{self._epochs}", line=line)
        every = max(1, self._epochs // _LINES)
        if not self._console.is_terminal and (epoch.number == 1 or epoch.number % every == 0):
            self._console.print(f"epoch {epoch.number:>3}  {line}", soft_wrap=True)


def epoch_line(epoch: Epoch, task: Task = "single-label") -> str:
    """Return one epoch in one line."""
    name = {"single-label": "accuracy", "multi-label": "labels right", "regression": "R²"}[task]
    train, validation = (
        f"{scores.accuracy:.3f}" if task == "regression" else f"{scores.accuracy:.1%}"
        for scores in (epoch.train, epoch.validation)
    )
    return (
        f"loss {epoch.train.loss:.4f} {name} {train}, "
        f"validation {epoch.validation.loss:.4f} {validation}, lr {epoch.learning_rate:.0e}"
    )


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
) -> None:
    """Show what came out: scores, the proof, and where the version stands.

    Args:
        console: Where to write.
        recipe: What was trained.
        trained: How it went.
        test: The scores on the test rows.
        published: What was published.
        labels: The classes' names.
        uncalibrated: The scores before the temperature, where there is one.
    """
    table = Table(title=f"{published.name} version {published.version}", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    last = trained.history[-1]
    rows = {
        **_scores(test, labels, uncalibrated),
        "best epoch": f"{trained.best.number} (validation loss {trained.best.validation.loss:.4f}); "
        f"ended after {last.number} of at most {recipe.hyperparameters.epochs}",
        "training": f"{trained.seconds:.1f} s, {count_parameters(trained.network):,} parameters",
        "export": f"ONNX Runtime within {published.max_abs_difference:.1e} of PyTorch "
        f"in batches of {', '.join(str(size) for size in published.differences)}; "
        f"{len(published.near_ties)} near-ties",
        "sha256": published.sha256,
        "published": escape(str(published.path)),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _scores(test: Evaluation, labels: Sequence[str], uncalibrated: Evaluation | None) -> dict[str, str]:
    name, value = test.headline
    shown = f"{value:.4f}" if test.task == "regression" else f"{value:.2%}"
    rows = {f"test {_WORDS[name]}": f"[bold green]{shown}[/] of {len(test.targets)} rows never seen in training"}
    if test.interval is not None:
        what = "" if name == "accuracy" else "of rows with every label right, "
        rows["95 % interval"] = f"{what}{test.interval[0]:.2%} to {test.interval[1]:.2%}"
    others = (f"{_WORDS[other]} {number:.4f}" for other, number in list(test.scores.items())[1:])
    rows["also"] = ", ".join(others)
    if test.per_class is not None and len(test.per_class.recall):
        worst = int(test.per_class.f1.argmin())
        called = escape(labels[worst]) if labels else f"number {worst}"
        rows["weakest class"] = (
            f"{called}: precision {test.per_class.precision[worst]:.1%}, recall {test.per_class.recall[worst]:.1%}"
        )
    if test.ece is not None:
        before = f", {uncalibrated.ece:.2%} before the temperature" if uncalibrated and uncalibrated.ece else ""
        rows["calibration error"] = f"{test.ece:.2%}{before}"
    return rows
