"""The remedies: what a refusal says to write, written into a model's folder.

Only words of the refusal decide what is written; elements come from the request that is to be answered.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.conformance import tensors
from bench.conformance.reference import Array, Tensors


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a refusal names.

    Attributes:
        config: the text of config.pbtxt; empty where none is named.
        files: content of further files, by their path in the model's folder.
    """

    config: str
    files: Mapping[str, bytes]

    def write(self, folder: Path) -> None:
        """Write it into a model's folder."""
        if self.config:
            (folder / "config.pbtxt").write_text(self.config, encoding="utf-8")
        for name, content in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


def named(reason: str, inputs: Tensors, outputs: Tensors) -> Remedy | None:
    """The remedy that a refusal names; None if it names none.

    Args:
        reason: the refusal.
        inputs: a request that ONNX Runtime answers, by name.
        outputs: its answer.
    """
    config: list[str] = []
    files: dict[str, bytes] = {}
    if "max_batch_size: 0" in reason or "model_warmup" in reason:
        # A request of the suite is whole, so a warm-up request made of it is too.
        config.append("max_batch_size: 0")
    if "declare its dims" in reason:
        config += [_declared(name, array) for name, array in outputs.items()]
    if "model_warmup" in reason:
        config.append(_warmup(inputs))
        files = {f"warmup/{number}": tensors.raw(array) for number, array in enumerate(inputs.values())}
    elif "golden.npz" in reason:
        files = {"1/golden.npz": _golden(inputs, outputs)}
    return Remedy("".join(f"{line}\n" for line in config), files) if config or files else None


def _declared(name: str, array: Array) -> str:
    dims = ", ".join("-1" for _ in array.shape)
    return f'output {{ name: "{name}" data_type: {_type(array)} dims: [ {dims} ] }}'


def _warmup(inputs: Tensors) -> str:
    given = [
        f'inputs {{ key: "{name}" value {{ data_type: {_type(array)} dims: [ {", ".join(map(str, array.shape))} ] '
        f'input_data_file: "{number}" }} }}'
        for number, (name, array) in enumerate(inputs.items())
    ]
    return f'model_warmup {{ name: "real" {" ".join(given)} }}'


def _golden(inputs: Tensors, outputs: Tensors) -> bytes:
    keys = {name: "input" if len(inputs) == 1 else f"input.{name}" for name in inputs}
    written = io.BytesIO()
    arrays = {keys[name]: array for name, array in inputs.items()} | {"logits": next(iter(outputs.values()))}
    np.savez(written, allow_pickle=False, rtol=np.array(1e-3), atol=np.array(1e-5), **arrays)
    return written.getvalue()


def _type(array: Array) -> str:
    name = tensors.datatype(array)
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"
