"""The publication of a network: export, proof, and only then a new version."""

import json
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from numpy.typing import ArrayLike
from pydantic import BaseModel
from torch import Tensor, nn

from frostline_training.data import Array, Rows
from frostline_training.data.raw import Input, RawRows
from frostline_training.errors import PublishError, first_line
from frostline_training.evaluation.compare import Comparison
from frostline_training.networks.families import count_parameters
from frostline_training.publishing import artifact, calling, gate, raw_rows, tasks
from frostline_training.publishing.calling import Caller, Sample
from frostline_training.publishing.far_rows import check_far_rows
from frostline_training.publishing.gate import Gate
from frostline_training.publishing.held_out import Test, held_out_rows
from frostline_training.publishing.onnx_export import (
    BATCH,
    OPSET,
    Axes,
    freeze,
    last_operators,
    rounded_number,
    troublesome_layer,
)
from frostline_training.publishing.raw_table import RawTable
from frostline_training.publishing.release import release
from frostline_training.publishing.tasks import TASKS, Asked, Task
from frostline_training.publishing.verify import (
    ABSOLUTE,
    Answer,
    HeldOut,
    Named,
    Proof,
    Tolerance,
    answering,
    check_file,
    check_network,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Published:
    """A version that now stands in the models folder.

    Attributes:
        name: The model's name.
        version: Its new version, from 1.
        path: The version's folder.
        sha256: Of its model.onnx, in hexadecimal.
        max_abs_difference: Largest absolute difference seen between ONNX Runtime and PyTorch.
        differences: The same on the golden rows, per batch size.
        differences_by_length: The same per length of the open axes other than the batch, as ``time=5``.
        near_ties: Held-out rows whose two best classes are as good as equal and came out in the other order.
        rows: How many held-out rows were compared.
        accuracy: The exported file's accuracy on them, where classes were given.
        task: What its outputs are, as stated or as their shapes say.
        live: Whether it answers requests that name no version.
        release: Why it does or does not, in a sentence.
        comparison: With the version that was live; None where nothing was compared.
    """

    name: str
    version: int
    path: Path
    sha256: str
    max_abs_difference: float
    differences: Mapping[int, float]
    differences_by_length: Mapping[str, float]
    near_ties: tuple[int, ...]
    rows: int
    accuracy: float | None
    task: Task = "single-label"
    live: bool = True
    release: str = ""
    comparison: Comparison | None = None


def publish(
    module: nn.Module,
    sample: Sample | RawRows | Rows,
    *,
    name: str,
    inputs: Sequence[Input] | Input | None = None,
    labels: Sequence[str] | None = None,
    models: Path | str = Path("models"),
    test: Test | tuple[RawRows, ArrayLike | None] | None = None,
    task: Task | None = None,
    probabilities: bool | None = None,
    dynamic: Axes | None = None,
    recipe: BaseModel | Mapping[str, object] | None = None,
    scores: Mapping[str, object] | None = None,
    data: Mapping[str, object] | None = None,
    send: str | None = None,
    extras: Callable[[Path], None] | None = None,
    rtol: float = 1e-4,
    atol: float = ABSOLUTE,
    stage: bool = False,
    if_better: Gate | str | None = None,
) -> Published:
    """Freeze `module` to ONNX, prove that the file answers like it, and publish it as the next version of `name`.

    The module is copied first: its mode, its device and its buffers stay as they are. Normalisation belongs
    inside the module, so that clients send raw values.

    Args:
        module: Takes tensors [N, ...] and returns a tensor [N, ...], or several in a tuple, a dict, a dataclass or a
            nesting of them.
        sample: Real rows [N, ...], N >= 2: what the export is traced with. One tensor is given to ``module(tensor)``;
            several, by the names of forward()'s arguments, to ``module(**sample)``. With `inputs`, raw rows.
        name: Letters, digits, ``.``, ``_`` and ``-``, beginning with a letter or digit.
        inputs: What each column of a table is, so that clients send raw rows; or one `Text` or one `Image`, which must then be
            the only input, so that they send texts or pictures. The module takes what `frostline.encode` makes of them:
            numbers float32 [N, F], bytes uint8 [N, T], words or tokens int64 [N, T], or pixels float32 [N, C, H, W]. `sample`
            is then the raw rows that it was trained on (see `frostline_training.data.raw.RawRows`), whose ranges and shares
            the card holds, and `test` a pair of raw rows and targets. What encodes raw rows is proved with the module.
        labels: The names of the C classes (of a binary task the two, no and yes), or of the K values.
        models: The models folder; it is made if need be.
        test: Held-out rows: inputs [N, ...] (by name where there are several) and targets, as a pair or as a loader
            that gives pairs, or dicts with one more key than there are inputs, batch by batch. The targets are None
            where there are none. Without it the sample's rows are compared.
        task: What the outputs are; see `frostline_training.publishing.tasks.Task`. None lets their shapes and the
            targets say it, and asks where these leave it open.
        probabilities: True where the network ends in a softmax or a sigmoid on purpose, so that its outputs are served
            as they are; False where its outputs are logits. None where its answers say it; it is asked for where all of
            them lie from 0 to 1.
        dynamic: Axes of inputs that may have any length, besides the first, each with a name:
            ``{"input": {1: "time"}}``. The proof runs at three lengths.
        recipe: How the network came to be, for the card.
        scores: What it scored, for the card.
        data: What it was trained on, for the card.
        send: What a client must send, in words, for the card.
        extras: Is given the staged folder once the file is proved, to write more files into it; if it fails, or changes
            those that are there, nothing is published.
        rtol: Relative tolerance of the comparison.
        atol: Absolute tolerance of the comparison. Up to 1e-5, it is for each output at most a tenth of the standard
            deviation of its numbers from row to row.
        stage: Publish it without making it live: the version that answers now goes on, and this one answers who names it.
            The first version of a model is live all the same, because no other could answer.
        if_better: Make it live only if it scores better than the live version on the rows of `test`, and stage it
            otherwise: a score of the task, as ``accuracy``, or with by how much it must be better, as ``accuracy:0.01``.

    Raises:
        PublishError: The arguments do not fit together, or the live version cannot be compared with it.
        RefusedError: The network or its exported file does not answer as it must. Nothing was published.
    """
    check_name(name)
    if task is not None and task not in TASKS:
        raise PublishError(f"there is no task {task!r}; there are: {', '.join(TASKS)}")
    if probabilities not in (None, True, False):
        raise PublishError(f"probabilities is {probabilities!r}: say True or False, or leave it out")
    as_they_are = bool(probabilities)
    condition = gate.of(if_better, stage=stage)
    tolerance = _checked_tolerance(rtol, atol)
    names = checked_labels(labels)
    original = calling.original(module)
    rows = None if inputs is None else raw_rows.of(sample, test, inputs, dynamic)
    if rows is not None:
        sample, test = raw_rows.encoded(rows, calling.arguments(original))
    tensors, call = calling.bind(original, _checked_sample(sample))
    traced = {called: tensor.detach().cpu().contiguous() for called, tensor in tensors.items()}
    dynamic = _checked_axes(dynamic or {}, traced)
    given, targets = held_out_rows(cast("Test | None", test), traced)
    network = calling.copied(original)

    columns = [column.name for column in rows.columns] if isinstance(rows, RawTable) else []
    held_out = check_network(network, given, tolerance, dynamic, call=call, single=tasks.OUTPUT, columns=columns)
    asked = tasks.settle(task, held_out.outputs, targets, names)
    if asked.task != "any":
        held_out, asked = _renamed(held_out, asked, tasks.output_name(asked.task, probabilities=as_they_are))
    answer = held_out.outputs[asked.output]
    sigmoid = tasks.adds_sigmoid(asked, probabilities=as_they_are)
    if sigmoid:
        held_out = _with_sigmoid(held_out, asked.output)
    tolerance = tolerance.scaled(held_out.outputs)
    clashing = [called for called in held_out.outputs if called in given]
    if clashing:
        raise PublishError(
            f"an input and an output are both called {clashing[0]!r}, which ONNX does not have; call one of them otherwise"
        )
    gate.check(condition, Path(models) / name, asked.task, names, raw_rows.columns(rows), gate.tensors(given, dynamic))
    described = _checked_json("recipe", recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else recipe)
    story = {"recipe": described, "data": _checked_json("data", data), "scores": _checked_json("scores", scores)}

    with artifact.staging(Path(models) / name) as hidden:
        file = hidden / artifact.MODEL_FILE
        freeze(
            network,
            traced,
            file,
            call=call,
            outputs=list(held_out.outputs),
            sigmoid=sigmoid,
            metadata=_metadata(name, names, described, asked.task, probabilities=as_they_are),
            dynamic=dynamic,
        )
        tasks.check_probabilities(asked.task, answer, last_operators(file, asked.output), stated=probabilities)
        answers = partial(_answering, call=call, outputs=held_out.outputs, label=asked.output if sigmoid else None)
        proof = _proved(file, network, answers, held_out, asked.task, tolerance, _categories(rows))
        raw = {} if rows is None else rows.freeze(hidden, network, answers, list(given), tolerance)
        golden = held_out.golden
        artifact.write_golden(
            hidden,
            {called: rows[golden] for called, rows in given.items()},
            {called: rows[golden] for called, rows in held_out.outputs.items()},
            rtol=rtol,
            atol=tolerance.loosest,
            raw=raw,
        )
        digest = artifact.sha256(file)
        card = {
            "name": name,
            "version": None,  # known when it is placed
            "labels": names,
            "sha256": digest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": asked.task,
            **_inputs_card(given, dynamic, send),
            **({} if rows is None else rows.card(hidden)),
            **_outputs_card(held_out.outputs, probabilities=as_they_are),
            "parameters": count_parameters(network),
            **story,
            "export": _export_card(held_out, asked, targets, proof, tolerance, probabilities=as_they_are),
            "frameworks": {
                "python": platform.python_version(),
                **{package: installed(package) for package in ("onnx", "onnxscript", "numpy")},
                "torch": torch.__version__,  # with the build's name, which its package may leave out
                "onnxruntime": onnxruntime.__version__,  # its package has more than one name
            },
        }
        if extras is not None:
            artifact.extend(hidden, extras)
        compared = (
            None
            if condition is None
            else gate.scorer(
                condition,
                asked.task,
                answers=proof.outputs[asked.output],
                targets=targets,
                probabilities=as_they_are,
                inputs=given,
                raw=rows,
            )
        )
        released = release(hidden, card, stage=stage, compared=compared)
    return Published(
        name=name,
        version=released.version,
        path=released.path,
        sha256=digest,
        max_abs_difference=proof.max_abs_difference,
        differences=proof.differences,
        differences_by_length=proof.differences_by_length,
        near_ties=proof.near_ties,
        rows=len(answer),
        accuracy=tasks.accuracy(asked.task, proof.outputs[asked.output], targets, probabilities=as_they_are),
        task=asked.task,
        live=released.live,
        release=released.told,
        comparison=released.comparison,
    )


def _proved(
    file: Path,
    network: nn.Module,
    answers: Callable[[nn.Module], Answer],
    held_out: HeldOut,
    task: Task,
    tolerance: Tolerance,
    categories: Sequence[int],
) -> Proof:
    """Compare the file with the network on the held-out rows, and on rows unlike them."""
    rounded = rounded_number(file)
    suspect = troublesome_layer(network) or rounded
    proof = check_file(file, held_out, tolerance, classes=task == "single-label", suspect=suspect)
    check_far_rows(
        file, network, answers, held_out.inputs, tolerance, unchanged=categories, rounded=rounded, suspect=suspect
    )
    return proof


def _categories(rows: object) -> list[int]:
    """Return the places of a table's categories, which are numbers to the network."""
    columns = rows.columns if isinstance(rows, RawTable) else ()
    return [place for place, column in enumerate(columns) if column.categories is not None]


def _with_sigmoid(held_out: HeldOut, output: str) -> HeldOut:
    """Put each label's probability beside its logit."""
    logits = held_out.outputs[output]
    return HeldOut(
        held_out.inputs,
        {**held_out.outputs, tasks.PROBABILITIES: torch.from_numpy(logits).sigmoid().numpy()},
        {length: _with_sigmoid(rows, output) for length, rows in held_out.stretched.items()},
    )


def _answering(network: nn.Module, *, call: Caller, outputs: Named, label: str | None) -> Answer:
    """Return what answers rows as `network` does, with the file's `outputs`; `label` is that of the logits of a sigmoid."""
    own = answering(network, call=call)

    def answer(rows: Named) -> Named:
        # The network's own come first, whatever it calls them.
        return dict(zip(outputs, own(rows).values(), strict=False))

    if label is None:
        return answer
    return lambda rows: _with_sigmoid(HeldOut(rows, answer(rows)), label).outputs


def _renamed(held_out: HeldOut, asked: Asked, called: str) -> tuple[HeldOut, Asked]:
    """Call the only output what its task calls it, whatever its name in a dict or dataclass: clients read it by that."""

    def renamed(rows: HeldOut) -> HeldOut:
        (only,) = rows.outputs.values()
        return HeldOut(rows.inputs, {called: only}, {length: renamed(each) for length, each in rows.stretched.items()})

    return renamed(held_out), Asked(asked.task, called, asked.classes)


def _checked_tolerance(rtol: float, atol: float) -> Tolerance:
    if not (math.isfinite(rtol) and math.isfinite(atol) and rtol >= 0 and atol >= 0):
        raise PublishError(f"tolerances rtol={rtol} and atol={atol} must be finite and not negative")
    return Tolerance(relative=rtol, absolute=atol)


def check_name(name: str) -> None:
    """Check that a model can have this name.

    Raises:
        PublishError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise PublishError(f"name {name!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit")


def checked_labels(labels: object) -> list[str] | None:
    """Return the names of classes as texts; None for None.

    Raises:
        PublishError: They are no names.
    """
    if labels is None:
        return None
    if not isinstance(labels, Sequence | np.ndarray) or isinstance(labels, str | bytes):
        raise PublishError(
            f"labels are a {type(labels).__name__}: give a list of the classes' names, in the order of the network's outputs"
        )
    for place, label in enumerate(labels):
        if not isinstance(label, str | bool | int | float | np.generic) or label != label:  # noqa: PLR0124 NaN is not
            raise PublishError(f"label {place} is {label!r}: give the name of the class as text or a number")
        if not str(label).strip():
            raise PublishError(f"label {place} is {label!r}, which nobody can read: give the name of the class")
        try:
            str(label).encode()
        except UnicodeEncodeError as error:  # such as the name of a folder that has another encoding
            raise PublishError(
                f"label {place} is {label!r}, which is no text in UTF-8: give the class another name, or rename its folder"
            ) from error
    return [str(label) for label in labels]


def _checked_sample(sample: object) -> Sample:
    tensors: dict[str, Any] = dict(sample) if isinstance(sample, Mapping) else {"": sample}
    if not tensors:
        raise PublishError("the sample is empty: give one tensor, or several by the names of forward()'s arguments")
    for name, tensor in tensors.items():
        what = f"the sample's {name!r}" if isinstance(sample, Mapping) else "the sample"
        if not isinstance(name, str):
            raise PublishError(f"the sample names {name!r}: use the names of forward()'s arguments, which are text")
        if not isinstance(tensor, Tensor):
            remedy = (
                "convert it with torch.from_numpy"
                if isinstance(tensor, np.ndarray)
                else "give several inputs as {'name': tensor, ...} by the names of forward()'s arguments"
            )
            raise PublishError(f"{what} is {type(tensor).__name__}, not one tensor [N, ...]; {remedy}")
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
            raise PublishError(f"{what} is no dense tensor with values; .to_dense() or .to_padded_tensor(0) makes one")
        if tensor.is_complex():
            raise PublishError(f"{what} is {tensor.dtype}, which clients do not have; give torch.view_as_real of it")
        if tensor.ndim < 1 or len(tensor) < 2:
            raise PublishError(
                f"{what} has shape {list(tensor.shape)}: give at least 2 rows, or a batch of 1 is baked in"
            )
        try:
            tensor[:0].detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:
            raise PublishError(f"{what} is {tensor.dtype}, which NumPy and clients do not have") from error
    counts = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(counts.values())) > 1:
        raise PublishError(f"the sample's inputs disagree on the number of rows: {counts}")
    return tensors if isinstance(sample, Mapping) else tensors[""]


def _checked_axes(dynamic: Axes, sample: Mapping[str, Tensor]) -> Axes:
    for name, axes in dynamic.items():
        if name not in sample:
            raise PublishError(f"dynamic names the input {name!r}; there are: {', '.join(sample)}")
        for axis, called in axes.items():
            if not 0 < axis < sample[name].ndim or not called.isidentifier() or called == BATCH:
                raise PublishError(
                    f"dynamic: axis {axis} called {called!r} of {name} {list(sample[name].shape)} cannot be"
                )
    return dynamic


def _checked_json(what: str, value: object) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except (TypeError, ValueError) as error:
        raise PublishError(f"{what} does not go into the card: {first_line(error)}") from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _metadata(
    name: str, labels: list[str] | None, recipe: object, task: Task, *, probabilities: bool
) -> dict[str, str]:
    values = {"labels": labels, "recipe": recipe}
    # Who reads the file takes it for a classifier unless it says otherwise.
    kind: dict[str, str] = {} if task == "single-label" else {"frostline.task": task}
    if probabilities:
        kind["frostline.output"] = "probabilities"
    return {"frostline.name": name, **kind} | {
        f"frostline.{key}": json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None
    }


def _inputs_card(inputs: Named, dynamic: Axes, send: str | None) -> dict[str, object]:
    described: list[dict[str, object]] = []
    for name, rows in inputs.items():
        axes = dynamic.get(name, {})
        shape = [BATCH, *(axes.get(axis, size) for axis, size in enumerate(rows.shape[1:], start=1))]
        described.append({"name": name, "dtype": str(rows.dtype), "shape": shape})
    if len(described) == 1:
        return {"input": {**described[0], "send": send}}
    return {"inputs": described, "send": send}


def _outputs_card(outputs: Named, *, probabilities: bool) -> dict[str, object]:
    described: list[dict[str, object]] = [
        {"name": name, "dtype": str(rows.dtype), "shape": [BATCH, *rows.shape[1:]]} for name, rows in outputs.items()
    ]
    if probabilities:
        described[0]["probabilities"] = True
    return {"output": described[0]} if len(described) == 1 else {"outputs": described}


def _export_card(
    held_out: HeldOut, asked: Asked, targets: Array | None, proof: Proof, tolerance: Tolerance, *, probabilities: bool
) -> dict[str, object]:
    def accuracy(outputs: Named) -> float | None:
        return tasks.accuracy(asked.task, outputs[asked.output], targets, probabilities=probabilities)

    return {
        "opset": OPSET,
        "rtol": tolerance.relative,
        "atol": tolerance.loosest,
        "max_abs_difference": proof.max_abs_difference,
        "golden_rows": len(held_out.golden),
        "max_abs_difference_by_batch_size": {str(size): largest for size, largest in proof.differences.items()},
        "max_abs_difference_by_length": dict(proof.differences_by_length),
        "held_out_rows": len(held_out.outputs[asked.output]),
        "max_abs_difference_held_out": proof.whole_difference,
        "near_ties": list(proof.near_ties),
        "accuracy": {
            "pytorch": accuracy(held_out.outputs),
            "onnxruntime": accuracy(proof.outputs),
        },
    }
