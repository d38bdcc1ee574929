"""Which devices there are, and the execution providers to ask for on one of them."""

import ctypes
import re
from collections.abc import Mapping, Sequence

from frostline_server.errors import StartError

Provider = tuple[str, dict[str, str]]
"""An execution provider's name, and its options."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

CUDA_DEFAULTS: Mapping[str, str] = {
    # What a batch needs is what it takes, and not the next power of two.
    "arena_extend_strategy": "kSameAsRequested",
    # An exhaustive search takes seconds for every convolution and every batch size, and gigabytes while it lasts.
    "cudnn_conv_algo_search": "HEURISTIC",
    # TensorFloat-32 keeps 10 bits of a number: logits move by more than a golden sample's usual tolerance.
    "use_tf32": "0",
}
"""Options of the CUDA provider where a model's configuration says nothing."""


def cuda_devices() -> int:
    """How many CUDA devices the driver shows; 0 where there is no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def choose_providers(device: str, available: Sequence[str], devices: int) -> list[Provider]:
    """The execution providers to ask for, best first.

    Args:
        device: auto, cpu, cuda or cuda:N.
        available: the providers this ONNX Runtime was built with.
        devices: how many CUDA devices there are.

    Raises:
        StartError: a CUDA device was demanded and cannot be had.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise StartError(f"device must be auto, cpu, cuda or cuda:N, got '{device}'")
    if device == "cpu":
        return [(CPU, {})]
    index = int(match[1] or 0)
    if CUDA not in available:
        obstacle = "this ONNX Runtime was built without CUDA; install onnxruntime-gpu"
    elif index >= devices:
        obstacle = f"{devices} CUDA devices were found" if devices else "no CUDA device was found"
    else:
        return [(CUDA, {"device_id": str(index), **CUDA_DEFAULTS}), (CPU, {})]
    if device == "auto":
        return [(CPU, {})]
    raise StartError(f"device {device} was demanded, but {obstacle}; use --device auto to fall back to the CPU")
