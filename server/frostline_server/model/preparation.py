"""The preparation of a version's sessions: whether its rows may share a batch, warm-up, and the proof.

All of it needs rows that the network answers: golden ones, those of `model_warmup`, or generated ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.pb import model_config_pb2
from frostline_server.batching.request_queue import Batching
from frostline_server.errors import LoadError, PredictionError
from frostline_server.model.row_independence import RowsDepend, Verdict, examine
from frostline_server.model.sample_rows import Array, SampleRows, generated_rows, golden_rows, warmup_rows
from frostline_server.model.warmup import Warmup
from frostline_server.model.warmup_requests import WarmupRequest, warmup_requests
from frostline_server.model_config.scheduling import model_batching
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
    """

    batching: Batching
    rows: SampleRows | None


@dataclass(frozen=True, slots=True)
class Preparation:
    """What sessions are prepared with.

    Attributes:
        config: the model's own configuration.
        folder: the model's folder.
        golden: the version's golden sample, if it has one.
        defaults: the batching of models whose configuration does not say.
        max_run_bytes: memory that one run may take.
        warn: told of what could not be done and is not a failure.
        go_on: called before each run; raises when that is no longer wanted.
    """

    config: model_config_pb2.ModelConfig
    folder: Path
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
        requests = warmup_requests(self.config, signature, batching.max_batch_size, self.folder)
        rows, verdict = self._examined(sessions[0], requests)
        warmup = Warmup(batching, rows, requests, self.golden, self.max_run_bytes, self.warn, self.go_on)
        if signature.batched and not may_batch(self.config, verdict, self.warn):
            warmup = _served_whole(sessions, warmup)
        try:
            most = _proved(sessions, reopen, warmup)
        except RowsDepend as found:
            # Only a large batch has shown it.
            may_batch(self.config, Verdict(independent=False, disproved=True, reason=str(found)), self.warn)
            warmup = _served_whole(sessions, warmup)
            most = _proved(sessions, reopen, warmup)
        return Prepared(replace(warmup.batching, max_batch_size=most), rows)

    def _examined(self, session: Session, requests: Sequence[WarmupRequest]) -> tuple[SampleRows | None, Verdict]:
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
            return session.run(inputs, outputs)

        try:
            # A golden sample that fills no run is refused later, when it is compared.
            return examine(run, signature, [real] if real is not None and real.rows else generated_rows(signature))
        except PredictionError as error:
            raise LoadError(f"warm-up with 1 rows failed: {error}") from error


def may_batch(config: model_config_pb2.ModelConfig, verdict: Verdict, warn: Callable[[str], None]) -> bool:
    """Whether rows of several requests may share a run, for a graph with a free batch axis.

    Raises:
        LoadError: the configuration demands batches, and rows are not independent.
    """
    if verdict.independent:
        return True
    most = config.max_batch_size
    if not most:
        remedy = (
            "" if verdict.disproved else "; rows in a golden.npz or a model_warmup may prove that they may share one"
        )
        warn(f"each request runs alone, as with max_batch_size: 0, because {verdict.reason}{remedy}")
        return False
    if verdict.disproved:
        raise LoadError(
            f"config.pbtxt sets max_batch_size {most}, but rows of several requests must not share a run: {verdict.reason}; "
            "write max_batch_size: 0 to serve each request alone"
        )
    warn(f"batches are made because config.pbtxt says so; that rows are independent is not proved: {verdict.reason}")
    return True


def _served_whole(sessions: Sequence[Session], warmup: Warmup) -> Warmup:
    """Let each request run alone from now on."""
    for session in sessions:
        session.serve_whole()
    return replace(warmup, batching=replace(warmup.batching, max_batch_size=1))


def _proved(sessions: list[Session], reopen: Reopen, warmup: Warmup) -> int:
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

        sessions[index], fitting = warmup.prove(session, reopened)
        most = min(most, fitting)
    return most
