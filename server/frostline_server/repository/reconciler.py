"""The reconciler: it loads and unloads versions until what is served matches the models folder or the last request.

A version becomes READY after it is loaded, warm and proved against its golden sample. Only then is the previous
version unloaded, after it has finished the requests it had accepted, and whether or not its folder still exists. If a
version fails, the previous version stays or is loaded again, so one bad publication never takes a model away.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError, LoadFailed, ModelControlOff, ModelNotFound
from frostline_server.model.artifact import Artifact, whole
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.repository.plan import Fingerprint, Known, OnDisk, Plan, awaited, plan
from frostline_server.repository.registry import ModelVersion, Repository, Traffic
from frostline_server.repository.rollout import standing, wanted
from frostline_server.repository.scan import Model, scan
from frostline_server.repository.stability import Key, StabilityCheck

_DRAIN_S = 60.0
"""How long the accepted requests of a replaced version may take; the rest is refused after that."""
_FOLDER = 0
"""Stands for a model's folder as a whole where versions have their numbers."""
_REMARKS = -1
"""Stands for the remarks about a model's folder."""
_GONE = "its folder is gone; it stays in service because no version that is on disk can take its place"


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
        # What was read of the version that is to be loaded next, to prove that it is complete.
        self._proved: tuple[Key, Artifact] | None = None
        self._expected: dict[str, set[int]] = {}
        self._told: dict[str, Traffic] = {}
        self._warned: dict[str, tuple[str, ...]] = {}
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
                self._models = self._scan()
            except OSError as error:
                # The versions in service stay: a file system that is briefly unavailable must not unload every model.
                self._complain(f"the models folder cannot be read: {error}")
                return True
            self._complain("")
            # A change of the routes does not wait for versions that must be loaded.
            self._repository.publish(self._models)
            names = sorted({*self._models, *self._repository.names()})
            if self._chosen is None:
                self._expected.clear()
                self._expect(names)
            for name in names:
                self._warn(self._models.get(name), before.get(name))
                self._pass_on_remarks(self._models.get(name))
                if self._chosen is None or name in self._chosen:
                    self._follow(name)
            self._repository.publish(self._models)
            self._tell()
            present = {
                (name, number)
                for name, model in self._models.items()
                for number in (*(model.versions or (_FOLDER,)), *((_REMARKS,) if model.remarks else ()))
            }
            self._settling.looked(present)
            return any([not self._settled(self._models[name], number) for name, number in present])

    def _scan(self, only: str = "") -> dict[str, Model]:
        """Every model in the folder, or those of the last scan with one of them looked at again.

        A model whose folder is gone stays for a moment, as one without versions: another deployment may delete the folder
        and write it anew.
        """
        found = scan(self._root, self._models, only=only)
        if only:
            found = {name: model for name, model in self._models.items() if name != only} | found
        for name, model in self._models.items() if self._chosen is None else ():
            if name not in found and not self._settling.settled((name, _FOLDER), model.fingerprint):
                found[name] = replace(model, versions={}, problem="", warnings=(), remarks=())
        return found

    def _complain(self, complaint: str) -> None:
        """Report a problem with the models folder, once until it changes."""
        if complaint and complaint != self._complaint:
            self._on_warning("", complaint)
        self._complaint = complaint

    def _follow(self, name: str) -> None:
        """Load and unload versions of one model until nothing is left to do."""
        self._expect([name])
        while self._step(name):
            pass
        self._proved = None
        self._expect([name])

    def expect(self, names: Iterable[str]) -> None:
        """Have clients wait for these models, which will be loaded by request.

        Until this or `reconcile` was called, clients wait for every model. With explicit control only this counts.
        """
        with self._working:
            found = {name: set(model.versions) for name in names if (model := self._models.get(name)) is not None}
            self._expected.update(found)
            self._repository.expect(dict(self._expected))

    def _expect(self, names: Iterable[str]) -> None:
        """Have clients wait for what will be loaded of these models, and no longer for what was loaded or failed."""
        self._expected.update({name: self._coming(name) for name in names})
        self._repository.expect(dict(self._expected))

    def _coming(self, name: str) -> set[int]:
        """The versions of a model that will be loaded, as far as is known."""
        on_disk, known = self._on_disk(name), self._known(name)
        if on_disk is None or self._unusable(name):
            return set()
        return {*plan(on_disk, known).load, *awaited(on_disk, known)}

    def _settled(self, model: Model, number: int) -> bool:
        """Whether a version can be loaded: its files are no longer being written.

        Number 0 asks whether a folder without versions stays one, -1 whether the remarks about a folder stay true.
        """
        if self._chosen is not None:
            return True
        if number == _REMARKS:
            files: Fingerprint = tuple((remark, 0, 0, 0) for remark in model.remarks)
        else:
            files = model.versions.get(number, model.fingerprint)
        key, known = (model.name, number), self._repository.of(model.name).get(number)
        if known is not None and files in (known.fingerprint, known.refused):
            self._settling.trust(key, files)
            return True
        return self._settling.settled(key, files)

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
            model = self._models.get(name)
            if model is None or not (model.versions or model.problem):
                self._expect([name])
                reason = "; ".join(model.remarks) if model else "it has no such model"
                raise ModelNotFound(f"failed to load '{name}', failed to poll from model repository: {reason}")
            chosen[name] = config
            for warning in warnings:
                self._on_warning(name, warning)
            # A client's load request retries a version that failed.
            self._repository.forget(
                name, [int(version.version) for version in self._repository.versions(name) if version.state == "FAILED"]
            )
            for version in self._repository.versions(name):
                version.refused, version.reason = None, ""
            self._follow(name)
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
            self._follow(name)

    def _controlled(self) -> dict[str, model_config_pb2.ModelConfig | None]:
        """The models that clients asked for, with explicit control."""
        if self._chosen is None:
            raise ModelControlOff("explicit model load / unload is not allowed if polling is enabled")
        return self._chosen

    def _step(self, name: str) -> bool:
        """Take the next action for one model; False when there is none."""
        if self._closing:
            return False
        model, versions = self._models.get(name), self._repository.of(name)
        if model is not None and (problem := self._unusable(name)):
            return self._problem(model, problem, versions)
        if model is not None:
            self._prove(model)
        on_disk, known = self._on_disk(name), self._known(name)
        todo = plan(on_disk, known)
        self._remark(on_disk, versions, settled=todo == Plan() and not (on_disk and awaited(on_disk, known)))
        if todo == Plan():
            return False
        self._repository.forget(name, todo.forget)
        for number in todo.unload:
            self._retire(versions[number])
        if todo.load and model is not None:
            self._load(model, todo.load[0], on_disk.versions[todo.load[0]] if on_disk else ())
            if self._chosen is None:
                self._look_again(name)
        return True

    def _unusable(self, name: str) -> str:
        """Why nothing that is in a model's folder can be loaded, or ""."""
        model = self._models.get(name)
        if model is None or (self._chosen is not None and name not in self._chosen):
            return ""
        if not model.versions:
            known = self._repository.of(name)
            if any(version.state == "READY" for version in known.values()):
                return ""
            if not self._settled(model, _FOLDER):
                return known[_FOLDER].reason if _FOLDER in known else ""
        return model.problem

    def _prove(self, model: Model) -> None:
        """Let the new versions that are to be loaded prove that they are complete: those that can need not settle."""
        on_disk = self._on_disk(model.name)
        for number in sorted(awaited(on_disk, self._known(model.name))) if on_disk else ():
            key = model.name, number
            self._settling.prove(key, model.versions[number], partial(self._is_whole, model, key))

    def _is_whole(self, model: Model, key: Key) -> bool:
        artifact = whole(model.path / str(key[1]), model.config)
        if artifact is None:
            return False
        # The newest, which is the one that is loaded first without a rollout; it need not be read again.
        self._proved = key, artifact
        return True

    def _look_again(self, name: str) -> None:
        """Scan one model's folder again, because a newer version may have appeared while another was loaded."""
        self._models = self._scan(only=name)

    def _on_disk(self, name: str) -> OnDisk | None:
        model = self._models.get(name)
        if self._chosen is not None and name not in self._chosen:
            return None
        if model is None:
            return None
        if not model.versions:
            return None if self._settled(model, _FOLDER) else OnDisk(model.config.version_policy, {})
        known = self._repository.of(name)
        override = self._override(name)
        versions: dict[int, Fingerprint] = {}
        settling: set[int] = set()
        for number, files in model.versions.items():
            if self._settled(model, number):
                versions[number] = files if override is None else (*files, _identity(override))
            elif number in known:
                # Its files as they were at the last try.
                versions[number] = known[number].refused or known[number].fingerprint
            else:
                settling.add(number)
        config = model.config if override is None else override
        return OnDisk(config.version_policy, versions, wanted(model.rollout), standing(model.rollout), settling)

    def _known(self, name: str) -> dict[int, Known]:
        return {number: _known(version) for number, version in self._repository.of(name).items()}

    def _override(self, name: str) -> model_config_pb2.ModelConfig | None:
        """The configuration that a client gave for a model, used instead of its own."""
        return self._chosen.get(name) if self._chosen else None

    def _remark(self, on_disk: OnDisk | None, known: Mapping[int, ModelVersion], *, settled: bool) -> None:
        """Show why a READY version is not what is on disk, and no longer once it is.

        Args:
            on_disk: the model's folder.
            known: the model's versions.
            settled: whether nothing that is on disk will be loaded.
        """
        for number, version in known.items():
            files = on_disk.versions.get(number) if on_disk else None
            if (version.refused is not None and files == version.fingerprint) or (
                version.reason == _GONE and files is not None
            ):
                version.refused, version.reason = None, ""
            elif settled and on_disk and on_disk.versions and files is None and version.reason != _GONE:
                version.reason = _GONE
            else:
                continue
            self._on_change(version)

    def _problem(self, model: Model, problem: str, known: Mapping[int, ModelVersion]) -> bool:
        """Show why a model's folder cannot be used; its versions in service stay."""
        if _FOLDER in known and known[_FOLDER].reason == problem:
            return False
        version = ModelVersion(model.name, str(_FOLDER), model.path, model.config, model.fingerprint)
        self._repository.put(version)
        self._fail(version, problem)
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
        loaded: LoadedModel | None = None
        self.loading = True
        try:
            loaded = self._loader.load(
                version.path,
                version.name,
                config,
                lambda warning: self._on_warning(version.name, warning),
                lambda: self._closing,
                self._take_proved((model.name, number)),
            )
        except LoadError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  a version must never take the server down, whatever is in its folder
            reason = f"unexpected {type(error).__name__} while loading: {error}"
        finally:
            self.loading = False
        if loaded is None:
            # Only here: until its handler ends, an exception keeps a reference to everything that was loaded.
            self._refuse(version, replaced, reason)
            return
        version.load_s = time.monotonic() - started_s
        version.served, version.state = loaded, "READY"
        self._repository.put(version)
        # It can answer before watchers are told.
        self._repository.publish(self._models)
        self._on_change(version)
        if replaced is not None:
            self._drain(replaced)
        # What loading took for a while, such as the file's own content.
        _give_memory_back()

    def _take_proved(self, key: Key) -> Artifact | None:
        """What was read of a version to prove that it is complete, if it was the last one."""
        proved, self._proved = self._proved, None
        return proved[1] if proved is not None and proved[0] == key else None

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
        served = version.served
        assert served is not None, "only what was READY is drained"  # noqa: S101  an invariant, not a check
        served.batcher.close(_DRAIN_S)
        self._repository.answered_before += served.stats.snapshot().succeeded
        # Both, or else its memory is not free yet.
        version.served = served = None
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

    def _pass_on_remarks(self, model: Model | None) -> None:
        """Warn of what looks like a version and is none, once it has not changed for a while: it may be one soon."""
        if model is None or not self._settled(model, _REMARKS):
            return
        remarks = model.remarks if model.versions or not model.problem else ()  # which says the same
        for remark in remarks:
            if remark not in self._warned.get(model.name, ()):
                self._on_warning(model.name, remark)
        self._warned[model.name] = remarks

    def unloaded(self) -> list[str]:
        """Names of models in the folder that no version was loaded of; only with explicit control."""
        if self._chosen is None:
            return []
        found = [name for name, model in self._models.items() if model.versions or model.problem]
        return sorted(set(found) - set(self._repository.names()))

    def remarks(self) -> list[tuple[str, str]]:
        """What looks like a version in a model's folder and is none: the model's name and a sentence for each."""
        return [
            (name, remark)
            for name, model in sorted(self._models.items())
            if model.versions or _FOLDER not in self._repository.of(name)  # which is FAILED for the same reasons
            for remark in model.remarks
        ]

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
        released = [version.served for version in self._repository.versions()]
        served = [loaded for loaded in released if loaded is not None]
        return all([loaded.batcher.close(max(0.0, deadline_s - time.monotonic())) for loaded in served])


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
