"""The model registry: every version of every model with its state, and the lookup of the version that a request means.

LOADING -> READY -> UNLOADING -> UNLOADED, or FAILED with a reason; forward only.

Only the reconciler writes to it; all other threads read without a lock.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from frostline.pb import model_config_pb2
from frostline_server.errors import InvalidInput, ModelNotFound, ModelNotReady
from frostline_server.model.artifact import is_version
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.shadow import Counts
from frostline_server.model.stats import Histogram, Snapshot
from frostline_server.repository.plan import Fingerprint
from frostline_server.repository.rollout import STABLE
from frostline_server.repository.routes import Routes
from frostline_server.repository.routing_table import Shadows, Split, Table, build
from frostline_server.repository.scan import Model
from frostline_server.repository.take_back import TakenBack
from frostline_server.repository.unchanged import keep_unchanged

_MOST_LISTED = 10
"""Versions that a message names."""


@dataclass(slots=True, eq=False)
class ModelVersion:
    """One version of a model.

    Attributes:
        name: the model's name.
        version: its number, in decimal.
        path: its folder.
        config: the model's own configuration.
        fingerprint: of the files it was loaded from.
        state: LOADING, READY, UNLOADING, UNLOADED or FAILED.
        reason: why it is FAILED, or why newer files of a READY version are not served.
        served: the loaded model, from READY until it is UNLOADED.
        refused: the fingerprint of newer files that failed to load, or None.
        load_s: how long loading took.
    """

    name: str
    version: str
    path: Path
    config: model_config_pb2.ModelConfig
    fingerprint: Fingerprint = ()
    state: str = "LOADING"
    reason: str = ""
    served: LoadedModel | None = None
    refused: Fingerprint | None = None
    load_s: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether it is READY and its device passes its probe."""
        # It may be released meanwhile, so read the attribute once.
        served = self.served
        return self.state == "READY" and served is not None and not served.fault


@dataclass(frozen=True)
class LoadedSnapshot:
    """A snapshot of a loaded version and its counts.

    Attributes:
        model: the loaded model.
        load_s: how long loading took.
        ready: as in `ModelVersion`.
        stats: its totals and histograms.
    """

    model: LoadedModel
    load_s: float
    ready: bool
    stats: Snapshot

    @cached_property
    def predictions(self) -> tuple[dict[str, int], Histogram]:
        """Rows by predicted label, and the histogram of its probability; counted when first read, which may fail."""
        return self.model.predictions.counts()


@dataclass(frozen=True, slots=True)
class VersionSnapshot:
    """A snapshot of one version.

    Attributes:
        name: the model's name.
        version: its number, in decimal.
        state: as in `ModelVersion`.
        reason: as in `ModelVersion`.
        loaded: the loaded model and its counts, or None while it is not loaded.
    """

    name: str
    version: str
    state: str
    reason: str
    loaded: LoadedSnapshot | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a model's traffic is divided among its versions.

    Attributes:
        routes: which version answers which requests.
        problems: deviations from the rollout and their reasons, one sentence each.
    """

    routes: Routes
    problems: tuple[str, ...] = ()


class Repository:
    """Every version that the server knows.

    One thread at a time calls `put`, `forget` and `expect`, and one `publish` and `decided`. All other methods only read,
    from any thread, and never block.

    Args:
        draw: a number evenly distributed in [0, 1), for each request to a model whose traffic is split.
    """

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        # Each level is replaced as a whole, so that readers need no lock.
        self._versions: Mapping[str, Mapping[int, ModelVersion]] = {}
        self._ready: Table = {}
        self._traffic: Mapping[str, Traffic] = {}
        self._labels: Mapping[str, list[str]] = {}
        # By model, the version that last answered without standing in for another one.
        self._stood: Mapping[str, int] = {}
        self._shadows = Shadows()
        self._coming: Mapping[str, Set[int]] | None = None
        self.decisions: Mapping[str, Mapping[str, int]] = {}
        """By model, how many steps its rollout took of each kind; see `rollout_steps.decisions`."""
        self.taken_back: Mapping[str, TakenBack] = {}
        """By model, the canary that was taken back last, until the next step of its rollout."""
        self.answered_before = 0
        """Requests answered by versions that are UNLOADED."""

    # Versions

    def put(self, version: ModelVersion) -> None:
        """Add a version, or replace the version of the same number."""
        versions = {**self._versions.get(version.name, {}), int(version.version): version}
        self._versions = {**self._versions, version.name: versions}

    def forget(self, name: str, numbers: Iterable[int]) -> None:
        """Remove versions of a model."""
        gone = set(numbers)
        versions = {number: version for number, version in self.of(name).items() if number not in gone}
        others = {other: known for other, known in self._versions.items() if other != name}
        self._versions = {**others, name: versions} if versions else others

    def publish(self, found: Mapping[str, Model], only: str | None = None) -> None:
        """Replace the routing table, from the states of the versions and the models' rollouts.

        Args:
            found: the scanned models folder.
            only: the one model that has changed; None for any. A thousand models that are loaded one after the other would
                else take most of the time for the table.
        """
        versions = {name: known for name, known in self._versions.items() if only in (None, name)}
        served = {
            name: {
                number: loaded
                for number, version in known.items()
                if version.state == "READY" and (loaded := version.served) is not None
            }
            for name, known in versions.items()
        }
        models = {name: found.get(name) for name in served}
        ready, ways = build(
            (name, model.rollout if model else None, served[name], self._instead(name, model))
            for name, model in models.items()
        )
        if only is None:
            self._ready = keep_unchanged(self._ready, ready)
        else:
            # The keys of one model are several.
            self._ready = {**{key: value for key, value in self._ready.items() if key[0] != only}, **ready}
        stood = {name: way.default if way.steady else self._stood.get(name) for name, way in ways.items()}
        standing = {name: number for name, number in stood.items() if number is not None}
        self._stood = keep_unchanged(self._stood, standing, only)
        self._shadows.follow(
            {
                name: (served[name][way.default], served[name][way.shadow])
                for name, way in ways.items()
                if way.default is not None and way.shadow is not None
            },
            only,
        )
        traffic = {}
        for name, model in models.items():
            rollout = model.rollout if model else None
            decided = rollout.taken_back.told if rollout and rollout.taken_back else ""
            problems = (
                model.rollout_problem if model else "",
                decided,
                *ways[name].problems,
                self._shadows.problem(name),
            )
            traffic[name] = Traffic(ways[name], tuple(problem for problem in problems if problem))
        self._traffic = keep_unchanged(self._traffic, traffic, only)
        taken_back = {
            name: model.rollout.taken_back
            for name, model in found.items()
            if model.rollout and model.rollout.taken_back
        }
        self.taken_back = keep_unchanged(self.taken_back, taken_back)
        labels = {name: sorted(model.rollout.labels) for name, model in found.items() if model.rollout}
        self._labels = keep_unchanged(self._labels, labels)

    def _instead(self, name: str, model: Model | None) -> int | None:
        """The version that answered until now, for as long as the stable version may still be loaded."""
        stable = model.rollout.labels.get(STABLE) if model and model.rollout else None
        entry = None if stable is None else self.of(name).get(stable)
        return None if entry is not None and entry.state == "FAILED" else self._stood.get(name)

    def decided(self, name: str, decision: str) -> None:
        """Count a step of a model's rollout."""
        counts = self.decisions.get(name, {})
        self.decisions = {**self.decisions, name: {**counts, decision: counts.get(decision, 0) + 1}}

    def expect(self, coming: Mapping[str, Set[int]]) -> None:
        """Replace what will be loaded; before the first call, every model may be.

        Args:
            coming: numbers of versions by model; what is LOADING or FAILED already may be among them.
        """
        self._coming = coming

    # Lookups

    def get(self, name: str, version: str) -> LoadedModel:
        """The version that answers a request.

        Args:
            name: the model.
            version: a number in decimal, or a label; "" or "latest" for the stable version or, without one, the highest
                that is READY.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it exists and is not READY.
            InvalidInput: the version is neither a number nor a label.
        """
        ready = self._ready
        found: LoadedModel | None = ready.get((name, version))
        if found is None:
            split: Split | None = ready.get((name,)) if version in ("", "latest") else None
            if split is None:
                raise self._explain(name, version)
            return split.choose(self._draw())
        return found

    def _explain(self, name: str, version: str) -> Exception:
        """Why no version answers."""
        versions, expected = list(self.of(name).values()), self._coming
        coming = [str(number) for number in sorted((expected or {}).get(name, ()))]
        if not versions and not coming:
            if expected is not None:
                return ModelNotFound(f"Request for unknown model: '{name}' is not found")
            return ModelNotReady(
                f"Request for unknown model: '{name}' is not at ready state (the server starts, and has not read the models "
                "folder yet)"
            )
        labels = self._labels.get(name, [])
        if version in ("", "latest", *labels):
            coming = [entry.version for entry in versions if entry.state != "FAILED"] + coming
            if coming:
                return ModelNotReady(f"Request for unknown model: '{name}' version {coming[0]} is not at ready state")
            reasons = "; ".join(f"version {entry.version} is FAILED: {entry.reason}" for entry in versions)
            return ModelNotFound(f"Request for unknown model: '{name}' has no available versions ({reasons})")
        return self._explain_version(name, version, versions, coming, labels)

    @staticmethod
    def _explain_version(
        name: str, version: str, versions: Sequence[ModelVersion], coming: Sequence[str], labels: Sequence[str]
    ) -> Exception:
        """Why the version that a request names does not answer."""
        if not is_version(version):
            if labels:
                told = f" or a label: {', '.join(labels)}"
            else:
                served = sorted(
                    {
                        int(number)
                        for number in (*(each.version for each in versions if each.state != "FAILED"), *coming)
                    }
                )
                told = (
                    "; the model has no labels, as it has no rollout.json, which `frostline promote` writes, and it is served in "
                    + _listed(served)
                )
            # The beginning is Triton's.
            return InvalidInput(
                f"failed to get model version from specified version string '{version}' for model '{name}', "
                f"version should be an integer > 0{told}"
            )
        state = next((_state(entry) for entry in versions if entry.version == version), None)
        if state is None and version not in coming:
            return ModelNotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return ModelNotReady(
            f"Request for unknown model: '{name}' version {version} is not at ready state ({state or 'it waits to be loaded'})"
        )

    @property
    def scanned(self) -> bool:
        """Whether the models folder has been read, so that it is known which models there are."""
        return self._coming is not None

    def waiting(self) -> list[tuple[str, str]]:
        """Name and number of each version that will be loaded and is in no state yet."""
        coming = sorted((self._coming or {}).items())
        return [
            (name, str(number)) for name, numbers in coming for number in sorted(numbers) if number not in self.of(name)
        ]

    def of(self, name: str) -> Mapping[int, ModelVersion]:
        """A model's versions by number."""
        return self._versions.get(name, {})

    def names(self) -> Set[str]:
        """The names of all models that have a version."""
        return self._versions.keys()

    def versions(self, name: str = "") -> list[ModelVersion]:
        """Every version, of one model or of all, by name and number."""
        models = {name: self.of(name)} if name else self._versions
        return [version for _, versions in sorted(models.items()) for _, version in sorted(versions.items())]

    def ready_versions(self, name: str) -> list[str]:
        """Numbers of a model's ready versions, ascending."""
        return [version.version for version in self.versions(name) if version.ready]

    def snapshot(self) -> list[VersionSnapshot]:
        """A snapshot of every version, by name and number."""
        return [_snapshot(version) for version in self.versions()]

    def traffic(self, name: str) -> Traffic:
        """How a model's traffic is divided among its versions."""
        return self._traffic.get(name, Traffic(Routes(None)))

    def shadows(self) -> list[tuple[str, str, str, Counts]]:
        """For each shadow the model, its version, the live version, and what it has seen."""
        return self._shadows.counts()


def _listed(numbers: Sequence[int]) -> str:
    if not numbers:
        return "no version"
    shown = ", ".join(map(str, numbers[-_MOST_LISTED:]))
    return (
        f"{'version' if len(numbers) == 1 else 'versions'} {shown}{' and lower ones' * (len(numbers) > _MOST_LISTED)}"
    )


def _state(version: ModelVersion) -> str:
    return f"it is {version.state}{f': {version.reason}' if version.reason else ''}"


def _snapshot(version: ModelVersion) -> VersionSnapshot:
    # It may be released meanwhile, so read the attribute once.
    served = version.served
    loaded = LoadedSnapshot(served, version.load_s, version.ready, served.stats.snapshot()) if served else None
    return VersionSnapshot(version.name, version.version, version.state, version.reason, loaded)
