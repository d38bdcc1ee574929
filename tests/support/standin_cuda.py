"""A stand-in for ONNX Runtime on a CUDA device: the binding API over memory of its own, with CUDA's ways of going wrong.

The arithmetic is ONNX Runtime's on the CPU. What it imitates, from the source of the CUDA provider:

- a captured graph belongs to a session, an id and the thread that captured it, and replays the buffers it was captured with,
  whatever is bound since;
- a run that names no `gpu_graph_id` in a session that captures is graph 0;
- while one thread captures, whatever another thread allocates, copies or runs fails;
- each thread that ran a capturing session holds device memory until the session ends.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from frostline_server.runtime.devices import CPU, CUDA

Array = np.ndarray[Any, Any]

_Real = ort.InferenceSession


class CudaError(Exception):
    """What CUDA says of an operation it forbids."""


class Cuda:
    """The device.

    Attributes:
        allocated: bytes of all values made.
        copied_in: bytes copied to the device.
        copied_out: bytes copied from it.
        sessions: opened on it, in order.
        refuse_graphs: why ONNX Runtime will not open a session that captures; "" where it will.
        refuse_capture: why a capture fails; "" where it does not.
        memory: bytes there are.
        lost: what every operation fails with since a kernel read memory that is nobody's; "" while all is well.
        in_run: called in every run, while it is under way.
    """

    def __init__(self) -> None:
        self.allocated = self.copied_in = self.copied_out = 0
        self.sessions: list[CudaSession] = []
        self.refuse_graphs = self.refuse_capture = ""
        self.memory = 1 << 40
        self.lost = ""
        self.in_run: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._capturing: int | None = None
        self._busy: list[int] = []

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around whatever a thread does on the device."""
        me = threading.get_ident()
        with self._lock:
            if self.lost:
                raise CudaError(self.lost)
            if self._capturing not in (None, me):
                raise CudaError("CUDA error 906: operation would make the legacy stream depend on a capturing stream")
            self._busy.append(me)
        try:
            yield
        finally:
            with self._lock:
                self._busy.remove(me)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Around a capture in global mode."""
        me = threading.get_ident()
        with self._lock:
            if self.refuse_capture:
                raise CudaError(self.refuse_capture)
            if self._capturing is not None or any(other != me for other in self._busy):
                raise CudaError("CUDA error 901: operation failed due to a previous error during capture")
            self._capturing = me
        try:
            yield
        finally:
            with self._lock:
                self._capturing = None

    def value(self, shape: Sequence[int], dtype: Any, device_type: str = "cuda", device_id: int = 0) -> "Value":
        """As `OrtValue.ortvalue_from_shape_and_type`."""
        assert device_type == "cuda"
        with self.work():
            made = Value(self, np.full(shape, 99, dtype), device_id)
            self.allocated += made.buffer.nbytes
            if self.allocated > self.memory:
                raise CudaError("CUDA error 2: out of memory")
            return made

    def session(self, model: bytes, options: Any = None, *, providers: Any, enable_fallback: int = 1) -> Any:
        """As `InferenceSession`."""
        real = _Real(model, options, providers=[CPU])
        if CUDA not in [name for name, *_ in providers]:
            return real
        assert enable_fallback == 0
        assert not self.lost, "ONNX Runtime ends the process when a session is opened on a device that failed"
        _, given = providers[0]
        graphs = given.get("enable_cuda_graph") == "1"
        if graphs and self.refuse_graphs:
            raise CudaError(self.refuse_graphs)
        made = CudaSession(self, real, graphs=graphs)
        self.sessions.append(made)
        return made

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it in ONNX Runtime's place."""
        monkeypatch.setattr("onnxruntime.InferenceSession", self.session)
        monkeypatch.setattr("onnxruntime.OrtValue.ortvalue_from_shape_and_type", self.value)
        monkeypatch.setattr("frostline_server.runtime.session_factory.cuda_error", lambda index: self.lost)


class Value:
    """As `OrtValue`, of device memory."""

    def __init__(self, cuda: Cuda, buffer: Array, device_id: int) -> None:
        self.cuda = cuda
        self.buffer = buffer
        self.device_id = device_id

    def update_inplace(self, data: Array) -> None:
        # ONNX Runtime compares sizes only, and would take other types for the bytes they are.
        assert data.dtype == self.buffer.dtype
        if data.size != self.buffer.size:
            raise ValueError("The input size of numpy arrays does not match the size of the OrtValue.")
        with self.cuda.work():
            self.buffer[...] = data
            self.cuda.copied_in += data.nbytes

    def numpy(self) -> Array:
        with self.cuda.work():
            self.cuda.copied_out += self.buffer.nbytes
            return self.buffer.copy()

    def device_name(self) -> str:
        return "cuda"


class Binding:
    """As `IOBinding`."""

    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.outputs[name] = value


class CudaSession:
    """As an `InferenceSession` on the device.

    Attributes:
        graphs: by thread and id, the binding that was captured.
        captured: how many captures there were.
        replayed: how many replays.
        bound_runs: how many runs from bound buffers without a graph.
        plain_runs: how many runs that copy by themselves.
        threads: those that ran it.
        captures: whether it was opened to capture graphs.
    """

    def __init__(self, cuda: Cuda, real: Any, *, graphs: bool) -> None:
        self.cuda = cuda
        self.captures = graphs
        self.graphs: dict[tuple[int, str], Binding] = {}
        self.captured = self.replayed = self.bound_runs = self.plain_runs = 0
        self.threads: set[int] = set()
        self._real = real

    def __getattr__(self, name: str) -> Any:
        assert name in ("get_inputs", "get_outputs", "get_modelmeta"), f"the stand-in has no {name}"
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def io_binding(self) -> Binding:
        return Binding()

    def run(self, names: Sequence[str], feed: dict[str, Array], options: Any = None) -> list[Array]:
        assert not self.captures or self._graph_id(options) == "-1", "a capture cannot read a caller's arrays"
        self.threads.add(threading.get_ident())
        with self.cuda.work():
            self.cuda.in_run()
            self.plain_runs += 1
            outputs: list[Array] = self._real.run(names, feed)
            return outputs

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        number, me = self._graph_id(options), threading.get_ident()
        self.threads.add(me)
        with self.cuda.work():
            self.cuda.in_run()
            if not self.captures or number == "-1":
                self.bound_runs += 1
                self._compute(binding)
            elif (me, number) in self.graphs:
                self.replayed += 1
                self._compute(self.graphs[me, number])
            else:
                with self.cuda.capture():
                    self._compute(binding)
                self.captured += 1
                self.graphs[me, number] = binding

    def _compute(self, binding: Binding) -> None:
        feed = {name: value.buffer for name, value in binding.inputs.items()}
        for value, array in zip(binding.outputs.values(), self._real.run(list(binding.outputs), feed), strict=True):
            assert value.buffer.shape == array.shape, "ONNX Runtime refuses an output that does not fit its buffer"
            value.buffer[...] = array

    def _graph_id(self, options: Any) -> str:
        try:
            return str(options.get_run_config_entry("gpu_graph_id"))
        except (AttributeError, RuntimeError):
            return "0"
