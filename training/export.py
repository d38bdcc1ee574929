"""Publish a network: freeze it, prove the file, and only then make it a version."""

import copy
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from training import artifact
from training.errors import PublishError, first_line
from training.freeze import INPUT, OPSET, OUTPUT, freeze
from training.networks import count_parameters
from training.verify import Array, HeldOut, Proof, Tolerance, check_file, check_network

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
        near_ties: Held-out rows whose two best classes are as good as equal and came out in the other order.
        rows: How many held-out rows were compared.
        accuracy: The exported file's accuracy on them, where targets were given.
    """

    name: str
    version: int
    path: Path
    sha256: str
    max_abs_difference: float
    differences: Mapping[int, float]
    near_ties: tuple[int, ...]
    rows: int
    accuracy: float | None


def publish(
    module: nn.Module,
    sample: Tensor,
    *,
    name: str,
    labels: Sequence[str] | None = None,
    models: Path | str = Path("models"),
    test: tuple[ArrayLike, ArrayLike] | None = None,
    recipe: BaseModel | Mapping[str, object] | None = None,
    scores: Mapping[str, float] | None = None,
    data: Mapping[str, object] | None = None,
    send: str | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> Published:
    """Freeze `module` to ONNX, prove that the file answers like it, and publish it as the next version of `name`.

    The module is copied first: its mode, its device and its buffers stay as they are. Normalisation belongs
    inside the module, so that clients send raw values.

    Args:
        module: Takes one tensor [N, ...] and returns float32 logits [N, C].
        sample: Real rows [N, ...], N >= 2: what the export is traced with.
        name: Letters, digits, ``.``, ``_`` and ``-``, beginning with a letter or digit.
        labels: The names of the C classes.
        models: The models folder; it is made if need be.
        test: Held-out rows: inputs [N, ...] and classes [N]. Without it the sample's rows are compared.
        recipe: How the network came to be, for the card.
        scores: What it scored, for the card.
        data: What it was trained on, for the card.
        send: What a client must send, in words, for the card.
        rtol: Relative tolerance of the comparison.
        atol: Absolute tolerance of the comparison.

    Raises:
        PublishError: The arguments do not fit together.
        RefusedError: The network or its exported file does not answer as it must. Nothing was published.
    """
    if not _NAME.fullmatch(name):
        raise PublishError(f"name {name!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit")
    tolerance = _checked_tolerance(rtol, atol)
    sample = _checked_sample(sample)
    inputs, targets = _checked_test(test, sample)
    network = _copy(module)

    held_out = check_network(network, inputs, tolerance)
    classes = held_out.logits.shape[1]
    names = None if labels is None else [str(label) for label in labels]
    if names is not None and len(names) != classes:
        raise PublishError(f"{len(names)} labels for a network with {classes} classes")
    described = _checked_json("recipe", recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else recipe)
    story = {"recipe": described, "data": _checked_json("data", data), "scores": _checked_json("scores", scores)}

    with artifact.staging(Path(models) / name) as hidden:
        file = hidden / artifact.MODEL_FILE
        freeze(network, sample, file, metadata=_metadata(name, names, described))
        proof = check_file(file, held_out, tolerance)
        golden = held_out.golden
        artifact.write_golden(hidden, inputs[golden], held_out.logits[golden], rtol=rtol, atol=atol)
        digest = artifact.sha256(file)
        card = {
            "name": name,
            "version": None,  # known when it is placed
            "labels": names,
            "sha256": digest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "input": {"name": INPUT, "dtype": str(inputs.dtype), "shape": ["batch", *inputs.shape[1:]], "send": send},
            "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", classes]},
            "parameters": count_parameters(network),
            **story,
            "export": _export_card(held_out, targets, proof, tolerance),
            "frameworks": {
                "python": platform.python_version(),
                **{package: installed(package) for package in ("torch", "onnx", "onnxscript", "numpy")},
                "onnxruntime": onnxruntime.__version__,  # its package has more than one name
            },
        }
        version, path = artifact.place(hidden, card)
    return Published(
        name=name,
        version=version,
        path=path,
        sha256=digest,
        max_abs_difference=proof.max_abs_difference,
        differences=proof.differences,
        near_ties=proof.near_ties,
        rows=len(inputs),
        accuracy=_accuracy(proof.classes, targets),
    )


def _checked_tolerance(rtol: float, atol: float) -> Tolerance:
    if not (math.isfinite(rtol) and math.isfinite(atol) and rtol >= 0 and atol >= 0):
        raise PublishError(f"tolerances rtol={rtol} and atol={atol} must be finite and not negative")
    return Tolerance(relative=rtol, absolute=atol)


def _checked_sample(sample: Tensor) -> Tensor:
    if not isinstance(sample, Tensor):
        raise PublishError(f"the sample is {type(sample).__name__}, not one tensor [N, ...]")
    if sample.ndim < 1 or len(sample) < 2:
        raise PublishError(
            f"the sample has shape {list(sample.shape)}: give at least 2 rows, or a batch of 1 is baked in"
        )
    return sample.detach().cpu().contiguous()


def _checked_test(test: tuple[ArrayLike, ArrayLike] | None, sample: Tensor) -> tuple[Array, NDArray[np.integer] | None]:
    try:
        rows = sample.numpy()
    except TypeError as error:
        raise PublishError(f"the sample is {sample.dtype}, which NumPy and clients do not have") from error
    if test is None:
        return rows, None
    inputs, targets = (np.asarray(part) for part in test)
    if inputs.ndim < 1 or inputs.shape[1:] != rows.shape[1:] or len(inputs) == 0:
        raise PublishError(f"test rows {list(inputs.shape)} do not have the sample's shape {['N', *rows.shape[1:]]}")
    if not np.can_cast(inputs.dtype, rows.dtype, "same_kind"):
        raise PublishError(f"test rows are {inputs.dtype}, the sample is {rows.dtype}")
    if targets.shape != inputs.shape[:1] or not np.issubdtype(targets.dtype, np.integer):
        raise PublishError(
            f"test targets are {targets.dtype} {list(targets.shape)}, not one whole number for each of {len(inputs)} rows"
        )
    return np.ascontiguousarray(inputs, dtype=rows.dtype), targets


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


def _metadata(name: str, labels: list[str] | None, recipe: object) -> dict[str, str]:
    values = {"labels": labels, "recipe": recipe}
    return {"frostline.name": name} | {
        f"frostline.{key}": json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None
    }


def _accuracy(classes: NDArray[np.intp], targets: NDArray[np.integer] | None) -> float | None:
    return None if targets is None else float(np.mean(classes == targets))


def _export_card(
    held_out: HeldOut, targets: NDArray[np.integer] | None, proof: Proof, tolerance: Tolerance
) -> dict[str, object]:
    return {
        "opset": OPSET,
        "rtol": tolerance.relative,
        "atol": tolerance.absolute,
        "max_abs_difference": proof.max_abs_difference,
        "golden_rows": len(held_out.golden),
        "max_abs_difference_by_batch_size": {str(size): largest for size, largest in proof.differences.items()},
        "held_out_rows": len(held_out.inputs),
        "max_abs_difference_held_out": proof.whole_difference,
        "near_ties": list(proof.near_ties),
        "accuracy": {
            "pytorch": _accuracy(held_out.logits.argmax(axis=1), targets),
            "onnxruntime": _accuracy(proof.classes, targets),
        },
    }
