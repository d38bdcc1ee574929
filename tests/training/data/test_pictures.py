"""Folders of pictures: what a network is given is what a viewer shows, and what cannot be read is said."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from frostline_training import data
from frostline_training.data import Array
from frostline_training.errors import DataError
from frostline_training.sources import ImageFolder
from tests.support.training.datasets import only_input, picture_folder

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _alone(folder: Path, **options: object) -> Array:
    """Return what becomes of the one picture in `folder`, which is of class ``c``."""
    return np.asarray(only_input(data.load(ImageFolder.model_validate({"path": folder, **options})))[0])


@pytest.fixture
def one(tmp_path: Path) -> Path:
    (tmp_path / "one" / "c").mkdir(parents=True)
    return tmp_path / "one" / "c"


@pytest.mark.parametrize(("color", "channels"), [("rgb", 3), ("grey", 1)])
def test_an_image_folder_has_one_class_per_folder(tmp_path: Path, color: str, channels: int) -> None:
    source = ImageFolder.model_validate({"path": picture_folder(tmp_path / "p"), "size": (4, 5), "color": color})
    dataset = data.load(source)
    assert only_input(dataset).shape == (6, channels, 4, 5)
    assert (dataset.labels, dataset.rows.targets.tolist()) == (("class-0", "class-1"), [0, 0, 0, 1, 1, 1])
    assert dataset.notes == ()
    if color == "rgb":
        assert only_input(dataset)[4, :, 0, 0].tolist() == [40, 1, 255]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(one: Path, suffix: str) -> None:
    Image.fromarray(np.array([[0, 257 * 51, 65535]], np.uint16)).save(one / f"p.{suffix}")
    assert _alone(one.parent, size=(1, 3), color="grey").tolist() == [[[0, 51, 255]]]


def test_the_mean_of_a_16_bit_ramp_is_that_of_the_picture(one: Path) -> None:
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    for name, levels, mean in (("dark", ramp * 0.4, 51.0), ("light", 0.5 + ramp * 0.5, 191.25)):
        Image.fromarray((levels * 65535).astype(np.uint16)).save(one / "p.png")
        assert _alone(one.parent, size=(16, 16), color="grey").mean() == pytest.approx(mean, abs=0.5), name


# Red above blue as it is shown; the file holds it turned or mirrored, and its EXIF data says how.
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, [[RED, RED], [BLUE, BLUE]]),
        (3, [[BLUE, BLUE], [RED, RED]]),
        (4, [[BLUE, BLUE], [RED, RED]]),
        (6, [[RED, BLUE], [RED, BLUE]]),
        (8, [[BLUE, RED], [BLUE, RED]]),
    ],
)
def test_a_picture_is_upright_as_its_exif_data_says(
    one: Path, orientation: int, turned: Sequence[Sequence[tuple[int, int, int]]]
) -> None:
    image = Image.fromarray(np.array(turned, np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(one / "p.png", exif=exif)
    shown = _alone(one.parent, size=(2, 2))
    assert shown[:, 0, 0].tolist() == list(RED)
    assert shown[:, 1, 1].tolist() == list(BLUE)


def test_a_turned_pictures_aspect_is_the_shown_one(one: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(one / "p.png", exif=exif)
    assert _alone(one.parent, size=(4, 4), color="grey")[0].tolist() == [[255, 0, 0, 255]] * 4


def _transparent(mode: str) -> Image.Image:
    """Return a black pixel beside one that is black and transparent."""
    match mode:
        case "RGBA":
            return Image.fromarray(np.array([[[0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8))
        case "LA":
            return Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8))
        case "P":
            image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
            image.putpalette([0, 0, 0, 0, 0, 0])
        case "L":
            image = Image.fromarray(np.array([[0, 1]], np.uint8))
        case _:
            image = Image.fromarray(np.array([[0, 1]], np.uint16))
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16"])
def test_transparent_parts_show_the_background(one: Path, mode: str) -> None:
    image = _transparent(mode)
    image.save(one / "p.png")
    assert _alone(one.parent, size=(1, 2))[:, 0].tolist() == [[0, 255]] * 3
    assert _alone(one.parent, size=(1, 2), background=(10, 20, 30))[:, 0].tolist() == [[0, 10], [0, 20], [0, 30]]
    assert _alone(one.parent, size=(1, 2), color="grey", background=(70, 70, 70))[0].tolist() == [[0, 70]]


def test_half_transparent_is_half_of_each(one: Path) -> None:
    Image.new("RGBA", (1, 1), (255, 0, 0, 51)).save(one / "p.png")  # a fifth
    assert _alone(one.parent, size=(1, 1), background=(0, 0, 100)).ravel().tolist() == [51, 0, 80]


def test_cmyk_becomes_colour(one: Path) -> None:
    Image.fromarray(np.array([[[0, 255, 255, 0], [0, 0, 0, 0]]], np.uint8), "CMYK").save(one / "p.tif")
    assert _alone(one.parent, size=(1, 2)).transpose(1, 2, 0).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_the_first_frame_of_an_animation_counts_and_it_is_said(one: Path) -> None:
    Image.new("RGB", (2, 2), RED).save(one / "p.gif", save_all=True, append_images=[Image.new("RGB", (2, 2), BLUE)])
    dataset = data.load(ImageFolder(path=one.parent, size=(2, 2)))
    assert only_input(dataset)[0, :, 0, 0].tolist() == list(RED)
    assert dataset.notes[0] == "1 pictures of one have several frames or pages; the first one is used"


def test_pictures_that_no_client_can_send_are_trained_on_and_counted(one: Path) -> None:
    two = [Image.new("RGB", (2, 2), color) for color in (RED, BLUE)]
    for name in ("a.bmp", "b.png", "c.jpg", "d.webp", "e.tif", "f.gif"):
        two[0].save(one / name)
    two[0].save(one / "g.webp", save_all=True, append_images=two[1:])
    Image.new("1", (8000, 4001)).save(one / "h.png")
    dataset = data.load(ImageFolder(path=one.parent, size=(2, 2)))
    assert len(only_input(dataset)) == 8
    assert dataset.notes[1] == (
        "5 of 8 pictures of one no client can send: c/a.bmp (is a BMP), c/e.tif (is a TIFF), c/f.gif (is a GIF), c/g.webp (is "
        "an animation), c/h.png (has 8000 x 4001 pixels); a server takes PNG, JPEG or WebP of at most 32000000 pixels and 64 "
        "MiB, without further frames"
    )


def test_pixels_of_an_unknown_range_are_refused_with_the_reason(one: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(one / "p.tif")
    with pytest.raises(DataError, match=r"c/p.tif \(its pixels are floating-point numbers; save it with 8 or 16 bits"):
        data.load(ImageFolder(path=one.parent))


# Four pixels wide and two high, dark at the left and at the right; 7 is the background.
@pytest.mark.parametrize(
    ("fit", "rows"),
    [
        ("pad", [[7, 7, 7, 7], [0, 1, 1, 0], [0, 1, 1, 0], [7, 7, 7, 7]]),
        ("stretch", [[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]),
        ("crop", [[1, 1, 1, 1]] * 4),
    ],
)
def test_the_aspect_is_kept_or_not_as_the_source_says(one: Path, fit: str, rows: Sequence[Sequence[int]]) -> None:
    Image.fromarray(np.array([[0, 1, 1, 0]] * 2, np.uint8)).save(one / "p.png")
    options = {"size": (4, 4), "color": "grey", "fit": fit, "background": (7, 7, 7)}
    assert _alone(one.parent, **options)[0].tolist() == [list(row) for row in rows]


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_the_thinnest_picture_fits(one: Path, fit: str) -> None:
    Image.new("L", (1, 1000), 9).save(one / "p.png")
    assert _alone(one.parent, size=(8, 6), fit=fit).shape == (3, 8, 6)


def test_the_card_says_how_pictures_are_brought_to_size(tmp_path: Path) -> None:
    source = ImageFolder(path=picture_folder(tmp_path / "p", each=5), size=(8, 6), fit="crop", background=(1, 2, 3))
    split = data.split(data.load(source), seed=1, validation=0.3, test=0.3)
    assert data.describe(split)["pictures"] == {
        "size": [8, 6],
        "color": "rgb",
        "fit": "crop",
        "background": [1, 2, 3],
        "skipped": {},
    }
    assert split.dataset.send == (
        "one rgb picture of 6x8 pixels: [3, 8, 6], 0 (dark) to 255; upright, resized with its aspect kept and cropped "
        "at the centre, transparent parts on the colour #010203"
    )


def test_what_is_no_picture_is_skipped_and_listed(tmp_path: Path) -> None:
    pictures = picture_folder(tmp_path / "p")
    for name in ("Thumbs.db", ".hidden.png", "notes.txt"):
        (pictures / "class-0" / name).write_text("no picture")
    (pictures / "class-1" / "x.png").write_bytes(b"no picture")
    (pictures / "class-1" / "more").mkdir()
    (pictures / "class-1" / "more" / "y.png").write_bytes(b"")
    dataset = data.load(ImageFolder(path=pictures))
    assert len(dataset.rows.targets) == 6
    assert "".join(dataset.notes) == (
        "5 of p not read: class-0/.hidden.png (hidden, or a system's own), class-0/Thumbs.db (hidden, or a system's "
        "own), class-0/notes.txt (not a picture), class-1/more (a folder within, with 1 file), "
        "class-1/x.png (not a picture)"
    )
    assert dataset.facts["pictures"]["skipped"] == {"no picture": 4, "unreadable": 1}  # type: ignore[index]


def test_a_picture_that_ends_early_is_skipped_with_the_reason(tmp_path: Path) -> None:
    pictures = picture_folder(tmp_path / "p")
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(pictures / "class-0" / "0.jpg")
    whole = (pictures / "class-0" / "0.jpg").read_bytes()
    (pictures / "class-0" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    dataset = data.load(ImageFolder(path=pictures))
    assert dataset.rows.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert "class-0/0.jpg (damaged: image file is truncated" in dataset.notes[0]


@pytest.mark.parametrize(("broken", "unreadable", "allowed"), [(1, 0.0, 0), (2, 0.01, 1), (3, 0.25, 2)])
def test_more_unreadable_pictures_than_allowed_stop_the_training(
    tmp_path: Path, broken: int, unreadable: float, allowed: int
) -> None:
    pictures = picture_folder(tmp_path / "p")
    for number in range(broken):
        (pictures / "class-0" / f"x{number}.png").write_bytes(b"no picture")
    sentence = rf"{broken} of {6 + broken} pictures cannot be read, and at most {allowed} may .*: class-0/x0.png"
    with pytest.raises(DataError, match=sentence):
        data.load(ImageFolder(path=pictures, unreadable=unreadable))


def test_wrong_image_folders_are_refused_with_the_class(tmp_path: Path) -> None:
    pictures = picture_folder(tmp_path / "p")
    (pictures / "class-2").mkdir()
    with pytest.raises(DataError, match=r"class-2 is empty: class 'class-2' has no pictures$"):
        data.load(ImageFolder(path=pictures))
    (pictures / "class-2" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"class 'class-2' has no pictures; skipped: class-2/x.png \(not a picture\)"):
        data.load(ImageFolder(path=pictures))
    (tmp_path / "q").mkdir()
    with pytest.raises(DataError, match="q is empty: it must hold one folder of pictures for each class"):
        data.load(ImageFolder(path=tmp_path / "q"))


def test_a_colour_has_three_bytes(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 255"):
        ImageFolder(path=tmp_path, background=(0, 0, 256))
