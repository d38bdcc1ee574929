"""One ONNX file on one device: where it is bound, what it is told to be, and what its golden sample proves."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from frostline_server.errors import InvalidData, LoadError, RunFailed
from frostline_server.regular_files import FileReader
from frostline_server.runtime.devices import CPU, CUDA, Provider
from frostline_server.runtime.golden import Golden, read_golden
from frostline_server.runtime.graph.heads import Heads
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from frostline_server.runtime.signature import TensorSpec
from tests.support import onnx_models

Array = np.ndarray[Any, Any]

ON_CPU: list[Provider] = [(CPU, {})]
FLOAT = np.dtype(np.float32)


def load(folder: Path, model: onnx.ModelProto | None = None) -> Session:
    path = folder / "model.onnx"
    path.write_bytes((onnx_models.linear() if model is None else model).SerializeToString())
    return load_session(path, ON_CPU, threads=1, strict=True)


def golden(rows: int = 8, **changed: Any) -> Golden:
    x = onnx_models.rows(rows)
    given: dict[str, Any] = {"inputs": {"input": x}, "logits": onnx_models.logits_of(x), "rtol": 1e-4, "atol": 1e-5}
    return Golden(**{**given, **changed})


# Loading


def test_a_file_is_bound_to_the_cpu_and_says_so(tmp_path: Path) -> None:
    session = load(tmp_path)
    assert (session.provider, session.device) == (CPU, "cpu")


def test_the_files_own_metadata_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, onnx_models.linear(labels=["a"])).metadata == {"frostline.labels": '["a"]'}


def broken(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (broken(b"this is no network"), "cannot be read"),
        (broken(onnx_models.linear().SerializeToString()[:-40]), "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, "cannot be read"),
        (broken(b""), "cannot be run"),
        (broken(onnx_models.unknown_operator().SerializeToString()), "No Op registered for Frobnicate"),
        (broken(onnx_models.sequences().SerializeToString()), "'parts' is a seq(tensor(float))"),
    ],
    ids=["garbage", "truncated", "a folder", "missing", "empty", "unknown operator", "no tensor"],
)
def test_a_file_that_cannot_be_served_is_refused_with_a_reason(
    tmp_path: Path, write: Callable[[Path], None], why: str
) -> None:
    path = tmp_path / "model.onnx"
    write(path)
    with pytest.raises(LoadError) as caught:
        load_session(path, ON_CPU, threads=1, strict=False)
    assert why in str(caught.value)


def test_weights_in_a_file_of_their_own_are_found_beside_the_network(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx_models.linear(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size
    x = onnx_models.rows(2)
    (logits,) = load_session(path, ON_CPU, threads=1, strict=True).run([x], ["logits"])
    np.testing.assert_allclose(logits, onnx_models.logits_of(x))


def test_a_gpu_that_was_demanded_and_could_not_be_bound_is_a_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path)
    nowhere: list[Provider] = [(CUDA, {"device_id": "99"}), (CPU, {})]
    with pytest.raises(LoadError, match=CUDA):
        load_session(tmp_path / "model.onnx", nowhere, threads=1, strict=True)


# What it takes and gives


def spec(name: str, datatype: str, dtype: Any, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, datatype, np.dtype(dtype), shape)


def head(alias: str, datatype: str, dtype: Any, *shape: int | None) -> TensorSpec:
    return replace(spec(f"frostline_{alias}", datatype, dtype, *shape), alias=alias)


HEADED = (spec("logits", "FP32", "f4", 3), head("softmax", "FP32", "f4", 3), head("argmax", "INT64", "i8"))


@pytest.mark.parametrize(
    ("build", "inputs", "outputs", "batched"),
    [
        (onnx_models.linear, (spec("input", "FP32", "f4", 4),), HEADED, True),
        (
            onnx_models.two_inputs,
            (spec("left", "FP32", "f4", 4), spec("right", "FP32", "f4", 2, 2)),
            HEADED,
            True,
        ),
        (onnx_models.dynamic_inner, (spec("input", "FP32", "f4", None, 4),), HEADED, True),
        (
            onnx_models.half,
            (spec("input", "FP16", "f2", 4),),
            (spec("logits", "FP16", "f2", 3), head("softmax", "FP16", "f2", 3), head("argmax", "INT64", "i8")),
            True,
        ),
        (
            onnx_models.fixed_batch,
            (spec("input", "FP32", "f4", 1, 4),),
            (
                spec("logits", "FP32", "f4", 1, 3),
                head("softmax", "FP32", "f4", 1, 3),
                head("argmax", "INT64", "i8", 1),
            ),
            False,
        ),
        (onnx_models.no_batch_axis, (spec("input", "FP32", "f4", 4),), (spec("scores", "FP32", "f4", 3),), False),
        (
            onnx_models.two_outputs,
            (spec("input", "FP32", "f4", 4),),
            (spec("double", "FP32", "f4", 4), spec("total", "FP32", "f4")),
            True,
        ),
        (onnx_models.strings, (spec("input", "BYTES", object, 2),), (spec("echo", "BYTES", object, 2),), True),
        (
            onnx_models.dense,
            (spec("input", "FP32", "f4", 2, 3, 3),),
            (
                spec("logits", "FP32", "f4", 2, 3, 3),
                head("softmax", "FP32", "f4", 2, 3, 3),
                head("argmax", "INT64", "i8", 3, 3),
            ),
            True,
        ),
        (
            onnx_models.already_softmax,
            (spec("input", "FP32", "f4", 4),),
            (spec("softmax", "FP32", "f4", 3), head("argmax", "INT64", "i8")),
            True,
        ),
    ],
)
def test_the_signature_is_that_of_the_graph_and_its_heads(
    tmp_path: Path,
    build: Callable[[], onnx.ModelProto],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    batched: bool,
) -> None:
    model = build()
    signature = load(tmp_path, model).signature
    assert signature.inputs == inputs
    assert signature.outputs == outputs
    assert signature.batched is batched
    assert signature.own_outputs == tuple(output.name for output in model.graph.output)
    expected = {
        onnx_models.dense: Heads("logits", "frostline_softmax", "frostline_argmax"),
        onnx_models.already_softmax: Heads(
            "softmax", "softmax", "frostline_argmax", "frostline_confidence", probabilities=True
        ),
    }
    headed = "argmax" in [output.alias for output in outputs]
    assert signature.heads == (expected.get(build, onnx_models.HEADS) if headed else None)


@pytest.mark.parametrize(
    ("element", "datatype"),
    [
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.UINT16, "UINT16"),
        (TensorProto.UINT32, "UINT32"),
        (TensorProto.UINT64, "UINT64"),
        (TensorProto.INT8, "INT8"),
        (TensorProto.INT16, "INT16"),
        (TensorProto.INT32, "INT32"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.STRING, "BYTES"),
    ],
)
def test_every_element_type_has_its_protocol_name_and_passes_through(
    tmp_path: Path, element: int, datatype: str
) -> None:
    session = load(tmp_path, onnx_models.passed_through(["rows", 1, 2], element=element))
    (given,) = session.signature.inputs
    assert given.datatype == datatype
    array = np.array([[["a", "é"]]], object) if datatype == "BYTES" else np.ones((1, 1, 2), given.dtype)
    (got,) = session.run([array], ["logits"])
    assert got.dtype == given.dtype
    np.testing.assert_array_equal(got, array)


def test_a_type_the_protocol_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"'input' is a tensor\(bfloat16\), which this server cannot pass"):
        load(tmp_path, onnx_models.passed_through(["rows", 2, 2], element=TensorProto.BFLOAT16))


def test_axes_onnx_runtime_can_infer_need_not_be_in_the_file(tmp_path: Path) -> None:
    model = onnx_models.linear()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    logits, softmax, argmax = load(tmp_path, model).signature.outputs
    assert (logits.shape, logits.ranked) == (softmax.shape, softmax.ranked) == ((3,), True)
    assert (argmax.shape, argmax.ranked) == ((), True)
    assert [given.ranked for given in load(tmp_path, onnx_models.unranked()).signature.outputs] == [False]


# Running


def test_a_run_computes_the_outputs_asked_for_in_their_order(tmp_path: Path) -> None:
    x = onnx_models.rows(3)
    argmax, logits = load(tmp_path).run([x], ["frostline_argmax", "logits"])
    np.testing.assert_array_equal(logits, onnx_models.logits_of(x))
    np.testing.assert_array_equal(argmax, onnx_models.logits_of(x).argmax(axis=1))


def test_inputs_are_given_in_graph_order(tmp_path: Path) -> None:
    left, right = onnx_models.rows(2), onnx_models.rows(2, 2, 2)
    (logits,) = load(tmp_path, onnx_models.two_inputs()).run([left, right], ["logits"])
    np.testing.assert_array_equal(logits, onnx_models.logits_of(left + right.reshape(2, 4)))


def test_what_the_network_refuses_is_a_failed_run(tmp_path: Path) -> None:
    session = load(tmp_path)
    with pytest.raises(InvalidData, match=r"^the network does not take this data: Got invalid dimensions"):
        session.run([onnx_models.rows(1, 5)], ["logits"])
    with pytest.raises(RunFailed, match=r"^the network failed: "):
        session.run([onnx_models.rows(1)], ["no such output"])
    with pytest.raises(RunFailed):
        session.run([], ["logits"])


def test_a_failed_run_keeps_nothing_of_its_batch(tmp_path: Path) -> None:
    session = load(tmp_path)
    with pytest.raises(InvalidData) as caught:
        session.run([onnx_models.rows(1, 5)], ["logits"])
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


# Warming up


def measured(session: Session, sizes: Sequence[int], run_s: Callable[[int, int], float]) -> dict[int, float]:
    """What is measured where the nth run, of so many rows, takes as long as `run_s(n, rows)` says."""
    now, runs = 0.0, 0

    def run(inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        nonlocal now, runs
        now, runs = now + run_s(runs, len(inputs[0])), runs + 1
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run", run)
        times = session.measure(sizes, lambda rows: [onnx_models.rows(rows)], lambda: now)
    assert now < 3.0, "it ends soon after a second"
    return times


def test_run_times_are_the_fastest_of_a_few_runs_at_each_size(tmp_path: Path) -> None:
    session = load(tmp_path)
    times = measured(session, [1, 2, 8], lambda number, rows: rows * (0.002 if number % 5 == 3 else 0.004))
    assert times == {size: pytest.approx(0.002 * size) for size in (1, 2, 8)}


def test_sizes_for_which_there_is_no_time_are_not_measured(tmp_path: Path) -> None:
    assert set(measured(load(tmp_path), [1, 2, 4, 8, 16, 32], lambda number, rows: rows * 0.2)) == {1, 2, 4}


def test_an_answer_of_another_shape_is_described(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_models.linear().SerializeToString())
    two_classes = (spec("logits", "FP32", "f4", 2),)
    session = load_session(
        tmp_path / "model.onnx", ON_CPU, threads=1, strict=True, agree=lambda graph: replace(graph, outputs=two_classes)
    )
    outputs = session.run([onnx_models.rows(4)], ["logits"])
    assert session.check_shapes(outputs, 4) == (
        "output 'logits' has shape [4, 3] where the graph or config.pbtxt says [4, 2]; it is answered as it is"
    )
    assert load(tmp_path).check_shapes(outputs, 4) == ""


@pytest.mark.parametrize(
    "model", [onnx_models.strings, onnx_models.two_inputs, onnx_models.half, onnx_models.fixed_batch]
)
def test_the_run_that_gives_memory_back_has_inputs_that_the_network_takes(
    tmp_path: Path, model: Callable[[], onnx.ModelProto]
) -> None:
    # Otherwise ONNX Runtime refuses them, and gives nothing back.
    session = load(tmp_path, model())
    blank = session._blank()
    session.run([blank[spec.name] for spec in session.signature.inputs], session.signature.own_outputs)


def test_memory_that_large_batches_took_is_given_back(tmp_path: Path) -> None:
    session = load(tmp_path)
    session.shrink()
    (logits,) = session.run([onnx_models.rows(3)], ["logits"])
    np.testing.assert_allclose(logits, onnx_models.logits_of(onnx_models.rows(3)), rtol=1e-6)


# The golden sample


def test_a_network_of_a_fixed_batch_is_proved_in_such_batches(tmp_path: Path) -> None:
    session = load(tmp_path, onnx_models.fixed_batch(4))
    session.check_golden(golden(8), 1)
    logits = golden(8).logits.copy()
    logits[6, 1] += 0.5
    with pytest.raises(LoadError, match=r"by 0.5 at row 6, class 1 \(batch of 4; "):
        session.check_golden(golden(8, logits=logits), 1)
    with pytest.raises(LoadError, match="6 golden rows do not fill batches of 4, which the graph fixes"):
        session.check_golden(golden(6), 1)


def test_a_map_of_logits_is_proved_at_every_place(tmp_path: Path) -> None:
    x = onnx_models.rows(4, 2, 3, 3)
    session = load(tmp_path, onnx_models.dense())
    session.check_golden(golden(inputs={"input": x}, logits=x), 8)
    wrong = x.copy()
    wrong[2, 1, 0, 2] += 1
    with pytest.raises(LoadError, match=r"by 1 at row 2, class 1 .*; 1 rows of the batch differ"):
        session.check_golden(golden(inputs={"input": x}, logits=wrong), 8)


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 17])
@pytest.mark.parametrize("max_batch_size", [1, 8, 64])
def test_a_network_that_answers_as_it_was_trained_passes(tmp_path: Path, rows: int, max_batch_size: int) -> None:
    load(tmp_path).check_golden(golden(rows), max_batch_size)


def test_a_difference_within_the_tolerance_passes(tmp_path: Path) -> None:
    sample = golden()
    load(tmp_path).check_golden(golden(logits=sample.logits + 0.01, atol=0.02), 8)
    load(tmp_path).check_golden(golden(logits=sample.logits * 1.01, rtol=0.02), 8)


def test_altered_logits_are_found_with_their_row_and_class(tmp_path: Path) -> None:
    logits = golden().logits.copy()
    logits[5, 1] += 0.5
    logits[6, 2] -= 0.25
    with pytest.raises(LoadError) as caught:
        load(tmp_path).check_golden(golden(logits=logits), 64)
    message = str(caught.value)
    assert message.startswith(
        "golden check failed: the logits differ from PyTorch's by 0.5 at row 5, class 1 (batch of 8; "
    )
    assert "allowed 1e-05 + 0.0001 x |trained|" in message
    assert message.endswith("; 2 rows of the batch differ")


def test_a_row_is_numbered_within_the_whole_sample(tmp_path: Path) -> None:
    logits = golden().logits.copy()
    logits[7, 0] += 1
    with pytest.raises(LoadError, match=r"by 1 at row 7, class 0 \(batch of 4; .* 1 rows of the batch differ"):
        load(tmp_path).check_golden(golden(logits=logits), 4)


def test_altered_inputs_are_found(tmp_path: Path) -> None:
    x = onnx_models.rows(8)
    x[2] += 1
    with pytest.raises(LoadError, match="at row 2"):
        load(tmp_path).check_golden(golden(inputs={"input": x}), 64)


def test_a_trained_logit_that_is_no_number_never_passes(tmp_path: Path) -> None:
    logits = golden().logits.copy()
    logits[1, 2] = np.nan
    with pytest.raises(LoadError, match="at row 1, class 2"):
        load(tmp_path).check_golden(golden(logits=logits), 64)


def test_a_served_logit_that_is_no_number_never_passes_even_where_training_had_one_too(tmp_path: Path) -> None:
    x, logits = golden().inputs["input"].copy(), golden().logits.copy()
    x[3, 0] = logits[3] = np.nan
    with pytest.raises(LoadError, match="by nan at row 3, class 0"):
        load(tmp_path).check_golden(golden(inputs={"input": x}, logits=logits), 64)


def test_a_network_that_mixes_the_rows_of_a_batch_is_found(tmp_path: Path) -> None:
    x = onnx_models.rows(8)
    model = onnx_models.averaging()
    logits = onnx_models.answers(model, {"input": x})
    with pytest.raises(LoadError, match=r"at row 0, class . \(batch of 1; "):
        load(tmp_path, model).check_golden(golden(logits=logits), 64)


def test_logits_of_another_shape_are_found(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"logits have shape \[1, 3\], golden.npz has \[1, 2\]$"):
        load(tmp_path).check_golden(golden(logits=golden().logits[:, :2]), 64)


def test_inputs_the_network_refuses_are_found(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^golden check failed: the network does not take this data: "):
        load(tmp_path).check_golden(golden(inputs={"input": onnx_models.rows(8, 5)}), 64)


def test_a_network_without_heads_is_checked_by_its_first_output(tmp_path: Path) -> None:
    x = onnx_models.rows(4)
    session = load(tmp_path, onnx_models.two_outputs())
    session.check_golden(golden(inputs={"input": x}, logits=x * 2), 4)
    with pytest.raises(LoadError, match="at row 0"):
        session.check_golden(golden(inputs={"input": x}, logits=x), 4)


def test_a_difference_in_an_output_of_one_axis_has_no_class(tmp_path: Path) -> None:
    x = onnx_models.rows(4, 1)[:, 0]
    model = onnx_models.passed_through(["rows"])
    with pytest.raises(LoadError, match=r"by 1 at row 0 \(.* 1 rows of the batch differ"):
        load(tmp_path, model).check_golden(golden(inputs={"input": x}, logits=x + 1), 4)


def test_several_inputs_are_checked_together(tmp_path: Path) -> None:
    left, right = onnx_models.rows(5), onnx_models.rows(5, 2, 2)
    logits = onnx_models.logits_of(left + right.reshape(5, 4))
    load(tmp_path, onnx_models.two_inputs()).check_golden(
        golden(inputs={"right": right, "left": left}, logits=logits), 64
    )


# golden.npz


def write_golden(folder: Path, **changed: Any) -> Path:
    """golden.npz of `linear`; a key given as None is left out."""
    x = onnx_models.rows(8)
    arrays = {**onnx_models.golden_of({"input": x}, onnx_models.logits_of(x)), **changed}
    path = folder / "golden.npz"
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


def test_a_golden_sample_is_read_with_its_tolerances(tmp_path: Path) -> None:
    sample = read_golden(write_golden(tmp_path), load(tmp_path).signature, FileReader(tmp_path))
    assert (sample.inputs["input"].shape, sample.logits.shape) == ((8, 4), (8, 3))
    assert (sample.rtol, sample.atol) == (1e-4, 1e-5)


def test_the_samples_of_several_inputs_have_their_names(tmp_path: Path) -> None:
    model = onnx_models.two_inputs()
    inputs = {"left": onnx_models.rows(3), "right": onnx_models.rows(3, 2, 2)}
    folder = onnx_models.write_artifact(tmp_path, "pair", model=model, inputs=inputs)
    sample = read_golden(folder / "golden.npz", load(tmp_path, model).signature, FileReader(tmp_path))
    assert {name: array.shape for name, array in sample.inputs.items()} == {"left": (3, 4), "right": (3, 2, 2)}


@pytest.mark.parametrize("key", ["input", "logits", "rtol", "atol"])
def test_a_sample_that_lacks_an_array_is_refused(tmp_path: Path, key: str) -> None:
    path = write_golden(tmp_path, **{key: None})
    with pytest.raises(LoadError, match=f"^golden check failed: golden.npz lacks .*{key}"):
        read_golden(path, load(tmp_path).signature, FileReader(tmp_path))


@pytest.mark.parametrize(
    ("changed", "came"),
    [
        ({"input": onnx_models.rows(7)}, r"float32 \[7, 4\] for logits \[8, 3\]"),
        ({"input": onnx_models.rows(8, dtype=np.float64)}, r"float64 \[8, 4\] for logits \[8, 3\]"),
        ({"input": onnx_models.rows(0), "logits": np.zeros((0, 3))}, r"float32 \[0, 4\] for logits \[0, 3\]"),
    ],
)
def test_a_sample_that_does_not_fit_the_network_is_refused(tmp_path: Path, changed: Any, came: str) -> None:
    with pytest.raises(LoadError, match=f"{came}; expected float32 with as many rows"):
        read_golden(write_golden(tmp_path, **changed), load(tmp_path).signature, FileReader(tmp_path))


def test_an_empty_sample_is_refused(tmp_path: Path) -> None:
    path = write_golden(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(LoadError, match=r"^golden check failed: golden.npz cannot be read: "):
        read_golden(path, load(tmp_path).signature, FileReader(tmp_path))


def test_a_damaged_sample_is_refused(tmp_path: Path) -> None:
    path = write_golden(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(onnx_models.rows(8).tobytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"^golden check failed: golden.npz cannot be read: "):
        read_golden(path, load(tmp_path).signature, FileReader(tmp_path))


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("whole_file", [True, False])
def test_pickled_content_is_refused_and_never_executed(tmp_path: Path, whole_file: bool) -> None:
    trap = Trap(tmp_path / "sprung")
    path = write_golden(tmp_path, input=np.array([trap], object))
    if whole_file:
        path.write_bytes(pickle.dumps(trap))
    with pytest.raises(
        LoadError, match=r"golden.npz (cannot be read: File is not a zip file|has Python objects in input.npy)"
    ):
        read_golden(path, load(tmp_path).signature, FileReader(tmp_path))
    assert not (tmp_path / "sprung").exists()


def test_infinite_golden_logits_never_pass(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_models.linear().SerializeToString())
    session = load_session(tmp_path / "model.onnx", [(CPU, {})], threads=1, strict=True)
    golden = Golden({"input": onnx_models.rows(8)}, np.full((8, 3), np.inf, np.float32), 1e-4, 1e-5)
    with pytest.raises(LoadError, match="golden check failed"):
        session.check_golden(golden, 64)


@pytest.mark.parametrize("kept", [10, 200, 500, -1])
def test_a_truncated_sample_is_refused_and_closed(tmp_path: Path, kept: int) -> None:
    folder = onnx_models.write_artifact(tmp_path, "linear")
    sample = folder / "golden.npz"
    sample.write_bytes(sample.read_bytes()[:kept])
    session = load_session(folder / "model.onnx", [(CPU, {})], threads=1, strict=True)
    with pytest.raises(LoadError, match=r"golden\.npz"):
        read_golden(sample, session.signature, FileReader(tmp_path))


@pytest.mark.parametrize(
    "changed",
    [
        {"input": np.float32(1)},
        {"logits": np.float32(1)},
        {"logits": np.array([["a"] * 3] * 8)},
        {"rtol": np.zeros(2)},
        {"rtol": np.array(np.nan)},
        {"atol": np.array(np.inf)},
    ],
)
def test_odd_golden_arrays_are_refused_with_a_reason(tmp_path: Path, changed: dict[str, Any]) -> None:
    folder = onnx_models.write_artifact(tmp_path, "linear")
    with np.load(folder / "golden.npz") as archive:
        arrays = dict(archive)
    np.savez(folder / "golden.npz", **{**arrays, **changed})
    session = load_session(folder / "model.onnx", [(CPU, {})], threads=1, strict=True)
    with pytest.raises(LoadError, match="golden check failed"):
        read_golden(folder / "golden.npz", session.signature, FileReader(tmp_path))


def test_a_constant_named_softmax_is_in_nobodys_way(tmp_path: Path) -> None:
    model = onnx_models.linear()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "softmax"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    session = load_session(tmp_path / "model.onnx", [(CPU, {})], threads=1, strict=True)
    x = onnx_models.rows(3)
    (softmax,) = session.run([x], [onnx_models.HEADS.softmax])
    np.testing.assert_allclose(softmax, onnx_models.softmax_of(onnx_models.logits_of(x)), rtol=1e-5)


def test_padding_before_a_pool_is_of_zeros_as_the_file_says(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3], strides=[3]),
    ]
    pads = numpy_helper.from_array(np.array([0, 0, 1, 0, 0, 1]), "pads")
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, size]) for name, size in (("x", 4), ("y", 2))
    )
    graph = helper.make_graph(nodes, "pooled", [x], [y], [pads])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    session = load_session(tmp_path / "model.onnx", [(CPU, {})], threads=1, strict=True)
    (answer,) = session.run([np.full((1, 1, 4), -5, np.float32)], ["y"])
    assert answer.tolist() == [[[0, 0]]]
