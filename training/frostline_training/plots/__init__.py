"""The plots of a training: learning curves, scores, the network's diagram and its mistakes.

matplotlib is imported when something is drawn, and not before.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from frostline_training.data import Split, take, tensors
from frostline_training.evaluation.decide import Decision
from frostline_training.evaluation.evaluate import Evaluation, device_of
from frostline_training.loop.trainer import Trained

_SAMPLE_ROWS = 2
_Picture = tuple[Sequence[Path], Callable[[], object]]  # its files, and what draws it


def draw_all(
    folder: Path,
    trained: Trained,
    evaluation: Evaluation,
    split: Split,
    *,
    title: str,
    uncalibrated: Evaluation | None = None,
    decision: Decision | None = None,
    failed: Callable[[Sequence[Path], Exception], None] | None = None,
) -> list[Path]:
    """Draw everything that there is to see into `folder`, and return the files.

    Args:
        folder: Where the card is, or will be.
        trained: The network and how it came to be.
        evaluation: Its scores on `split.test`.
        split: The rows, with what they are called.
        title: What stands above every picture.
        uncalibrated: Its scores before calibration, where there was one.
        decision: The thresholds that were chosen for it.
        failed: Is told of the files of a picture that cannot be drawn, and why; the others are drawn. Without it the error
            is raised.
    """
    drawn: list[Path] = []
    for files, draw in _pictures(folder, trained, evaluation, split, title, uncalibrated, decision):
        try:
            draw()
        except Exception as error:
            if failed is None:
                raise
            for file in files:
                file.unlink(missing_ok=True)  # half of it may be there
            failed(files, error)
        else:
            drawn += files
    return drawn


def _pictures(
    folder: Path,
    trained: Trained,
    evaluation: Evaluation,
    split: Split,
    title: str,
    uncalibrated: Evaluation | None,
    decision: Decision | None,
) -> Iterator[_Picture]:
    # matplotlib takes about a second to import; only who draws needs it.
    from frostline_training.plots import diagram, scores  # noqa: PLC0415

    def network(files: Sequence[Path]) -> None:
        labels, task = split.dataset.labels, split.dataset.task
        rows = take(split.test, np.arange(min(_SAMPLE_ROWS, len(split.test.targets))))
        sample, _ = tensors(rows, device_of(trained.network))
        diagram.draw(
            trained.network,
            sample,
            files,
            title=title,
            labels={"binary": labels[1:], "embedding": ()}.get(task, labels),
            columns=[column.name for column in split.dataset.columns],
            answer=diagram.behind(task, decision, split.dataset.heads),
        )

    files = [folder / "network.svg", folder / "network.png"]
    yield files, partial(network, files)
    curves = folder / "learning-curves.png"
    dropout = _drops(trained.network)
    yield [curves], partial(scores.learning_curves, curves, trained.history, trained.best, title, dropout=dropout)
    for number, (head, own) in enumerate(evaluation.heads, start=1):
        part = split.of_head(number - 1)
        yield from _pictures_of_scores(folder, own, part, f"{title}, {head.name}", ending=f"-{number}")
    if not evaluation.heads:
        yield from _pictures_of_scores(folder, evaluation, split, title, uncalibrated=uncalibrated, decision=decision)


def _pictures_of_scores(
    folder: Path,
    evaluation: Evaluation,
    split: Split,
    title: str,
    *,
    ending: str = "",
    uncalibrated: Evaluation | None = None,
    decision: Decision | None = None,
) -> Iterator[_Picture]:
    from frostline_training.plots import masks, mistakes, scores, vectors  # noqa: PLC0415 as above

    labels = split.dataset.labels

    def picture(name: str, draw: Callable[..., Path], *shown: object, **options: object) -> _Picture:
        file = folder / f"{name}{ending}.png"
        return [file], partial(draw, file, evaluation, *shown, title, **options)

    match evaluation.task:
        case "single-label" | "dense":
            yield picture("confusion", scores.confusion, labels)
        case "multi-label":
            yield picture("labels", scores.per_label, labels)
        case "embedding":
            yield picture("embedding", vectors.draw, labels)
        case "regression":
            yield picture("predictions", scores.predicted, labels)
    if evaluation.reliability is not None:
        yield picture("calibration", scores.calibration, uncalibrated)
        yield picture("calibration-classes", scores.class_calibration, labels)
        if "average_precision" in evaluation.scores:
            yield picture("precision-recall", scores.precision_recall, labels, decision=decision)
    yield picture("mistakes", masks.draw if evaluation.task == "dense" else mistakes.draw, split)


def _drops(network: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in network.modules())  # noqa: SLF001 what all kinds of dropout have in common
