"""Raw rows as JSON, answered as Frostline's Python client is; what is refused, and what is never read."""

import base64
import json
import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frostline
from frostline_server import errors
from frostline_server.http.call import Call
from frostline_server.http.inference_calls import InferenceCalls
from frostline_server.http.rows import predict as predict_module
from frostline_server.http.rows.answers import answer_of
from frostline_server.http.statuses import KIND, failure_of
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from tests.support import onnx_models, raw_media, raw_rows
from tests.support.http_calls import Answer, ask, unrouted
from tests.support.servers import TIMEOUT_S, Running, running

ROWS = [
    {
        name: None if isinstance(cell, float) and math.isnan(cell) else cell
        for name, cell in zip(raw_rows.COLUMNS, row, strict=True)
    }
    for row in raw_rows.ROWS
]
PNG = raw_media.picture_files()["png"][0]
B64 = base64.b64encode(PNG).decode()
TASKS: Mapping[str, tuple[str, list[str | int], list[str]]] = {
    "regression": ("values", ["n", 2], ["width", "height"]),
    "multi-label": ("probabilities", ["n", 3], ["red", "green", "blue"]),
    "binary": ("probabilities", ["n", 1], ["no", "yes"]),
    "embedding": ("vector", ["n", 3], []),
    "dense": ("logits", ["n", 2, 2, 3], ["sky", "sea"]),
}
"""The output, the shape and the labels of a network of each task that gives back what it gets."""

BARE: Mapping[str, list[str | int]] = {
    "bare-classes": [3],
    "bare-map": [3, 2],
    "bare-number": [1],
    "bare-row": [],
    "bare-free": ["m"],
}
"""The shape of a row of files that nobody has published: they have no card, and so no task."""

HALVES = np.array([[0.5, -0.5]], np.float32)
"""Weights of a network that answers two logits to one number."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    raw_rows.write(models)
    raw_media.write_texts(models)
    raw_media.write_pictures(models)
    onnx_models.write_artifact(models, "linear")
    onnx_models.write_artifact(models, "alike", 1, labels=("ant", "ant", "cat"))
    card = onnx_models.write_artifact(
        models, "decided", 1, onnx_models.product(HALVES), golden=False, labels=("no", "yes")
    )
    about = json.loads((card / "card.json").read_text())
    decision = {"threshold": 0.9, "label": "yes"}
    (card / "card.json").write_text(json.dumps(about | {"task": "single-label", "scores": {"decision": decision}}))
    for task, (output, shape, labels) in TASKS.items():
        model = onnx_models.passed_through(shape, output=output)
        onnx.helper.set_model_props(model, {"frostline.task": task})
        onnx_models.write_artifact(models, task, 1, model, golden=False, labels=labels)
    for name, model in {
        "two-outputs": onnx_models.two_outputs(),
        "two-inputs": onnx_models.two_inputs(),
        "no-batch-axis": onnx_models.no_batch_axis(),
        "total": onnx_models.total(),
        "constant": onnx_models.constant(),
        "words": onnx_models.strings(),
        "more": onnx_models.listing(again=True),
        "fewer": onnx_models.listing(),
        "fewer-classes": onnx_models.listing(columns=3),
        "double": onnx_models.linear(element=onnx.TensorProto.DOUBLE),
    }.items():
        onnx_models.write_artifact(models, name, 1, model, golden=False, labels=None)
    for name, shape in BARE.items():
        model = onnx_models.passed_through(["n", *shape], output="out")
        onnx_models.write_artifact(models, name, 1, model, golden=False, labels=None, card=False)
    with running(models, http=True, log_level="error") as instance:
        yield instance


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[frostline.Client]:
    with frostline.connect(server.address, timeout_s=TIMEOUT_S) as connected:
        yield connected


def predict(server: Running, model: str, body: Any, **headers: str) -> Answer:
    """The answer to a body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(server.server.http_url, f"/v2/models/{model}/predict", body, headers=named)


def predictions(server: Running, model: str, rows: Any, **said: Any) -> list[Any]:
    """What each row is answered."""
    answer = predict(server, model, {"rows": rows, **said})
    assert answer.status == 200, answer.body
    found: list[Any] = answer.json["predictions"]
    return found


def refusal(server: Running, model: str, body: Any, **headers: str) -> str:
    """Why a body is refused."""
    answer = predict(server, model, body, **headers)
    assert answer.status == 400
    return answer.error


def single(listed: Any) -> Any:
    """Numbers in single precision."""
    return np.array(listed, np.float32)


# Answers


def test_a_table_is_answered_as_the_client_is(server: Running, client: frostline.Client) -> None:
    answer = predict(server, "churn", {"rows": ROWS})
    own = client.predict("churn", ROWS)
    assert {name: answer.json[name] for name in ("model", "version", "task")} == {
        "model": "churn",
        "version": "1",
        "task": "single-label",
    }
    rows = answer.json["predictions"]
    assert [row["label"] for row in rows] == list(own.labels)
    assert [row["class"] for row in rows] == own.argmax.tolist()
    for row, softmax in zip(rows, own.softmax, strict=True):
        listed = {each["class"]: np.float32(each["probability"]) for each in row["probabilities"]}
        np.testing.assert_array_equal([listed[0], listed[1]], softmax)
        assert [each["label"] for each in row["probabilities"]] == [raw_rows.LABELS[i] for i in np.argsort(-softmax)]
        assert row["probability"] == row["probabilities"][0]["probability"]


def test_cells_that_training_did_not_know_are_told(server: Running) -> None:
    states = [(row["missing"], row["unknown"], row["outside"]) for row in predictions(server, "churn", ROWS)]
    assert states[0] == ([], [], [])
    assert states[4] == (["tenure"], [], [])
    assert states[5] == (["plan"], [], [])
    assert states[7] == ([], ["plan"], [])
    assert states[11] == ([], [], ["tenure", "signup"])


def test_more_rows_than_a_batch_has_are_answered_in_their_order(server: Running) -> None:
    rows = [ROWS[index % len(ROWS)] for index in range(150)]
    told, few = predictions(server, "churn", rows), predictions(server, "churn", ROWS)
    assert told == [few[index % len(few)] for index in range(150)]


@pytest.mark.parametrize("form", ["one", "columns", "inputs"])
def test_rows_may_be_one_row_or_columns(server: Running, form: str) -> None:
    columns = {name: [row[name] for row in ROWS] for name in raw_rows.COLUMNS}
    body = {"one": {"rows": ROWS[0]}, "columns": {"rows": columns}, "inputs": {"inputs": columns}}[form]
    found = predict(server, "churn", body).json["predictions"]
    assert found == predictions(server, "churn", ROWS[:1] if form == "one" else ROWS)


@pytest.mark.parametrize("body", [{"rows": [[12, 1, 4, 1]]}, {"inputs": {"input": [[12, 1, 4, 1]]}}])
def test_a_table_model_takes_the_networks_own_input_too(server: Running, client: frostline.Client, body: Any) -> None:
    (row,) = predict(server, "churn", body).json["predictions"]
    assert "missing" not in row
    own = client.predict("churn", [[12, 1, 4, 1]])
    assert (row["label"], np.float32(row["probability"])) == (own.labels[0], own.softmax.max())


def test_texts_are_answered_as_the_client_is(server: Running, client: frostline.Client) -> None:
    texts = [*raw_media.TEXTS, None]
    told = predictions(server, "mood", texts)
    own = client.predict("mood", texts)
    assert [row["label"] for row in told] == list(own.labels)
    np.testing.assert_array_equal(single([row["probability"] for row in told]), own.softmax.max(axis=1))
    assert told[1]["missing"] == told[-1]["missing"] == ["text"]
    assert told[7]["outside"] == ["text"]


@pytest.mark.parametrize(
    "rows",
    [
        [{"b64": B64}],
        [B64],
        [f"data:image/png;base64,{B64}"],
        [{"image": B64}],
        [{"image": {"b64": B64}}],
        {"b64": B64},
        {"image": B64},
        {"image": [B64]},
        {"image": [{"b64": B64}]},
    ],
)
def test_a_picture_is_base64_in_every_form(server: Running, client: frostline.Client, rows: Any) -> None:
    (row,) = predictions(server, "fruit", rows)
    own = client.predict("fruit", [PNG])
    assert (row["label"], np.float32(row["probability"])) == (own.labels[0], own.softmax.max())
    assert "missing" not in row


def test_pictures_are_the_files_of_a_form_or_the_body(server: Running, client: frostline.Client) -> None:
    files = [content for content, _ in raw_media.picture_files().values()]
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + file + b"\r\n" for file in files
    ]
    fields = b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n'
    body = b"".join(parts) + fields + b"--b--\r\n"
    answer = predict(server, "fruit", body, Content_Type="multipart/form-data; boundary=b")
    told = answer.json["predictions"]
    own = client.predict("fruit", files)
    assert [row["label"] for row in told] == list(own.labels)
    np.testing.assert_array_equal(single([row["probability"] for row in told]), own.softmax.max(axis=1))
    assert [len(row["probabilities"]) for row in told] == [1] * len(files)
    for kind in ("image/png", "application/octet-stream"):
        assert predict(server, "fruit", files[0], Content_Type=kind).json["predictions"][0]["label"] == own.labels[0]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_answered_as_the_client_is(server: Running, client: frostline.Client, task: str) -> None:
    _, shape, labels = TASKS[task]
    rows = np.random.default_rng(0).random((3, *map(int, shape[1:]))).astype(np.float32)
    answer = predict(server, task, {"rows": rows.tolist()}).json
    told, own = answer["predictions"], client.predict(task, rows)
    assert answer["task"] == own.task == task
    if task == "regression":
        np.testing.assert_array_equal(single([[row["values"][name] for name in labels] for row in told]), rows)
    elif task == "multi-label":
        assert [row["labels"] for row in told] == [list(names) for names in own.labels]
        found = [[row["probabilities"][name] for name in labels] for row in told]
        np.testing.assert_array_equal(single(found), own.probabilities)
    elif task == "binary":
        assert [row["label"] for row in told] == list(own.labels)
        assert [labels[row["class"]] for row in told] == list(own.labels)
        np.testing.assert_array_equal(single([row["probability"] for row in told]), own.probabilities.ravel())
    elif task == "embedding":
        np.testing.assert_array_equal(single([row["vector"] for row in told]), own.vector)
    else:
        assert answer["names"] == labels
        np.testing.assert_array_equal([row["map"] for row in told], own.map)


def test_of_any_other_network_all_outputs_are_told(server: Running) -> None:
    rows = predictions(server, "two-outputs", [[1, 2, 3, 4], [0, 0, 0, -1]])
    assert rows == [
        {"outputs": {"double": [2, 4, 6, 8], "total": 10}},
        {"outputs": {"double": [0, 0, 0, -2], "total": -1}},
    ]
    assert predictions(server, "words", [["a", "zoë"], ["", "NaN"]]) == [
        {"outputs": {"echo": ["a", "zoë"]}},
        {"outputs": {"echo": ["", "NaN"]}},
    ]


@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [
        ("more", [[1], [9], [3], [4]], "more gave an answer of 5 rows in found for 4 sent"),
        ("fewer", [[1], [9], [3], [4]], "fewer gave an answer of 3 rows in found for 4 sent"),
        ("fewer-classes", [[1, 0, 0], [9, 0, 0]], "fewer-classes gave an answer of 1 row in softmax for 2 sent"),
    ],
)
def test_no_row_is_given_the_answer_of_another(server: Running, model: str, rows: list[Any], words: str) -> None:
    answer = predict(server, model, {"rows": rows})
    assert (answer.status, answer.headers["frostline-error"]) == (501, "unsupported")
    assert answer.error.startswith(f"{words}, so nobody knows which is whose; infer gives it whole")


def test_all_that_a_network_lists_for_one_row_is_that_rows(server: Running) -> None:
    assert predictions(server, "more", [[9]]) == [{"outputs": {"found": [[9], [9]]}}]
    assert predictions(server, "fewer", [[9]]) == [{"outputs": {"found": []}}]
    assert predictions(server, "more", [[1]]) == [{"outputs": {"found": [1]}}]


def test_a_file_without_a_card_is_read_as_the_client_reads_it(server: Running, client: frostline.Client) -> None:
    rows = np.array([[0.25, 2, -1], [4, 0, 8]], np.float32)
    classes = predictions(server, "bare-classes", rows.tolist())
    own = client.predict("bare-classes", rows)
    assert [row["class"] for row in classes] == own.argmax.tolist() == [1, 2]
    assert [row["label"] for row in classes] == [None, None]
    by_class = [sorted(row["probabilities"], key=lambda each: each["class"]) for row in classes]
    np.testing.assert_array_equal(single([[each["probability"] for each in row] for row in by_class]), own.softmax)
    maps = np.stack([rows, rows[::-1]], axis=2)
    told = predictions(server, "bare-map", maps.tolist())
    assert [row["map"] for row in told] == client.predict("bare-map", maps).map.tolist() == [[1, 2], [2, 1]]
    # No network that chooses between one class, or nobody knows how many.
    for name, sent in (("bare-number", rows[:, :1]), ("bare-row", rows[:, 0]), ("bare-free", rows)):
        told = predictions(server, name, sent.tolist())
        own = client.predict(name, sent, outputs=["values"])
        assert [row["outputs"]["out"] for row in told] == own.outputs["out"].tolist() == sent.tolist()


def test_of_an_input_without_rows_all_outputs_are_told_together(server: Running) -> None:
    assert predictions(server, "no-batch-axis", [1, 2, 3, 4]) == [{"outputs": {"scores": [2.5, 5, 4.5]}}]
    assert predictions(server, "total", [[1, 2, 3, 4], [0, 0, 0, 1]]) == [{"outputs": {"total": 11}}]


def test_a_network_without_inputs_answers_nothing_that_is_asked(server: Running, client: frostline.Client) -> None:
    told = predict(server, "constant", {"inputs": {}}).json["predictions"]
    assert [row["class"] for row in told] == client.predict("constant", {}).argmax.tolist()


def test_several_inputs_go_by_their_names(server: Running, client: frostline.Client) -> None:
    inputs = {"left": [[1, 2, 3, 4]], "right": [[[0, 1], [0, 1]]]}
    (row,) = predict(server, "two-inputs", {"inputs": inputs}).json["predictions"]
    assert row["class"] == client.predict("two-inputs", inputs).argmax[0]
    assert row["label"] is None


def test_a_network_in_double_precision_keeps_it(server: Running, client: frostline.Client) -> None:
    (row,) = predictions(server, "double", [[0.1, 0.2, 0.3, 0.4]])
    assert row["probability"] == client.predict("double", [[0.1, 0.2, 0.3, 0.4]]).softmax.max()


def test_the_most_probable_classes_are_listed(server: Running) -> None:
    (row,) = predictions(server, "linear", [[1, 2, 3, 4]], top_k=2)
    assert [each["class"] for each in row["probabilities"]] == [1, 2]


def test_the_class_is_the_networks_own_where_labels_are_alike(server: Running) -> None:
    (row,) = predictions(server, "alike", [[1, 2, 3, 4]])
    assert (row["label"], row["class"]) == ("ant", 1)
    assert row["probability"] == row["probabilities"][0]["probability"]


def test_a_threshold_decides_and_the_probability_is_that_of_what_it_decides(
    server: Running, client: frostline.Client
) -> None:
    # Yes is more probable than no, and not as probable as it must be.
    (row,) = predictions(server, "decided", [[-1]])
    assert (row["label"], row["class"]) == (client.predict("decided", [[-1]]).labels[0], 0) == ("no", 0)
    assert [each["label"] for each in row["probabilities"]] == ["yes", "no"]
    assert row["probability"] == row["probabilities"][1]["probability"]


def test_long_answers_are_made_in_another_thread_and_their_memory_is_counted(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    held: list[int] = []

    def noted(*arguments: Any) -> bytes:
        made.append(threading.current_thread().name)
        return answer_of(*arguments)

    monkeypatch.setattr(predict_module, "answer_of", noted)
    monkeypatch.setattr(Call, "hold", lambda _, size: held.append(size))
    assert len(predictions(server, "embedding", [[1, 2, 3]])) == 1
    assert (made, held) == (["server-loop"], [])
    # A short request for a long answer: its three numbers a row are twelve bytes.
    rows = [[0, 0, 0]] * 7000
    assert len(predictions(server, "embedding", rows)) == 7000
    assert made[1] != "server-loop"
    assert max(held) > 20 * 12 * 7000


@pytest.mark.parametrize("nan", ["NaN", math.nan])
def test_a_row_that_decides_nothing_has_no_class(server: Running, nan: object) -> None:
    (row,) = predictions(server, "linear", [[1, 2, 3, nan]])
    assert (row["label"], row["class"], row["probability"]) == (None, None, "NaN")


def test_columns_that_the_model_does_not_take_are_ignored_if_that_is_said(server: Running) -> None:
    rows = [row | {"churned": "yes"} for row in ROWS]
    assert predictions(server, "churn", rows, extra="ignore") == predictions(server, "churn", ROWS)


# Refusals


@pytest.mark.parametrize(
    ("model", "body", "sentence"),
    [
        (
            "churn",
            {},
            "the body has neither `rows` nor `inputs`; give one of them; churn expects rows with the columns",
        ),
        ("churn", {"rows": [], "inputs": {}}, "the body has both `rows` and `inputs`"),
        ("churn", {"rows": []}, "there are no rows; churn expects rows with the columns tenure, plan, signup"),
        ("churn", {"rows": 7}, "rows is 7; a list with a value for each row is expected"),
        ("churn", {"rows": "x"}, "rows is the text 'x'; a list with a value for each row is expected"),
        (
            "churn",
            {"rows": [{"tenure": "x", **ROWS[0]}, {**ROWS[0], "tenure": "x"}]},
            "column 'tenure', row 1: a number",
        ),
        (
            "churn",
            {"rows": [ROWS[0], {**ROWS[0], "signup": "soon"}]},
            "column 'signup', row 1: 'soon' is not an ISO date",
        ),
        (
            "churn",
            {"rows": [ROWS[0], {**ROWS[0], "tenure": 1e39}]},
            "column 'tenure', row 1: 1e+39 is no finite number",
        ),
        ("churn", {"rows": [ROWS[0], {**ROWS[0], "plan": [1]}]}, "column 'plan', row 1: the text of a category"),
        ("churn", {"rows": [{**ROWS[0], "age": 1}]}, "row 0 has 'age', and churn expects only the columns"),
        ("churn", {"rows": [{"tenure": 1}]}, "the rows have no columns 'plan', 'signup'"),
        ("churn", {"rows": ROWS, "top_k": -1}, "top_k: input should be greater than or equal to 0"),
        ("churn", {"rows": ROWS, "top_k": "1"}, 'top_k: a whole number is expected, got "1"'),
        ("churn", {"rows": ROWS, "extra": "x"}, "extra: "),
        ("churn", {"rows": ROWS, "columns": 1}, "columns: there is no such field, got 1"),
        ("mood", {"rows": ["a", 7]}, "column 'text', row 1: a text is expected, but it is 7"),
        ("fruit", {"rows": [{"b64": B64}, {"b64": "bm8="}]}, "column 'image', row 1: is no picture that is taken"),
        ("fruit", {"rows": [{"b64": B64}, None]}, "row 1 is null; a picture is"),
        ("linear", {"rows": [[1, 2, 3]]}, "Expected [-1,4], got [1,3]"),
        (
            "linear",
            {"rows": [[1, 2, 3, None]]},
            'the input holds null at [0, 3] where a number was expected; a missing number is "NaN"',
        ),
        (
            "linear",
            {"rows": [[1, 2, 3, 2**24 + 1]]},
            "holds 16777217 at [0, 3], but the model takes FP32, which has no such number; write it with a decimal point",
        ),
        (
            "churn",
            {"rows": [ROWS[0], {**ROWS[0], "tenure": "5"}]},
            "a number is expected, but it is '5' (a text); send it as a number, without quotes",
        ),
        ("churn", {"rows": [ROWS[0], {**ROWS[0], "signup": True}]}, "it is true; give the text of an ISO date"),
        ("churn", {"rows": [{**ROWS[0], "age": 1}]}, 'leave out the others, or say "extra": "ignore"'),
        ("churn", {"rows": [{"tenure": 1}]}, "Give null where a value is missing"),
        ("two-inputs", {"rows": [[1, 2, 3, 4]]}, "send an object: "),
        ("linear", {"rows": [[1, 2, 3], [4]]}, "the input is not an array"),
        ("linear", {"rows": [{"a": 1}]}, "linear takes no rows with named columns"),
        ("two-inputs", {"rows": [[1, 2, 3, 4]]}, "two-inputs has the inputs left, right"),
        ("linear", {"inputs": {}}, "linear expects input FP32 [any, 4]"),
        ("linear", b"{", "the body is no JSON"),
        (
            "churn",
            b'{"rows": [{"plan": "basic", "plan": "pro", "signup": "2024-05-31"}]}',
            "has the field 'plan' twice",
        ),
        ("linear", b'{"rows": [[1, 2, 3, 1e999]]}', "the number 1e999 is larger than any FP64"),
    ],
)
def test_a_refusal_says_where_and_what_is_expected(server: Running, model: str, body: Any, sentence: str) -> None:
    assert sentence in refusal(server, model, body)


def test_where_a_number_may_be_rounded_it_is(server: Running) -> None:
    """As the refusal of a whole number says."""
    assert predict(server, "linear", {"rows": [[1, 2, 3, 2.0**24 + 1]]}).status == 200
    assert predict(server, "linear", {"rows": [[1, 2, 3, "NaN"]]}).status == 200


CELLS = st.sampled_from(
    [None, True, 0, -1, 2**53 + 1, 2**64, 10**400, 0.5, 1e39, math.nan, "", "a", "NaN", "1", B64, "2024-01-01", "pro"]
)
NAMES = st.sampled_from([*raw_rows.COLUMNS, "text", "image", "input", "left", "right", "b64", ""])
JSON = st.recursive(CELLS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(
        ["churn", "mood", "fruit", "linear", "words", "two-inputs", "no-batch-axis", "constant", *TASKS]
    ),
    field=st.sampled_from(["rows", "inputs"]),
    value=JSON,
)
def test_nothing_that_is_no_row_makes_the_server_fail(server: Running, model: str, field: str, value: Any) -> None:
    answer = predict(server, model, {field: value})
    assert answer.status in (200, 400), answer.body
    assert ("predictions" in answer.json) == (answer.status == 200)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the form has no files; give each picture as a file"),
        (b"--b--\r\n", "the form has no files"),
        (b'--b\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n--b--\r\n', "the form has the field 'colour'"),
        (b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n--b\r\n'  # noqa: ISC004  two lines
         b'Content-Disposition: form-data; name="top_k"\r\n\r\n\xc2\xb2\r\n--b--\r\n', "top_k must be a whole number"),
        (b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n--b\r\n'  # noqa: ISC004  two lines
         b'Content-Disposition: form-data; name="top_k"\r\n\r\n2\r\n--b--\r\n', "the form has the field 'top_k' twice"),
        (b"no form", "the body is no form of the type multipart/form-data"),
    ],
)  # fmt: skip
def test_a_form_of_something_else_is_refused(server: Running, body: bytes, sentence: str) -> None:
    assert sentence in refusal(server, "fruit", body, Content_Type="multipart/form-data; boundary=b")
    assert "is no form" in refusal(server, "fruit", body, Content_Type="multipart/form-data")


@pytest.mark.parametrize("each", [errors.QueueFull, errors.Overloaded, errors.ServerStopping, errors.RunFailed])
def test_a_refusal_by_the_server_has_its_own_words(
    server: Running, monkeypatch: pytest.MonkeyPatch, each: type[errors.PredictionError]
) -> None:
    """The Python client's, of servers and their addresses, are for its users."""

    async def refuse(*_: object) -> None:
        raise failure_of(each("what happened"))

    monkeypatch.setattr(InferenceCalls, "answer", refuse)
    answer = predict(server, "linear", {"rows": [[1, 2, 3, 4]]})
    assert answer.error == "what happened"
    assert (answer.status, answer.headers[KIND]) == (failure_of(each("")).status, each.kind)


def test_a_model_that_is_not_there_is_not_found(server: Running) -> None:
    answer = predict(server, "nobody", {"rows": [[1]]})
    assert answer.status == 404
    assert answer.headers[KIND] == "model_not_found"
    assert "Request for unknown model: 'nobody' is not found; the server has: " in answer.error


@pytest.mark.parametrize("model", ["fruit", "mood", "churn", "linear", "words"])
def test_a_text_is_never_the_path_of_a_file_of_the_server(server: Running, model: str, tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(PNG)
    secret = predictions(server, "fruit", [B64])[0]["probability"]
    cells: list[Any] = [str(path), path.as_uri(), {"b64": str(path)}, [str(path)], {"image": str(path)}]
    for cell in cells:
        for rows in ([cell], cell, {"image": cell}, {"image": [cell]}, {"text": [cell]}, {"input": [cell]}, [[cell]]):
            for field in ("rows", "inputs"):
                answer = predict(server, model, {field: rows})
                if model == "fruit":
                    assert answer.status == 400, (field, rows)
                assert str(secret) not in answer.body.decode()
                assert "such file" not in answer.body.decode()


def test_a_text_is_no_path_where_a_version_of_pictures_takes_the_place_of_one_of_texts(tmp_path: Path) -> None:
    raw_media.write_texts(tmp_path, "mixed", 1)
    raw_media.write_pictures(tmp_path, "mixed", 2)
    rollouts.write(tmp_path / "mixed", Rollout(labels={"stable": 1, "canary": 2}, split={"canary": 80}))
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    with running(tmp_path, http=True, log_level="error") as mixed:
        answers = [predict(mixed, "mixed", {"rows": [str(secret)]}) for _ in range(40)]
        pictures = [predict(mixed, "mixed", {"rows": [{"b64": B64}]}) for _ in range(40)]
    assert {answer.json.get("version") for answer in answers if answer.status == 200} <= {"1"}
    assert {answer.status for answer in answers} == {200, 400}
    assert "2" in {answer.json.get("version") for answer in pictures}


# The schema


def test_the_schema_is_what_grpc_says(server: Running, client: frostline.Client) -> None:
    told = ask(server.server.http_url, "/v2/models/churn/schema").json
    own = client.schema("churn")
    assert [column["name"] for column in told["columns"]] == [column.name for column in own.columns]
    assert [column["kind"] for column in told["columns"]] == ["NUMBER", "CATEGORY", "DATE"]
    assert told["columns"][1]["categories"] == list(raw_rows.PLANS)
    assert told["example"] == {"tenure": 12.0, "plan": "basic", "signup": "2024-05-31"}
    assert told["reading"]["separator"] == ";"
    assert ask(server.server.http_url, "/v2/models/churn/versions/1/schema").json == told
    assert ask(server.server.http_url, "/v2/models/linear/schema").json["example"] is None
    assert predictions(server, "churn", [told["example"]])[0]["label"] == "no"


def test_a_label_that_nan_does_not_decide_is_null_and_costs_no_other_row(server: Running) -> None:
    told = predict(server, "multi-label", {"rows": [["NaN", 0.2, 0.9], [0.1, 0.2, 0.9]]}).json["predictions"]
    assert [row["labels"] for row in told] == [None, ["blue"]]
    assert told[0]["probabilities"] == {"red": "NaN", "green": 0.2, "blue": 0.9}


@pytest.mark.parametrize("task", ["regression", "multi-label", "binary", "embedding", "dense"])
def test_top_k_of_what_chooses_no_class_is_refused(server: Running, task: str) -> None:
    width = {"regression": 2, "binary": 1}.get(task, 3)
    rows = [[0.5] * width] if task != "dense" else [[[[0.5] * 3] * 2] * 2]
    assert "has no top_k; leave that out" in refusal(server, task, {"rows": rows, "top_k": 1})


def test_a_query_is_refused_where_it_would_be_ignored(server: Running) -> None:
    answer = ask(server.server.http_url, "/v2/models/linear/predict?version=1&top_k=1", {"rows": [[1, 2, 3, 4]]})
    assert answer.status == 400
    assert "the query 'version=1&top_k=1' has no meaning here" in answer.error


@pytest.mark.parametrize("broken", ["\n".join((B64[:60], B64[60:])), B64 + "\n", f" {B64}"])
def test_base64_may_be_broken_into_lines(server: Running, broken: str) -> None:
    expected = predict(server, "fruit", {"rows": [B64]}).json["predictions"]
    assert predict(server, "fruit", {"rows": [{"b64": broken}, broken]}).json["predictions"] == expected * 2


def test_base64_that_is_none_is_called_so(server: Running) -> None:
    assert "row 0: b64 is no base64" in refusal(server, "fruit", {"rows": [{"b64": "?"}]})


def test_what_is_refused_before_it_is_a_request_is_counted_too(server: Running) -> None:
    codes = "INVALID_ARGUMENT", "NOT_FOUND"
    before = [unrouted(server.metrics_url, code) for code in codes]
    predict(server, "churn", {"rows": [{"nothing": 1}]})
    predict(server, "linear", {"rows": "text"})
    predict(server, "nope", {"rows": [[1]]})
    after = [unrouted(server.metrics_url, code) for code in codes]
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)
