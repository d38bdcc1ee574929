"""One answer of several processes: the worst state of a version, and the sum of what was counted."""

from frostline.pb import inference_pb2 as pb
from frostline_server.processes import merge

Entry = tuple[str, str, str, str]


def answer(*entries: Entry) -> pb.RepositoryIndexResponse:
    return pb.RepositoryIndexResponse(
        models=[
            {"name": name, "version": version, "state": state, "reason": reason}
            for name, version, state, reason in entries
        ]
    )


def merged(*answers: pb.RepositoryIndexResponse, ready: bool = False) -> list[Entry]:
    index = merge.index(pb.RepositoryIndexRequest(ready=ready), dict(enumerate(answers)))
    return [(entry.name, entry.version, entry.state, entry.reason) for entry in index.models]


READY = ("m", "1", "READY", "")
FAILED = ("m", "1", "UNAVAILABLE", "no memory")
LOADING = ("m", "1", "LOADING", "")


def test_what_is_alike_everywhere_is_told_once() -> None:
    assert merged(answer(READY), answer(READY)) == [READY]


def test_the_worst_state_is_told_with_its_reason() -> None:
    assert merged(answer(READY), answer(FAILED), answer(LOADING)) == [FAILED]
    assert merged(answer(LOADING), answer(READY)) == [LOADING]


def test_a_version_that_one_process_does_not_have_is_not_ready() -> None:
    assert merged(answer(READY), answer()) == [("m", "1", "UNAVAILABLE", "not in process 1")]
    assert merged(answer(READY), answer(), ready=True) == []


def test_only_what_is_ready_everywhere_is_told_to_who_asks_for_what_is_ready() -> None:
    assert merged(answer(READY, ("n", "1", "READY", "")), answer(FAILED, ("n", "1", "READY", "")), ready=True) == [
        ("n", "1", "READY", "")
    ]


def test_a_model_that_is_loaded_nowhere_is_told_by_its_name() -> None:
    unloaded = ("m", "", "", "")
    assert merged(answer(unloaded), answer(unloaded)) == [unloaded]
    assert merged(answer(unloaded), answer(READY)) == [("m", "1", "UNAVAILABLE", "not in process 0")]


def counted(count: int, last: int, **batches: int) -> pb.ModelStatisticsResponse:
    duration = {"count": count, "ns": 10 * count}
    return pb.ModelStatisticsResponse(
        model_stats=[
            {
                "name": "m",
                "version": "1",
                "last_inference": last,
                "inference_count": count,
                "execution_count": count,
                "inference_stats": {"success": duration, "queue": duration},
                "batch_stats": [
                    {"batch_size": int(size[1:]), "compute_infer": {"count": number, "ns": number}}
                    for size, number in batches.items()
                ],
            }
        ]
    )


def test_statistics_are_added_up() -> None:
    (sum_,) = merge.statistics([counted(3, 100, x1=3), counted(4, 50, x1=2, x8=1)]).model_stats
    assert (sum_.inference_count, sum_.execution_count, sum_.last_inference) == (7, 7, 100)
    assert (sum_.inference_stats.success.count, sum_.inference_stats.success.ns) == (7, 70)
    assert (sum_.inference_stats.queue.count, sum_.inference_stats.fail.count) == (7, 0)
    assert {batch.batch_size: batch.compute_infer.count for batch in sum_.batch_stats} == {1: 5, 8: 1}
