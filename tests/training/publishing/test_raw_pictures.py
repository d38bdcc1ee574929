"""A published network for pictures takes files as they are: its golden sample holds real and odd ones."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow  # noqa: N813 the column is called so
from torch import nn

import frostline
from frostline_training import publish
from frostline_training.data.rows import Image
from frostline_training.errors import PublishError
from tests.support.raw_media import picture_files, pixels_of

FILES = [file for file, _ in picture_files().values()]
SHOWN = pixels_of([shown for _, shown in picture_files().values()])
IMAGE = Image("image", (6, 8), fit="stretch")


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 2))


def test_pictures_become_what_a_viewer_shows() -> None:
    np.testing.assert_array_equal(frostline.encode(FILES, [IMAGE]), SHOWN)
    np.testing.assert_array_equal(frostline.encode({"image": FILES, "more": range(7)}, [IMAGE]), SHOWN)


class _Series:
    """A column of pandas or polars, as far as it is looked at."""

    def __init__(self, cells: list[Any]) -> None:
        self._cells = cells

    def __len__(self) -> int:
        return len(self._cells)

    def to_list(self) -> list[Any]:
        return self._cells


def _closed() -> Any:
    picture = pillow.open(io.BytesIO(FILES[0]))
    picture.close()
    return picture


def test_pictures_may_be_given_as_people_hold_them(tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.bin" for place in range(len(FILES))]
    for path, file in zip(paths, FILES, strict=True):
        path.write_bytes(file)
    held: list[Any] = [
        [bytearray(file) for file in FILES],
        paths,
        [str(path) for path in paths],
        np.array([str(path) for path in paths]),
        (path for path in paths),
        [{"image": path} for path in paths],
        {"image": tuple(paths)},
        _Series(paths),
    ]
    for rows in held:
        np.testing.assert_array_equal(frostline.encode(rows, IMAGE), SHOWN)
    png = [file for file in FILES if file.startswith(b"\x89PNG")]
    opened = [pillow.open(io.BytesIO(file)) for file in png]
    np.testing.assert_array_equal(frostline.encode(opened, [IMAGE]), frostline.encode(png, [IMAGE]))


@pytest.mark.parametrize("shape", [(2, 9, 7), (2, 9, 7, 1), (2, 9, 7, 3), (2, 9, 7, 4)])
def test_pixels_become_what_a_png_of_them_becomes(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    files = []
    for picture in pixels:
        file = io.BytesIO()
        pillow.fromarray(picture[:, :, 0] if shape[3:] == (1,) else picture).save(file, "PNG")
        files.append(file.getvalue())
    for rows in (list(pixels), pixels, {"image": pixels}):
        np.testing.assert_array_equal(frostline.encode(rows, [IMAGE]), frostline.encode(files, [IMAGE]))


def test_one_column_need_not_be_in_a_list_and_an_iterator_is_published(tmp_path: Path) -> None:
    rows = (pillow.fromarray(np.full((6, 8), place * 60, np.uint8)) for place in range(4))
    assert publish(_network(), rows, inputs=IMAGE, name="f", models=tmp_path).rows == 4


def test_the_golden_sample_holds_files_and_what_the_network_answers(tmp_path: Path) -> None:
    published = publish(_network(), FILES, inputs=[IMAGE], test=(FILES, [0, 1] * 3 + [0]), name="f", models=tmp_path)
    card = json.loads((published.path / "card.json").read_text())
    column = {"name": "image", "kind": "image", "size": [6, 8], "color": "rgb", "fit": "stretch"}
    assert card["rows"] == {"columns": [{**column, "background": [255, 255, 255]}]}
    with np.load(published.path / "golden.npz", allow_pickle=False) as golden:
        joined, lengths, answers = golden["rows.image"], golden["rows.image.lengths"], golden["rows_logits"]
    assert (joined.dtype, lengths.dtype) == (np.uint8, np.int64)
    assert len(answers) == len(lengths) > len(FILES)
    assert lengths.sum() == len(joined)
    assert joined[: lengths[0]].tobytes() == FILES[0]
    with torch.no_grad():
        expected = _network()(torch.from_numpy(SHOWN)).numpy()
    np.testing.assert_allclose(answers[: len(FILES)], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("sample", "image", "words"),
    [
        (FILES, Image("image", (0, 8)), "the image 'image': size.0"),
        (FILES, Image("image", (6, 9000)), "at most 8192 pixels a side"),
        (FILES, Image("input", (6, 8)), "a column is called 'input'"),
        ([FILES[0], b"GIF89a"], IMAGE, "is a GIF; send PNG, JPEG or WebP"),
        ([FILES[0], 1], IMAGE, "row 2, column 'image': int is not the path of a file, or its bytes"),
        (["nowhere.png"], IMAGE, "row 1, column 'image': cannot read nowhere.png"),
        ("pictures", IMAGE, "the raw rows are a single str: give a list of images for the column 'image'"),
        (Path("pictures"), IMAGE, "the raw rows are a single PosixPath: give a list of images"),
        (pillow.new("L", (2, 2)), IMAGE, "the raw rows are a single Image: give a list of images"),
        (np.zeros((5, 6, 3), np.uint8), IMAGE, "the raw rows are a single ndarray: give a list of images"),
        (
            [np.zeros((3, 5, 6), np.uint8)] * 2,
            IMAGE,
            "row 1, column 'image': uint8 [3, 5, 6] is not the path of a file",
        ),
        (
            [np.zeros((5, 6, 3), np.float32)] * 2,
            IMAGE,
            "row 1, column 'image': float32 [5, 6, 3] is not the path of a file",
        ),
        ([np.ma.masked_equal(np.zeros((5, 6), np.uint8), 0)] * 2, IMAGE, "row 1, column 'image': has masked pixels"),
        (
            [pillow.new("F", (2, 2))],
            IMAGE,
            "row 1, column 'image': cannot be saved as a PNG: ",
        ),
        ([_closed()], IMAGE, "row 1, column 'image': cannot be saved as a PNG: Operation on closed image"),
        (torch.zeros(2, 3, 6, 8), IMAGE, "the raw rows are Tensor: give a list"),
        ([], IMAGE, "there are no raw rows"),
    ],
)
def test_what_are_no_pictures_is_refused(tmp_path: Path, sample: Any, image: Image, words: str) -> None:
    with pytest.raises(PublishError) as refusal:
        publish(_network(), sample, inputs=[image], test=(sample, None), name="f", models=tmp_path)
    assert words in str(refusal.value)
