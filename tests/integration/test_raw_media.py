"""Texts and pictures from a recipe to a server: raw test rows are answered as the trained network answers them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import frostline
from frostline_training import data
from frostline_training.config import Hyperparameters, Mlp, Recipe, Rnn
from frostline_training.sources import CsvFile, ImageFolder
from tests.support import calls, raw_clients
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.training.published import trained

Array = np.ndarray[Any, Any]


def _csv(folder: Path) -> CsvFile:
    random = np.random.default_rng(0)
    good, bad = ["großartig", "lovely \N{FOX FACE}", "fine"], ["dreadful", "dull", "poor"]
    lines = []
    for index in range(240):
        words = random.choice(bad if index % 2 else good, 1 + index % 4)
        text = ("NA", "", " ".join(words))[min(2, index % 29)]
        lines.append(f"{text},{'no' if index % 2 else 'yes'}")
    path = folder / "reviews.csv"
    path.write_text("\n".join(["review,y", *lines]), encoding="utf-8")
    return CsvFile(path=path, target="y", columns={"review": "text"}, text_bytes=16)


@dataclass(frozen=True)
class Trained:
    """What came of a recipe.

    Attributes:
        models: the models folder.
        cells: the raw test rows.
        answers: what PyTorch answers to them as training encodes them, [N, C].
        network: what answers.
    """

    models: Path
    cells: list[str]
    answers: Array
    network: nn.Module


def _trained(folder: Path, source: CsvFile | ImageFolder, network: Any, column: str) -> Trained:
    recipe = Recipe(
        name="raw", data=source, network=network, hyperparameters=Hyperparameters(epochs=2), baselines=False
    )
    published = trained(recipe, folder / "models", precision=["fp16"], bound=100)
    test = data.prepare(recipe).test
    assert test.cells is not None
    with torch.no_grad():
        answers = published(torch.from_numpy(data.named(test.inputs)["input"])).numpy()
    return Trained(folder / "models", [cell or "" for cell in test.cells.columns[column]], answers, published)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("reviews")
    return _trained(folder, _csv(folder), Rnn(state=8, embedding=4), "review")


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_raw_texts_of_a_csv_recipe_are_answered_as_training_answers_them(reviews: Trained, transport: str) -> None:
    assert {"", "NA"} & set(reviews.cells)
    with running(reviews.models, transport=transport, log_level="error") as server:
        np.testing.assert_allclose(_asked(server, "review", reviews.cells), reviews.answers, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def fruits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("fruits")
    source = ImageFolder(path=_pictures(folder / "fruits"), size=(8, 10), fit="pad", background=(0, 128, 255))
    return _trained(folder, source, Mlp(hidden=(8,)), "image")


def _pictures(folder: Path) -> Path:
    """Two folders of pictures of many sizes and formats, of which one is none that a server takes."""
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(60):
        path = folder / ("apple", "pear")[index % 2]
        path.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(5, 40, 2)
        image = Image.fromarray(random.integers(0, 256, (height, width, (3, 4)[index % 3 == 0]), dtype=np.uint8))
        match index % 4:
            case 0:
                image.save(path / f"{index}.png")
            case 1:
                image.convert("RGB").save(path / f"{index}.jpg", exif=exif)
            case 2:
                image.save(path / f"{index}.webp")
            case _:
                image.convert("RGB").save(path / f"{index}.{('bmp', 'jpg')[index % 8 == 3]}")
    return folder


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_raw_pictures_of_a_folder_are_answered_as_training_answers_them(fruits: Trained, transport: str) -> None:
    taken = [at for at, path in enumerate(fruits.cells) if not path.endswith(".bmp")]
    assert 1 < len(taken) < len(fruits.cells)
    files = [Path(fruits.cells[at]).read_bytes() for at in taken]
    with running(fruits.models, transport=transport, log_level="error") as server:
        np.testing.assert_allclose(_asked(server, "image", files), fruits.answers[taken], rtol=1e-4, atol=1e-4)


def test_a_variant_is_proved_with_the_raw_pictures_too(fruits: Trained) -> None:
    with np.load(fruits.models / "raw" / "1" / "golden.npz") as full:
        lengths = full["rows.image.lengths"]
    with np.load(fruits.models / "raw-fp16" / "1" / "golden.npz") as golden:
        assert 0 < len(golden["rows.image.lengths"]) <= len(lengths)
        assert golden["rows.image.lengths"].sum() == len(golden["rows.image"])
        assert len(golden["rows_logits"]) == len(golden["rows.image.lengths"])


def _asked(server: Running, column: str, cells: Sequence[Any]) -> Array:
    """What a server answers to raw rows, one at a time and in batches."""
    with grpc.insecure_channel(server.address) as channel:
        stub = calls.stub(channel)

        def ask(part: Sequence[Any]) -> Array:
            rows = np.empty(len(part), object)
            rows[:] = part
            request = calls.infer_request("raw", {column: rows}, ["logits"])
            return calls.answers(stub.ModelInfer(request, timeout=TIMEOUT_S))["logits"]

        alone = np.concatenate([ask([cell]) for cell in cells])
        together = np.concatenate([ask(cells[at : at + 32]) for at in range(0, len(cells), 32)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    return together


COMMANDS = ["triton alone", "triton", "kserve", "node"]


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Callable[[str], list[str]]:
    """What makes the command of a stock client of a server's address."""
    name = str(request.param)
    if name == "kserve":
        python = request.getfixturevalue("kserve_python")
        return lambda address: raw_clients.kserve(python, address, "raw", 16)
    if name == "node":
        request.getfixturevalue("node_packages")
        program = request.getfixturevalue("tool")("node")
        return lambda address: raw_clients.node(program, address, "raw", 16)
    return lambda address: raw_clients.triton(address, "raw", 1 if name == "triton alone" else 16)


@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_stock_clients_send_texts(reviews: Trained, command: Callable[[str], list[str]]) -> None:
    with running(reviews.models, log_level="error") as server:
        got = raw_clients.ask({"review": raw_clients.texts(reviews.cells[:64])}, command(server.address))
    np.testing.assert_allclose(got, raw_clients.softmax(reviews.answers[:64]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_stock_clients_send_pictures_as_files_and_as_pixels(
    fruits: Trained, command: Callable[[str], list[str]]
) -> None:
    taken = [at for at, path in enumerate(fruits.cells) if not path.endswith(".bmp")]
    files = [Path(fruits.cells[at]).read_bytes() for at in taken]
    pixels = np.random.default_rng(2).integers(0, 256, (20, 21, 13, 3), dtype=np.uint8)
    with torch.no_grad():
        encoded = frostline.encode([_png(picture) for picture in pixels], [IMAGE])
        answers = fruits.network(torch.from_numpy(encoded)).numpy()
    with running(fruits.models, log_level="error") as server:
        as_files = raw_clients.ask({"image": raw_clients.files(files)}, command(server.address))
        as_pixels = raw_clients.ask({"image": raw_clients.pixels(pixels)}, command(server.address))
    np.testing.assert_allclose(as_files, raw_clients.softmax(fruits.answers[taken]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(as_pixels, raw_clients.softmax(answers), rtol=1e-4, atol=1e-4)


IMAGE = frostline.Image("image", (8, 10), fit="pad", background=(0, 128, 255))


def _png(pixels: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
