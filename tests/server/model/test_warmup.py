"""What is run before a version is READY, how large its batches may be, and what it costs to be wrong about a row."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from frostline_server.errors import LoadError, OutOfMemory, RunFailed
from frostline_server.model.memory_growth import MemoryGrowth
from frostline_server.model.row_independence import RowsDepend
from frostline_server.model.sample_rows import SampleRows
from frostline_server.model.warmup import Warmup, cycled
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from tests.support import onnx_models
from tests.support.puppet import batching

Array = np.ndarray[Any, Any]

ROWS = SampleRows(tuple((row[None],) for row in onnx_models.rows(3)), "golden.npz", real=True)


def load(folder: Path, model: onnx.ModelProto | None = None) -> Session:
    (folder / "model.onnx").write_bytes((model or onnx_models.linear()).SerializeToString())
    return load_session(folder / "model.onnx", [(CPU, {})], threads=1, strict=True)


def warm(
    session: Session,
    rows: SampleRows | None = ROWS,
    *,
    most: int = 8,
    growth: MemoryGrowth | None = None,
    until_s: float = math.inf,
) -> tuple[int, list[str]]:
    """The most rows of a batch, and the warnings."""
    told: list[str] = []
    plan = Warmup(batching(max_batch_size=most), rows, [], None, told.append, lambda: None)
    _, fitting = plan.prove(
        session, growth or MemoryGrowth(1 << 40), until_s, lambda: pytest.fail("there are no graphs")
    )
    return fitting, told


class Watched:
    """The sizes of a session's runs, with an error for some of them."""

    def __init__(
        self, session: Session, monkeypatch: pytest.MonkeyPatch, errors: dict[int, RunFailed] | None = None
    ) -> None:
        self.sizes: list[int] = []
        run = session.run

        def watched(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
            self.sizes.append(len(inputs[0]))
            if errors and len(inputs[0]) in errors:
                raise errors[len(inputs[0])]
            return run(inputs, outputs)

        monkeypatch.setattr(session, "run", watched)


def test_every_size_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path)
    watched = Watched(session, monkeypatch)
    assert warm(session, most=12) == (12, [])
    assert watched.sizes == [1, 1, 1, 2, 4, 8, 12]


def test_a_batch_holds_the_different_rows_in_turn() -> None:
    (batch,) = cycled(ROWS, 5)
    np.testing.assert_array_equal(batch, onnx_models.rows(3)[[0, 1, 2, 0, 1]])


def test_without_a_known_row_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path)
    watched = Watched(session, monkeypatch)
    most, (warning,) = warm(session, None)
    assert most == 8
    assert warning.startswith("no row is known that the network answers")
    assert watched.sizes == []


def test_a_network_without_a_batch_axis_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path, onnx_models.no_batch_axis())
    watched = Watched(session, monkeypatch)
    row = SampleRows(((onnx_models.rows(4, 1).ravel(),),), "generated values", real=False)
    warm(session, row)
    assert watched.sizes == [4]


def test_a_row_that_is_answered_otherwise_in_a_large_batch_is_found(tmp_path: Path) -> None:
    # The rows of a batch of seven are independent; from eight on each row sees the batch's size.
    session = load(tmp_path, onnx_models.sees_large_batches())
    with pytest.raises(RowsDepend, match="output 'y' of a row among 8 is not the one that the row gets alone"):
        warm(session)


def test_a_network_that_fails_on_a_size_depends_on_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path)
    Watched(session, monkeypatch, {4: RunFailed("no such reshape")})
    with pytest.raises(RowsDepend, match="it fails on 4 rows: no such reshape"):
        warm(session)


def test_a_network_that_fails_on_a_row_it_answered_before_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path)
    Watched(session, monkeypatch, {1: RunFailed("no more")})
    with pytest.raises(LoadError, match="warm-up with one row failed: no more"):
        warm(session)


def test_batches_for_which_there_is_no_memory_are_neither_run_nor_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path)
    watched = Watched(session, monkeypatch)
    most, (warning,) = warm(
        session, most=64, growth=MemoryGrowth(50, lambda: 10 * max(watched.sizes, default=0), quiet)
    )
    assert most == 4
    assert watched.sizes == [1, 1, 1, 2, 4, 4], "the last is measured again before it limits anything"
    assert warning == (
        "batches have at most 4 rows, not 64: more would take more than 0 MiB of memory, the limit max_run_bytes"
    )


def test_what_the_rest_of_the_process_took_meanwhile_limits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path)
    watched = Watched(session, monkeypatch)
    noise = [0, 0, 0, 4000, 0]

    def peak() -> int:
        return 10 * max(watched.sizes, default=0) + (noise.pop(0) if noise else 0)

    assert warm(session, most=8, growth=MemoryGrowth(200, peak, quiet)) == (8, [])


def quiet() -> None:
    """Resets nothing."""


def test_a_batch_that_runs_out_of_memory_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tmp_path)
    Watched(session, monkeypatch, {8: OutOfMemory("Failed to allocate memory for requested buffer of size 1")})
    most, (warning,) = warm(session)
    assert most == 4
    assert warning == "batches have at most 4 rows: Failed to allocate memory for requested buffer of size 1"


def test_batches_that_would_take_too_long_wait_for_their_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = load(tmp_path)
    watched = Watched(session, monkeypatch)
    assert warm(session, until_s=0.0) == (8, [])
    assert watched.sizes == [1, 1, 1]


def test_a_real_row_whose_answer_has_another_shape_is_told_and_a_guess_is_not(tmp_path: Path) -> None:
    model = onnx_models.passed_through(["n", None], output="same")
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, ["n", 7]))
    session = load(tmp_path, model)
    _, told = warm(session)
    assert set(told) == {
        "output 'same' has shape [1, 4] where the graph or config.pbtxt says [1, 7]; it is answered as it is"
    }
    assert warm(session, SampleRows(ROWS.rows, "generated values", real=False)) == (8, [])
