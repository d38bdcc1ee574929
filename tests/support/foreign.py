"""PyTorch's exporter and matplotlib, made quick enough for hundreds of networks: what they write stays the same."""

import copy
import functools
import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch._export import utils
from torch.export import decomp_utils, exported_program
from torch.onnx._internal.exporter import _decomp, _registration


@functools.cache
def quicken() -> None:
    """Change both in this process for as long as it runs; further calls change nothing.

    An export of a small network is mostly preparation: it reads the source of all of onnxscript's operators, registers them,
    asks PyTorch for all operators that are made of others, and lists how each is taken apart. That is the same each time, so
    it is kept. Coverage follows every line of an export and of a picture, which are not ours, so it looks away for as long.
    """
    onnxscript: Any = _registration.onnxscript_apis  # type: ignore[attr-defined]  # imported there under this name
    onnxscript.get_torchlib_ops = functools.cache(onnxscript.get_torchlib_ops)
    registry: Any = _registration.ONNXRegistry
    registry.from_torchlib = staticmethod(_copied(functools.cache(registry.from_torchlib)))
    composites = _while_unchanged(utils._collect_all_valid_cia_ops)
    importers: tuple[Any, ...] = (exported_program, decomp_utils)
    for module in importers:
        module._collect_all_valid_cia_ops = composites
    decompositions: Any = _decomp
    table = functools.cache(decompositions.create_onnx_friendly_decomposition_table)
    decompositions.create_onnx_friendly_decomposition_table = lambda known: dict(table(frozenset(known)))
    torch.onnx.export = _then_frozen(_untraced(torch.onnx.export))
    Figure.savefig = _untraced(Figure.savefig)  # type: ignore[method-assign]  # as said


def _copied(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make a registry of operators that the caller may add to."""

    def copied(*positional: Any, **named: Any) -> Any:
        made = copy.copy(make(*positional, **named))
        made.functions = {target: list(found) for target, found in made.functions.items()}
        return made

    return copied


def _while_unchanged(collect: Callable[[], Any]) -> Callable[[], Any]:
    """Collect operators again only after one of them was added."""
    collected = functools.lru_cache(1)(lambda _: collect())
    return lambda: collected(tuple(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")))


def _then_frozen(export: Any) -> Any:
    """Leave what the first export has imported and kept out of later collections of garbage."""
    freeze = functools.cache(gc.freeze)

    @functools.wraps(export)
    def exported(*positional: Any, **named: Any) -> Any:
        program = export(*positional, **named)
        freeze()
        return program

    return exported


def _untraced(function: Any) -> Any:
    @functools.wraps(function)
    def untraced(*positional: Any, **named: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*positional, **named)
        finally:
            sys.settrace(tracer)

    return untraced
