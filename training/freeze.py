"""Freeze a network into one ONNX file with a dynamic batch axis, that a stranger can read."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from training.errors import RefusedError, first_line

INPUT = "input"
OUTPUT = "logits"
OPSET = 20  # fixed, so that a new PyTorch does not silently ask for a newer runtime
_LARGEST_FILE = 2**31 - 1  # protobuf's limit; beyond it weights would need files of their own

# Enough rows that none is special-cased (a batch of 1 is), and a number no usual axis has by accident.
_TRACE_ROWS = 7


def freeze(network: nn.Module, sample: Tensor, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write `network`, in evaluation mode on the CPU, to `path`.

    The file has one input ``input`` and one output ``logits``, both with the same dynamic first axis.

    Args:
        network: Takes one tensor [N, ...], returns one [N, C].
        sample: Real rows [N, ...], N >= 2.
        path: The file to write; it need not be overwritten or removed on failure, that is the caller's folder.
        metadata: Goes into the file's `metadata_props`.

    Raises:
        RefusedError: The exporter cannot follow the network, or froze its batch axis.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > _LARGEST_FILE:
        raise RefusedError(
            f"the network's weights take {size / 2**30:.1f} GiB", cause="a network larger than one ONNX file, 2 GiB"
        )
    model = _export(network, sample[:_TRACE_ROWS])
    _check_axes(model, rows=min(len(sample), _TRACE_ROWS))
    _forget_where_it_was_made(model)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save_model(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RefusedError(
            f"the exported file is not valid ONNX: {first_line(error)}", cause="a fault in PyTorch's exporter"
        ) from error


def _export(network: nn.Module, sample: Tensor) -> onnx.ModelProto:
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (sample,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter runs the user's code under tracing: anything may come out
        innermost: BaseException = error
        while innermost.__cause__ is not None:
            innermost = innermost.__cause__
        text = first_line(innermost)
        raise RefusedError(f"PyTorch cannot export the network: {text}", cause=_why_not_exported(text)) from error
    assert program is not None  # noqa: S101 for the type checker: None is what the older exporter returns
    return program.model_proto


def _why_not_exported(text: str) -> str:
    if "data-dependent" in text:
        return "forward() decides in Python by the values of a tensor; use torch.where instead"
    if "No ONNX function" in text:
        return "an operator that ONNX does not have; write it with others"
    return "forward() does something that torch.export cannot follow"


def _check_axes(model: onnx.ModelProto, *, rows: int) -> None:
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    if names != [INPUT, OUTPUT]:
        raise RefusedError(
            f"the exported file has inputs and outputs {names}, not {[INPUT, OUTPUT]}",
            cause="forward() ignores its input or returns more than one tensor",
        )
    taken, given = (value.type.tensor_type.shape.dim for value in (model.graph.input[0], model.graph.output[0]))
    batch = taken[0].dim_param
    # The exporter does not complain when it freezes the axis it was asked to leave open: it only writes a number.
    if not batch or len(given) != 2 or given[0].dim_param != batch:
        raise RefusedError(
            f"the exported file takes or gives exactly {rows} rows: its batch axis is frozen",
            cause="forward() turns the number of rows into a Python number, or loops over the rows; "
            "use x.shape[0] only inside reshape, or flatten(1)",
        )


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    # The exporter notes source lines and stack traces, with the paths of this machine, on every node.
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    items: tuple[Any, ...] = (graph, *graph.node, *graph.initializer, *values)
    for item in items:
        del item.metadata_props[:]
        item.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    # What the exporter says is about its own inside; whether the file is right is measured afterwards.
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # "torchvision is not installed", dumps of half-traced graphs
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            # PyTorch 2.13 copies its own deprecated tree class while it exports.
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
