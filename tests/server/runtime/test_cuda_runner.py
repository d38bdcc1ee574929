"""Runs from bound buffers: on the stand-in for CUDA with its rules, and for real on ONNX Runtime's CPU."""

import gc
import math
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.batching.entry import Entry, RowKind
from frostline_server.errors import GraphsFailed, LoadError, RunFailed
from frostline_server.model.instance import instance_run
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.predictions import Predictions
from frostline_server.model.sample_rows import RecentRow, Row, generated_rows
from frostline_server.model.shadow import Shadow, Tap
from frostline_server.runtime import cuda_buckets
from frostline_server.runtime.cuda_runner import DeviceRunner
from frostline_server.runtime.cuda_thread import Captures, CudaThread
from frostline_server.runtime.devices import CPU, CUDA, Provider
from frostline_server.runtime.golden import Golden
from frostline_server.runtime.run_limit import RunLimit
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from frostline_server.runtime.tuning import Tuning
from tests.support import onnx_models
from tests.support.puppet import TIMEOUT_S, Replies, batching
from tests.support.standin_cuda import Cuda, CudaSession

Array = np.ndarray[Any, Any]

GPU: list[Provider] = [(CUDA, {"device_id": "0"}), (CPU, {})]
SIZES = [1, 2, 4, 8]
WATCHED = ["frostline_argmax", "frostline_confidence"]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    device = Cuda()
    device.install(monkeypatch)
    return device


def load(folder: Path, model: onnx.ModelProto | None = None, **options: Any) -> Session:
    path = folder / "model.onnx"
    path.write_bytes((onnx_models.linear() if model is None else model).SerializeToString())
    return load_session(path, GPU, threads=1, strict=True, **options)


def warmed(folder: Path, model: onnx.ModelProto | None = None, **options: Any) -> Session:
    session = load(folder, model, **options)
    session.bind(SIZES, row_of(session))
    return session


def row_of(session: Session) -> Row:
    """A row to fill the buffers with."""
    return next(generated_rows(session.signature)).rows[0]


def golden(rows: int = 5, **changed: Any) -> Golden:
    x = onnx_models.rows(rows)
    given: dict[str, Any] = {"inputs": {"input": x}, "logits": onnx_models.logits_of(x), "rtol": 1e-4, "atol": 1e-5}
    return Golden(**{**given, **changed})


def counts(device: Cuda) -> tuple[int, int, int, int]:
    """Captures, replays, bound runs and plain ones of the session that was opened last."""
    session = device.sessions[-1]
    return session.captured, session.replayed, session.bound_runs, session.plain_runs


# Warming up


def test_every_bucket_and_set_of_outputs_is_captured_once_before_it_serves(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    captured, replayed, bound, plain = counts(cuda)
    # Two sets of outputs of four sizes; two runs of each before its capture.
    assert (captured, replayed, bound, plain) == (8, 0, 16, 0)
    for rows in range(1, 9):
        for wanted in (["logits"], WATCHED, ["frostline_softmax", *WATCHED]):
            session.run([onnx_models.rows(rows)], wanted)
    assert counts(cuda) == (8, 24, 16, 0)
    assert session.remarks == []


def test_what_turns_out_to_be_served_whole_is_not_filled_up_with_rows_any_more(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path, onnx_models.sees_large_batches())
    session.serve_whole()
    # The axis of rows is free, so that nothing is bound in place of what was.
    session.bind((1,), row_of(session))
    assert session.bound is None
    before = counts(cuda)
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.testing.assert_array_equal(session.run([x], ["y"])[0], x)
    assert counts(cuda) == (*before[:3], before[3] + 1)


def test_the_device_memory_of_the_buffers_is_that_of_the_plan(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    assert session.bound is not None
    assert cuda.allocated == session.bound.bytes
    session.run([onnx_models.rows(8)], ["logits"])
    assert cuda.allocated == session.bound.bytes


def test_nothing_is_opened_on_a_device_that_was_lost(tmp_path: Path, cuda: Cuda) -> None:
    load(tmp_path)
    cuda.lost = "CUDA error 700: an illegal memory access was encountered"
    with pytest.raises(LoadError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "the device cuda:0 has failed, and only a new process can use it again: CUDA error 700: an illegal memory access was encountered"
    )
    assert len(cuda.sessions) == 1


# Running


@pytest.mark.parametrize("rows", range(1, 12))
def test_answers_are_those_of_an_unbound_session_whatever_the_number_of_rows(
    tmp_path: Path, cuda: Cuda, rows: int
) -> None:
    session = warmed(tmp_path)
    x = onnx_models.rows(rows)
    argmax, logits, softmax = session.run([x], ["frostline_argmax", "logits", "frostline_softmax"])
    expected = onnx_models.logits_of(x)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(expected), rtol=1e-5)
    np.testing.assert_array_equal(argmax, expected.argmax(axis=1))


def test_answers_stay_as_they_are_when_the_next_batch_runs(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    x = onnx_models.rows(3)
    (logits,) = session.run([x], ["logits"])
    session.run([x + 100], ["logits"])
    np.testing.assert_array_equal(logits, onnx_models.logits_of(x))


def test_the_lent_inputs_are_not_written_to(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    x = onnx_models.rows(3)
    x.flags.writeable = False
    session.run([x], ["logits"])
    np.testing.assert_array_equal(x, onnx_models.rows(3))


def test_only_what_is_asked_for_leaves_the_device(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    before = cuda.copied_out
    session.run([onnx_models.rows(8)], ["frostline_argmax"])
    assert cuda.copied_out - before == 8 * 8


def test_a_batch_crosses_to_the_device_in_one_copy_of_its_bucket(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    before = cuda.copied_in
    session.run([onnx_models.rows(5)], ["frostline_argmax"])
    assert cuda.copied_in - before == 8 * 4 * 4


def test_padding_repeats_a_row_of_the_same_batch(tmp_path: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    session = warmed(tmp_path)
    seen: list[Array] = []
    compute = CudaSession._compute

    def watching(self: CudaSession, binding: Any) -> None:
        seen.append(binding.inputs["input"].buffer.copy())
        compute(self, binding)

    monkeypatch.setattr(CudaSession, "_compute", watching)
    session.run([np.full((8, 4), np.nan, np.float32)], ["logits"])
    x = onnx_models.rows(5)
    session.run([x], ["logits"])
    np.testing.assert_array_equal(seen[-1], np.concatenate([x, np.repeat(x[:1], 3, axis=0)]))


def test_more_rows_than_the_largest_bucket_run_unbound(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    (logits,) = session.run([onnx_models.rows(9)], ["logits"])
    assert counts(cuda)[3] == 1
    np.testing.assert_array_equal(logits, onnx_models.logits_of(onnx_models.rows(9)))


@pytest.mark.parametrize(
    "inputs",
    [[onnx_models.rows(2, 5)], [onnx_models.rows(2, dtype=np.float64)], [], [onnx_models.rows(2)] * 2],
    ids=["another shape", "another type", "too few", "too many"],
)
def test_what_the_network_refuses_is_refused_and_the_next_batch_runs(
    tmp_path: Path, cuda: Cuda, inputs: list[Array]
) -> None:
    session = warmed(tmp_path)
    with pytest.raises(RunFailed, match=r"^the network (failed|does not take this data): "):
        session.run(inputs, ["logits"])
    session.run([onnx_models.rows(2)], ["logits"])


def test_several_inputs_are_each_padded(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path, onnx_models.two_inputs())
    left, right = onnx_models.rows(3), onnx_models.rows(3, 2, 2)
    (logits,) = session.run([left, right], ["logits"])
    np.testing.assert_array_equal(logits, onnx_models.logits_of(left + right.reshape(3, 4)))
    assert counts(cuda)[3] == 0


@pytest.mark.parametrize("build", [onnx_models.fixed_batch, onnx_models.no_batch_axis, onnx_models.half, onnx_models.dense, onnx_models.truths, onnx_models.tokens])  # fmt: skip
def test_networks_of_every_kind_are_warmed_and_replayed(tmp_path: Path, cuda: Cuda, build: Any) -> None:
    session = load(tmp_path, build())
    row = row_of(session)
    session.bind(SIZES, row)
    session.run(row, session.all_outputs)
    if session.bound:
        assert counts(cuda)[1] > 0


@pytest.mark.parametrize("build", [onnx_models.dynamic_inner, onnx_models.strings])
def test_networks_without_fixed_numbers_run_unbound_and_uncaptured(tmp_path: Path, cuda: Cuda, build: Any) -> None:
    session = load(tmp_path, build())
    row = row_of(session)
    before = counts(cuda)[3]
    session.bind(SIZES, row)
    session.run(row, session.all_outputs)
    assert session.bound is None
    assert counts(cuda)[:3] == (0, 0, 0)
    assert counts(cuda)[3] == before + 1


# Bytes for an input of single precision


def bytes_of(rows: int) -> Array:
    return (np.arange(rows * 1024) % 251).reshape(rows, 1024).astype(np.uint8)


def wide() -> onnx.ModelProto:
    """1024 numbers to the sums of their halves."""
    weights = np.zeros((1024, 2), np.float32)
    weights[:512, 0] = weights[512:, 1] = 1
    return onnx_models.product(weights)


def sums(x: Array) -> Array:
    total: Array = x.reshape(len(x), 2, 512).sum(axis=2, dtype=np.float32)
    return total


@pytest.mark.parametrize("rows", [1, 3, 8, 9])
def test_bytes_cross_as_bytes_and_are_cast_on_the_device(tmp_path: Path, cuda: Cuda, rows: int) -> None:
    session = warmed(tmp_path, wide())
    assert session.uncast == {0}
    before = cuda.copied_in
    (logits,) = session.run([bytes_of(rows)], ["logits"])
    np.testing.assert_array_equal(logits, sums(bytes_of(rows)))
    size = next((size for size in SIZES if size >= rows), 0)
    assert cuda.copied_in - before == size * 1024


def test_bytes_and_numbers_take_turns_in_the_same_buffers(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path, wide())
    x = bytes_of(4)
    (from_bytes,) = session.run([x], ["logits"])
    (from_numbers,) = session.run([x.astype(np.float32) + 1], ["logits"])
    np.testing.assert_array_equal(from_numbers, from_bytes + 512)
    np.testing.assert_array_equal(session.run([x], ["logits"])[0], from_bytes)


def test_a_cast_that_alters_the_bytes_is_found_before_it_serves(
    tmp_path: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = CudaSession._compute

    def broken(self: CudaSession, binding: Any) -> None:
        compute(self, binding)
        if "cast" in binding.outputs:
            binding.outputs["cast"].buffer[0, 7] += 1

    monkeypatch.setattr(CudaSession, "_compute", broken)
    session = warmed(tmp_path, wide())
    assert session.uncast == frozenset()
    (remark,) = session.remarks
    assert remark.endswith("bytes cast on the device are not those that were sent")


def test_requests_of_bytes_are_batched_as_bytes_and_answered(tmp_path: Path, cuda: Cuda) -> None:
    x = bytes_of(8).astype(np.float32)
    served, told = loaded(tmp_path, model=wide(), inputs={"input": x}, labels=None, close=False)
    kind = RowKind(((1024,),), (np.dtype(np.uint8),), (np.dtype("<f4"),))
    replies, before = Replies(), cuda.copied_in
    served.batcher.submit(Entry(kind, 2, [bytes_of(2).tobytes()], ("frostline_argmax",), None, replies, None))
    (entry,) = replies.wait_for(1)
    assert served.batcher.close(TIMEOUT_S)
    assert entry.error is None
    np.testing.assert_array_equal(entry.outputs[0], sums(x[:2]).argmax(axis=1))
    assert (told, cuda.copied_in - before) == ([], 2 * 1024)


class Listening:
    """A shadow that keeps the types it is offered."""

    def __init__(self) -> None:
        self.dtypes: list[np.dtype[Any]] = []

    def offer(self, inputs: list[Array], logits: Array, argmax: Array) -> None:
        self.dtypes += [array.dtype for array in inputs]


def test_a_shadow_sees_bytes_as_the_numbers_they_stand_for(tmp_path: Path, cuda: Cuda) -> None:
    session, tap, listening = warmed(tmp_path, wide()), Tap(), Listening()
    tap.shadow = cast("Shadow", listening)
    run = instance_run(session, Predictions(), tap, RecentRow())
    for batch in (bytes_of(2), bytes_of(2).astype(np.float32)):
        _, show = run([batch], ("frostline_argmax",))
        assert show is not None
        show()
    assert listening.dtypes == [np.dtype(np.float32)] * 2


# Threads


def test_whoever_calls_one_thread_runs_so_graphs_are_found_and_no_memory_is_left_behind(
    tmp_path: Path, cuda: Cuda
) -> None:
    session = warmed(tmp_path)
    captured = counts(cuda)[0]
    for _ in range(5):
        thread = threading.Thread(target=session.probe, args=([onnx_models.rows(1)], golden()))
        thread.start()
        thread.join(TIMEOUT_S)
    assert counts(cuda)[0] == captured
    assert len(cuda.sessions[-1].threads) == 1


def test_a_probe_never_meets_a_batch_in_the_buffers(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    inside, most = 0, 0

    def entered() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        inside -= 1

    cuda.in_run = entered
    wrong = list[int]()

    def ask(base: int) -> None:
        for number in range(20):
            x = onnx_models.rows(3) + base + number
            if not np.array_equal(session.run([x], ["logits"])[0], onnx_models.logits_of(x)):
                wrong.append(base)

    def probe() -> None:
        for _ in range(20):
            session.probe([onnx_models.rows(5)[:1]], golden())

    threads = [threading.Thread(target=ask, args=(base,)) for base in (0, 100, 200)]
    threads.append(threading.Thread(target=probe))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert (wrong, most) == ([], 1)


def test_a_session_captures_while_another_one_serves(tmp_path: Path, cuda: Cuda) -> None:
    captures = Captures()
    serving = warmed(tmp_path, captures=captures)
    stop, failed, answered = threading.Event(), list[Exception](), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                serving.run([onnx_models.rows(2)], ["logits"])
            except RunFailed as error:
                failed.append(error)
            answered.set()

    thread = threading.Thread(target=serve)
    thread.start()
    assert answered.wait(TIMEOUT_S)
    for _ in range(3):
        warmed(tmp_path, captures=captures)
    stop.set()
    thread.join(TIMEOUT_S)
    assert failed == []


def test_without_the_common_rule_a_run_during_a_capture_fails(tmp_path: Path, cuda: Cuda) -> None:
    """The stand-in forbids what CUDA does, or the test before would prove nothing."""
    session = warmed(tmp_path)
    with cuda.capture(), pytest.raises(RunFailed, match="CUDA error 906"):
        session.run([onnx_models.rows(2)], ["logits"])


def test_a_session_that_is_let_go_ends_its_thread(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    name = next(thread for thread in threading.enumerate() if thread.name == "cuda-0")
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    name.join(TIMEOUT_S)
    assert not name.is_alive()


# Where it does not work


def test_a_network_of_which_a_part_is_on_the_cpu_runs_bound_without_graphs(tmp_path: Path, cuda: Cuda) -> None:
    cuda.refuse_graphs = "all compute graph nodes have not been partitioned to the CUDAExecutionProvider"
    session = warmed(tmp_path)
    assert counts(cuda) == (0, 0, 16, 0)
    assert session.remarks == [f"CUDA graphs are not captured: {cuda.refuse_graphs}"]


def test_a_failed_capture_gives_the_session_up(tmp_path: Path, cuda: Cuda) -> None:
    cuda.refuse_capture = "CUDA error 900: operation not permitted when stream is capturing"
    session = load(tmp_path)
    with pytest.raises(
        GraphsFailed, match="the run of 1 rows to frostline_argmax, frostline_confidence could not be captured"
    ):
        session.bind(SIZES, [onnx_models.rows(1)])


def test_buffers_that_have_no_room_cost_the_copies_and_not_the_model(tmp_path: Path, cuda: Cuda) -> None:
    cuda.memory = 100
    session = warmed(tmp_path)
    assert session.bound is None
    assert session.remarks == ["batches could not be bound to buffers on the device: CUDA error 2: out of memory"]
    np.testing.assert_array_equal(
        session.run([onnx_models.rows(2)], ["logits"])[0], onnx_models.logits_of(onnx_models.rows(2))
    )


def test_sizes_beyond_the_memory_for_buffers_are_named(
    tmp_path: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "frostline_server.runtime.session.binding_plan", partial(cuda_buckets.binding_plan, max_bytes=200)
    )
    session = warmed(tmp_path)
    assert session.bound is not None
    assert session.bound.sizes == (1, 2)
    assert session.remarks[0].startswith("batches of more than 2 rows are not bound to buffers on the device")
    session.run([onnx_models.rows(4)], ["logits"])


# The golden sample


def test_the_golden_sample_is_proved_in_every_bucket_through_the_graphs_that_serve(tmp_path: Path, cuda: Cuda) -> None:
    session = warmed(tmp_path)
    before = counts(cuda)[1]
    session.check_golden(golden(5), 8)
    # Two sets of outputs each: four single rows, 2+2+1, 4+1, 5, and 8 of which three are repeated.
    assert counts(cuda)[1] - before == 2 * (4 + 3 + 2 + 1 + 1)
    assert counts(cuda)[3] == 0


def test_a_bucket_that_answers_wrongly_is_found(tmp_path: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    session = warmed(tmp_path)
    compute = CudaSession._compute

    def broken(self: CudaSession, binding: Any) -> None:
        compute(self, binding)
        if "logits" in binding.outputs and len(binding.outputs["logits"].buffer) == 8:
            binding.outputs["logits"].buffer[6] += 0.5

    monkeypatch.setattr(CudaSession, "_compute", broken)
    with pytest.raises(LoadError, match=r"differ from PyTorch's by 0.5 at row 1, class 0 \(batch of 8; "):
        session.check_golden(golden(5), 8)


def test_a_graph_of_classes_that_answers_wrongly_is_found(
    tmp_path: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = warmed(tmp_path)
    compute = CudaSession._compute

    def broken(self: CudaSession, binding: Any) -> None:
        compute(self, binding)
        if list(binding.outputs) == WATCHED and len(binding.outputs["frostline_argmax"].buffer) == 4:
            binding.outputs["frostline_argmax"].buffer[2] = (binding.outputs["frostline_argmax"].buffer[2] + 1) % 3

    monkeypatch.setattr(CudaSession, "_compute", broken)
    with pytest.raises(LoadError, match=r"the class differs from PyTorch's at row 2 \(batch of 4\)"):
        session.check_golden(golden(5), 8)


# A version


def loaded(folder: Path, text: str = "", *, close: bool = True, **options: Any) -> tuple[LoadedModel, list[str]]:
    told = list[str]()
    loader = Loader(GPU, True, 1, batching(max_batch_size=8), devices=1)
    config = ModelConfig()
    if text:
        config.parameters["enable_cuda_graph"].string_value = text
    served = loader.load(onnx_models.write_artifact(folder, "linear", **options), "linear", config, told.append)
    if close:
        served.batcher.close(TIMEOUT_S)
    return served, told


def test_a_version_is_served_from_graphs(tmp_path: Path, cuda: Cuda) -> None:
    served, told = loaded(tmp_path)
    assert (told, served.device, served.provider, served.fell_back) == ([], "cuda:0", CUDA, False)
    assert counts(cuda)[0] == served.cuda_graphs == 8
    assert served.bound_bytes == cuda.allocated


def test_a_version_whose_capture_fails_is_loaded_again_without_graphs_and_says_so_once(
    tmp_path: Path, cuda: Cuda
) -> None:
    cuda.refuse_capture = "CUDA error 900"
    _, told = loaded(tmp_path)
    assert len(cuda.sessions) == 2
    assert [session.captures for session in cuda.sessions] == [True, False]
    (warning,) = told
    assert warning.startswith(
        "CUDA graphs are not captured: the run of 1 rows to frostline_argmax, frostline_confidence could not "
    )
    assert warning.endswith(": CUDA error 900")


def test_a_configuration_turns_graphs_off(tmp_path: Path, cuda: Cuda) -> None:
    served, told = loaded(tmp_path, "0")
    assert [session.captures for session in cuda.sessions] == [False]
    assert (told, counts(cuda)[0], served.cuda_graphs) == ([], 0, 0)


# For real, on the CPU


def prepared(folder: Path, model: onnx.ModelProto) -> tuple[DeviceRunner, Session]:
    """A runner over ONNX Runtime's own binding API, its buffers in main memory, and the session it runs."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    plain = load_session(path, [(CPU, {})], threads=1, strict=True)
    # The heads are only in the session that was loaded.
    session = plain._compute.__self__
    chosen = cuda_buckets.binding_plan(plain.signature, SIZES)
    assert chosen is not None
    runner = DeviceRunner(
        session,
        [spec.name for spec in plain.signature.inputs],
        partial(ort.OrtValue.ortvalue_from_shape_and_type, device_type="cpu", device_id=0),
        Tuning().device_run_options,
        partial(ort.InferenceSession, cuda_buckets.cast_network().SerializeToString(), providers=[CPU]),
        graphs=False,
        captures=Captures(),
        cuda_thread=CudaThread("cpu"),
        limit=RunLimit(math.inf, ort.RunOptions),
    )
    runner.start()
    lead = (1,) if plain.signature.batched else ()
    row = [np.zeros((*lead, *(size or 0 for size in spec.graph_shape)), spec.dtype) for spec in plain.signature.inputs]
    assert runner.prepare(plain.signature, chosen, row) == ""
    return runner, plain


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9])
def test_onnx_runtimes_own_binding_gives_the_answers_of_its_plain_run(tmp_path: Path, rows: int) -> None:
    runner, plain = prepared(tmp_path, onnx_models.linear())
    x = onnx_models.rows(rows)
    names = ["frostline_softmax", "frostline_argmax", "logits"]
    first = runner.run([x], names)
    runner.run([x * 3], names)
    for got, expected in zip(first, plain.run([x], names), strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype


@pytest.mark.parametrize(
    "element",
    [TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64, TensorProto.INT8,
     TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE],
)  # fmt: skip
def test_onnx_runtime_makes_and_fills_buffers_of_every_type_of_number(tmp_path: Path, element: int) -> None:
    runner, plain = prepared(tmp_path, onnx_models.passed_through(["rows", 2, 3], element=element))
    (given,) = plain.signature.inputs
    x = (np.arange(18).reshape(3, 2, 3) % 2).astype(given.dtype)
    (got,) = runner.run([x], [plain.signature.outputs[0].name])
    assert got.dtype == given.dtype
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize(
    "build", [onnx_models.two_inputs, onnx_models.fixed_batch, onnx_models.dense, onnx_models.half]
)
def test_onnx_runtime_binds_networks_of_every_kind(tmp_path: Path, build: Any) -> None:
    runner, plain = prepared(tmp_path, build())
    lead = (3,) if plain.signature.batched else ()
    inputs = [
        np.ones((*lead, *(size or 0 for size in spec.graph_shape)), spec.dtype) for spec in plain.signature.inputs
    ]
    names = [spec.name for spec in plain.signature.outputs]
    for got, expected in zip(runner.run(inputs, names), plain.run(inputs, names), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rows", [1, 3, 8, 9])
def test_onnx_runtime_casts_bytes_into_the_networks_own_buffer(tmp_path: Path, rows: int) -> None:
    runner, plain = prepared(tmp_path, wide())
    # As the batcher lends it: over the bytes of messages, which nobody can write to.
    x = np.frombuffer(bytes_of(rows).tobytes(), np.uint8).reshape(rows, 1024)
    np.testing.assert_array_equal(runner.run([x], ["logits"])[0], plain.run([x.astype(np.float32)], ["logits"])[0])


def test_onnx_runtime_takes_the_runs_options(tmp_path: Path) -> None:
    tuning = Tuning(run={"memory.enable_memory_arena_shrinkage": "cpu:0"})
    options = tuning.device_run_options("7")
    assert options.get_run_config_entry("gpu_graph_id") == "7"
    assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"
