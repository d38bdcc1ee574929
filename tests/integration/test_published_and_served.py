"""What `publish` takes is what a server takes, however large the answers are: the odd rows of every task."""

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import frostline
from frostline import server_process
from frostline.cli.table_rows import TableRows
from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.model.input_stats import InputStats
from frostline_server.model.loader import Loader
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.row_encoder import KNOWN, MISSING, UNKNOWN
from frostline_server.runtime.row_schema import RowSchema
from frostline_training import pipeline, publish
from frostline_training.config import Hyperparameters, Mlp, Recipe
from frostline_training.data import Column
from frostline_training.data.cells import Cells
from frostline_training.data.encoding import encode
from frostline_training.data.raw import Category, Number
from frostline_training.publishing.row_schema import to_card
from frostline_training.sources import CsvFile, Reading
from tests.support import calls

TIMEOUT_S = 120


def test_prices_of_houses_are_served_as_they_were_trained(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["area,rooms,city,price"]
    for _ in range(300):
        area, city = random.uniform(30, 250), random.choice(["Berlin", "Oslo", "Lyon"])
        lines.append(f"{area:.1f},{random.integers(1, 9)},{city},{area * (6000 if city == 'Oslo' else 4000):.0f}")
    (tmp_path / "houses.csv").write_text("\n".join(lines))
    recipe = Recipe(
        name="houses",
        data=CsvFile(path=tmp_path / "houses.csv", target="price", task="regression"),
        network=Mlp(),
        hyperparameters=Hyperparameters(epochs=3),
        baselines=False,
    )
    published = pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
    with np.load(published.path / "golden.npz") as golden:
        area, rooms, city = (golden[f"rows.{name}"].tolist() for name in ("area", "rooms", "city"))
        answers = golden["rows_logits"]  # PyTorch's
    assert np.isfinite(answers).all()
    assert answers.max() > 100_000
    assert 1e38 not in area  # the answer is infinite there
    assert {0.0, -1.0} < set(area)
    rows = [{"area": a, "rooms": r, "city": c} for a, r, c in zip(area, rooms, city, strict=True)]
    flags = ["--models", str(tmp_path / "models"), "--allow-anonymous", "all"]
    with server_process.serve(flags, lambda event: None) as server, frostline.connect(server.address) as client:
        np.testing.assert_allclose(client.predict("houses", rows).values, answers, rtol=1e-4)


def test_an_unknown_category_is_not_answered_as_a_missing_one(tmp_path: Path) -> None:
    # A plan that nobody filled in nearly always leaves, and one that somebody did seldom.
    random = np.random.default_rng(0)
    lines = ["months,plan,left"]
    for _ in range(600):
        plan = random.choice(["", "basic", "pro"], p=[0.2, 0.4, 0.4])
        left = random.random() < (0.1 if plan else 0.95)
        lines.append(f"{random.integers(72)},{plan},{'yes' if left else 'no'}")
    (tmp_path / "left.csv").write_text("\n".join(lines))
    recipe = Recipe(
        name="left",
        data=CsvFile(path=tmp_path / "left.csv", target="left"),
        network=Mlp(hidden=(16,)),
        hyperparameters=Hyperparameters(epochs=60, learning_rate=1e-2, patience=60),
        baselines=False,
    )
    published = pipeline.run(recipe, models=tmp_path / "models", device="cpu", console=Console(quiet=True), runs=None)
    plans = ["basic", "pro", "zzz", None, "NA"]
    flags = ["--models", str(tmp_path / "models"), "--allow-anonymous", "all"]
    with server_process.serve(flags, lambda event: None) as server:
        with frostline.connect(server.address) as client:
            rows = [{"months": 20, "plan": plan} for plan in plans]
            answers = client.predict("left", rows, outputs=["softmax", "logits"])
        with grpc.insecure_channel(server.address) as channel:
            request = calls.infer_request(
                "left",
                {"months": np.full(5, 20.0), "plan": np.array([plan or "" for plan in plans], object)},
                ["input_states"],
            )
            states = calls.answers(calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S))["input_states"]
    basic, pro, unknown, missing, word = np.asarray(answers.softmax)[:, 1]
    assert max(basic, pro, unknown) < 0.3
    assert missing == word > 0.8
    assert states[:, 1].tolist() == [KNOWN, KNOWN, UNKNOWN, MISSING, MISSING]
    told: list[str] = []
    reader = TableRows.of_card(published.path / "card.json")
    numbers = reader.read("new.csv", b"months,plan\n20,basic\n20,pro\n20,zzz\n20,\n20,NA\n", told.append)
    assert numbers[:, 1].tolist() == [1, 2, 0, 3, 3]
    (sentence,) = told
    assert sentence.endswith("'zzz' is no category that the model knows: sent as unknown; it knows: basic, pro")


class Scaled(nn.Module):
    """A table's numbers and a category, in answers of any size."""

    def __init__(self, outputs: int, scale: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.scale = scale
        self.city = nn.Embedding(3, 4)
        self.head = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs))

    def forward(self, row: Tensor) -> Tensor:
        numbers = torch.nan_to_num(row[:, :2]) / torch.tensor([100.0, 0.01])
        answer: Tensor = self.head(torch.cat([numbers, self.city(row[:, 2].long())], 1)) * self.scale
        return answer


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize(
    ("task", "outputs"), [("regression", 1), ("regression", 3), ("multi-label", 3), ("binary", 1), ("single-label", 3)]
)
def test_what_is_published_can_be_served(tmp_path: Path, task: Any, outputs: int, scale: float) -> None:
    random = np.random.default_rng(0)
    rows = {
        "area": random.normal(0, 100, 70),
        "share": random.normal(0, 0.01, 70),
        "city": np.array(["Oslo", "Lyon"], object)[random.integers(2, size=70)],
    }
    published = publish(
        Scaled(outputs, scale),
        rows,
        inputs=[Number("area"), Number("share"), Category("city", ["Oslo", "Lyon"])],
        name="scaled",
        models=tmp_path,
        task=task,
        probabilities=None if task == "regression" else False,
    )
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=Batching(16, (QueuePolicy(100),)))
    served = loader.load(published.path, "scaled", model_config_pb2.ModelConfig(), lambda warning: None)
    assert served.batcher.close(TIMEOUT_S)


def test_a_flag_that_was_seldom_set_and_now_always_is_has_drifted() -> None:
    cells: dict[str, list[str | None]] = {"b": ["1", *["0"] * 49] * 20, "c": ["0.5", *["0"] * 19] * 50}
    columns = (Column("b"), Column("c"))
    train = Cells("t.csv", cells, Reading())
    schema = RowSchema.model_validate(to_card(columns, train, encode(train, columns)))
    stats = InputStats(schema)
    for _ in range(12):
        stats.add(np.ones((1000, 2), np.float32), np.zeros((1000, 2), np.uint8))
    drift = stats.drift()
    assert drift["b"] == pytest.approx(0.98 * np.log(1 / 0.02) + 0.98 * np.log(0.98 / 1e-4), rel=1e-3)
    assert drift["c"] > 3
