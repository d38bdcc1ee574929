"""What the OpenAPI document says of a model's rows, against what the server takes: the one if and only if the other."""

import base64
import copy
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import onnx_models, raw_media, raw_rows
from tests.support.http_calls import ask
from tests.support.servers import Running, running

B64 = base64.b64encode(raw_media.picture_files()["png"][0]).decode()
TYPES = ("FP16", "FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES")
ONNX_NAMES = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}
UNSAID = (
    "the columns have different numbers of rows",
    "is not an ISO date",
    "is no picture that is taken",
    "b64 is no base64",
    "is the text",
    "whose largest number is",
    "is empty; send PNG, JPEG or WebP",
    "disagree on the number of rows",
    "make all equally long",
    "which has no such number; where rounding is meant",
    "beside floats, as one of which it would be",
)
"""What is refused though the document allows it, because no schema can say that it is wrong."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    raw_rows.write(models)
    raw_media.write_texts(models)
    raw_media.write_pictures(models)
    onnx_models.write_artifact(models, "linear")
    for datatype in TYPES:
        element = onnx.TensorProto.DataType.Value(ONNX_NAMES.get(datatype, datatype))
        same = onnx_models.passed_through(["rows", 2], element=element, output="same")
        onnx_models.write_artifact(models, datatype, 1, same, golden=False, labels=None)
    for name, model in {
        "pair": onnx_models.two_inputs(),
        "no-batch-axis": onnx_models.no_batch_axis(),
        "scalars": onnx_models.passed_through(["rows"], output="same"),
        "free": onnx_models.passed_through(["rows", "n"], output="same"),
        "constant": onnx_models.constant(),
    }.items():
        onnx_models.write_artifact(models, name, 1, model, golden=False, labels=None)
    with running(models, http=True, log_level="error") as instance:
        yield instance


@pytest.fixture(scope="module")
def agree(server: Running) -> Callable[[str, Any], bool]:
    """Says whether a model takes a body, which the document and the server must say alike."""
    told = ask(server.server.http_url, "/openapi.json").json
    says = {}
    for path, item in told["paths"].items():
        if path.endswith("/predict") and "{" not in path:
            schema = item["post"]["requestBody"]["content"]["application/json"]["schema"]
            says[path.split("/")[3]] = jsonschema.Draft202012Validator({**schema, "components": told["components"]})

    def agreed(model: str, body: Any) -> bool:
        answer = ask(server.server.http_url, f"/v2/models/{model}/predict", body)
        assert answer.status in (200, 400), answer.body
        taken = answer.status == 200
        if taken or not any(sentence in answer.error for sentence in UNSAID):
            assert says[model].is_valid(body) == taken, answer.body
        return taken

    return agreed


ROW: dict[str, Any] = dict(zip(raw_rows.COLUMNS, raw_rows.ROWS[0], strict=True))
WITHOUT = {"plan": ROW["plan"], "signup": ROW["signup"]}
COLUMNS = {name: [cell, cell] for name, cell in ROW.items()}
PICTURE = {"b64": B64}
PAIR = {"left": [[1, 2, 3, 4]], "right": [[[1, 2], [3, 4]]]}


CASES: list[tuple[str, Any, bool]] = [
    ("churn", {"rows": [ROW]}, True),
    ("churn", {"rows": ROW}, True),
    ("churn", {"rows": COLUMNS, "inputs": None}, True),
    ("churn", {"inputs": COLUMNS, "rows": None}, True),
    ("churn", {"inputs": ROW}, True),
    ("churn", {"rows": [WITHOUT, {"tenure": True}]}, True),
    ("churn", {"rows": [{**ROW, "plan": None}, {**ROW, "plan": "of another kind"}]}, True),
    ("churn", {"rows": [{"tenure": 1}]}, False),
    ("churn", {"rows": [ROW, {}]}, False),
    ("churn", {"rows": {}}, False),
    ("churn", {"rows": [ROW, {"age": 1}]}, False),
    ("churn", {"rows": [{**ROW, "age": 1}]}, False),
    ("churn", {"rows": {**COLUMNS, "age": [1, 2]}}, False),
    ("churn", {"rows": [{**ROW, "age": 1}], "extra": "ignore"}, True),
    ("churn", {"rows": {**COLUMNS, "age": 7}, "extra": "ignore"}, True),
    ("churn", {"rows": [ROW, {"age": 1}], "extra": "ignore"}, False),
    ("churn", {"rows": {**ROW, "input": [[1, 2, 3, 4]]}}, False),
    ("churn", {"rows": {"input": [[1, 2, 3, 4]]}}, True),
    ("churn", {"rows": [[1, 2, 3, 4]]}, True),
    ("churn", {"rows": [ROW], "extra": None}, False),
    ("churn", {"rows": [ROW], "inputs": ROW}, False),
    ("churn", {"rows": None, "inputs": None}, False),
    ("churn", {"inputs": [ROW]}, False),
    ("churn", {}, False),
    ("churn", {"rows": []}, False),
    ("churn", {"rows": {**ROW, "plan": ["basic"]}}, False),
    ("churn", {"rows": {name: [] for name in ROW}}, False),
    ("churn", {"rows": [{**ROW, "tenure": 3.4028235677973362e38}]}, True),
    ("churn", {"rows": [{**ROW, "tenure": 3.4028235677973366e38}]}, False),
    ("churn", {"rows": [ROW], "top_k": 2}, True),
    ("churn", {"rows": [ROW], "top_k": 2.0}, True),
    ("churn", {"rows": [ROW], "top_k": 0.5}, False),
    ("churn", {"rows": [ROW], "top_k": 2**31}, False),
    ("mood", {"rows": ["great", None, ""]}, True),
    ("mood", {"rows": {"text": ["great", None]}}, True),
    ("mood", {"rows": "great"}, False),
    ("mood", {"rows": [{"text": "great"}, "great"]}, False),
    ("fruit", {"rows": [PICTURE, B64, f"data:image/png;base64,{B64}"]}, True),
    ("fruit", {"rows": PICTURE}, True),
    ("fruit", {"inputs": PICTURE}, True),
    ("fruit", {"rows": {"image": PICTURE}}, True),
    ("fruit", {"rows": {"image": [PICTURE, B64]}}, True),
    ("fruit", {"rows": [{"image": B64}]}, True),
    ("fruit", {"rows": [{"image": B64}, PICTURE]}, False),
    ("fruit", {"rows": [None]}, False),
    ("fruit", {"rows": {**PICTURE, "image": B64}}, False),
    ("fruit", {"rows": [{**PICTURE, "image": B64}], "extra": "ignore"}, False),
    ("fruit", {"rows": {**PICTURE, "more": 1}}, False),
    ("fruit", {"rows": {**PICTURE, "more": 1}, "extra": "ignore"}, False),
    ("linear", {"rows": [[1, 2, 3, True], [0.5, -1, "NaN", "-inf"]]}, True),
    ("linear", {"rows": {"input": [[1, 2, 3, 4]]}}, True),
    ("linear", {"inputs": {"input": [[1, 2, 3, 4]]}, "top_k": 0}, True),
    ("linear", {"inputs": {"": [[1, 2, 3, 4]]}}, False),
    ("linear", {"rows": [[1, 2, 3]]}, False),
    ("linear", {"rows": [1, 2, 3, 4]}, False),
    ("linear", {"rows": [[1, 2, 3, None]]}, False),
    ("linear", {"rows": [[1, 2, 3, "4"]]}, False),
    ("linear", {"rows": []}, False),
    ("pair", {"inputs": PAIR}, True),
    ("pair", {"rows": PAIR}, True),
    ("pair", {"rows": [[1, 2, 3, 4]]}, False),
    ("pair", {"inputs": {"left": PAIR["left"]}}, False),
    ("BYTES", {"rows": [["a", "b"]], "top_k": 1}, False),
    ("BYTES", {"rows": [["a", "b"]], "top_k": 0}, True),
    ("no-batch-axis", {"rows": [1, 2, 3, 4]}, True),
    ("no-batch-axis", {"rows": [[1, 2, 3, 4]]}, False),
    ("scalars", {"rows": [1, 2]}, True),
    ("scalars", {"rows": [[1], [2]]}, True),
    ("scalars", {"rows": [[1, 2]]}, False),
    ("free", {"rows": [[1, 2, 3], [4, 5, 6]]}, True),
    ("free", {"rows": [[]]}, True),
    ("constant", {"rows": [[1]]}, False),
    ("constant", {"inputs": {}}, True),
    ("constant", {"inputs": {"input": [1]}}, False),
    ("FP16", {"rows": [[65519, 65519.99]]}, True),
    ("FP16", {"rows": [[1, 65520]]}, False),
    ("FP64", {"rows": [[1e308, True]]}, True),
    ("INT8", {"rows": [[1.0, -128], [False, 127]]}, True),
    ("INT8", {"rows": [[1, 128]]}, False),
    ("INT8", {"rows": [[1, 0.5]]}, False),
    ("INT8", {"rows": [[1, "NaN"]]}, False),
    ("UINT64", {"rows": [[2**63, 2**64 - 1]]}, True),
    ("UINT64", {"rows": [[0, -1]]}, False),
    ("BOOL", {"rows": [[True, 0], [1.0, False]]}, True),
    ("BOOL", {"rows": [[True, 2]]}, False),
    ("BYTES", {"rows": [["a", "NaN"]]}, True),
    ("BYTES", {"rows": [["a", 1]]}, False),
    ("BYTES", {"rows": [["a", None]]}, False),
]  # fmt: skip
"""Bodies, and whether they are taken."""


@pytest.mark.parametrize(("model", "body", "taken"), CASES)
def test_a_body_is_taken_if_and_only_if_the_document_says_so(
    agree: Callable[[str, Any], bool], model: str, body: Any, taken: bool
) -> None:
    assert agree(model, body) == taken


CELLS: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, -1, 2, 0.5, 1e39, 65520, "", "a", "NaN", B64, "2024-01-01", PICTURE, [], {}]
)
NAMES = st.sampled_from(
    [*raw_rows.COLUMNS, "text", "image", "input", "left", "b64", "rows", "inputs", "top_k", "age", ""]
)
Place = tuple[str | int, ...]


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Where there is something within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, each in inner:
        yield (*here, at)
        yield from places(each, (*here, at))


@st.composite
def nearly_taken(draw: st.DrawFn) -> tuple[str, Any]:
    """A body that is taken, with up to two changes anywhere."""
    model, taken = draw(st.sampled_from([(model, body) for model, body, taken in CASES if taken]))
    body = copy.deepcopy(taken)
    for _ in range(draw(st.integers(0, 2))):
        *way, at = draw(st.sampled_from([*places(body), ("extra",)]))
        holder = functools.reduce(operator.getitem, way, body)
        change = draw(st.sampled_from(["replace", "drop", "wrap", "unwrap", "repeat", "add"]))
        there = holder.get(at) if isinstance(holder, dict) else holder[at]
        if change == "drop":
            holder.pop(at, None) if isinstance(holder, dict) else holder.pop(at)
        elif change == "wrap":
            holder[at] = [there]
        elif change == "unwrap" and isinstance(there, list) and there:
            holder[at] = there[0]
        elif change == "repeat" and isinstance(there, list):
            there.extend(copy.deepcopy(there))
        elif change == "add" and isinstance(there, dict):
            there[draw(NAMES)] = copy.deepcopy(draw(CELLS))
        else:
            holder[at] = copy.deepcopy(draw(CELLS | st.sampled_from(["refuse", "ignore"])))
    return model, body


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nearly_taken())
def test_no_body_is_taken_that_the_document_forbids_or_refused_that_it_allows(
    agree: Callable[[str, Any], bool], asked: tuple[str, Any]
) -> None:
    agree(*asked)
