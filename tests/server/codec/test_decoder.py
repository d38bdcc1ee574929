"""The request decoder: which model a message names, on both APIs, and which messages it remembers."""

import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2
from frostline.protocol import MODEL_INFER, PREDICT
from frostline_server.codec.codec import Codec
from frostline_server.codec.decoder import Infer, RequestDecoder
from frostline_server.errors import InvalidInput, ModelNotReady
from frostline_server.inference import Inference, Refused
from frostline_server.model.stats import Unrouted
from frostline_server.repository.registry import Repository
from tests.support.signatures import CLASSIFIER, NOWHERE

ROW = np.array([[1, 2, 3, 4]], np.float32).tobytes()


def infer(shape: tuple[int, ...] = (1, 4)) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=shape)
    request = pb.ModelInferRequest(model_name="m", model_version="3", id="7", inputs=[tensor], raw_input_contents=[ROW])
    return request.SerializeToString()


def predict() -> bytes:
    tensor = predictor_pb2.Tensor(dtype=predictor_pb2.FP32, shape=[1, 4], data=ROW)
    request = predictor_pb2.PredictRequest(model="m", version="3", id="7", inputs=[tensor])
    return request.SerializeToString()


def codec() -> Codec:
    return Codec("m", "3", CLASSIFIER, 8, None)


MESSAGES = pytest.mark.parametrize(("method", "payload"), [(MODEL_INFER, infer()), (PREDICT, predict())])


@MESSAGES
def test_a_message_names_its_model_version_and_id_before_and_after_it_is_known(method: str, payload: bytes) -> None:
    decoder, version = RequestDecoder(NOWHERE), codec()
    for _ in range(3):
        *named, body = decoder.read(method, payload)
        assert named == ["m", "3", "7"]
        decoded = decoder.decode(version, body, payload)
        assert (decoded.rows, list(decoded.data)) == (1, [ROW])


# The id of a typed request comes after its input, unless the parts are put together otherwise.
LAST = predictor_pb2.PredictRequest(inputs=[predictor_pb2.Tensor(dtype=predictor_pb2.FP32, shape=[1, 4], data=ROW)])
FIRST = predictor_pb2.PredictRequest(model="m", version="3", id="7")


@pytest.mark.parametrize(
    ("method", "payload"), [(MODEL_INFER, infer()), (PREDICT, FIRST.SerializeToString() + LAST.SerializeToString())]
)
def test_a_message_is_recognised_once_an_equal_one_was_decoded(method: str, payload: bytes) -> None:
    decoder = RequestDecoder(NOWHERE)
    _, _, _, parsed = decoder.read(method, payload)
    assert not isinstance(parsed, tuple)
    first = decoder.decode(codec(), parsed, payload)
    *named, recognised = decoder.read(method, payload)
    assert named == ["m", "3", "7"]
    # A version that has not decoded it yet parses it after all.
    assert decoder.decode(codec(), recognised, payload) == first
    assert isinstance(recognised, tuple)
    assert recognised[1] == ROW


def test_a_message_that_is_refused_is_not_remembered() -> None:
    decoder, payload = RequestDecoder(NOWHERE), infer((2, 2))
    for _ in range(2):
        _, _, _, body = decoder.read(MODEL_INFER, payload)
        assert isinstance(body, Infer)
        with pytest.raises(InvalidInput, match="unexpected shape"):
            decoder.decode(codec(), body, payload)


@MESSAGES
def test_a_refusal_names_the_request_and_its_model(method: str, payload: bytes) -> None:
    inference = Inference(Repository(), Unrouted(), 1 << 20, NOWHERE)
    with pytest.raises(Refused) as caught:
        inference.prepare(method, payload, None, print, 1)
    assert isinstance(caught.value.error, ModelNotReady)
    assert (caught.value.request_id, caught.value.model) == ("7", "m")
