"""The models folder as the server sees it: what was found in it, and what of that can be loaded now.

Files that are being copied, and folders that a deployment deletes to write them anew, are given a moment.
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from frostline.pb import model_config_pb2
from frostline_server.model.artifact import Artifact, whole
from frostline_server.regular_files import FileReader
from frostline_server.repository.plan import Fingerprint, Known, OnDisk, plan
from frostline_server.repository.registry import ModelVersion, Repository
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.routes import standing, wanted
from frostline_server.repository.scan import Model, rerouted, scan
from frostline_server.repository.stability import Key, StabilityCheck
from frostline_server.repository.unchanged import keep_unchanged

FOLDER = 0
"""Stands for a model's folder as a whole where versions have their numbers."""
_REST = 10
"""How many times longer than a look at one model the next one waits: thousands of versions take a while to look at."""
_REMARKS = -1
"""Stands for the remarks about a model's folder."""


class ModelsFolder:
    """The models that the last scan found.

    One thread at a time calls its methods; `models` may be read from any, and `reroute` and `instead` called.

    Args:
        root: the folder of models.
        repository: the versions in service.
        clock: monotonic time in seconds.
        files: reads what is in the folder.
        name: of the model, where the folder is one itself; by default the folder's.
        settles: whether new files must have settled before they are loaded; otherwise they are taken as they are.

    Attributes:
        models: by name; replaced as a whole.
        changing: held while they are replaced.
    """

    def __init__(
        self,
        root: Path,
        repository: Repository,
        clock: Callable[[], float],
        files: FileReader,
        *,
        name: str = "",
        settles: bool,
    ) -> None:
        self._root = root
        self._name = name
        self._repository = repository
        self._files = files
        self._settles = settles
        self._stability = StabilityCheck(clock)
        # What was read of a version to prove that it is complete, which is the one that is loaded next.
        self._proved: tuple[Key, Artifact] | None = None
        self._clock = clock
        # When the last look at each model alone ended, and how long it took, in seconds.
        self._looks: dict[str, tuple[float, float]] = {}
        self.models: Mapping[str, Model] = {}
        self.changing = threading.RLock()
        self._reroutes = 0
        # By model a rollout and the one to use in its place, where the file cannot be written.
        self._instead: Mapping[str, tuple[Rollout, Rollout]] = {}

    def scan(self, only: str = "") -> None:
        """Look at every model, or at one of them, again.

        A model whose folder is gone stays for a moment, as one without versions: it may be written anew.

        Raises:
            OSError: the folder cannot be read.
        """
        reroutes = self._reroutes
        found = scan(self._root, self.models, only, self._files, self._name)
        with self.changing:
            self._found(found, only)
        if self._reroutes != reroutes:
            self.reroute()  # what was found may be older

    def _found(self, found: dict[str, Model], only: str) -> None:
        if only:
            found = {name: model for name, model in self.models.items() if name != only} | found
        for name, model in self.models.items() if self._settles else ():
            if name not in found and not self._stability.settled((name, FOLDER), model.fingerprint):
                found[name] = replace(model, versions={}, problem="", warnings=(), remarks=())
        instead = {
            name: (judged, after)
            for name, (judged, after) in self._instead.items()
            if name in found and found[name].rollout in (judged, after)
        }
        self._instead = keep_unchanged(self._instead, instead)
        found |= {name: replace(found[name], rollout=after) for name, (_, after) in self._instead.items()}
        self.models = keep_unchanged(self.models, found)

    def reroute(self) -> None:
        """Read the rollouts of all models again, and nothing else."""
        # Nobody waits while the disk is read, which may take long, or for ever.
        read = [(name, model, rerouted(model, self._files)) for name, model in self.models.items()]
        with self.changing:
            changed = {}
            for name, model, after in read:
                judged, decided = self._instead.get(name, (None, None))
                if decided is not None and after.rollout == judged:
                    after = replace(after, rollout=decided)  # noqa: PLW2901  as the file would say
                # What was found anew meanwhile was read later.
                if after != model and self.models.get(name) is model:
                    changed[name] = after
            if changed:
                self.models = {**self.models, **changed}
                self._reroutes += 1

    def instead(self, name: str, judged: Rollout, after: Rollout) -> None:
        """Use the rollout `after` from the next look at it on, for as long as the model's file says `judged`."""
        with self.changing:
            self._instead = {**self._instead, name: (judged, after)}

    def changed(self, name: str) -> bool:
        """Look at one model again, if to look does not take longer than what is done in between.

        Returns:
            Whether it has changed since the last look at it.

        Raises:
            OSError: the folder cannot be read.
        """
        began_s, (ended_s, took_s) = self._clock(), self._looks.get(name, (-math.inf, 0.0))
        if began_s - ended_s < _REST * took_s:
            return False
        before = self.models.get(name)
        self.scan(only=name)
        ended_s = self._clock()
        self._looks[name] = ended_s, ended_s - began_s
        return self.models.get(name) != before

    def looked(self) -> bool:
        """End a scan, all that it found having been dealt with; returns whether some of it may still be being written."""
        present = {
            (name, number)
            for name, model in self.models.items()
            for number in (*(model.versions or (FOLDER,)), *((_REMARKS,) if model.remarks else ()))
        }
        self._stability.looked(present)
        for gone in self._looks.keys() - self.models.keys():
            del self._looks[gone]
        return any([not self._settled(self.models[name], number) for name, number in present])

    def on_disk(self, name: str, override: model_config_pb2.ModelConfig | None = None) -> OnDisk | None:
        """A model as the plan sees it, or None if it has no folder, or had no versions for a while.

        Args:
            name: the model.
            override: a configuration used instead of its own.
        """
        model = self.models.get(name)
        if model is None:
            return None
        config = model.config if override is None else override
        if not model.versions:
            return None if self._settled(model, FOLDER) else OnDisk(config.version_policy, {})
        known = self._repository.of(name)
        versions: dict[int, Fingerprint] = {}
        settling: set[int] = set()
        for number, files in model.versions.items():
            if self._settled(model, number):
                versions[number] = files if override is None else (*files, _identity(override))
            elif number in known and known[number].state != "LOADING":
                # Its files as they were at the last try.
                versions[number] = known[number].refused or known[number].fingerprint
            else:
                settling.add(number)
        return OnDisk(config.version_policy, versions, wanted(model.rollout), standing(model.rollout), settling)

    def known(self, name: str) -> dict[int, Known]:
        """The versions of a model as the plan sees them. One in trial has neither been loaded nor failed."""
        return {
            number: Known(version.state == "READY", version.fingerprint, version.refused)
            for number, version in self._repository.of(name).items()
            if version.state != "LOADING"
        }

    def problem(self, name: str, override: model_config_pb2.ModelConfig | None = None) -> str:
        """Why nothing that is in a model's folder can be loaded, or "".

        Args:
            name: the model.
            override: a configuration used instead of its own.
        """
        model = self.models.get(name)
        if model is None or (model.misconfigured and override is not None):
            return ""
        if not model.versions:
            known = self._repository.of(name)
            if any(version.state == "READY" for version in known.values()):
                return ""  # first it is withdrawn
            if not self._settled(model, FOLDER):
                return known[FOLDER].reason if FOLDER in known else ""
        return model.problem

    def remarks(self, name: str, *, settled: bool = False) -> tuple[str, ...]:
        """What looks like a version in a model's folder and is none, if that is not why the model is FAILED.

        Args:
            name: the model.
            settled: whether to leave out what may be a version soon.
        """
        model = self.models.get(name)
        if model is None or not model.remarks or (settled and not self._settled(model, _REMARKS)):
            return ()
        return () if FOLDER in self._repository.of(name) and not model.versions else model.remarks

    def prove(self, name: str) -> None:
        """Let the version that would be loaded next prove that it is complete, so that it need not settle."""
        model, on_disk = self.models.get(name), self.on_disk(name)
        if model is None or on_disk is None or not on_disk.settling:
            return
        versions = {**on_disk.versions, **{number: model.versions[number] for number in on_disk.settling}}
        for number in plan(replace(on_disk, versions=versions, settling=frozenset()), self.known(name)).load:
            key = name, number
            if number not in on_disk.settling:
                return
            if self._stability.prove(key, model.versions[number], partial(self._is_whole, model, key)):
                return

    def take(self, key: Key) -> Artifact | None:
        """What was read of a version to prove that it is complete, given away; None if it was another one or none."""
        proved, self._proved = self._proved, None
        return proved[1] if proved is not None and proved[0] == key else None

    def _is_whole(self, model: Model, key: Key) -> bool:
        artifact = whole(model.version_folder(key[1]), model.config, self._files)
        self._proved = None if artifact is None else (key, artifact)
        return artifact is not None

    def _settled(self, model: Model, number: int) -> bool:
        """Whether a version can be loaded, its files being no longer written.

        Number 0 asks whether a folder without versions stays one, -1 whether the remarks about a folder stay true.
        """
        if not self._settles:
            return True
        if number == _REMARKS:
            files: Fingerprint = tuple((remark, 0, 0, 0) for remark in model.remarks)
        else:
            files = model.versions.get(number, model.fingerprint)
        key, known = (model.name, number), self._repository.of(model.name).get(number)
        if known is not None and _tried(known, files):
            self._stability.trust(key, files)
            return True
        return self._stability.settled(key, files)


def _tried(version: ModelVersion, files: Fingerprint) -> bool:
    return files in (version.fingerprint, version.refused)


def _identity(config: model_config_pb2.ModelConfig) -> tuple[str, int, int, int]:
    """A client's configuration, as an entry of a fingerprint."""
    return config.SerializeToString(deterministic=True).hex(), 0, 0, 0
