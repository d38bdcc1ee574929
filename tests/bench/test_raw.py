"""The study of raw rows: its goals are those of what it measures, and it leaves the machine as it was."""

import io
import os

from PIL import Image

from bench import raw
from bench.measure.targets import verdicts


def test_every_goal_is_of_something_that_is_measured() -> None:
    rows = {
        name: {"rate": [1000.0], "rows": [rate], "cpu_ms": [cpu_ms]}
        for size, in_flight in ((1, 64), (64, 8))
        for name, rate, cpu_ms in (
            (f"raw rows, {size} a request, {in_flight} in flight", 200_000.0, 2.0),
            (f"numbers, {size} a request, {in_flight} in flight", 400_000.0, 1.0),
        )
    }
    pictures = {
        f"JPEG 224 x 224, {cores}{who}": {"rate": [rate], "cpu_ms": [900 / rate]}
        for cores in ("1 core", "2 cores")
        for who, rate in (("", 900.0), (" Pillow alone", 1000.0))
    }
    found = verdicts(rows | pictures, raw.GOALS)
    assert [verdict.measured for verdict in found] == [200_000, 200_000, 0.5, 0.5, 0.9, 0.9]
    assert all(verdict.met for verdict in found)


def test_a_block_on_some_cores_leaves_the_others_for_later() -> None:
    before = os.sched_getaffinity(0)
    with raw.on([min(before)]):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_pillow_alone_has_a_rate() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    assert raw.decoding([file.getvalue()], 2, 0.01)["rate"] > 0
