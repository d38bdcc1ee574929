"""The OpenAPI document: valid, of all routes and no other, and true of what is sent and answered."""

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import jsonschema
import onnx
import openapi_spec_validator
import pytest
from starlette.routing import Route

from frostline.client.catalog import TensorSpec
from frostline.client.rows import takes
from frostline.client.schema import Column, Schema
from frostline_server.http.openapi import endpoint
from frostline_server.http.openapi.document import document
from frostline_server.http.openapi.operations import operations
from tests.support import onnx_models, raw_media, raw_rows
from tests.support.http_calls import Answer, ask
from tests.support.servers import Running, running
from tests.support.tokens import TOKENS, write_access_file

PAGE = {"/", "/page/{file}"}
"""Paths of a page, which no program calls."""
TASKS: dict[str, tuple[str, list[str | int], list[str] | None]] = {
    "regression": ("values", ["n", 2], ["width", "height"]),
    "multi-label": ("probabilities", ["n", 3], ["red", "green", "blue"]),
    "binary": ("probabilities", ["n", 1], ["no", "yes"]),
    "embedding": ("vector", ["n", 3], None),
    "dense": ("logits", ["n", 2, 2, 3], ["sky", "sea"]),
}
PNG = raw_media.picture_files()["png"][0]
ROW = dict(zip(raw_rows.COLUMNS, raw_rows.ROWS[0], strict=True))
ROWS: dict[str, Any] = {
    "churn": [ROW, {**ROW, "tenure": None}],
    "mood": ["great", None],
    "fruit": [{"b64": base64.b64encode(PNG).decode()}, base64.b64encode(PNG).decode()],
    "linear": [[1, 2, 3, 4], [0.5, -1, 2, "NaN"]],
    "regression": [[1, 2]],
    "multi-label": [[0.1, 0.7, 0.9], [0.1, "NaN", 0.9]],
    "binary": [[0.7], ["NaN"]],
    "embedding": [[1, 2, 3]],
    "dense": [[[[1, 2, 3]] * 2] * 2],
    "größe 1": [["a", "b"]],
    "spare": [[1, 2, 3, 4]],
}
"""Rows of each model, which it takes."""
PAIR = {"left": [[1, 2, 3, 4]], "right": [[[1, 2], [3, 4]]]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("openapi")
    models = folder / "models"
    raw_rows.write(models)
    raw_media.write_texts(models)
    raw_media.write_pictures(models)
    for name in ("linear", "spare"):
        onnx_models.write_artifact(models, name)
    for task, (output, shape, labels) in TASKS.items():
        model = onnx_models.passed_through(shape, output=output)
        onnx.helper.set_model_props(model, {"frostline.task": task})
        onnx_models.write_artifact(models, task, 1, model, golden=False, labels=labels)
    onnx_models.write_artifact(models, "größe 1", 1, onnx_models.strings(), golden=False, labels=None)
    onnx_models.write_artifact(models, "pair", 1, onnx_models.two_inputs(), golden=False, labels=None)
    explicit = {
        "model_control": "explicit",
        "load_models": "*",
        "access_file": write_access_file(folder / "access.toml"),
    }
    with running(models, http=True, log_level="error", **explicit) as instance:
        yield instance


@pytest.fixture(scope="module")
def url(server: Running) -> str:
    return server.server.http_url


@pytest.fixture(scope="module")
def described(url: str) -> Any:
    return ask(url, "/openapi.json").json


def validator(described: Any, schema: Any) -> Any:
    """What says whether a value is as a schema of the document."""
    whole = {"allOf": [schema], "components": described["components"]}
    return jsonschema.Draft202012Validator(whole)


def request_schema(described: Any, model: str) -> Any:
    """What a body for a model is."""
    operation = described["paths"][f"/v2/models/{quote(model, safe='')}/predict"]["post"]
    return operation["requestBody"]["content"]["application/json"]["schema"]


def check(described: Any, operation: Any, answer: Answer) -> None:
    """The document says of an answer what it is."""
    told = operation["responses"][str(answer.status)]
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if not answer.body:
        assert "content" not in told
    elif kind == "application/json":
        validator(described, told["content"][kind]["schema"]).validate(answer.json)
    else:
        assert kind in told["content"]


def test_it_is_valid(described: Any) -> None:
    openapi_spec_validator.validate(described)
    assert described["openapi"] == "3.1.0"


def test_it_has_every_route_of_the_server_and_no_other(server: Running, described: Any) -> None:
    front_end = server.server._http
    assert front_end is not None
    application: Any = front_end._uvicorn.app
    routes = {
        (method.lower(), route.path)
        for route in application._router.routes
        if isinstance(route, Route) and route.path not in PAGE
        for method in (route.methods or set()) - {"HEAD"}
    }
    # Those of single models are the same operation as that of all.
    own = {f"/v2/models/{quote(model, safe='')}/predict" for model in [*ROWS, "pair"]}
    told = {(method, path) for path, item in described["paths"].items() for method in item if path not in own}
    assert told == routes
    assert len(routes) > 30


def test_every_operation_of_the_table_has_a_name_of_its_own() -> None:
    names = [operation.name for operation in operations()]
    assert len(names) == len(set(names))


BODIES: dict[str, Any] = {
    "InferRequest": {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]},
    "PredictRequest": {"rows": [[1, 2, 3, 4]]},
    "systemRegionRegister": {"key": "/nothing", "byte_size": 4},
    "cudaRegionRegister": {"raw_handle": {"b64": ""}, "byte_size": 4},
}


def test_a_client_that_follows_it_is_answered_as_it_says(url: str, described: Any) -> None:
    answered = {}
    for path, item in described["paths"].items():
        for method, operation in item.items():
            model = "spare" if "/repository/" in path else "linear"
            there = path.format(model=model, version="1", region="r", file="none.png")
            body: Any = None
            if method == "post":
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                name = schema.get("$ref", "").rpartition("/")[2]
                body = BODIES.get(operation["operationId"], BODIES.get(name, {}))
                if name.startswith("Model"):
                    of = unquote(path.split("/")[3])
                    body = {"inputs": PAIR} if of == "pair" else {"rows": ROWS[of]}
                validator(described, schema).validate(body)
            answer = ask(url, there, body)
            check(described, operation, answer)
            answered[operation["operationId"]] = answer.status
    refused = {name for name, status in answered.items() if status != 200}
    # What this server has not, or not any more.
    assert refused <= {"systemRegionRegister", "cudaRegionRegister", "systemRegionStatus", "cudaRegionStatus", "picture",
                       "rollback", "promote", "predictModelSpare"}  # fmt: skip


def test_errors_are_as_it_says(url: str, described: Any) -> None:
    infer = described["paths"]["/v2/models/{model}/infer"]["post"]
    for model, body, status in (("nobody", BODIES["InferRequest"], 404), ("linear", b"{", 400), ("linear", {}, 400)):
        answer = ask(url, f"/v2/models/{model}/infer", body)
        assert answer.status == status
        check(described, infer, answer)
    answer = ask(url, "/v2/models/linear/infer", b"{}", headers={"Content-Encoding": "br"})
    assert answer.status == 415
    check(described, infer, answer)
    answer = ask(url, "/v2/models/linear/infer", BODIES["InferRequest"], headers={"Authorization": "Bearer nobody"})
    assert answer.status == 401
    check(described, infer, answer)
    answer = ask(url, "/v2/models/nobody/ready")
    assert answer.status == 404
    check(described, described["paths"]["/v2/models/{model}/ready"]["get"], answer)


@pytest.mark.parametrize("model", [model for model in ROWS if model not in ("größe 1", "spare")])
def test_rows_that_a_model_takes_are_as_its_schema_says_and_its_answers_too(
    url: str, described: Any, model: str
) -> None:
    body = {"rows": ROWS[model], "extra": "refuse"} | ({"top_k": 1} if model in ("churn", "mood", "linear") else {})
    validator(described, request_schema(described, model)).validate(body)
    path = f"/v2/models/{model}/predict"
    answer = ask(url, path, body)
    assert answer.status == 200
    check(described, described["paths"][path]["post"], answer)


@pytest.mark.parametrize(
    ("name", "body", "allowed"),
    [
        ("PredictRequest", {"rows": [1], "top_k": 2.0}, True),
        ("PredictRequest", {"inputs": {}, "rows": None}, True),
        ("PredictRequest", {"rows": [1], "inputs": {}}, False),
        ("PredictRequest", {"rows": "a"}, False),
        ("PredictRequest", {}, False),
        ("PredictRequest", {"rows": [1], "top_k": -1}, False),
        ("PredictRequest", {"rows": [1], "top_k": 2**31}, False),
        ("PromoteRequest", {"version": None, "canary": 0.5}, True),
        ("PromoteRequest", {"version": 0}, False),
        ("PromoteRequest", {"canary": 100}, False),
        ("setLogSettings", {"log_info": True, "log_verbose_level": 1}, True),
        ("setLogSettings", {"log_error": False}, False),
        ("setLogSettings", {"log_colour": "red"}, False),
        ("setTraceSettings", {"trace_rate": [5], "trace_count": "-1", "trace_level": ["OFF"], "trace_file": None}, True),
        ("setTraceSettings", {"trace_count": -2}, False),
        ("setTraceSettings", {"trace_mode": "file"}, False),
        ("index", {"ready": True}, True),
        ("index", {"readi": True}, False),
        ("unload", {"parameters": {"unload_dependents": True}}, True),
        ("unload", {"parameters": {"more": True}}, False),
        ("systemRegionRegister", {"key": "/a", "byte_size": 4}, True),
        ("systemRegionRegister", {"key": "", "byte_size": 4}, False),
    ],
)  # fmt: skip
def test_a_body_that_is_always_refused_is_not_as_it_says(described: Any, name: str, body: Any, allowed: bool) -> None:
    bodies = {
        operation["operationId"]: operation["requestBody"]["content"]["application/json"]["schema"]
        for item in described["paths"].values()
        for operation in item.values()
        if "requestBody" in operation
    }
    schema = bodies.get(name, {"$ref": f"#/components/schemas/{name}"})
    assert validator(described, schema).is_valid(body) == allowed


def test_a_tables_columns_are_told(described: Any) -> None:
    row = described["components"]["schemas"]["ModelChurnRow"]
    number, *texts = row["properties"].values()
    assert set(number.pop("type")) == {"number", "boolean", "null"}
    assert number == {
        "minimum": -3.4028235677973362e38,
        "maximum": 3.4028235677973362e38,
        "description": "a number; from -1.0 to 71.0 in training; in training 10.0% had none",
    }
    assert texts == [
        {
            "type": ["string", "null"],
            "examples": list(raw_rows.PLANS),
            "description": "a category, of which the model knows the examples",
        },
        {
            "type": ["string", "null"],
            "description": "a date or time in ISO 8601; from 2019-01-02T23:30:00 to 2024-05-31T00:00:00 in training",
        },
    ]
    assert row["examples"] == [{"tenure": 12.0, "plan": "basic", "signup": "2024-05-31"}]


def test_only_the_models_that_are_named_are_told(url: str, described: Any) -> None:
    told = ask(url, "/openapi.json?model=churn&model=gr%C3%B6%C3%9Fe%201").json
    openapi_spec_validator.validate(told)
    more = set(described["paths"]) - set(told["paths"])
    assert {path for path in told["paths"] if re.fullmatch(r"/v2/models/[^{]+/predict", path)} == {
        "/v2/models/churn/predict",
        "/v2/models/gr%C3%B6%C3%9Fe%201/predict",
    }
    assert all(path.endswith("/predict") for path in more)
    assert ask(url, f"/openapi.json?{'&'.join(['model=churn'] * 51)}").status == 400
    answer = ask(url, "/openapi.json?model=nobody")
    assert (answer.status, answer.headers["frostline-error"]) == (404, "model_not_found")


def test_what_makes_it_is_loaded_when_it_is_asked_for() -> None:
    script = "import sys, frostline_server.http.routes; print(*(name for name in sys.modules if '.openapi.' in name))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert loaded.split() == ["frostline_server.http.openapi.endpoint"]


def test_of_many_models_only_those_that_are_named_are_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_MOST_MODELS", 2)
    paths = ask(url, "/openapi.json").json["paths"]
    assert "/v2/models/{model}/predict" in paths
    assert "/v2/models/churn/predict" not in paths
    assert "/v2/models/churn/predict" in ask(url, "/openapi.json?model=churn").json["paths"]


def test_whoever_may_not_list_the_models_is_told_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("closed")
    onnx_models.write_artifact(folder / "models", "linear")
    named = {"access_file": write_access_file(folder / "access.toml"), "allow_anonymous": "none"}
    with running(folder / "models", http=True, log_level="error", **named) as server:
        url = server.server.http_url
        answers = {
            role: ask(url, "/openapi.json", headers={"Authorization": f"Bearer {TOKENS[role]}"}) for role in TOKENS
        }
        answers["nobody"] = ask(url, "/openapi.json")
        assert {role for role, answer in answers.items() if "/v2/models/linear/predict" in answer.json["paths"]} == {
            "observe"
        }
        assert {answer.status for answer in answers.values()} == {200}
        assert ask(url, "/openapi.json?model=linear").status == 401
        predict = {"Authorization": f"Bearer {TOKENS['predict']}"}
        told = ask(url, "/openapi.json?model=linear", headers=predict).json
        assert "/v2/models/linear/predict" in told["paths"]


def test_models_of_names_that_look_alike_have_operations_of_their_own() -> None:
    names = ["a-b", "a_b", "a b", "ab", "Ab", "A", "a", "größe", "groesse", "1", "x" * 200]
    models = [Schema(name, "1", inputs=(TensorSpec("input", "FP32", (-1, 4)),)) for name in names]
    routes = {(each.method.upper(), each.path) for each in operations()}
    told = document("1", routes, models)
    openapi_spec_validator.validate(told)
    operation_ids = [each["operationId"] for item in told["paths"].values() for each in item.values()]
    assert len(operation_ids) == len(set(operation_ids))
    assert sum(name.endswith("Request") and name.startswith("Model") for name in told["components"]["schemas"]) == len(
        names
    )


def test_what_a_column_is_is_told_in_words() -> None:
    columns = (
        Column("city", "category", tuple(map("n{}".format, range(501)))),
        Column("day", "date", format="%d.%m.%Y", share_missing=0.25),
    )
    told = document("1", {("POST", "/v2/models/{model}/predict")}, [Schema("m", "1", columns=columns)])
    assert told["components"]["schemas"]["ModelMRow"]["properties"] == {
        "city": {"type": ["string", "null"], "description": "a category, of which the model knows 501"},
        "day": {
            "type": ["string", "null"],
            "description": "a date or time of the format %d.%m.%Y; in training 25.0% had none",
        },
    }


@pytest.mark.parametrize(
    ("categories", "taken", "refused"),
    [
        (("a", "b"), [], [True, False, 1, 1.0]),
        (("yes", "no"), [True, False], [1]),
        (("yes", "y"), [True], [False, 0]),
        (("1", "2"), [1, 2.0, 3], [True, 0.5]),
    ],
)
def test_categories_that_are_written_as_numbers_or_truth_values_may_be_sent_as_such(
    categories: tuple[str, ...], taken: list[Any], refused: list[Any]
) -> None:
    schema = Schema("m", "1", columns=(Column("x", "category", categories),))
    told = document("1", {("POST", "/v2/models/{model}/predict")}, [schema])
    says = validator(told, told["components"]["schemas"]["ModelMRow"])
    for values, expected in ([*taken, "a", None], True), ([*refused, [], {}], False):
        for value in values:
            assert takes(value, schema.columns[0]) == says.is_valid({"x": value}) == expected
