"""The tensors of a model configuration, checked against the graph's signature.

The result is the signature that clients see.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError
from frostline_server.runtime.signature import Shape, Signature, TensorSpec

Declared = model_config_pb2.ModelInput | model_config_pb2.ModelOutput


def agreed(signature: Signature, config: model_config_pb2.ModelConfig) -> Signature:
    """The graph's signature, changed where the configuration declares something else.

    Whether there is a batch axis: yes if `max_batch_size` is above 0, no if it is given as 0. If it is not given, the
    answer is no if a tensor is declared with as many dims as the graph has; otherwise the graph decides.

    Raises:
        LoadError: they contradict each other; the message says what was expected and what the graph has.
    """
    inputs = _by_name("input", config.input, signature.inputs)
    outputs = _by_name("output", config.output, signature.outputs)
    missing = [spec.name for spec in signature.inputs if inputs and spec.name not in inputs]
    if missing:
        raise LoadError(f"config.pbtxt declares the inputs {list(inputs)}, but the graph also takes {missing}")
    batched = _batched(signature, config, {**inputs, **outputs})
    offered = [spec for spec in signature.outputs if not outputs or _offered(spec, outputs, signature)]
    return replace(
        signature,
        inputs=tuple(_agree("input", spec, signature, inputs.get(spec.name), batched) for spec in signature.inputs),
        outputs=_with_heads(
            signature,
            tuple(_agree("output", spec, signature, outputs.get(spec.client_name), batched) for spec in offered),
            batched,
        ),
        own_outputs=tuple(spec.name for spec in offered if spec.client_name in outputs) or signature.own_outputs,
        batched=batched,
    )


def complete(config: model_config_pb2.ModelConfig, signature: Signature, device: str) -> None:
    """Fill in what a configuration does not declare: every tensor, and the device.

    Args:
        config: the model's own configuration with its name, changed in place.
        signature: of the loaded model.
        device: where it runs, such as cpu or cuda:0.
    """
    if not config.instance_group:
        kind, _, index = device.partition(":")
        group = config.instance_group.add(name=f"{config.name}_0", count=1)
        group.kind = group.KIND_GPU if kind == "cuda" else group.KIND_CPU
        group.gpus.extend([int(index)] if index else [])
    labels = {output.name: output.label_filename for output in config.output}
    del config.input[:]
    del config.output[:]
    for spec in signature.inputs:
        _fill(config.input.add(name=spec.name), spec)
    for spec in signature.outputs:
        _fill(config.output.add(name=spec.client_name, label_filename=labels.get(spec.client_name, "")), spec)


def _fill(declared: Declared, spec: TensorSpec) -> None:
    declared.data_type = data_type(spec)  # type: ignore[assignment]  # the stub wants the enum, which is a number
    declared.dims.extend(protocol_shape(spec))
    if spec.reshape is not None:
        declared.reshape.SetInParent()
        declared.reshape.shape.extend(-1 if size is None else size for size in spec.reshape)


def protocol_shape(spec: TensorSpec) -> list[int]:
    """`shape` as the protocol writes it: -1 is an axis of any size, and [-1] is also a tensor of any shape."""
    return [-1 if size is None else size for size in spec.shape] if spec.ranked else [-1]


def data_type(spec: TensorSpec) -> int:
    """A tensor's element type as a configuration spells it."""
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return model_config_pb2.DataType.Value(f"TYPE_{name}")


def type_name(number: int) -> str:
    """The name of an element type, or its number if it is not a known type."""
    return {known: name for name, known in model_config_pb2.DataType.items()}.get(number, str(number))


def _offered(spec: TensorSpec, outputs: Iterable[str], signature: Signature) -> bool:
    """The outputs that clients may request: as in Triton those declared, and always the appended heads."""
    heads = signature.heads
    always = heads is not None and spec.name in (heads.logits, heads.softmax, heads.argmax)
    return spec.client_name in outputs or always


def _with_heads(signature: Signature, outputs: tuple[TensorSpec, ...], batched: bool) -> tuple[TensorSpec, ...]:
    """Give the appended heads the shape of their logits."""
    heads = signature.heads
    if heads is None:
        return outputs
    logits = next(spec.graph_shape for spec in outputs if spec.name == heads.logits)
    lead = 0 if batched else 1
    shapes = {heads.softmax: logits, heads.argmax: logits[:lead] + logits[lead + 1 :]}
    return tuple(
        replace(spec, shape=shapes[spec.name]) if spec.name in shapes and spec.name != heads.logits else spec
        for spec in outputs
    )


def _by_name(kind: str, declared: Iterable[Declared], specs: Iterable[TensorSpec]) -> dict[str, Declared]:
    known = [spec.client_name for spec in specs]
    by_name: dict[str, Declared] = {}
    for tensor in declared:
        if tensor.name not in known:
            raise LoadError(f"config.pbtxt names the {kind} '{tensor.name}', but the graph has {known}")
        if tensor.name in by_name:
            raise LoadError(f"config.pbtxt names the {kind} '{tensor.name}' twice")
        by_name[tensor.name] = tensor
    return by_name


def _batched(signature: Signature, config: model_config_pb2.ModelConfig, declared: dict[str, Declared]) -> bool:
    specs = [*signature.inputs, *signature.outputs]
    if config.max_batch_size > 0:
        fixed = [
            f"'{spec.client_name}' {_text(_whole(spec, signature))}"
            for spec in specs
            if spec.ranked and _whole(spec, signature)[:1] != (None,)
        ]
        if fixed or not signature.inputs:
            raise LoadError(
                f"config.pbtxt sets max_batch_size {config.max_batch_size}, but the graph has no free batch axis on every input "
                f"and output: {', '.join(fixed) or 'it takes no input'}; write max_batch_size: 0 to serve it "
                "without a batch axis"
            )
        return True
    if config.HasField("max_batch_size"):
        return False
    whole = [
        spec
        for spec in specs
        if spec.client_name in declared
        and spec.ranked
        and len(_dims(declared[spec.client_name])[1]) == len(_whole(spec, signature)) > 0
    ]
    return signature.batched and not whole


def _whole(spec: TensorSpec, signature: Signature) -> Shape:
    """The graph's shape with the batch axis."""
    return (None, *spec.shape) if signature.batched else spec.shape


def _dims(declared: Declared) -> tuple[Shape, Shape]:
    """The declared shape for clients, and the declared shape for the graph."""
    dims = tuple(None if size == -1 else size for size in declared.dims)
    if not declared.HasField("reshape"):
        return dims, dims
    return dims, tuple(None if size == -1 else size for size in declared.reshape.shape)


def _agree(kind: str, spec: TensorSpec, signature: Signature, declared: Declared | None, batched: bool) -> TensorSpec:
    whole = _whole(spec, signature)
    if not spec.ranked and (declared is None or not declared.dims):
        if batched:
            raise LoadError(
                f"config.pbtxt sets max_batch_size, but the graph does not say the shape of the {kind} '{spec.client_name}'; "
                "declare its dims in config.pbtxt"
            )
        if declared is not None:
            _check_type(kind, spec, declared)
        return spec
    graph = whole[1:] if batched else whole
    if declared is None:
        return replace(spec, shape=graph)
    _check_type(kind, spec, declared)
    dims, own = _dims(declared)
    if any(size is not None and size < 0 for size in (*dims, *own)):
        raise LoadError(
            f"config.pbtxt declares the {kind} '{spec.client_name}' with dims {_text(dims)}; only -1 stands for any size"
        )
    if not dims and not declared.HasField("reshape"):
        return replace(spec, shape=graph)
    if dims == (1,) and graph == () and spec.ranked:
        # A scalar has no dims to write; Triton's own completion of a configuration writes this.
        own = ()
    if spec.ranked and not _fits(own, graph):
        batch = " without the batch axis" if batched else ""
        declared_as = f"{_text(own)}, by its reshape," if declared.HasField("reshape") else _text(own)
        raise LoadError(
            f"config.pbtxt declares the {kind} '{spec.client_name}' as {declared_as} but the graph has {_text(graph)}{batch}"
        )
    if own == dims:
        # For an input the narrower size counts; for an output the declared one, because graphs are sometimes wrong.
        return replace(spec, shape=_narrowed(dims, graph) if kind == "input" and spec.ranked else dims, ranked=True)
    heads = signature.heads
    if heads is not None and spec.name != heads.logits and spec.name in (heads.softmax, heads.argmax):
        raise LoadError(
            f"config.pbtxt reshapes '{spec.client_name}', which this server adds to the network and cannot reshape"
        )
    if _pieces(dims) != _pieces(own):
        raise LoadError(
            f"config.pbtxt reshapes the {kind} '{spec.client_name}' from {_text(dims)} to {_text(own)}, which have different numbers of "
            "elements"
        )
    return replace(spec, shape=dims, reshape=own, ranked=True)


def _check_type(kind: str, spec: TensorSpec, declared: Declared) -> None:
    if declared.data_type not in (model_config_pb2.TYPE_INVALID, data_type(spec)):
        raise LoadError(
            f"config.pbtxt declares the {kind} '{spec.client_name}' as {type_name(declared.data_type)}, but the graph has "
            f"{type_name(data_type(spec))}"
        )


def _fits(declared: Shape, graph: Shape) -> bool:
    return len(declared) == len(graph) and all(
        None in (want, have) or want == have for want, have in zip(declared, graph, strict=True)
    )


def _narrowed(declared: Shape, graph: Shape) -> Shape:
    return tuple(have if want is None else want for want, have in zip(declared, graph, strict=True))


def _pieces(shape: Shape) -> list[int]:
    """Numbers of elements between axes of any size; two shapes hold the same elements if these are equal."""
    pieces: list[list[int]] = [[]]
    for size in shape:
        if size is None:
            pieces.append([])
        else:
            pieces[-1].append(size)
    return [math.prod(piece) for piece in pieces]


def _text(shape: Shape) -> str:
    return "[" + ", ".join("-1" if size is None else str(size) for size in shape) + "]"
