"""The tracer: it sends one real sample through a network and records every layer it passes."""

# ruff: noqa: RUF001 - the pictures are written with the multiplication sign and Greek letters

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from frostline_training.evaluation.calibrate import Calibrated, Unweighted
from frostline_training.networks.families import Table

Shape = tuple[int, ...]

# Layers that are one idea to a reader though they are built from others.
_WHOLE = (nn.RNNBase, nn.MultiheadAttention, Table)
_CALIBRATED = (Calibrated, Unweighted)  # they stand around the network, and change what it gives

# Functions that a reader would call a layer or an activation. Everything else (reshapes, masks, indexing) is plumbing.
_FUNCTIONS: Mapping[str, str] = {
    "relu": "ReLU", "gelu": "GELU", "tanh": "Tanh", "sigmoid": "Sigmoid", "silu": "SiLU", "elu": "ELU",
    "leaky_relu": "LeakyReLU", "softmax": "Softmax", "max_pool1d": "max pool", "max_pool2d": "max pool",
    "avg_pool2d": "mean pool", "adaptive_avg_pool2d": "mean pool", "mean": "mean", "amax": "max", "sum": "sum",
    "cat": "join", "concat": "join", "scaled_dot_product_attention": "attention",
}  # fmt: skip
_ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")
_ACTIVATIONS = ("ReLU", "GELU", "Tanh", "Sigmoid", "SiLU", "ELU", "LeakyReLU", "Softmax", "PReLU", "Mish", "SELU")


@dataclass(frozen=True)
class Parameter:
    """Numbers that a layer holds: `kind` is weight, bias, or fixed (measured or chosen, not learnt)."""

    name: str
    shape: Shape
    kind: str

    @property
    def count(self) -> int:
        """How many numbers."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layer:
    """One layer, in the order of the calls.

    Attributes:
        name: Its path in the network, or that of the module in which the function was called.
        title: What it is, with its options: ``Conv2d 3x3``.
        kind: input, weights, recurrent, attention, embedding, table, norm, activation, dropout, pool, add, reshape or other.
        took: The shape of one row before it.
        gave: The shape of one row after it.
        parameters: What it holds.
        group: The path of the repeated part of the network that it belongs to, or "".
        takes: The index of the layer whose output it takes; None where it takes what the network was given.
        aside: Whether it depends on nothing that the network was given: learnt positions, say.
        skips_from: For an addition, the index of the layer whose output comes in past the others.
        joins: For a join, the indices of the layers whose outputs it takes besides that of `takes`.
        module: The layer itself, where it is one.
    """

    name: str
    title: str
    kind: str
    took: Shape
    gave: Shape
    parameters: tuple[Parameter, ...] = ()
    group: str = ""
    takes: int | None = None
    aside: bool = False
    skips_from: int | None = None
    joins: tuple[int, ...] = ()
    module: nn.Module | None = field(default=None, compare=False, repr=False)

    @property
    def count(self) -> int:
        """How many numbers it has learnt."""
        return sum(parameter.count for parameter in self.parameters if parameter.kind != "fixed")


def trace(network: nn.Module, sample: Sequence[Tensor]) -> tuple[Layer, ...]:
    """Send `sample`, one tensor [N, ...] for each argument, through `network` and return its layers.

    Weights that are used outside any layer (learnt positions, a class token) come as layers of their own.
    """
    noted = _Notes(network)
    training = network.training
    network.eval()
    try:
        noted.given(sample)
        with torch.no_grad(), noted.listening(), noted:
            network(*sample)
    finally:
        network.train(training)
    return tuple(noted.layers)


class _Notes(TorchFunctionMode):
    """The layers noted so far, and which of them each tensor comes from."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self._network = network
        self._names = {module: name for name, module in network.named_modules()}
        self._loose = {
            id(tensor): (name, tensor)
            for module, path in self._names.items()
            if not _is_layer(module) and not isinstance(module, _CALIBRATED)
            for name, tensor in _own(module, path)
        }
        self._stack: list[nn.Module] = []
        self._inside = 0
        # By id, and with the tensor itself, so that no id is given to another tensor meanwhile.
        self._origin: dict[int, tuple[int, Tensor]] = {}
        self._unused = dict(self._loose)
        self._kept: list[Tensor] = []
        self._live: dict[int, Tensor] = {}

    def given(self, sample: Sequence[Tensor]) -> None:
        """Remember what the network is given."""
        self._live = {id(tensor): tensor for tensor in sample}

    @contextmanager
    def listening(self) -> Iterator[None]:
        with ExitStack() as handles:
            for module in self._names:
                for handle in (
                    module.register_forward_pre_hook(self._enter, with_kwargs=True),
                    module.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
                ):
                    handles.callback(handle.remove)
            yield

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        del args, kwargs
        self._stack.append(module)
        self._inside += _is_layer(module)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self._stack.pop()
        if not _is_layer(module):
            if isinstance(module, _CALIBRATED) and isinstance(out, Tensor):
                if isinstance(module, Calibrated):
                    title, held = (
                        f"÷ temperature {module.temperature.item():.3g}, + bias",
                        Parameter("temperature", (), "fixed"),
                    )
                else:
                    title, held = "− log of the class weights", Parameter("offset", (), "fixed")
                place = len(self.layers) - 1
                self._note(Layer(self._names[module], title, "norm", _row(out), _row(out), (held,), takes=place), out)
            return
        self._inside -= 1
        if self._inside:
            return
        tensors = list(_tensors((*args, *kwargs.values())))
        if not tensors or next(_tensors(out), None) is None or _passes(module):
            return
        name = self._names[module]
        origins = [self._origin[id(tensor)][0] for tensor in tensors if id(tensor) in self._origin]
        live = any(id(tensor) in self._live for tensor in tensors)
        parameters = tuple(
            Parameter(own, tuple(tensor.shape), _kind(own, tensor))
            for own, tensor in (*module.named_parameters(), *module.named_buffers())
            if tensor.is_floating_point()
        )
        self._note(
            Layer(
                name,
                _title(module),
                _layer_kind(module, parameters),
                _row((*args, *kwargs.values())),
                _row(out),
                parameters,
                group=self._group(),
                takes=max(origins, default=None),
                aside=not live,
                module=module,
            ),
            *_tensors(out),
        )
        if live:
            self._live |= {id(tensor): tensor for tensor in _tensors(out)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        if self._inside:
            return out
        took = list(_tensors((args, tuple((kwargs or {}).values()))))
        origins = [self._origin[id(tensor)][0] for tensor in took if id(tensor) in self._origin]
        loose = next((self._loose[id(tensor)] for tensor in took if id(tensor) in self._loose), None)
        if any(id(tensor) in self._live for tensor in took):
            self._live |= {id(tensor): tensor for tensor in _tensors(out)}
        gave = [tensor for tensor in _tensors(out) if tensor.is_floating_point()]
        name = getattr(func, "__name__", "")
        if not gave or not took:
            return out
        if name in _ADDITIONS and loose is not None and id(loose[1]) in self._unused:
            self._note_loose(loose, took, gave[0], max(origins, default=None))
        elif name in _ADDITIONS and len(set(origins)) == 2:
            self._note(
                Layer(
                    self._path(),
                    "+",
                    "add",
                    _row(took[0]),
                    _row(gave[0]),
                    group=self._group(),
                    takes=max(origins),
                    skips_from=min(origins),
                ),
                gave[0],
            )
        elif name in _ADDITIONS and origins and any(_is_table(tensor, self._live) for tensor in took):
            self._note(
                Layer(
                    self._path(),
                    "+ fixed numbers for each position",
                    "norm",
                    _row(gave[0]),
                    _row(gave[0]),
                    group=self._group(),
                    takes=max(origins),
                ),
                gave[0],
            )
        elif name in _FUNCTIONS and origins:
            title = _FUNCTIONS[name]
            kind = "activation" if title in _ACTIVATIONS else "pool"
            shapes = _row(took[0]), _row(gave[0])
            last = max(origins)
            joins = tuple(sorted(set(origins) - {last})) if title == "join" else ()
            self._note(Layer(self._path(), title, kind, *shapes, group=self._group(), takes=last, joins=joins), gave[0])
        elif loose is not None and isinstance(loose[1], nn.Parameter) and not origins:
            # Part of a loose weight, a slice of the positions say: still the same weight.
            for tensor in gave:
                self._loose[id(tensor)] = loose
                self._kept.append(tensor)
        elif origins:
            for tensor in gave:
                self._origin.setdefault(id(tensor), (max(origins), tensor))
        return out

    def _note_loose(self, loose: tuple[str, Tensor], took: list[Tensor], gave: Tensor, takes: int | None) -> None:
        name, tensor = loose
        del self._unused[id(tensor)]
        short = name.rpartition(".")[2]
        self._note(
            Layer(
                name,
                f"+ {short}",
                "weights" if isinstance(tensor, nn.Parameter) else "norm",
                _row(took[0]),
                _row(gave),
                (Parameter(short, tuple(tensor.shape), _kind(short, tensor)),),
                self._group(),
                takes,
            ),
            gave,
        )

    def _note(self, layer: Layer, *gave: Tensor) -> None:
        self.layers.append(layer)
        for tensor in gave:
            self._origin[id(tensor)] = (len(self.layers) - 1, tensor)

    def _path(self) -> str:
        return self._names[self._stack[-1]] if self._stack else ""

    def _group(self) -> str:
        # The outermost module that stands in a list beside others of its own class, or alone, and is no layer itself.
        for module in self._stack:
            name = self._names[module]
            above, _, own = name.rpartition(".")
            if own.isdecimal() and not _is_layer(module) and not isinstance(module, nn.Sequential):
                listed = [type(other) for other in self._network.get_submodule(above).children()]
                if len(listed) == 1 or listed.count(type(module)) > 1:
                    return f"{name} ({type(module).__name__})"
        return ""


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, _WHOLE) or (not isinstance(module, _CALIBRATED) and next(module.children(), None) is None)


def _passes(module: nn.Module) -> bool:
    # What it gives is the very tensor that it takes.
    return isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0)


def _is_table(tensor: Tensor, live: Mapping[int, Tensor]) -> bool:
    # Positions made of sines, say: [1, T, F], of nothing that the network was given.
    return id(tensor) not in live and tensor.is_floating_point() and tensor.ndim >= 2 and min(tensor.shape[-2:]) > 1


def _own(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield f"{path}.{name}".lstrip("."), tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _row(value: Any) -> Shape:
    # Of the first tensor in `value`, without the axis of the batch; packed sequences have none, but steps.
    while isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        value = value[0]
    if isinstance(value, PackedSequence):
        return (len(value.batch_sizes), *value.data.shape[1:])
    return tuple(value.shape[1:])


def _kind(name: str, tensor: Tensor) -> str:
    if not isinstance(tensor, nn.Parameter):
        return "fixed"
    return "bias" if "bias" in name else "weight"


def _layer_kind(module: nn.Module, parameters: tuple[Parameter, ...]) -> str:
    name = type(module).__name__
    for kinds, kind in (
        ((nn.RNNBase,), "recurrent"),
        ((nn.MultiheadAttention,), "attention"),
        ((nn.Embedding, nn.EmbeddingBag), "embedding"),
        ((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout), "dropout"),
        ((nn.Flatten, nn.Unflatten, nn.Identity), "reshape"),
        ((Table,), "table"),
    ):
        if isinstance(module, kinds):
            return kind
    if "Norm" in name or (parameters and all(parameter.kind == "fixed" for parameter in parameters)):
        return "norm"
    if "Pool" in name:
        return "pool"
    if name in _ACTIVATIONS or type(module).__module__ == "torch.nn.modules.activation":
        return "activation"
    return "weights" if parameters else "other"


def _title(module: nn.Module) -> str:  # noqa: PLR0911 a table, one line for each kind
    name = type(module).__name__
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            stride = f", stride {_by(module.stride)}" if max(module.stride) > 1 else ""
            return f"{name} {_by(module.kernel_size)}{stride}"
        case nn.MaxPool2d() | nn.AvgPool2d() | nn.MaxPool1d() | nn.AvgPool1d():
            return f"{name} {_by(module.kernel_size)}"
        case nn.RNNBase():
            kind = name if name != "RNN" else f"RNN {getattr(module, 'nonlinearity', '')}".strip()
            depth = f" × {module.num_layers}" if module.num_layers > 1 else ""
            return f"{kind}{depth}{', both ways' if module.bidirectional else ''}"
        case nn.MultiheadAttention():
            return f"Attention, {module.num_heads} heads"
        case nn.Dropout():
            return f"Dropout {module.p:g}"
        case nn.Embedding():
            return "Embedding"
        case Table():
            return "the columns side by side"
    return name


def _by(size: Any) -> str:
    return "×".join(str(part) for part in size) if isinstance(size, tuple) else f"{size}×{size}"
