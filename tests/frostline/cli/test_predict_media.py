"""`frostline predict` with the files that a model of texts or pictures was trained on."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from frostline.cli.commands import app
from tests.support import raw_media
from tests.support.raw_media import logits_of, text_bytes
from tests.support.servers import Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("models")
    raw_media.write_texts(root)
    raw_media.write_pictures(root)
    with running(root, log_level="error") as instance:
        yield instance


def softmax(logits: raw_media.Array) -> raw_media.Array:
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: raw_media.Array = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def predicted(server: Running, *arguments: str) -> list[list[float]]:
    """The probabilities of each row."""
    outcome = CliRunner().invoke(app, ["predict", *arguments, "--server", server.address, "--format", "csv"])
    assert outcome.exit_code == 0, outcome.output
    _, *lines = csv.reader(outcome.stdout.splitlines())
    # After the id, the class and its probability.
    return [[float(cell) for cell in line[3:]] for line in lines]


def test_pictures_of_any_size_are_sent_as_files(server: Running, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (*raw_media.SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).resize((40, 30)).save(tmp_path / "b.jpg")
    one, other = predicted(server, "fruit", str(tmp_path / "a.png"), str(tmp_path / "b.jpg"))
    np.testing.assert_allclose(one, softmax(logits_of(pixels.transpose(2, 0, 1)[None]))[0], rtol=1e-5)
    assert sum(other) == pytest.approx(1)


def test_a_column_of_texts_is_sent_as_it_is(server: Running, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("stars,text\n5,great\n1,\n3,NA\n", encoding="utf-8")
    got = predicted(server, "mood", str(tmp_path / "reviews.csv"))
    np.testing.assert_allclose(got, softmax(logits_of(text_bytes(["great", "", "NA"]))), rtol=1e-5)


def test_a_jpg_for_a_model_that_takes_pixels_is_refused(server: Running, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "c.jpg")
    outcome = CliRunner().invoke(app, ["predict", "mood", str(tmp_path / "c.jpg"), "--server", server.address])
    assert outcome.exit_code != 0
    assert "takes no pictures as files" in str(outcome.exception)


def refused(server: Running, *arguments: str) -> str:
    """What the command says that it was told."""
    outcome = CliRunner().invoke(app, ["predict", *arguments, "--server", server.address])
    assert outcome.exit_code != 0
    return str(outcome.exception)


def test_a_picture_that_is_refused_is_named_by_its_file(server: Running, tmp_path: Path) -> None:
    good, bad = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    Image.new("RGB", (8, 6)).save(good)
    Image.new("RGB", (8, 6)).save(bad, "GIF")
    assert refused(server, "fruit", good, good, bad).startswith(f"{bad}: is a GIF")


def test_a_text_that_is_refused_is_named_by_its_row_of_the_file(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text\n" + "good\n" * 150 + "x" * 1_100_000 + "\ngood\n", encoding="utf-8")
    message = refused(server, "mood", str(path))
    assert message.startswith(f"{path}, row 150, input 'text' for model 'mood': 1100000 bytes are too many")


def test_a_refused_row_is_named_by_its_file(server: Running, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    good, broken = str(tmp_path / "good.png"), str(tmp_path / "broken.jpg")
    assert refused(server, "fruit", *[good] * 100, broken, good).startswith(f"{broken}: is damaged")
    (tmp_path / "a.csv").write_text("text\n" + "great\n" * 70, encoding="utf-8")
    (tmp_path / "b.csv").write_text("text\ngreat\n" + "a" * ((1 << 20) + 1) + "\n", encoding="utf-8")
    told = refused(server, "mood", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    assert told.startswith(f"{tmp_path / 'b.csv'}, row 1, input 'text' for model 'mood': 1048577 bytes are too many")


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_a_picture_is_no_text(server: Running, tmp_path: Path) -> None:
    # Its pixels would fit into the bytes of a text.
    Image.new("L", (raw_media.TEXT_BYTES, 1)).save(tmp_path / "a.png")
    told = refused(server, "mood", str(tmp_path / "a.png"))
    assert told == (
        f"{tmp_path / 'a.png'} is a picture, and mood takes no pictures as files; mood takes texts: csv and parquet files with "
        "the column text"
    )
    path = written(tmp_path / "a", (tmp_path / "a.png").read_bytes())
    assert "is a picture, and mood takes no pictures" in refused(server, "mood", path)


def test_texts_without_a_header_are_not_missing(server: Running, tmp_path: Path) -> None:
    told = refused(server, "mood", written(tmp_path / "a.csv", b"great film\nbad film\n"))
    assert told == refused(
        server, "mood", written(tmp_path / "a.csv", b"great film\n")
    )  # which is not names without rows
    assert "has no column of mood, which takes 'text'; it has: 'great film'. The first line of a csv file names" in told


def test_pictures_may_have_any_name_or_none(server: Running, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (*raw_media.SIZE, 3), dtype=np.uint8)
    wanted = softmax(logits_of(pixels.transpose(2, 0, 1)[None]))
    for form, name in (("PNG", "a"), ("PNG", "a.1"), ("WEBP", "b.picture"), ("PNG", "c.JPG")):
        Image.fromarray(pixels).save(tmp_path / name, form, **({"lossless": True} if form == "WEBP" else {}))
        np.testing.assert_allclose(predicted(server, "fruit", str(tmp_path / name)), wanted, rtol=1e-5)
    Image.fromarray(pixels).save(tmp_path / "d.jfif", "JPEG")
    assert len(predicted(server, "fruit", str(tmp_path / "d.jfif"))) == 1
    outcome = CliRunner().invoke(
        app,
        ["predict", "fruit", "-", "--server", server.address, "--format", "csv"],
        input=(tmp_path / "a").read_bytes(),
    )
    assert outcome.exit_code == 0, outcome.output
    assert float(outcome.stdout.splitlines()[1].split(",")[3]) == pytest.approx(wanted[0, 0], rel=1e-5)


PICTURES = "fruit takes pictures: png, jpg and webp files"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"great\n", f"it must end in .npy, .npz, .csv, .parquet, .png, .jpg or .webp; {PICTURES}"),
        (
            "a.xlsx",
            b"PK\x03\x04",
            f"cannot tell what {{path}} is: it must end in .npy, .npz, .csv, .parquet, .png, .jpg or .webp; {PICTURES}",
        ),
        ("a.csv", b"image\na.png\n", f"column 0: 'a.png' where a number was expected; {PICTURES}"),
        ("b.csv", b"caf\xe9\n", "invalid continuation byte"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_is(
    server: Running, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = written(tmp_path / name, content)
    assert words.format(path=path) in refused(server, "fruit", path)


def test_a_folder_is_no_file(server: Running, tmp_path: Path) -> None:
    told = refused(server, "fruit", str(tmp_path))
    assert told == f"{tmp_path} is a folder; give the files in it, such as {tmp_path / '*'}"


@pytest.mark.parametrize("option", [("--white", "16"), ("--card", "card.json")])
def test_pictures_that_are_sent_as_files_have_no_white_and_no_card(
    server: Running, tmp_path: Path, option: tuple[str, str]
) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    told = refused(server, "fruit", str(tmp_path / "a.png"), *option)
    assert told.startswith("--white and --card are for models that take pixels; fruit takes")


def test_a_table_in_another_encoding_is_to_be_written_as_the_models_own(server: Running, tmp_path: Path) -> None:
    told = refused(server, "mood", written(tmp_path / "a.csv", b"text\ncaf\xe9\n"))
    assert told.endswith("is not utf-8; write it as the table that the model was trained on")
