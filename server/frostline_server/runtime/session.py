"""The inference session: one network on one device.

It also warms the network up, measures its run time, and proves it against its golden sample.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from frostline_server.errors import LoadError, RunFailed
from frostline_server.runtime.cuda_buckets import BindingPlan, binding_plan
from frostline_server.runtime.cuda_runner import DeviceRunner
from frostline_server.runtime.golden import Golden, compare, compare_classes
from frostline_server.runtime.run_errors import run_error
from frostline_server.runtime.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]

_MEASURE_S = 1.0
_MEASURE_RUNS = 5


class Session:
    """One network on one device.

    Args:
        session: ONNX Runtime's own session.
        signature: what the network takes and gives.
        external: names of the files beside the ONNX file that hold its weights.
        device: where it runs, such as cpu or cuda:0.
        run_options: options of every run.
        runner: what runs it on a CUDA device; None elsewhere.
        remarks: warnings about the session.

    Attributes:
        remarks: as given, and what came to light while it was warmed up.
        bound: what runs from buffers on the device, once warmed up; None where every run copies by itself.
        metadata: the file's metadata properties.
        providers: the execution providers that are bound, best first.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        signature: Signature,
        external: tuple[str, ...],
        device: str,
        run_options: ort.RunOptions | None,
        runner: DeviceRunner | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        # Looked up once: a small network runs in a few microseconds.
        self._compute = session.run
        self.signature = signature
        self.external = external
        self.device = device
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self._run_options = run_options
        self._runner = runner
        self.remarks = list(remarks)
        self.bound: BindingPlan | None = None
        self._names = [spec.name for spec in signature.inputs]

    @property
    def provider(self) -> str:
        """The first execution provider that is bound."""
        return self.providers[0]

    @property
    def cuda_graphs(self) -> int:
        """How many CUDA graphs were captured."""
        captured = self.bound is not None and self._runner is not None and self._runner.graphs
        return len(self.bound.graph_ids()) if self.bound is not None and captured else 0

    @property
    def uncast(self) -> frozenset[int]:
        """Places of the inputs that `run` also takes as bytes, to be made single precision on the device."""
        casts = self.bound.casts if self.bound else ()
        return frozenset(place for place, cast in enumerate(casts) if cast)

    def run(self, inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Run the network on one batch.

        Args:
            inputs: one array for each input, in graph order; [rows, ...] when batched.
            outputs: names of the outputs to compute.

        Returns:
            One array for each name.

        Raises:
            RunFailed: the network failed on the batch; `InvalidData` or `OutOfMemory` where that is known.
        """
        try:
            if self._runner is not None:
                return self._runner.run(inputs, outputs)
            arrays: list[Array] = self._compute(outputs, dict(zip(self._names, inputs, strict=True)), self._run_options)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
            failure = run_error(error, self.device)
        else:
            return arrays
        # Here, so that the error does not keep the batch: ONNX Runtime's own would hold this frame.
        raise failure

    def warm_up(
        self,
        sizes: Sequence[int],
        golden: Golden | None,
        sample: Sequence[Array] | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> bool:
        """Run every batch size once, so that no request pays for a first run, and check that the batch axis is one.

        Args:
            sizes: numbers of rows.
            golden: where real rows come from.
            sample: where rows come from without it: for each input one row, [1, ...] when batched. Zeros of the
                input's shape stand in when there is neither.
            go_on: called before each run; raises when that is no longer wanted.

        Returns:
            False when the shape of a row is not known and so nothing could be run.

        Raises:
            LoadError: the network failed on a size, or answered with something else than it says it gives.
            GraphsFailed: a CUDA graph could not be captured; another session must be opened, without graphs.
        """
        row = self._sample_row(golden) if golden is not None or sample is None else sample
        if row is None:
            return False
        self._bind(sizes, row)
        for size in sizes if self.signature.batched else (1,):
            go_on()
            inputs = self.signature.repeated(row, size)
            self.run_and_check(inputs, size)
        return True

    def _bind(self, sizes: Sequence[int], row: Sequence[Array]) -> None:
        """Bind the sizes to buffers on the device, where there is one and the network allows it."""
        chosen = binding_plan(self.signature, sizes) if self._runner is not None else None
        if self._runner is None or chosen is None:
            return
        if chosen.left_out:
            self.remarks.append(
                f"batches of more than {chosen.sizes[-1]} rows are not bound to buffers on the device, which would take more "
                "memory than they may; they are copied anew each time"
            )
        if problem := self._runner.prepare(self.signature, chosen, row):
            self.remarks.append(problem)
            return
        self.bound = chosen

    def measure(
        self, sizes: Sequence[int], golden: Golden | None, clock: Callable[[], float] = time.perf_counter
    ) -> dict[int, float]:
        """Measure the time of a run at each warm batch size: the fastest of a few runs, for at most a second.

        Args:
            sizes: numbers of rows, ascending.
            golden: where real rows come from, as for `warm_up`.
            clock: gives seconds.

        Returns:
            Seconds by number of rows, the sizes for which there was no time left out; empty when the shape of a row is
            not known.

        Raises:
            LoadError: the network failed on a size.
        """
        row = self._sample_row(golden)
        measured: dict[int, float] = {}
        if row is None:
            return measured
        sizes = sizes if self.signature.batched else (1,)
        end_s = clock() + _MEASURE_S
        for size in sizes:
            inputs = self.signature.repeated(row, size)
            share_s = clock() + _MEASURE_S / len(sizes)
            for _ in range(_MEASURE_RUNS):
                began_s = clock()
                self.run_and_check(inputs, size)
                now_s = clock()
                measured[size] = min(measured.get(size, math.inf), now_s - began_s)
                if now_s > share_s:
                    break
            if clock() > end_s:
                break
        return measured

    def probe(self, golden: Golden | None) -> None:
        """Run one row (or a fixed batch), and compare the logits with PyTorch's if there is a golden sample.

        Raises:
            RunFailed: the device failed.
            LoadError: the answer is wrong.
        """
        row = self._sample_row(golden)
        if row is None:  # nothing that fits is known
            return
        if golden is None:
            self.run(row, list(self.signature.own_outputs))
            return
        (got,) = self.run(row, [self._logits()])
        compare(got, golden.logits[: len(row[0])], golden, 0, len(row[0]))

    def _logits(self) -> str:
        return self.signature.heads.logits if self.signature.heads else self.signature.outputs[0].name

    def run_and_check(self, inputs: Sequence[Array], rows: int) -> None:
        """Run once with all outputs, and check their names, types and shapes.

        Raises:
            LoadError: the network failed, or answered with something else than it says it gives.
        """
        heads = self.signature.heads
        outputs = [spec.name for spec in self.signature.outputs]
        try:
            arrays = self.run(inputs, [*outputs, heads.confidence] if heads and heads.confidence else outputs)
        except RunFailed as error:
            raise LoadError(f"warm-up with {rows} rows failed: {error}") from error
        for spec, array in zip(self.signature.outputs, arrays, strict=False):
            self._check_answer(spec, array, rows)

    def _check_answer(self, spec: TensorSpec, array: Array, rows: int) -> None:
        if self.signature.batched and array.shape[:1] != (rows,):
            raise LoadError(
                f"output '{spec.name}' has shape {list(array.shape)} for a batch of {rows} rows, so its first axis is not the "
                "batch; write `max_batch_size: 0` into config.pbtxt to serve each request alone"
            )
        expected = (rows, *spec.graph_shape) if self.signature.batched else spec.graph_shape
        if len(array.shape) != len(expected) or any(
            want not in (None, got) for want, got in zip(expected, array.shape, strict=True)
        ):
            raise LoadError(
                f"output '{spec.name}' has shape {list(array.shape)} where the graph or config.pbtxt says "
                f"{[-1 if size is None else size for size in expected]}; declare its dims in config.pbtxt, -1 for any size"
            )

    def _sample_row(self, golden: Golden | None) -> list[Array] | None:
        if golden is not None:
            return [golden.inputs[name][: self._golden_step] for name in self._names]
        lead = (1,) if self.signature.batched else ()
        row = []
        for spec in self.signature.inputs:
            shape = [size for size in spec.graph_shape if size is not None]
            if len(shape) != len(spec.graph_shape):
                return None
            row.append(np.full((*lead, *shape), "" if spec.dtype.hasobject else 0, spec.dtype))
        return row

    @property
    def _golden_step(self) -> int:
        """Rows of a golden sample that make the smallest run: as many as a fixed batch axis has, or one."""
        leads = {spec.graph_shape[0] if spec.graph_shape else None for spec in self.signature.inputs}
        lead = leads.pop() if len(leads) == 1 else None
        return 1 if self.signature.batched or not lead else lead

    def check_golden(self, golden: Golden, max_batch_size: int) -> None:
        """Prove that this session computes PyTorch's logits: row by row, in full batches and, if bound, in every size.

        Raises:
            LoadError: it does not; the message has the largest difference and its row.
        """
        logits = self._logits()
        rows, step = len(golden.logits), self._golden_step
        if rows % step:
            raise LoadError(
                f"golden check failed: {rows} golden rows do not fill batches of {step}, which the graph fixes"
            )
        sizes = {step}
        if self.signature.batched:
            sizes |= {min(rows, max_batch_size), *(self.bound.sizes if self.bound else ())}
        heads = self.signature.heads
        for size in sorted(sizes):
            # One row at a time shows a broken batch axis as well as the first few rows do.
            for start in range(0, min(rows, 4) if size == 1 else rows, size):
                # Repeated if there are not enough rows to fill a bucket.
                part = (
                    np.arange(start, start + size) % rows if size > rows else np.arange(start, min(start + size, rows))
                )
                inputs = [golden.inputs[name][part] for name in self._names]
                try:
                    (got,) = self.run(inputs, [logits])
                    classes = self.run(inputs, [heads.argmax])[0] if self.bound and heads else None
                except RunFailed as error:
                    raise LoadError(f"golden check failed: {error}") from error
                compare(got, golden.logits[part], golden, start, size)
                if classes is not None:
                    # They have their own CUDA graph.
                    compare_classes(classes, golden.logits[part], golden, start, size)
