"""A recipe on a CSV file, trained and served: clients that know nothing of Frostline send its rows as they are in the file."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

import frostline
from frostline import server_process
from frostline.cli import main as cli
from frostline_training import pipeline
from frostline_training.config import Hyperparameters, Mlp, Recipe
from frostline_training.data import prepare
from frostline_training.data.encoding import encode
from frostline_training.sources import CsvFile
from tests.support import raw_clients
from tests.support.servers import running

MISSING = ("", "NA", "?")


class Served(NamedTuple):
    """A trained model behind a server, and the test rows of its recipe.

    Attributes:
        address: the server's.
        columns: the cells as JSON has them, by column.
        probabilities: what the published network answers for the rows as training encodes them.
    """

    address: str
    columns: dict[str, dict[str, Any]]
    probabilities: Any


def write_table(path: Path) -> None:
    """400 rows of numbers, categories and dates, of which some are missing, and whether a customer left."""
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["tenure", "plan", "city", "signup", "left"])
        for _ in range(400):
            tenure = round(float(random.gamma(2, 10)), 1)
            plan, city = random.choice(["basic", "pro", "größer 🙂"]), random.choice(["Köln", "Oslo", "Lyon"])
            signup = f"{random.integers(2018, 2025)}-{random.integers(1, 13):02d}-{random.integers(1, 29):02d}"
            left = "yes" if random.random() < (0.8 if plan == "basic" and tenure < 20 else 0.2) else "no"
            cells = [str(tenure), str(plan), str(city), signup]
            if random.random() < 0.3:
                cells[random.integers(0, 4)] = str(random.choice(MISSING))
            table.writerow([*cells, left])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("raw")
    write_table(folder / "left.csv")
    recipe = Recipe(
        name="left",
        data=CsvFile(path=folder / "left.csv", target="left"),
        network=Mlp(hidden=(16,)),
        hyperparameters=Hyperparameters(epochs=3),
        baselines=False,
    )
    models = folder / "models"
    published = pipeline.run(recipe, models=models, device="cpu", console=Console(quiet=True), runs=None)
    split = prepare(recipe)
    raw = split.test.cells
    assert raw is not None
    # A category that nobody has heard of, which is not answered as a missing one.
    plans = ["platinum" if cell == "?" else cell for cell in raw.columns["plan"]]
    raw = replace(raw, columns={**raw.columns, "plan": plans})
    numbers = encode(raw, split.dataset.columns)
    session = onnxruntime.InferenceSession(published.path / "model.onnx")
    logits = session.run(["logits"], {"input": numbers})[0]
    columns: dict[str, dict[str, Any]] = {
        "tenure": {
            "datatype": "FP64",
            "data": [None if cell is None or cell in MISSING else float(cell) for cell in raw.columns["tenure"]],
        }
    }
    for name in ("plan", "city", "signup"):
        columns[name] = {"datatype": "BYTES", "data": [cell or "" for cell in raw.columns[name]]}
    flags = ["--models", str(models), "--allow-anonymous", "all"]
    with server_process.serve(flags, lambda event: None) as server:
        yield Served(server.address, columns, raw_clients.softmax(logits))


@pytest.mark.parametrize("rows", [1, 16])
def test_tritons_client_sends_the_rows_of_the_file(served: Served, rows: int) -> None:
    got = raw_clients.ask(served.columns, raw_clients.triton(served.address, "left", rows))
    np.testing.assert_allclose(got, served.probabilities, atol=1e-5)


def test_kserves_client_sends_the_rows_of_the_file(served: Served, kserve_python: Path) -> None:
    got = raw_clients.ask(served.columns, raw_clients.kserve(kserve_python, served.address, "left", 16))
    np.testing.assert_allclose(got, served.probabilities, atol=1e-5)


def test_a_client_of_node_sends_the_rows_of_the_file(
    served: Served, tool: Callable[[str], str], node_packages: Path
) -> None:
    assert node_packages.is_dir()
    got = raw_clients.ask(served.columns, raw_clients.node(tool("node"), served.address, "left", 16))
    np.testing.assert_allclose(got, served.probabilities, atol=1e-5)


def test_where_the_empty_text_is_a_category_nothing_is_not_that_category(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regions = ["north", "", "NA"] * 40
    lines = [f'"{region}",{index % 7},{"yes" if index % 3 == 2 else "no"}' for index, region in enumerate(regions)]
    (tmp_path / "t.csv").write_text("\n".join(["region,n,left", *lines, ""]))
    recipe = Recipe(
        name="left",
        data=CsvFile(path=tmp_path / "t.csv", target="left", missing=("NA",)),
        network=Mlp(hidden=(8,)),
        hyperparameters=Hyperparameters(epochs=2),
        baselines=False,
    )
    models = tmp_path / "models"
    published = pipeline.run(recipe, models=models, device="cpu", console=Console(quiet=True), runs=None)
    columns = prepare(recipe).dataset.columns
    assert columns[0].categories == ("(unknown)", "", "north", "(missing)")
    session = onnxruntime.InferenceSession(published.path / "model.onnx")
    expected = session.run(["logits"], {"input": np.array([[1, 3], [2, 3], [3, 3]], np.float32)})[0]
    (tmp_path / "rows.csv").write_text('region,n\n"",3\nnorth,3\nNA,3\n')
    with running(models, log_level="error") as server, frostline.connect(server.address) as client:
        rows = [{"region": region, "n": 3} for region in ("", "north", None)]
        np.testing.assert_allclose(client.predict("left", rows).logits, expected, rtol=1e-5)
        command = ["predict", "left", str(tmp_path / "rows.csv"), "--server", server.address, "--format", "csv"]
        capsys.readouterr()
        assert cli.run(command) == 0
        answers = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    told = [[float(line[label]) for label in ("no", "yes")] for line in answers]
    np.testing.assert_allclose(told, softmax(expected), rtol=1e-4)


def softmax(logits: Any) -> Any:
    """Probabilities of rows of logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
