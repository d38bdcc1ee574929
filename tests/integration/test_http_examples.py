"""The examples of docs/clients.md for HTTP, run as they stand there, with another address."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support import raw_media
from tests.support.servers import TIMEOUT_S, Running, running

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
SECTION = PAGE.read_text(encoding="utf-8").split("\n## HTTP\n")[1].split("\n## ")[0]
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [5.9, 3.0, 5.1, 1.8]], np.float32)


def blocks(language: str) -> list[str]:
    """The blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)


def write_flowers(models: Path) -> None:
    """A version that takes the rows of the page's model, and stands for it."""
    columns = [{"name": name, "kind": "number", "share_missing": 0.1} for name in COLUMNS]
    graph = helper.make_graph(
        [helper.make_node("Concat", COLUMNS, ["input"], axis=1)],
        "preprocessing",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in COLUMNS],
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
    )
    preprocessing: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    raw_media.write(
        models,
        "flowers",
        1,
        raw_media.network([4], TensorProto.FLOAT),
        ROWS[:1],
        {f"rows.{name}": cells for name, cells in zip(COLUMNS, ROWS.T, strict=True)}
        | {"rows_logits": raw_media.logits_of(ROWS)},
        {"file": "preprocessing.onnx", "columns": columns, "missing": [""]},
        {"preprocessing.onnx": preprocessing.SerializeToString()},
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    write_flowers(models)
    with running(models, http=True, log_level="error") as instance:
        yield instance


def ran(server: Running, command: Sequence[str], folder: Path) -> str:
    """What an example prints."""
    there = [part.replace("localhost:8000", server.server.http_url.removeprefix("http://")) for part in command]
    done = subprocess.run(there, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl(server: Running, tool: Callable[[str], str], tmp_path: Path) -> None:
    tool("curl")
    commands = [line.strip() for block in blocks("console") for line in re.split(r"^\$ ", block, flags=re.MULTILINE)]
    predict, schema, infer, index, document = [
        ran(server, ["bash", "-c", command], tmp_path) for command in commands if command
    ]
    assert json.loads(predict)["predictions"][0]["missing"] == ["petal_width"]
    assert [column["name"] for column in json.loads(schema)["columns"]] == list(COLUMNS)
    assert json.loads(infer)["outputs"][0]["name"] == "softmax"
    assert json.loads(index) == [{"name": "flowers", "version": "1", "state": "READY"}]
    assert document == ""
    assert "/v2/models/flowers/predict" in json.loads((tmp_path / "openapi.json").read_text())["paths"]


def test_python(server: Running, kserve_python: Path, tmp_path: Path) -> None:
    # The only Python here that has requests.
    (example,) = blocks("python")
    label, probability, missing = ran(server, [str(kserve_python), "-c", example], tmp_path).split(maxsplit=2)
    assert label in ("no", "yes")
    assert 0.5 <= float(probability) <= 1
    assert missing == "[]\n"


def test_javascript(server: Running, tool: Callable[[str], str], tmp_path: Path) -> None:
    (example,) = blocks("javascript")
    told = ran(server, [tool("node"), "--input-type=module", "-e", example], tmp_path)
    status, probabilities = told.split(maxsplit=1)
    assert status == "200"
    assert sum(json.loads(probabilities)) == pytest.approx(1)
