"""Pictures as raw rows, through both front ends and both APIs: the network gets the pixels that a viewer shows."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from frostline import pictures
from frostline.pb import model_config_pb2, predictor_pb2, predictor_pb2_grpc
from frostline_server.batching.entry import RowKind
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.codec.tensors import Layouts
from frostline_server.errors import InvalidData, InvalidInput, LoadError
from frostline_server.model.loader import Loader
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.picture_encoder import PictureEncoder
from frostline_server.runtime.row_schema import Image as Column
from frostline_server.runtime.row_schema import RowSchema
from frostline_server.runtime.signature import Signature
from tests.server.model.test_raw_rows import APIS, numbers_of
from tests.support import calls, raw_media
from tests.support.raw_media import logits_of, picture_files, pixels_of, saved
from tests.support.servers import TIMEOUT_S, Running, running

Array = np.ndarray[Any, Any]

PICTURES = picture_files()
FILES = [file for file, _ in PICTURES.values()]
LOGITS = logits_of(pixels_of([shown for _, shown in PICTURES.values()]))


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    raw_media.write_pictures(root)
    with running(root, transport=request.param, log_level="error") as instance:
        yield instance


def column_of(files: list[bytes]) -> dict[str, Array]:
    cells = np.empty(len(files), object)
    cells[:] = files
    return {"image": cells}


@pytest.mark.parametrize("api", APIS)
def test_pictures_are_answered_as_a_viewer_shows_them_alone_and_together(channel: grpc.Channel, api: str) -> None:
    np.testing.assert_allclose(APIS[api](channel, column_of(FILES), "fruit"), LOGITS, rtol=1e-4, atol=1e-4)
    for name, file, expected in zip(PICTURES, FILES, LOGITS, strict=True):
        column = {"image": column_of([file])["image"].reshape(1, 1)}
        got = APIS[api](channel, column, "fruit")
        np.testing.assert_allclose(got, expected[None], rtol=1e-4, atol=1e-4, err_msg=name)


def test_callers_with_pictures_and_with_pixels_get_their_own_answers(server: Running) -> None:
    pixels = pixels_of([shown for _, shown in PICTURES.values()])

    def ask(number: int) -> None:
        with grpc.insecure_channel(server.address) as channel:
            at = number % len(FILES)
            rows = {"input": pixels[at : at + 1]} if number % 2 else column_of([FILES[at]])
            got = APIS["infer"](channel, rows, "fruit")
            np.testing.assert_allclose(got, LOGITS[at : at + 1], rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, range(64)))


def _animated(form: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    return saved(frames[0], form, save_all=True, append_images=frames[1:], duration=10)


PNG = PICTURES["png"][0]
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "gif": (lambda: saved(Image.new("L", (4, 4)), "GIF"), "is a GIF; send PNG, JPEG or WebP"),
    "bmp": (lambda: saved(Image.new("L", (4, 4)), "BMP"), "is a BMP; send PNG, JPEG or WebP"),
    "empty": (lambda: b"", "is empty; send PNG, JPEG or WebP"),
    "text": (lambda: b"no picture", "is no picture that is taken; send PNG, JPEG or WebP"),
    "truncated": (lambda: PICTURES["jpeg"][0][:-200], "is damaged"),
    "header alone": (lambda: PNG[:20], "is damaged"),
    "corrupt": (lambda: PNG[:60] + bytes(20) + PNG[80:], "is damaged"),
    "bomb": (
        lambda: saved(Image.new("1", (30_000, 30_000)), "PNG"),
        "has 30000 x 30000 pixels; send at most 32000000 pixels",
    ),
    "animated png": (lambda: _animated("PNG"), "is an animation; send one of its frames"),
    "animated webp": (lambda: _animated("WEBP"), "is an animation; send one of its frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_used_fails_its_own_request_alone(
    server: Running, channel: grpc.Channel, name: str
) -> None:
    make, words = BAD[name]
    file = make()
    stub = calls.stub(channel)
    with server.held("fruit") as held:
        good = [
            stub.ModelInfer.future(calls.infer_request("fruit", column_of([each]), ["logits"]), timeout=TIMEOUT_S)
            for each in FILES
        ]
        bad = stub.ModelInfer.future(calls.infer_request("fruit", column_of([FILES[0], file])), timeout=TIMEOUT_S)
        held.wait_until_queued(len(FILES) + 2)
    assert bad.exception(TIMEOUT_S).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"column 'image', row 1: {words}" in bad.exception().details()
    got = np.concatenate([calls.answers(call.result(TIMEOUT_S))["logits"] for call in good])
    np.testing.assert_allclose(got, LOGITS, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed contents"])
def test_pictures_with_too_many_pixels_together_are_refused_before_they_wait(
    server: Running, channel: grpc.Channel, typed: bool
) -> None:
    large = saved(Image.new("1", (5600, 5700)), "PNG")
    request = calls.infer_request("fruit", column_of([large, FILES[0], large, large]))
    if typed:
        del request.raw_input_contents[:]
        request.inputs[0].contents.bytes_contents.extend([large, FILES[0], large, large])
    with server.held("fruit"):
        code, message = calls.refused(calls.stub(channel).ModelInfer, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 64 megapixels in one request, these have 96: send fewer pictures at once" in message


def _kind(*sizes: tuple[int, int], max_batch_size: int = 64) -> RowKind:
    """The kind of rows that are files of these sizes, of which there is no more than a header."""
    schema = RowSchema(columns=(Column(name="image", kind="image", size=(6, 8)),))
    layouts = Layouts("fruit", Signature(schema.specs, (), (), batched=True, heads=None), max_batch_size)
    files = [saved(Image.new("1", size), "PNG")[:64] for size in sizes]
    return layouts.weighed(layouts.check((("image", "BYTES", (len(files),)),)), column_of(files)["image"])


def test_the_pixels_of_a_request_are_counted_by_the_headers() -> None:
    assert _kind(*[(1000, 1000)] * 64).weight == 1
    _kind((8000, 4000), (8000, 4000))
    # One that is too large by itself is its row's error, which its encoder tells.
    _kind((8000, 4000), (8000, 4000), (8001, 4000))
    with pytest.raises(InvalidInput, match="model 'fruit': at most 64 megapixels in one request, these have 65: "):
        _kind(*[(1000, 1000)] * 64, (1, 1), max_batch_size=65)


def test_the_more_pixels_pictures_have_the_fewer_share_a_batch() -> None:
    weights = [_kind((size, size)).weight for size in (8, 1000, 2000, 4000)]
    assert weights == [1, 1, 4, 16]
    assert _kind((2000, 2000), (8, 8)).weight == 2
    assert _kind((4000, 4000), max_batch_size=1).weight == 1
    assert _kind((2000, 2000)).shapes == _kind((8, 8)).shapes


def test_the_schema_says_what_pictures_become_and_none_is_counted(server: Running, channel: grpc.Channel) -> None:
    question = predictor_pb2.SchemaRequest(model="fruit")
    (column,) = predictor_pb2_grpc.PredictorStub(channel).Schema(question, timeout=TIMEOUT_S).columns
    assert (column.name, column.kind, column.dtype) == ("image", predictor_pb2.IMAGE, predictor_pb2.BYTES)
    assert (column.height, column.width, column.color, column.fit) == (6, 8, "rgb", "stretch")
    assert (column.most_pixels, column.most_bytes) == (32_000_000, 64 << 20)
    assert numbers_of(server, "frostline_input_missing_total") == {}


def _encoder(threads: int = 2) -> PictureEncoder:
    column = Column(name="image", kind="image", size=raw_media.SIZE, fit="stretch")
    return PictureEncoder(RowSchema(columns=(column,)), column, threads, threading.Lock())


def test_an_error_names_every_bad_row_of_a_batch() -> None:
    files = [BAD["gif"][0](), FILES[0], BAD["empty"][0]()]
    with pytest.raises(InvalidData, match="column 'image', row 0: is a GIF") as refusal:
        _encoder().encode([column_of(files)["image"]])
    assert refusal.value.within(1, 2) is None
    assert str(refusal.value.within(1, 3)) == "column 'image', row 1: is empty; send PNG, JPEG or WebP"


def test_pictures_are_decoded_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=TIMEOUT_S)
    real = pictures.decoded

    def decoded(image: Any, form: Any) -> Any:
        together.wait()
        return real(image, form)

    monkeypatch.setattr("frostline_server.runtime.picture_encoder.decoded", decoded)
    (pixels,), _ = _encoder(threads=2).encode([column_of([FILES[0]] * 2)["image"]])
    np.testing.assert_array_equal(pixels, pixels_of([PICTURES["png"][1]] * 2))


def test_a_large_picture_is_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = threading.Lock()

    def decoded(image: Any, form: Any) -> Any:
        assert decoding.acquire(blocking=False), "another one is being decoded"
        image.load()
        decoding.release()
        return np.zeros(form.shape, np.uint8)

    monkeypatch.setattr("frostline_server.runtime.picture_encoder.decoded", decoded)
    large = saved(Image.new("1", (2500, 2000)), "PNG")
    _encoder(threads=4).encode([column_of([large] * 8)["image"]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": [6, 0]}, "card.json: rows.columns.0.image.size.1"),
        (
            {"color": "grey"},
            "a picture becomes float32 ['rows', 1, 6, 8], and the network takes float32 ['rows', 3, 6, 8]",
        ),
        ({"background": [0, 0, 0]}, "golden check failed: the answers 'logits' to raw rows differ from PyTorch's"),
    ],
)
def test_a_card_that_is_wrong_about_the_pictures_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadError) as refusal:
        _load(raw_media.write_pictures(tmp_path, card=change))
    assert words in str(refusal.value)


def _shorter(arrays: dict[str, Any]) -> None:
    arrays["rows.image.lengths"] = arrays["rows.image.lengths"] - 1


def _negative(arrays: dict[str, Any]) -> None:
    arrays["rows.image.lengths"] = -arrays["rows.image.lengths"]


def _texts(arrays: dict[str, Any]) -> None:
    arrays["rows.image"] = np.array(["a"] * len(arrays["rows_logits"]))


@pytest.mark.parametrize("change", [_shorter, _negative, _texts])
def test_golden_pictures_that_are_no_files_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    folder = raw_media.write_pictures(tmp_path)
    with np.load(folder / "golden.npz") as golden:
        arrays: dict[str, Any] = dict(golden)
    change(arrays)
    np.savez(folder / "golden.npz", **arrays)
    with pytest.raises(LoadError, match=r"golden check failed: golden\.npz has in rows\.image "):
        _load(folder)


def _load(folder: Path) -> None:
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=Batching(16, (QueuePolicy(100),)))
    loader.load(folder, "fruit", model_config_pb2.ModelConfig(), lambda warning: None)
