"""A threshold in the card decides what is answered: on the wire, in both clients, and on the command line."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frostline import connect, connect_async
from frostline.cli import main as cli
from frostline.client.connection import Client
from frostline_training import publish
from tests.support.servers import Running, running

ROWS = np.array([[2.0], [0.0], [-1.0], [-3.0]], np.float32)
YES = 1 / (1 + np.exp(-ROWS[:, 0]))


def fixed(*weights: float) -> nn.Linear:
    layer = nn.Linear(1, len(weights), bias=False)
    layer.weight = nn.Parameter(torch.tensor(weights)[:, None])
    return layer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    sample = torch.from_numpy(ROWS)
    decision: dict[str, Any] = {"threshold": 0.2, "rule": {"recall": 0.9}, "label": "yes"}
    publish(fixed(0.0, 1.0), sample, name="two", models=models, labels=["no", "yes"], scores={"decision": decision})
    publish(fixed(0.0, 1.0), sample, name="plain", models=models, labels=["no", "yes"])
    several = {"threshold": [0.2, 0.6], "rule": "max-f1", "label": ["red", "blue"]}
    publish(
        fixed(1.0, -1.0), sample, name="several", models=models, labels=["red", "blue"], task="multi-label",
        scores={"decision": several},
    )  # fmt: skip
    publish(
        fixed(1.0),
        sample,
        name="one",
        models=models,
        labels=["no", "yes"],
        task="binary",
        scores={"decision": decision},
    )
    publish(fixed(3.0, 2.0), sample, name="values", models=models, labels=["width", "height"], task="regression")
    publish(fixed(3.0, 2.0, 1.0), sample, name="vectors", models=models, task="embedding")
    publish(nn.Conv1d(1, 2, 1), torch.randn(4, 1, 3), name="places", models=models, labels=["a", "b"])
    with running(models, log_level="error") as instance:
        yield instance


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with connect(server.address) as connected:
        yield connected


def test_the_label_of_two_follows_the_threshold_and_the_class_does_not(client: Client) -> None:
    answer = client.predict("two", ROWS)
    np.testing.assert_allclose(answer.softmax[:, 1], YES, rtol=1e-5)
    assert answer.argmax.tolist() == [1, 0, 0, 0]
    assert answer.labels == ("yes", "yes", "yes", "no")
    for asked in ({"outputs": ["argmax"]}, {"top_k": 1}, {"top_k": 2, "outputs": ["softmax"]}):
        assert client.predict("two", ROWS, **asked).labels == ("yes", "yes", "yes", "no")
    assert [row[0][0] for row in client.predict("two", ROWS, top_k=1).top()] == ["yes", "no", "no", "no"]
    assert (answer.task, answer.thresholds) == ("single-label", (0.2,))
    assert client.predict("plain", ROWS).labels == ("yes", "no", "no", "no")


def test_each_of_several_labels_has_its_own_threshold(client: Client) -> None:
    answer = client.predict("several", ROWS)
    assert answer.thresholds == pytest.approx((0.2, 0.6))
    assert answer.labels == (("red",), ("red",), ("red", "blue"), ("blue",))


async def test_yes_or_no_follows_the_threshold_in_both_clients(server: Running, client: Client) -> None:
    assert client.predict("one", ROWS).labels == ("yes", "yes", "yes", "no")
    async with connect_async(server.address) as twin:
        assert (await twin.predict("one", ROWS)).labels == ("yes", "yes", "yes", "no")


def ask(
    server: Running, model: str, path: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> list[dict[str, str]]:
    code = cli.run(["predict", model, str(path), "--server", server.address, "--format", "csv", *flags])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    return list(csv.DictReader(io.StringIO(said.out)))


def test_the_command_line_answers_by_the_threshold(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, ROWS)
    rows = ask(server, "two", path, capsys)
    assert [row["prediction"] for row in rows] == ["yes", "yes", "yes", "no"]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], [*YES[:3], 1 - YES[3]], rtol=1e-5)
    ranked = ask(server, "two", path, capsys, "--top", "1")
    assert [row["class"] for row in ranked] == ["yes", "no", "no", "no"]
    assert [row["prediction"] for row in ranked] == ["yes", "yes", "yes", "no"]
    rows = ask(server, "several", path, capsys)
    assert [row["labels"] for row in rows] == ["red", "red", "red; blue", "blue"]
    np.testing.assert_allclose([float(row["red"]) for row in rows], YES, rtol=1e-5)
    assert [row["prediction"] for row in ask(server, "one", path, capsys)] == ["yes", "yes", "yes", "no"]


def test_the_command_line_shows_values_vectors_and_maps(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, ROWS)
    rows = ask(server, "values", path, capsys)
    assert [(float(row["width"]), float(row["height"])) for row in rows] == [(6, 4), (0, 0), (-3, -2), (-9, -6)]
    rows = ask(server, "vectors", path, capsys)
    assert [float(rows[0][f"vector_{place}"]) for place in range(3)] == [6, 4, 2]
    np.save(path, np.zeros((2, 1, 3), np.float32))
    rows = ask(server, "places", path, capsys)
    assert list(rows[0]) == ["id", "map_0", "map_1", "map_2"]
    assert {row[f"map_{place}"] for row in rows for place in range(3)} <= {"0", "1"}
