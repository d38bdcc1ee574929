"""The smaller variants of a published model, float16 or int8, each measured against the original."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from frostline_training.data import INPUT, Array, Inputs, Rows, Split, evenly, named, take
from frostline_training.errors import PublishError, RefusedError, first_line
from frostline_training.evaluation.evaluate import Evaluation, Logits, predictions, score
from frostline_training.publishing import artifact, preprocessing, raw_answers, raw_rows, row_schema
from frostline_training.publishing.publish import Published
from frostline_training.publishing.quantize import LARGEST_FLOAT16, to_float16, to_int8
from frostline_training.publishing.release import release
from frostline_training.publishing.verify import WRONG_FUSIONS, Tolerance, agree

Precision = Literal["fp16", "int8"]

_BATCH_SIZES = (1, 2, 7, 64)
_GOLDEN_ROWS = 64
_CALIBRATION_ROWS = 256
# Another device may round in other places than those that were tried here, and by as much as is lost to rounding here.
_MARGIN = 2.0
_RTOL, _LEAST_ATOL = 1e-3, 1e-3
_MASK = 1e30


@dataclass(frozen=True)
class Variant:
    """A variant that now stands in the models folder as a model of its own.

    Attributes:
        name: The model's name with the precision behind it.
        version: Its new version, from 1.
        path: The version's folder.
        precision: ``fp16`` or ``int8``.
        size: Of its file, in bytes.
        full_size: Of the full-precision file, in bytes.
        score: The test score to judge by, as the variant's file answers; see `frostline_training.evaluation.evaluate`.
        full_score: The same of the full-precision file.
        disagreement: The share of test rows, or of their pixels where each has a class, that the two answer differently;
            None for a regression and an embedding.
        spread: The largest difference between the variant's own answers to a row: alone or among others, with ONNX
            Runtime's optimisations or without.
    """

    name: str
    version: int
    path: Path
    precision: Precision
    size: int
    full_size: int
    score: float
    full_score: float
    disagreement: float | None
    spread: float


@dataclass(frozen=True)
class _Measured:
    """What the variant's file answers to the test rows, and its largest difference to itself."""

    evaluation: Evaluation
    plainest: Evaluation
    spread: float


def check_bound(bound: float) -> None:
    """Check a number of points (hundredths) that a score may fall.

    Raises:
        PublishError: It is none.
    """
    if not 0 <= bound <= 100:
        raise PublishError(f"the bound is {bound} points; it must be from 0 to 100")


def check_judged(split: Split) -> None:
    """Check that the test rows can tell how far a score falls.

    Raises:
        PublishError: They cannot: the score is R2, and no target varies.
    """
    if split.dataset.task == "regression" and not np.ptp(split.test.targets, axis=0).any():
        raise PublishError(
            f"a smaller variant is judged by its R², which {len(split.test.targets)} test "
            f"row{'' if len(split.test.targets) == 1 else 's of the same target'} cannot have: give more test rows, or make no "
            "variant"
        )


def make(published: Published, precision: Precision, split: Split, *, bound: float = 0.5) -> Variant:
    """Publish the file of `published` in `precision`, as the next version of ``<name>-<precision>``.

    Inputs and outputs keep their names and types, so clients and the server need not know. The variant's golden sample
    holds its own answers: they differ from PyTorch's, and how far that may go is said by `bound`.

    Args:
        published: The full-precision file, proved against PyTorch.
        precision: ``fp16`` or ``int8``.
        split: The rows it was trained on, which int8 is calibrated with, and the test rows, which judge.
        bound: How many points (hundredths) the test score may fall.

    Raises:
        PublishError: There is no such precision, or the test rows cannot judge.
        RefusedError: The score falls further, or the file does not run. Nothing of the variant was published.
    """
    try:
        return _make(published, precision, split, bound)
    except RefusedError as error:
        kept = f"{published.name} version {published.version}, which it was to be a variant of, stays published."
        raise error.but(kept) from error


def make_each(
    published: Published, precisions: Sequence[Precision], split: Split, *, bound: float = 0.5
) -> tuple[list[Variant], list[RefusedError]]:
    """Make a variant in each of the `precisions`, as `make` does; one that is refused does not keep others from being made.

    Returns:
        What was published, and why others were not.
    """
    made: list[Variant] = []
    refused: list[RefusedError] = []
    for precision in precisions:
        try:
            made.append(make(published, precision, split, bound=bound))
        except RefusedError as error:
            refused.append(error)
    return made, refused


def _make(published: Published, precision: Precision, split: Split, bound: float) -> Variant:
    if precision not in get_args(Precision):
        raise PublishError(f"precision {precision!r} is not one of {', '.join(get_args(Precision))}")
    check_bound(bound)
    check_judged(split)
    full = published.path / artifact.MODEL_FILE
    task = split.dataset.task
    card: dict[str, Any] = json.loads((published.path / artifact.CARD_FILE).read_text(encoding="utf-8"))
    reference = score(
        _answers(_session(full), split.test.inputs, 64), split.test.targets, task, _positive(card, split.dataset.labels)
    )
    name = f"{published.name}-{precision}"
    with artifact.staging(published.path.parent.parent / name) as hidden:
        file = hidden / artifact.MODEL_FILE
        with tempfile.TemporaryDirectory() as workshop:
            model = _shrunk(full, precision, split.train, Path(workshop))
        _name(model, full, name)
        onnx.save_model(model, file)
        _check_loadable(file, name)
        measured = _measure(file, split.test, reference)
        _check(measured, reference, name, bound, partial(_why_worse, full, precision))
        golden = _golden(split.test)
        rows = take(split.test, golden)
        answers = measured.evaluation.logits[golden]
        distance = float(np.abs(answers.astype(np.float64) - reference.logits[golden]).max())
        apart = float(reference.logits.astype(np.float64).std(axis=0).max(initial=0.0))
        # In whatever unit the answers are, no more than a tenth of what tells rows apart.
        least = min(_LEAST_ATOL, apart / 10) if apart else _LEAST_ATOL
        atol = max(least, _MARGIN * max(measured.spread, distance))
        artifact.write_golden(
            hidden,
            named(rows.inputs),
            _all_answers(file, rows.inputs),
            rtol=_RTOL,
            atol=atol,
            raw=_raw_golden(published.path, hidden, atol),
        )
        told = _card(card, published, precision, full, file, reference, measured, bound, atol, split)
        # A variant is no better than its original, so where that is not live, it is not either.
        released = release(hidden, told, stage=not published.live)
    disagreement = _disagreement(measured.evaluation, reference)
    return Variant(
        name,
        released.version,
        released.path,
        precision,
        size=(released.path / artifact.MODEL_FILE).stat().st_size,
        full_size=full.stat().st_size,
        score=measured.evaluation.headline[1],
        full_score=reference.headline[1],
        disagreement=disagreement,
        spread=measured.spread,
    )


def _raw_golden(full: Path, hidden: Path, atol: float) -> dict[str, Array]:
    """Copy what encodes raw rows, and return the variant's own answers to the raw rows of the full-precision golden sample.

    Rows are left out that it does not answer steadily, such as 1e38, which float16 does not have.
    """
    told = json.loads((full / artifact.CARD_FILE).read_text(encoding="utf-8")).get("rows")
    if told is None:
        return {}
    with np.load(full / artifact.GOLDEN_FILE) as golden:
        rows = raw_answers.golden_rows(golden)
    if "file" in told:
        shutil.copyfile(full / told["file"], hidden / told["file"])
        feed = preprocessing.feed(rows, row_schema.from_card(told), told["missing"])
        (encoded,) = preprocessing.session(hidden / told["file"]).run(None, feed)
    else:
        encoded = raw_rows.encoded_golden(told, rows)
    file = hidden / artifact.MODEL_FILE
    # It has one input: the encoded rows.
    usual, plain, alone = (
        _answers(_session(file, optimised=optimised), {INPUT: encoded}, size)
        for optimised, size in ((True, 64), (False, 64), (True, 1))
    )
    steady = Tolerance(_RTOL / _MARGIN, atol / _MARGIN)
    kept = [
        index
        for index in range(len(encoded))
        if all(agree({"": other[[index]]}, {"": usual[[index]]}, steady) for other in (usual, plain, alone))
    ]
    return raw_answers.golden_arrays(raw_rows.kept_golden(told, rows, kept), _all_answers(file, {INPUT: encoded[kept]}))


def _shrunk(full: Path, precision: Precision, train: Rows, workshop: Path) -> onnx.ModelProto:
    try:
        if precision == "fp16":
            return to_float16(onnx.load(full))
        return to_int8(full, _calibration(train, _open_axes(full)), workshop)
    except Exception as error:  # two foreign converters, with exceptions of many kinds
        raise RefusedError(
            f"the file cannot be written in {precision}: {first_line(error)}",
            cause="an operator that does not exist in this precision",
        ) from error


def _check_loadable(file: Path, name: str) -> None:
    # In a process of its own: ONNX Runtime 1.31 ends the whole process on some float16 graphs instead of refusing them.
    script = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    ended = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, check=False)  # noqa: S603 our own Python and script
    if ended.returncode < 0:
        raise RefusedError(
            f"ONNX Runtime {onnxruntime.__version__} crashes when it loads {name}",
            cause="a fault in ONNX Runtime; another precision or another version of it may work",
        )


def _measure(file: Path, test: Rows, reference: Evaluation) -> _Measured:
    try:
        usual, plain = _session(file), _session(file, optimised=False)
        answers, plainest = (_answers(session, test.inputs, 64) for session in (usual, plain))
        golden = _golden(test)
        inputs = take(test, golden).inputs
        apart = [np.abs(plainest.astype(np.float64) - answers)]
        apart += [
            np.abs(_answers(session, inputs, size).astype(np.float64) - answers[golden])
            for session in (usual, plain)
            for size in _BATCH_SIZES
        ]
    except Exception as error:  # ONNX Runtime's exceptions have no class of their own in common
        raise RefusedError(
            f"ONNX Runtime cannot run the smaller file: {first_line(error)}",
            cause="an operator that it has no kernel for in this precision",
        ) from error
    task, targets, positive = reference.task, test.targets, reference.positive
    spread = max(float(np.where(np.isfinite(part), part, np.inf).max()) for part in apart)
    return _Measured(score(answers, targets, task, positive), score(plainest, targets, task, positive), spread)


def _why_worse(full: Path, precision: Precision) -> str:
    if precision == "int8":
        return "a network too sensitive for this precision; fp16 keeps more than int8"
    weights = (numpy_helper.to_array(tensor) for tensor in onnx.load(full).graph.initializer)
    # Masks are often the lowest float32; it loses nothing when it becomes the lowest float16.
    sizes = (np.abs(each[np.abs(each) < _MASK]).max(initial=0) for each in weights if each.dtype == np.float32)
    largest = float(max(sizes, default=0))
    if largest > LARGEST_FLOAT16:
        return (
            f"weights up to {largest:.3g}, and float16 ends at {LARGEST_FLOAT16:,.0f}; standardise the network's inputs, so "
            "that its weights are small, or take int8"
        )
    return f"numbers in the network that float16 cannot hold: it keeps 3 digits and ends at {LARGEST_FLOAT16:,.0f}; take int8"


def _check(measured: _Measured, reference: Evaluation, name: str, bound: float, why: Callable[[], str]) -> None:
    what, before = reference.headline
    if not np.isfinite(measured.spread):
        raise RefusedError(f"{name} answers with infinity or NaN", cause=why())
    after = min(evaluation.headline[1] for evaluation in (measured.evaluation, measured.plainest))
    # Shares of the same rows: 0.5 points must not be more than 0.5 because of the last binary digit.
    if (before - after) * 100 > bound + 1e-9:
        raise RefusedError(
            f"{name} scores {what} {after:.2%} on the test rows, {100 * (before - after):.2f} points below the "
            f"full-precision file's {before:.2%}, and {bound:g} are allowed",
            cause=why(),
        )


def _disagreement(variant: Evaluation, full: Evaluation) -> float | None:
    if full.task in ("regression", "embedding"):
        return None
    differs = predictions(variant.logits, full.task) != predictions(full.logits, full.task)
    if full.task == "dense":
        return float(differs.mean())
    return float(differs.reshape(len(differs), -1).any(axis=1).mean())


def _positive(card: Mapping[str, Any], labels: Sequence[str]) -> int | None:
    """Return which class the full-precision file's scores are about, where they are about one."""
    scores = card.get("scores")
    named = scores.get("positive") if isinstance(scores, dict) else None
    return labels.index(named) if named in labels else None


def _card(
    card: Mapping[str, Any],
    published: Published,
    precision: Precision,
    full: Path,
    file: Path,
    reference: Evaluation,
    measured: _Measured,
    bound: float,
    atol: float,
    split: Split,
) -> dict[str, object]:
    what, before = reference.headline
    after = measured.evaluation.headline[1]
    distance = np.abs(measured.evaluation.logits.astype(np.float64) - reference.logits)
    variant = {
        "of": {"name": published.name, "version": published.version, "sha256": published.sha256},
        "precision": precision,
        "bytes": file.stat().st_size,
        "full_precision_bytes": full.stat().st_size,
        "score": what,
        f"{what}": after,
        f"full_precision_{what}": before,
        "drop_points": 100 * (before - after),
        "bound_points": bound,
        "disagreement_rate": _disagreement(measured.evaluation, reference),
        "mean_abs_difference": float(distance.mean()),
        "max_abs_difference": float(distance.max()),
    }
    return {
        **card,
        "name": f"{published.name}-{precision}",
        "version": None,  # known when it is placed
        "sha256": artifact.sha256(file),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "variant": variant,
        "scores": card["scores"] | measured.evaluation.card(split.dataset.labels)
        if isinstance(card.get("scores"), dict)
        else measured.evaluation.card(split.dataset.labels),
        "export": {
            "rtol": _RTOL,
            "atol": atol,
            "golden": "the variant's own answers in ONNX Runtime on the CPU",
            "golden_rows": len(_golden(split.test)),
            "batch_sizes": list(_BATCH_SIZES),
            "held_out_rows": len(split.test.targets),
            "spread": measured.spread,
        },
    }


def _name(model: onnx.ModelProto, full: Path, name: str) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(full, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, properties | {"frostline.name": name})


def _calibration(rows: Rows, axes: Mapping[str, int]) -> list[dict[str, Array]]:
    index = evenly(len(rows.targets), _CALIBRATION_ROWS)
    chosen = named(take(rows, index).inputs)
    batches = [
        {name: array[start : start + 64] for name, array in chosen.items()} for start in range(0, len(index), 64)
    ]
    if len(chosen) != 1 or not axes:  # beside lengths of their own, rows cannot simply be cut
        return batches
    # Short sequences reach further: a mean over two steps varies more than one over a hundred.
    ((name, whole),) = chosen.items()
    steps = whole.shape[axes[name]]
    lengths = sorted({max(1, steps // share) for share in (2, 4, steps)} - {steps})
    return [*batches, *({name: batch[name].take(range(length), axes[name])} for length in lengths for batch in batches)]


def _open_axes(file: Path) -> dict[str, int]:
    # By input, the axis besides the first that takes any length.
    inputs = onnx.load(file, load_external_data=False).graph.input
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inputs}
    return {
        name: axis for name, shape in shapes.items() for axis, size in enumerate(shape) if axis > 0 and size.dim_param
    }


def _golden(test: Rows) -> NDArray[np.intp]:
    return evenly(len(test.targets), _GOLDEN_ROWS)


def _session(file: Path, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # nobody waits for a reply here
    options.log_severity_level = 4  # what goes wrong is raised; its log lines would only repeat it
    if not optimised:
        # As a device without integer or float16 kernels computes: each step by itself, rounded where the file says.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"], disabled_optimizers=WRONG_FUSIONS
    )


def _answers(session: onnxruntime.InferenceSession, inputs: Inputs, size: int) -> Logits:
    # A file of several labels has their probabilities behind the logits.
    output = session.get_outputs()[0].name
    arrays: Mapping[str, Array] = named(inputs)
    count = len(next(iter(arrays.values())))
    return np.concatenate([session.run([output], part)[0] for part in _batches(arrays, count, size)])[:count]


def _all_answers(file: Path, inputs: Inputs) -> dict[str, Array]:
    session = _session(file)
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, named(inputs)), strict=True))


def _batches(arrays: Mapping[str, Array], count: int, size: int) -> Iterator[dict[str, Array]]:
    # Every batch has exactly `size` rows: the last is filled up from the beginning.
    rows = np.arange(-(-count // size) * size) % count
    for part in rows.reshape(-1, size):
        yield {name: array[part] for name, array in arrays.items()}
