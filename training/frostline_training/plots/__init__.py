"""The plots of a training: learning curves, scores, the network's diagram and its mistakes.

matplotlib is imported when something is drawn, and not before.
"""

from pathlib import Path

import numpy as np
from torch import nn

from frostline_training.data import Split, take, tensors
from frostline_training.evaluation.decide import Decision
from frostline_training.evaluation.evaluate import Evaluation, device_of
from frostline_training.loop.trainer import Trained

_SAMPLE_ROWS = 2


def draw_all(
    folder: Path,
    trained: Trained,
    evaluation: Evaluation,
    split: Split,
    *,
    title: str,
    uncalibrated: Evaluation | None = None,
    decision: Decision | None = None,
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
    """
    # matplotlib takes about a second to import; only who draws needs it.
    from frostline_training.plots import diagram, masks, mistakes, scores, vectors  # noqa: PLC0415

    network, labels, task = trained.network, split.dataset.labels, split.dataset.task
    rows = take(split.test, np.arange(min(_SAMPLE_ROWS, len(split.test.targets))))
    sample, _ = tensors(rows, device_of(network))
    drawn = [folder / "network.svg", folder / "network.png"]
    diagram.draw(
        network,
        sample,
        drawn,
        title=title,
        labels={"binary": labels[1:], "embedding": ()}.get(task, labels),
        columns=[column.name for column in split.dataset.columns],
        answer=diagram.behind(task, decision),
    )
    drawn.append(
        scores.learning_curves(
            folder / "learning-curves.png", trained.history, trained.best, title, dropout=_drops(network)
        )
    )
    match evaluation.task:
        case "single-label" | "dense":
            drawn.append(scores.confusion(folder / "confusion.png", evaluation, labels, title))
        case "multi-label":
            drawn.append(scores.per_label(folder / "labels.png", evaluation, labels, title))
        case "embedding":
            drawn.append(vectors.draw(folder / "embedding.png", evaluation, labels, title))
        case "regression":
            drawn.append(scores.predicted(folder / "predictions.png", evaluation, labels, title))
    if evaluation.reliability is not None:
        drawn.append(scores.calibration(folder / "calibration.png", evaluation, uncalibrated, title))
        drawn.append(scores.class_calibration(folder / "calibration-classes.png", evaluation, labels, title))
        if "average_precision" in evaluation.scores:
            drawn.append(
                scores.precision_recall(folder / "precision-recall.png", evaluation, labels, title, decision=decision)
            )
    draw_mistakes = masks.draw if task == "dense" else mistakes.draw
    drawn.append(draw_mistakes(folder / "mistakes.png", evaluation, split, title))
    return drawn


def _drops(network: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in network.modules())  # noqa: SLF001 what all kinds of dropout have in common
