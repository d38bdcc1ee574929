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


def test_a_refused_row_is_named_by_its_file(server: Running, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    good, broken = str(tmp_path / "good.png"), str(tmp_path / "broken.jpg")
    assert refused(server, "fruit", *[good] * 100, broken, good).startswith(f"{broken}: is damaged")
    (tmp_path / "a.csv").write_text("text\n" + "great\n" * 70, encoding="utf-8")
    (tmp_path / "b.csv").write_text("text\ngreat\n" + "a" * ((1 << 20) + 1) + "\n", encoding="utf-8")
    told = refused(server, "mood", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    assert told.startswith(f"{tmp_path / 'b.csv'}, row 1, input 'text' for model 'mood': 1048577 bytes are too many")
