"""The fuzzer of the readers: all of the corpus passes, so do mutations of it, and each way to be at fault is noticed."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.fuzz.oracle import Found
from bench.fuzz.readers import __main__ as command
from bench.fuzz.readers import corpus, watch
from bench.fuzz.readers.catalogue import TARGETS
from bench.fuzz.readers.mutators import joined, split
from bench.fuzz.readers.target import Check, Target
from bench.fuzz.readers.watch import Watch, last_seen
from bench.fuzz.readers.worker import Job, Report
from frostline.pb import inference_pb2 as pb
from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.codec.decoder import RequestDecoder
from frostline_server.codec.header_cache import Headers

MUTATIONS = 200

each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))


@each_target
def test_all_of_the_corpus_and_mutations_of_it_are_read_right_or_refused(target: Target, tmp_path: Path) -> None:
    check, inputs, rng = target.open(tmp_path), corpus.inputs(target), random.Random(7)
    for data in inputs:
        check(data)
    for _ in range(MUTATIONS):
        check(target.mutate(rng, rng.choice(inputs), inputs))


@each_target
def test_a_seed_gives_the_same_mutations_again_and_most_are_new(target: Target) -> None:
    inputs = list(target.seeds)
    first, second = (
        [target.mutate(rng, rng.choice(inputs), inputs) for _ in range(60)]
        for rng in (random.Random(3), random.Random(3))
    )
    assert first == second
    assert len(set(first) - set(inputs)) > 30


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    files = [path for path in corpus.FOLDER.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(TARGETS)
    assert sum(path.stat().st_size for path in files) < 1 << 20


# What a fault looks like


def opened(name: str, folder: Path) -> tuple[Check, bytes]:
    return TARGETS[name].open(folder), TARGETS[name].seeds[0]


def test_a_decoder_that_gives_other_elements_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, message = opened("infer", tmp_path)
    whole = RequestDecoder.decode
    monkeypatch.setattr(RequestDecoder, "decode", lambda *given: whole(*given)._replace(data=[bytes(16)]))
    with pytest.raises(Found, match="read as"):
        check(message)


def test_a_decoder_that_gives_another_id_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, message = opened("infer", tmp_path)
    whole = RequestDecoder.read

    def read(decoder: RequestDecoder, method: str, payload: bytes) -> tuple[object, ...]:
        model, version, _, body = whole(decoder, method, payload)
        return model, version, "another", body

    monkeypatch.setattr(RequestDecoder, "read", read)
    with pytest.raises(Found, match="another"):
        check(message)


def test_a_header_cache_that_forgets_a_part_of_its_key_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, _ = opened("infer-seasoned", tmp_path)
    first = pb.ModelInferRequest.FromString(TARGETS["infer"].seeds[0])
    second = pb.ModelInferRequest.FromString(TARGETS["infer"].seeds[0])
    second.inputs[0].datatype = "UINT"
    pair = joined(first.SerializeToString(), second.SerializeToString())
    check(pair)
    whole = Headers.find

    def find(headers: Headers, payload: bytes) -> object:
        return whole(headers, payload.replace(b"UINT", b"FP32"))

    monkeypatch.setattr(Headers, "find", find)
    with pytest.raises(Found, match="after"):
        check(pair)


@pytest.mark.parametrize(
    ("name", "broken", "by"),
    [
        ("card", "bench.fuzz.readers.targets.folder.read_card", lambda *_: {"labels": []}),
        ("rollout", "frostline_server.repository.rollout.to_text", lambda _: "{}"),
        ("inflate", "bench.fuzz.readers.targets.framing.inflated", lambda *_: b"something"),
        ("headers", "bench.fuzz.readers.targets.framing.timeout_s", lambda _: 3.0),
        ("labels", "bench.fuzz.readers.targets.folder.label_file", lambda *_: ("ant",)),
        (
            "pbtxt",
            "bench.fuzz.readers.targets.config.read_model_config",
            lambda *_: (ModelConfig(name="other"), ["fields"]),
        ),
    ],
)
def test_a_reader_that_reads_something_else_is_found(
    name: str, broken: str, by: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, data = opened(name, tmp_path)
    check(data)
    monkeypatch.setattr(broken, by)
    with pytest.raises(Found):
        check(data)


def test_bytes_that_a_closed_connection_still_holds_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, data = opened("connection", tmp_path)
    monkeypatch.setattr("frostline_server.rpc.h2.connection.Connection.close", lambda _: None)
    with pytest.raises(Found, match="are held"):
        check(b"\0" + data[1:-3])


# The watch, the pairs and the corpus


def test_the_last_input_can_be_seen_from_outside(tmp_path: Path) -> None:
    board = tmp_path / "board"
    assert last_seen(board) == (0, b"")
    seen: list[tuple[int, bytes]] = []
    watched = Watch(lambda _: seen.append(last_seen(board)), board)
    for data in (b"first", b"", b"the third"):
        watched.run(data)
    assert seen == [(0, b"first"), (1, b""), (2, b"the third")]
    assert watched.executions == 3


def test_an_execution_that_takes_too_long_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HANGS_S", 0.0)
    seen: list[bytes] = []
    with pytest.raises(Found, match="it took"):
        Watch(lambda data: seen.append(data * 1000), tmp_path / "board").run(b"slow")


def test_two_inputs_in_one_come_apart_whatever_they_are() -> None:
    for pair in ((b"a", b"bc"), (b"", b"x"), (b"y" * 300, b"")):
        assert split(joined(*pair)) == pair
    assert split(b"") == (b"", b"")
    assert split(b"\xff\xffa") == (b"a", b"")


def test_the_corpus_keeps_the_smallest_inputs_that_reach_something_new_and_every_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path / "corpus")
    folder, files = tmp_path / "corpus" / "headers", tmp_path / "files"
    folder.mkdir(parents=True)
    files.mkdir()
    (folder / "fault-once").write_bytes(b"5S")
    (folder / "old").write_bytes(b"77S")
    target = TARGETS["headers"]
    corpus.keep(target, target.open(files), [b"", b"X", b"123456789S", b"1234567890S"])
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kept["fault-once"] == b"5S"
    # The seeds reach what these do, but for a text of no bytes.
    assert set(kept.values()) <= {b"5S", b"", b"X"}


# The command


def test_the_command_runs_and_says_how_many_executions_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--engine", "python", "--target", "headers", "--executions", "300", "--seed", "5"]
    code = command.main(arguments)
    said = capsys.readouterr().out
    assert code == 0, said
    assert "seed 5" in said
    assert "headers: 300 executions" in said
    assert not list(tmp_path.iterdir())


def test_atheris_finds_its_way_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("atheris")
    monkeypatch.chdir(tmp_path)
    code = command.main(["--engine", "atheris", "--target", "headers", "--executions", "300", "--seed", "5"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "headers: 300 executions" in said


def job(folder: Path, target: str = "headers") -> Job:
    return Job(target, "python", 10, 60.0, 1, str(folder))


def test_a_worker_that_dies_leaves_its_last_words_and_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = command._supervised(job(tmp_path, "nobody"), Console(quiet=True))
    assert report.fault.startswith("the process died with exit code 1")
    assert "KeyError: 'nobody'" in report.fault
    assert (tmp_path / "fault-nobody.bin").read_bytes() == b""


def test_a_worker_whose_execution_never_ends_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_HANGS_S", 0.05)
    monkeypatch.setattr(command, "_LOOK_S", 0.02)
    (tmp_path / "board").write_bytes(bytes(16))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        assert command._wait(worker, job(tmp_path), Console(quiet=True))
    assert worker.returncode < 0


def test_an_input_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"5S")
    assert command.main(["--target", "headers", "--again", str(file)]) == 0
    assert "no fault" in capsys.readouterr().out


def test_a_target_that_keeps_memory_is_told_from_one_that_does_not() -> None:
    assert command.grew(Report(memory_mib=(100.0, 200.0)))
    assert not command.grew(Report(memory_mib=(100.0, 130.0)))
