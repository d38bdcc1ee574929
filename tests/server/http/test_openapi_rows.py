"""What the OpenAPI document says of a model's rows, against what the server takes: the one if and only if the other."""

import base64
from collections.abc import Callable, Iterator, Mapping
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
    "is empty; send PNG, JPEG or WebP",
    "batch size does not match other inputs",
    "make all equally long",
    "which has no such number; where rounding is meant",
    "beside floats, as one of which it would be",
)
"""What is refused though the document allows it, because no schema can say that it is wrong."""

Accepts = Callable[[str, Any], bool]


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
def says(server: Running) -> Mapping[str, Any]:
    """For each model, what says whether a body is as the document has it."""
    told = ask(server.server.http_url, "/openapi.json").json
    found = {}
    for path, item in told["paths"].items():
        schema = (
            item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        )
        model = path.split("/")[3] if path.startswith("/v2/models/") and path.endswith("/predict") else "{model}"
        if model != "{model}":
            found[model] = jsonschema.Draft202012Validator({**schema, "components": told["components"]})
    return found


def agree(server: Running, says: Mapping[str, Any], model: str, body: Any) -> bool:
    """Whether a body is taken, which the document and the server must say alike."""
    answer = ask(server.server.http_url, f"/v2/models/{model}/predict", body)
    assert answer.status in (200, 400), answer.body
    taken = answer.status == 200
    if taken or not any(sentence in answer.error for sentence in UNSAID):
        assert says[model].is_valid(body) == taken, (model, body, answer.body)
    return taken


ROW: dict[str, Any] = dict(zip(raw_rows.COLUMNS, raw_rows.ROWS[0], strict=True))
WITHOUT = {"plan": ROW["plan"], "signup": ROW["signup"]}
COLUMNS = {name: [cell, cell] for name, cell in ROW.items()}
PICTURE = {"b64": B64}
PAIR = {"left": [[1, 2, 3, 4]], "right": [[[1, 2], [3, 4]]]}


@pytest.mark.parametrize(
    ("model", "body", "taken"),
    [
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
    ],
)  # fmt: skip
def test_a_body_is_taken_if_and_only_if_the_document_says_so(
    server: Running, says: Mapping[str, Any], model: str, body: Any, taken: bool
) -> None:
    assert agree(server, says, model, body) == taken


CELLS = st.sampled_from([None, True, 0, 1, -1, 2, 0.5, 1e39, 65520, "", "a", "NaN", "1", B64, "2024-01-01", "pro"])
NAMES = st.sampled_from([*raw_rows.COLUMNS, "text", "image", "input", "left", "right", "b64", ""])
ANY = st.recursive(CELLS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3))
NUMBERS = st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=2)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "tenure": CELLS,
        "plan": CELLS,
        "signup": st.sampled_from(["2024-05-31", None, 1]),
        "text": CELLS,
        "image": CELLS | st.just(PICTURE),
    },
)
COLUMN = st.fixed_dictionaries(
    {"plan": st.lists(CELLS, min_size=1, max_size=1), "signup": st.just(["2024-05-31"])},
    optional={"tenure": st.lists(CELLS, max_size=1), "text": st.lists(CELLS, max_size=2)},
)
GIVEN = ANY | NUMBERS | st.lists(RECORD, max_size=3) | RECORD | COLUMN | st.lists(CELLS | st.just(PICTURE), max_size=3)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "rows": GIVEN,
        "inputs": st.none() | GIVEN | st.fixed_dictionaries({"input": NUMBERS}),
        "extra": st.sampled_from(["refuse", "ignore", None, "both"]),
        "top_k": st.sampled_from([0, 1, -1, None, 2**31]),
    },
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(["churn", "churn", "mood", "fruit", "linear", "pair", "no-batch-axis", "scalars", *TYPES]),
    body=BODIES,
)
def test_no_body_is_taken_that_the_document_forbids_or_refused_that_it_allows(
    server: Running, says: Mapping[str, Any], model: str, body: Any
) -> None:
    agree(server, says, model, body)
