"""The model repository extension: the index, and loading and unloading of models at a client's request."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2
from frostline_server.errors import InvalidInput, LoadError, Unsupported, sendable
from frostline_server.model_config.accelerators import file_options
from frostline_server.model_config.pbtxt import parse_model_config
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import ModelVersion, Repository

T = TypeVar("T")
_PASSING = ("LOADING", "UNLOADING")


class ModelControl:
    """Answers the methods of the extension.

    Args:
        repository: the models.
        reconciler: loads and unloads them.
    """

    def __init__(self, repository: Repository, reconciler: Reconciler) -> None:
        self._repository = repository
        self._reconciler = reconciler
        self._free = asyncio.Semaphore(1)

    def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every version, its state, and why it is not READY; and the name of each model that is not loaded.

        What looks like a version and is none has no number here, and a reason.
        """
        versions = self._repository.versions()
        index = [_indexed(version) for version in versions if version.ready or not request.ready]
        if request.ready:
            return pb.RepositoryIndexResponse(models=index)
        waiting, remarks = self._repository.waiting(), self._reconciler.remarks()
        index += [
            pb.RepositoryIndexResponse.ModelIndex(
                name=name, version=version, state="LOADING", reason="waits to be loaded"
            )
            for name, version in waiting
        ]
        index += [
            pb.RepositoryIndexResponse.ModelIndex(name=name, state="UNAVAILABLE", reason=sendable(remark))
            for name, remark in remarks
        ]
        unloaded = set(self._reconciler.unloaded()) - {name for name, _ in (*waiting, *remarks)}
        index += [pb.RepositoryIndexResponse.ModelIndex(name=name) for name in sorted(unloaded)]
        return pb.RepositoryIndexResponse(models=index)

    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load or reload a model; returns when it is READY.

        Raises:
            InvalidInput: a parameter is unknown or invalid.
            LoadFailed: it cannot be served.
            ModelControlOff: models are not loaded by request on this server.
            ModelNotFound: it has no folder.
            Unsupported: the request has the model's files, or a configuration that names files of the server.
        """

        def load() -> Future[None]:
            # Here too, as a large configuration takes a while to be read.
            config, warnings = _configuration(request.model_name, request.parameters)
            self._reconciler.start_load(request.model_name, config, warnings)
            return self._reconciler.tried(request.model_name)

        tried = await self._work(load)
        # Meanwhile others may load and unload. It is for all who wait for this model, so this call's end does not cancel it.
        await asyncio.shield(asyncio.wrap_future(tried))
        await self._work(lambda: self._reconciler.finish_load(request.model_name))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Unload every version of a model; returns when all accepted requests are answered.

        Raises:
            InvalidInput: a parameter is unknown or invalid.
            ModelControlOff: models are not unloaded by request on this server.
            ModelNotFound: it is not loaded.
        """
        for name, value in request.parameters.items():
            if name != "unload_dependents":
                raise InvalidInput(f"unrecognized parameter '{name}' for unloading model '{request.model_name}'")
            if value.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidInput("invalid value type for 'unload_dependents' parameter, expected bool_param.")
        await self._work(lambda: self._reconciler.unload_model(request.model_name))
        return pb.RepositoryModelUnloadResponse()

    async def _work(self, work: Callable[[], T]) -> T:
        """Run work that takes seconds in a thread, one at a time, so that waiting work occupies no thread."""
        await self._free.acquire()
        task = asyncio.create_task(asyncio.to_thread(work))
        # Not when this call ends: its client may disconnect before the work is done.
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._free.release()
        if not task.cancelled():
            # Read the exception, so that asyncio does not report it as never retrieved.
            task.exception()


def _configuration(
    model: str, parameters: Mapping[str, pb.ModelRepositoryParameter]
) -> tuple[model_config_pb2.ModelConfig | None, Sequence[str]]:
    """The configuration in a load request, or None; and warnings that name its unsupported fields."""
    config: model_config_pb2.ModelConfig | None = None
    warnings: Sequence[str] = ()
    for name, value in parameters.items():
        if name.startswith("file:"):
            raise Unsupported(
                f"parameter '{name}': a request cannot carry a model's files; put them into the models folder"
            )
        if name != "config":
            raise InvalidInput(
                f"unrecognized parameter '{name}' for loading model '{model}'; the only parameter is 'config'"
            )
        if value.WhichOneof("parameter_choice") != "string_param":
            raise InvalidInput("invalid value type for 'config' parameter, expected string_param.")
        try:
            config, warnings = parse_model_config(value.string_param)
        except LoadError as error:
            raise InvalidInput(f"parameter 'config' for model '{model}': {error}") from error
        if files := file_options(config):
            raise Unsupported(
                f"parameter 'config' for model '{model}': {', '.join(files)}: a request cannot name files of the server; "
                "write this into config.pbtxt in the models folder"
            )
        if config.name not in ("", model):
            raise InvalidInput(f"parameter 'config' is the configuration of '{config.name}', not of '{model}'")
    return config, warnings


def _indexed(version: ModelVersion) -> pb.RepositoryIndexResponse.ModelIndex:
    served, state = version.served, version.state
    fault = served.fault if served is not None else ""
    return pb.RepositoryIndexResponse.ModelIndex(
        name=version.name,
        version=version.version,
        # The protocol's word for every state other than ready.
        state=state if (state == "READY" and not fault) or state in _PASSING else "UNAVAILABLE",
        reason=sendable(version.reason or fault),
    )
