"""Every network family, frozen and served by one real server: exactly PyTorch's answers, at any batch size and length."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from torch import nn

from frostline import server_process
from frostline.pb import predictor_pb2 as typed
from frostline.pb import predictor_pb2_grpc
from frostline_training import data, publish
from frostline_training.config import RECIPES
from frostline_training.networks.families import build

Array = np.ndarray[Any, Any]

RECIPE_NAMES = ("digits", "digits-mlp", "digits-rnn", "digits-lstm", "digits-gru", "digits-transformer", "text")
SEQUENCES = ("digits-rnn", "digits-lstm", "digits-gru", "digits-transformer", "text")
BATCHES = (1, 3, 64)
LENGTHS = (2, 8, 21)
TIMEOUT_S = 60.0
DTYPES = {"float32": typed.FP32, "uint8": typed.UINT8, "int64": typed.INT64}


@dataclass(frozen=True)
class Family:
    """A published network: untrained, because it is the arithmetic that is compared."""

    network: nn.Module
    rows: Mapping[str, Array]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def families(models: Path) -> dict[str, Family]:
    """The network of one recipe of each kind, on the recipe's own data."""
    built = {}
    for name in RECIPE_NAMES:
        split = data.prepare(RECIPES[name])
        torch.manual_seed(1)
        network = build(RECIPES[name].network, split.dataset).eval()
        few = data.take(split.test, np.arange(80))
        publish(network, data.sample(few), name=name, models=models, test=few, dynamic=split.dataset.dynamic)
        built[name] = Family(network, data.named(few.inputs))
    return built


@dataclass(frozen=True)
class Question:
    """One request, and PyTorch's answer."""

    model: str
    inputs: Mapping[str, Array]
    logits: Array


def questions(families: Mapping[str, Family]) -> list[Question]:
    """Each family at every batch size and, for sequences, at every length; models and lengths interleaved."""
    asked = []
    for batch in BATCHES:
        for length in LENGTHS:
            for name, family in families.items():
                inputs = {key: array[:batch] for key, array in family.rows.items()}
                if name in SEQUENCES:
                    steps = inputs["input"].shape[1]
                    inputs["input"] = np.ascontiguousarray(inputs["input"].take(np.arange(length) % steps, 1))
                with torch.inference_mode():
                    logits = family.network(*(torch.from_numpy(array) for array in inputs.values())).numpy()
                asked.append(Question(name, inputs, logits))
    return asked


@pytest.mark.parametrize("front_end", ["native", "grpcio"])
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
