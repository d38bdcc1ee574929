"""The model repository extension: what is there, and loading and unloading on demand."""

from frostline.pb import inference_pb2 as pb
from server.repository import Repository


class ModelControl:
    """Answers for the repository.

    Args:
        repository: the models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every version, its state, and why it is not READY."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=version.name,
                    version=version.version,
                    # The protocol's word for what this server calls FAILED.
                    state="UNAVAILABLE" if version.state == "FAILED" else version.state,
                    reason=version.reason,
                )
                for version in self._repository.versions()
                if version.state == "READY" or not request.ready
            ]
        )
