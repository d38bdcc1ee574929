"""Texts and pictures as raw rows, as people hold them, through both clients and a real server."""

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import frostline
from frostline.client import messages
from frostline.client.errors import InvalidInput
from tests.support import raw_media
from tests.support.raw_media import TEXTS, logits_of, text_bytes
from tests.support.servers import Running, running

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    raw_media.write_texts(root)
    raw_media.write_pictures(root)
    with running(root, log_level="error") as instance:
        yield instance


@pytest.fixture
def client(server: Running) -> Iterator[frostline.Client]:
    with frostline.connect(server.address, timeout_s=30) as client:
        yield client


def test_a_list_of_texts_is_a_row_for_each(client: frostline.Client) -> None:
    np.testing.assert_allclose(client.predict("mood", list(TEXTS)).logits, logits_of(text_bytes()), rtol=1e-5)
    alone = [client.predict("mood", [{"text": text}]).logits for text in TEXTS]
    np.testing.assert_allclose(np.concatenate(alone), logits_of(text_bytes()), rtol=1e-5)


def test_a_missing_text_is_one(client: frostline.Client) -> None:
    got = client.predict("mood", ["great", None, float("nan")]).logits
    np.testing.assert_allclose(got, logits_of(text_bytes(["great", "", ""])), rtol=1e-5)


def test_both_clients_send_the_same(server: Running, client: frostline.Client) -> None:
    async def ask() -> Array:
        async with frostline.connect_async(server.address, timeout_s=30) as twin:
            return (await twin.predict("mood", list(TEXTS))).logits

    np.testing.assert_array_equal(asyncio.run(ask()), client.predict("mood", list(TEXTS)).logits)


PIXELS = np.random.default_rng(5).integers(0, 256, (*raw_media.SIZE, 3), dtype=np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


HELD: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "name": str,
    "bytes": lambda path: path.read_bytes(),
    "picture of Pillow": lambda _: Image.fromarray(PIXELS),
    "array": lambda _: PIXELS,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    return path


def expected() -> Array:
    return logits_of(PIXELS.transpose(2, 0, 1)[None])


@pytest.mark.parametrize("held", HELD)
def test_a_picture_may_be_held_in_any_way(client: frostline.Client, path: Path, held: str) -> None:
    picture = HELD[held](path)
    np.testing.assert_allclose(client.predict("fruit", [picture]).logits, expected(), rtol=1e-5)
    np.testing.assert_allclose(client.predict("fruit", [{"image": picture}]).logits, expected(), rtol=1e-5)


def test_pictures_held_in_different_ways_are_rows_of_one_request(client: frostline.Client, path: Path) -> None:
    pictures = [hold(path) for hold in HELD.values()]
    got = client.predict("fruit", pictures).logits
    np.testing.assert_allclose(got, np.repeat(expected(), len(pictures), axis=0), rtol=1e-5)


def test_an_open_picture_is_turned_as_its_exif_data_says(client: frostline.Client, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(PIXELS[::-1, ::-1]).save(tmp_path / "b.png", exif=turned)
    with Image.open(tmp_path / "b.png") as picture:
        np.testing.assert_allclose(client.predict("fruit", [picture]).logits, expected(), rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [
        ("mood", ["great", 3], "column 'text', row 1: a text is expected, but it is 3 (int)"),
        ("fruit", ["nobody.png"], "column 'image': the picture 'nobody.png' cannot be read: No such file or directory"),
        ("fruit", [{"image": 3}], "column 'image': a picture is expected, but it is 3 (int); give a path"),
        ("fruit", [b"GIF89a"], "is a GIF; send PNG, JPEG or WebP"),
    ],
)
def test_what_is_no_text_or_picture_is_refused(
    client: frostline.Client, model: str, rows: list[Any], words: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        client.predict(model, rows)
    assert words in str(refusal.value)


def _sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of each input that the client sends from now on."""
    real = messages.request
    shapes: list[tuple[int, ...]] = []

    def request(model: str, inputs: Any, **options: Any) -> Any:
        shapes.extend(array.shape for array in (inputs.values() if isinstance(inputs, dict) else [inputs]))
        return real(model, inputs, **options)

    monkeypatch.setattr(messages, "request", request)
    return shapes


def test_pictures_of_one_size_are_sent_as_their_pixels(
    client: frostline.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.random.default_rng(6).integers(0, 256, (2, 9, 4), dtype=np.uint8)
    shapes = _sent(monkeypatch)
    for pictures in ([PIXELS] * 3, np.stack([PIXELS] * 3), {"image": np.stack([PIXELS] * 3)}):
        np.testing.assert_allclose(client.predict("fruit", pictures).logits, np.repeat(expected(), 3, 0), rtol=1e-5)
    as_files = client.predict("fruit", [Image.fromarray(picture) for picture in grey]).logits
    np.testing.assert_array_equal(client.predict("fruit", list(grey)).logits, as_files)
    assert shapes == [(3, 6, 8, 3)] * 3 + [(2,), (2, 9, 4, 1)]


def test_pictures_of_other_sizes_are_sent_as_files(client: frostline.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = _sent(monkeypatch)
    larger = np.kron(PIXELS, np.ones((2, 2, 1), np.uint8))
    got = client.predict("fruit", [PIXELS, larger]).logits
    np.testing.assert_array_equal(got[1], client.predict("fruit", [larger]).logits[0])
    np.testing.assert_allclose(got[:1], expected(), rtol=1e-5)
    assert shapes == [(2,), (1, 12, 16, 3)]


def test_an_array_for_the_networks_own_input_is_not_taken_for_pictures(client: frostline.Client) -> None:
    own = PIXELS.transpose(2, 0, 1)[None]
    np.testing.assert_allclose(client.predict("fruit", own).logits, expected(), rtol=1e-5)
    client.schema("fruit")
    np.testing.assert_allclose(client.predict("fruit", np.ascontiguousarray(own)).logits, expected(), rtol=1e-5)


def test_once_a_model_is_known_for_pictures_its_pixels_are_asked_for_once(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = _sent(monkeypatch)
    with frostline.connect(server.address, timeout_s=30) as client:
        for _ in range(3):
            client.predict("fruit", PIXELS[None])
    # At first it may be for the network's own input, which is refused.
    assert len(shapes) == 4


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([PIXELS / 255], "fruit expects"),
        (PIXELS[None] / 255, "fruit expects"),
        ([{"image": PIXELS / 255}], "a picture is expected, but it is array("),
        ({"image": PIXELS[None] / np.float32(255)}, "an array uint8 [height, width] or [height, width, 3 or 4]"),
        ([PIXELS, PIXELS / 255], "column 'image', row 1: a picture is expected"),
        (PIXELS, "may be one picture [height,width,channels] or grey ones [rows,height,width]"),
    ],
)
def test_pixels_that_are_not_0_to_255_are_refused(client: frostline.Client, rows: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        client.predict("fruit", rows)
    assert words in str(refusal.value)
