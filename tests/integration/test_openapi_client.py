"""A client that a generator makes of the OpenAPI document, which asks the server it is the document of."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import CLIENTS
from tests.support import onnx_models, raw_media, raw_rows
from tests.support.http_calls import ask
from tests.support.servers import TIMEOUT_S, Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    raw_rows.write(models)
    raw_media.write_texts(models)
    raw_media.write_pictures(models)
    onnx_models.write_artifact(models, "linear")
    onnx_models.write_artifact(models, "pair", 1, onnx_models.two_inputs(), golden=False, labels=None)
    with running(models, http=True, log_level="error") as instance:
        yield instance


def test_a_generated_client_is_answered_as_the_document_says(
    server: Running, generator_python: Path, tmp_path: Path
) -> None:
    url = server.server.http_url
    picture = raw_media.picture_files()["png"][0]
    (tmp_path / "openapi.json").write_bytes(ask(url, "/openapi.json").body)
    (tmp_path / "a.png").write_bytes(picture)
    generate = [str(generator_python), "-m", "openapi_python_client", "generate", "--fail-on-warning"]
    generate += ["--path", "openapi.json", "--config", str(CLIENTS / "openapi.yml")]
    generate += ["--meta", "none", "--output-path", "generated_client"]
    ran(generate, tmp_path)
    told = json.loads(ran([str(generator_python), str(CLIENTS / "generated.py"), url, "a.png"], tmp_path))

    def predicted(model: str, **body: Any) -> Any:
        return ask(url, f"/v2/models/{model}/predict", body).json

    row = {"tenure": 12.5, "plan": "basic", "signup": "2024-05-31"}
    columns = {"plan": ["pro", None], "signup": ["2020-02-29", "2024-05-31"]}
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    asked = {"inputs": [tensor], "outputs": [{"name": "softmax"}], "id": "7"}
    refused = ask(url, "/v2/models/nobody/infer", asked)
    assert told == {
        "ready": {"ready": True},
        "server": ask(url, "/v2").json,
        "metadata": ask(url, "/v2/models/linear").json,
        "model_ready": {"name": "linear", "ready": True},
        "schema": ask(url, "/v2/models/churn/schema").json,
        "row": predicted("churn", rows=[row], top_k=1),
        "columns": predicted("churn", rows=columns),
        "text": predicted("mood", rows=["great"]),
        "picture": predicted("fruit", rows=[base64.b64encode(picture).decode()]),
        "pictures": predicted("fruit", rows=[base64.b64encode(picture).decode()]),
        "numbers": predicted("linear", rows=[[1, 2, 3, "Infinity"]]),
        "pair": predicted("pair", inputs={"left": [[1, 2, 3, 4]], "right": [[[1, 2], [3, "NaN"]]]}),
        "version": predicted("linear", rows=[[1, 2, 3, 4]]),
        "infer": ask(url, "/v2/models/linear/infer", asked).json,
        "index": ask(url, "/v2/repository/index", {"ready": True}).json,
        "refused": [404, refused.error],
    }


def ran(command: list[str], folder: Path) -> str:
    """What a program writes, which must succeed."""
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": "."}, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
