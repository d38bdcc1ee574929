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
    from frostline_training.plots import diagram, scores  # noqa: PLC0415

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
        answer=diagram.behind(task, decision, split.dataset.heads),
    )
    drawn.append(
        scores.learning_curves(
            folder / "learning-curves.png", trained.history, trained.best, title, dropout=_drops(network)
        )
    )
    for number, (head, own) in enumerate(evaluation.heads, start=1):
        part = split.of_head(number - 1)
        drawn += _draw_scores(folder, own, part, f"{title}, {head.name}", ending=f"-{number}")
    if not evaluation.heads:
        drawn += _draw_scores(folder, evaluation, split, title, uncalibrated=uncalibrated, decision=decision)
    return drawn


def _draw_scores(
    folder: Path,
    evaluation: Evaluation,
    split: Split,
    title: str,
    *,
    ending: str = "",
    uncalibrated: Evaluation | None = None,
    decision: Decision | None = None,
) -> list[Path]:
    from frostline_training.plots import masks, mistakes, scores, vectors  # noqa: PLC0415 as above

    def path(name: str) -> Path:
        return folder / f"{name}{ending}.png"

    labels, drawn = split.dataset.labels, []
    match evaluation.task:
        case "single-label" | "dense":
            drawn.append(scores.confusion(path("confusion"), evaluation, labels, title))
        case "multi-label":
            drawn.append(scores.per_label(path("labels"), evaluation, labels, title))
        case "embedding":
            drawn.append(vectors.draw(path("embedding"), evaluation, labels, title))
        case "regression":
            drawn.append(scores.predicted(path("predictions"), evaluation, labels, title))
    if evaluation.reliability is not None:
        drawn.append(scores.calibration(path("calibration"), evaluation, uncalibrated, title))
        drawn.append(scores.class_calibration(path("calibration-classes"), evaluation, labels, title))
        if "average_precision" in evaluation.scores:
            drawn.append(
                scores.precision_recall(path("precision-recall"), evaluation, labels, title, decision=decision)
            )
    draw_mistakes = masks.draw if evaluation.task == "dense" else mistakes.draw
    drawn.append(draw_mistakes(path("mistakes"), evaluation, split, title))
    return drawn


def _drops(network: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in network.modules())  # noqa: SLF001 what all kinds of dropout have in common
