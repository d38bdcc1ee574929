"""The fuzzer mutates as it says, knows a wrong answer, and runs against a real server."""

import random
from pathlib import Path

import numpy as np
import pytest

from bench.fuzz import __main__ as command
from bench.fuzz import oracle
from bench.fuzz.connections import connection
from bench.fuzz.mutations import length_bytes, mutated, mutated_frames
from bench.fuzz.oracle import Found
from frostline.pb import inference_pb2 as pb

MESSAGES = oracle.inputs().infer


def answer(message: bytes) -> pb.ModelInferResponse:
    """The right answer to a message."""
    request = pb.ModelInferRequest.FromString(message)
    rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(request.inputs[0].shape)
    response = pb.ModelInferResponse(id=request.id)
    response.outputs.add(name="logits", datatype="FP32", shape=[len(rows), 3])
    response.raw_output_contents.append(oracle.logits(rows).astype("<f4").tobytes())
    return response


def test_a_seed_gives_the_same_inputs_again() -> None:
    for _ in range(2):
        first, second = random.Random(7), random.Random(7)
        messages = [[mutated(rng, MESSAGES[0], MESSAGES) for _ in range(50)] for rng in (first, second)]
        assert messages[0] == messages[1]
        streams = [
            [mutated_frames(rng, connection(rng, 5)[0], [b"other"]) for _ in range(50)] for rng in (first, second)
        ]
        assert streams[0] == streams[1]
    assert len(set(messages[0])) > 40
    assert len(set(streams[0])) > 40


def test_the_lengths_of_a_message_are_found_nested_ones_too() -> None:
    message = pb.ModelInferRequest(model_name="abc", inputs=[{"name": "de", "datatype": "FP32"}]).SerializeToString()
    assert [message[start:end] for start, end in length_bytes(message)] == [b"\x03", b"\x0a", b"\x02", b"\x04"]
    assert length_bytes(b"\x0a\x7fabc") == []
    assert length_bytes(b"\xff" * 20) == []


def test_a_right_answer_is_right() -> None:
    for message in (oracle.infer(12345, "a"), MESSAGES[1]):
        oracle.check_infer(message, answer(message))


@pytest.mark.parametrize("other", [oracle.infer(12346, "a"), oracle.infer(12345, "b")])
def test_another_callers_answer_is_found(other: bytes) -> None:
    with pytest.raises(Found, match="answer"):
        oracle.check_infer(oracle.infer(12345, "a"), answer(other))


def test_an_answer_to_what_is_no_message_is_found() -> None:
    with pytest.raises(Found, match="no message"):
        oracle.check_infer(b"\xff" * 9, pb.ModelInferResponse())


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = command.main(["--seed", "4", "--messages", "500", "--streams", "30"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "seed 4" in said
    assert "honest calls answered rightly" in said
    assert not list(tmp_path.iterdir())
