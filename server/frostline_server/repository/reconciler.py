"""The reconciler: it loads and unloads versions until what is served matches the models folder or the last request.

A version becomes READY after it is loaded, warm and proved against its golden sample. Only then is the previous
version unloaded, after it has finished the requests it had accepted, and whether or not its folder still exists. If a
version fails, the previous version stays or is loaded again, so one bad publication never takes a model away.

Models take turns, one version of each at a time, and a version that must be tried in a child process first is left to
the trial queue: it holds up nobody but its own model, which goes on when the trial has ended.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError, LoadFailed, ModelControlOff, ModelNotFound
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.memory_return import trim_heap
from frostline_server.model.trial import Outcome
from frostline_server.regular_files import FileReader
from frostline_server.repository.models_folder import FOLDER, ModelsFolder
from frostline_server.repository.plan import Fingerprint, OnDisk, Plan, awaited, plan
from frostline_server.repository.registry import ModelVersion, Repository, Traffic
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.rollout_steps import decisions, staged
from frostline_server.repository.scan import Model, absent_versions, legible
from frostline_server.repository.trial_queue import TrialQueue
from frostline_server.repository.unchanged import keep_unchanged

_DRAIN_S = 60.0
"""How long the accepted requests of a replaced version may take; the rest is refused after that."""
_SLICE_S = 0.05
_UNWIND_S = 1.0
"""How long a shutdown waits for a look or a load in progress, in which nobody's request is."""
_ROUND_S = 1.0
"""How long the models take turns until the folder is looked at again and others may do something, if nothing takes longer."""
_GIVE_WAY_S = 0.001
_WAITS = "waits to be tried in a child process"
_TRIED = "is being tried in a child process"
_GONE = "its folder is gone; it stays in service because no version that is on disk can take its place"


class Reconciler:
    """Loads and unloads versions.

    Every method blocks and may be called from any thread; only one runs at a time, but for `reroute`, which does not wait
    for a load.

    Args:
        root: the folder of models.
        repository: the versions in service.
        loader: loads versions.
        name: of the model, where the folder is one itself; by default the folder's.
        explicit: whether only models that `load_model` names are served.
        on_change: called for each version whose state changed, before anything else is done.
        on_warning: called with a model's name and a warning about its configuration.
        on_rollout: called with a model's name and its traffic, when the traffic's split changed.
        on_decision: called with a model's name, what was decided, and what holds now, for each step of a rollout.
        clock: monotonic time in seconds.
        now: the time of day, in seconds since 1970.
    """

    def __init__(
        self,
        root: Path,
        repository: Repository,
        loader: Loader,
        *,
        name: str = "",
        explicit: bool = False,
        on_change: Callable[[ModelVersion], None],
        on_warning: Callable[[str, str], None],
        on_rollout: Callable[[str, Traffic], None] = lambda _name, _traffic: None,
        on_decision: Callable[[str, str, str], None] = lambda _name, _decision, _told: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._repository = repository
        self._loader = loader
        self._chosen: dict[str, model_config_pb2.ModelConfig | None] | None = {} if explicit else None
        self._on_change = on_change
        self._on_warning = on_warning
        self._on_rollout = on_rollout
        self._on_decision = on_decision
        # As they were at the last look, of every model that was there.
        self._decided: Mapping[str, tuple[Rollout | None, frozenset[int]]] = {}
        self._working = threading.RLock()
        self._folder = ModelsFolder(
            root, repository, clock, loader.files or FileReader(root), name=name, settles=not explicit
        )
        self._clock = clock
        self._now = now
        self._expected: dict[str, set[int]] = {}
        self._told: Mapping[str, Traffic] = {}
        # By model, the rollout by which requests are routed now.
        self._routed: Mapping[str, tuple[Rollout | None, str]] = {}
        self._warned: dict[str, tuple[str, ...]] = {}
        self._complaint = ""
        # Models that something unforeseen happened to, as they were then.
        self._stuck: dict[str, Model | None] = {}
        self._trials = TrialQueue(self._take_up)
        # Of models with a trial that somebody waits for.
        self._tried: dict[str, Future[None]] = {}
        self._closing = False
        self._draining = False
        self.last_look_s: float | None = None
        """When the last look at the models folder ended, in seconds since 1970; None before the first."""

    def reconcile(self) -> bool:
        """Scan the folder, then load and unload until the versions in service match it.

        Failures become states, never exceptions; what happens to one model does not keep the others from being followed.

        Returns:
            Whether to scan again soon, because some files may still be being written.
        """
        while True:
            with self._working:
                again, left = self._look()
            if not left:
                return again
            self._give_way()

    def _look(self) -> tuple[bool, bool]:
        """Scan the folder, and have the models take turns; whether to scan again soon, and whether something is left."""
        before = self._folder.models
        try:
            self._folder.scan()
        except OSError as error:
            # The versions in service stay: a file system that is briefly unavailable must not unload every model.
            self._complain(f"the models folder cannot be read: {error}")
            return True, False
        self._complain("")
        # A change of the routes does not wait for versions that must be loaded.
        self._publish()
        names = sorted({*self._folder.models, *self._repository.names()})
        self._trials.keep(names)
        if self._chosen is None:
            self._expect(names, gone=self._expected.keys() - set(names))
        left = self._take_turns([name for name in names if self._goes_on(name, before.get(name))])
        self._publish()
        self._tell()
        again = self._folder.looked()
        self.last_look_s = self._now()
        return again, left

    def _goes_on(self, name: str, before: Model | None) -> bool:
        """Whether a model is to be followed; what was warned of since the last look is told."""
        model = self._folder.models.get(name)
        if name in self._stuck and self._stuck[name] == model:
            return False
        self._stuck.pop(name, None)
        try:
            self._warn(name, before)
        except Exception as error:  # noqa: BLE001  as below
            self._give_up_on(name, error)
            return False
        return self._is_chosen(name)

    def _take_turns(self, names: Iterable[str]) -> bool:
        """Take one action for each model in turn, until there is none or it has taken a while; whether some are left.

        Whatever goes wrong, only this model has FAILED until its files change.
        """
        until_s, left, worked = self._clock() + _ROUND_S, list(names), set()
        while left and self._clock() < until_s:
            still: list[str] = []
            for name in left:
                try:
                    if self._step(name):
                        worked.add(name)
                        still.append(name)
                        continue
                except Exception as error:  # noqa: BLE001  one model's trouble is its own, also if there is no memory for it
                    self._give_up_on(name, error)
                self._end_turns(name)
            left = still
        if worked:
            trim_heap()
        return bool(left)

    def _end_turns(self, name: str) -> None:
        """Note that nothing is left to do for a model, or nothing before a trial has ended."""
        self._expect([name])
        if name in self._tried and not self._trials.of(name):
            self._end_wait(name)

    def _give_up_on(self, name: str, error: Exception) -> None:
        model = self._folder.models.get(name)
        self._stuck[name] = model
        for number in self._trials.of(name):
            self._trials.give_up((name, number))
        folder = model or Model(name, Path(name), (), model_config_pb2.ModelConfig(), {})
        reason = f"unexpected {type(error).__name__} while it was looked after: {error}"
        self._problem(folder, legible(reason), self._repository.of(name))

    def _take_up(self, name: str) -> None:
        """Go on with a model of which a trial has ended; called from the queue's thread."""
        self._follow(name)
        with self._working:
            self._publish(name)
            self._tell(name)

    def _give_way(self) -> None:
        """Let others do something who wait for it; whoever only lets a lock go takes it again before they wake up."""
        time.sleep(_GIVE_WAY_S)

    def _complain(self, complaint: str) -> None:
        """Report a problem with the models folder, once until it changes."""
        if complaint and complaint != self._complaint:
            self._on_warning("", complaint)
        self._complaint = complaint

    def _follow(self, name: str) -> None:
        """Load and unload versions of one model until nothing is left to do, or nothing before a trial has ended."""
        while True:
            with self._working:
                self._expect([name])
                if not self._take_turns([name]):
                    return
            self._give_way()

    def expect(self, names: Iterable[str]) -> None:
        """Have clients wait for these models, which will be loaded by request.

        Until this or `reconcile` was called, clients wait for every model. With explicit control only this counts.
        """
        with self._working:
            models = self._folder.models
            self._expected = self._expected | {name: set(models[name].versions) for name in names if name in models}
            self._repository.expect(self._expected)

    def _expect(self, names: Iterable[str], gone: Collection[str] = ()) -> None:
        """Have clients wait for what will be loaded of these models, and no longer for what was loaded, failed or is gone."""
        coming = {name: self._coming(name) for name in names}
        changed = {name: numbers for name, numbers in coming.items() if self._expected.get(name) != numbers}
        if not changed and not gone and self._repository.scanned:
            return
        # Replaced as a whole: whoever waits reads it at any time.
        self._expected = {name: numbers for name, numbers in self._expected.items() if name not in gone} | changed
        self._repository.expect(self._expected)

    def _coming(self, name: str) -> set[int]:
        """The versions of a model that will be loaded, as far as is known."""
        try:
            on_disk, known = self._on_disk(name), self._folder.known(name)
            if on_disk is None or self._problem_of(name):
                return set()
            return {*plan(on_disk, known).load, *awaited(on_disk, known)}
        except Exception:  # noqa: BLE001  it is shown when the model itself is looked after
            return set()

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
        self.start_load(name, config, warnings)
        self.tried(name).result()
        self.finish_load(name)

    def start_load(
        self, name: str, config: model_config_pb2.ModelConfig | None = None, warnings: Iterable[str] = ()
    ) -> None:
        """Do of `load_model` what needs no trial; `tried` tells when the trials are over, `finish_load` how it went.

        Raises:
            ModelControlOff: as `load_model`.
            ModelNotFound: as `load_model`.
            LoadFailed: the models folder cannot be read.
        """
        with self._working:
            chosen = self._controlled()
            try:
                self._folder.scan()
            except OSError as error:
                raise LoadFailed(f"failed to load '{name}', the models folder cannot be read: {error}") from error
            model = self._folder.models.get(name)
            if model is None or not (model.versions or model.problem):
                self._expect([name])
                reason = "; ".join(model.remarks) if model else "it has no such model"
                raise ModelNotFound(f"failed to load '{name}', failed to poll from model repository: {reason}")
            if config is not None:
                absent, none = absent_versions("the configuration", config, model.versions, model.rollout)
                if none:
                    raise LoadFailed(f"failed to load '{name}', {absent}")
                warnings = [*warnings, absent] if absent else warnings
            chosen[name] = config
            for warning in warnings:
                self._on_warning(name, warning)
            # A client's load request retries a version that failed.
            self._stuck.pop(name, None)
            self._repository.forget(
                name, [int(version.version) for version in self._repository.versions(name) if version.state == "FAILED"]
            )
            for version in self._repository.versions(name):
                if version.state != "LOADING":
                    version.refused, version.reason = None, ""
        self._follow(name)
        with self._working:
            self._publish(name)
            self._tell(name)

    def tried(self, name: str) -> Future[None]:
        """What is done when no version of a model is in trial any more, or no other will be because the server ends."""
        with self._working:
            waited = self._tried.get(name)
            if waited is None:
                waited = Future()
                # It is for everybody, so nobody may cancel it.
                waited.set_running_or_notify_cancel()
                self._tried[name] = waited
                if self._closing or not self._trials.of(name):
                    self._end_wait(name)
            return waited

    def _end_wait(self, name: str) -> None:
        # Whoever stops the loading does so without waiting for the lock.
        waited = self._tried.pop(name, None)
        if waited is not None:
            waited.set_result(None)

    def in_trial(self) -> list[str]:
        """Names of models with a version in trial."""
        with self._working:
            names = {*self._folder.models, *self._repository.names()}
            return sorted(name for name in names if self._trials.of(name))

    def finish_load(self, name: str) -> None:
        """Raise what became of a model that `start_load` was called for.

        Raises:
            LoadFailed: as `load_model`; also if it was unloaded meanwhile, or the server ends.
        """
        with self._working:
            refused = {
                version.version: version.reason
                for version in self._repository.versions(name)
                if version.reason and version.state != "LOADING"
            }
            versions = self._repository.ready_versions(name)
            ready = ", ".join(versions) or "none"
            if refused:
                reasons = "; ".join(f"version {version}: {reason}" for version, reason in refused.items())
                raise LoadFailed(f"failed to load '{name}', {reasons} (ready versions: {ready})")
            if name not in self._controlled() or self._closing:
                why = "the server ends" if self._closing else "it was unloaded meanwhile"
                raise LoadFailed(f"failed to load '{name}', {why} (ready versions: {ready})")
            if not versions:
                raise LoadFailed(f"failed to load '{name}', the configuration chooses none of its versions")

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
        """Take the next action for one model; False when there is none, or none before a trial has ended."""
        if self._closing:
            return False
        model, versions, on_disk = self._folder.models.get(name), self._repository.of(name), self._on_disk(name)
        if model is not None and self._is_chosen(name) and (problem := self._problem_of(name)):
            return self._problem(model, problem, versions)
        if on_disk is not None and on_disk.settling:
            self._folder.prove(name)
            on_disk = self._on_disk(name)
        known = self._folder.known(name)
        todo = plan(on_disk, known)
        self._remark(on_disk, versions, settled=todo == Plan() and not (on_disk and awaited(on_disk, known)))
        todo = replace(todo, load=self._loadable(name, on_disk, todo))
        if todo == Plan():
            return False
        if todo.load and self._chosen is None and self._changed(name):
            # While others were loaded; what was written last may be a configuration that decides about it.
            return True
        self._repository.forget(name, todo.forget)
        self._retire([versions[number] for number in todo.unload])
        if todo.unload:
            return True  # it may have taken a while
        if todo.load and model is not None:
            self._load(model, todo.load[0], on_disk.versions[todo.load[0]] if on_disk else ())
            if self._chosen is None:
                # A newer version may have appeared meanwhile.
                self._changed(name)
        return True

    def _changed(self, name: str) -> bool:
        """Whether a model has changed on disk since the last look at it; where that cannot be seen, the next look will tell."""
        try:
            return self._folder.changed(name)
        except OSError:  # which a look at the whole folder reports
            return False

    def _loadable(self, name: str, on_disk: OnDisk | None, todo: Plan) -> tuple[int, ...]:
        """What is planned to be loaded of a model and is not in trial; a trial of what is not planned is given up."""
        files = on_disk.versions if on_disk else {}
        for number, tried in self._trials.of(name).items():
            if number not in todo.load or files.get(number) != tried:
                self._trials.give_up((name, number))
                version = self._repository.of(name).get(number)
                if version is not None and version.state == "LOADING":
                    self._repository.forget(name, [number])
        unfinished = self._trials.unfinished(name)
        # Until the stable version is loaded, any other would answer in its place.
        first = todo.load[:1] if on_disk and on_disk.stable else todo.load
        return tuple(number for number in first if number not in unfinished)

    def _on_disk(self, name: str) -> OnDisk | None:
        """A model as the plan sees it, or None if it must not be served."""
        return self._folder.on_disk(name, self._override(name)) if self._is_chosen(name) else None

    def _is_chosen(self, name: str) -> bool:
        """Whether a model is to be served if it can be: always, unless clients decide."""
        return self._chosen is None or name in self._chosen

    def _override(self, name: str) -> model_config_pb2.ModelConfig | None:
        """The configuration that a client gave for a model, used instead of its own."""
        return self._chosen.get(name) if self._chosen else None

    def _problem_of(self, name: str) -> str:
        """Why nothing of a model can be loaded, or ""."""
        return self._folder.problem(name, self._override(name))

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
        if FOLDER in known and known[FOLDER].reason == problem:
            return False
        version = ModelVersion(model.name, str(FOLDER), model.path, model.config, model.fingerprint)
        self._repository.put(version)
        self._fail(version, problem)
        return True

    def _load(self, model: Model, number: int, files: Fingerprint) -> None:
        """Load a version, or have it tried first."""
        override = self._override(model.name)
        config = model.config if override is None else override
        tried = self._trials.take((model.name, number))
        version, replaced = self._loading(model, number, config, files)
        started_s = time.monotonic()
        reason = ""
        loaded: LoadedModel | None = None
        try:
            artifact = self._folder.take((model.name, number))
            if tried is None:
                artifact = artifact or self._loader.check(version.path, config)
                if self._loader.needs_trial(artifact, config):
                    version.reason = _WAITS
                    self._trials.put((model.name, number), files, partial(self._try, version, artifact.sha256))
                    return
            loaded = self._loader.load(
                version.path,
                version.name,
                config,
                lambda warning: self._on_warning(version.name, warning),
                lambda: self._closing,
                artifact,
                tried,
            )
        except LoadError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  a version must never take the server down, whatever is in its folder
            reason = f"unexpected {type(error).__name__} while loading: {error}"
        if loaded is None:
            # Only here: until its handler ends, an exception keeps a reference to everything that was loaded.
            self._refuse(version, replaced, reason)
            return
        version.load_s = time.monotonic() - started_s
        version.served, version.state, version.reason = loaded, "READY", ""
        self._repository.put(version)
        # It can answer before watchers are told.
        self._publish(version.name)
        self._on_change(version)
        if replaced is not None:
            self._drain(replaced)

    def _loading(
        self, model: Model, number: int, config: model_config_pb2.ModelConfig, files: Fingerprint
    ) -> tuple[ModelVersion, ModelVersion | None]:
        """A version as it is loaded, and the READY version of the same number that it replaces, which stays until then."""
        before = self._repository.of(model.name).get(number)
        if before is not None and before.state == "LOADING":  # it was tried
            return before, None
        version = ModelVersion(model.name, str(number), model.version_folder(number), config, files)
        if before is not None and before.state == "READY":
            return version, before
        self._repository.put(version)
        self._on_change(version)
        return version, None

    def _try(self, version: ModelVersion, sha256: str, given_up: Callable[[], bool]) -> Outcome:
        """Try a version; called from the queue's thread."""
        version.reason = _TRIED
        return self._loader.try_first(version.path, version.name, version.config, sha256, given_up)

    def _refuse(self, version: ModelVersion, replaced: ModelVersion | None, reason: str) -> None:
        requested = self._override(version.name) is not None and (
            replaced is None or version.fingerprint[-1:] != replaced.fingerprint[-1:]
        )
        if requested:
            # The reason may call it config.pbtxt, whose place it has.
            told = f"it cannot be served with the configuration of the request to load it, in place of config.pbtxt: {reason}"
        elif replaced is not None:
            told = f"its files changed after it was loaded, and the new ones cannot be served: {reason}"
        else:
            told = reason
        if self._closing:
            # A load that was given up says nothing about the version, so it is not FAILED.
            if replaced is None:
                self._repository.forget(version.name, [int(version.version)])
        elif replaced is None:
            self._fail(version, told)
        else:
            replaced.refused = version.fingerprint
            replaced.reason = legible(told)
            self._on_change(replaced)

    def _retire(self, versions: Sequence[ModelVersion]) -> None:
        """Stop serving versions of a model, all at once: none may stand in for another that goes with it."""
        if not versions:
            return
        for version in versions:
            version.state = "UNLOADING"
            # Watchers are told before a request can be refused.
            self._on_change(version)
        self._publish(versions[0].name)
        for version in versions:
            self._drain(version)
            # First, so that no index ever lists it as one that failed.
            self._repository.forget(version.name, [int(version.version)])
            version.state = "UNLOADED"
            self._on_change(version)

    def _drain(self, version: ModelVersion) -> None:
        """Finish the accepted requests of a version, and release it."""
        served = version.served
        assert served is not None, "only what was READY is drained"  # noqa: S101  an invariant, not a check
        self._draining = True
        try:
            served.batcher.close(_DRAIN_S)
        finally:
            self._draining = False
        self._repository.answered_before += served.stats.snapshot().succeeded
        version.served = None

    def _fail(self, version: ModelVersion, reason: str) -> None:
        version.reason = legible(reason)
        version.state = "FAILED"
        self._on_change(version)

    def _publish(self, only: str | None = None) -> None:
        """Route requests by what was found in the folder; see `Repository.publish`."""
        with self._folder.changing:
            models = self._folder.models
            self._repository.publish(models, only)
            routed = {name: _routing(models[name]) for name in (models if only is None else {only} & models.keys())}
            self._routed = keep_unchanged(self._routed, routed, only)

    def reroute(self) -> None:
        """Follow the rollouts while a look, a load or a drain is in progress, which may take minutes, without waiting for that.

        Whoever withdraws a bad version has its requests go elsewhere at once. Where nothing is in progress, the look that
        the change causes does all this.
        """
        if not self.busy:
            return
        self._folder.reroute()
        with self._folder.changing:
            # Also what a look at one model has found, and nobody has published yet.
            for name, model in self._folder.models.items():
                if name in self._routed and self._routed[name] != _routing(model):
                    self._publish(name)
                    self._tell(name)

    def rollouts(self) -> dict[str, Rollout]:
        """The rollout of each model that has one; may be called while another method runs."""
        return {name: model.rollout for name, model in self._folder.models.items() if model.rollout is not None}

    def use_instead(self, name: str, judged: Rollout, after: Rollout) -> None:
        """Use the rollout `after` in place of what the model's file says, until that is changed: it cannot be written."""
        self._folder.instead(name, judged, after)

    def _tell_decisions(self, only: str | None) -> None:
        """Count and report each step of a rollout, whoever took it, and each version that came without being used."""
        before, models = self._decided, self._folder.models
        after = {
            name: (model.rollout, frozenset(model.versions))
            for name in (models if only is None else [only])
            if (model := models.get(name)) is not None
        }
        self._decided = keep_unchanged(before, after, only)
        for name, (rollout, versions) in after.items():
            if name not in before or (rollout, versions) == before[name]:
                continue
            earlier, known = before[name]
            told = rollout.told if rollout else "no rollout"
            steps = [] if rollout == earlier else decisions(earlier, rollout, max(known, default=0))
            found = [(decision, told) for decision in steps]
            found += [("staged", f"version {each} is staged, {told}") for each in staged(rollout, versions - known)]
            for decision, holds in found:
                self._repository.decided(name, decision)
                self._on_decision(name, decision, holds)

    def _tell(self, only: str | None = None) -> None:
        """Report every model with a rollout whose traffic changed, or the one model that alone may have."""
        with self._folder.changing:
            self._tell_changes(only)

    def _tell_changes(self, only: str | None) -> None:
        self._tell_decisions(only)
        before = self._told
        names = self._repository.names()
        after = {name: self._repository.traffic(name) for name in (names if only is None else [only]) if name in names}
        self._told = keep_unchanged(before, after, only)
        for name, traffic in after.items():
            model = self._folder.models.get(name)
            was = before.get(name)
            if traffic != was and (traffic.problems or (model and model.rollout) or (was and was.routes.labels)):
                self._on_rollout(name, traffic)

    def _warn(self, name: str, before: Model | None) -> None:
        """Report each warning about a model's configuration and each remark about its folder once."""
        model, told = self._folder.models.get(name), self._warned.get(name, ())
        for warning in model.warnings if model else ():
            if before is None or warning not in before.warnings:
                self._on_warning(name, warning)
        # What a model is FAILED for is reported as such.
        failed = model is not None and not model.versions and model.problem and self._is_chosen(name)
        remarks = () if failed else self._folder.remarks(name, settled=True)
        for remark in remarks:
            if remark not in told:
                self._on_warning(name, remark)
        self._warned[name] = remarks

    def unloaded(self) -> list[str]:
        """Names of models in the folder that no version was loaded of; only with explicit control."""
        if self._chosen is None:
            return []
        found = [name for name, model in self._folder.models.items() if model.versions or model.problem]
        return sorted(set(found) - set(self._repository.names()))

    def folder_of(self, name: str) -> Path:
        """A model's folder, whether or not there is one."""
        model = self._folder.models.get(name)
        return self._root / name if model is None else model.path

    def remarks(self) -> list[tuple[str, str]]:
        """What looks like a version in a model's folder and is none: the model's name and a sentence for each."""
        return [(name, remark) for name in sorted(self._folder.models) for remark in self._folder.remarks(name)]

    def stop_loading(self) -> None:
        """Give up the load and the trials in progress as soon as possible, and start no other load or unload."""
        self._closing = True
        self._trials.stop()
        for name in list(self._tried):
            self._end_wait(name)

    def close(self, timeout_s: float) -> bool:
        """Finish the queued requests of every version and release it; blocks at most `timeout_s` seconds.

        Returns:
            Whether every accepted request was finished.
        """
        deadline_s = time.monotonic() + timeout_s
        self.stop_loading()
        # Accepted requests are answered while a load in progress ends; a version that it loaded is released after that.
        finished = self._finish(deadline_s)
        if self._acquired(deadline_s):
            try:
                finished = self._finish(deadline_s) and finished
            finally:
                self._working.release()
        self._trials.join(max(0.0, min(deadline_s - time.monotonic(), _UNWIND_S)))
        return finished

    def _acquired(self, deadline_s: float) -> bool:
        """Wait for a look or a load in progress to end; as long as it drains a version, until the deadline.

        What else it does is given up, because nobody waits for it, and reading or optimising a network may take minutes.
        """
        unwound_s = min(deadline_s, time.monotonic() + _UNWIND_S)
        while True:
            until_s = deadline_s if self._draining else unwound_s
            left_s = until_s - time.monotonic()
            if self._working.acquire(timeout=max(0.0, min(left_s, _SLICE_S))):
                return True
            if left_s <= 0:
                return False

    @property
    def busy(self) -> bool:
        """Whether another thread looks at the folder or loads a version; what ONNX Runtime does cannot be interrupted."""
        if not self._working.acquire(blocking=False):
            return True
        self._working.release()
        return False

    def _finish(self, deadline_s: float) -> bool:
        for version in self._repository.versions():
            if version.state == "READY":
                version.state = "UNLOADING"
                self._on_change(version)
        self._publish()
        # All queues drain at the same time; this waits for one after the other.
        released = [version.served for version in self._repository.versions()]
        served = [loaded for loaded in released if loaded is not None]
        return all([loaded.batcher.close(max(0.0, deadline_s - time.monotonic())) for loaded in served])


def _routing(model: Model) -> tuple[Rollout | None, str]:
    """What of a model says how its requests are routed."""
    return model.rollout, model.rollout_problem
