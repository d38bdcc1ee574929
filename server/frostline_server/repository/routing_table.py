"""The routing table: from a request's model name and version to the version that answers.

A change builds a new table and replaces the old one as a whole, so that a lookup needs no lock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.shadow import Counts, Shadow, input_order, mismatch, other_inputs
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.routes import Routes, routes
from frostline_server.repository.unchanged import besides, keep_unchanged
from frostline_server.runtime.encoders import Encoder, meaning
from frostline_server.runtime.row_encoder import Array

Table = Mapping[tuple[str, ...], Any]
"""What requests mean: a `LoadedModel` for each (name, version), and a `Split` for (name,) where what names no version is split.

One dictionary for both, so that it can be replaced at once. Nothing a request says can be the key of a split.
"""


@dataclass(frozen=True, slots=True)
class Split:
    """A traffic split: versions that share the requests that name no version."""

    routes: Routes
    served: Mapping[int, LoadedModel]

    def choose(self, draw: float) -> LoadedModel:
        """The version for one request; `draw` is uniformly distributed in [0, 1)."""
        number = self.routes.choose(draw)
        assert number is not None, "only what is served is split"  # noqa: S101  an invariant, not a check
        return self.served[number]


def build(
    models: Iterable[tuple[str, Rollout | None, Mapping[int, LoadedModel], int | None]],
) -> tuple[Table, dict[str, Routes]]:
    """Build the table for these models.

    Args:
        models: for each its name, its rollout, its READY versions, and which of them answers while the stable version
            is being loaded; see `routes`.

    Returns:
        The table, and each model's routes.
    """
    table: dict[tuple[str, ...], Any] = {}
    found: dict[str, Routes] = {}
    for name, rollout, served, stood in models:
        found[name] = ways = routes(rollout, served, stood)
        table.update({(name, str(number)): version for number, version in served.items()})
        table.update({(name, label): served[number] for label, number in ways.labels.items()})
        if ways.split:
            table[name,] = Split(ways, served)
        elif ways.default is not None:
            table[name, ""] = table[name, "latest"] = served[ways.default]
    return table, found


@dataclass(frozen=True, slots=True)
class _Attached:
    live: LoadedModel
    candidate: LoadedModel
    shadow: Shadow | None
    problem: str


class Shadows:
    """Attaches each shadow to the live version whose traffic it copies.

    One thread at a time calls `follow`; all other methods may be called at any time.
    """

    def __init__(self) -> None:
        # Replaced as a whole, so that readers need no lock.
        self._attached: Mapping[str, _Attached] = {}

    def follow(self, pairs: Mapping[str, tuple[LoadedModel, LoadedModel]], only: str | None = None) -> None:
        """Attach exactly these shadows and detach all others; waits for the run of a detached shadow.

        Args:
            pairs: for each model the live version and its shadow.
            only: the one model whose shadow may be detached; None for any.
        """
        before = self._attached
        after = {} if only is None else besides(only, before)
        for name, (live, candidate) in pairs.items():
            old = before.get(name)
            kept = old is not None and old.live is live and old.candidate is candidate
            after[name] = old if kept and old is not None else _attach(live, candidate)
        self._attached = keep_unchanged(before, after)
        for name, attached in before.items():
            if after.get(name) is not attached and attached.shadow is not None:
                if attached.live.tap.shadow is attached.shadow:
                    attached.live.tap.shadow = None
                attached.shadow.close()

    def problem(self, name: str) -> str:
        """Why a model's shadow cannot be compared with the live version, or ""."""
        attached = self._attached.get(name)
        return attached.problem if attached else ""

    def counts(self) -> list[tuple[str, str, str, Counts]]:
        """For each shadow: the model, its version, the live version, and its counts."""
        return [
            (attached.live.name, attached.candidate.version, attached.live.version, attached.shadow.counts())
            for attached in self._attached.values()
            if attached.shadow is not None
        ]


def _attach(live: LoadedModel, candidate: LoadedModel) -> _Attached:
    ours, theirs = live.session.signature, candidate.session.signature
    problem = mismatch(ours, live.labels, theirs, candidate.labels)
    others = other_inputs(ours, theirs)
    # Where the encodings differ, equal numbers are other categories. Raw rows are encoded by each version for itself.
    alike = not others and _encoding(live) == _encoding(candidate)
    encode, columns = _raw_rows(live.encoder, candidate.encoder)
    if not problem and not alike and encode is None:
        problem = others or "its columns are not the live version's"
    if problem or theirs.heads is None:
        return _Attached(
            live,
            candidate,
            None,
            f"version {candidate.version} cannot be compared with version {live.version}: {problem}",
        )
    shadow = Shadow(
        candidate.session.run,
        (theirs.heads.logits, theirs.heads.argmax),
        input_order(ours, theirs) if alike else None,
        encode=encode,
        columns=columns,
        max_batch_size=candidate.batching.max_batch_size if theirs.batched else None,
        name=f"shadow-{candidate.name}-{candidate.version}",
    )
    shadow.start()
    live.tap.shadow = shadow
    return _Attached(live, candidate, shadow, "")


def _encoding(served: LoadedModel) -> object:
    """What the numbers of an encoded row mean."""
    return meaning(served.encoder)


def _raw_rows(
    live: Encoder | None, shadow: Encoder | None
) -> tuple[Callable[[Sequence[Array]], Sequence[Array]] | None, Sequence[int]]:
    """How a shadow encodes raw rows of the live version, and where it finds its columns; None if it cannot."""
    ours, theirs = ({spec.name: spec.datatype for spec in each.schema.specs} if each else {} for each in (live, shadow))
    if shadow is None or ours != theirs:
        return None, ()
    names = list(ours)
    return lambda columns: shadow.encode(columns)[0], [names.index(name) for name in theirs]
