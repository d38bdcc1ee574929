"""Texts and pictures as raw rows, as people hold them, through both clients and a real server."""

import asyncio
import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import frostline
from frostline.client import asking, messages
from frostline.client.errors import InvalidInput
from frostline.client.rows import encoded
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


class Series:
    """A column as pandas has it, and NumPy's arrays of one."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def to_list(self) -> list[Any]:
        return self._values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.array(self._values, dtype)


TWO = ["great", "abcdefgh"]


@pytest.mark.parametrize(
    "held",
    [
        lambda: tuple(TWO),
        lambda: iter(TWO),
        lambda: (text for text in TWO),
        lambda: map(str, TWO),
        lambda: dict.fromkeys(TWO).keys(),
        lambda: deque(TWO),
        lambda: np.array(TWO),
        lambda: np.array(TWO, object),
        lambda: np.array(TWO, np.dtypes.StringDType()),
        lambda: np.array(TWO)[:, np.newaxis],
        lambda: Series(TWO),
        lambda: {"text": (text for text in TWO)},
        lambda: {"text": Series(TWO)},
        lambda: {"text": np.array(TWO, np.dtypes.StringDType())},
    ],
)
def test_texts_may_be_held_in_any_order(server: Running, client: frostline.Client, held: Callable[[], Any]) -> None:
    async def ask() -> Array:
        async with frostline.connect_async(server.address, timeout_s=30) as twin:
            return (await twin.predict("mood", held())).logits

    for got in (client.predict("mood", held()).logits, asyncio.run(ask())):
        np.testing.assert_allclose(got, logits_of(text_bytes(TWO)), rtol=1e-5)


@pytest.mark.parametrize(
    ("held", "texts"),
    [
        ("great", ["great"]),
        (np.str_("great"), ["great"]),
        ([None, "great"], ["", "great"]),
        ([float("nan"), "great"], ["", "great"]),
        ([None], [""]),
        (np.array([None, "great"], object), ["", "great"]),
        (np.ma.masked_array(np.array(["bad", "great"], object), [True, False]), ["", "great"]),
        (Series([None, "great"]), ["", "great"]),
    ],
)
def test_one_text_is_a_row_and_the_first_may_be_missing(client: frostline.Client, held: Any, texts: list[str]) -> None:
    np.testing.assert_allclose(client.predict("mood", held).logits, logits_of(text_bytes(texts)), rtol=1e-5)


MOOD = "mood expects a list of texts, or rows with the column text, or input UINT8 [any, 8]"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], f"there are no rows; {MOOD}"),
        (np.array([], str), f"there are no rows; {MOOD}"),
        (iter(()), f"there are no rows; {MOOD}"),
        (None, MOOD),
        (
            [5, "great"],
            f"the input holds the text 'great' at [1] and the number 5 at [0]; give only texts, or only numbers; {MOOD}",
        ),
        ([["great"], ["bad"]], MOOD),
        (np.zeros((1, 9), np.uint8), MOOD),
        ({"great"}, "the rows are a set, which has no order that the answers could have; give a list"),
        (b"great", "column 'text': a text is expected, but it is b'great' (bytes); decode it: .decode()"),
        (np.array([b"great"]), "column 'text': a text is expected, but it is b'great' (bytes); decode it: .decode()"),
        (Path("a.txt"), "a text is expected, but it is PosixPath('a.txt') (PosixPath); give what the file holds"),
        (io.StringIO("great"), "a text is expected, but it is <_io.StringIO object"),
        (np.array([["great", "bad"]]), "the input is an array of shape [1, 2]; give a list with a value for each row"),
        ([{}, {}], "row 0 has none of the columns of mood: text"),
    ],
)
def test_what_are_no_texts_is_refused_with_what_the_model_takes(
    server: Running, client: frostline.Client, rows: Any, words: str
) -> None:
    async def ask() -> None:
        async with frostline.connect_async(server.address, timeout_s=30) as twin:
            await twin.predict("mood", rows)

    for refused in (lambda: client.predict("mood", rows), lambda: asyncio.run(ask())):
        with pytest.raises(InvalidInput) as refusal:
            refused()
        assert words in str(refusal.value)


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
    "masked array without a mask": lambda _: np.ma.masked_array(PIXELS),
    "view of bytes": lambda path: memoryview(path.read_bytes()),
    "file in memory": lambda path: io.BytesIO(path.read_bytes()),
    "entry of a folder": lambda path: [*os.scandir(path.parent)].pop(),
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


@pytest.mark.parametrize(
    "held",
    [
        lambda path: path.parent.glob("*.png"),
        lambda path: np.array([str(path)]),
        lambda path: np.array([path], object),
        lambda path: Series([path.read_bytes()]),
        lambda path: {"image": Series([path.read_bytes()])},
        lambda path: path,
        str,
        lambda path: path.read_bytes(),
        lambda _: Image.fromarray(PIXELS),
    ],
)
def test_pictures_may_be_listed_in_any_way(client: frostline.Client, path: Path, held: Callable[[Path], Any]) -> None:
    np.testing.assert_allclose(client.predict("fruit", held(path)).logits, expected(), rtol=1e-5)


class Chunked:
    """A column as pyarrow has it: what it iterates over are no Python values."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[object]:
        return (object() for _ in self._values)

    def to_pylist(self) -> list[Any]:
        return self._values


class Table:
    """A table as pyarrow has it."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[Chunked]:
        return [Chunked(values) for values in self._columns.values()]

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __getitem__(self, name: str) -> Chunked:
        return Chunked(self._columns[name])


def test_a_column_of_arrow_holds_files(client: frostline.Client, path: Path) -> None:
    table = Table({"image": [path.read_bytes()] * 2})
    every: list[Any] = [table, table["image"]]
    for held in every:
        np.testing.assert_allclose(client.predict("fruit", held).logits, np.repeat(expected(), 2, 0), rtol=1e-5)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX", "PA", "RGBa", "La", "LA", "P", "1", "I;16", "I;16B"])
def test_a_picture_of_any_mode_is_answered_as_training_reads_it(client: frostline.Client, mode: str) -> None:
    source = Image.fromarray(PIXELS)
    if mode.startswith("I;16"):
        deep = PIXELS[:, :, 0].astype(np.uint16) * 257
        picture = Image.frombytes(mode, deep.shape[::-1], deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
        seen = np.repeat(PIXELS[:, :, :1], 3, axis=2)
    else:
        opaque = {"PA": "LA", "RGBa": "RGBA", "La": "LA"}.get(mode)
        picture = (source.convert(opaque) if opaque else source).convert(mode)
        seen = np.asarray((picture.convert("LA") if mode == "La" else picture).convert("RGB"))
    np.testing.assert_allclose(
        client.predict("fruit", [picture]).logits, logits_of(seen.transpose(2, 0, 1)[None]), rtol=1e-5
    )


def test_a_picture_opened_from_a_file_is_answered_as_the_file(client: frostline.Client, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    source = Image.fromarray(np.kron(PIXELS, np.ones((4, 4, 1), np.uint8)))
    source.convert("CMYK").save(tmp_path / "a.jpg", quality=95, exif=turned)
    got = client.predict("fruit", [tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg")]).logits
    np.testing.assert_array_equal(got[0], got[1])


@pytest.mark.parametrize(
    ("mode", "what"), [("F", "floating-point numbers"), ("I", "whole numbers of 32 bits"), ("LAB", "L*a*b* values")]
)
def test_pixels_of_no_known_range_are_refused(client: frostline.Client, mode: str, what: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        client.predict("fruit", [PIXELS, Image.new(mode, (8, 6))])
    assert f"column 'image', row 1: the picture cannot be saved as a PNG: its pixels are {what}" in str(refusal.value)


def test_a_closed_picture_is_refused(client: frostline.Client, path: Path) -> None:
    with Image.open(path) as closed:
        pass
    with pytest.raises(InvalidInput, match=r"column 'image', row 1: the picture cannot be saved as a PNG: .*closed"):
        client.predict("fruit", [PIXELS, closed])


def test_masked_pixels_are_refused(client: frostline.Client) -> None:
    masked = np.ma.masked_array(np.stack([PIXELS] * 2))
    masked[1, 2, 3, 0] = np.ma.masked
    for rows, words in (
        (masked, "the pictures are masked at [1, 2, 3, 0], so there is no pixel to send; fill it first: .filled(255)"),
        ({"image": masked}, "the pictures are masked at [1, 2, 3, 0]"),
        ([masked[0], masked[1]], "column 'image', row 1: the picture is masked at [2, 3, 0]"),
        ([masked[1], PIXELS[:3]], "column 'image', row 0: the picture is masked at [2, 3, 0]"),
    ):
        with pytest.raises(InvalidInput) as refusal:
            client.predict("fruit", rows)
        assert words in str(refusal.value)


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


def test_a_refusal_counts_all_rows_and_not_those_of_its_request(client: frostline.Client) -> None:
    at_once = client.schema("fruit").max_rows
    pictures = [png()] * (2 * at_once + 9)
    pictures[at_once + 5] = png()[:60]
    with pytest.raises(InvalidInput, match=rf"^column 'image', row {at_once + 5}: is damaged"):
        client.predict("fruit", pictures)
    texts = ["great"] * (2 * at_once + 9)
    texts[2 * at_once + 7] = "a" * ((1 << 20) + 1)
    with pytest.raises(InvalidInput, match=rf"^input 'text' for model 'mood', row {2 * at_once + 7}: 1048577 bytes"):
        client.predict("mood", texts)


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


def test_grey_pictures_may_have_an_axis_of_channels_or_not(client: frostline.Client) -> None:
    grey = np.random.default_rng(7).integers(0, 256, (2, 9, 7), dtype=np.uint8)
    wanted = client.predict("fruit", [Image.fromarray(picture) for picture in grey]).logits
    mixed = [grey[0][:, :, np.newaxis], Image.fromarray(grey[1])]
    for held in (grey, list(grey), {"image": grey}, grey[..., np.newaxis], list(grey[..., np.newaxis]), mixed):
        np.testing.assert_array_equal(client.predict("fruit", held).logits, wanted)


def test_pictures_of_other_sizes_are_sent_as_files(client: frostline.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = _sent(monkeypatch)
    larger = np.kron(PIXELS, np.ones((2, 2, 1), np.uint8))
    got = client.predict("fruit", [PIXELS, larger]).logits
    np.testing.assert_array_equal(got[1], client.predict("fruit", [larger]).logits[0])
    np.testing.assert_allclose(got[:1], expected(), rtol=1e-5)
    assert shapes == [(2,), (1, 12, 16, 3)]


def test_pictures_of_many_pixels_go_in_several_requests(
    client: frostline.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = _sent(monkeypatch)
    monkeypatch.setattr(asking, "MOST_PIXELS_TOGETHER", 6 * 8 * 2)
    larger = np.kron(PIXELS, np.ones((2, 2, 1), np.uint8))  # of more than that by itself
    got = client.predict("fruit", [PIXELS, PIXELS, PIXELS, larger, PIXELS]).logits
    assert shapes == [(2,), (1,), (1,), (1,)]
    np.testing.assert_allclose(got[[0, 1, 2, 4]], np.repeat(expected(), 4, axis=0), rtol=1e-5)
    client.predict("fruit", np.stack([PIXELS] * 5))
    assert shapes[4:] == [(2, 6, 8, 3), (2, 6, 8, 3), (1, 6, 8, 3)]


def test_an_array_for_the_networks_own_input_is_not_taken_for_pictures(client: frostline.Client) -> None:
    own = PIXELS.transpose(2, 0, 1)[None]
    np.testing.assert_allclose(client.predict("fruit", own).logits, expected(), rtol=1e-5)
    client.schema("fruit")
    np.testing.assert_allclose(client.predict("fruit", np.ascontiguousarray(own)).logits, expected(), rtol=1e-5)
    np.testing.assert_allclose(client.predict("fruit", [own[0]]).logits, expected(), rtol=1e-5)


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
        (
            [PIXELS / 255],
            "arrays uint8 [height, width, 3]), or rows with the column image, or input FP32 [any, 3, 6, 8]",
        ),
        ([PIXELS.astype(np.uint16)], "arrays uint8 [height, width, 3])"),
        ([np.zeros((3, 9, 7), np.uint8)], "it is array(uint8 [3, 9, 7]); the channels come last: .transpose(1, 2, 0)"),
        ([np.zeros((9, 7, 2), np.uint8)], "it is array(uint8 [9, 7, 2]); give a path"),
        ([PIXELS, np.zeros((3, 9, 7), np.uint8)], "column 'image', row 1: a picture is expected"),
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


def test_where_texts_are_no_paths_no_file_is_read(client: frostline.Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(raw_media.picture_files()["png"][0])
    schema = client.schema("fruit")
    for inputs in ([str(path)], str(path), {"image": [str(path)]}, [{"image": str(path)}], [path]):
        assert encoded(inputs, schema)["image"].tolist() == [path.read_bytes()]
        with pytest.raises(InvalidInput, match=r"column 'image': a picture is expected, but it is .*; give the bytes"):
            encoded(inputs, schema, paths=False)
    assert encoded([path.read_bytes()], schema, paths=False)["image"].tolist() == [path.read_bytes()]
    with pytest.raises(InvalidInput, match="column 'image', row 1: a picture is expected"):
        encoded([path.read_bytes(), str(path)], schema, paths=False)
