"""The training device, and deterministic computation on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from frostline_training.errors import DeviceError


def choose_device(asked: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    Raises:
        DeviceError: It is not there, or not one of these words.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cpu":
        return torch.device("cpu")
    kind, _, index = asked.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()) or asked.endswith(":"):
        raise DeviceError(f"device {asked!r} is not one of auto, cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"device {asked!r}: this PyTorch ({torch.__version__}) finds no CUDA device; "
            "install a CUDA build of PyTorch and a driver, or use auto or cpu"
        )
    if index and int(index) >= torch.cuda.device_count():
        raise DeviceError(f"device {asked!r}: there are only {torch.cuda.device_count()} CUDA devices, counted from 0")
    return torch.device(asked)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with `count` CPU threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let PyTorch use only algorithms that give the same bits every time; the caller's random state comes back."""
    settings = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # PyTorch leaves its one setting untyped
    fill = memory.fill_uninitialized_memory
    if device.type == "cuda":
        # cuBLAS reads it once; without it deterministic algorithms are refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        # It would fill every new tensor with NaN, to catch reads of what was never written. PyTorch's own layers have none.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            memory.fill_uninitialized_memory = fill
            torch.use_deterministic_algorithms(mode=settings[0], warn_only=settings[1])
