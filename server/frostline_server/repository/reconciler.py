"""The reconciler: it loads and unloads versions until what is served matches the models folder or the last request.

A version becomes READY after it is loaded, warm and proved against its golden sample. Only then is the previous
version unloaded, after it has finished the requests it had accepted. If a version fails, the previous version stays
or is loaded again, so one bad publication never takes a model away.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError, LoadFailed, ModelControlOff, ModelNotFound
from frostline_server.model.artifact import whole
from frostline_server.model.loader import Loader
from frostline_server.repository.plan import Fingerprint, Known, OnDisk, Plan, plan
from frostline_server.repository.registry import ModelVersion, Repository, Traffic
from frostline_server.repository.rollout import standing, wanted
from frostline_server.repository.scan import Model, scan
from frostline_server.repository.stability import StabilityCheck

_DRAIN_S = 60.0
"""How long the accepted requests of a replaced version may take; the rest is refused after that."""


class Reconciler:
    """Loads and unloads versions.

    Every method blocks and may be called from any thread; only one runs at a time.

    Args:
        root: the folder of models.
        repository: the versions in service.
        loader: loads versions.
        explicit: whether only models that `load_model` names are served.
        on_change: called for each version whose state changed, before anything else is done.
        on_warning: called with a model's name and a warning about its configuration.
        on_rollout: called with a model's name and its traffic, when the traffic's split changed.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        root: Path,
        repository: Repository,
        loader: Loader,
        *,
        explicit: bool = False,
        on_change: Callable[[ModelVersion], None],
        on_warning: Callable[[str, str], None],
        on_rollout: Callable[[str, Traffic], None] = lambda _name, _traffic: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._repository = repository
        self._loader = loader
        self._chosen: dict[str, model_config_pb2.ModelConfig | None] | None = {} if explicit else None
        self._on_change = on_change
        self._on_warning = on_warning
        self._on_rollout = on_rollout
        self._working = threading.RLock()
        self._models: dict[str, Model] = {}
        self._settling = StabilityCheck(clock)
        self._told: dict[str, Traffic] = {}
        self._complaint = ""
        self._closing = False
        self.loading = False
        """Whether a version is being loaded; what ONNX Runtime does then cannot be interrupted."""

    def reconcile(self) -> bool:
        """Scan the folder, then load and unload until the versions in service match it.

        Failures become states, never exceptions.

        Returns:
            Whether to scan again soon, because some files may still be being written.
        """
        with self._working:
            before = self._models
            try:
                self._models = scan(self._root, before)
            except OSError as error:
                # The versions in service stay: a file system that is briefly unavailable must not unload every model.
                self._complain(f"the models folder cannot be read: {error}")
                return True
            self._complain("")
            # A change of the routes does not wait for versions that must be loaded.
            self._repository.publish(self._models)
            for name in sorted({*self._models, *self._repository.names()}):
                self._warn(self._models.get(name), before.get(name))
                while self._step(name):
                    pass
            self._repository.publish(self._models)
            self._tell()
            present = {(name, number) for name, model in self._models.items() for number in model.versions}
            self._settling.looked(present)
            return any([not self._settled(self._models[name], number) for name, number in present])

    def _complain(self, complaint: str) -> None:
        """Report a problem with the models folder, once until it changes."""
        if complaint and complaint != self._complaint:
            self._on_warning("", complaint)
        self._complaint = complaint

    def _settled(self, model: Model, number: int) -> bool:
        """Whether a version can be loaded: its files are no longer being written."""
        if self._chosen is not None:
            return True
        known = self._repository.of(model.name).get(number)
        files = model.versions[number]
        if known is not None and files in (known.fingerprint, known.refused):
            return True

        def proves() -> bool:
            # A known version is being changed, and its card may describe the old files.
            return known is None and whole(model.path / str(number), model.config)

        return self._settling.settled((model.name, number), files, proves)

    def load_model(
        self, name: str, config: model_config_pb2.ModelConfig | None = None, warnings: Iterable[str] = ()
    ) -> None:
        """Serve a model from now on. A model in service is reloaded if its files or `config` changed.

        Args:
            name: the model.
            config: used instead of its config.pbtxt, if given.
            warnings: about unsupported fields of `config`.

        Raises:
            ModelControlOff: clients cannot load models on this server.
            ModelNotFound: it has no folder.
            LoadFailed: its newest version cannot be served; the message names the versions that are.
        """
        with self._working:
            chosen = self._controlled()
            try:
                self._models = scan(self._root, self._models)
            except OSError as error:
                raise LoadFailed(f"failed to load '{name}', the models folder cannot be read: {error}") from error
            if name not in self._models:
                raise ModelNotFound(
                    f"failed to load '{name}', failed to poll from model repository: it has no such model"
                )
            chosen[name] = config
            for warning in warnings:
                self._on_warning(name, warning)
            # A client's load request retries a version that failed.
            self._repository.forget(
                name, [int(version.version) for version in self._repository.versions(name) if version.state == "FAILED"]
            )
            for version in self._repository.versions(name):
                version.refused, version.reason = None, ""
            while self._step(name):
                pass
            self._repository.publish(self._models)
            self._tell()
            refused = {version.version: version.reason for version in self._repository.versions(name) if version.reason}
            if refused:
                ready = ", ".join(self._repository.ready_versions(name)) or "none"
                reasons = "; ".join(f"version {version}: {reason}" for version, reason in refused.items())
                raise LoadFailed(f"failed to load '{name}', {reasons} (ready versions: {ready})")

    def unload_model(self, name: str) -> None:
        """Stop serving a model; returns when all accepted requests are answered.

        Raises:
            ModelControlOff: clients cannot unload models on this server.
            ModelNotFound: it is not served.
        """
        with self._working:
            chosen = self._controlled()
            if name not in chosen:
                raise ModelNotFound(f"failed to unload '{name}': it is not loaded")
            del chosen[name]
            while self._step(name):
                pass

    def _controlled(self) -> dict[str, model_config_pb2.ModelConfig | None]:
        """The models that clients asked for, with explicit control."""
        if self._chosen is None:
            raise ModelControlOff("explicit model load / unload is not allowed if polling is enabled")
        return self._chosen

    def _step(self, name: str) -> bool:
        """Take the next action for one model; False when there is none."""
        if self._closing:
            return False
        model = self._models.get(name)
        on_disk, known = self._on_disk(name), self._repository.of(name)
        if model is not None and model.problem and on_disk is not None:
            return self._problem(model, known)
        self._forgive(on_disk, known)
        todo = plan(on_disk, {number: _known(version) for number, version in known.items()})
        if todo == Plan():
            return False
        self._repository.forget(name, todo.forget)
        for number in todo.unload:
            self._retire(known[number])
        if todo.load and model is not None:
            self._load(model, todo.load[0], on_disk.versions[todo.load[0]] if on_disk else ())
            if self._chosen is None:
                self._look_again(name)
        return True

    def _look_again(self, name: str) -> None:
        """Scan one model's folder again, because a newer version may have appeared while another was loaded."""
        others = {other: model for other, model in self._models.items() if other != name}
        self._models = others | scan(self._root, self._models, only=name)

    def _on_disk(self, name: str) -> OnDisk | None:
        model = self._models.get(name)
        if model is None or (self._chosen is not None and name not in self._chosen):
            return None
        known = self._repository.of(name)
        override = self._override(name)
        versions: dict[int, Fingerprint] = {}
        for number, files in model.versions.items():
            if self._settled(model, number):
                versions[number] = files if override is None else (*files, _identity(override))
            elif number in known:
                # Its files as they were at the last try.
                versions[number] = known[number].refused or known[number].fingerprint
        config = model.config if override is None else override
        return OnDisk(config.version_policy, versions, wanted(model.rollout), standing(model.rollout))

    def _override(self, name: str) -> model_config_pb2.ModelConfig | None:
        """The configuration that a client gave for a model, used instead of its own."""
        return self._chosen.get(name) if self._chosen else None

    def _forgive(self, on_disk: OnDisk | None, known: Mapping[int, ModelVersion]) -> None:
        """Clear the failure of newer files, if the files on disk are again those in service."""
        for number, version in known.items():
            if version.refused is not None and on_disk and on_disk.versions.get(number) == version.fingerprint:
                version.refused, version.reason = None, ""
                self._on_change(version)

    def _problem(self, model: Model, known: Mapping[int, ModelVersion]) -> bool:
        """Show why a model's folder cannot be used; its versions in service stay."""
        if 0 in known and known[0].reason == model.problem:
            return False
        version = ModelVersion(model.name, "0", model.path, model.config, model.fingerprint)
        self._repository.put(version)
        self._fail(version, model.problem)
        return True

    def _load(self, model: Model, number: int, files: Fingerprint) -> None:
        override = self._override(model.name)
        config = model.config if override is None else override
        version = ModelVersion(model.name, str(number), model.path / str(number), config, files)
        replaced = self._repository.of(model.name).get(number)
        if replaced is None or replaced.state != "READY":
            replaced = None
            self._repository.put(version)
            self._on_change(version)
        started_s = time.monotonic()
        reason = ""
        self.loading = True
        try:
            version.served = self._loader.load(
                version.path,
                version.name,
                config,
                lambda warning: self._on_warning(version.name, warning),
                lambda: self._closing,
            )
        except LoadError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  a version must never take the server down, whatever is in its folder
            reason = f"unexpected {type(error).__name__} while loading: {error}"
        finally:
            self.loading = False
        if version.served is None:
            # Only here: until its handler ends, an exception keeps a reference to everything that was loaded.
            self._refuse(version, replaced, reason)
            return
        version.load_s = time.monotonic() - started_s
        version.state = "READY"
        self._repository.put(version)
        # It can answer before watchers are told.
        self._repository.publish(self._models)
        self._on_change(version)
        if replaced is not None:
            self._drain(replaced)

    def _refuse(self, version: ModelVersion, replaced: ModelVersion | None, reason: str) -> None:
        if self._closing:
            # A load that was given up says nothing about the version, so it is not FAILED.
            if replaced is None:
                self._repository.forget(version.name, [int(version.version)])
        elif replaced is None:
            self._fail(version, reason)
        else:
            replaced.refused = version.fingerprint
            replaced.reason = f"its files changed after it was loaded, and the new ones cannot be served: {reason}"
            self._on_change(replaced)
        _give_memory_back()

    def _retire(self, version: ModelVersion) -> None:
        version.state = "UNLOADING"
        # Watchers are told before a request can be refused.
        self._on_change(version)
        self._repository.publish(self._models)
        self._drain(version)
        version.state = "UNLOADED"
        self._repository.forget(version.name, [int(version.version)])
        self._on_change(version)

    def _drain(self, version: ModelVersion) -> None:
        """Finish the accepted requests of a version, and release it."""
        assert version.served is not None, "only what was READY is drained"  # noqa: S101  an invariant, not a check
        version.served.batcher.close(_DRAIN_S)
        self._repository.answered_before += version.served.stats.snapshot().succeeded
        version.served = None
        _give_memory_back()

    def _fail(self, version: ModelVersion, reason: str) -> None:
        version.reason = reason
        version.state = "FAILED"
        self._on_change(version)

    def _tell(self) -> None:
        """Report every model with a rollout whose traffic changed."""
        before = self._told
        self._told = {name: self._repository.traffic(name) for name in self._repository.names()}
        for name, traffic in self._told.items():
            model = self._models.get(name)
            was = before.get(name)
            if traffic != was and (traffic.problems or (model and model.rollout) or (was and was.routes.labels)):
                self._on_rollout(name, traffic)

    def _warn(self, model: Model | None, before: Model | None) -> None:
        for warning in model.warnings if model else ():
            if before is None or warning not in before.warnings:
                self._on_warning(model.name if model else "", warning)

    def unloaded(self) -> list[str]:
        """Names of models in the folder that no version was loaded of; only with explicit control."""
        return sorted(set(self._models) - set(self._repository.names())) if self._chosen is not None else []

    def stop_loading(self) -> None:
        """Give up the load in progress as soon as possible, and start no other load or unload."""
        self._closing = True

    def close(self, timeout_s: float) -> bool:
        """Finish the queued requests of every version and release it; blocks at most `timeout_s` seconds.

        Returns:
            Whether every accepted request was finished.
        """
        deadline_s = time.monotonic() + timeout_s
        self._closing = True
        # Accepted requests are answered while a load in progress ends; a version that it loaded is released after that.
        finished = self._finish(deadline_s)
        if self._working.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            try:
                finished = self._finish(deadline_s) and finished
            finally:
                self._working.release()
        return finished

    def _finish(self, deadline_s: float) -> bool:
        for version in self._repository.versions():
            if version.state == "READY":
                version.state = "UNLOADING"
                self._on_change(version)
        self._repository.publish(self._models)
        # All queues drain at the same time; this waits for one after the other.
        served = [version.served for version in self._repository.versions() if version.served is not None]
        return all([entry.batcher.close(max(0.0, deadline_s - time.monotonic())) for entry in served])


def _known(version: ModelVersion) -> Known:
    return Known(version.state == "READY", version.fingerprint, version.refused)


def _identity(config: model_config_pb2.ModelConfig) -> tuple[str, int, int, int]:
    """A client's configuration, as an entry of a fingerprint."""
    return config.SerializeToString(deterministic=True).hex(), 0, 0, 0


def _give_memory_back() -> None:
    """Return freed memory to the system; the C library would keep it for later allocations."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
