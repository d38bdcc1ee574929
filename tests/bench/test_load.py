"""The schedule of an open loop, and what is read off h2load's report and log."""

from pathlib import Path

import numpy as np
import pytest

from bench.load import h2load
from frostline.tune import openloop

REPORT = """finished in 2.00s, 96810.00 req/s, 298.78MB/s
requests: 1000 total, 1064 started, 1000 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 597.57MB (626597552) total, 567.32KB (580935) headers (space savings 96.30%), 591.80MB ({data}) data
                     min         max         mean         sd        +/- sd
"""


def test_a_poisson_schedule_has_its_rate_and_its_spread() -> None:
    times = openloop.poisson(10_000, 10.0)
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert 0 <= times[0] < times[-1] < 10.0
    assert len(times) == pytest.approx(100_000, rel=0.02)
    # Of an exponential distribution mean and deviation are the same.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)


def test_a_schedule_is_the_same_for_the_same_seed_only() -> None:
    assert openloop.poisson(100, 1.0, seed=1).tolist() == openloop.poisson(100, 1.0, seed=1).tolist()
    assert openloop.poisson(100, 1.0, seed=1).tolist() != openloop.poisson(100, 1.0, seed=2).tolist()


def test_answers_of_the_right_size_count() -> None:
    assert h2load.checked(REPORT.format(succeeded=1000, failed=0, data=100_000), 64, 100) == 1000


def test_what_was_in_flight_at_the_end_may_be_there_in_part() -> None:
    assert h2load.checked(REPORT.format(succeeded=1000, failed=0, data=106_300), 64, 100) == 1000


@pytest.mark.parametrize(
    ("succeeded", "failed", "data", "complaint"),
    [
        (1000, 0, 99_900, "some requests failed"),
        (1000, 0, 106_500, "some requests failed"),
        (999, 1, 99_900, "reports failures"),
        (0, 0, 0, "reports failures"),
    ],
)
def test_a_run_with_errors_is_refused(succeeded: int, failed: int, data: int, complaint: str) -> None:
    with pytest.raises(h2load.LoadFailed, match=complaint):
        h2load.checked(REPORT.format(succeeded=succeeded, failed=failed, data=data), 64, 100)


def test_a_report_that_is_none_is_refused() -> None:
    with pytest.raises(h2load.LoadFailed, match="cannot be read"):
        h2load.checked("h2load: command not understood", 64, 100)


def test_rate_and_percentiles_leave_the_warm_up_out() -> None:
    # One request every millisecond for a second: slow ones at first, then 200 microseconds each.
    start = np.arange(0, 1_000_000, 1000)
    took = np.where(start < 150_000, 50_000, 200)
    run = h2load.summary(np.stack([start, np.full(1000, 200), took], axis=1), 1000)
    assert run.answered == 1000
    assert run.rate == pytest.approx(1000, rel=0.01)
    assert run.p50_ms == run.p99_ms == 0.2


def test_answers_in_bursts_are_counted_from_the_end_of_one_to_the_end_of_another() -> None:
    # Batches of 64 every 64 ms are 1000 a second, wherever the warm-up ends within one.
    end = np.repeat(np.arange(64_000, 2_000_000, 64_000), 64)
    run = h2load.summary(np.stack([end - 64_000, np.full(len(end), 200), np.full(len(end), 64_000)], axis=1), len(end))
    assert run.rate == pytest.approx(1000)


def test_the_99th_percentile_is_of_every_request() -> None:
    start = np.arange(100_000) * 10
    took = np.where(np.arange(100_000) % 50 == 0, 9000, 300)
    run = h2load.summary(np.stack([start, np.full(100_000, 200), took], axis=1), 100_000)
    assert (run.p50_ms, run.p99_ms) == (0.3, 9.0)


def test_a_generator_that_never_ends_is_run_again_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(h2load, "_PATIENCE_S", 0.2)
    once = tmp_path / "once"
    hangs_once = f"if [ -e {once} ]; then echo report; else touch {once}; exec sleep 60; fi"
    assert h2load._report(["sh", "-c", hangs_once], 0.0) == "report\n"
    with pytest.raises(h2load.LoadFailed, match=r"h2load did not end within .* 3 times: sleep 60"):
        h2load._report(["sleep", "60"], 0.0)
