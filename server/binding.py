"""Run a session on a CUDA device from buffers that are bound once: one copy in, a run or a captured graph, and only what was asked for out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from server.buckets import NO_GRAPH, Names, Plan, computed
from server.errors import GraphsFailed
from server.lane import Captures, Lane
from server.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]

Allocate = Callable[[Sequence[int], Any], Any]
"""Makes a value on the device from a shape and a numpy type: `OrtValue.ortvalue_from_shape_and_type`, its device given."""


@dataclass(frozen=True, slots=True, eq=False)
class _Bucket:
    """Buffers for so many rows, and what is bound to them.

    Attributes:
        staging: for each input, host memory where a batch that does not fill the bucket is padded.
        inputs: for each input, its device buffer.
        outputs: device buffers by name.
        bindings: by the set of outputs that is computed, ONNX Runtime's binding and the options of its runs.
    """

    staging: tuple[Array, ...]
    inputs: tuple[Any, ...]
    outputs: Mapping[str, Any]
    bindings: dict[Names, tuple[Any, Any]]


class DeviceRunner:
    """A session on a CUDA device, whoever calls: everything is done by one thread, one call after the other.

    That makes bound buffers and captured graphs safe while a probe comes in between, and keeps graphs where they were captured.

    Args:
        session: ONNX Runtime's own.
        inputs: names of its inputs, in graph order.
        allocate: makes device buffers.
        options: makes options for runs with a `gpu_graph_id`.
        graphs: whether the session was opened to capture graphs.
        captures: shared by all sessions of the process.
        lane: its thread; not started.
    """

    def __init__(
        self,
        session: Any,
        inputs: Sequence[str],
        allocate: Allocate,
        options: Callable[[str], Any],
        *,
        graphs: bool,
        captures: Captures,
        lane: Lane,
    ) -> None:
        self._session = session
        self._names = tuple(inputs)
        self._allocate = allocate
        self._options = options
        self._plain = options(NO_GRAPH)
        self.graphs = graphs
        self._captures = captures
        self._lane = lane
        self._plan: Plan | None = None
        self._batched = False
        self._shapes: tuple[tuple[tuple[int | None, ...], np.dtype[Any]], ...] = ()
        self._buckets: dict[int, _Bucket] = {}

    def start(self) -> None:
        """Start the thread; it ends when nothing holds this runner any more."""
        self._lane.start(self)

    def run(self, inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run once; as `Session.run`, but with whatever error ONNX Runtime raises."""
        return self._lane.do(partial(self._run, inputs, outputs))

    def prepare(self, signature: Signature, plan: Plan, row: Sequence[Array]) -> str:
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
        return self._lane.do(partial(self._prepare, signature, plan, row))

    def _prepare(self, signature: Signature, plan: Plan, row: Sequence[Array]) -> str:
        self._buckets = {}
        ids, specs = plan.graph_ids(), computed(signature)
        buckets: dict[int, _Bucket] = {}
        self._batched = signature.batched
        try:
            # The largest first: what its run takes of ONNX Runtime's arena is enough for the others.
            for size in reversed(plan.sizes):
                with self._captures.running():
                    buckets[size] = self._bind(signature, plan, size, specs, row)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
            return f"batches could not be bound to buffers on the device: {error}"
        if self.graphs:
            for (size, names), number in ids.items():
                self._capture(buckets[size], names, number, size)
        self._shapes = tuple((spec.graph_shape, spec.dtype) for spec in signature.inputs)
        self._plan, self._buckets = plan, buckets
        return ""

    def _bind(
        self, signature: Signature, plan: Plan, size: int, specs: Sequence[TensorSpec], row: Sequence[Array]
    ) -> _Bucket:
        lead = (size,) if self._batched else ()
        staging = tuple(np.empty((*lead, *_shape(spec)), spec.dtype) for spec in signature.inputs)
        inputs = tuple(self._allocate(array.shape, array.dtype) for array in staging)
        outputs = {spec.name: self._allocate((*lead, *_shape(spec)), spec.dtype) for spec in specs}
        bucket = _Bucket(staging, inputs, outputs, {})
        self._fill(bucket, row, 1)
        for names in plan.outputs:
            binding = self._session.io_binding()
            for name, value in zip(self._names, inputs, strict=True):
                binding.bind_ortvalue_input(name, value)
            for name in names:
                binding.bind_ortvalue_output(name, outputs[name])
            bucket.bindings[names] = binding, self._plain
            # Once without a graph: libraries choose their algorithms and memory is taken, which a capture cannot bear.
            self._session.run_with_iobinding(binding, self._plain)
        return bucket

    def _capture(self, bucket: _Bucket, names: Names, number: str, size: int) -> None:
        binding, _ = bucket.bindings[names]
        options = self._options(number)
        with self._captures.capturing():
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:  # ONNX Runtime's exceptions share no public base class
                raise GraphsFailed(
                    f"the run of {size} rows to {', '.join(names)} could not be captured as a CUDA graph: {error}"
                ) from error
        bucket.bindings[names] = binding, options

    def _run(self, inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        with self._captures.running():
            plan = self._plan
            names = plan.covering(outputs) if plan is not None and self._fits(inputs) else None
            rows = len(inputs[0]) if names and self._batched else 1
            size = plan.size(rows) if plan is not None and names is not None else None
            if names is None or size is None:
                feed = dict(zip(self._names, inputs, strict=True))
                arrays: list[Array] = self._session.run(list(outputs), feed, self._plain)
                return arrays
            bucket = self._buckets[size]
            self._fill(bucket, inputs, rows)
            self._session.run_with_iobinding(*bucket.bindings[names])
            return [self._host(bucket.outputs[name], rows) for name in outputs]

    def _fits(self, inputs: Sequence[Array]) -> bool:
        """Whether the inputs are what the buffers were made for; others are ONNX Runtime's to refuse."""
        lead = 1 if self._batched else 0
        return (
            len(inputs) == len(self._shapes)
            and all(
                array.shape[lead:] == shape and array.dtype == dtype
                for array, (shape, dtype) in zip(inputs, self._shapes, strict=True)
            )
            and (not lead or (len({len(array) for array in inputs}) == 1 and len(inputs[0]) > 0))
        )

    def _fill(self, bucket: _Bucket, inputs: Sequence[Array], rows: int) -> None:
        """Copy a batch to the device; what it leaves free of the bucket repeats its first row.

        A row of this very batch is the one padding that cannot do harm where the batch does none: zeros may be no
        sensible input (divisions, places in a table), and older rows belong to somebody else.
        """
        for array, staging, value in zip(inputs, bucket.staging, bucket.inputs, strict=True):
            if self._batched and rows < len(staging):
                staging[:rows] = array
                staging[rows:] = array[0]
                value.update_inplace(staging)
            else:
                value.update_inplace(array)

    def _host(self, value: Any, rows: int) -> Array:
        """The rows of an output, in memory of their own."""
        array: Array = value.numpy()
        if self._batched:
            array = array[:rows]
        # On the CPU, where tests run, this is the buffer itself, which the next run would overwrite.
        return array.copy() if value.device_name() == "cpu" else array


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size or 0 for size in spec.graph_shape)
