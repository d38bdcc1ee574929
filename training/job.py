"""One training job: data, training, evaluation, publication."""

from pathlib import Path

import torch
from rich.console import Console

from training import data, report
from training.config import Recipe
from training.export import Published, publish
from training.trainer import choose_device, cpu_threads, evaluate, steps_per_epoch, train


def run(recipe: Recipe, *, models: Path, device: str, console: Console) -> Published:
    """Train `recipe` and publish what came out as the next version of `recipe.name` in `models`.

    Interrupting it at any time leaves nothing in `models`.

    Args:
        recipe: What to train.
        models: The models folder; it is made if need be.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        console: Where progress and the summary go.

    Raises:
        TrainingError: One clear sentence.
    """
    place = choose_device(device)
    split = data.prepare(recipe)
    report.print_start(console, recipe, split, str(place))
    epochs = recipe.hyperparameters.epochs
    with cpu_threads(recipe.threads):
        with report.LiveReport(console, epochs=epochs, steps=steps_per_epoch(recipe, split)) as watcher:
            trained = train(recipe, split, device=place, watcher=watcher)
        test = evaluate(trained.network, split.test)

        console.print("Exporting, and comparing the file with the network on the held-out rows ...")
        published = publish(
            trained.network,
            torch.from_numpy(split.test.inputs),
            name=recipe.name,
            labels=split.dataset.labels,
            models=models,
            test=split.test,
            recipe=recipe,
            scores={
                "test_accuracy": test.accuracy,
                "test_loss": test.loss,
                "validation_accuracy": trained.best.validation.accuracy,
                "validation_loss": trained.best.validation.loss,
                "best_epoch": trained.best.number,
                "epochs": len(trained.history),
                "training_seconds": round(trained.seconds, 3),
            },
            data={
                "name": split.dataset.name,
                "source": split.dataset.source,
                "rows": {
                    "train": len(split.train.targets),
                    "validation": len(split.validation.targets),
                    "test": len(split.test.targets),
                },
            },
            send=split.dataset.send,
        )
    report.print_summary(console, recipe, trained, test, published)
    return published
