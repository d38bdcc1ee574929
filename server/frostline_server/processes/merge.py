"""Answers of several processes to one question, as one answer.

An index tells the worst of what the processes say of a version; statistics are added up.
"""

from collections.abc import Mapping, Sequence

from frostline.pb import inference_pb2 as pb

_Indexed = pb.RepositoryIndexResponse.ModelIndex
_BEST_FIRST = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")


def index(
    request: pb.RepositoryIndexRequest, answers: Mapping[int, pb.RepositoryIndexResponse]
) -> pb.RepositoryIndexResponse:
    """Every version that any process has, in the worst of its states.

    Args:
        request: what the client asked.
        answers: of every process, by number; of all versions, whatever the client asked.
    """
    found: dict[tuple[str, str], dict[int, _Indexed]] = {}
    for number, answer in answers.items():
        for entry in answer.models:
            found.setdefault((entry.name, entry.version), {})[number] = entry
    merged = []
    for (name, version), by_process in found.items():
        worst = max(by_process.values(), key=lambda entry: _BEST_FIRST.index(entry.state) if entry.state else -1)
        missing = sorted(answers.keys() - by_process.keys())
        if missing and not version and not worst.reason:
            continue  # a model that is loaded elsewhere is there by its versions
        if missing and worst.state == "READY":
            where = ", ".join(map(str, missing))
            worst = _Indexed(name=name, version=version, state="UNAVAILABLE", reason=f"not in process {where}")
        if worst.state == "READY" or not request.ready:
            merged.append(worst)
    return pb.RepositoryIndexResponse(models=merged)


def statistics(answers: Sequence[pb.ModelStatisticsResponse]) -> pb.ModelStatisticsResponse:
    """The sums over all processes, by version."""
    merged: dict[tuple[str, str], pb.ModelStatistics] = {}
    for answer in answers:
        for stats in answer.model_stats:
            if (known := merged.setdefault((stats.name, stats.version), stats)) is not stats:
                _add(known, stats)
    return pb.ModelStatisticsResponse(model_stats=merged.values())


def _add(known: pb.ModelStatistics, more: pb.ModelStatistics) -> None:
    known.last_inference = max(known.last_inference, more.last_inference)
    known.inference_count += more.inference_count
    known.execution_count += more.execution_count
    _add_durations(known.inference_stats, more.inference_stats)
    by_size = {batch.batch_size: batch for batch in known.batch_stats}
    for batch in more.batch_stats:
        if batch.batch_size in by_size:
            _add_durations(by_size[batch.batch_size], batch)
        else:
            known.batch_stats.append(batch)


def _add_durations(
    known: "pb.InferStatistics | pb.InferBatchStatistics", more: "pb.InferStatistics | pb.InferBatchStatistics"
) -> None:
    for field, duration in more.ListFields():
        if isinstance(duration, pb.StatisticDuration):
            total: pb.StatisticDuration = getattr(known, field.name)
            total.count += duration.count
            total.ns += duration.ns
