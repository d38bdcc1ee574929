"""Modules of users' own: served as PyTorch computes them, or refused with the cause; every one of a table."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from frostline import connect
from frostline.client.connection import Client
from frostline.pb import inference_pb2 as pb
from tests.support import calls
from tests.support.own_modules import OWN, publish_all
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

# What PyTorch says of its own layers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
]


class Tried:
    """All modules of the table, each published or refused."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.refusals = publish_all(models)
        self.modules: dict[str, nn.Module] = {}
        for name in PUBLISHED:
            torch.manual_seed(0)
            self.modules[name] = OWN[name].make()


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(tried: Tried) -> Iterator[Running]:
    with running(tried.models, log_level="error") as instance:
        yield instance


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with connect(server.address) as connected:
        yield connected


def tensors_of(answer: object) -> list[Tensor]:
    """The tensors of an answer, in the order of its parts."""
    if isinstance(answer, Tensor):
        return [answer]
    if answer is None:
        return []
    if isinstance(answer, Mapping):
        parts = list(answer.values())
    elif isinstance(answer, tuple | list):
        parts = list(answer)
    else:
        parts = list(vars(answer).values())
    return [tensor for part in parts for tensor in tensors_of(part)]


def computed(module: nn.Module, sample: Tensor | dict[str, Tensor]) -> list[Array]:
    """What the module answers when it is called as its user calls it."""
    with torch.no_grad():
        answer = module.eval()(**sample) if isinstance(sample, dict) else module.eval()(sample.clone())
    return [tensor.numpy() for tensor in tensors_of(answer)]


PUBLISHED = [name for name, own in OWN.items() if not own.refused]


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_served_as_pytorch_computes_it(tried: Tried, server: Running, client: Client, name: str) -> None:
    assert name not in tried.refusals, tried.refusals[name]
    sample = OWN[name].sample()
    inputs = sample if isinstance(sample, dict) else {"input": sample}
    if len(inputs) == 1 and isinstance(sample, Tensor):
        given: Any = sample.numpy()
    else:
        given = {called: tensor.numpy() for called, tensor in inputs.items()}
    expected = computed(tried.modules[name], sample)
    served = client.predict(name, given, outputs=["values"])
    got = [served.outputs[called] for called in served.outputs if called != "probabilities" or len(expected) == 1]
    if len(served.outputs) == 2 and "probabilities" in served.outputs and len(expected) == 1:
        got = [served.outputs["logits"]]
        sigmoid = 1 / (1 + np.exp(-expected[0].astype(np.float64)))
        np.testing.assert_allclose(served.probabilities, sigmoid, rtol=1e-4, atol=1e-5)
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)

    kinds = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint8": "UINT8", "bool": "BOOL"}
    request = pb.ModelInferRequest(model_name=name)
    for called, tensor in inputs.items():
        array = tensor.numpy()
        request.inputs.add(name=called, datatype=kinds[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    with grpc.insecure_channel(server.address) as channel:
        answer = calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert [tensor.name for tensor in answer.outputs] == list(served.outputs)
    for raw, mine in zip(answer.raw_output_contents, served.outputs.values(), strict=True):
        assert raw == mine.tobytes()


@pytest.mark.parametrize("name", [name for name, own in OWN.items() if own.refused])
def test_it_is_refused_with_the_cause(tried: Tried, name: str) -> None:
    assert name in tried.refusals, "it was published"
    assert re.search(OWN[name].refused, tried.refusals[name]), tried.refusals[name]


def rows_of(name: str) -> Array:
    sample = OWN[name].sample()
    assert isinstance(sample, Tensor)
    return sample.numpy()


def test_a_regression_reads_its_values_and_their_names(tried: Tried, client: Client) -> None:
    answer = client.predict("regression", rows_of("regression"))
    assert (answer.task, answer.names, len(answer)) == ("regression", ("width", "height"), 12)
    (expected,) = computed(tried.modules["regression"], OWN["regression"].sample())
    np.testing.assert_allclose(answer.values, expected, rtol=1e-4, atol=1e-5)
    for reading in ("softmax", "probabilities", "argmax", "labels", "vector", "logits", "thresholds"):
        with pytest.raises(
            AttributeError, match=rf"task 'regression', which has no \.{reading}; it has \.values, \.names, \.outputs"
        ):
            getattr(answer, reading)
    assert client.predict("regression-flat", rows_of("regression-flat")).values.shape == (12,)


def test_several_labels_have_each_its_probability(tried: Tried, client: Client) -> None:
    answer = client.predict("multi-label", rows_of("multi-label"))
    (logits,) = computed(tried.modules["multi-label"], OWN["multi-label"].sample())
    np.testing.assert_allclose(answer.probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    np.testing.assert_allclose(answer.logits, logits, rtol=1e-4, atol=1e-5)
    names = np.array(["red", "green", "blue"])
    assert answer.labels == tuple(tuple(names[row > 0]) for row in logits)
    assert answer.thresholds == (0.5,)
    with pytest.raises(AttributeError, match=r"which has no \.softmax; it has \.probabilities, \.labels"):
        answer.softmax  # noqa: B018  read for its error


@pytest.mark.parametrize("name", ["binary", "binary-flat", "binary-probability"])
def test_yes_or_no(tried: Tried, client: Client, name: str) -> None:
    answer = client.predict(name, rows_of(name))
    (own,) = computed(tried.modules[name], OWN[name].sample())
    probabilities = own if name == "binary-probability" else 1 / (1 + np.exp(-own))
    np.testing.assert_allclose(answer.probabilities, probabilities, rtol=1e-4)
    words = ("no", "yes") if name == "binary" else (False, True)
    assert answer.labels == tuple(words[int(yes)] for yes in (probabilities > 0.5).ravel())


def test_an_embedding_is_a_vector(tried: Tried, client: Client) -> None:
    answer = client.predict("embedding", rows_of("embedding"))
    (expected,) = computed(tried.modules["embedding"], OWN["embedding"].sample())
    np.testing.assert_allclose(answer.vector, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(AttributeError, match=r"task 'embedding', which has no \.values; it has \.vector, \.outputs"):
        answer.values  # noqa: B018  read for its error


def test_a_map_has_a_class_at_each_place(tried: Tried, client: Client) -> None:
    answer = client.predict("unet", rows_of("unet"))
    (logits,) = computed(tried.modules["unet"], OWN["unet"].sample())
    np.testing.assert_array_equal(answer.map, logits.argmax(1))
    np.testing.assert_allclose(answer.probabilities.sum(1), 1, rtol=1e-5)
    with pytest.raises(AttributeError, match=r"chooses one class for each row, so there is no map; read \.argmax"):
        client.predict("linear", rows_of("linear")).map  # noqa: B018  read for its error


def test_probabilities_on_purpose_are_served_as_they_are(tried: Tried, client: Client) -> None:
    answer = client.predict("softmax-on-purpose", rows_of("softmax-on-purpose"))
    (expected,) = computed(tried.modules["softmax-on-purpose"], OWN["softmax-on-purpose"].sample())
    np.testing.assert_allclose(answer.probabilities, expected, rtol=1e-5)


def test_a_softmax_inside_a_classifier_leaves_it_one(tried: Tried, client: Client) -> None:
    answer = client.predict("softmax-inside", rows_of("softmax-inside"))
    (logits,) = computed(tried.modules["softmax-inside"], OWN["softmax-inside"].sample())
    np.testing.assert_array_equal(answer.argmax, logits.argmax(1))


async def test_the_asyncio_client_reads_the_same(tried: Tried, server: Running, client: Client) -> None:
    from frostline import connect_async  # noqa: PLC0415  beside its blocking twin

    async with connect_async(server.address) as twin:
        for name in ("regression", "multi-label", "embedding", "unet", "dict"):
            one, other = client.predict(name, rows_of(name)), await twin.predict(name, rows_of(name))
            assert one.task == other.task
            # Of a class for each row or place, the outputs are asked for by other names.
            for called, array in one.outputs.items() if hasattr(one, "outputs") else [("logits", one.logits)]:
                np.testing.assert_array_equal(
                    array, other.outputs[called] if hasattr(other, "outputs") else other.logits
                )
