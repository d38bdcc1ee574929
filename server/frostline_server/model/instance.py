"""A model instance: the callable that the batcher runs.

It is a session whose predictions are counted and whose outputs have the shapes that clients see.
"""

from typing import Any

import numpy as np

from frostline_server.batching.batcher import Run
from frostline_server.model.sample_rows import RecentRow
from frostline_server.model.shadow import Tap
from frostline_server.model.stats import ModelStats
from frostline_server.runtime.session import Session
from frostline_server.runtime.signature import Signature, reshaped

Array = np.ndarray[Any, Any]


def instance_run(session: Session, stats: ModelStats, tap: Tap, recent: RecentRow) -> Run:
    """The session's run as the batcher wants it.

    Predictions are counted, outputs have the shapes that clients see, and a row is kept for the device probe when it wants one.
    """
    return _shaped(_kept(_observed(session, stats, tap), session.signature, recent), session.signature)


def _kept(run: Run, signature: Signature, recent: RecentRow) -> Run:
    """`run` that leaves a row for the device probe."""

    def kept(inputs: list[Array], wanted: tuple[str, ...]) -> list[Array]:
        outputs = run(inputs, wanted)
        if recent.wanted:
            recent.keep(inputs, signature)
        return outputs

    return kept


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

    def shaped(inputs: list[Array], wanted: tuple[str, ...]) -> list[Array]:
        return [reshape(name, array) for name, array in zip(wanted, run(inputs, wanted), strict=True)]

    return shaped


def _observed(session: Session, stats: ModelStats, tap: Tap) -> Run:
    """The session's run, with the predictions of every batch counted, and shown to a shadow, whatever its clients asked for."""
    heads = session.signature.heads
    if heads is None or not heads.confidence:
        return session.run
    watched = (heads.argmax, heads.confidence)
    plans: dict[tuple[str, ...], tuple[str, ...]] = {}
    shadow_plans: dict[tuple[str, ...], tuple[str, ...]] = {}
    dtypes = [spec.dtype for spec in session.signature.inputs]

    def run(inputs: list[Array], wanted: tuple[str, ...]) -> list[Array]:
        shadow = tap.shadow
        if shadow is None:
            names = plans.get(wanted)
            if names is None:
                names = plans[wanted] = tuple(dict.fromkeys((*wanted, *watched)))
        else:
            names = shadow_plans.get(wanted)
            if names is None:
                names = shadow_plans[wanted] = tuple(dict.fromkeys((*wanted, heads.logits, *watched)))
        outputs = session.run(inputs, names)
        argmax = outputs[names.index(heads.argmax)]
        stats.predicted(argmax, outputs[-1])
        if shadow is not None:
            # A device that casts by itself was given bytes; the shadow's may not be one.
            seen = [array.astype(dtype, copy=False) for array, dtype in zip(inputs, dtypes, strict=True)]
            shadow.offer(seen, outputs[names.index(heads.logits)], argmax)
        return outputs[: len(wanted)]

    return run
