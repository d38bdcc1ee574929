"""The ONNX export: a network as one file with a dynamic batch axis, and a dynamic time axis where it has one."""

import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx_ir.passes.common import NameFixPass
from onnxscript.rewriter._pattern_ir import Constant
from onnxscript.rewriter.rules.common import _no_op
from torch import Tensor, nn

from frostline_training.errors import RefusedError, first_line, told_line
from frostline_training.publishing.calling import Caller, Exported, by_position

Axes = Mapping[str, Mapping[int, str]]
"""The open axes of inputs other than the first axis: input's name -> axis -> the axis' name."""

BATCH = "batch"
OPSET = 20  # fixed, so that a new PyTorch does not silently ask for a newer runtime
_LARGEST_FILE = 2**31 - 1  # protobuf's limit; beyond it weights would need files of their own

# Enough rows that none is special-cased (a batch of 1 is), and a number no usual axis has by accident.
_TRACE_ROWS = 7


def freeze(
    network: nn.Module,
    sample: Mapping[str, Tensor],
    path: Path,
    *,
    call: Caller = by_position,
    outputs: Sequence[str] = ("logits",),
    sigmoid: bool = False,
    metadata: Mapping[str, str],
    dynamic: Axes = MappingProxyType({}),
) -> None:
    """Write `network`, in evaluation mode on the CPU, to `path`.

    The file has the sample's inputs and the network's outputs, all with the same dynamic first axis.

    Args:
        network: Takes the sample's tensors [N, ...], returns one or more [N, ...].
        sample: Real rows [N, ...], N >= 2, by the input's name.
        path: The file to write; it need not be overwritten or removed on failure, that is the caller's folder.
        call: Calls the network as its user does.
        outputs: The names of the file's outputs.
        sigmoid: Whether the last of them is the sigmoid of the first.
        metadata: Goes into the file's `metadata_props`.
        dynamic: Further axes that stay open.

    Raises:
        RefusedError: The exporter cannot follow the network, or froze an axis; or the file would draw random numbers.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > _LARGEST_FILE:
        raise RefusedError(
            f"the network's weights take {size / 2**30:.1f} GiB", cause="a network larger than one ONNX file, 2 GiB"
        )
    traced = {name: tensor[:_TRACE_ROWS] for name, tensor in sample.items()}
    model = _export(
        Exported(network, tuple(traced), call, outputs[0], sigmoid=sigmoid).eval(), traced, outputs, dynamic
    )
    _check_axes(model, traced, outputs, dynamic)
    _check_random(model.graph)
    _forget_where_it_was_made(model)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save_model(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RefusedError(
            f"the exported file is not valid ONNX: {first_line(error)}", cause="a fault in PyTorch's exporter"
        ) from error


def troublesome_layer(network: nn.Module) -> str:
    """Say which layer of `network` is known to come out of the export as another one, and what to do; "" if none is."""
    for part in network.modules():
        if isinstance(part, nn.LSTM) and part.proj_size:
            return "nn.LSTM with proj_size, which ONNX's LSTM does not have; put an nn.Linear behind one without it"
        if isinstance(part, nn.TransformerEncoder) and part.enable_nested_tensor:
            return (
                "nn.TransformerEncoder, which without gradients makes padded steps 0 (nested tensors), and with them, or "
                "exported, does not; build it with enable_nested_tensor=False"
            )
    return ""


def rounded_number(path: Path) -> str:
    """Say which Python number a file of float64 alone has as a rounded one, and what to do; "" if it has none.

    The exporter takes Python numbers through single precision.
    """
    graph = onnx.load_model(path, load_external_data=False).graph
    numbers = [tensor for tensor in graph.initializer if tensor.data_type in _FLOATS]
    kinds = {tensor.data_type for tensor in numbers} | {
        value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)
    }
    casts = {attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute}
    if (kinds | casts) & _FLOATS != {onnx.TensorProto.DOUBLE}:
        return ""
    for tensor in numbers:
        value = float(numpy_helper.to_array(tensor).ravel()[0]) if not tensor.dims else 0.0
        # As a decimal number it is what somebody wrote, or near it; a half or a hundred are the same in both.
        written = np.float32(value)
        if float(written) == value != float(str(written)):
            return (
                f"a Python number, about {written!s}, which the exporter rounds to single precision in a float64 network; write "
                "it as a tensor: torch.tensor(number, dtype=torch.float64)"
            )
    return ""


def last_operators(path: Path, output: str) -> frozenset[str]:
    """Return the operators that compute an output of a file, those aside that only move, join or limit its numbers.

    There are several where parts are joined. The logarithm of a softmax or sigmoid is ``LogSoftmax`` or ``LogSigmoid``
    however it is written.
    """
    graph = onnx.load_model(path, load_external_data=False).graph
    producers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    for node in _makers(producers, output):
        inner = {maker.op_type for maker in _makers(producers, node.input[0])} if node.op_type == "Log" else set()
        found |= {f"Log{each}" for each in inner & {"Softmax", "Sigmoid"}} or {node.op_type}
    return frozenset(found)


def _makers(producers: Mapping[str, onnx.NodeProto], output: str) -> Iterator[onnx.NodeProto]:
    names, seen = [output], set()
    while names:
        name = names.pop()
        node = producers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == "Concat":
            names += node.input
        elif node.op_type in _MOVES:
            names.append(node.input[0])
        else:
            yield node


_FLOATS = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
)
_MOVES = frozenset(
    (
        *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Pad"),
        *("Slice", "Gather", "Split", "Clip"),  # of some of the numbers, or limited ones
    )
)


def _export(network: Exported, sample: Mapping[str, Tensor], outputs: Sequence[str], dynamic: Axes) -> onnx.ModelProto:
    open_axes = {name: torch.export.Dim(name, min=1) for name in (BATCH, *_axis_names(dynamic))}
    shapes = tuple(
        {0: open_axes[BATCH]} | {axis: open_axes[called] for axis, called in dynamic.get(name, {}).items()}
        for name in sample
    )
    _keep_small_constants()
    try:
        with _quiet(), _recurrent_layers_as_new(network):
            program = torch.onnx.export(
                network,
                (tuple(sample.values()),),
                input_names=list(sample),
                output_names=list(outputs),
                dynamic_shapes=(shapes,),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter runs the user's code under tracing: anything may come out
        innermost: BaseException = error
        while innermost.__cause__ is not None:
            innermost = innermost.__cause__
        text = first_line(innermost)
        raise RefusedError(
            f"PyTorch cannot export the network: {text}", cause=_why_not_exported(network.network, error)
        ) from error
    assert program is not None  # noqa: S101 for the type checker: None is what the older exporter returns
    # The exporter also names values inside the graph, such as "embedding" after its operator. The public names stay.
    NameFixPass()(program.model)
    return program.model_proto


def _why_not_exported(network: nn.Module, error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    # A padded one goes through these layers; what fails in them is a packed one.
    if "pack_padded_sequence" in text or "pad_packed_sequence" in text or "nn/modules/rnn.py" in text:
        return (
            "packed sequences, whose lengths are read in Python; run the padded steps through the layer, and take the "
            "last valid one: steps[torch.arange(steps.shape[0], device=steps.device), lengths - 1]"
        )
    if layer := troublesome_layer(network):
        return layer
    if "data-dependent" in text or "DataDependent" in text:
        return "forward() decides in Python by the values of a tensor; use torch.where instead"
    if "only 4D query" in text:
        return "scaled_dot_product_attention without an axis of heads; give it [N, heads, T, D], heads may be 1"
    if "No ONNX function" in text:
        where = _where(error)
        remedy = next(
            (instead for name, instead in _INSTEAD.items() if f"'aten.{name}'" in text), "write it with others"
        )
        return f"an operator that ONNX does not have{f', in {where}' if where else ''}; {remedy}"
    return "forward() does something that torch.export cannot follow"


_INSTEAD = dict.fromkeys(
    ("median", "nanmedian", "kthvalue"),
    "x.sort(axis).values has the numbers in order, of which the middle one is the median",
)
"""What to write in place of some operators, by their names."""


def _where(error: BaseException | None) -> str:
    """Return the line of the user's code that an operator which cannot be exported comes from; "" if nothing says it."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            node = frame.f_locals.get("node")
            trace = node.meta.get("stack_trace") if isinstance(node, torch.fx.Node) else None
            places = _PLACE.findall(trace or "")
            if places:
                return told_line(*places[-1])
        error = error.__cause__
    return ""


_PLACE = re.compile(r'File "([^"]+)", line (\d+), in .*\n(.*)')


def _check_axes(model: onnx.ModelProto, sample: Mapping[str, Tensor], outputs: Sequence[str], dynamic: Axes) -> None:
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    if names != [*sample, *outputs]:
        raise RefusedError(
            f"the exported file has inputs and outputs {names}, not {[*sample, *outputs]}",
            cause="forward() ignores an input, or answers with it or with the same tensor twice",
        )
    taken, given = (
        [value.type.tensor_type.shape.dim for value in values] for values in (model.graph.input, model.graph.output)
    )
    # The exporter does not complain when it freezes an axis it was asked to leave open: it only writes a number.
    batch = taken[0][0].dim_param
    if not batch or any(not shape or shape[0].dim_param != batch for shape in (*taken, *given)):
        raise RefusedError(
            f"the exported file takes or gives exactly {len(next(iter(sample.values())))} rows: its batch axis is frozen",
            cause="forward() turns the number of rows into a Python number, as len(x) and int(x.shape[0]) do, or loops over "
            "the rows; use x.shape[0] as it is, as in reshape(x.shape[0], -1) or torch.arange(x.shape[0]), or flatten(1)",
        )
    for (name, tensor), shape in zip(sample.items(), taken, strict=True):
        for axis, called in dynamic.get(name, {}).items():
            if not shape[axis].dim_param:
                raise RefusedError(
                    f"the exported file takes exactly {tensor.shape[axis]} along axis {axis} of {name}: its {called} axis is "
                    "frozen",
                    cause=f"forward() turns the length of the {called} axis into a Python number, or loops over it "
                    "(which nn.RNN does when it is exported; nn.GRU and nn.LSTM do not)",
                )


def _check_random(graph: onnx.GraphProto) -> None:
    """Refuse what draws random numbers, however little they change an answer: the sample's runs may agree by chance."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        training = constants.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
        if node.op_type in _RANDOM or (training is not None and numpy_helper.to_array(training).any()):
            raise RefusedError(
                f"the exported file draws random numbers (its operator {node.op_type}): equal rows may get different answers",
                cause="dropout or other randomness that stays on in evaluation mode, as F.dropout(x, p) does without "
                "training=self.training; or noise of size 0, which is to be left out",
            )
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _check_random(inner)


_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


def _axis_names(dynamic: Axes) -> list[str]:
    return sorted({called for axes in dynamic.values() for called in axes.values()})


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    # The exporter notes source lines and stack traces, with the paths of this machine, on every node.
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    items: tuple[Any, ...] = (graph, *graph.node, *graph.initializer, *values)
    for item in items:
        del item.metadata_props[:]
        item.doc_string = ""


def _keep_small_constants() -> None:
    # onnxscript takes any number up to 1e-8 for 0, and leaves out what adds it: such as what keeps a division from one by 0.
    for rule in _no_op.rules:
        for node in rule._target_pattern:  # noqa: SLF001 nothing public says it
            for constant in node.inputs:
                if isinstance(constant, Constant):
                    constant._abs_tol = constant._rel_tol = 0.0  # noqa: SLF001 as above


@contextmanager
def _recurrent_layers_as_new(network: nn.Module) -> Iterator[None]:
    # PyTorch 2.13 keeps two things of a recurrent layer beyond its export: that it is to be taken apart step by step,
    # with which the next export would freeze the number of steps and the next training run them one by one in Python;
    # and the compiled loop over the steps of one length, which the next export would take as its own.
    _forget_dispatches()
    if any(isinstance(part, nn.RNNBase) for part in network.modules()):
        torch.compiler.reset()
    try:
        yield
    finally:
        _forget_dispatches()


def _forget_dispatches() -> None:
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            # Private, so another PyTorch may not have it. It is only a cache: PyTorch looks up again what is not in it.
            getattr(getattr(packet, overload), "_dispatch_cache", {}).clear()


@contextmanager
def _quiet() -> Iterator[None]:
    # What the exporter says is about its own inside; whether the file is right is measured afterwards.
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # "torchvision is not installed", dumps of half-traced graphs
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
