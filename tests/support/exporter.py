"""PyTorch's ONNX exporter, made quick enough for hundreds of exports: what it writes stays the same."""

import functools
import os
import sys
from typing import Any

import torch
from torch.onnx._internal.exporter import _registration


@functools.cache
def quicken() -> None:
    """Change the exporter of this process for as long as it runs; further calls change nothing.

    Every export reads the source of all of onnxscript's operators again, which takes longer than a small network does. They
    are the same each time, so they are kept. Coverage follows every line of an export, which is PyTorch's, not ours, so it
    looks away for as long.
    """
    operators: Any = _registration.onnxscript_apis  # type: ignore[attr-defined]  # PyTorch's name for onnxscript's module
    operators.get_torchlib_ops = functools.cache(operators.get_torchlib_ops)
    torch.onnx.export = _untraced(torch.onnx.export)


def untraced_environment() -> dict[str, str]:
    """Return the environment for a process that exports, in which coverage does not start."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


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
