"""Broken models: twenty ways in which a model's folder is no good, and good models to stand among them."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.conformance.reference import Array

WIDTH = 256
"""Inputs, and classes, of a good model; its weights are 256 KiB."""


def weights(seed: int) -> Array:
    """Weights of a good model; small whole numbers, so that a product is exact in any order."""
    return np.random.default_rng(seed).integers(-8, 8, (WIDTH, WIDTH)).astype(np.float32)


def good(seed: int) -> onnx.ModelProto:
    """Rows `input` [rows, WIDTH] times weights, `logits` [rows, WIDTH]."""
    return _model([helper.make_node("MatMul", ["input", "weights"], ["logits"])], {"weights": weights(seed)})


def write_good(folder: Path, seed: int, version: int = 1) -> None:
    """Write a good model as one version of a model's folder: hidden first, renamed last."""
    hidden = folder / f".{version}"
    hidden.mkdir(parents=True)
    onnx.save(good(seed), hidden / "model.onnx")
    hidden.rename(folder / str(version))


def _truncated(folder: Path) -> None:
    _put(folder, good(0).SerializeToString()[:-1000])


def _empty(folder: Path) -> None:
    _put(folder, b"")


def _text(folder: Path) -> None:
    _put(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n")


def _other_message(folder: Path) -> None:
    _put(folder, numpy_helper.from_array(weights(0), "weights").SerializeToString())


def _missing_weights(folder: Path) -> None:
    model = good(0)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    _put(folder, model.SerializeToString())


def _unknown_operator(folder: Path) -> None:
    _put(folder, _model([helper.make_node("Frobnicate", ["input"], ["logits"])]).SerializeToString())


def _future_opset(folder: Path) -> None:
    model = good(0)
    model.opset_import[0].version = 999
    _put(folder, model.SerializeToString())


def _wrong_types(folder: Path) -> None:
    node = helper.make_node("Add", ["input", "one"], ["logits"])
    _put(folder, _model([node], {"one": np.array([1], np.int64)}).SerializeToString())


def _broken_card(folder: Path) -> None:
    write_good(folder, 0)
    (folder / "1/card.json").write_text('{"name": "broken", "labels": ["a", ', encoding="utf-8")


def _broken_golden(folder: Path) -> None:
    write_good(folder, 0)
    (folder / "1/golden.npz").write_bytes(b"PK\x03\x04 and nothing more")


def _wrong_sha256(folder: Path) -> None:
    write_good(folder, 0)
    (folder / "1/card.json").write_text(json.dumps({"sha256": "0" * 64}), encoding="utf-8")


def _wrong_labels(folder: Path) -> None:
    write_good(folder, 0)
    (folder / "1/card.json").write_text(json.dumps({"labels": ["ant", "bee", "cat"]}), encoding="utf-8")


def _config_garbage(folder: Path) -> None:
    write_good(folder, 0)
    (folder / "config.pbtxt").write_text("max_batch_size = {{ lots }}", encoding="utf-8")


def _config_contradicts(folder: Path) -> None:
    write_good(folder, 0)
    declared = 'input { name: "input" data_type: TYPE_INT64 dims: [ 7 ] }'
    (folder / "config.pbtxt").write_text(declared, encoding="utf-8")


def _config_names_missing_file(folder: Path) -> None:
    write_good(folder, 0)
    declared = f'output {{ name: "logits" data_type: TYPE_FP32 dims: [ {WIDTH} ] label_filename: "none.txt" }}'
    (folder / "config.pbtxt").write_text(declared, encoding="utf-8")


def _unreadable(folder: Path) -> None:
    write_good(folder, 0)
    file = folder / "1/model.onnx"
    if os.geteuid():
        file.chmod(0)
    else:
        # The superuser reads everything but a file that is not there.
        file.unlink()
        file.symlink_to("nowhere")


def _folder_for_file(folder: Path) -> None:
    (folder / "1/model.onnx").mkdir(parents=True)


def _link_loop(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "1").symlink_to("1")


def _fails_to_initialise(folder: Path) -> None:
    model = good(0)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    _put(folder, model.SerializeToString())


def _sequence(folder: Path) -> None:
    model = _model([helper.make_node("SequenceConstruct", ["input"], ["logits"])])
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows", WIDTH])
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(element))
    _put(folder, model.SerializeToString())


def _other_golden(folder: Path) -> None:
    write_good(folder, 0)
    rows = np.ones((4, WIDTH), np.float32)
    tolerances: dict[str, Any] = {"rtol": np.array(1e-4), "atol": np.array(1e-5)}
    np.savez(folder / "1/golden.npz", allow_pickle=False, input=rows, logits=rows @ weights(1) + 1, **tolerances)


WAYS: Mapping[str, Callable[[Path], None]] = {
    "truncated": _truncated,
    "empty": _empty,
    "text": _text,
    "other_message": _other_message,
    "missing_weights": _missing_weights,
    "unknown_operator": _unknown_operator,
    "future_opset": _future_opset,
    "wrong_types": _wrong_types,
    "broken_card": _broken_card,
    "broken_golden": _broken_golden,
    "wrong_sha256": _wrong_sha256,
    "wrong_labels": _wrong_labels,
    "config_garbage": _config_garbage,
    "config_contradicts": _config_contradicts,
    "config_names_missing_file": _config_names_missing_file,
    "unreadable": _unreadable,
    "folder_for_file": _folder_for_file,
    "link_loop": _link_loop,
    "fails_to_initialise": _fails_to_initialise,
    "sequence": _sequence,
    "other_golden": _other_golden,
}
"""Ways to break a model: each writes one into a folder that does not exist yet."""


def _put(folder: Path, content: bytes) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(content)


def _model(nodes: list[onnx.NodeProto], constants: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
