"""Raw rows of whole test splits, through every client: made by `make raw-rows`.

Recipes on tables, texts and pictures are trained, published and served. The rows of their test splits are sent as users
have them, with missing and unknown cells among those of tables, one at a time from 64 callers and in batches. What each
client gets is compared with what the trained network computes of the rows as training encodes them.
"""

import base64
import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from sklearn import datasets
from torch import nn

from frostline import connect, server_process
from frostline.cli import main as cli
from frostline_training import data, pipeline
from frostline_training.config import RECIPES, Cnn, Hyperparameters, Mlp, Recipe, Rnn
from frostline_training.data.cells import Cells, missing_numbers, number
from frostline_training.data.encoding import encode
from frostline_training.publishing import publish as publishing
from frostline_training.sources import CsvFile, DateColumn, ImageFolder

Array = np.ndarray[Any, Any]
Columns = Mapping[str, list[Any]]
"""Raw cells by column: numbers, None without one; texts; or the bytes of files."""

LARGEST = 1e-4
"""The largest difference of a number that is allowed, of a probability or of one in a target's unit."""

CALLERS, BATCH, TIMEOUT_S = 64, 64, 300
ROOT = Path(__file__).parents[1]
CLIENTS = ROOT / "tests" / "integration" / "clients"
KSERVE = CLIENTS / ".kserve" / "bin" / "python"


@dataclass(frozen=True)
class Trained:
    """A published network and its test rows.

    Attributes:
        name: Of the model.
        columns: The rows as users have them.
        files: The same for the command line: a table, or a file for each picture.
        outputs: The names of what is asked for.
        answers: What the network answers, [N, K]: the outputs one after the other.
    """

    name: str
    columns: Columns
    files: Sequence[Path]
    outputs: Sequence[str]
    answers: Array


def recipes(folder: Path) -> list[Recipe]:
    """The built-in recipes that take raw rows, and one for each kind of file."""
    (folder / "flowers.csv").write_bytes((ROOT / "examples" / "flowers.csv").read_bytes())
    _customers(folder / "customers.csv")
    _reviews(folder / "reviews.csv")
    _digits(folder / "digits")
    few = Hyperparameters(epochs=5)
    signup = DateColumn(format="%d.%m.%Y %H:%M %z", parts=("year", "month", "hour", "age_days"))
    built_in = [_shorter(RECIPES[name], 5) for name in ("iris", "wine", "breast-cancer", "text", "wine-and-alcohol")]
    customers = CsvFile(
        path=folder / "customers.csv",
        target="left",
        decimal=",",
        thousands=".",
        missing=("", "NA", "?", "-999"),
        columns={"signup": signup},
    )
    return [
        *built_in,
        Recipe(
            name="flowers",
            data=CsvFile(path=folder / "flowers.csv", target="species"),
            network=Mlp(hidden=(16,)),
            hyperparameters=few,
        ),
        Recipe(
            name="lengths",
            data=CsvFile(path=folder / "flowers.csv", target="petal_length", task="regression"),
            network=Mlp(hidden=(16,)),
            hyperparameters=few,
        ),
        Recipe(name="customers", data=customers, network=Mlp(hidden=(16,)), hyperparameters=few),
        Recipe(
            name="reviews",
            data=CsvFile(path=folder / "reviews.csv", target="good", columns={"review": "text"}, text_bytes=24),
            network=Rnn(state=16, embedding=8),
            hyperparameters=few,
        ),
        Recipe(
            name="pictures",
            data=ImageFolder(path=folder / "digits", size=(12, 10), color="rgb"),
            network=Cnn(channels=(8,), hidden=(16,)),
            hyperparameters=few,
        ),
    ]


def _shorter(recipe: Recipe, epochs: int) -> Recipe:
    """The same recipe of a shorter training."""
    return recipe.model_copy(
        update={"hyperparameters": recipe.hyperparameters.model_copy(update={"epochs": epochs}), "baselines": False}
    )


def _customers(path: Path) -> None:
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["signup", "income", "age", "city", "postcode", "newsletter", "left"])
        for _ in range(1000):
            income = f"{random.gamma(2, 20000):,.2f}".translate(str.maketrans(",.", ".,"))
            day = f"{random.integers(1, 29):02d}.{random.integers(1, 13):02d}.{random.integers(2018, 2025)}"
            cells = [
                f"{day} {random.integers(0, 24):02d}:15 {random.choice(['+0000', '+0530', '-0800'])}",
                income,
                str(random.integers(18, 90)),
                str(random.choice(["Köln", "São Paulo", "東京", "🦊 den"])),
                str(random.choice(["05090", "10115", "00100"])),
                str(random.choice(["yes", "no"])),
            ]
            if random.random() < 0.3:
                cells[random.integers(0, len(cells))] = str(random.choice(["", "NA", "-999"]))
            table.writerow([*cells, "yes" if random.random() < (0.8 if cells[5] == "no" else 0.3) else "no"])


def _reviews(path: Path) -> None:
    random = np.random.default_rng(0)
    good, bad = ["großartig", "lovely 🦊", "fine"], ["dreadful", "dull", "poor"]
    lines = ["review,good"]
    for index in range(600):
        words = " ".join(random.choice(bad if index % 2 else good, 1 + index % 5))
        lines.append(f"{('NA', '', words)[min(2, index % 29)]},{'no' if index % 2 else 'yes'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _digits(folder: Path) -> None:
    bunch = datasets.load_digits()
    for index, (pixels, target) in enumerate(zip(bunch.images[:600], bunch.target[:600], strict=True)):
        image = Image.fromarray((255 - pixels * 15.9).astype(np.uint8)).resize((8 + index % 9, 8 + index % 7))
        path = folder / str(target) / f"{index}.{('png', 'jpg', 'webp')[index % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def train(recipe: Recipe, folder: Path) -> Trained:
    """Run the recipe as `frostline train` does, and answer its test rows with the network that it trained."""
    networks: list[nn.Module] = []

    def publish(module: nn.Module, *args: Any, **named: Any) -> Any:
        networks.append(module)
        return publishing.publish(module, *args, **named)

    with mock.patch.object(pipeline, "publish", publish):
        pipeline.run(recipe, models=folder / "models", device="cpu", console=Console(file=io.StringIO()), runs=None)
    split = data.prepare(recipe)
    test = split.test
    assert test.cells is not None, f"{recipe.name} has no raw rows"
    inputs, cells = test.inputs, test.cells
    if split.dataset.media is None:
        cells = _with_odd_cells(cells, split.dataset.columns)
        inputs = encode(cells, split.dataset.columns)
    with torch.no_grad():
        answered = networks[0].eval()(torch.from_numpy(data.named(inputs)["input"]))
    if isinstance(answered, dict):
        outputs = answered
    else:
        number = split.dataset.task == "regression"
        outputs = {"values": answered} if number else {"softmax": answered.double().softmax(1)}
    answers = _side_by_side([output.numpy() for output in outputs.values()])
    return Trained(recipe.name, _columns(cells, split.dataset), _files(recipe, cells, folder), tuple(outputs), answers)


def _side_by_side(outputs: Sequence[Array]) -> Array:
    return np.concatenate([output.reshape(len(output), -1) for output in outputs], 1)


def _with_odd_cells(cells: Cells, columns: Sequence[data.Column]) -> Cells:
    """The same rows, some of them with a cell that is missing, or of a category that nobody knows."""
    changed = {name: list(values) for name, values in cells.columns.items()}
    for place, column in enumerate(columns):
        values = changed[column.cells]
        for row in range(place, len(values), 11):
            values[row] = "Narnia 🦄" if column.categories and row % 2 else ""
    return replace(cells, columns=changed)


def _columns(cells: Cells, dataset: data.Dataset) -> Columns:
    if dataset.media is not None and not cells.reading.missing:
        return {name: [Path(str(path)).read_bytes() for path in paths] for name, paths in cells.columns.items()}
    numbers = {column.name for column in dataset.columns if column.categories is None and column.date is None}
    absent = missing_numbers(cells.reading)

    def value(name: str, cell: str | None) -> Any:
        if name not in numbers:
            return cell or ""
        found = None if cell is None else number(cell, cells.reading)
        return None if found is None or float(np.float32(found)) in absent else found

    return {name: [value(name, cell) for cell in texts] for name, texts in cells.columns.items()}


def _files(recipe: Recipe, cells: Cells, folder: Path) -> list[Path]:
    if isinstance(recipe.data, ImageFolder):
        (paths,) = cells.columns.values()
        return [Path(str(path)) for path in paths]
    path = folder / f"{recipe.name}-test.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=cells.reading.separator or ";", quoting=csv.QUOTE_ALL)
        table.writerow(cells.columns)
        table.writerows(zip(*cells.columns.values(), strict=True))
    return [path]


def by_python(address: str, trained: Trained, *, alone: bool) -> Array:
    """Through the Python client: dicts of one row from many threads, or all rows as columns."""
    with connect(address, timeout_s=TIMEOUT_S) as client:

        def ask(rows: Mapping[str, Any]) -> Array:
            prediction = client.predict(trained.name, rows)
            if trained.outputs == ("softmax",):
                return prediction.softmax
            return _side_by_side([prediction.outputs[name] for name in trained.outputs])

        if not alone:
            return ask(trained.columns)
        rows = [dict(zip(trained.columns, cells, strict=True)) for cells in zip(*trained.columns.values(), strict=True)]
        with ThreadPoolExecutor(CALLERS) as callers:
            return np.concatenate(list(callers.map(ask, rows)))


def by_command(address: str, trained: Trained) -> Array:
    """What `frostline predict --format csv` prints."""
    captured, sys.stdout = sys.stdout, io.StringIO()
    warned, sys.stderr = sys.stderr, io.StringIO()
    try:
        code = cli.run(["predict", trained.name, *map(str, trained.files), "--server", address, "--format", "csv"])
        said, why = sys.stdout.getvalue(), sys.stderr.getvalue()
    finally:
        sys.stdout, sys.stderr = captured, warned
    assert code == 0, why
    _, *lines = csv.reader(said.splitlines())
    # After the id; of a classifier, after the prediction and its probability too.
    first = 3 if trained.outputs == ("softmax",) else 1
    return np.array([[float(cell) for cell in line[first:]] for line in lines])


def by_client(address: str, trained: Trained, command: Sequence[str], rows: int) -> Array:
    """Through a client that knows nothing of Frostline, in a process of its own; a request has at most so many rows."""
    columns = {name: _told(cells) for name, cells in trained.columns.items()}
    finished = subprocess.run(
        [*command, address, trained.name, str(rows), *trained.outputs],
        input=json.dumps(columns),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return np.array(json.loads(finished.stdout))


def _told(cells: list[Any]) -> dict[str, Any]:
    if isinstance(cells[0], bytes):
        return {"datatype": "BYTES", "base64": [base64.b64encode(cell).decode() for cell in cells]}
    return {"datatype": "BYTES" if isinstance(cells[0], str) else "FP64", "data": cells}


def ways(address: str, trained: Trained) -> dict[str, Callable[[], Array]]:
    """Every way to ask, by its name in the table."""
    script, node = str(CLIENTS / "raw_rows.py"), shutil.which("node")
    found: dict[str, Callable[[], Array]] = {
        "Python, 64 callers": lambda: by_python(address, trained, alone=True),
        "Python, all": lambda: by_python(address, trained, alone=False),
        "predict": lambda: by_command(address, trained),
        "triton, 64 callers": lambda: by_client(address, trained, [sys.executable, script, "triton"], 1),
        "triton, batches": lambda: by_client(address, trained, [sys.executable, script, "triton"], BATCH),
    }
    if KSERVE.exists():
        kserve = [str(KSERVE), script, "kserve"]
        found["KServe, 64 callers"] = lambda: by_client(address, trained, kserve, 1)
        found["KServe, batches"] = lambda: by_client(address, trained, kserve, BATCH)
    if node is not None and (CLIENTS / "node_modules").is_dir():
        javascript = [node, str(CLIENTS / "raw_rows.cjs")]
        found["Node, 64 callers"] = lambda: by_client(address, trained, javascript, 1)
        found["Node, batches"] = lambda: by_client(address, trained, javascript, BATCH)
    return found


def main() -> int:
    """Train, serve and ask; print the largest difference of each client. Returns 1 if one is too large."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        everything = [train(recipe, folder) for recipe in recipes(folder)]
        flags = ["--models", str(folder / "models"), "--device", "cpu", "--allow-anonymous", "all"]
        with server_process.serve(flags, lambda _: None) as served:
            for trained in everything:
                cells = [f"{trained.name}: {len(trained.answers)} rows"]
                for name, ask in ways(served.address, trained).items():
                    apart = float(np.abs(ask() - trained.answers).max())
                    worst = max(worst, apart)
                    cells.append(f"{name} {apart:.0e}")
                sys.stdout.write("  ".join(cells) + "\n")
                sys.stdout.flush()
    sys.stdout.write(f"the largest difference is {worst:.0e}; allowed are {LARGEST:.0e}\n")
    return int(not worst <= LARGEST)


if __name__ == "__main__":
    sys.exit(main())
