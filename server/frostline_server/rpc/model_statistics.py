"""The statistics extension: a version's accumulators as a `ModelStatistics` response."""

from frostline.pb import inference_pb2 as pb
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.stats import BatchTimes, Snapshot
from frostline_server.repository.registry import Repository


class Statistics:
    """Answers ModelStatistics.

    Args:
        repository: the models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """The counters of one version, of every version of a model, or of all."""
        # Raises if the version does not exist, and resolves "latest".
        asked = self._repository.get(request.name, request.version).version if request.name else ""
        ready = [
            served
            for version in self._repository.versions(request.name)
            # It may be released meanwhile, so read the attribute once.
            if version.state == "READY" and (served := version.served) is not None
        ]
        return pb.ModelStatisticsResponse(
            model_stats=[_statistics(served) for served in ready if not request.version or served.version == asked]
        )


def _statistics(version: LoadedModel) -> pb.ModelStatistics:
    snapshot = version.stats.snapshot()
    return pb.ModelStatistics(
        name=version.name,
        version=version.version,
        last_inference=snapshot.last_inference_ms,
        inference_count=snapshot.rows,
        execution_count=snapshot.executions,
        inference_stats=_stages(snapshot),
        batch_stats=[_batch(size, times) for size, times in snapshot.by_size.items()],
    )


def _stages(snapshot: Snapshot) -> pb.InferStatistics:
    answered = snapshot.succeeded
    return pb.InferStatistics(
        success=_duration(answered, snapshot.request_s),
        fail=_duration(sum(snapshot.reasons.values()), snapshot.failed_s),
        queue=_duration(answered, snapshot.queue_s),
        compute_input=_duration(answered, snapshot.assemble_s),
        compute_infer=_duration(answered, snapshot.run_s),
        compute_output=_duration(answered, snapshot.answer_s),
    )


def _batch(size: int, times: BatchTimes) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(times.count, times.assemble_s),
        compute_infer=_duration(times.count, times.run_s),
        compute_output=_duration(times.count, times.answer_s),
    )


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=max(0, int(seconds * 1e9)))
