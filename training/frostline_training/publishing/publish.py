"""The publication of a network: export, proof, and only then a new version."""

import copy
import inspect
import json
import math
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from frostline_training.data import INPUT, Array, named
from frostline_training.errors import PublishError, first_line
from frostline_training.networks.families import count_parameters
from frostline_training.publishing import artifact
from frostline_training.publishing.onnx_export import BATCH, OPSET, OUTPUT, Axes, freeze
from frostline_training.publishing.verify import HeldOut, Named, Proof, Tolerance, check_file, check_network
from frostline_training.sources import Task

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Sample = Tensor | Mapping[str, Tensor]
Test = tuple[ArrayLike | Mapping[str, ArrayLike], ArrayLike] | Iterable[Sequence[object]]


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


def publish(
    module: nn.Module,
    sample: Sample,
    *,
    name: str,
    labels: Sequence[str] | None = None,
    models: Path | str = Path("models"),
    test: Test | None = None,
    task: Task = "single-label",
    dynamic: Axes | None = None,
    recipe: BaseModel | Mapping[str, object] | None = None,
    scores: Mapping[str, object] | None = None,
    data: Mapping[str, object] | None = None,
    send: str | None = None,
    extras: Callable[[Path], None] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> Published:
    """Freeze `module` to ONNX, prove that the file answers like it, and publish it as the next version of `name`.

    The module is copied first: its mode, its device and its buffers stay as they are. Normalisation belongs
    inside the module, so that clients send raw values.

    Args:
        module: Takes tensors [N, ...] and returns float32 logits [N, C], or values [N, K] of a regression.
        sample: Real rows [N, ...], N >= 2: what the export is traced with. Several inputs are given by the names
            of forward()'s arguments.
        name: Letters, digits, ``.``, ``_`` and ``-``, beginning with a letter or digit.
        labels: The names of the C classes, or of the K values.
        models: The models folder; it is made if need be.
        test: Held-out rows: inputs [N, ...] (by name where there are several) and targets, or a loader that gives
            both batch by batch. Without it the sample's rows are compared.
        task: What the targets are: classes [N], 0 and 1 [N, C], or values [N, K].
        dynamic: Axes of inputs that may have any length, besides the first, each with a name:
            ``{"input": {1: "time"}}``. The proof runs at three lengths.
        recipe: How the network came to be, for the card.
        scores: What it scored, for the card.
        data: What it was trained on, for the card.
        send: What a client must send, in words, for the card.
        extras: Is given the staged folder once the file is proved, to write more into it; if it fails, nothing is
            published.
        rtol: Relative tolerance of the comparison.
        atol: Absolute tolerance of the comparison.

    Raises:
        PublishError: The arguments do not fit together.
        RefusedError: The network or its exported file does not answer as it must. Nothing was published.
    """
    if not _NAME.fullmatch(name):
        raise PublishError(f"name {name!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit")
    tolerance = _checked_tolerance(rtol, atol)
    traced = _checked_sample(sample, module)
    dynamic = _checked_axes(dynamic or {}, traced)
    inputs, targets = _checked_test(test, traced, task)
    network = _copy(module)

    held_out = check_network(network, inputs, tolerance, dynamic)
    classes = held_out.logits.shape[1]
    names = None if labels is None else [str(label) for label in labels]
    if names is not None and len(names) != classes:
        raise PublishError(f"{len(names)} labels for a network with {classes} classes")
    if targets is not None and targets.ndim == 2 and targets.shape[1] != classes:
        raise PublishError(f"test targets have {targets.shape[1]} columns, and the network gives {classes}")
    described = _checked_json("recipe", recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else recipe)
    story = {"recipe": described, "data": _checked_json("data", data), "scores": _checked_json("scores", scores)}

    with artifact.staging(Path(models) / name) as hidden:
        file = hidden / artifact.MODEL_FILE
        freeze(network, traced, file, metadata=_metadata(name, names, described, task), dynamic=dynamic)
        proof = check_file(file, held_out, tolerance, classes=task == "single-label")
        golden = held_out.golden
        artifact.write_golden(
            hidden,
            {called: rows[golden] for called, rows in inputs.items()},
            held_out.logits[golden],
            rtol=rtol,
            atol=atol,
        )
        digest = artifact.sha256(file)
        card = {
            "name": name,
            "version": None,  # known when it is placed
            "labels": names,
            "sha256": digest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": task,
            **_inputs_card(inputs, dynamic, send),
            "output": {"name": OUTPUT, "dtype": "float32", "shape": [BATCH, classes]},
            "parameters": count_parameters(network),
            **story,
            "export": _export_card(held_out, targets, proof, tolerance),
            "frameworks": {
                "python": platform.python_version(),
                **{package: installed(package) for package in ("onnx", "onnxscript", "numpy")},
                "torch": torch.__version__,  # with the build's name, which its package may leave out
                "onnxruntime": onnxruntime.__version__,  # its package has more than one name
            },
        }
        if extras is not None:
            extras(hidden)
        version, path = artifact.place(hidden, card)
    return Published(
        name=name,
        version=version,
        path=path,
        sha256=digest,
        max_abs_difference=proof.max_abs_difference,
        differences=proof.differences,
        differences_by_length=proof.differences_by_length,
        near_ties=proof.near_ties,
        rows=len(held_out.logits),
        accuracy=_accuracy(proof.classes, targets),
    )


def _checked_tolerance(rtol: float, atol: float) -> Tolerance:
    if not (math.isfinite(rtol) and math.isfinite(atol) and rtol >= 0 and atol >= 0):
        raise PublishError(f"tolerances rtol={rtol} and atol={atol} must be finite and not negative")
    return Tolerance(relative=rtol, absolute=atol)


def _checked_sample(sample: object, module: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Any] = dict(sample) if isinstance(sample, Mapping) else {INPUT: sample}
    if not tensors:
        raise PublishError("the sample is empty: give one tensor, or several by the names of forward()'s arguments")
    for name, tensor in tensors.items():
        what = f"the sample's {name!r}" if isinstance(sample, Mapping) else "the sample"
        if not isinstance(tensor, Tensor):
            raise PublishError(f"{what} is {type(tensor).__name__}, not one tensor [N, ...]")
        if tensor.ndim < 1 or len(tensor) < 2:
            raise PublishError(
                f"{what} has shape {list(tensor.shape)}: give at least 2 rows, or a batch of 1 is baked in"
            )
        try:
            tensor[:0].detach().cpu().numpy()
        except TypeError as error:
            raise PublishError(f"{what} is {tensor.dtype}, which NumPy and clients do not have") from error
    counts = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(counts.values())) > 1:
        raise PublishError(f"the sample's inputs disagree on the number of rows: {counts}")
    return {name: tensors[name].detach().cpu().contiguous() for name in _in_order(tensors, module)}


def _in_order(names: Iterable[str], module: nn.Module) -> list[str]:
    # A network is called by position; where the names are those of forward(), it says which comes first.
    arguments = list(inspect.signature(getattr(module, "_orig_mod", module).forward).parameters)
    names = list(names)
    return sorted(names, key=arguments.index) if set(names) <= set(arguments) else names


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


def _checked_test(test: Test | None, sample: Mapping[str, Tensor], task: Task) -> tuple[Named, Array | None]:
    expected = {name: tensor.numpy() for name, tensor in sample.items()}
    if test is None:
        return expected, None
    given, targets = test if isinstance(test, tuple) and len(test) == 2 else _gathered(test)
    arrays = named(given) if isinstance(given, Mapping) else dict.fromkeys(list(expected)[:1], given)
    if set(arrays) != set(expected):
        raise PublishError(f"test rows have the inputs {', '.join(arrays)}, the sample has {', '.join(expected)}")
    inputs = {name: _checked_rows(np.asarray(arrays[name]), rows) for name, rows in expected.items()}
    targets = np.asarray(targets)
    count = len(next(iter(inputs.values())))
    if any(len(rows) != count for rows in inputs.values()):
        raise PublishError(
            f"test inputs disagree on the number of rows: { {name: len(rows) for name, rows in inputs.items()} }"
        )
    classes = task == "single-label"
    if classes and (targets.shape != (count,) or not np.issubdtype(targets.dtype, np.integer)):
        raise PublishError(
            f"test targets are {targets.dtype} {list(targets.shape)}, not one whole number for each of {count} rows"
        )
    if not classes and (targets.ndim != 2 or len(targets) != count):
        raise PublishError(f"test targets have shape {list(targets.shape)}, not [{count}, K], which {task} needs")
    return inputs, targets


def _checked_rows(rows: Array, expected: Array) -> Array:
    if rows.ndim < 1 or rows.shape[1:] != expected.shape[1:] or len(rows) == 0:
        raise PublishError(f"test rows {list(rows.shape)} do not have the sample's shape {['N', *expected.shape[1:]]}")
    if not np.can_cast(rows.dtype, expected.dtype, "same_kind"):
        raise PublishError(f"test rows are {rows.dtype}, the sample is {expected.dtype}")
    return np.ascontiguousarray(rows, dtype=expected.dtype)


def _gathered(loader: Iterable[Sequence[object]]) -> tuple[object, object]:
    """Put the batches of a loader together: (inputs, targets), where inputs is an array or several by name."""
    batches = [(named(inputs) if isinstance(inputs, Mapping) else {INPUT: inputs}, wanted) for inputs, wanted in loader]
    if not batches:
        raise PublishError("the test loader gives no batches")
    inputs = {name: np.concatenate([np.asarray(each[name]) for each, _ in batches]) for name in batches[0][0]}
    targets = np.concatenate([np.asarray(wanted) for _, wanted in batches])
    return (inputs[INPUT] if list(inputs) == [INPUT] else inputs), targets


def _checked_json(what: str, value: object) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except (TypeError, ValueError) as error:
        raise PublishError(f"{what} does not go into the card: {first_line(error)}") from error


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _copy(module: nn.Module) -> nn.Module:
    # A compiled module is exported as the module that was compiled; it shares its weights.
    module = getattr(module, "_orig_mod", module)
    try:
        network = copy.deepcopy(module)
    except Exception as error:  # the user's own code: anything may come out
        raise PublishError(
            f"the module cannot be copied: {first_line(error)}; copy.deepcopy(module) must work"
        ) from error
    return network.cpu().eval()


def _metadata(name: str, labels: list[str] | None, recipe: object, task: Task) -> dict[str, str]:
    values = {"labels": labels, "recipe": recipe}
    # Who reads the file takes it for a classifier unless it says otherwise.
    kind = {} if task == "single-label" else {"frostline.task": task}
    return {"frostline.name": name, **kind} | {
        f"frostline.{key}": json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None
    }


def _accuracy(classes: NDArray[np.intp], targets: Array | None) -> float | None:
    return None if targets is None or targets.ndim != 1 else float(np.mean(classes == targets))


def _inputs_card(inputs: Named, dynamic: Axes, send: str | None) -> dict[str, object]:
    described: list[dict[str, object]] = []
    for name, rows in inputs.items():
        axes = dynamic.get(name, {})
        shape = [BATCH, *(axes.get(axis, size) for axis, size in enumerate(rows.shape[1:], start=1))]
        described.append({"name": name, "dtype": str(rows.dtype), "shape": shape})
    if len(described) == 1:
        return {"input": {**described[0], "send": send}}
    return {"inputs": described, "send": send}


def _export_card(held_out: HeldOut, targets: Array | None, proof: Proof, tolerance: Tolerance) -> dict[str, object]:
    return {
        "opset": OPSET,
        "rtol": tolerance.relative,
        "atol": tolerance.absolute,
        "max_abs_difference": proof.max_abs_difference,
        "golden_rows": len(held_out.golden),
        "max_abs_difference_by_batch_size": {str(size): largest for size, largest in proof.differences.items()},
        "max_abs_difference_by_length": dict(proof.differences_by_length),
        "held_out_rows": len(held_out.logits),
        "max_abs_difference_held_out": proof.whole_difference,
        "near_ties": list(proof.near_ties),
        "accuracy": {
            "pytorch": _accuracy(held_out.logits.argmax(axis=1), targets),
            "onnxruntime": _accuracy(proof.classes, targets),
        },
    }
