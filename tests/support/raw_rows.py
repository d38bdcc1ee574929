"""A version that takes raw rows: a table of a number, a category and a date, whose answers are known."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Cell = float | str

COLUMNS = ("tenure", "plan", "signup")
PLANS = ("basic", "pro", "zoë 🙂")
LABELS = ("no", "yes")
NEWEST = datetime(2024, 6, 1)  # noqa: DTZ001  as a card has it
WEIGHTS = np.array([[1, -1], [2, 0.5], [0.25, 1], [0.01, 0]], np.float32)

ROWS: Sequence[tuple[Cell, str, str]] = (
    (12.0, "basic", "2024-05-31"),
    (0.5, "pro", "2020-02-29"),
    (71.0, "zoë 🙂", "2019-01-02 23:30"),
    (-1.0, "basic", "2021-12-31T05:00+02:00"),
    (float("nan"), "pro", "2022-03-04"),
    (3.0, "", "2022-03-04"),
    (3.0, "NA", "2022-03-04"),
    (3.0, "platinum", "2022-03-04"),
    (3.0, "ba\x00sic", "2022-03-04"),
    (3.0, "  pro ", "2022-03-04"),
    (3.0, "pro", ""),
    (1e6, "pro", "1999-01-01"),
)
"""Known cells, missing ones, unknown ones, and some that lie outside of what training saw."""


def encoded(rows: Sequence[tuple[Cell, str, str]] = ROWS, plans: Sequence[str] = PLANS) -> Array:
    """The network's input for rows, float32 [N, 4]: written down anew, as training would."""
    return np.array([_encoded(*row, plans) for row in rows], np.float32).reshape(len(rows), 4)


def _encoded(tenure: Cell, plan: str, signup: str, plans: Sequence[str]) -> list[float]:
    index = [*plans].index(plan.strip()) + 1 if plan.strip() in plans else 0
    if not signup:
        return [float(tenure), index, np.nan, np.nan]
    moment = datetime.fromisoformat(signup)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return [float(tenure), index, moment.weekday(), (NEWEST - moment).total_seconds() / 86400]


def logits_of(numbers: Array, shift: float = 0.0) -> Array:
    """What the network computes: missing numbers count as 0."""
    result: Array = (np.nan_to_num(numbers).astype(np.float64) @ WEIGHTS.astype(np.float64) + shift).astype(np.float32)
    return result


def columns_of(rows: Sequence[tuple[Cell, str, str]] = ROWS) -> dict[str, Array]:
    """The columns [N] by name: numbers float64, texts as objects."""
    tenure, plan, signup = zip(*rows, strict=True)
    return {
        "tenure": np.array(tenure, np.float64),
        "plan": np.array(plan, object),
        "signup": np.array(signup, object),
    }


def preprocessing(plans: Sequence[str] = PLANS, names: Sequence[str] = COLUMNS) -> onnx.ModelProto:
    """The graph from the columns to the network's input."""
    tenure_name, plan_name, signup_name = names
    weekday, age_days = f"{signup_name}.weekday", f"{signup_name}.age_days"
    nodes = [
        helper.make_node(
            "LabelEncoder",
            [plan_name],
            ["plan_index"],
            domain="ai.onnx.ml",
            keys_strings=list(plans),
            values_floats=[float(index) for index in range(1, len(plans) + 1)],
            default_float=0.0,
        ),
        helper.make_node("Concat", [tenure_name, "plan_index", weekday, age_days], ["input"], axis=1),
    ]
    number = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1])
        for name in (tenure_name, weekday, age_days)
    ]
    plan = helper.make_tensor_value_info(plan_name, TensorProto.STRING, ["batch", 1])
    graph = helper.make_graph(
        nodes, "preprocessing", [number[0], plan, *number[1:]],
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def network(shift: float = 0.0) -> onnx.ModelProto:
    """Input `input` [batch, 4] to logits [batch, 2], a missing number as 0."""
    nodes = [
        helper.make_node("IsNaN", ["input"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "input"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["logits"]),
    ]
    constants = {"zero": np.float32(0), "weights": WEIGHTS, "shift": np.float32(shift)}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def rows_card(plans: Sequence[str] = PLANS, names: Sequence[str] = COLUMNS) -> dict[str, Any]:
    """What the card says of the columns."""
    tenure, plan, signup = names
    return {
        "file": "preprocessing.onnx",
        "missing": ["", "NA", "?"],
        "columns": [
            {"name": tenure, "kind": "number", "lowest": -1.0, "highest": 71.0, "share_missing": 0.1,
             "edges": [1.0, 10.0], "shares": [0.25, 0.25, 0.5]},
            {"name": plan, "kind": "category", "categories": list(plans), "shares": [1 / len(plans)] * len(plans)},
            {"name": signup, "kind": "date", "format": "iso", "lowest": "2019-01-02T23:30:00", "highest": "2024-05-31T00:00:00",
             "parts": [{"part": "weekday"}, {"part": "age_days", "relative_to": NEWEST.isoformat()}]},
        ],
        "example": {tenure: 12.0, plan: "basic", signup: "2024-05-31"},
        "reading": {"separator": ";", "encoding": "utf-8", "decimal": ",", "thousands": "", "missing": ["", "NA", "?"]},
    }  # fmt: skip


def write(
    root: Path,
    name: str = "churn",
    version: int = 1,
    *,
    plans: Sequence[str] = PLANS,
    shift: float = 0.0,
    card: Mapping[str, Any] | None = None,
    graph: onnx.ModelProto | None = None,
    names: Sequence[str] = COLUMNS,
) -> Path:
    """Write models/<name>/<version>/ as a training job publishes it; returns that folder.

    Args:
        root: the folder of models.
        name: the model's name.
        version: its number.
        plans: the categories that training knew.
        shift: moves the logits.
        card: takes the place of keys of the card's `rows`.
        graph: takes the place of preprocessing.onnx.
        names: of the columns.
    """
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    files = {"model.onnx": network(shift), "preprocessing.onnx": graph or preprocessing(plans, names)}
    written = {file: model.SerializeToString() for file, model in files.items()}
    for file, content in written.items():
        (folder / file).write_bytes(content)
    numbers, columns = encoded(plans=plans), dict(zip(names, columns_of().values(), strict=True))
    arrays: dict[str, Any] = {
        "input": numbers[:4],
        "logits": logits_of(numbers[:4], shift),
        "rtol": np.float64(1e-4),
        "atol": np.float64(1e-4),
        "rows_logits": logits_of(numbers, shift),
        **{f"rows.{column}": np.array(cells.tolist()) for column, cells in columns.items()},
    }
    np.savez(folder / "golden.npz", **arrays)
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in written.items()}
    about = {
        "name": name,
        "version": version,
        "sha256": digests.pop("model.onnx"),
        "files": digests,
        "labels": list(LABELS),
        "task": "single-label",
        "rows": {**rows_card(plans, names), **(card or {})},
    }
    (folder / "card.json").write_text(json.dumps(about), encoding="utf-8")
    return folder
