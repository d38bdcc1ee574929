"""The baselines of the GPU study: ONNX Runtime on the GPU in this process, and the GPU's name and memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from bench.load.gpu_workload import of_bytes
from bench.measure.harness import Sample
from frostline_server.runtime.cuda_options import with_graphs, with_precision
from frostline_server.runtime.devices import (
    CPU,
    CUDA,
    CUDA_DEFAULTS,
    Provider,
    cuda_devices,
    load_cuda_libraries,
    why_unbound,
)
from frostline_server.runtime.graph.heads import add_heads

_MIB = 2**20


@dataclass
class Memory:
    """Used device memory over time.

    Attributes:
        mib: one reading every `PERIOD_S`.
    """

    mib: list[float] = field(default_factory=list)
    PERIOD_S = 0.25

    def sample(self) -> Sample:
        """The first reading, the largest and the last, in MiB; NaN where nothing was read."""
        mib = self.mib or [float("nan")]
        return {"gpu_first_mib": mib[0], "gpu_most_mib": max(mib), "gpu_last_mib": mib[-1]}


@contextmanager
def watched(nvml: Any, memory: Memory) -> Iterator[None]:
    """Read the first GPU's used memory all through the block."""
    over = Event()
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)

    def read() -> None:
        while not over.wait(memory.PERIOD_S):
            memory.mib.append(nvml.nvmlDeviceGetMemoryInfo(gpu).used / _MIB)

    thread = Thread(target=read, name="memory")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Floors:
    """ONNX Runtime in this process, on the device that is measured.

    Args:
        device: cuda or cpu; the second only to try the benchmark out.
        seconds: how long one floor is measured.
    """

    def __init__(self, device: str, seconds: float) -> None:
        self.device = device
        self._seconds = seconds

    def session(self, model: onnx.ModelProto, *, graphs: bool = False) -> ort.InferenceSession:
        """A network with the server's heads and options."""
        _, addition = add_heads(model)
        data = model.SerializeToString() + addition
        if self.device == "cpu":
            return ort.InferenceSession(data, providers=[CPU])
        cuda: list[Provider] = [(CUDA, {"device_id": "0", **CUDA_DEFAULTS}), (CPU, {})]
        providers = with_graphs(with_precision(cuda, model.graph), enabled=graphs)
        session = ort.InferenceSession(data, providers=providers, enable_fallback=0)
        if CUDA not in session.get_providers():
            raise SystemExit(f"ONNX Runtime did not bind {CUDA}: {why_unbound(CUDA)}. Install the extra `cuda`")
        return session

    def images(self, model: onnx.ModelProto, batch: int, *, graphs: bool = True, copying: bool = True) -> Sample:
        """Classes of batches of images.

        Args:
            model: the network, without heads.
            batch: rows of a batch.
            graphs: whether a CUDA graph is captured and replayed.
            copying: whether each run copies its images from the host, as bytes.
        """
        network = of_bytes(model)
        session, (heads, _) = self.session(network, graphs=graphs), add_heads(network)
        assert heads is not None, "a classifier has heads"
        row = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        images = np.random.default_rng(2).integers(0, 256, (batch, *row)).astype(np.uint8)
        value = ort.OrtValue.ortvalue_from_numpy(images, self.device, 0)
        answer = ort.OrtValue.ortvalue_from_shape_and_type([batch], np.int64, self.device, 0)
        binding = session.io_binding()
        binding.bind_ortvalue_input("input", value)
        binding.bind_ortvalue_output(heads.argmax, answer)
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "1" if graphs else "-1")

        def once() -> None:
            if copying:
                value.update_inplace(images)
            session.run_with_iobinding(binding, options)
            answer.numpy()

        return self.timed(once, batch)

    def texts(self, session: ort.InferenceSession, length: int, batch: int, vocabulary: int) -> Sample:
        """Logits of batches of texts, copied from the host for each run."""
        rng = np.random.default_rng(3)
        feed = {
            "input_ids": rng.integers(0, vocabulary, (batch, length)),
            "attention_mask": np.ones((batch, length), np.int64),
        }
        values = {name: ort.OrtValue.ortvalue_from_numpy(array, self.device, 0) for name, array in feed.items()}
        answer = ort.OrtValue.ortvalue_from_shape_and_type([batch, 2], np.float32, self.device, 0)
        binding = session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("logits", answer)

        def once() -> None:
            for name, value in values.items():
                value.update_inplace(feed[name])
            session.run_with_iobinding(binding)
            answer.numpy()

        return self.timed(once, batch)

    def timed(self, once: Callable[[], None], rows: int) -> Sample:
        """`timed` after three calls that warm up."""
        for _ in range(3):
            once()
        return timed(once, rows, self._seconds)


def timed(once: Callable[[], None], rows: int, seconds: float) -> Sample:
    """Call again and again: rate is rows a second; p50_ms and p99_ms are of a call."""
    took: list[float] = []
    clock = time.perf_counter
    start = last = clock()
    while last - start < seconds or not took:
        once()
        now = clock()
        took.append(now - last)
        last = now
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return {"rate": rows * len(took) / (last - start), "p50_ms": float(p50), "p99_ms": float(p99)}


def gpu_name(nvml: Any) -> str:
    """The first GPU's exact name, its memory and the driver."""
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    total = nvml.nvmlDeviceGetMemoryInfo(gpu).total / _MIB
    return f"{_text(nvml.nvmlDeviceGetName(gpu))} ({total:,.0f} MiB, driver {_text(nvml.nvmlSystemGetDriverVersion())})"


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def obstacle() -> str:
    """Why nothing can be measured here; "" where it can."""
    if CUDA not in ort.get_available_providers():
        return "this ONNX Runtime was built without CUDA; install onnxruntime-gpu"
    if not cuda_devices():
        return "no CUDA device was found"
    try:
        import pynvml  # noqa: F401, PLC0415  only the cuda extra brings it
    except ImportError:
        return "nvidia-ml-py is missing; install the extra `cuda`"
    return load_cuda_libraries()
