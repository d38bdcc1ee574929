"""The training pipeline: data, training, evaluation, publication."""

import math
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from frostline_training import data, plots, report
from frostline_training.config import Recipe
from frostline_training.data import Split
from frostline_training.data.raw import check_inputs, check_outputs
from frostline_training.errors import DataError, PublishError, SettingError, TrainingError, first_line
from frostline_training.evaluation import calibrate, decide, evaluate
from frostline_training.evaluation.baselines import Baseline, baselines
from frostline_training.evaluation.decide import Decision
from frostline_training.evaluation.evaluate import Evaluation
from frostline_training.loop import checkpoint, distributed
from frostline_training.loop import runs as run_folders
from frostline_training.loop.device import cpu_threads
from frostline_training.loop.distributed import Group
from frostline_training.loop.losses import Objective, along_classes
from frostline_training.loop.progress import Epoch
from frostline_training.loop.runs import Run
from frostline_training.loop.trainer import Trained, Watcher, steps_per_epoch, train
from frostline_training.networks.heads import ByTarget
from frostline_training.publishing import artifact, gate, raw_pictures, variants
from frostline_training.publishing.calling import ByPosition
from frostline_training.publishing.gate import Gate
from frostline_training.publishing.publish import Published, check_name, checked_labels, publish
from frostline_training.publishing.variants import Precision


@dataclass(frozen=True)
class _Place:
    """Where a job finds and leaves things, and to whom it speaks."""

    models: Path
    runs: Path | None
    device: torch.device
    console: Console
    group: Group


def run(
    recipe: Recipe,
    *,
    models: Path,
    device: str,
    console: Console,
    runs: Path | None = Path("runs"),
    resume: bool = False,
    tensorboard: bool = False,
    precision: Sequence[Precision] = (),
    bound: float = 0.5,
    stage: bool = False,
    if_better: str | None = None,
) -> Published:
    """Train `recipe` and publish what came out as the next version of `recipe.name` in `models`.

    Interrupting it at any time leaves nothing in `models`. Under ``torchrun`` all processes train together; the first
    alone speaks, writes and publishes, and where it fails the others exit with 2.

    Args:
        recipe: What to train.
        models: The models folder; it is made if need be.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        console: Where progress and the summary go.
        runs: The folder of the run folders; without it there are no metrics and no checkpoints.
        resume: Go on with the newest run of `recipe.name` if it was interrupted; else start a new one.
        tensorboard: Write TensorBoard's logs into the run's folder.
        precision: Smaller variants to publish too, each as a model of its own.
        bound: How many points (hundredths) the test score of a variant may fall.
        stage: As for `publish`.
        if_better: As for `publish`.

    Raises:
        SettingError: The live version cannot be compared by this score; nothing was trained.
        TrainingError: One clear sentence.
    """
    with distributed.joined() as group:
        try:
            place = _Place(models, runs, group.device(device), console if group.leads else Console(quiet=True), group)
            _check_publishable(recipe.name, bound)
            _check_folders(models=models, runs=runs)
            split = data.prepare(recipe)
            _check_labels(split)
            check_inputs(split.dataset.inputs)  # names that clients cannot send
            raw_pictures.check_taken(split)
            check_outputs((head.name for head in split.dataset.heads), data.named(split.test.inputs))
            if split.dataset.heads:
                _check_uncompared(precision, if_better)
            elif precision:
                _check_judged(split)
            positive = decide.positive(recipe, split.dataset)  # what cannot be decided is known before the training
            condition = group.first(lambda: _gate(if_better, recipe.name, split, models, positive))
            group.first(lambda: _check_writable(models, recipe.name))
            report.print_start(place.console, recipe, split, str(place.device))
            with cpu_threads(recipe.threads), ExitStack() as stack:
                going_on, folder = group.first(lambda: _run_folder(recipe, split, place, stack, resume=resume))
                own = folder if group.leads else None
                trained = _train(recipe, split, place, own, resume=going_on, tensorboard=tensorboard)
                published, unnoted = group.first(lambda: _publish(recipe, split, trained, place, own, stage, condition))
                group.first(lambda: _publish_variants(published, split, place, precision, bound))
                if unnoted:
                    raise unnoted
        except TrainingError:
            if group.leads:
                raise
            raise SystemExit(2) from None  # the first process says why
    return published


def _check_publishable(name: str, bound: float) -> None:
    """Find out before the training, as all that follows, that its result could not be published so."""
    try:
        check_name(name)
        variants.check_bound(bound)
    except PublishError as error:
        raise SettingError(str(error)) from error


def _check_folders(**folders: Path | None) -> None:
    for name, folder in folders.items():
        if folder is not None and folder.exists() and not folder.is_dir():
            raise SettingError(f"--{name} {folder} is a file, and a folder is expected; name another one")


def _check_labels(split: Split) -> None:
    try:
        checked_labels(split.dataset.labels)
    except PublishError as error:
        raise DataError(str(error)) from error


def _check_writable(models: Path, name: str) -> None:
    with artifact.staging(models / name):
        pass


def _check_judged(split: Split) -> None:
    try:
        variants.check_judged(split)
    except PublishError as error:
        raise SettingError(f"--precision: {error}") from error


def _check_uncompared(precision: Sequence[Precision], if_better: str | None) -> None:
    for name, asked, instead in (
        (
            "if-better",
            if_better,
            "publish with --stage, compare the targets' scores in the cards, and promote the better one",
        ),
        ("precision", precision, "leave it out"),
    ):
        if asked:
            raise SettingError(
                f"--{name} compares two networks by one score, and the task any has scores of each target: {instead}"
            )


def _gate(if_better: str | None, name: str, split: Split, models: Path, positive: int | None) -> Gate | None:
    """Find out before the training that its result cannot be compared with the live version."""
    if if_better is None:
        return None
    dataset = split.dataset
    inputs = gate.tensors(data.named(split.test.inputs), dataset.dynamic)
    try:
        condition = replace(Gate.parse(if_better), positive=positive)
        gate.check(condition, models / name, dataset.task, dataset.labels, dataset.inputs or (), inputs)
        outputs = 1 if dataset.task == "binary" else len(dataset.labels)
        gate.check_targets(condition, dataset.task, split.test.targets, outputs)
    except PublishError as error:
        raise SettingError(str(error)) from error
    return condition


def _run_folder(
    recipe: Recipe, split: Split, place: _Place, stack: ExitStack, *, resume: bool
) -> tuple[bool, Run | None]:
    """Return whether a run goes on, and its folder, which is this process's until `stack` ends."""
    if place.runs is None:
        if resume:
            raise TrainingError("without a folder for runs there is no checkpoint to resume from")
        return False, None
    interrupted = run_folders.unfinished(place.runs, recipe.name) if resume else None
    if interrupted:
        stack.enter_context(interrupted.held())
        # Nothing goes on with the checkpoint of another recipe.
        checkpoint.load(interrupted.checkpoint, checkpoint.origin(recipe, split))
        place.console.print(f"Going on with {interrupted.folder}", soft_wrap=True, markup=False)
        return True, interrupted
    if resume:
        place.console.print(
            f"No run in {place.runs / recipe.name} was interrupted after an epoch: starting anew",
            soft_wrap=True,
            markup=False,
        )
    folder = run_folders.start(place.runs, recipe.name)
    stack.enter_context(folder.held())
    folder.begin(
        {
            "recipe": recipe.model_dump(mode="json"),
            "device": str(place.device),
            "processes": place.group.size,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
    )
    return False, folder


def _train(
    recipe: Recipe, split: Split, place: _Place, folder: Run | None, *, resume: bool, tensorboard: bool
) -> Trained:
    steps = steps_per_epoch(recipe, split)
    live = report.LiveReport(place.console, epochs=recipe.hyperparameters.epochs, steps=steps)
    with ExitStack() as stack:
        watchers: list[Watcher] = []
        if tensorboard and folder:
            watchers.append(stack.enter_context(run_folders.tensorboard(folder.folder / "tensorboard")))
        watchers.append(stack.enter_context(live))
        return train(
            recipe,
            split,
            device=place.device,
            watcher=_All(watchers),
            run=folder,
            resume=resume,
            group=place.group,
        )


def _publish(
    recipe: Recipe,
    split: Split,
    trained: Trained,
    place: _Place,
    run: Run | None,
    stage: bool,
    condition: Gate | None,
) -> tuple[Published, TrainingError | None]:
    """Return what was published, and why the `run` could not note it, which is to be raised at the end."""
    task, labels, heads = split.dataset.task, split.dataset.labels, split.dataset.heads
    positive = decide.positive(recipe, split.dataset)
    network = trained.network
    calibration: dict[str, object] = {}
    counted: NDArray[np.float64] | None = None
    weights = Objective.fit(
        task,
        torch.from_numpy(split.train.targets),
        classes=len(labels),
        label_smoothing=0.0,
        class_weights=recipe.hyperparameters.class_weights,
        heads=heads,
    ).weights
    if weights is not None:
        network = calibrate.Unweighted(
            network, along_classes(weights, 1 + split.train.targets.ndim if task == "dense" else 2)
        ).eval()
        # Of a binary task it is that of yes, where no counts 1.
        counted = np.concatenate([np.ones(int(task == "binary")), weights.double().numpy()])
        calibration["class_weights"] = counted.tolist()
    test = evaluate.evaluate(network, split.test, task, positive, heads)
    uncalibrated: Evaluation | None = None
    if recipe.calibrate and task not in ("regression", "embedding", "any"):
        temperature, bias = calibrate.fit(network, split.train, split.validation, task)
        network = calibrate.Calibrated(network, temperature, bias).eval()
        uncalibrated, test = test, evaluate.evaluate(network, split.test, task, positive)
        calibration |= {"temperature": temperature, "bias": bias.ravel().tolist(), "ece_before": uncalibrated.ece}
    decision: Decision | None = None
    # Nothing but the choice of a threshold needs the validation rows again.
    if decide.is_asked_for(recipe.threshold, counted, task, positive):
        validation = evaluate.evaluate(network, split.validation, task, positive)
        decision = decide.decide(recipe.threshold, validation, test, labels, counted)
    weighted = None if counted is None else decide.weighted(test, counted)
    simpler: tuple[Baseline, ...] = ()
    if recipe.baselines:
        place.console.print("Scoring simpler models on the same rows ...")
        simpler = baselines(split, seed=recipe.seed, positive=positive, dimensions=recipe.hyperparameters.dimensions)

    served = replace(trained, network=network)  # the pictures are of what is exported

    def undrawn(files: Sequence[Path], error: Exception) -> None:
        # The weights took long to learn, and are proved: a picture of them is not worth losing them for.
        place.console.print(
            f"Warning: {' and '.join(file.name for file in files)} cannot be drawn, and the version is published without: "
            f"{type(error).__name__}: {first_line(error)}",
            soft_wrap=True,
            markup=False,
        )

    def draw(folder: Path) -> None:
        plots.draw_all(
            folder,
            served,
            test,
            split,
            title=recipe.name,
            uncalibrated=uncalibrated,
            decision=decision,
            failed=undrawn,
        )

    place.console.print("Exporting, and comparing the file with the network on the held-out rows ...")
    names = list(data.named(split.test.inputs))
    exported = ByTarget(network, heads).eval() if heads else network
    held_out = split.test if split.test.cells is not None else split.test.inputs
    stopped = trained.best.validation.score
    several = split.test if len(split.test.targets) > 1 else split.train  # a sample of one row is refused
    published = publish(
        exported if len(names) == 1 else ByPosition(exported, names).eval(),
        split.train if split.train.cells is not None else data.sample(several),
        name=recipe.name,
        labels=None if task in ("embedding", "any") else labels,
        models=place.models,
        inputs=split.dataset.inputs,
        test=(held_out, None) if heads else split.test,
        task=task,
        probabilities=False,  # the families end at logits, whatever their answers
        dynamic=split.dataset.dynamic,
        recipe=recipe,
        scores={
            **test.card(labels),
            **calibration,
            **({} if decision is None else {"decision": decision.card()}),
            **({} if weighted is None else {"weighted": weighted}),
            **({"baselines": {one.name: one.card() for one in simpler}} if simpler else {}),
            f"validation_{trained.best.validation.measure}": None if math.isnan(stopped) else stopped,
            "validation_loss": trained.best.validation.loss,
            "best_epoch": trained.best.number,
            "epochs": len(trained.history),
            "training_seconds": round(trained.seconds, 3),
        },
        data=data.describe(split),
        send=split.dataset.send,
        extras=draw,
        stage=stage,
        if_better=condition,
    )
    # Before anything else, because a run that is killed before it has noted this would be published again by --resume.
    unnoted = _noted(run, published)
    report.print_summary(
        place.console,
        recipe,
        trained,
        test,
        published,
        labels=labels,
        uncalibrated=uncalibrated,
        decision=decision,
        weighted=weighted,
        simpler=simpler,
    )
    return published, unnoted


def _noted(run: Run | None, published: Published) -> TrainingError | None:
    try:
        if run:
            run.finish(published.path, version=published.version)
    except TrainingError as error:
        return TrainingError(f"version {published.version} of {published.name} is published, but {error}")
    return None


def _publish_variants(
    published: Published, split: Split, place: _Place, precision: Sequence[Precision], bound: float
) -> None:
    made, refused = variants.make_each(published, precision, split, bound=bound)
    for variant in made:
        place.console.print(
            f"{variant.name} version {variant.version}: {variant.size:,} bytes instead of {variant.full_size:,}, "
            f"test score {variant.score:.4f} instead of {variant.full_score:.4f}",
            soft_wrap=True,
            markup=False,
        )
    if refused:
        raise PublishError(" ".join(map(str, refused)))


class _All:
    """Several watchers as one."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def step(self) -> None:
        for watcher in self._watchers:
            watcher.step()

    def epoch(self, epoch: Epoch) -> None:
        for watcher in self._watchers:
            watcher.epoch(epoch)
