"""A server's answers are compared with ONNX Runtime's."""

import numpy as np
import onnx
import pytest

from bench.load import networks
from bench.load.baselines import rows_per_second
from bench.load.workload import Questions, WrongAnswer, ask, one_thread
from frostline.pb import inference_pb2 as pb

TINY = networks.mlp([4, 16, 3])


def response(questions: Questions, index: int, *, shift: float = 0.0, name: str = "logits") -> pb.ModelInferResponse:
    logits = questions.logits[index] + np.float32(shift)
    return pb.ModelInferResponse(
        outputs=[{"name": name, "datatype": "FP32", "shape": logits.shape}], raw_output_contents=[logits.tobytes()]
    )


def test_a_right_answer_passes_alone_and_in_a_stream() -> None:
    questions = ask("tiny", TINY, [4], rows=3)
    questions.check(5, response(questions, 5).SerializeToString())
    wrapped = pb.ModelStreamInferResponse(infer_response=response(questions, 5))
    questions.check(5, wrapped.SerializeToString(), stream=True)


def test_a_wrong_answer_is_caught() -> None:
    questions = ask("tiny", TINY, [4])
    for message, complaint in (
        (response(questions, 0, shift=0.01), "differ from ONNX Runtime's"),
        (response(questions, 1), "differ from ONNX Runtime's"),
        (response(questions, 0, name="softmax"), "expected logits"),
        (pb.ModelInferResponse(), "expected logits"),
    ):
        with pytest.raises(WrongAnswer, match=complaint):
            questions.check(0, message.SerializeToString())
    with pytest.raises(WrongAnswer, match="not a response"):
        questions.check(0, b"\xff")
    failed = pb.ModelStreamInferResponse(error_message="no such model")
    with pytest.raises(WrongAnswer, match="no such model"):
        questions.check(0, failed.SerializeToString(), stream=True)


def test_every_request_asks_something_else_in_as_many_bytes() -> None:
    questions = ask("image", networks.image(), networks.IMAGE_SHAPE, dtype="uint8", count=3)
    assert len(set(questions.messages)) == 3
    assert len({len(message) for message in questions.messages}) == 1
    request = pb.ModelInferRequest.FromString(questions.messages[0])
    assert (request.inputs[0].datatype, len(request.raw_input_contents[0])) == ("UINT8", 3 * 224 * 224)


@pytest.mark.parametrize(
    ("model", "row"),
    [
        (TINY, (4,)),
        (networks.cnn(channels=4, blocks=1), networks.CNN_SHAPE),
        (networks.image(), networks.IMAGE_SHAPE),
        (networks.first(16), (100,)),
    ],
)
def test_a_network_answers_a_row_as_it_answers_it_in_a_batch(model: onnx.ModelProto, row: tuple[int, ...]) -> None:
    session = one_thread(model)
    rows = np.random.default_rng(0).normal(size=(3, *row)).astype(np.float32)
    (together,) = session.run(["logits"], {"input": rows})
    (alone,) = session.run(["logits"], {"input": rows[1:2]})
    assert together.shape[0] == 3
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(together) > 0


def test_the_floor_is_a_rate() -> None:
    assert rows_per_second(TINY, (4,), 8, 0.001) > 0
