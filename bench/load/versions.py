"""Models of many versions, with requests to them and ONNX Runtime's answers: a perceptron, a CNN and a transformer.

The versions of a model differ in their last layer's bias, so an answer that is right for one is wrong for another.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bench.load import networks
from bench.load.workload import WrongAnswer, one_thread
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed

Array = np.ndarray[Any, Any]

NAMES = ("mlp", "cnn", "text")
QUESTIONS = 8
"""Different requests to each model, of one to three rows."""
_BIAS = {"mlp": "b1", "cnn": "b", "text": "classifier.b"}
_WITH_CARD = ("mlp", "text")
_DATATYPES = {"float32": "FP32", "int64": "INT64"}
_LENGTH = 12
_VOCABULARY = 100


def network(name: str, version: int) -> onnx.ModelProto:
    """A version of a model.

    Args:
        name: one of `NAMES`.
        version: its number.
    """
    if name == "mlp":
        model = networks.mlp([64, 64, 10])
    elif name == "cnn":
        model = networks.cnn(channels=8, blocks=1)
    else:
        model = networks.bert(layers=1, width=32, heads=2, vocabulary=_VOCABULARY)
    (bias,) = (each for each in model.graph.initializer if each.name == _BIAS[name])
    values = numpy_helper.to_array(bias)
    moved = values + np.random.default_rng(version).normal(size=values.shape).astype(values.dtype)
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    return model


def rows(name: str, count: int, seed: int) -> dict[str, Array]:
    """Random inputs of a model, by their names."""
    rng = np.random.default_rng(seed)
    if name == "text":
        words = rng.integers(0, _VOCABULARY, (count, _LENGTH))
        return {"input_ids": words, "attention_mask": np.ones_like(words)}
    row = (64,) if name == "mlp" else networks.CNN_SHAPE
    return {"input": rng.normal(size=(count, *row)).astype(np.float32)}


def publish(folder: Path, name: str, version: int) -> None:
    """Write a version into a models folder as training does: hidden first, renamed last; the CNN has no card."""
    model = network(name, version)
    data = model.SerializeToString()
    staging = folder / name / f".staging-{version}"
    staging.mkdir(parents=True)
    (staging / "model.onnx").write_bytes(data)
    if name in _WITH_CARD:
        sample = rows(name, 16, seed=0)
        (logits,) = one_thread(model).run(["logits"], sample)
        arrays = {key if key == "input" else f"input.{key}": array for key, array in sample.items()}
        tolerances: dict[str, Any] = {"rtol": np.array(1e-4), "atol": np.array(1e-5)}
        np.savez(staging / "golden.npz", allow_pickle=False, **arrays, logits=logits, **tolerances)
        card = {"name": name, "version": version, "sha256": hashlib.sha256(data).hexdigest()}
        (staging / "card.json").write_text(json.dumps(card), encoding="utf-8")
    staging.rename(folder / name / str(version))


def withdraw(folder: Path, name: str, version: int) -> None:
    """Remove a version from a models folder, hidden first, so that it is never there in part."""
    hidden = folder / name / f".withdrawn-{version}"
    (folder / name / str(version)).rename(hidden)
    shutil.rmtree(hidden)


def infer_request(name: str, inputs: Mapping[str, Array], request_id: str = "") -> pb.ModelInferRequest:
    """A request of the Open Inference Protocol for the logits."""
    return pb.ModelInferRequest(
        model_name=name,
        id=request_id,
        inputs=[
            {"name": key, "datatype": _DATATYPES[array.dtype.name], "shape": array.shape}
            for key, array in inputs.items()
        ],
        outputs=[{"name": "logits"}],
        raw_input_contents=[array.tobytes() for array in inputs.values()],
    )


def predict_request(name: str, inputs: Mapping[str, Array]) -> typed.PredictRequest:
    """The same of the typed API, for the logits and the most probable class."""
    tensors = [
        typed.Tensor(name=key, dtype=_DATATYPES[array.dtype.name], shape=array.shape, data=array.tobytes())
        for key, array in inputs.items()
    ]
    return typed.PredictRequest(model=name, inputs=tensors, outputs=[typed.LOGITS, typed.ARGMAX])


class Answers:
    """The requests to each model, and ONNX Runtime's answers of every version, computed when first asked for.

    Attributes:
        inputs: by a model's name, the inputs of its requests.
    """

    def __init__(self) -> None:
        self.inputs = {
            name: [rows(name, 1 + number % 3, seed=1 + number) for number in range(QUESTIONS)] for name in NAMES
        }
        self._logits: dict[tuple[str, str], list[Array]] = {}

    def check_infer(self, name: str, index: int, response: pb.ModelInferResponse) -> None:
        """Compare an answer with that of the version that it names.

        Args:
            name: of the model that was asked.
            index: of the request.
            response: the answer.

        Raises:
            WrongAnswer: it differs, or names no version.
        """
        if [output.name for output in response.outputs] != ["logits"]:
            raise WrongAnswer(f"the answer has the outputs {[output.name for output in response.outputs]}")
        shape, content = tuple(response.outputs[0].shape), response.raw_output_contents[0]
        self.check(name, index, response.model_version, shape, content)

    def check_predict(self, name: str, index: int, response: typed.PredictResponse) -> None:
        """The same of the typed API, where the most probable class must be the logits' too."""
        self.check(name, index, response.version, tuple(response.logits.shape), response.logits.data)
        logits = np.frombuffer(response.logits.data, "<f4").reshape(response.logits.shape)
        if (np.frombuffer(response.argmax.data, "<i8") != logits.argmax(1)).any():
            raise WrongAnswer(f"argmax of {name} is not that of its logits")

    def check(self, name: str, index: int, version: str, shape: tuple[int, ...], content: bytes) -> None:
        """Compare logits with those of a version.

        Raises:
            WrongAnswer: they differ, or there is no such version.
        """
        expected = self._of(name, version)[index]
        if shape != expected.shape or len(content) != expected.nbytes:
            raise WrongAnswer(f"{name} answered {shape} in {len(content)} bytes, expected {expected.shape}")
        got = np.frombuffer(content, "<f4").reshape(shape)
        # Batches of other sizes sum in another order.
        if not np.allclose(got, expected, rtol=1e-4, atol=1e-4):
            raise WrongAnswer(f"version {version} of {name} is off by {np.abs(got - expected).max():.3g}")

    def _of(self, name: str, version: str) -> list[Array]:
        known = self._logits.get((name, version))
        if known is None:
            if not version.isdigit():
                raise WrongAnswer(f"{name} answered as version {version!r}")
            session = one_thread(network(name, int(version)))
            known = self._logits[name, version] = [session.run(["logits"], each)[0] for each in self.inputs[name]]
        return known
