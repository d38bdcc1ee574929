"""The model repository extension: what is there, and loading and unloading on demand."""

from frostline.pb import inference_pb2 as pb
from server.repository import ModelVersion, Repository

_PASSING = ("LOADING", "UNLOADING")


class ModelControl:
    """Answers for the repository.

    Args:
        repository: the models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every version, its state, and why it is not READY; and the name of each model that is not loaded."""
        versions = self._repository.versions()
        index = [_indexed(version) for version in versions if version.ready or not request.ready]
        if not request.ready:
            index += [pb.RepositoryIndexResponse.ModelIndex(name=name) for name in self._repository.unloaded()]
        return pb.RepositoryIndexResponse(models=index)


def _indexed(version: ModelVersion) -> pb.RepositoryIndexResponse.ModelIndex:
    served, state = version.served, version.state
    fault = served.fault if served is not None else ""
    return pb.RepositoryIndexResponse.ModelIndex(
        name=version.name,
        version=version.version,
        # The protocol's word for what cannot be relied on, whatever this server calls it.
        state=state if (state == "READY" and not fault) or state in _PASSING else "UNAVAILABLE",
        reason=version.reason or fault,
    )
