"""Versions that take texts or pictures as they are, whose answers are known."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

TEXT_BYTES = 8
TEXTS: Sequence[str] = (
    "great",
    "",
    " NA ",
    "a\x00b",
    "\N{FOX FACE}",
    "  spaced ",
    "abcdefgh",
    "abcdefghi",
    "abcdefg\N{FOX FACE}",
)
"""Plain ones, missing ones, a NUL, an emoji, spaces, one as long as counts, a longer one, one cut within a character."""


def text_bytes(texts: Sequence[str] = TEXTS, size: int = TEXT_BYTES) -> Array:
    """What training makes of texts, uint8 [N, `size`], written down anew."""
    rows = np.zeros((len(texts), size), np.uint8)
    for row, text in enumerate(texts):
        content = b"" if text.strip() in ("", "NA") else text.strip().encode()
        for at, byte in enumerate(content[:size]):
            rows[row, at] = byte
    return rows


def logits_of(rows: Array) -> Array:
    """What the network computes of rows [N, ...]: a sum of all numbers, each with a weight of its own."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    return (flat @ _weights(flat.shape[1]).astype(np.float64)).astype(np.float32)


def _weights(size: int) -> Array:
    return np.random.default_rng(0).uniform(-1 / size, 1 / size, (size, 2)).astype(np.float32)


def network(shape: Sequence[int], dtype: int) -> onnx.ModelProto:
    """Input `input` [batch, *shape] to logits [batch, 2]."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("Cast", ["flat"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["numbers", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", dtype, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(_weights(int(np.prod(shape))), "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def write_texts(root: Path, name: str = "mood", version: int = 1, card: Mapping[str, Any] | None = None) -> Path:
    """Write a version that takes texts, and return its folder; `card` takes the place of what the card says of the column."""
    column = {"name": "text", "kind": "text", "bytes": TEXT_BYTES, "share_missing": 0.1, **(card or {})}
    rows = {"missing": ["", "NA"], "columns": [column], "example": {"text": "great"}}
    raw = {"rows.text": np.array(TEXTS), "rows_logits": logits_of(text_bytes())}
    return write(root, name, version, network([TEXT_BYTES], TensorProto.UINT8), text_bytes()[:4], raw, rows)


def write(
    root: Path,
    name: str,
    version: int,
    model: onnx.ModelProto,
    inputs: Array,
    raw: Mapping[str, Any],
    rows: Mapping[str, Any],
) -> Path:
    """Write models/<name>/<version>/ as a training job publishes it; return that folder."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    tolerances: dict[str, Any] = {"rtol": np.float64(1e-4), "atol": np.float64(1e-4)}
    np.savez(folder / "golden.npz", input=inputs, logits=logits_of(inputs), **tolerances, **raw)
    about = {
        "name": name,
        "version": version,
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels": ["no", "yes"],
        "task": "single-label",
        "rows": rows,
    }
    (folder / "card.json").write_text(json.dumps(about), encoding="utf-8")
    return folder
