"""Which versions of which models exist, the state of each, and handing out the one asked for.

    LOADING -> READY -> UNLOADING -> gone, or FAILED with a reason; forward only.

A version is READY only once it is loaded, warm, and proved against its golden sample. If it fails, the version before
it is tried, so that one bad publication never takes a model away.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from frostline.pb import model_config_pb2
from server.errors import InvalidInput, LoadError, ModelNotFound, ModelNotReady
from server.folder import Model, is_version, scan
from server.loader import Loader, Served


@dataclass(slots=True, eq=False)
class ModelVersion:
    """One version of a model.

    Attributes:
        name: the model's name.
        version: its number, in decimal.
        path: its folder.
        config: the model's own configuration.
        state: LOADING, READY, UNLOADING or FAILED.
        reason: why it is FAILED.
        served: what it answers with, from READY on.
        load_s: how long loading took.
    """

    name: str
    version: str
    path: Path
    config: model_config_pb2.ModelConfig
    state: str = "LOADING"
    reason: str = ""
    served: Served | None = None
    load_s: float = 0.0


class Repository:
    """Every version the server knows.

    Args:
        root: the folder of models.
        loader: loads versions.
        on_change: told of each version whose state has changed.
        on_warning: told of a model's name and of what in its configuration is not honoured.
    """

    def __init__(
        self,
        root: Path,
        loader: Loader,
        *,
        on_change: Callable[[ModelVersion], None],
        on_warning: Callable[[str, str], None],
    ) -> None:
        self._root = root
        self._loader = loader
        self._on_change = on_change
        self._on_warning = on_warning
        self._versions: dict[str, dict[str, ModelVersion]] = {}
        # What a request's (name, version) means; replaced whole, so readers need no lock.
        self._ready: dict[tuple[str, str], Served] = {}
        self._closing = False

    def load(self) -> None:
        """Find and load every version the policies ask for; blocks. Failures become states, never exceptions."""
        for model in scan(self._root):
            for warning in model.warnings:
                self._on_warning(model.name, warning)
            if model.problem:
                self._fail(self._add(model, "0"), model.problem)
                continue
            tried: set[int] = set()
            for group in model.groups:
                for number in group:
                    if self._closing:
                        return
                    if number in tried:
                        continue
                    tried.add(number)
                    if self._load(self._add(model, str(number))):
                        break

    def _add(self, model: Model, version: str) -> ModelVersion:
        entry = ModelVersion(model.name, version, model.path / version, model.config)
        self._versions.setdefault(model.name, {})[version] = entry
        self._on_change(entry)
        return entry

    def _load(self, version: ModelVersion) -> bool:
        started_s = time.monotonic()
        try:
            version.served = self._loader.load(
                version.path, version.name, version.config, lambda warning: self._on_warning(version.name, warning)
            )
        except LoadError as error:
            self._fail(version, str(error))
            return False
        except Exception as error:  # noqa: BLE001  a version must never take the server down, whatever is in its folder
            self._fail(version, f"unexpected {type(error).__name__} while loading: {error}")
            return False
        version.load_s = time.monotonic() - started_s
        version.state = "READY"
        self._publish()
        self._on_change(version)
        return True

    def _fail(self, version: ModelVersion, reason: str) -> None:
        version.reason = reason
        version.state = "FAILED"
        self._on_change(version)

    def _publish(self) -> None:
        ready: dict[tuple[str, str], Served] = {}
        for version in self.versions():
            if version.state == "READY" and version.served is not None:
                ready[version.name, version.version] = version.served
                # Versions come in ascending order, so the last one written is the highest.
                ready[version.name, ""] = ready[version.name, "latest"] = version.served
        self._ready = ready

    def get(self, name: str, version: str) -> Served:
        """The version that answers a request.

        Args:
            name: the model.
            version: a number in decimal; "" or "latest" for the highest that is READY.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it exists and is not READY.
            InvalidInput: the version is no number.
        """
        found = self._ready.get((name, version))
        if found is None:
            raise self._explain(name, version)
        return found

    def _explain(self, name: str, version: str) -> Exception:
        versions = self._versions.get(name)
        if versions is None:
            return ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if version in ("", "latest"):
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
                "integer > 0"
            )
        entry = versions.get(version)
        if entry is None:
            return ModelNotFound(f"Request for unknown model: '{name}' version {version} is not found")
        because = f": {entry.reason}" if entry.reason else ""
        return ModelNotReady(
            f"Request for unknown model: '{name}' version {version} is not at ready state (it is {entry.state}{because})"
        )

    def versions(self, name: str = "") -> list[ModelVersion]:
        """Every version, of one model or of all, by name and number."""
        models = {name: self._versions.get(name, {})} if name else dict(self._versions)
        return [
            version
            for _, versions in sorted(models.items())
            for version in sorted(versions.values(), key=lambda v: int(v.version))
        ]

    def ready_versions(self, name: str) -> list[str]:
        """Numbers of a model's READY versions, ascending."""
        return [version.version for version in self.versions(name) if version.state == "READY"]

    def stop_loading(self) -> None:
        """Make a `load` under way return after the version it is at."""
        self._closing = True

    def close(self, timeout_s: float) -> bool:
        """Finish what is queued for every version and release them; blocks at most `timeout_s` seconds.

        Returns:
            Whether everything accepted was finished.
        """
        deadline_s = time.monotonic() + timeout_s
        for version in self.versions():
            if version.state == "READY":
                version.state = "UNLOADING"
                self._on_change(version)
        self._publish()
        # Every queue drains at the same time; each is only waited for in turn.
        served = [version.served for version in self.versions() if version.served is not None]
        return all([entry.batcher.close(max(0.0, deadline_s - time.monotonic())) for entry in served])
