"""The inference session: one network on one device.

It also measures the network's run time, and proves it against its golden sample.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnxruntime as ort

from frostline_server.errors import LoadError, RunFailed, RunStopped, RunTimedOut
from frostline_server.runtime.cuda_buckets import BindingPlan, binding_plan
from frostline_server.runtime.cuda_runner import DeviceRunner
from frostline_server.runtime.golden import Golden, compare, compare_classes
from frostline_server.runtime.run_errors import run_error
from frostline_server.runtime.run_limit import RunLimit
from frostline_server.runtime.signature import Signature

Array = np.ndarray[Any, Any]
Run = Callable[[Sequence[Array], Sequence[str]], list[Array]]
"""Takes one array for each input, and names of outputs; returns an array for each name. `Session.run` is one."""

_STOPPED = "the server stopped before the network's run had ended; send the request to another one, or again later"
_MEASURE_S = 1.0
_MEASURE_RUNS = 5


class Session:
    """One network on one device.

    Args:
        session: ONNX Runtime's own session.
        signature: what the network takes and gives.
        external: names of the files beside the ONNX file that hold its weights.
        device: where it runs, such as cpu or cuda:0.
        limit: how long its runs may take, and their options.
        runner: what runs it on a CUDA device; None elsewhere.
        remarks: warnings about the session.

    Attributes:
        remarks: as given, and what came to light while it was warmed up.
        bound: what runs from buffers on the device, once warmed up; None where every run copies by itself.
        limit: as given.
        metadata: the file's metadata properties.
        providers: the execution providers that are bound, best first.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        signature: Signature,
        external: tuple[str, ...],
        device: str,
        limit: RunLimit,
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
        self.limit = limit
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
            RunFailed: the network failed on the batch; `InvalidData`, `OutOfMemory`, `RunTimedOut` or `RunStopped` where
                that is known.
        """
        limit = self.limit
        try:
            if self._runner is not None:
                return self._runner.run(inputs, outputs)
            run = limit.begin()
            try:
                arrays: list[Array] = self._compute(outputs, dict(zip(self._names, inputs, strict=True)), run.options)
            finally:
                limit.end(run)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
            failure = run_error(error, self.device)
            if isinstance(failure, RunTimedOut):
                failure = RunStopped(_STOPPED) if limit.stopped else RunTimedOut(too_long(limit.limit_s))
        else:
            return arrays
        # Here, so that the error does not keep the batch: ONNX Runtime's own would hold this frame.
        raise failure

    def serve_whole(self) -> None:
        """Take the first axis of every tensor for a part of the request, which then runs alone."""
        self.signature = self.signature.whole()
        # Buffers that were bound before hold batches, which are filled up with rows.
        self.bound = None
        if self._runner is not None:
            self._runner.release()

    def bind(self, sizes: Sequence[int], row: Sequence[Array]) -> None:
        """Bind batches of these sizes to buffers on the device, where there is one and the network allows it.

        Args:
            sizes: numbers of rows.
            row: for each input one row, [1, ...] when batched.

        Raises:
            GraphsFailed: a CUDA graph could not be captured; another session must be opened, without graphs.
        """
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

    def longest_s(self, now_s: float) -> float:
        """How long the run has taken that has gone on for longest, in seconds, as of `time.monotonic`; 0 without one."""
        return self.limit.longest_s(now_s)

    def shrink(self) -> None:
        """Give back the memory that large runs took and ONNX Runtime keeps for the next ones; on the CPU only.

        Memory in use is not touched, so others may run meanwhile. Without an arena there is nothing to give back.
        """
        if self._runner is not None:
            return
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # ONNX Runtime shrinks only at the end of a run, but also of one that is told to end before its first operator.
        options.terminate = True
        # Of no public class: that run fails, and for a session without an arena it is refused.
        with suppress(Exception):
            self._compute(self.signature.own_outputs, self._blank(), options)

    def _blank(self) -> dict[str, Array]:
        """Inputs of the right types and shapes, as small as they can be."""
        lead = (1,) if self.signature.batched else ()
        shapes = {spec: (*lead, *[size or 1 for size in spec.graph_shape]) for spec in self.signature.inputs}
        # Zeros that nobody reads take no memory, whatever their number.
        return {
            spec.name: np.full(shape, "", object) if spec.dtype.hasobject else np.zeros(shape, spec.dtype)
            for spec, shape in shapes.items()
        }

    def measure(
        self,
        sizes: Sequence[int],
        batch: Callable[[int], Sequence[Array]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> dict[int, float]:
        """Measure the time of a run of each size: the fastest of a few runs, for at most a second in all.

        Args:
            sizes: numbers of rows, ascending.
            batch: makes the inputs of so many rows.
            clock: gives seconds.

        Returns:
            Seconds by number of rows, the sizes for which there was no time left out.

        Raises:
            PredictionError: the network failed on a batch.
        """
        measured: dict[int, float] = {}
        outputs = self.all_outputs
        end_s = clock() + _MEASURE_S
        for size in sizes:
            inputs = batch(size)
            share_s = clock() + _MEASURE_S / len(sizes)
            for _ in range(_MEASURE_RUNS):
                began_s = clock()
                self.run(inputs, outputs)
                now_s = clock()
                measured[size] = min(measured.get(size, math.inf), now_s - began_s)
                if now_s > share_s:
                    break
            if clock() > end_s:
                break
        return measured

    def probe(self, row: Sequence[Array], golden: Golden | None) -> None:
        """Run one row (or a fixed batch), and compare the logits with PyTorch's if there is a golden sample.

        Args:
            row: for each input; of the golden sample its first rows.
            golden: the golden sample.

        Raises:
            PredictionError: the run failed.
            LoadError: the answer is wrong.
        """
        if golden is None:
            self.run(row, self.signature.own_outputs)
            return
        (got,) = self.run(row, [self._logits()])
        compare(got, golden.logits[: len(row[0])], golden, 0, len(row[0]), axis=self.axis)

    @property
    def all_outputs(self) -> tuple[str, ...]:
        """Names of all outputs that the server may ask for: what clients may, and what the metrics need."""
        heads = self.signature.heads
        names = tuple(spec.name for spec in self.signature.outputs)
        return (*names, heads.confidence) if heads and heads.confidence else names

    @property
    def axis(self) -> str:
        """What an answer's first axis after the rows counts, for messages."""
        return "class" if self.signature.heads else "element"

    def _logits(self) -> str:
        return self.signature.heads.logits if self.signature.heads else self.signature.outputs[0].name

    def check_shapes(self, outputs: Sequence[Array], rows: int) -> str:
        """How the shape of an output differs from what is said of it; "" if none does.

        Args:
            outputs: one array for each of `all_outputs`.
            rows: of the batch; 1 without a batch axis.
        """
        lead = (rows,) if self.signature.batched else ()
        for spec, array in zip(self.signature.outputs, outputs, strict=False):
            expected = (*lead, *spec.graph_shape)
            if spec.ranked and (
                len(array.shape) != len(expected)
                or any(want not in (None, got) for want, got in zip(expected, array.shape, strict=True))
            ):
                return (
                    f"output '{spec.client_name}' has shape {list(array.shape)} where the graph or config.pbtxt says "
                    f"{[-1 if size is None else size for size in expected]}; it is answered as it is"
                )
        return ""

    @property
    def golden_step(self) -> int:
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
        rows, step = len(golden.logits), self.golden_step
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
                    got, *others = self.run(inputs, [logits, *golden.further])
                    classes = self.run(inputs, [heads.argmax])[0] if self.bound and heads else None
                except RunFailed as error:
                    raise LoadError(f"golden check failed: {error}") from error
                compare(got, golden.logits[part], golden, start, size, axis=self.axis)
                for (name, expected), other in zip(golden.further.items(), others, strict=True):
                    compare(other, expected[part], golden, start, size, f"numbers of output '{name}'")
                if classes is not None:
                    # They have their own CUDA graph.
                    compare_classes(classes, golden.logits[part], golden, start, size)


def too_long(limit_s: float) -> str:
    """What is said of a run that was ended because of its time."""
    return (
        f"the network's run was ended, because it took longer than {limit_s:g} s (max_run_s); it may depend on the values in "
        "the request, or in one that shared its batch"
    )
