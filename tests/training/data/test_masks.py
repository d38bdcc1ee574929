"""Pictures with a class for each pixel: folders of masks, arrays, and the built-in scenes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from frostline_training import data
from frostline_training.data.scenes import digit_scenes
from frostline_training.errors import DataError
from frostline_training.sources import CsvFile, MaskFolder, NpzFile
from tests.support.training.datasets import only_input

LABELS = ("ground", "left", "right")
Array = np.ndarray[Any, Any]


def _pair(folder: Path, name: str, mask: Array, picture: Image.Image | None = None) -> None:
    """Write a mask, and a picture as large as it."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    height, width = mask.shape
    (picture or Image.new("RGB", (width, height), (9, 9, 9))).save(folder / "images" / f"{name}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def _halves(height: int, width: int) -> Array:
    mask = np.ones((height, width), np.uint8)
    mask[:, width // 2 :] = 2
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of 6 x 4 pixels, the left half of class 1 and the right half of class 2."""
    for number in range(3):
        _pair(tmp_path / "scenes", f"{number}", _halves(4, 6))
    return tmp_path / "scenes"


def _load(folder: Path, **options: Any) -> data.Dataset:
    return data.load(MaskFolder(path=folder, labels=LABELS, **options))


def test_each_pixel_has_the_class_of_its_mask(folder: Path) -> None:
    dataset = _load(folder, size=(4, 6))
    assert (dataset.task, dataset.labels) == ("dense", LABELS)
    assert only_input(dataset).shape == (3, 3, 4, 6)
    assert dataset.rows.targets.dtype == np.int64
    np.testing.assert_array_equal(dataset.rows.targets[0], _halves(4, 6))
    assert dataset.majority == 0.5


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_a_mask_is_brought_to_size_as_its_picture_and_no_class_is_mixed(tmp_path: Path, fit: str) -> None:
    # The picture shows its own classes as greys, so what is right is seen in its pixels, away from the edges.
    random = np.random.default_rng(0)
    mask = np.kron(random.integers(0, 3, (5, 9)), np.ones((20, 20), np.uint8)).astype(np.uint8)
    _pair(tmp_path, "a", mask, Image.fromarray(mask * 100).convert("RGB"))
    dataset = _load(tmp_path, size=(48, 64), fit=fit, background=(200, 200, 200), outside="right")
    shown, classes = only_input(dataset)[0, 0], dataset.rows.targets[0]
    assert set(np.unique(classes)) == {0, 1, 2}
    near = np.abs(shown / 100 - np.rint(shown / 100)) < 0.01
    flat = near & (np.abs(np.gradient(shown)[0]) < 1) & (np.abs(np.gradient(shown)[1]) < 1)
    assert flat.mean() > 0.5
    np.testing.assert_array_equal(classes[flat], np.rint(shown[flat] / 100))


def test_what_padding_adds_is_of_the_class_outside(folder: Path) -> None:
    ground, right = (_load(folder, size=(6, 6), **options).rows.targets[0] for options in ({}, {"outside": "right"}))
    np.testing.assert_array_equal(ground[[0, 5]], np.zeros((2, 6)))
    np.testing.assert_array_equal(right[[0, 5]], np.full((2, 6), 2))
    np.testing.assert_array_equal(ground[1:5], _halves(4, 6))


def test_a_mask_of_half_as_many_pixels_takes_every_second_one(tmp_path: Path) -> None:
    mask = (np.arange(64).reshape(8, 8) % 3).astype(np.uint8)
    _pair(tmp_path, "a", mask)
    np.testing.assert_array_equal(_load(tmp_path, size=(4, 4)).rows.targets[0], mask[1::2, 1::2])


@pytest.mark.parametrize("kind", ["palette", "two bits", "four bits", "one bit", "16 bits"])
def test_the_numbers_in_the_file_count_however_it_is_written(tmp_path: Path, kind: str) -> None:
    mask = _halves(2, 4) % 2 if kind == "one bit" else _halves(2, 4)
    _pair(tmp_path, "a", mask)
    path = tmp_path / "masks" / "a.png"
    image = Image.fromarray(mask)
    match kind:
        case "palette":
            image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
            image.save(path)
        case "one bit":
            Image.fromarray(mask.astype(bool)).save(path)
        case "16 bits":
            Image.fromarray(mask.astype(np.uint16)).save(path)
        case _:
            path.write_bytes(_grey_png(mask, 2 if kind == "two bits" else 4))
    np.testing.assert_array_equal(_load(tmp_path, size=(2, 4)).rows.targets[0], mask)


def _grey_png(values: Array, bits: int) -> bytes:
    """A PNG of grey with fewer than 8 bits, which Pillow reads and does not write."""
    import struct  # noqa: PLC0415 of this test alone
    import zlib  # noqa: PLC0415 as above

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    each = 8 // bits
    rows = b""
    for row in values.tolist():
        padded = row + [0] * (-len(row) % each)
        packed = [
            sum(value << bits * (each - 1 - at) for at, value in enumerate(padded[start : start + each]))
            for start in range(0, len(padded), each)
        ]
        rows += b"\0" + bytes(packed)
    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_turned_picture_has_the_mask_of_what_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _pair(tmp_path, "a", _halves(4, 6))
    Image.new("RGB", (4, 6)).save(tmp_path / "images" / "a.png", exif=exif)  # stored upright, shown lying
    np.testing.assert_array_equal(_load(tmp_path, size=(4, 6)).rows.targets[0], _halves(4, 6))


def _no_mask(folder: Path) -> None:
    (folder / "masks" / "1.png").unlink()


def _other_size(folder: Path) -> None:
    Image.fromarray(_halves(4, 8)).save(folder / "masks" / "1.png")


def _no_class(folder: Path) -> None:
    mask = _halves(4, 6)
    mask[2, 5] = 7
    Image.fromarray(mask).save(folder / "masks" / "1.png")


def _coloured(folder: Path) -> None:
    Image.new("RGB", (6, 4)).save(folder / "masks" / "1.png")


def _broken(folder: Path) -> None:
    path = folder / "masks" / "1.png"
    path.write_bytes(path.read_bytes()[:50])


def _no_png(folder: Path) -> None:
    Image.new("L", (6, 4)).save(folder / "masks" / "1.png", "JPEG")


def _twice(folder: Path) -> None:
    Image.new("RGB", (6, 4)).save(folder / "images" / "1.jpg")


def _no_folder(folder: Path) -> None:
    (folder / "masks").rename(folder / "labels")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_mask, r"images/1\.png has no mask: there is no .*masks/1\.png$"),
        (_other_size, r"masks/1\.png: has 8x4 pixels, and its picture has 6x4$"),
        (
            _no_class,
            r"masks/1\.png: has the number 7 in row 2, column 5, and there are 3 labels, for the numbers 0 to 2$",
        ),
        (_coloured, r"masks/1\.png: has the mode RGB, and a mask has one number for each pixel"),
        (_broken, r"masks/1\.png: is damaged"),
        (_no_png, r"masks/1\.png: is no PNG$"),
        (_twice, r"1\.jpg and 1\.png have one mask, .*masks/1\.png: give each a name of its own$"),
        (_no_folder, r"cannot read .*masks: No such file or directory$"),
    ],
)
def test_a_wrong_mask_is_refused_with_its_file(folder: Path, spoil: Any, said: str) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=said):
        _load(folder, size=(4, 6))


def test_a_picture_that_cannot_be_read_is_left_out_with_its_mask(folder: Path) -> None:
    (folder / "images" / "1.png").write_bytes(b"no picture")
    dataset = _load(folder, size=(4, 6))
    assert len(dataset.rows.targets) == 2
    assert "images/1.png (not a picture), masks/1.png (the mask of no picture)" in dataset.notes[0]


def test_the_card_says_what_is_outside(folder: Path) -> None:
    assert _load(folder, outside="left").facts["pictures"] == {
        "size": [128, 128], "color": "rgb", "fit": "pad", "background": [255, 255, 255], "skipped": {}, "outside": "left"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outside": "sky"}, "outside is 'sky', and there are the labels: ground, left, right"),
        ({"labels": ("a", "a")}, "labels must be different from each other"),
    ],
)
def test_wrong_labels_of_masks_are_refused(tmp_path: Path, options: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MaskFolder(path=tmp_path, **{"labels": LABELS, **options})


def test_a_table_has_no_pixels() -> None:
    with pytest.raises(ValidationError, match="a row of a table has no pixels"):
        CsvFile(path=Path("x.csv"), target="y", task="dense")


def _npz(tmp_path: Path, inputs: Array, target: Array, **options: Any) -> NpzFile:
    np.savez(tmp_path / "a.npz", input=inputs, target=target)
    return NpzFile(path=tmp_path / "a.npz", task="dense", **options)


def test_arrays_of_bytes_have_a_class_for_each_pixel(tmp_path: Path) -> None:
    inputs, target = np.zeros((4, 3, 5, 6), np.uint8), np.arange(120).reshape(4, 5, 6) % 2 * 10
    dataset = data.load(_npz(tmp_path, inputs, target))
    assert (dataset.labels, dataset.sequence) == (("0", "10"), False)
    assert only_input(dataset).dtype == np.float32
    np.testing.assert_array_equal(dataset.rows.targets, target // 10)
    named = data.load(_npz(tmp_path, inputs, target // 10, labels=("no", "yes")))
    assert named.labels == ("no", "yes")


@pytest.mark.parametrize(
    ("inputs", "target", "options", "said"),
    [
        (
            np.zeros((4, 5)),
            np.zeros(4, int),
            {},
            r"input has shape \[4, 5\], and task 'dense' takes pictures \[N, C, H, W\]",
        ),
        (
            np.zeros((4, 1, 5, 6)),
            np.zeros((4, 6, 5), int),
            {},
            r"target is int64 \[4, 6, 5\], not the class of each pixel",
        ),
        (np.zeros((4, 1, 5, 6)), np.zeros((4, 5, 6)), {}, "target is float64"),
        (np.zeros((4, 1, 5, 6)), np.zeros((3, 5, 6), int), {}, "4 rows of input, but 3 of target"),
        (
            np.zeros((2, 1, 1, 2)),
            np.array([[[0, 1]], [[0, 5]]]),
            {"labels": ("a", "b")},
            r"row 2, pixel \[0, 1\], target: class 5, but there are 2 labels",
        ),
    ],
)
def test_wrong_arrays_of_pixels_are_refused(
    tmp_path: Path, inputs: Array, target: Array, options: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        data.load(_npz(tmp_path, inputs, target, **options))


def test_pixels_of_one_class_teach_nothing(tmp_path: Path) -> None:
    dataset = data.load(_npz(tmp_path, np.zeros((9, 1, 2, 2)), np.ones((9, 2, 2), int), labels=("a", "b")))
    with pytest.raises(DataError, match="every pixel has the class 'b': there is nothing to tell apart"):
        data.split(dataset, seed=1, validation=0.2, test=0.2)


def test_every_digit_of_the_scenes_is_whole_and_in_one_picture_alone() -> None:
    # The digit that is called n has n + 1 pixels of ink.
    ink = (np.arange(64) < np.arange(40)[:, None] + 1).reshape(40, 8, 8) * 16.0
    pictures, masks = digit_scenes(ink, np.arange(40))
    counts = np.stack([np.bincount(mask.ravel(), minlength=41)[1:] for mask in masks])
    np.testing.assert_array_equal(counts.sum(axis=0), np.arange(40) + 1)
    assert (np.count_nonzero(counts, axis=0) == 1).all()
    assert set(np.count_nonzero(counts, axis=1)) <= {1, 2, 3, 4}
    assert (
        pictures[np.broadcast_to(masks[:, None] > 0, pictures.shape)].mean() < pictures[masks[:, None] == 0].mean() - 60
    )


def test_the_scenes_are_pictures_of_the_digits() -> None:
    dataset = data.load("digits-scenes")
    assert dataset.labels == ("background", *"0123456789")
    assert only_input(dataset).shape == (len(dataset.rows.targets), 1, 32, 32)
    assert set(np.unique(dataset.rows.targets)) == set(range(11))
