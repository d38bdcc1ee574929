"""Every task, from training to five clients: the table of docs/training.md, made by `make tasks`.

For each task a module of one's own, and where there are recipes a recipe, is trained on data that scikit-learn brings,
published, served, and asked through each client. What each gets is compared with what PyTorch computes.
"""

import asyncio
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as triton
from rich.console import Console
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from bench.load.environments import python_with
from bench.measure import document
from frostline import connect, connect_async, server_process
from frostline.cli import main as cli
from frostline_training import pipeline, publish
from frostline_training.config import RECIPES, Hyperparameters, Mlp, Recipe
from frostline_training.sources import NpzFile

Array = np.ndarray[Any, Any]

TRAINING = Path("docs/training.md")

LARGEST = 1e-4
"""The largest difference to PyTorch that is allowed, relative to numbers above 1."""

_HEADER = ("task", "network", "data", "score", "Python", "asyncio", "`frostline predict`", "tritonclient", "KServe SDK")
_KSERVE = Path(__file__).parents[1] / "tests" / "integration" / "clients" / "kserve.txt"
_KSERVE_SCRIPT = """
import asyncio, sys
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
async def ask(address, model, path, out):
    rows = np.load(path)
    tensor = InferInput("input", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=True)
    async with InferenceGRPCClient(address, timeout=30) as client:
        answer = await client.infer(InferRequest(model_name=model, infer_inputs=[tensor], request_id="1"))
        np.savez(out, **{output.name: output.as_numpy() for output in answer.outputs})
asyncio.run(ask(*sys.argv[1:]))
"""


@dataclass(frozen=True)
class Trained:
    """A published network.

    Attributes:
        task: What for.
        name: Of the model.
        network: What it is, in words.
        data: What it was trained on, in words.
        score: What it scores, in words.
        rows: Rows to ask about, [N, ...].
        outputs: What PyTorch computes for them, by the names of the file's outputs.
    """

    task: str
    name: str
    network: str
    data: str
    score: str
    rows: Array
    outputs: Mapping[str, Array]


class TwoHeads(nn.Module):
    """A digit, and how much ink it has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.digit = nn.Linear(32, 10)
        self.ink = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return both."""
        body = self.body(x / 16)
        return {"digit": self.digit(body), "ink": self.ink(body)[:, 0]}


def _mlp(first: int, last: int, scale: float = 1.0) -> nn.Module:
    layer = nn.Linear(first, 32)
    with torch.no_grad():
        layer.weight /= scale
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(32, last))


def _fit(module: nn.Module, rows: Tensor, loss: Callable[[Any], Tensor], steps: int = 150) -> nn.Module:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(module(rows)).backward()  # type: ignore[no-untyped-call]  # of PyTorch
        optimizer.step()
    return module.eval()


def own_modules(models: Path) -> list[Trained]:
    """A module of each task, trained for a moment, and published."""
    torch.manual_seed(0)
    digits, cancer, diabetes = datasets.load_digits(), datasets.load_breast_cancer(), datasets.load_diabetes()
    x, y = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    pictures = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    ink = (pictures[:, 0] > 8).long()
    properties = torch.stack([y % 2 == 0, y > 4, (y == 0) | (y == 6) | (y == 8) | (y == 9)], 1)
    c, ill = torch.tensor(cancer.data, dtype=torch.float32), torch.tensor(cancer.target)
    d, progress = torch.tensor(diabetes.data, dtype=torch.float32), torch.tensor(diabetes.target, dtype=torch.float32)
    bce, cross = functional.binary_cross_entropy_with_logits, functional.cross_entropy
    normal = nn.BatchNorm1d(30)
    cases: list[tuple[str, str, nn.Module, Tensor, Callable[[Any], Tensor], Any, dict[str, Any]]] = [
        ("single-label", "MLP", _mlp(64, 10, 16), x, lambda out: cross(out, y), y, {"labels": list(map(str, range(10)))}),
        ("multi-label", "MLP", _mlp(64, 3, 16), x, lambda out: bce(out, properties.float()), properties.long(),
         {"labels": ["even", "above four", "has a loop"]}),
        ("binary", "MLP", nn.Sequential(normal, _mlp(30, 1)), c, lambda out: bce(out[:, 0], ill.float()), ill,
         {"labels": ["malignant", "benign"]}),
        ("regression", "MLP", _mlp(10, 1), d, lambda out: functional.mse_loss(out[:, 0], progress / 100), None,
         {"labels": ["progression / 100"]}),
        ("embedding", "encoder", nn.Sequential(_mlp(64, 8, 16), nn.Softsign()), x,
         lambda out: (out.T.cov() - torch.eye(8)).square().sum(), None, {}),
        ("dense", "CNN", nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)), pictures,
         lambda out: cross(out, ink), ink, {"labels": ["paper", "ink"]}),
        ("any", "two heads", TwoHeads(), x,
         lambda out: cross(out["digit"], y) + functional.mse_loss(out["ink"], x.mean(1)), None, {}),
    ]  # fmt: skip
    trained = []
    for task, network, module, rows, loss, targets, more in cases:
        _fit(module, rows, loss)
        name = f"own-{task}"
        published = publish(module, rows[:64], name=name, models=models, task=task, test=(rows, targets), **more)  # type: ignore[arg-type]  # a task
        with torch.no_grad():
            answer = module(rows[:50])
        outputs = (
            {key: value.numpy() for key, value in answer.items()} if isinstance(answer, dict) else {"": answer.numpy()}
        )
        source = {30: "breast cancer", 10: "diabetes"}.get(rows.shape[1], "digits")
        score = "" if published.accuracy is None else f"accuracy {published.accuracy:.1%}"
        trained.append(Trained(task, name, f"own module, {network}", source, score, rows[:50].numpy(), outputs))
    return trained


def recipes(models: Path, folder: Path) -> list[Trained]:
    """A recipe of each task that recipes have."""
    digits, diabetes = datasets.load_digits(), datasets.load_diabetes()
    y = digits.target
    properties = np.stack([y % 2 == 0, y > 4], 1).astype(np.float32)
    np.savez(folder / "properties.npz", input=digits.data.astype(np.float32), target=properties)
    cancer = datasets.load_breast_cancer()
    ill = cancer.target_names[cancer.target]
    np.savez(folder / "breast-cancer.npz", input=cancer.data.astype(np.float32), target=ill)
    progress = diabetes.target.astype(np.float32)[:, None]
    np.savez(folder / "diabetes.npz", input=diabetes.data.astype(np.float32), target=progress)
    few = Hyperparameters(epochs=30)
    made = [
        RECIPES["wine"],
        Recipe(
            name="properties",
            data=NpzFile(path=folder / "properties.npz", task="multi-label", labels=("even", "above four")),
            network=Mlp(hidden=(64,)),
            hyperparameters=few,
        ),
        Recipe(
            name="cancer",
            data=NpzFile(path=folder / "breast-cancer.npz", task="binary"),
            network=Mlp(hidden=(32,), dropout=0.3, norm="batch"),
            hyperparameters=few,
            positive="malignant",
        ),
        Recipe(
            name="diabetes",
            data=NpzFile(path=folder / "diabetes.npz", task="regression", labels=("progression",)),
            network=Mlp(hidden=(32,), dropout=0.2),
            hyperparameters=few,
        ),
        RECIPES["digits-scenes"],
        RECIPES["digits-embedding"],
        RECIPES["wine-and-alcohol"],
    ]
    trained = []
    for recipe in made:
        published = pipeline.run(recipe, models=models, device="cpu", console=Console(file=io.StringIO()), runs=None)
        card = json.loads((published.path / "card.json").read_text(encoding="utf-8"))
        what, value = next((key, value) for key, value in card["scores"].items() if key.startswith("test_"))
        with np.load(published.path / "golden.npz") as golden:
            rows = golden["input"]
            outputs = {key.removeprefix("output."): golden[key] for key in golden if key.startswith("output.")}
            # One alone goes by whatever the file calls it.
            outputs = outputs or {"": golden["logits"]}
        source = recipe.data if isinstance(recipe.data, str) else recipe.data.path.stem
        trained.append(
            Trained(card["task"], recipe.name, f"recipe, {recipe.network.family}", source,
                    f"{what.removeprefix('test_')} {value:.3f}", rows, outputs)
        )  # fmt: skip
    return trained


def difference(trained: Trained, served: Mapping[str, Array]) -> float:
    """The largest difference of an answer to PyTorch's, relative to numbers above 1.

    Outputs that follow from others, such as probabilities, are compared with what NumPy makes of those.
    """
    expected = dict(trained.outputs)
    if "" in expected:
        own = expected.pop("")
        expected[next(iter(served))] = own
    first = next(iter(expected.values())).astype(np.float64)
    if "probabilities" in served and "probabilities" not in expected:
        expected["probabilities"] = 1 / (1 + np.exp(-first))
    if set(served) != set(expected):
        raise AssertionError(f"{trained.name} answers with {list(served)}, and PyTorch with {list(expected)}")
    apart = [
        np.max(np.abs(served[name].astype(np.float64) - wanted) / np.maximum(1, np.abs(wanted.astype(np.float64))))
        for name, wanted in expected.items()
    ]
    return float(max(apart))


def by_python(address: str, trained: Trained) -> Mapping[str, Array]:
    """Through the Python client."""
    with connect(address) as client:
        return client.predict(trained.name, trained.rows, outputs=["values"]).outputs


def by_asyncio(address: str, trained: Trained) -> Mapping[str, Array]:
    """Through its twin for asyncio."""

    async def ask() -> Mapping[str, Array]:
        async with connect_async(address) as client:
            return (await client.predict(trained.name, trained.rows, outputs=["values"])).outputs

    return asyncio.run(ask())


def by_triton(address: str, trained: Trained) -> Mapping[str, Array]:
    """Through Triton's client."""
    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("input", trained.rows.shape, "FP32")
    tensor.set_data_from_numpy(trained.rows)
    answer = client.infer(trained.name, [tensor])
    outputs = {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}
    client.close()
    return outputs


def by_kserve(address: str, trained: Trained, folder: Path, python: Path) -> Mapping[str, Array]:
    """Through KServe's SDK, with the Python of its environment."""
    np.save(folder / "rows.npy", trained.rows)
    command = [
        str(python),
        "-c",
        _KSERVE_SCRIPT,
        address,
        trained.name,
        str(folder / "rows.npy"),
        str(folder / "out.npz"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with np.load(folder / "out.npz") as answer:
        return dict(answer)


def command_difference(address: str, trained: Trained, folder: Path) -> float:
    """What `frostline predict --format json` prints, against PyTorch's."""
    np.save(folder / "rows.npy", trained.rows)
    captured, sys.stdout = sys.stdout, io.StringIO()
    try:
        code = cli.run(["predict", trained.name, str(folder / "rows.npy"), "--server", address, "--format", "json"])
        said = sys.stdout.getvalue()
    finally:
        sys.stdout = captured
    assert code == 0, said
    rows = [
        {key: cell for key, cell in row.items() if key not in ("row", "input", "id")}
        for row in json.loads(said)["rows"]
    ]
    first = next(iter(trained.outputs.values())).astype(np.float64)
    match trained.task:
        case "single-label":
            powers = np.exp(first - first.max(1, keepdims=True))
            wanted = (powers / powers.sum(1, keepdims=True)).max(1)
            got = np.array([row["top"][0]["probability"] for row in rows])
        case "multi-label":
            wanted = 1 / (1 + np.exp(-first))
            got = np.array([list(row.values())[1:] for row in rows])
        case "binary":
            wanted = 1 / (1 + np.exp(-first[:, 0]))
            got = np.array([row["probability"] for row in rows])
        case "dense":
            wanted, got = first.argmax(1), np.array([row["map"] for row in rows])
        case "any":
            wanted, got = first, np.array([row[next(iter(trained.outputs))] for row in rows])
        case _:
            wanted, got = first, np.array([list(row.values()) for row in rows]).reshape(first.shape)
    return float(np.max(np.abs(got - wanted) / np.maximum(1, np.abs(wanted))))


def measured(address: str, trained: Trained, folder: Path, kserve: Path | None) -> tuple[str, ...]:
    """A line of the table; the Python with KServe's SDK may be missing."""
    apart = [
        difference(trained, by_python(address, trained)),
        difference(trained, by_asyncio(address, trained)),
        command_difference(address, trained, folder),
        difference(trained, by_triton(address, trained)),
    ]
    if kserve is not None:
        apart.append(difference(trained, by_kserve(address, trained, folder, kserve)))
    assert max(apart) <= LARGEST, f"{trained.name}: {apart}"
    cells = [f"{largest:.0e}" for largest in apart] + [""] * (5 - len(apart))
    return (f"`{trained.task}`", trained.network, trained.data, trained.score, *cells)


def main() -> None:
    """Measure all, and write the table into the page about training."""
    # The SDK has no release for later ones.
    kserve = python_with(_KSERVE) if sys.version_info < (3, 14) else None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        everything = [*recipes(folder / "models", folder), *own_modules(folder / "models")]
        flags = ["--models", str(folder / "models"), "--device", "cpu"]
        lines = []
        with server_process.serve(flags, lambda _: None) as served:
            for trained in everything:
                lines.append(measured(served.address, trained, folder, kserve))
                sys.stdout.write("  ".join(lines[-1]) + "\n")
                sys.stdout.flush()
    table = [f"| {' | '.join(cells)} |" for cells in (_HEADER, ("---",) * len(_HEADER), *lines)]
    document.write("tasks", "\n".join(table), TRAINING)


if __name__ == "__main__":
    main()
