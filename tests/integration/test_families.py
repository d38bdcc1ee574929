"""Every network family, frozen and served by one real server: exactly PyTorch's answers, at any batch size and length."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from frostline import server_process
from frostline.pb import predictor_pb2 as typed
from frostline.pb import predictor_pb2_grpc
from tests.support.families import Family, Question, publish_families, questions

Array = np.ndarray[Any, Any]

TIMEOUT_S = 60.0
DTYPES = {"float32": typed.FP32, "uint8": typed.UINT8, "int64": typed.INT64}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def families(models: Path) -> dict[str, Family]:
    return publish_families(models)


@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
def test_every_family_is_served_as_pytorch_answers_at_any_batch_and_length(
    models: Path, families: dict[str, Family], front_end: str
) -> None:
    asked = questions(families) * 3
    with (
        server_process.serve(["--models", str(models), "--transport", front_end], lambda event: None) as served,
        grpc.insecure_channel(served.address) as channel,
        ThreadPoolExecutor(32) as pool,
    ):
        stub = predictor_pb2_grpc.PredictorStub(channel)

        def ask(question: Question) -> typed.PredictResponse:
            tensors = [
                typed.Tensor(name=name, dtype=DTYPES[str(array.dtype)], shape=array.shape, data=array.tobytes())
                for name, array in question.inputs.items()
            ]
            request = typed.PredictRequest(model=question.model, inputs=tensors, outputs=[typed.LOGITS, typed.ARGMAX])
            response: typed.PredictResponse = stub.Predict(request, timeout=TIMEOUT_S)
            return response

        # All at once, so that requests of many lengths wait together and share batches where they may.
        answers = list(pool.map(ask, asked))
    for question, answer in zip(asked, answers, strict=True):
        logits = np.frombuffer(answer.logits.data, "<f4").reshape(answer.logits.shape)
        np.testing.assert_allclose(logits, question.logits, rtol=1e-4, atol=1e-4, err_msg=question.model)
        argmax = np.frombuffer(answer.argmax.data, "<i8")
        np.testing.assert_array_equal(argmax, question.logits.argmax(axis=1), err_msg=question.model)
