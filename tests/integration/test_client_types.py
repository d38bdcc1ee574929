"""Frostline's own client gives each model of a real server the type, and the number of rows, that it takes."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import frostline
from frostline.cli import main as cli
from tests.support.servers import TIMEOUT_S, Running, running

TYPES = {"double": "double", "half": "float16", "single": "float", "whole": "int64", "byte": "uint8"}


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    graphs = {
        **{
            name: f"{name} ({kind}[n, 2] x) => ({kind if 'float' in kind or name == 'double' else 'double'}[n, 2] y) {{ "
            + ("y = Identity (x) }" if "float" in kind or name == "double" else "y = Cast <to = 11> (x) }")
            for name, kind in TYPES.items()
        },
        "pair": "pair (float[n] age, int64[n, 1] visits) => (float[n, 2] y) { one = Constant <value_ints = [1]> () "
        "a = Unsqueeze (age, one) v = Cast <to = 1> (visits) y = Concat <axis = 1> (a, v) }",
    }
    for name, graph in graphs.items():
        (models / name / "1").mkdir(parents=True)
        header = '<ir_version: 8, opset_import: ["": 17]>'
        onnx.save(onnx.parser.parse_model(f"{header}\n{graph}"), models / name / "1" / "model.onnx")
    settings = {"require": "none", "log_level": "error", "transport": request.param, "max_message_bytes": 65536}
    with running(models, **settings) as instance:
        yield instance


@pytest.fixture
def client(server: Running) -> Iterator[frostline.Client]:
    with frostline.connect(server.address, timeout_s=TIMEOUT_S) as connected:
        yield connected


@pytest.mark.parametrize(
    ("model", "value", "expected"),
    [
        ("double", [[0.1, 1e300]], [[0.1, 1e300]]),
        ("double", np.array([[0.1, 2]]), [[0.1, 2]]),
        ("half", np.array([[0.1, 2]]), [[0.0999755859375, 2]]),
        ("half", np.array([[1, 2]], np.int64), [[1, 2]]),
        ("single", np.array([[1, 2]], np.int64), [[1, 2]]),
        ("single", [[0.1, 2]], [[0.10000000149011612, 2]]),
        ("whole", [[1, 2]], [[1, 2]]),
        ("whole", np.array([[1.0, 2.0]]), [[1, 2]]),
        ("byte", [[1, 255]], [[1, 255]]),
    ],
)
def test_numbers_arrive_in_the_type_of_the_model(
    client: frostline.Client, model: str, value: Any, expected: list[list[float]]
) -> None:
    for _ in range(2):
        assert client.predict(model, value).logits.tolist() == expected


@pytest.mark.parametrize(
    ("model", "value", "sentence"),
    [
        ("single", [[2**53 + 1, 0]], r"holds 9007199254740993 at \[0, 0\], but the model takes FP32"),
        ("byte", np.array([[0, 300]]), r"holds 300 at \[0, 1\], but the model takes UINT8"),
        ("whole", np.array([[0, 1.5]]), r"holds 1.5 at \[0, 1\], but the model takes INT64"),
        ("half", [[0, 1e5]], r"holds 100000.0 at \[0, 1\], but the model takes FP16, whose largest number is 65504"),
    ],
)
def test_a_number_that_the_model_cannot_get_is_refused(
    client: frostline.Client, model: str, value: Any, sentence: str
) -> None:
    with pytest.raises(frostline.InvalidInput, match=sentence):
        client.predict(model, value)


async def test_more_rows_than_fit_are_answered_in_order(server: Running, client: frostline.Client) -> None:
    rows = np.arange(1000, dtype=np.float32).reshape(500, 2)
    np.testing.assert_array_equal(client.predict("single", rows).logits, rows)
    async with frostline.connect_async(server.address, timeout_s=TIMEOUT_S) as other:
        np.testing.assert_array_equal((await other.predict("single", rows)).logits, rows)
        # More than a message may have, too.
        many = np.arange(40000, dtype=np.float32).reshape(20000, 2)
        np.testing.assert_array_equal((await other.predict("single", many)).logits, many)


@pytest.mark.parametrize("model", ["double", "half", "single"])
def test_probabilities_keep_their_precision_up_to_the_file(
    server: Running, client: frostline.Client, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", np.array([[0.0, 1.0]]))
    softmax = client.predict(model, [[0.0, 1.0]]).softmax
    kind: Any = {"double": np.float64, "half": np.float16, "single": np.float32}[model]
    assert softmax.dtype == kind
    # The logistic function of 1.
    assert softmax[0, 1] == pytest.approx(0.7310585786300049, rel=float(np.finfo(kind).eps))
    assert client.predict(model, [[0.0, 1.0]]).top(1) == [((1, float(softmax[0, 1])),)]
    predict = ["predict", model, str(tmp_path / "rows.npy"), "--server", server.address]
    assert cli.run([*predict, "--format", "csv"]) == 0
    [row] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert kind(row["class_1"]) == kind(row["probability"]) == softmax[0, 1]
    assert cli.run([*predict, "--format", "json"]) == 0
    [best] = json.loads(capsys.readouterr().out)["rows"][0]["top"]
    assert (best["class"], kind(best["probability"])) == (1, softmax[0, 1])
    assert cli.run(predict) == 0
    assert f"{softmax[0, 1]:.4f}" in capsys.readouterr().out


def test_the_columns_of_a_table_are_matched_by_name(client: frostline.Client) -> None:
    class Frame:
        columns = ("visits", "age")

        def __getitem__(self, name: str) -> Any:
            return {"age": np.array([1.5, 2.5]), "visits": np.array([3, 4])}[name]

    assert client.predict("pair", Frame()).logits.tolist() == [[1.5, 3], [2.5, 4]]
