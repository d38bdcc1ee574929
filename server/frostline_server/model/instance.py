"""A model instance: the callable that the batcher runs.

It is a session whose predictions are counted and whose outputs have the shapes that clients see.
"""

import math
import time
from functools import partial
from typing import Any, Protocol

import numpy as np

from frostline_server.batching.device import Afterwards, Run
from frostline_server.model.input_stats import InputStats
from frostline_server.model.predictions import Predictions
from frostline_server.model.sample_rows import RecentRow
from frostline_server.model.shadow import Shadow, Tap
from frostline_server.runtime.encoders import Encoder
from frostline_server.runtime.row_schema import STATES
from frostline_server.runtime.session import Session
from frostline_server.runtime.signature import Signature, reshaped

Array = np.ndarray[Any, Any]


def instance_run(
    session: Session,
    predictions: Predictions,
    tap: Tap,
    recent: RecentRow,
    encoder: Encoder | None = None,
    input_stats: InputStats | None = None,
) -> Run:
    """The session's run as the batcher wants it.

    Raw rows are encoded. Outputs have the shapes that clients see; predictions are counted and shown to a shadow afterwards;
    and a row is kept for the device probe when it wants one.
    """
    run = _observed(session, predictions, tap, recent)
    return _shaped(
        run if encoder is None else _encoded(run, encoder, input_stats, session.signature.own_outputs),
        session.signature,
    )


def _encoded(run: "_Observed", encoder: Encoder, stats: InputStats | None, own: tuple[str, ...]) -> Run:
    """`run` that also takes raw rows, whose columns have one axis; these are counted, and their states answered."""

    def encoded(inputs: list[Array], wanted: tuple[str, ...]) -> tuple[list[Array], Afterwards]:
        if inputs[0].ndim > 1:
            return run(inputs, wanted)
        numbers, states = encoder.encode(inputs)
        at = wanted.index(STATES) if STATES in wanted else None
        if at is None:
            outputs, afterwards = run(numbers, wanted, inputs)
        else:
            # Of no outputs at all, ONNX Runtime would compute every one.
            outputs, afterwards = run(numbers, (*wanted[:at], *wanted[at + 1 :]) or own[:1], inputs)
            outputs = [*outputs[:at], states, *outputs[at:]] if len(wanted) > 1 else [states]
        return outputs, afterwards if stats is None else partial(observed, stats, numbers[0], states, afterwards)

    def observed(stats: InputStats, numbers: Array, states: Array, afterwards: Afterwards) -> None:
        stats.add(numbers, states)
        if afterwards is not None:
            afterwards()

    return encoded


def _shaped(run: Run, signature: Signature) -> Run:
    """`run` with the outputs reshaped that the model's configuration reshapes."""
    shapes = {spec.name: (spec.reshape, spec.shape) for spec in signature.outputs if spec.reshape is not None}
    if not shapes:
        return run
    lead = 1 if signature.batched else 0

    def reshape(name: str, array: Array) -> Array:
        if name not in shapes:
            return array
        graph, seen = shapes[name]
        return array.reshape(array.shape[:lead] + reshaped(array.shape[lead:], graph, seen))

    def shaped(inputs: list[Array], wanted: tuple[str, ...]) -> tuple[list[Array], Afterwards]:
        outputs, afterwards = run(inputs, wanted)
        return [reshape(name, array) for name, array in zip(wanted, outputs, strict=True)], afterwards

    return shaped


class _Observed(Protocol):
    """A run that is told of the raw rows that its inputs were made of."""

    def __call__(
        self, inputs: list[Array], wanted: tuple[str, ...], raw: list[Array] | None = None, /
    ) -> tuple[list[Array], Afterwards]: ...


def _observed(session: Session, predictions: Predictions, tap: Tap, recent: RecentRow) -> _Observed:
    """The session's run; the predictions of every batch are counted, and shown to a shadow, whatever its clients asked for."""
    heads = session.signature.heads
    if heads is None or not heads.confidence:

        def unobserved(
            inputs: list[Array], wanted: tuple[str, ...], _: list[Array] | None = None, /
        ) -> tuple[list[Array], Afterwards]:
            began_s = time.monotonic() if recent.wanted else math.nan
            outputs = session.run(inputs, wanted)
            if recent.wanted:
                recent.keep(inputs, session.signature, began_s)
            return outputs, None

        return unobserved
    watched = (heads.argmax, heads.confidence)
    plans: dict[tuple[str, ...], tuple[str, ...]] = {}
    shadow_plans: dict[tuple[str, ...], tuple[str, ...]] = {}
    dtypes = [spec.dtype for spec in session.signature.inputs]
    count = predictions.add

    def run(
        inputs: list[Array], wanted: tuple[str, ...], raw: list[Array] | None = None, /
    ) -> tuple[list[Array], Afterwards]:
        shadow = tap.shadow
        if shadow is None:
            names = plans.get(wanted)
            if names is None:
                names = plans[wanted] = tuple(dict.fromkeys((*wanted, *watched)))
        else:
            names = shadow_plans.get(wanted)
            if names is None:
                names = shadow_plans[wanted] = tuple(dict.fromkeys((*wanted, heads.logits, *watched)))
        began_s = time.monotonic() if recent.wanted else math.nan
        outputs = session.run(inputs, names)
        if recent.wanted:
            recent.keep(inputs, session.signature, began_s)
        argmax, confidence = outputs[names.index(heads.argmax)], outputs[-1]
        if shadow is None:
            return outputs[: len(wanted)], partial(count, argmax, confidence)
        logits = outputs[names.index(heads.logits)]
        return outputs[: len(wanted)], partial(show, shadow, inputs, raw, logits, argmax, confidence)

    def show(
        shadow: Shadow,
        inputs: list[Array],
        raw: list[Array] | None,
        logits: Array,
        argmax: Array,
        confidence: Array,
    ) -> None:
        count(argmax, confidence)
        if raw is not None:
            # What they become is each version's own matter.
            shadow.offer(raw, logits, argmax, raw=True)
            return
        # A device that casts by itself was given bytes; the shadow's may not be one.
        seen = [array.astype(dtype, copy=False) for array, dtype in zip(inputs, dtypes, strict=True)]
        shadow.offer(seen, logits, argmax)

    return run
