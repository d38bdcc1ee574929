"""IO binding on a CUDA device: a session runs from buffers that are bound once, or replays a captured CUDA graph.

A batch is one copy into the device, and only the outputs that were asked for are copied out of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from frostline_server.errors import GraphsFailed
from frostline_server.runtime.cuda_buckets import NO_GRAPH, WIRE, BindingPlan, Names, computed
from frostline_server.runtime.cuda_thread import Captures, CudaThread
from frostline_server.runtime.run_errors import cleaned
from frostline_server.runtime.run_limit import RunLimit
from frostline_server.runtime.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]

Allocate = Callable[[Sequence[int], Any], Any]
"""Makes a value on the device from a shape and a NumPy type, as `OrtValue.ortvalue_from_shape_and_type` does."""


@dataclass(frozen=True, slots=True, eq=False)
class _Buffer:
    """An input's place on the device.

    Attributes:
        staging: host memory where a batch that does not fill the bucket is padded.
        value: the device memory.
        wire: where bytes arrive that are cast into it; None where the host casts.
        binding: of the run that casts.
    """

    staging: Array
    value: Any
    wire: "_Buffer | None" = None
    binding: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class _Bucket:
    """Buffers for so many rows, and what is bound to them.

    Attributes:
        inputs: in graph order.
        outputs: device buffers by name.
        bindings: by the set of outputs that is computed, ONNX Runtime's binding, and the options that replay its graph;
            None without one.
    """

    inputs: tuple[_Buffer, ...]
    outputs: Mapping[str, Any]
    bindings: dict[Names, tuple[Any, Any]]


class DeviceRunner:
    """A session on a CUDA device, whoever calls: everything is done by one thread, one call after the other.

    So a probe between two batches cannot disturb bound buffers, and a graph is replayed by the thread that captured it.

    Args:
        session: ONNX Runtime's own.
        inputs: names of its inputs, in graph order.
        allocate: makes device buffers.
        options: makes options for runs with a `gpu_graph_id`.
        caster: opens `cuda_buckets.cast_network` on the same device.
        graphs: whether the session was opened to capture graphs.
        captures: shared by all sessions of the process.
        cuda_thread: where everything is done; not started.
        limit: how long runs may take. What replays a graph cannot be told to end, and takes equally long for all data.
    """

    def __init__(
        self,
        session: Any,
        inputs: Sequence[str],
        allocate: Allocate,
        options: Callable[[str], Any],
        caster: Callable[[], Any],
        *,
        graphs: bool,
        captures: Captures,
        cuda_thread: CudaThread,
        limit: RunLimit,
    ) -> None:
        self._session = session
        self._names = tuple(inputs)
        self._allocate = allocate
        self._options = options
        self._plain = options(NO_GRAPH)
        self._caster = caster
        self._cast: Any = None
        self.graphs = graphs
        self._captures = captures
        self._cuda_thread = cuda_thread
        self._limit = limit
        self._plan: BindingPlan | None = None
        self._batched = False
        self._shapes: tuple[tuple[tuple[int | None, ...], np.dtype[Any], bool], ...] = ()
        self._buckets: dict[int, _Bucket] = {}

    def start(self) -> None:
        """Start the thread; it ends when nothing holds this runner any more."""
        self._cuda_thread.start(self)

    def run(self, inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run once; as `Session.run`, but with whatever error ONNX Runtime raises.

        Once prepared it also takes bytes where the plan says that they are cast.
        """
        return self._cuda_thread.do(partial(self._run, inputs, outputs))

    def prepare(self, signature: Signature, plan: BindingPlan, row: Sequence[Array]) -> str:
        """Bind every bucket of a plan, run it, and capture its graphs.

        Args:
            signature: what the network takes and gives, and why the plan is what it is.
            plan: what to bind.
            row: for each input, one row to fill the buckets with: [1, ...], or the whole tensor without a batch axis.

        Returns:
            Why nothing could be bound, in which case every run copies by itself as on the CPU; or "".

        Raises:
            GraphsFailed: a capture failed. The session is of no use any more: CUDA may still believe that it captures.
        """
        return self._cuda_thread.do(partial(self._prepare, signature, plan, row))

    def release(self) -> None:
        """Let go of what is bound: every run copies by itself from now on, until something else is prepared."""
        self._cuda_thread.do(self._release)

    def _release(self) -> None:
        self._plan, self._buckets = None, {}

    def _prepare(self, signature: Signature, plan: BindingPlan, row: Sequence[Array]) -> str:
        self._release()
        ids, specs = plan.graph_ids(), computed(signature)
        buckets: dict[int, _Bucket] = {}
        self._batched = signature.batched
        try:
            if any(plan.casts) and self._cast is None:
                self._cast = self._caster()
            # The largest first: what its run takes of ONNX Runtime's arena is enough for the others.
            for size in reversed(plan.sizes):
                with self._captures.running():
                    buckets[size] = self._bind(signature, plan, size, specs, row)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
            return f"batches could not be bound to buffers on the device: {cleaned(str(error))}"
        if self.graphs:
            for (size, names), number in ids.items():
                self._capture(buckets[size], names, number, size)
        self._shapes = tuple(
            (spec.graph_shape, spec.dtype, cast) for spec, cast in zip(signature.inputs, plan.casts, strict=True)
        )
        self._plan, self._buckets = plan, buckets
        return ""

    def _bind(
        self, signature: Signature, plan: BindingPlan, size: int, specs: Sequence[TensorSpec], row: Sequence[Array]
    ) -> _Bucket:
        lead = (size,) if self._batched else ()
        inputs = tuple(
            self._buffer((*lead, *_shape(spec)), spec.dtype, cast=cast)
            for spec, cast in zip(signature.inputs, plan.casts, strict=True)
        )
        outputs = {spec.name: self._allocate((*lead, *_shape(spec)), spec.dtype) for spec in specs}
        bucket = _Bucket(inputs, outputs, {})
        self._fill(bucket, row, 1)
        for names in plan.outputs:
            binding = self._session.io_binding()
            for name, buffer in zip(self._names, inputs, strict=True):
                binding.bind_ortvalue_input(name, buffer.value)
            for name in names:
                binding.bind_ortvalue_output(name, outputs[name])
            bucket.bindings[names] = binding, None
            # A capture can neither allocate memory nor choose algorithms. The first run chooses; the second one allocates as
            # ONNX Runtime planned the memory after the first.
            for _ in range(2):
                self._session.run_with_iobinding(binding, self._plain)
        return bucket

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, cast: bool) -> _Buffer:
        value = self._allocate(shape, dtype)
        if not cast:
            return _Buffer(np.empty(shape, dtype), value)
        wire = _Buffer(np.empty(shape, WIRE), self._allocate(shape, WIRE))
        binding = self._cast.io_binding()
        binding.bind_ortvalue_input("wire", wire.value)
        binding.bind_ortvalue_output("cast", value)
        wire.staging[...] = np.resize(np.arange(256, dtype=WIRE), shape)
        wire.value.update_inplace(wire.staging)
        self._cast.run_with_iobinding(binding, self._plain)
        if not np.array_equal(value.numpy(), wire.staging):
            raise RuntimeError("bytes cast on the device are not those that were sent")
        return _Buffer(np.empty(shape, dtype), value, wire, binding)

    def _capture(self, bucket: _Bucket, names: Names, number: str, size: int) -> None:
        binding, _ = bucket.bindings[names]
        options = self._options(number)
        with self._captures.capturing():
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:  # ONNX Runtime's exceptions share no public base class
                raise GraphsFailed(
                    f"the run of {size} rows to {', '.join(names)} could not be captured as a CUDA graph: {cleaned(str(error))}"
                ) from error
        bucket.bindings[names] = binding, options

    def _run(self, inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        with self._captures.running():
            # Not before: what waits for its turn does not run.
            run = self._limit.begin()
            try:
                return self._run_now(inputs, outputs, run.options)
            finally:
                self._limit.end(run)

    def _run_now(self, inputs: Sequence[Array], outputs: Sequence[str], plain: Any) -> list[Array]:
        plan = self._plan
        names = plan.covering(outputs) if plan is not None and self._fits(inputs) else None
        rows = len(inputs[0]) if names and self._batched else 1
        size = plan.size(rows) if plan is not None and names is not None else None
        if names is None or size is None:
            feed = dict(zip(self._names, self._cast_here(inputs), strict=True))
            arrays: list[Array] = self._session.run(list(outputs), feed, plain)
            return arrays
        bucket = self._buckets[size]
        self._fill(bucket, inputs, rows)
        binding, graph = bucket.bindings[names]
        self._session.run_with_iobinding(binding, plain if graph is None else graph)
        return [self._host(bucket.outputs[name], rows) for name in outputs]

    def _fits(self, inputs: Sequence[Array]) -> bool:
        """Whether the inputs are what the buffers were made for; others are ONNX Runtime's to refuse."""
        lead = 1 if self._batched else 0
        return (
            len(inputs) == len(self._shapes)
            and all(
                array.shape[lead:] == shape and (array.dtype == dtype or (cast and array.dtype == WIRE))
                for array, (shape, dtype, cast) in zip(inputs, self._shapes, strict=True)
            )
            and (not lead or (len({len(array) for array in inputs}) == 1 and len(inputs[0]) > 0))
        )

    def _cast_here(self, inputs: Sequence[Array]) -> list[Array]:
        """The inputs as the network takes them, for a run without buffers."""
        if len(inputs) != len(self._shapes):
            return list(inputs)
        return [
            array.astype(dtype) if cast and array.dtype == WIRE else array
            for array, (_, dtype, cast) in zip(inputs, self._shapes, strict=True)
        ]

    def _fill(self, bucket: _Bucket, inputs: Sequence[Array], rows: int) -> None:
        """Copy a batch to the device; what it leaves free of the bucket repeats its first row.

        A row of this very batch is the one padding that cannot do harm where the batch does none: zeros may be no
        sensible input (divisions, places in a table), and older rows belong to somebody else.
        """
        for array, buffer in zip(inputs, bucket.inputs, strict=True):
            if buffer.wire is not None and array.dtype == WIRE:
                self._copy(buffer.wire, array, rows)
                self._cast.run_with_iobinding(buffer.binding, self._plain)
            else:
                self._copy(buffer, array, rows)

    def _copy(self, buffer: _Buffer, array: Array, rows: int) -> None:
        if self._batched and rows < len(buffer.staging):
            buffer.staging[:rows] = array
            buffer.staging[rows:] = array[0]
            array = buffer.staging
        buffer.value.update_inplace(array)

    def _host(self, value: Any, rows: int) -> Array:
        """The rows of an output, in memory of their own."""
        array: Array = value.numpy()
        if self._batched:
            array = array[:rows]
        # On the CPU, where tests run, this is the buffer itself, which the next run would overwrite.
        return array.copy() if value.device_name() == "cpu" else array


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size or 0 for size in spec.graph_shape)
