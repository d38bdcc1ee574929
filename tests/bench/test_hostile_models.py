"""The hostile models: the zoo builds what it says, and the verdict on a server among them can fail."""

import json
import stat
import subprocess
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bench.conformance.broken import WIDTH
from bench.hostile_models import files, graphs, report, verdict, zoo
from bench.hostile_models.guard import Guard
from bench.hostile_models.server import Said, said_of
from bench.hostile_models.verdict import Outcome
from bench.hostile_models.zoo import ZOO, Way
from bench.measure import document
from frostline.pb import inference_pb2 as pb

LARGE = {"graph-chain", "size-versions", "size-golden-bomb"} | {name for name in ZOO if name.startswith("size-c")}
"""What takes a second or 50 MB to write."""
CALM: dict[str, Any] = {
    "ended": {"infer OK": 900},
    "lost": {},
    "wrong": {},
    "p50_ms": 2.0,
    "p99_ms": 9.0,
    "most_ms": 12.0,
}
REFUSED = Said("UNAVAILABLE", "card.json is a pipe")
PHASES = ("start", "watch", "swap", "runs", "after", "stop")


def withstood() -> Outcome:
    """A trial in which all is well."""
    return Outcome(
        alone=CALM,
        beside=dict.fromkeys(PHASES, CALM),
        start_s=[2.0, 3.0],
        swap_s=1.5,
        memory_mib=[140.0, 900.0, 145.0],
        said={"fifo-card": REFUSED, "run-counted-by-input": Said("READY", "")},
        asked={"run-counted-by-input": "DEADLINE_EXCEEDED"},
        stop_s=0.4,
        code=0,
    )


def built(name: str, tmp_path: Path) -> Path:
    """A hostile model's folder."""
    zoo.build(tmp_path, [name])
    return tmp_path / zoo.folder_of(name)


def test_there_are_sixty_hostile_models_and_five_of_each_kind() -> None:
    kinds = Counter(way.kind for way in ZOO.values())
    assert len(ZOO) >= 60
    assert min(kinds.values()) >= 5


@pytest.mark.parametrize("name", sorted(set(ZOO) - LARGE))
def test_every_hostile_model_is_a_folder_that_can_be_moved_and_removed(name: str, tmp_path: Path) -> None:
    models, staging = tmp_path / "models", tmp_path / "staging"
    models.mkdir()
    built(name, staging)
    zoo.publish(staging, models, name)
    assert (models / zoo.folder_of(name)).is_dir()
    zoo.withdraw(staging, models, name)
    assert list(models.iterdir()) == []
    zoo.remove(staging / zoo.folder_of(name))
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "file", "is_kind"),
    [
        ("fifo-card", files.CARD, stat.S_ISFIFO),
        ("fifo-rollout", files.ROLLOUT, stat.S_ISFIFO),
        ("fifo-labels", files.LABELS, stat.S_ISFIFO),
        ("socket-model", files.MODEL, stat.S_ISSOCK),
        ("device-card", files.CARD, stat.S_ISCHR),
        ("folder-card", files.CARD, stat.S_ISDIR),
    ],
)
def test_an_odd_file_is_of_the_kind_that_its_name_says(name: str, file: str, is_kind: Any, tmp_path: Path) -> None:
    assert is_kind((built(name, tmp_path) / file).stat().st_mode)


def test_labels_by_a_link_are_the_lines_of_a_file_outside(tmp_path: Path) -> None:
    folder = built("link-labels", tmp_path)
    assert (folder / files.LABELS).resolve() == Path(zoo.PASSWORDS)
    assert f'label_filename: "{files.LABELS}"' in (folder / files.CONFIG).read_text(encoding="utf-8")


def test_a_nested_card_is_deeper_than_any_parser_follows(tmp_path: Path) -> None:
    text = (built("size-card-objects", tmp_path) / files.CARD).read_text(encoding="utf-8")
    assert text.count("{") == files.DEEP
    with pytest.raises(RecursionError):
        json.loads(text)


def test_a_bomb_of_rows_unpacks_to_two_hundred_times_its_size(tmp_path: Path) -> None:
    file = built("size-golden-bomb", tmp_path) / files.GOLDEN
    with zipfile.ZipFile(file) as packed:
        assert packed.getinfo("input.npy").file_size > 1 << 30
    assert file.stat().st_size < (1 << 30) / 200


def test_a_header_lies_about_its_rows(tmp_path: Path) -> None:
    file = built("size-golden-header", tmp_path) / files.GOLDEN
    with zipfile.ZipFile(file) as packed, packed.open("input.npy") as member:
        np.lib.format.read_magic(member)
        assert np.lib.format.read_array_header_1_0(member)[0] == (1 << 40, WIDTH)
        assert member.read() == b""


def test_functions_that_call_twice_are_written_out_to_two_to_the_thirtieth(tmp_path: Path) -> None:
    model = onnx.load(built("graph-functions", tmp_path) / files.MODEL)
    onnx.checker.check_model(model)
    assert len(model.functions) == 30
    assert all(len(function.node) == 2 for function in model.functions[1:])


@pytest.mark.parametrize("name", ["run-endless", "run-counted-by-input", "run-while-positive", "run-large"])
def test_a_model_whose_runs_are_hostile_is_a_valid_file_that_loads(name: str, tmp_path: Path) -> None:
    file = built(name, tmp_path) / files.MODEL
    onnx.checker.check_model(onnx.load(file))
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    if ZOO[name].asks is not None:
        # What a warm-up sends is harmless; the request that the zoo asks is not.
        (answer,) = session.run(None, {"input": np.zeros((1, graphs.WIDTH), np.float32)})
        assert answer.shape == (1, graphs.WIDTH)


def test_a_request_has_one_row_of_every_input() -> None:
    made = pb.ModelInferRequest.FromString(graphs.asked("m", 2.0, [("a", "FP32", (-1, 3)), ("b", "INT32", (2,))]))
    assert [(each.name, list(each.shape)) for each in made.inputs] == [("a", [1, 3]), ("b", [2])]
    assert np.frombuffer(made.raw_input_contents[0], np.float32).tolist() == [2.0] * 3
    assert np.frombuffer(made.raw_input_contents[1], np.int32).tolist() == [2] * 2


def test_a_wide_output_is_as_wide_as_it_says(tmp_path: Path) -> None:
    graphs.wide(1000)(tmp_path / "m")
    session = ort.InferenceSession(tmp_path / "m" / files.MODEL, providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.ones((2, graphs.WIDTH), np.float32)})[0].shape == (2, 1000)


def test_kinds_follow_each_other() -> None:
    names = zoo.mixed(ZOO)
    kinds = [ZOO[name].kind for name in names]
    assert sorted(names) == sorted(ZOO)
    assert len(set(kinds[: len(set(kinds))])) == len(set(kinds))


def test_a_trial_in_which_all_is_well_has_no_complaint() -> None:
    assert verdict.complaints(withstood(), ZOO) == []


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("death", "ended with code -6", "the server ended with code -6"),
        ("said", {"link-labels": Said("READY", "")}, "link-labels: READY"),
        ("said", {"fifo-card": None}, "fifo-card: silence"),
        ("said", {"fifo-card": Said("LOADING", "")}, "fifo-card: never decided"),
        ("said", {"fifo-card": Said("UNAVAILABLE", "")}, "fifo-card: no reason"),
        ("asked", {"run-counted-by-input": "UNKNOWN"}, "run-counted-by-input: its run: UNKNOWN"),
        ("beside", {"swap": CALM | {"lost": {"infer CANCELLED: ": 1}}}, "swap: 1 lost: infer CANCELLED: "),
        ("beside", {"swap": CALM | {"wrong": {"infer: off": 1}}}, "swap: 1 wrong: infer: off"),
        ("beside", {"swap": CALM | {"p99_ms": 28.0, "most_ms": 99.0}}, "swap: p99 3.1x"),
        ("beside", {"swap": CALM | {"most_ms": 7400.0}}, "swap: an answer took 7,400 ms"),
        ("beside", {"swap": CALM | {"p99_ms": None}}, "swap: no answer"),
        ("start_s", [2.0, 62.0], "the good models answered after 62.0 s"),
        ("start_s", [2.0], "the good models answered never"),
        ("swap_s", None, "new versions of the good models did not come in time"),
        ("memory_mib", [140.0, 900.0, 200.0], "memory kept: +43%"),
        ("code", -6, "exit code -6 instead of 0"),
        ("stop_s", 30.0, "it took 30.0 s to stop"),
    ],
)
def test_a_verdict_says_what_is_not_as_it_should_be(field: str, value: Any, complaint: str) -> None:
    assert verdict.complaints(replace(withstood(), **{field: value}), ZOO) == [complaint]


def test_a_model_that_may_be_served_is_judged_by_its_runs() -> None:
    way = Way("run", files.good, refused=False, asks=1.0)
    assert verdict.of_model(way, Said("READY", ""), "DEADLINE_EXCEEDED") == ""
    assert verdict.of_model(way, Said("READY", "")) == ""
    assert verdict.of_model(way, Said("READY", ""), "UNKNOWN") == "its run: UNKNOWN"


def test_what_is_said_of_a_name_that_is_no_text_is_found_by_its_spellings() -> None:
    name = zoo.folder_of("name-bytes")
    index = {(ascii(name)[1:-1], ""): REFUSED}
    assert said_of(name, index, ()) == REFUSED
    line = json.dumps({"event": "model", "state": "FAILED", "model": name, "reason": "not text"})
    assert said_of(name, {}, ["no event", line, "[]"]) == Said("FAILED", "not text")
    assert said_of(name, {}, ["no event"]) is None


def test_of_several_versions_the_one_that_serves_counts() -> None:
    index = {("m", "1"): REFUSED, ("m", "2"): Said("READY", "")}
    assert said_of("m", index, ()) == Said("READY", "")


def test_a_table_has_no_control_characters_and_no_bars() -> None:
    outcome = replace(withstood(), said={"name-escape": Said("UNAVAILABLE", "\x1b[2J | \n" + "x" * 500)})
    row = report.models(outcome).rows[0]
    assert row[3].isprintable()
    assert "|" not in row[3]
    assert len(row[3]) <= 110


def test_our_document_has_a_place_for_the_tables() -> None:
    text = (Path(__file__).parents[2] / report.DOCUMENT).read_text(encoding="utf-8")
    assert "fresh" in document.with_section(text, report.SECTION, "fresh")
    assert "hostile models met" in report.body(withstood(), "today")


def test_the_guard_ends_a_process_that_takes_too_much() -> None:
    with subprocess.Popen(["sleep", "60"]) as process, Guard(process.pid, 0.01) as guard:
        assert process.wait(30) < 0
        assert guard.killed
        assert guard.peak_mib > 0
