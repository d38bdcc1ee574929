"""The ONNX project's backend test suite: the cases that ONNX Runtime itself runs, with its answers.

A case is one small graph with one set of inputs. Cases with sequences, maps or optional values are left out, as the
protocol has only tensors; so are those that need a download.
"""

import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from bench.conformance.reference import Array, Reference, Refused, Tensors, likeness

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        name: its name, which is also the model's.
        kind: one of `KINDS`.
        model: the ONNX file.
        inputs: the suite's own, by name.
        outputs: ONNX Runtime's, by name.
        varies: whether ONNX Runtime answers differently from run to run, as with random numbers.
    """

    name: str
    kind: str
    model: bytes
    inputs: Tensors
    outputs: Tensors
    varies: bool


@dataclass(frozen=True, slots=True)
class Suite:
    """What was found.

    Attributes:
        cases: those that ONNX Runtime runs, by kind and name.
        skipped: how many were left out, by kind and reason.
    """

    cases: tuple[Case, ...]
    skipped: Counter[tuple[str, str]]


def load(
    keep: Callable[[str], bool] = lambda _: True, kinds: Sequence[str] = KINDS, operators: Iterable[str] = ()
) -> Suite:
    """Read the suite of the installed onnx, and run every case in ONNX Runtime.

    Args:
        keep: whether a case of this name is wanted.
        kinds: which kinds are.
        operators: modules of the kind "node" to read, such as `softmax`; all, which takes seconds, if none is named.
    """
    cases: list[Case] = []
    skipped: Counter[tuple[str, str]] = Counter()
    for kind in kinds:
        for found in sorted(_tests(kind, operators), key=lambda test: str(test.name)):
            if not keep(found.name):
                continue
            if found.model is None and found.model_dir is None:
                skipped[kind, "needs a download"] += 1
                continue
            model = found.model or onnx.load(Path(found.model_dir) / "model.onnx")
            tensors = [value.type.WhichOneof("value") for value in (*model.graph.input, *model.graph.output)]
            if any(each != "tensor_type" for each in tensors):
                skipped[kind, "an input or output is no tensor"] += 1
                continue
            try:
                cases.append(_case(found, kind, model))
            except Refused:
                skipped[kind, "ONNX Runtime does not run it"] += 1
    return Suite(tuple(cases), skipped)


def _tests(kind: str, operators: Iterable[str]) -> Sequence[Any]:
    with warnings.catch_warnings():
        # The suite computes with infinities on purpose.
        warnings.simplefilter("ignore")
        from onnx.backend.test import loader  # noqa: PLC0415  importing it is what makes cases
        from onnx.backend.test.case import node  # noqa: PLC0415  as above

        if kind != "node" or not (names := list(operators)):
            return loader.load_model_tests(kind=kind)
        for name in names:
            importlib.import_module(f"{node.__name__}.{name}")
        # The loader's own list, which it fills with all of them; another import may have added to it.
        known: Sequence[Any] = node._NodeTestCases  # noqa: SLF001
        return known


def _case(found: Any, kind: str, model: onnx.ModelProto) -> Case:
    written = model.SerializeToString()
    reference = Reference(written)
    arrays = [_array(value) for value in found.data_sets[0][0]] if found.data_sets else list(_stored(found.model_dir))
    inputs = dict(zip([value.name for value in model.graph.input], arrays, strict=False))
    outputs = reference.run(inputs)
    # More than once: two draws of random numbers may be the same.
    varies = any(likeness(reference.run(inputs), outputs) != "equal" for _ in range(3))
    return Case(found.name, kind, written, inputs, outputs, varies)


def _stored(folder: str) -> Iterator[Array]:
    files = (Path(folder) / "test_data_set_0").glob("input_*.pb")
    for file in sorted(files, key=lambda file: int(file.stem.rpartition("_")[2])):
        yield numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))


def _array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
