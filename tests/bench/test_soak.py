"""The soak: its line through memory, its verdict, its record, and the models and requests that it uses."""

import json
import math
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bench.load import versions
from bench.load.versions import Answers
from bench.load.workload import WrongAnswer, one_thread
from bench.measure import document
from bench.soak import report, verdict
from bench.soak.bad import BAD
from bench.soak.calls import Ledger
from bench.soak.changes import KEPT, Hostile, Versions
from bench.soak.footprint import footprint
from frostline.pb import inference_pb2 as pb
from frostline.protocol import MODEL_INFER
from tests.support.servers import Running, running

ENDED = {"death": "", "open": 0, "stop_s": 0.4}


def record(at_s: float, *, rss_mib: float = 150.0, **changed: Any) -> dict[str, Any]:
    """A line of the record of a soak in which all is well, but for what is changed."""
    server = {
        "rss_mib": rss_mib,
        "anonymous_mib": 100.0,
        "threads": 13,
        "descriptors": 26,
        "children": 0,
        "children_mib": 0.0,
        "cpu_s": at_s / 4,
    }
    seen = {"ended": {"infer OK": 600}, "lost": {}, "wrong": {}, "p50_ms": 2.0, "p99_ms": 9.0, "most_ms": 12.0}
    of_server = {key: value for key, value in changed.items() if key in server}
    return {"at_s": at_s, "server": server | of_server, **seen, **{k: v for k, v in changed.items() if k in seen}}


def hour(per_h: float = 0.0, **changed: Any) -> list[dict[str, Any]]:
    """A record of an hour in which memory grows by so many MiB."""
    return [record(at, rss_mib=150 + per_h * at / 3600, **changed) for at in range(10, 3601, 10)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the first version of the good models."""
    folder = tmp_path_factory.mktemp("models")
    for name in versions.NAMES:
        versions.publish(folder, name, 1)
    with running(folder) as server:
        yield server


def test_a_straight_line_is_found_exactly() -> None:
    at_s = np.arange(0, 3600, 10.0)
    found = verdict.slope(list(at_s), list(100 + 7 * at_s / 3600))
    assert found.per_h == pytest.approx(7.0)
    assert found.margin == pytest.approx(0.0, abs=1e-6)


def test_the_interval_holds_the_slope_of_noisy_memory() -> None:
    rng = np.random.default_rng(0)
    at_s = np.arange(0, 3000, 10.0)
    found = [verdict.slope(list(at_s), list(3 * at_s / 3600 + rng.normal(size=300))) for _ in range(200)]
    held = sum(abs(each.per_h - 3) <= each.margin for each in found)
    assert 180 <= held <= 200
    assert all(0 < each.margin < 1 for each in found)


def test_too_few_minutes_have_no_slope_and_are_no_success() -> None:
    assert math.isnan(verdict.slope([1.0, 2.0, 100.0], [1.0, 2.0, 3.0]).per_h)
    assert verdict.complaints([record(10)], ENDED)


def test_a_soak_in_which_all_is_well_has_no_complaint() -> None:
    assert verdict.complaints(hour(), ENDED) == []


def test_memory_may_find_its_level_in_the_first_ten_minutes() -> None:
    records = hour()
    for line in records[:59]:
        line["server"]["rss_mib"] = 50.0
    assert verdict.complaints(records, ENDED) == []


@pytest.mark.parametrize(
    ("records", "end", "complaint"),
    [
        (hour(per_h=2.5), ENDED, "memory grows by +2.50 ± 0.00 MiB an hour"),
        (hour(wrong={"infer: off": 1}), ENDED, "360 wrong: infer: off"),
        (hour(lost={"infer CANCELLED: ": 2}), ENDED, "720 lost: infer CANCELLED: "),
        (hour(), {**ENDED, "death": "it ended with code -6"}, "the server ended: it ended with code -6"),
        (hour(), {**ENDED, "open": 3}, "3 calls never ended"),
        (hour(), {**ENDED, "stop_s": 30.0}, "it took 30.0 s to stop"),
        (hour()[:-80] + [record(at, threads=40) for at in range(2810, 3601, 10)], ENDED, "+27 threads"),
        (hour()[:-80] + [record(at, descriptors=99) for at in range(2810, 3601, 10)], ENDED, "+73 descriptors"),
    ],
)
def test_a_verdict_says_what_is_not_as_it_should_be(
    records: list[dict[str, Any]], end: dict[str, Any], complaint: str
) -> None:
    assert verdict.complaints(records, end) == [complaint]


def test_processes_that_come_and_go_are_no_growth_but_what_they_keep_is() -> None:
    records = hour()
    for number, line in enumerate(records):
        line["server"]["children_mib"] = 500.0 if number % 3 else 40.0
    assert verdict.complaints(records, ENDED) == []
    for number, line in enumerate(records):
        line["server"]["children_mib"] += number
    assert len(verdict.complaints(records, ENDED)) == 1


def test_a_ledger_tells_lost_from_asked_for_and_counts_what_is_open() -> None:
    ledger = Ledger()
    for _ in range(5):
        ledger.begin()
    ledger.end("infer", "OK", ("OK",), took_s=0.002)
    ledger.end("infer", "UNAVAILABLE", ("OK",), why="no such connection", took_s=None)
    ledger.end("infer, cancelled", "CANCELLED", ("OK", "CANCELLED"), took_s=None)
    ledger.end("infer", "OK", ("OK",), wrong="off by 1", took_s=0.5)
    seen = ledger.period()
    assert seen["lost"] == {"infer UNAVAILABLE: no such connection": 1}
    assert seen["wrong"] == {"infer: off by 1": 1}
    assert seen["open"] == 1
    assert (seen["p50_ms"], seen["most_ms"]) == (2.0, 2.0)
    assert ledger.period()["ended"] == Counter()


def test_a_record_that_was_cut_off_still_has_its_samples(tmp_path: Path) -> None:
    file = tmp_path / "soak.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in hour()[:10]), encoding="utf-8")
    records, end = report.read(file)
    assert len(records) == 10
    assert "cut off" in report.summary(records, end)
    with file.open("a", encoding="utf-8") as written:
        written.write(json.dumps({"end": ENDED}) + "\n")
    assert report.read(file)[1] == ENDED


def test_the_section_has_the_numbers_and_the_chart(tmp_path: Path) -> None:
    records = hour(per_h=1.0)
    text = report.body(records, ENDED, "today")
    assert "60 minutes: met." in text
    assert "| calls and requests of streams | 216,000 |" in text
    assert "+1.00 ± 0.00" in text
    assert report.chart(records, tmp_path / "soak.svg").stat().st_size > 10_000


def test_our_document_has_a_place_for_the_section() -> None:
    text = (Path(__file__).parents[2] / report.DOCUMENT).read_text(encoding="utf-8")
    assert "fresh" in document.with_section(text, report.SECTION, "fresh")


@pytest.mark.parametrize("name", versions.NAMES)
def test_an_answer_shows_which_version_gave_it(name: str) -> None:
    answers = Answers()
    inputs = answers.inputs[name][1]
    (logits,) = one_thread(versions.network(name, 2)).run(["logits"], inputs)
    answers.check(name, 1, "2", logits.shape, logits.tobytes())
    with pytest.raises(WrongAnswer, match="version 1"):
        answers.check(name, 1, "1", logits.shape, logits.tobytes())
    with pytest.raises(WrongAnswer, match="as version 'stable'"):
        answers.check(name, 1, "stable", logits.shape, logits.tobytes())
    with pytest.raises(WrongAnswer, match="expected"):
        answers.check(name, 1, "2", logits.shape, logits.tobytes()[:-4])


def test_the_folder_stays_bounded(tmp_path: Path) -> None:
    changes = Versions(tmp_path)
    published = [changes.publish() for _ in range(9)]
    assert published[-1] == ("text", 4)
    assert sorted(file.name for file in (tmp_path / "mlp").iterdir()) == ["3", "4"]
    assert all(len(list(folder.iterdir())) == KEPT for folder in tmp_path.iterdir())


def test_hostile_models_come_and_go(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    names = ["broken-empty", "broken-text", "fifo-card", "name-newline"]
    hostile = Hostile(models, tmp_path / "staging", names)
    assert [hostile.publish() for _ in range(9)] == [*names, *names, names[0]]
    assert len(list(models.iterdir())) == 3
    assert len(list((tmp_path / "staging").iterdir())) == 1


def test_a_footprint_counts_a_process_with_its_threads_files_and_children() -> None:
    before = footprint(os.getpid())
    with subprocess.Popen(["sleep", "60"]) as child:
        taken = footprint(os.getpid())
        child.kill()
    assert taken.children == before.children + 1
    assert taken.rss_mib > taken.anonymous_mib > 1
    assert taken.threads > 1
    assert taken.descriptors > 3


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.timeout_s > 1])
def test_a_bad_request_ends_with_a_status_that_it_asked_for(name: str, served: Running) -> None:
    bad = BAD[name]
    with grpc.insecure_channel(served.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(bad.method, None, None)(bad.message, timeout=10)
    assert refused.value.code().name in bad.allowed


@pytest.mark.parametrize("name", versions.NAMES)
def test_a_published_version_is_served_as_onnx_runtime_answers(name: str, served: Running) -> None:
    answers = Answers()
    message = versions.infer_request(name, answers.inputs[name][2]).SerializeToString()
    with grpc.insecure_channel(served.address) as channel:
        response = channel.unary_unary(MODEL_INFER, None, pb.ModelInferResponse.FromString)(message, timeout=10)
    answers.check_infer(name, 2, response)
