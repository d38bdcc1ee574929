"""Loads and unloads versions again and again in a process of its own, and tells how much memory it holds in between."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.model.loader import Loader
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import Repository
from frostline_server.runtime.devices import CPU
from tests.support import onnx_models


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wide() -> object:
    """A network of 4 MB: a leak of one version in each cycle would not stay hidden."""
    weights = np.random.default_rng(0).normal(size=(4, 1 << 18)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "up"], ["wide"]),
        helper.make_node("ReduceMean", ["wide", "axes"], ["mean"], keepdims=1),
        helper.make_node("Add", ["mean", "bias"], ["logits"]),
    ]
    constants = {"up": weights, "axes": np.array([1]), "bias": onnx_models.BIAS}
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def main(root: Path, cycles: int, failures: int) -> None:
    """Print one JSON object: bytes after 10 cycles, after all, and after the failed loads."""
    folder = onnx_models.write_artifact(root, "m", 1, wide())  # type: ignore[arg-type]  # helper.make_model is untyped
    repository = Repository()
    reconciler = Reconciler(
        root,
        repository,
        Loader([(CPU, {})], strict=True, threads=1, batching=Batching(8, (QueuePolicy(100),)), devices=0),
        explicit=True,
        on_change=lambda version: None,
        on_warning=lambda model, text: None,
    )
    held = {}
    for cycle in range(1, cycles + 1):
        reconciler.load_model("m")
        assert repository.ready_versions("m") == ["1"]
        reconciler.unload_model("m")
        if cycle == 10:
            held["first"] = resident()
    held["last"] = resident()
    with np.load(folder / "golden.npz") as archive:
        arrays = dict(archive)
    np.savez(folder / "golden.npz", **{**arrays, "logits": arrays["logits"] + 1})
    failed = 0
    for _ in range(failures):
        try:
            reconciler.load_model("m")
        except Exception:  # noqa: BLE001  counted below; anything else than a failure would show there
            failed += 1
    assert failed == failures
    held["failed"] = resident()
    assert reconciler.close(10)
    shutil.rmtree(root)
    sys.stdout.write(json.dumps(held))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
