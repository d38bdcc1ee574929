"""Device discovery: the CUDA devices of this machine, and the execution providers for a device."""

import contextlib
import ctypes
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from frostline_server.errors import StartError

Provider = tuple[str, dict[str, str]]
"""An execution provider's name, and its options."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

CUDA_DEFAULTS: Mapping[str, str] = {
    # The arena grows by what a batch needs, and not to the next power of two.
    "arena_extend_strategy": "kSameAsRequested",
    # An exhaustive search found nothing faster for a ResNet-50 on an H100.
    "cudnn_conv_algo_search": "HEURISTIC",
}
"""Default options of the CUDA provider."""


def cuda_devices() -> int:
    """The number of CUDA devices that the driver reports; 0 without a driver."""
    cuda, count = _driver(), ctypes.c_int(0)
    if cuda is None or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cuda_error(index: int) -> str:
    """What the driver says of this process's work on a device; "" while all is well, or where it has none.

    After a kernel's illegal access the process's CUDA context answers nothing but that error until the process ends.

    Args:
        index: of the device, as this process counts them.
    """
    cuda, device, active, context = _driver(), ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    if cuda is None or cuda.cuDeviceGet(ctypes.byref(device), index) != 0:
        return ""
    cuda.cuDevicePrimaryCtxGetState(device, ctypes.byref(ctypes.c_uint()), ctypes.byref(active))
    if not active.value:
        return ""
    code = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    if code == 0:
        cuda.cuCtxPushCurrent_v2(context)
        code = cuda.cuCtxSynchronize()
        cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
        cuda.cuDevicePrimaryCtxRelease_v2(device)
    if code == 0:
        return ""
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    return f"CUDA error {code}: {(text.value or b'unknown').decode()}"


def _driver() -> ctypes.CDLL | None:
    """NVIDIA's driver, or None if none works."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return cuda if cuda.cuInit(0) == 0 else None


def load_cuda_libraries() -> str:
    """Load NVIDIA's libraries from the Python packages that the extra `cuda` installs.

    The system's linker does not search there, and ONNX Runtime asks only the linker. Without this call it cannot load its CUDA
    provider. Where there are no such packages, the system's own libraries are loaded.

    Returns:
        What could not be loaded; "" where everything was.
    """
    said = io.StringIO()
    # It prints what goes wrong and raises nothing.
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    return " ".join(said.getvalue().split())


def why_unbound(provider: str) -> str:
    """Why ONNX Runtime binds no session to an execution provider, in the words of the system's linker.

    ONNX Runtime itself leaves out a provider that it cannot load, and raises nothing.
    """
    libraries = Path(onnxruntime.__file__).parent / "capi"
    name = provider.removesuffix("ExecutionProvider").lower()
    try:
        # What every provider's library takes from the one that they share must be there before it.
        ctypes.CDLL(str(libraries / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(libraries / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return str(error)
    return "its libraries can be loaded, so the cause is the device or the driver"


def choose_providers(device: str, available: Sequence[str], devices: int) -> list[Provider]:
    """The execution providers to request, best first.

    Args:
        device: auto, cpu, cuda or cuda:N.
        available: the providers this ONNX Runtime was built with.
        devices: how many CUDA devices there are.

    Raises:
        StartError: a CUDA device was requested and is not available.
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
    raise StartError(f"device {device} was requested, but {obstacle}; use --device auto to fall back to the CPU")
