"""Which candidates are tried, and which wins, from made-up numbers."""

import math

import pytest

from frostline.tune.sweep import Point, Setting, Trial, between, choose, nearest, shapes, sizes, with_point


def trial(name: int, *points: tuple[float, float]) -> Trial:
    return Trial(Setting(name, 1, 8), 1000.0, tuple(Point(rate, 1.0, p99, 0.0) for rate, p99 in points))


def test_a_candidates_best_load_is_the_largest_below_the_first_that_was_too_slow() -> None:
    best = trial(1, (100, 2), (200, 4), (300, 9), (400, 3)).best(5)
    assert best is not None
    assert best.rate == 200
    assert trial(1, (100, math.inf)).best(5) is None


def test_the_candidate_with_the_largest_such_load_wins() -> None:
    slow, fast, never = trial(1, (100, 2), (200, 9)), trial(2, (150, 4)), trial(3, (900, 50))
    assert choose([slow, fast, never], 5) is fast
    assert choose([never], 5) is None


def test_the_nearest_miss_is_the_load_with_the_lowest_percentile() -> None:
    found, point = nearest([trial(1, (100, 20), (200, 40)), trial(2, (50, 8))])
    assert (found.setting.instances, point.rate) == (2, 50)


def test_the_load_to_try_next_lies_between_the_last_good_one_and_the_first_bad_one() -> None:
    one = trial(1, (100, 2), (200, 4), (300, 9))
    assert between(one.points, 5) == 250
    assert between(one.points, 20) is None
    assert between(one.points, 1) is None
    assert [point.rate for point in with_point(one, Point(250, 1, 6, 0)).points] == [100, 200, 250, 300]


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 16, 64, 96])
def test_instances_and_threads_fit_the_cores_and_are_few(cores: int) -> None:
    found = shapes(cores, gpu=False)
    assert 1 <= len(found) <= 6
    assert all(instances * threads <= cores for instances, threads in found)
    assert max(instances * threads for instances, threads in found) * 2 > min(cores, 64)


def test_on_a_gpu_threads_are_left_alone() -> None:
    assert shapes(16, gpu=True) == [(1, 0), (2, 0), (4, 0)]
    assert not Setting(2, 0, 8).fields().parameters
    assert str(Setting(2, 0, 8)) == "batch 8, 2 instances"


def test_the_batch_size_there_is_not_tried_twice() -> None:
    assert sizes(64) == [1, 4, 16, 256]


def test_a_network_without_a_batch_axis_gets_no_batch_size() -> None:
    config = Setting(2, 3, 0).fields()
    assert not config.max_batch_size
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert str(Setting(2, 3, 0)) == "2 x 3 threads"
