"""Which versions of which models exist, the state of each, and handing out the one asked for.

    LOADING -> READY -> UNLOADING -> UNLOADED, or FAILED with a reason; forward only.

A version is READY only once it is loaded, warm, and proved against its golden sample; the one it replaces is let go
after that, and what was accepted for it is finished. If a version fails, the one before it goes on or is loaded, so
that one bad publication never takes a model away.
"""

import ctypes
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from frostline.pb import model_config_pb2
from server.errors import InvalidInput, LoadError, LoadFailed, ModelControlOff, ModelNotFound, ModelNotReady
from server.folder import Model, is_version, scan
from server.loader import Loader, Served
from server.plan import Fingerprint, Known, OnDisk, Plan, plan
from server.rollout import STABLE, Routes, wanted
from server.routing import Shadows, Split, Table, build
from server.shadow import Counts

SETTLE_S = 1.0
"""How long the files of a version that does not say what it must be have to stay as they are before it is loaded."""
_DRAIN_S = 60.0
"""How long requests that a replaced version had accepted may take; what is left then is refused."""


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
        served: what it answers with, from READY until it is UNLOADED.
        refused: the fingerprint of newer files that could not be loaded, or None.
        load_s: how long loading took.
    """

    name: str
    version: str
    path: Path
    config: model_config_pb2.ModelConfig
    fingerprint: Fingerprint = ()
    state: str = "LOADING"
    reason: str = ""
    served: Served | None = None
    refused: Fingerprint | None = None
    load_s: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether it can be relied on: it is READY, and its device answers as it should."""
        # It may be released meanwhile, so it is looked at once.
        served = self.served
        return self.state == "READY" and served is not None and not served.fault


@dataclass(frozen=True, slots=True)
class Traffic:
    """A model's versions as they share its traffic.

    Attributes:
        routes: which one answers what.
        problems: why something is not as the rollout says, one sentence each.
    """

    routes: Routes
    problems: tuple[str, ...] = ()


class Repository:
    """Every version the server knows.

    `reconcile`, `load_model`, `unload_model` and `close` block and may be called from any thread; one works at a time.
    Everything else only reads, and never waits.

    Args:
        root: the folder of models.
        loader: loads versions.
        explicit: whether models are served only when asked for, by `load_model`.
        on_change: told of each version whose state has changed, before anything further is done.
        on_warning: told of a model's name and of what in its configuration is not honoured.
        on_rollout: told of a model's name and of how its versions share its traffic, when that has changed.
        clock: seconds that only grow.
        draw: a number evenly distributed in [0, 1), for each request to a model whose traffic is split.
    """

    def __init__(
        self,
        root: Path,
        loader: Loader,
        *,
        explicit: bool = False,
        on_change: Callable[[ModelVersion], None],
        on_warning: Callable[[str, str], None],
        on_rollout: Callable[[str, Traffic], None] = lambda _name, _traffic: None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._root = root
        self._loader = loader
        self._chosen: dict[str, model_config_pb2.ModelConfig | None] | None = {} if explicit else None
        self._on_change = on_change
        self._on_warning = on_warning
        self._on_rollout = on_rollout
        self._clock = clock
        self._draw = draw
        self._working = threading.RLock()
        self._models: dict[str, Model] = {}
        # Files that were first seen, and when; None before the first look, when nobody is believed to be writing.
        self._seen: dict[tuple[str, int], tuple[Fingerprint, float]] | None = None
        # Replaced whole, level by level, so that readers need no lock.
        self._versions: dict[str, dict[int, ModelVersion]] = {}
        self._ready: Table = {}
        self._traffic: dict[str, Traffic] = {}
        self._told: dict[str, Traffic] = {}
        self._shadows = Shadows()
        self._closing = False
        self.answered_before = 0
        """Requests answered by versions that are UNLOADED."""

    # What is served, brought into line with what is on disk

    def reconcile(self) -> bool:
        """Look at the folder, and load and unload until what is served is what it asks for.

        Failures become states, never exceptions.

        Returns:
            Whether to look again soon: files were seen that may still be being written.
        """
        with self._working:
            before = self._models
            try:
                self._models = scan(self._root, before)
            except OSError as error:
                # What is served stays: a file system that is away for a moment must not take every model with it.
                self._on_warning("", f"the models folder cannot be read: {error}")
                return True
            # A change of who answers does not wait for what is to be loaded.
            self._publish()
            for name in sorted({*self._models, *self._versions}):
                self._warn(self._models.get(name), before.get(name))
                while self._step(name):
                    pass
            self._publish()
            self._tell()
            if self._seen is None:
                self._seen = {}
            present = {(name, number) for name, model in self._models.items() for number in model.versions}
            self._seen = {key: seen for key, seen in self._seen.items() if key in present}
            return any([not self._settled(self._models[name], number) for name, number in present])

    def _settled(self, model: Model, number: int) -> bool:
        """Whether a version's files are all there: it says itself what it must be, or has not changed for a while."""
        if self._seen is None or self._chosen is not None:
            return True
        files, now = model.versions[number], self._clock()
        if {"card.json", "golden.npz"} <= {Path(path).name for path, *_ in files}:
            return True
        seen, since_s = self._seen.setdefault((model.name, number), (files, now))
        if seen != files:
            self._seen[model.name, number] = files, now
            return False
        return now - since_s >= SETTLE_S

    def load_model(
        self, name: str, config: model_config_pb2.ModelConfig | None = None, warnings: Iterable[str] = ()
    ) -> None:
        """Serve a model from now on; one that is served already is loaded anew if its files or `config` have changed.

        Args:
            name: the model.
            config: used instead of its config.pbtxt, if given.
            warnings: of what in `config` is not honoured.

        Raises:
            ModelControlOff: models are not loaded by request here.
            ModelNotFound: it has no folder.
            LoadFailed: its newest version cannot be served; the message says what is served instead.
        """
        with self._working:
            if self._chosen is None:
                raise ModelControlOff("explicit model load / unload is not allowed if polling is enabled")
            self._models = scan(self._root, self._models)
            if name not in self._models:
                raise ModelNotFound(
                    f"failed to load '{name}', failed to poll from model repository: it has no such model"
                )
            self._chosen[name] = config
            for warning in warnings:
                self._on_warning(name, warning)
            # Asked again, a version that failed gets another chance.
            self._forget(name, [int(version.version) for version in self.versions(name) if version.state == "FAILED"])
            for version in self.versions(name):
                version.refused, version.reason = None, ""
            while self._step(name):
                pass
            self._publish()
            self._tell()
            refused = {version.version: version.reason for version in self.versions(name) if version.reason}
            if refused:
                ready = ", ".join(self.ready_versions(name)) or "none"
                reasons = "; ".join(f"version {version}: {reason}" for version, reason in refused.items())
                raise LoadFailed(f"failed to load '{name}', {reasons} (ready versions: {ready})")

    def unload_model(self, name: str) -> None:
        """Serve a model no more; returns when what it had accepted is answered.

        Raises:
            ModelControlOff: models are not unloaded by request here.
            ModelNotFound: it is not served.
        """
        with self._working:
            if self._chosen is None:
                raise ModelControlOff("explicit model load / unload is not allowed if polling is enabled")
            if name not in self._chosen:
                raise ModelNotFound(f"failed to unload '{name}': it is not loaded")
            del self._chosen[name]
            while self._step(name):
                pass

    def _step(self, name: str) -> bool:
        """Do what is next for one model; False when there is nothing."""
        if self._closing:
            return False
        model = self._models.get(name)
        on_disk, known = self._on_disk(name), self._versions.get(name, {})
        if model is not None and model.problem and on_disk is not None:
            return self._problem(model, known)
        todo = plan(on_disk, {number: _known(version) for number, version in known.items()})
        if todo == Plan():
            return False
        self._forget(name, todo.forget)
        for number in todo.unload:
            self._retire(known[number])
        if todo.load and model is not None:
            self._load(model, todo.load[0], on_disk.versions[todo.load[0]] if on_disk else ())
            # A newer version may have come meanwhile, and then it is the next one.
            self._models |= scan(self._root, self._models, only=name)
        return True

    def _on_disk(self, name: str) -> OnDisk | None:
        model = self._models.get(name)
        if model is None or (self._chosen is not None and name not in self._chosen):
            return None
        known = self._versions.get(name, {})
        override = self._chosen.get(name) if self._chosen else None
        config = model.config if override is None else override
        versions: dict[int, Fingerprint] = {}
        for number, files in model.versions.items():
            if self._settled(model, number):
                versions[number] = files if override is None else (*files, _identity(override))
            elif number in known:
                versions[number] = known[number].fingerprint
        rollout = model.rollout
        stable = rollout.labels.get(STABLE) if rollout else None
        return OnDisk(config.version_policy, versions, wanted(rollout), stable)

    def _problem(self, model: Model, known: dict[int, ModelVersion]) -> bool:
        """Show why a model's folder cannot be followed; what is served of it stays."""
        if 0 in known and known[0].reason == model.problem:
            return False
        version = ModelVersion(model.name, "0", model.path, model.config, model.fingerprint)
        self._put(version)
        self._fail(version, model.problem)
        return True

    def _load(self, model: Model, number: int, files: Fingerprint) -> None:
        override = self._chosen.get(model.name) if self._chosen else None
        config = model.config if override is None else override
        version = ModelVersion(model.name, str(number), model.path / str(number), config, files)
        replaced = self._versions.get(model.name, {}).get(number)
        if replaced is None or replaced.state != "READY":
            replaced = None
            self._put(version)
            self._on_change(version)
        started_s = time.monotonic()
        reason = ""
        try:
            version.served = self._loader.load(
                version.path, version.name, config, lambda warning: self._on_warning(version.name, warning)
            )
        except LoadError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  a version must never take the server down, whatever is in its folder
            reason = f"unexpected {type(error).__name__} while loading: {error}"
        if version.served is None:
            # Only here, because until its handler ends an exception holds on to all that was loaded.
            self._refuse(version, replaced, reason)
            return
        version.load_s = time.monotonic() - started_s
        version.state = "READY"
        self._put(version)
        # It answers before anybody is told that it does.
        self._publish()
        self._on_change(version)
        if replaced is not None:
            self._drain(replaced)

    def _refuse(self, version: ModelVersion, replaced: ModelVersion | None, reason: str) -> None:
        if replaced is None:
            self._fail(version, reason)
        else:
            replaced.refused = version.fingerprint
            replaced.reason = f"its files have changed since it was loaded, and cannot be served: {reason}"
            self._on_change(replaced)
        _give_memory_back()

    def _retire(self, version: ModelVersion) -> None:
        version.state = "UNLOADING"
        # Whoever watches is told before a request can be refused.
        self._on_change(version)
        self._publish()
        self._drain(version)
        version.state = "UNLOADED"
        self._forget(version.name, [int(version.version)])
        self._on_change(version)

    def _drain(self, version: ModelVersion) -> None:
        """Finish what a version had accepted, and release it."""
        assert version.served is not None, "only what was READY is drained"  # noqa: S101  an invariant, not a check
        version.served.batcher.close(_DRAIN_S)
        self.answered_before += version.served.stats.snapshot().succeeded
        version.served = None
        _give_memory_back()

    def _fail(self, version: ModelVersion, reason: str) -> None:
        version.reason = reason
        version.state = "FAILED"
        self._on_change(version)

    def _put(self, version: ModelVersion) -> None:
        versions = {**self._versions.get(version.name, {}), int(version.version): version}
        self._versions = {**self._versions, version.name: versions}

    def _forget(self, name: str, numbers: Iterable[int]) -> None:
        gone = set(numbers)
        versions = {number: version for number, version in self._versions.get(name, {}).items() if number not in gone}
        self._versions = {**self._versions, name: versions}
        if not versions:
            del self._versions[name]

    def _publish(self) -> None:
        """Let requests go where versions' states and models' rollouts say, all at once."""
        served = {
            name: {
                number: version.served
                for number, version in versions.items()
                if version.state == "READY" and version.served is not None
            }
            for name, versions in self._versions.items()
        }
        models = {name: self._models.get(name) for name in served}
        self._ready, ways = build(
            (name, model.rollout if model else None, served[name]) for name, model in models.items()
        )
        self._shadows.follow(
            {
                name: (served[name][found.default], served[name][found.shadow])
                for name, found in ways.items()
                if found.default is not None and found.shadow is not None
            }
        )
        traffic = {}
        for name, model in models.items():
            problems = (model.rollout_problem if model else "", *ways[name].problems, self._shadows.problem(name))
            traffic[name] = Traffic(ways[name], tuple(problem for problem in problems if problem))
        self._traffic = traffic

    def _tell(self) -> None:
        """Tell of every model with a rollout whose traffic is shared otherwise than it was."""
        before, self._told = self._told, self._traffic
        for name, traffic in self._traffic.items():
            model = self._models.get(name)
            was = before.get(name)
            if traffic != was and (traffic.problems or (model and model.rollout) or (was and was.routes.labels)):
                self._on_rollout(name, traffic)

    def _warn(self, model: Model | None, before: Model | None) -> None:
        for warning in model.warnings if model else ():
            if before is None or warning not in before.warnings:
                self._on_warning(model.name if model else "", warning)

    # Handing out

    def get(self, name: str, version: str) -> Served:
        """The version that answers a request.

        Args:
            name: the model.
            version: a number in decimal, or a label; "" or "latest" for the stable one or, where none is, the highest that
                is READY.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it exists and is not READY.
            InvalidInput: the version is neither a number nor a label.
        """
        ready = self._ready
        found: Served | None = ready.get((name, version))
        if found is None:
            split: Split | None = ready.get((name,)) if version in ("", "latest") else None
            if split is None:
                raise self._explain(name, version)
            return split.choose(self._draw())
        return found

    def _explain(self, name: str, version: str) -> Exception:
        versions = self._versions.get(name)
        if versions is None:
            return ModelNotFound(f"Request for unknown model: '{name}' is not found")
        model = self._models.get(name)
        labels = sorted(model.rollout.labels) if model and model.rollout else []
        if version in ("", "latest", *labels):
            coming = [entry for entry in list(versions.values()) if entry.state != "FAILED"]
            if coming:
                return ModelNotReady(
                    f"Request for unknown model: '{name}' version {coming[0].version} is not at ready state"
                )
            reasons = "; ".join(
                f"version {entry.version} is FAILED: {entry.reason}" for entry in list(versions.values())
            )
            return ModelNotFound(f"Request for unknown model: '{name}' has no available versions ({reasons})")
        if not is_version(version):
            return InvalidInput(
                f"failed to get model version from specified version string '{version}' for model '{name}', version should be an "
                f"integer > 0{' or a label: ' if labels else ''}{', '.join(labels)}"
            )
        entry = next((entry for entry in versions.values() if entry.version == version), None)
        if entry is None:
            return ModelNotFound(f"Request for unknown model: '{name}' version {version} is not found")
        because = f": {entry.reason}" if entry.reason else ""
        return ModelNotReady(
            f"Request for unknown model: '{name}' version {version} is not at ready state (it is {entry.state}{because})"
        )

    def versions(self, name: str = "") -> list[ModelVersion]:
        """Every version, of one model or of all, by name and number."""
        models = {name: self._versions.get(name, {})} if name else self._versions
        return [version for _, versions in sorted(models.items()) for _, version in sorted(versions.items())]

    def ready_versions(self, name: str) -> list[str]:
        """Numbers of a model's versions that can be relied on, ascending."""
        return [version.version for version in self.versions(name) if version.ready]

    def traffic(self, name: str) -> Traffic:
        """How a model's versions share its traffic."""
        return self._traffic.get(name, Traffic(Routes(None)))

    def shadows(self) -> list[tuple[str, str, str, Counts]]:
        """For each shadow the model, its version, the live version, and what it has seen."""
        return self._shadows.counts()

    def unloaded(self) -> list[str]:
        """Names of models in the folder of which nothing is served or was tried; only with explicit control."""
        return sorted(set(self._models) - set(self._versions)) if self._chosen is not None else []

    def stop_loading(self) -> None:
        """Make a `reconcile` under way return after the version it is at, and further ones do nothing."""
        self._closing = True

    def close(self, timeout_s: float) -> bool:
        """Finish what is queued for every version and release them; blocks at most `timeout_s` seconds.

        Returns:
            Whether everything accepted was finished.
        """
        deadline_s = time.monotonic() + timeout_s
        self._closing = True
        # A load under way is waited for, but not longer than that.
        working = self._working.acquire(timeout=timeout_s)
        try:
            for version in self.versions():
                if version.state == "READY":
                    version.state = "UNLOADING"
                    self._on_change(version)
            self._publish()
            # Every queue drains at the same time; each is only waited for in turn.
            served = [version.served for version in self.versions() if version.served is not None]
            return all([entry.batcher.close(max(0.0, deadline_s - time.monotonic())) for entry in served])
        finally:
            if working:
                self._working.release()


def _known(version: ModelVersion) -> Known:
    return Known(version.state == "READY", version.fingerprint, version.refused)


def _identity(config: model_config_pb2.ModelConfig) -> tuple[str, int, int, int]:
    """A configuration that came by request, as a file's place in a fingerprint."""
    return config.SerializeToString(deterministic=True).hex(), 0, 0, 0


def _give_memory_back() -> None:
    """Return freed memory to the system, where the C library would keep it for its own next allocation."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
