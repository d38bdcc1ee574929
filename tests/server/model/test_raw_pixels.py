"""Pixels of any size as raw rows, through both front ends and both APIs: the answer is that of a PNG of the same pixels."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2, predictor_pb2_grpc
from frostline.pictures import MOST_PIXELS, Form, decoded, of_pixels, opened
from frostline_server.codec.tensors import Layouts
from frostline_server.errors import InvalidInput
from frostline_server.runtime.row_schema import Image as Column
from frostline_server.runtime.row_schema import RowSchema
from frostline_server.runtime.signature import Signature
from tests.server.model.test_raw_pictures import column_of
from tests.server.model.test_raw_rows import APIS
from tests.support import calls, raw_media
from tests.support.raw_media import saved
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

_RANDOM = np.random.default_rng(3)
SHAPES = [(2, 6, 8, 3), (3, 31, 17, 3), (2, 5, 40, 4), (1, 1, 1, 3), (2, 9, 9, 1), (2, 12, 7)]
"""Of the network's own size, larger, with opacity, a single pixel, and grey with and without channels."""
PIXELS = [_RANDOM.integers(0, 256, shape, dtype=np.uint8) for shape in SHAPES]


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    raw_media.write_pictures(root)
    with running(root, transport=request.param, log_level="error") as instance:
        yield instance


def png(picture: Array) -> bytes:
    return saved(Image.fromarray(picture.reshape(picture.shape[:2]) if picture.shape[2:] == (1,) else picture), "PNG")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("pixels", PIXELS, ids=map(str, SHAPES))
def test_pixels_are_answered_exactly_as_a_png_of_them(channel: grpc.Channel, api: str, pixels: Array) -> None:
    got = APIS[api](channel, {"image": pixels}, "fruit")
    as_files = APIS[api](channel, column_of([png(picture) for picture in pixels]), "fruit")
    np.testing.assert_array_equal(got, as_files)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_pixels_become_what_a_png_of_them_becomes(fit: Any, color: Any) -> None:
    form = Form((6, 8), color, fit, (0, 128, 255))
    for picture in (pixels[0] for pixels in PIXELS):
        np.testing.assert_array_equal(decoded(of_pixels(picture), form), decoded(opened(png(picture)), form))


def test_requests_with_pixels_of_other_sizes_and_with_files_share_a_batch(
    server: Running, channel: grpc.Channel
) -> None:
    stub = calls.stub(channel)
    columns = [*({"image": pixels} for pixels in PIXELS), column_of([png(PIXELS[1][0])])]
    expected = [APIS["infer"](channel, column, "fruit") for column in columns]
    rows = sum(len(column["image"]) for column in columns)
    with server.held("fruit") as held:
        asked = [
            stub.ModelInfer.future(calls.infer_request("fruit", column, ["logits"]), timeout=TIMEOUT_S)
            for column in columns
        ]
        held.wait_until_queued(rows)
    for call, logits in zip(asked, expected, strict=True):
        np.testing.assert_array_equal(calls.answers(call.result(TIMEOUT_S))["logits"], logits)


def test_typed_pixels_are_taken_too(channel: grpc.Channel) -> None:
    request = pb.ModelInferRequest(model_name="fruit")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=PIXELS[1].shape)
    tensor.contents.uint_contents.extend(PIXELS[1].ravel().tolist())
    request.outputs.add(name="logits")
    got = calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))["logits"]
    np.testing.assert_array_equal(got, APIS["infer"](channel, {"image": PIXELS[1]}, "fruit"))


SEND = "send PNG, JPEG or WebP files as BYTES, or pixels from 0 to 255 as UINT8 [rows,height,width,3]"
REFUSED: dict[str, tuple[str, tuple[int, ...], str]] = {
    "floats": ("FP32", (1, 6, 8, 3), f"is of FP32, and holds pictures; {SEND}"),
    "whole numbers": ("INT64", (1, 6, 8, 3), f"is of INT64, and holds pictures; {SEND}"),
    "16 bits": ("UINT16", (1, 6, 8), f"is of UINT16, and holds pictures; {SEND}"),
    "channels first": ("UINT8", (1, 3, 6, 8), f"has shape [1,3,6,8]; {SEND}"),
    "grey and opacity": ("UINT8", (1, 6, 8, 2), f"has shape [1,6,8,2]; {SEND}"),
    "one axis": ("UINT8", (48,), f"has shape [48]; {SEND}"),
    "one picture": ("UINT8", (6, 8, 3), "which may be one picture [height,width,channels] or grey ones"),
    "no pixels": ("UINT8", (1, 0, 8, 3), "8 x 0 pixels; send pictures of 1 to 32000000 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("api", APIS)
def test_what_are_no_pixels_is_refused_and_never_guessed(channel: grpc.Channel, api: str, name: str) -> None:
    datatype, shape, words = REFUSED[name]
    dtype = {"FP32": "f4", "INT64": "i8", "UINT16": "u2", "UINT8": "u1"}[datatype]
    with pytest.raises(grpc.RpcError) as refusal:
        APIS[api](channel, {"image": np.zeros(shape, dtype)}, "fruit")
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = str(refusal.value.details())
    assert "input 'image' for model 'fruit' " in details
    assert words in details


def test_pixels_without_their_bytes_and_too_many_rows_are_refused(channel: grpc.Channel) -> None:
    request = calls.infer_request("fruit", {"image": PIXELS[0]})
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
    code, message = calls.refused(calls.stub(channel).ModelInfer, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "input byte size mismatch for input 'image' for model 'fruit'. Expected 288, got 287" in message
    many = calls.infer_request("fruit", {"image": np.zeros((1000, 1, 1, 3), np.uint8)})
    assert "inference request batch-size must be <= " in calls.refused(calls.stub(channel).ModelInfer, many)[1]


def test_the_limit_on_pixels_holds_for_a_header_alone() -> None:
    schema = RowSchema(columns=(Column(name="image", kind="image", size=(6, 8)),))
    layouts = Layouts("fruit", Signature(schema.specs, (), (), batched=True, heads=None), 16)
    assert layouts.check((("image", "UINT8", (1, 4000, MOST_PIXELS // 4000, 3)),)).rows == 1
    with pytest.raises(InvalidInput, match="8001 x 4000 pixels; send pictures of 1 to 32000000 pixels"):
        layouts.check((("image", "UINT8", (1, 4000, MOST_PIXELS // 4000 + 1, 3)),))
    assert layouts.check((("image", "UINT8", (16, 2000, 2000, 3)),)).rows == 16
    with pytest.raises(
        InvalidInput, match="at most 64 megapixels in one request, these have 65: send fewer pictures at once"
    ):
        layouts.check((("image", "UINT8", (16, 2001, 2000, 3)),))


def test_clients_are_told_that_pixels_are_taken(channel: grpc.Channel) -> None:
    stub = calls.stub(channel)
    (tensor,) = stub.ModelMetadata(pb.ModelMetadataRequest(name="fruit"), timeout=TIMEOUT_S).inputs
    assert (tensor.name, tensor.datatype) == ("image", "BYTES")
    question = predictor_pb2.SchemaRequest(model="fruit")
    (column,) = predictor_pb2_grpc.PredictorStub(channel).Schema(question, timeout=TIMEOUT_S).columns
    assert column.pixels
    config = stub.ModelConfig(pb.ModelConfigRequest(name="fruit"), timeout=TIMEOUT_S).config
    (told,) = json.loads(config.parameters["frostline.rows"].string_value)["columns"]
    assert told["datatypes"] == ["BYTES", "UINT8"]
