"""The preparation of a version's sessions: whether its rows may share a batch, warm-up, and the proof.

All of it needs rows that the network answers: golden ones, those of `model_warmup`, or generated ones.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching
from frostline_server.errors import LoadError, OutOfMemory, PredictionError
from frostline_server.model.memory_growth import MemoryGrowth
from frostline_server.model.row_independence import SAME_ARITHMETIC, RowsDepend, Verdict, examine, refusals_left_out
from frostline_server.model.sample_rows import (
    Array,
    SampleRows,
    generated_rows,
    golden_rows,
    same_elements,
    warmup_rows,
)
from frostline_server.model.warmup import Warmup
from frostline_server.model.warmup_requests import WarmupRequest, warmup_requests
from frostline_server.model_config.scheduling import model_batching
from frostline_server.regular_files import FileReader
from frostline_server.runtime.golden import Golden
from frostline_server.runtime.session import Session

Reopen = Callable[[int], Session]
"""Opens the instance of this index again, without CUDA graphs."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """How a version's sessions can be used.

    Attributes:
        batching: how requests are batched, with the most rows that memory allows.
        rows: rows that the network answers; None if none is known.
        probabilities: whether what seems to be logits by the graph are probabilities, by the answers to these rows. Then
            nothing else is prepared: the sessions are to be opened again, and to be told so.
    """

    batching: Batching
    rows: SampleRows | None
    probabilities: bool = False


@dataclass(frozen=True, slots=True)
class Preparation:
    """What sessions are prepared with.

    Attributes:
        config: the model's own configuration.
        folder: the model's folder.
        files: reads what is in it.
        golden: the version's golden sample, if it has one.
        defaults: the batching of models whose configuration does not say.
        max_run_bytes: memory that one run may take.
        warn: told of what could not be done and is not a failure.
        go_on: called before each run; raises when that is no longer wanted.
    """

    config: model_config_pb2.ModelConfig
    folder: Path
    files: FileReader
    golden: Golden | None
    defaults: Batching
    max_run_bytes: int
    warn: Callable[[str], None]
    go_on: Callable[[], None]

    def prepare(self, sessions: list[Session], reopen: Reopen) -> Prepared:
        """Prepare all instances of a version; one that had to be opened again takes its place in `sessions`.

        Raises:
            LoadError: the network fails on a real row, answers something else than PyTorch, or cannot be batched as its
                configuration demands.
        """
        signature = sessions[0].signature
        batching = model_batching(self.config, self.defaults, batched=signature.batched)
        requests = warmup_requests(self.config, signature, batching.max_batch_size, self.folder, self.files)
        growth, until_s = MemoryGrowth(self.max_run_bytes), time.monotonic() + PATIENCE_S
        rows, verdict = self._examined(sessions[0], requests, growth, until_s)
        if rows is not None and sum_to_one(sessions[0], rows):
            return Prepared(batching, rows, probabilities=True)
        warmup = Warmup(batching, rows, requests, self.golden, self.warn, self.go_on)
        if signature.batched and not may_batch(self.config, verdict, self.warn):
            warmup = _served_whole(sessions, warmup)
        try:
            most = self._proved(sessions, reopen, warmup, growth, until_s)
        except RowsDepend as found:
            # Only a large batch has shown it.
            may_batch(self.config, Verdict(independent=False, disproved=True, reason=str(found)), self.warn)
            warmup = _served_whole(sessions, warmup)
            most = self._proved(sessions, reopen, warmup, growth, until_s)
        return Prepared(warmup.batching.limited(most), rows)

    def _examined(
        self, session: Session, requests: Sequence[WarmupRequest], growth: MemoryGrowth, until_s: float
    ) -> tuple[SampleRows | None, Verdict]:
        """Rows that the network answers, and whether they are independent.

        Raises:
            LoadError: the network does not answer a real row.
        """
        signature = session.signature
        real = (
            golden_rows(self.golden, signature, session.golden_step)
            if self.golden is not None
            else warmup_rows([request.row for request in requests])
        )

        def run(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
            self.go_on()
            rows = len(inputs[0]) if signature.batched else 1
            if rows > 1 and not growth.fits(rows):
                raise OutOfMemory(f"{rows} rows would take more than max_run_bytes, {growth.budget_bytes >> 20} MiB")
            answers = session.run(inputs, outputs)
            growth.ran(rows)
            return answers

        same = SAME_ARITHMETIC if session.device == "cpu" else _ON_A_GPU
        # A golden sample that fills no run is refused later, when it is compared.
        samples = [real] if real is not None and real.rows else _patiently(generated_rows(signature), until_s)
        try:
            return examine(run, signature, samples, same)
        except PredictionError as error:
            raise LoadError(f"warm-up with one row failed: {error}") from error

    def _proved(
        self, sessions: list[Session], reopen: Reopen, warmup: Warmup, growth: MemoryGrowth, until_s: float
    ) -> int:
        """Warm and prove every instance; returns the most rows of a batch, which memory may limit.

        Raises:
            LoadError: see `Warmup.prove`.
            RowsDepend: see `Warmup.prove`.
        """
        most = warmup.batching.max_batch_size
        for index, session in enumerate(sessions):

            def reopened(index: int = index, batched: bool = session.signature.batched) -> Session:
                again = reopen(index)
                if again.signature.batched and not batched:
                    again.serve_whole()
                return again

            sessions[index], fitting = warmup.prove(session, growth, until_s, reopened)
            most = min(most, fitting)
            growth, until_s = MemoryGrowth(self.max_run_bytes), time.monotonic() + PATIENCE_S
        return most


PATIENCE_S = 5.0
"""How long the proof and the batch sizes of an instance may take, but for single runs that take longer."""
_ON_A_GPU = 1e-3
"""How far equal runs on a GPU may be apart: some of its kernels add in the order in which threads happen to end."""


def _patiently(samples: Iterator[SampleRows], until_s: float) -> Iterator[SampleRows]:
    """The samples for which there is time; at least one."""
    for sample in samples:
        yield sample
        if time.monotonic() > until_s:
            return


_OFF_ONE = 2e-3
"""How far probabilities of half precision may add up to something else than 1."""


def sum_to_one(session: Session, sample: SampleRows) -> bool:
    """Whether what seems to be logits by the graph are probabilities: none below 0, and of each row they add up to 1.

    Nothing is shown by rows that are all answered alike, nor where the publisher says what they are.
    """
    signature = session.signature
    if signature.heads is None or signature.heads.probabilities or "frostline.output" in session.metadata:
        return False
    answers = []
    for row in sample.rows:
        with refusals_left_out():
            answers += session.run(row, [signature.heads.logits])
    # A row with a missing number may be answered with none; and a file may be wrong about the axes.
    known = [answer.astype(np.float64) for answer in answers if answer.ndim > 1 and np.isfinite(answer).all()]
    if not known or (signature.batched and all(same_elements(known[0], other) for other in known[1:])):
        return False
    return all((answer >= 0).all() and (abs(answer.sum(axis=1) - 1) <= _OFF_ONE).all() for answer in known)


def may_batch(config: model_config_pb2.ModelConfig, verdict: Verdict, warn: Callable[[str], None]) -> bool:
    """Whether a graph with a free batch axis may be served with it: rows of several requests may share a run, or never would.

    Raises:
        LoadError: the configuration demands batches, and it is not proved that rows are independent.
    """
    if verdict.independent or (config.max_batch_size == 1 and verdict.single):
        return True
    remedy = (
        ""
        if verdict.disproved
        else "; different rows in a golden.npz or a model_warmup may prove that they may share one"
    )
    if config.max_batch_size:
        raise LoadError(
            f"config.pbtxt sets max_batch_size {config.max_batch_size}, but it is not proved that rows of several requests may "
            f"share a run: {verdict.reason}; write max_batch_size: 0 to serve each request alone, of whatever shape (dims then "
            f"have all axes), or 1 to take one row at a time{remedy}"
        )
    warn(f"each request runs alone, as with max_batch_size: 0, because {verdict.reason}{remedy}")
    return False


def _served_whole(sessions: Sequence[Session], warmup: Warmup) -> Warmup:
    """Let each request run alone from now on."""
    for session in sessions:
        session.serve_whole()
    return replace(warmup, batching=warmup.batching.limited(1))
