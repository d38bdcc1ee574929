"""Model warm-up: what is run before a version is READY, and the proof that it answers as PyTorch did.

Every batch size is run once, as far as memory and time allow, and so are the requests that the configuration wants run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from frostline_server.batching.request_queue import Batching
from frostline_server.errors import GraphsFailed, LoadError, OutOfMemory, PredictionError
from frostline_server.model.memory_growth import MemoryGrowth
from frostline_server.model.row_independence import RowsDepend, check_company, joined
from frostline_server.model.sample_rows import MOST, Array, SampleRows
from frostline_server.model.warmup_requests import WarmupRequest
from frostline_server.runtime.golden import Golden
from frostline_server.runtime.session import Session

MAX_WARM_SIZE = 1024
"""Larger batches are not run before READY: filling memory for them would cost more than their first run."""
_SHRINK_BYTES = 256 << 20
"""So much memory that large batches took is given back before READY."""


@dataclass(frozen=True, slots=True)
class Warmup:
    """What is run before READY, the same for each instance of a version.

    Attributes:
        batching: how its requests are batched.
        rows: what its batches consist of; None if no row is known that the network answers.
        requests: the configuration's own.
        golden: the golden sample.
        warn: told of what could not be done and is not a failure.
        go_on: called before each run; raises when that is no longer wanted.
    """

    batching: Batching
    rows: SampleRows | None
    requests: Sequence[WarmupRequest]
    golden: Golden | None
    warn: Callable[[str], None]
    go_on: Callable[[], None]

    def prove(
        self, session: Session, growth: MemoryGrowth, until_s: float, reopen: Callable[[], Session]
    ) -> tuple[Session, int]:
        """Run one instance at every batch size, and compare its answers with the golden sample's.

        Args:
            session: the instance's.
            growth: of the memory that its batches take.
            until_s: when its batch sizes should have run, on the `time.monotonic` clock; larger ones wait for their first
                request.
            reopen: opens it again without CUDA graphs; called if they cannot be captured.

        Returns:
            The session that is warm and proved, which is the given one or the one opened again, and the most rows of a
            batch that memory allows.

        Raises:
            LoadError: the network failed on real rows, or answered something else than PyTorch.
            RowsDepend: a row is not answered in a large batch as it is alone.
        """
        try:
            most = self._run(session, growth, until_s)
        except GraphsFailed as error:
            self.warn(f"CUDA graphs are not captured: {error}")
            session = reopen()
            most = self._run(session, growth, until_s)
        for remark in session.remarks:
            self.warn(remark)
        if self.golden is not None:
            session.check_golden(self.golden, most)
        return session, most

    def _run(self, session: Session, growth: MemoryGrowth, until_s: float) -> int:
        most = self.batching.max_batch_size
        if self.rows is None:
            self.warn(
                "no row is known that the network answers, so it could not be warmed up; add a golden.npz or a model_warmup"
            )
        elif session.signature.batched:
            most = self._run_sizes(session, self.rows, growth, until_s)
        else:
            self._run_whole(session, self.rows)
        for request in self.requests:
            request.run(session, self.go_on)
        return most

    def _run_whole(self, session: Session, rows: SampleRows) -> None:
        """Run the first row, which is a whole request."""
        session.bind((1,), rows.rows[0])
        self.go_on()
        try:
            outputs = session.run(rows.rows[0], session.all_outputs)
        except PredictionError as error:
            raise LoadError(f"warm-up failed: {error}") from error
        self._compare(session, outputs)

    def _run_sizes(self, session: Session, rows: SampleRows, growth: MemoryGrowth, until_s: float) -> int:
        """Run every size, each row of it being answered as it is alone; returns the most rows that memory allows."""
        names, own = session.all_outputs, session.signature.own_outputs
        sizes = batch_sizes(self.batching)
        session.bind(sizes, rows.rows[0])
        took_s, ran = 0.0, 1
        alone: list[list[Array]] = []
        for row in rows.rows:
            self.go_on()
            started_s = time.monotonic()
            try:
                outputs = session.run(row, names)
            except PredictionError as error:
                raise LoadError(f"warm-up with one row failed: {error}") from error
            took_s = time.monotonic() - started_s
            alone.append([outputs[names.index(name)] for name in own])
            self._compare(session, outputs)
        growth.ran(1)
        for size in sizes:
            if size == 1:
                continue
            if not growth.fits(size):
                growth.measure_again(partial(session.run, cycled(rows, ran), names))
            if not growth.fits(size) or time.monotonic() + took_s * size / ran > until_s:
                break
            self.go_on()
            started_s = time.monotonic()
            try:
                outputs = session.run(cycled(rows, size), names)
            except PredictionError as error:
                if isinstance(error, OutOfMemory):
                    self.warn(f"batches have at most {ran} rows: {error}")
                    session.shrink()
                    return ran
                raise RowsDepend(f"it fails on {size} rows: {error}") from error
            took_s, ran = time.monotonic() - started_s, size
            growth.ran(size)
            company = [alone[place % len(alone)] for place in range(size)]
            places = sorted({*range(min(MOST, size)), size - 1})
            check_company(
                own, company, [outputs[names.index(name)] for name in own], places, session.signature.traits.rounding
            )
        if growth.predicted(ran) > _SHRINK_BYTES:
            session.shrink()
        fitting = [size for size in (*sizes, self.batching.max_batch_size) if size <= ran or growth.fits(size)]
        most = max(fitting)
        return most if most == self.batching.max_batch_size else self._limited(most, growth)

    def _limited(self, most: int, growth: MemoryGrowth) -> int:
        self.warn(
            f"batches have at most {most} rows, not {self.batching.max_batch_size}: more would take more than "
            f"{growth.budget_bytes >> 20} MiB of memory, the limit max_run_bytes"
        )
        return most

    def _compare(self, session: Session, outputs: Sequence[Array]) -> None:
        """Warn of answers to a real row that have another shape than the graph or the configuration says."""
        # Sizes in the answer to a generated row may follow from its values.
        if self.rows is not None and self.rows.real and (difference := session.check_shapes(outputs, 1)):
            self.warn(difference)


def cycled(rows: SampleRows, size: int) -> list[Array]:
    """A batch of so many rows, one after the other and again from the first; for each input an array [size, ...]."""
    return joined([rows.rows[index % len(rows.rows)] for index in range(size)])


def batch_sizes(batching: Batching) -> list[int]:
    """The sizes to warm: powers of two up to the most rows of a batch, that, and the preferred sizes.

    None is above `MAX_WARM_SIZE`.
    """
    most = min(batching.max_batch_size, MAX_WARM_SIZE)
    powers = {2**power for power in range(most.bit_length()) if 2**power < most}
    return sorted(powers | {most} | {size for size in batching.preferred_sizes if size <= most})
