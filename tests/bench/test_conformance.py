"""The conformance check itself: what it compares, opens, remedies and counts."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.progress import Progress

from bench.conformance import broken, opened, remedies, report, tensors, third_party
from bench.conformance.__main__ import Check, Outcome, chosen
from bench.conformance.checks import Finding, companions
from bench.conformance.crowd import Crowd
from bench.conformance.parts import Part
from bench.conformance.reference import Array, Likeness, Reference, likeness
from bench.conformance.suite import Case
from frostline.pb import inference_pb2 as pb
from tests.support.onnx_models import linear, rows, total


def case_of(model: onnx.ModelProto, inputs: dict[str, Array]) -> Case:
    """A case as the suite has it."""
    written = model.SerializeToString()
    return Case("case", "node", written, inputs, Reference(written).run(inputs), varies=False)


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        (np.array([1.0, np.nan], np.float32), np.array([1.0, np.nan], np.float32), "equal"),
        (np.array([-0.0], np.float32), np.array([0.0], np.float32), "close"),
        (np.array([100.0001, 0.00001]), np.array([100.0, 0.0]), "close"),
        (np.array([np.inf]), np.array([1e300]), "wrong"),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0]), "wrong"),
        (np.array([1.1]), np.array([1.0]), "wrong"),
        (np.array([1]), np.array([2]), "wrong"),
        (np.array([1], np.int32), np.array([1], np.int64), "wrong"),
        (np.array([[1]]), np.array([1]), "wrong"),
        (np.array(["a"], object), np.array(["a"], object), "equal"),
        (np.array(["a"], object), np.array(["b"], object), "wrong"),
    ],
)
def test_an_answer_is_equal_in_every_bit_or_close_or_wrong(got: Array, want: Array, expected: Likeness) -> None:
    assert likeness({"y": got}, {"y": want}) == expected


def test_an_answer_with_another_output_is_wrong() -> None:
    one = np.zeros(1)
    assert likeness({"y": one, "more": one}, {"y": one}) == "wrong"
    assert likeness({}, {"y": one}) == "wrong"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.array([True, False]),
        np.array(3.5, np.float16),
        np.zeros((0, 2)),
        np.array([["", "é"], ["abc", "x y"]], object),
    ],
)
def test_a_tensor_is_the_same_after_the_wire(array: Array) -> None:
    sent = tensors.request("model", {"x": array})
    answer = pb.ModelInferResponse(raw_output_contents=sent.raw_input_contents)
    answer.outputs.add(name="x", datatype=sent.inputs[0].datatype, shape=sent.inputs[0].shape)
    assert likeness(tensors.answer(answer), {"x": array}) == "equal"


def test_a_first_axis_is_opened_in_every_input_and_output() -> None:
    written = opened.open_first_axis(linear(batch=3).SerializeToString())
    assert written is not None
    reference = Reference(written)
    assert reference.run({"input": rows(5)})["logits"].shape == (5, 3)


def test_a_graph_without_an_axis_is_not_opened() -> None:
    scalar = total()
    del scalar.graph.input[0].type.tensor_type.shape.dim[:]
    assert opened.open_first_axis(scalar.SerializeToString()) is None


def test_the_other_requests_hold_the_same_elements_or_larger_ones() -> None:
    inputs: dict[str, Array] = {"x": np.arange(6, dtype=np.int64).reshape(3, 2), "w": np.arange(4, dtype=np.float32)}
    for other in opened.others(inputs):
        assert sorted(other["x"].ravel()) == sorted(inputs["x"].ravel())
        assert other["w"].shape == inputs["w"].shape


def test_rounds_have_batches_of_many_sizes() -> None:
    callers = [{"x": np.full((3, 2), number)} for number in range(4)]
    sizes = [sum(len(inputs["x"]) for inputs in together) for together in opened.rounds(callers)]
    assert sizes == [12, 4, 3, 2, 7]


def test_four_callers_have_different_data_and_onnx_runtimes_answers() -> None:
    found = companions(case_of(linear(batch=3), {"input": rows(3)}))
    assert found is not None
    whole = [inputs["input"].tobytes() for inputs, _ in found.rounds[0]]
    assert len(set(whole)) == 4
    for inputs, want in found.rounds[0]:
        assert want is not None
        assert likeness(want, Reference(linear().SerializeToString()).run(inputs)) == "equal"


def test_a_case_with_random_answers_is_not_asked_in_company() -> None:
    assert companions(dataclasses.replace(case_of(linear(), {"input": rows(3)}), varies=True)) is None


def test_a_remedy_is_what_the_refusal_names() -> None:
    inputs, outputs = {"x": rows(2)}, {"y": rows(2)}
    alone = remedies.named("write `max_batch_size: 0` into config.pbtxt to serve each request alone", inputs, outputs)
    declared = remedies.named("declare its dims in config.pbtxt, -1 for any size", inputs, outputs)
    warmup = remedies.named("add a golden.npz or a model_warmup", inputs, outputs)
    assert alone is not None
    assert alone.config == "max_batch_size: 0\n"
    assert declared is not None
    assert declared.config == 'output { name: "y" data_type: TYPE_FP32 dims: [ -1, -1 ] }\n'
    assert warmup is not None
    assert warmup.files == {"warmup/0": inputs["x"].tobytes()}
    assert 'dims: [ 2, 4 ] input_data_file: "0"' in warmup.config
    assert remedies.named("the network failed", inputs, outputs) is None


def test_floors_count_what_is_refused_for_good() -> None:
    part = Part(findings=[Finding("a", "equal"), Finding("b", "refused", "no"), Finding("c", "refused", "no")])
    remedied = Part(findings=[Finding("b", "equal"), Finding("c", "refused", "still no")])
    floors = {floor.what: floor for floor in report.floors_of_alone(part, remedied, 3)}
    assert floors["alone: refused, and the remedy does not work"].measured == 1
    assert not floors["alone: READY and equal in every bit"].met
    assert floors["alone: wrong answers"].met


def test_one_wrong_answer_in_company_misses_a_floor() -> None:
    part = Part(findings=[Finding("a", "equal"), Finding("a", "wrong", "of another")], shared=1)
    assert [floor.what for floor in report.floors_of_company(part) if not floor.met] == [
        "in company: answers that are OK and wrong"
    ]


def test_a_failed_scrape_and_memory_that_stays_miss_a_floor() -> None:
    found = Crowd(answers=1, scrapes=Counter({200: 9, 500: 1}), memory_mib=[100.0, 130.0, 180.0])
    assert [floor.what for floor in report.floors_of_crowd(found) if not floor.met] == [
        "among broken models: scrapes that were not 200",
        "among broken models: MiB that each cycle leaves, added up",
    ]


def test_reasons_that_differ_in_numbers_and_names_are_one_row() -> None:
    found = [Finding("a", "error", "output 'x' has shape [1, 2]"), Finding("b", "error", "output 'y' has shape [3]")]
    sheet = report.short_of("Errors", found)
    assert sheet.rows == (("error", "2", "2", "output 'x' has shape [1, 2]", "a, b"),)
    assert report.text(sheet).splitlines()[1].strip().startswith("error: 2 answers, 2 cases: output 'x'")


def test_a_server_that_does_not_start_is_told_of_with_what_it_said() -> None:
    outcome = Outcome()
    with Progress(disable=True) as progress:
        Check([], ["--no-such-flag"], 1, 0.0, progress).health(outcome, [], "probed", [])
    assert "probed: servers that crashed" in [floor.what for floor in outcome.floors if not floor.met]
    told, described = outcome.notes
    assert told.startswith("probed: a server crashed: ")
    assert "no-such-flag" in told
    assert described == "probed: 0 models, 0 s"


def test_a_limit_takes_cases_from_everywhere() -> None:
    cases = [Case(str(number), "node", b"", {}, {}, varies=False) for number in range(10)]
    assert [case.name for case in chosen(cases, 3)] == ["0", "3", "6"]
    assert len(chosen(cases, 0)) == 10


@pytest.mark.parametrize("way", broken.WAYS)
def test_every_way_to_break_a_model_writes_something(way: str, tmp_path: Path) -> None:
    broken.WAYS[way](tmp_path / "model")
    assert (tmp_path / "model" / "1").exists() or (tmp_path / "model" / "1").is_symlink()


def test_there_are_twenty_ways_and_a_good_model_answers_exactly(tmp_path: Path) -> None:
    assert len(broken.WAYS) >= 20
    broken.write_good(tmp_path / "good", 3)
    row = np.ones((1, broken.WIDTH), np.float32)
    answer = Reference(str(tmp_path / "good/1/model.onnx")).run({"input": row})["logits"]
    assert np.array_equal(answer, row @ broken.weights(3))


def test_third_party_files_are_pinned_and_their_callers_differ() -> None:
    assert len({model.name for model in third_party.MODELS}) == len(third_party.MODELS) >= 10
    for model in third_party.MODELS:
        assert "==" in model.package
        random = np.random.default_rng(0)
        requests = [model.request(random, caller) for caller in range(third_party.CALLERS)]
        sent = [tensors.request(model.name, request).SerializeToString() for request in requests]
        assert len(set(sent)) == third_party.CALLERS
