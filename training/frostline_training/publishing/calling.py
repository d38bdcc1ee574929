"""How a network is called: a sample is bound to the arguments of forward() as Python would bind it.

The proof compares a file with ``module(sample)``, or ``module(**sample)``, exactly as a user would write it.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frostline_training.data import INPUT
from frostline_training.errors import PublishError, first_line

Sample = Tensor | Mapping[str, Tensor]
Tensors = dict[str, Tensor]
Caller = Callable[[nn.Module, Mapping[str, Tensor]], object]
"""Calls a network with its inputs by name."""

_STARS: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_BY_POSITION = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
_BY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def by_position(network: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Call a network of one input: ``network(tensor)``."""
    (tensor,) = inputs.values()
    return network(tensor)


def by_name(network: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """Call a network of several inputs: ``network(**inputs)``."""
    return network(**inputs)


def original(module: object) -> nn.Module:
    """Return the module that a compiled or parallel one calls; it shares its weights.

    Raises:
        PublishError: It is no module at all.
    """
    while isinstance(module, nn.Module):
        if isinstance(module, torch.jit.ScriptModule):
            raise PublishError(
                "the network is TorchScript, which is not exported; publish the module that it was made of"
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            compiled = getattr(module, "_orig_mod", None)
            if not isinstance(compiled, nn.Module):
                return module
            module = compiled
    raise PublishError(
        f"the network is a {type(module).__name__}, not a torch.nn.Module; put it into the forward() of one"
    )


def arguments(module: nn.Module) -> list[str]:
    """Return the names of the arguments of the module's forward()."""
    return [
        name for name, argument in inspect.signature(module.forward).parameters.items() if argument.kind in _BY_NAME
    ]


def bind(module: nn.Module, sample: Sample) -> tuple[Tensors, Caller]:
    """Bind `sample` to the arguments of the module's forward().

    Returns:
        The tensors by the names that the file's inputs get, and how to call the module with them.

    Raises:
        PublishError: Python could not bind them; the text names what forward() takes.
    """
    signature = inspect.signature(module.forward)
    arguments = signature.parameters
    if not isinstance(sample, Mapping):
        _try(signature, (sample,), {})
        return {INPUT: sample}, by_position
    tensors = dict(sample)
    named = [name for name, argument in arguments.items() if argument.kind in _BY_NAME]
    if not any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments.values()):
        strange = [name for name in tensors if name not in named]
        if len(tensors) == len(strange) == len(arguments) == 1 and next(iter(arguments.values())).kind in _BY_POSITION:
            # One tensor for the one argument that there is: the file's input may have a name of its own.
            return tensors, by_position
        if strange:
            raise PublishError(
                f"the sample names {', '.join(map(repr, strange))}, and {_takes(arguments)}; name the sample's tensors "
                "like the arguments, because nothing else says which is which"
            )
    _try(signature, (), tensors)
    return tensors, by_name


def outputs(answer: object, single: str) -> Tensors:
    """Return the tensors of what forward() gave, by name.

    Args:
        answer: A tensor, or any nesting of tuples, lists, mappings, named tuples and dataclasses of tensors; None in
            them is left out, as Hugging Face's models do.
        single: What a tensor alone is called.

    Raises:
        TypeError: There is something else in it, or two tensors of one name; the text says what and where.
    """
    if isinstance(answer, Tensor):
        return {single: answer}
    tensors: Tensors = {}
    for name, tensor in _flat(answer, ""):
        if name in tensors:
            raise TypeError(f"two outputs that are both called {name!r}")
        tensors[name] = tensor
    return tensors


def _flat(value: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if value is None:
        return
    if isinstance(value, Tensor):
        yield path or "output", value
        return
    entries: Iterator[tuple[object, Any]]
    if isinstance(value, Mapping):
        entries = iter(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        entries = ((f"output_{place}" if not path else place, entry) for place, entry in enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        entries = ((field.name, getattr(value, field.name)) for field in fields(value))
    else:
        raise TypeError(f"{type(value).__name__}{f' in {path!r}' if path else ''}")
    for name, entry in entries:
        yield from _flat(entry, f"{path}.{name}" if path else str(name))


class ByPosition(nn.Module):
    """A network that takes its inputs by position, callable by the names that stand for the positions.

    Args:
        network: The network.
        names: Of its inputs, in their order.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._names = tuple(names)

    def forward(self, **inputs: Tensor) -> object:
        """Return what the network returns."""
        return self.network(*(inputs[name] for name in self._names))


class Exported(nn.Module):
    """A network for the exporter: its inputs in one tuple, and its outputs too, however it takes and gives them.

    Args:
        network: The network.
        names: Of the inputs, in the order of the tuple.
        call: Calls it.
        single: What its output is called if it is a tensor alone.
        sigmoid: Whether the sigmoid of the first output, a logit for each of several labels, is an output too.
    """

    def __init__(
        self, network: nn.Module, names: tuple[str, ...], call: Caller, single: str, *, sigmoid: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self._names = names
        self._call = call
        self._single = single
        self._sigmoid = sigmoid

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the outputs in their order."""
        answer = self._call(self.network, dict(zip(self._names, inputs, strict=True)))
        tensors = tuple(outputs(answer, self._single).values())
        return (*tensors, tensors[0].sigmoid()) if self._sigmoid else tensors


def _try(signature: inspect.Signature, positional: tuple[object, ...], named: Mapping[str, object]) -> None:
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        remedy = "give the sample as {'name': tensor, ...} with those names" if positional else "complete the sample"
        raise PublishError(
            f"the sample does not fit: {first_line(error)}: {_takes(signature.parameters)}; {remedy}"
        ) from error


def _takes(arguments: Mapping[str, inspect.Parameter]) -> str:
    listed = [
        f"{_STARS.get(argument.kind, '')}{name}"
        + (" (optional)" if argument.default is not inspect.Parameter.empty else "")
        + (" (by position only)" if argument.kind is inspect.Parameter.POSITIONAL_ONLY else "")
        for name, argument in arguments.items()
    ]
    return f"forward() takes {', '.join(listed) or 'nothing'}"


def copied(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode on the CPU.

    Raises:
        PublishError: It cannot be copied; the text says what to change.
    """
    try:
        network = copy.deepcopy(module)
    except Exception as error:  # the user's own code: anything may come out
        raise PublishError(
            f"the module cannot be copied: {first_line(error)}; copy.deepcopy(module) must work{_why(module)}"
        ) from error
    if any(weights.is_meta for weights in (*network.parameters(), *network.buffers())):
        raise PublishError("the module's weights are on the device 'meta', without values; load them before publishing")
    return network.cpu().eval()


def _why(module: nn.Module) -> str:
    for name, part in module.named_modules():
        own = {own for own, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))}
        for endings, what, remedy in _OLD_WEIGHTS:
            if any(all(f"{one.rpartition('_')[0]}{ending}" in own for ending in endings) for one in own):
                return f": {name or 'it'} has {what}, whose weight is computed and cannot be copied; {remedy}"
    return ""


_OLD_WEIGHTS = (
    (
        ("_g", "_v"),
        "the old torch.nn.utils.weight_norm",
        "use torch.nn.utils.parametrizations.weight_norm, or torch.nn.utils.remove_weight_norm() before publishing",
    ),
    (
        ("_orig", "_u"),
        "the old torch.nn.utils.spectral_norm",
        "use torch.nn.utils.parametrizations.spectral_norm, or torch.nn.utils.remove_spectral_norm() before publishing",
    ),
    (
        ("_orig", "_mask"),
        "torch.nn.utils.prune",
        "make it permanent with torch.nn.utils.prune.remove() before publishing",
    ),
)
"""By the endings of the names that each gives to a layer's parameters and buffers."""
