"""The proof, on real ONNX files, some of them wrong on purpose."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from frostline_server.runtime import golden
from frostline_training.errors import RefusedError
from frostline_training.publishing import verify
from frostline_training.publishing.onnx_export import freeze
from frostline_training.publishing.verify import HeldOut, Tolerance, agree, check_file, check_network

TOLERANCE = Tolerance(relative=1e-4, absolute=1e-5)


class OwnStatistics(nn.Module):
    """Batch-norm that always uses the batch's statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        return functional.batch_norm(rows, None, None, training=True)


class ByBatchSize(nn.Module):
    """Answers another thing to small batches."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows if len(rows) > 1 else rows + 0.5


class AlwaysDropout(nn.Module):
    """Dropout that evaluation mode does not switch off."""

    def forward(self, rows: Tensor) -> Tensor:
        return functional.dropout(rows, 0.5, training=True)


class Lambda(nn.Module):
    """Any function as a network."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> object:
        return self.function(rows)


@pytest.fixture
def held_out(linear: nn.Module, sample: Tensor) -> HeldOut:
    return check_network(linear, {"input": sample.numpy()}, TOLERANCE)


@pytest.fixture
def file(tmp_path: Path, frozen_linear: bytes) -> Path:
    (tmp_path / "m.onnx").write_bytes(frozen_linear)
    return tmp_path / "m.onnx"


def _shift(file: Path, name_part: str, by: list[float]) -> None:
    """Edit one constant of the file."""
    model = onnx.load(file)
    (constant,) = (tensor for tensor in model.graph.initializer if name_part in tensor.name)
    constant.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(constant) + np.array(by, dtype=np.float32), constant.name)
    )
    onnx.save(model, file)


def _hand_made(path: Path, *nodes: onnx.NodeProto, shape: tuple[int, ...] = (-1, 3)) -> Path:
    """Write a file whose node or nodes turn `input` [N, 4] into `logits`; `shape` is a constant for Reshape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(shape, dtype=np.int64), "shape")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_the_networks_own_logits_are_the_reference(linear: nn.Module, sample: Tensor) -> None:
    held_out = check_network(linear, {"input": sample.numpy()}, TOLERANCE)
    np.testing.assert_allclose(held_out.outputs["logits"], linear(sample).detach().numpy(), rtol=1e-6, atol=1e-6)


def test_the_golden_rows_are_spread_over_all() -> None:
    rows = np.zeros((1000, 1), np.float32)
    golden = HeldOut({"input": rows}, {"logits": rows}).golden
    assert len(golden) == len(set(golden.tolist())) == 64
    assert (golden[0], golden[-1]) == (0, 999)
    assert HeldOut({"input": rows[:5]}, {"logits": rows[:5]}).golden.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("network", [ByBatchSize(), nn.BatchNorm1d(4, track_running_stats=False).eval()])
def test_a_network_that_answers_a_row_differently_alone_is_refused(network: nn.Module, sample: Tensor) -> None:
    with pytest.raises(RefusedError, match="batch-norm"):
        check_network(network, {"input": sample.numpy()}, TOLERANCE)


def test_the_refusal_says_how_far_apart_and_at_which_row(sample: Tensor) -> None:
    with pytest.raises(RefusedError) as refusal:
        check_network(ByBatchSize(), {"input": sample.numpy()}, TOLERANCE)
    assert refusal.value.largest == pytest.approx(0.5, rel=1e-5)
    assert refusal.value.row is not None
    assert f"(largest difference 0.5 at held-out row {refusal.value.row})" in str(refusal.value)


def test_batch_norm_that_cannot_take_one_row_is_refused_with_that_cause(sample: Tensor) -> None:
    with pytest.raises(RefusedError, match=r"fails on a batch of 1: ValueError: Expected more than 1.* batch-norm"):
        check_network(OwnStatistics(), {"input": sample.numpy()}, TOLERANCE)


def test_dropout_that_stays_on_is_refused(sample: Tensor) -> None:
    with pytest.raises(RefusedError, match=r"differently from run to run .* likely cause: dropout"):
        check_network(AlwaysDropout(), {"input": sample.numpy()}, TOLERANCE)


def test_an_answer_that_is_not_finite_is_refused_with_its_row(sample: Tensor) -> None:
    sample[13, 2] = torch.nan
    with pytest.raises(RefusedError, match=r"1 of 70 held-out rows with infinity or NaN at held-out row 13"):
        check_network(nn.Identity(), {"input": sample.numpy()}, TOLERANCE)


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        (lambda rows: {"a": [rows, "b"]}, r"with str in 'a\.1', not with tensors"),
        (lambda rows: {"a": {"b": rows}, "a.b": rows}, r"with two outputs that are both called 'a\.b'"),
        (lambda rows: None, "with no tensor"),
        (lambda rows: rows.sum(), r"a batch of 64 with \[\], and not with \[64, \.\.\.\]"),
        (lambda rows: rows[:1], r"a batch of 64 with \[1, 4\], and not"),
        (lambda rows: (rows, rows[None]), r"with \[1, 64, 4\] in output 'output_1', and not"),
        (
            lambda rows: rows.bfloat16(),
            "with torch.bfloat16; likely cause: autocast, or .half.. or .bfloat16..*end it with .float",
        ),
        (lambda rows: (rows, rows.half()), "with torch.float16 in output 'output_1'"),
        (lambda rows: torch.complex(rows, rows), "a type that clients do not have"),
    ],
)
def test_an_answer_that_is_not_numbers_for_each_row_is_refused(
    function: Callable[[Tensor], object], seen: str, sample: Tensor
) -> None:
    with pytest.raises(RefusedError, match=f"the network answers .*{seen}"):
        check_network(Lambda(function), {"input": sample.numpy()}, TOLERANCE)


class Answer(NamedTuple):
    """An answer of two parts."""

    scores: Tensor
    state: Tensor


@dataclass
class Detection:
    """An answer with a part that is not always there."""

    boxes: Tensor
    masks: Tensor | None = None


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda rows: rows, ["logits"]),
        (lambda rows: (rows, rows + 1), ["output_0", "output_1"]),
        (lambda rows: [rows], ["output_0"]),
        (lambda rows: {"b": rows, "a": rows + 1}, ["b", "a"]),
        (lambda rows: {"a": {"b": rows, "c": (rows, rows + 1)}}, ["a.b", "a.c.0", "a.c.1"]),
        (lambda rows: Answer(rows, rows[:, 0]), ["scores", "state"]),
        (Detection, ["boxes"]),
        (lambda rows: Detection(rows, rows > 0), ["boxes", "masks"]),
        (lambda rows: rows.double(), ["logits"]),
        (lambda rows: (rows.argmax(1), rows[:, :, None]), ["output_0", "output_1"]),
    ],
)
def test_outputs_of_any_structure_are_named(
    function: Callable[[Tensor], object], names: list[str], sample: Tensor
) -> None:
    held_out = check_network(Lambda(function), {"input": sample.numpy()}, TOLERANCE)
    assert list(held_out.outputs) == names


def test_each_output_is_compared(tmp_path: Path, sample: Tensor) -> None:
    def both(rows: Tensor) -> dict[str, Tensor]:
        return {"double": rows * 2, "rank": rows.argmax(1)}

    held_out = check_network(Lambda(both), {"input": sample.numpy()}, TOLERANCE)
    path = tmp_path / "m.onnx"
    freeze(Lambda(both).eval(), {"input": sample}, path, outputs=["double", "rank"], metadata={})
    assert check_file(path, held_out, TOLERANCE, classes=False).max_abs_difference == 0
    row = min(set(range(70)) - set(held_out.golden.tolist()))
    held_out.outputs["rank"][row] += 1
    fact = rf"disagrees with PyTorch on all held-out rows in output 'rank' .*row {row}\)"
    with pytest.raises(RefusedError, match=fact):
        check_file(path, held_out, TOLERANCE, classes=False)


def test_as_many_logits_as_rows_are_refused(sample: Tensor) -> None:
    with pytest.raises(RefusedError, match="a row alone differently than among others: with other outputs or shapes"):
        check_network(Lambda(lambda rows: rows @ rows.T), {"input": sample.numpy()}, TOLERANCE)


def test_rows_that_do_not_fit_the_network_are_refused(linear: nn.Module) -> None:
    with pytest.raises(RefusedError, match=r"fails on a batch of 64: RuntimeError: .*cause: rows that do not fit"):
        check_network(linear, {"input": np.zeros((3, 5), np.float32)}, TOLERANCE)


class OneHot(nn.Module):
    """Its own index has no layer that is called so."""

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.one_hot(rows, 3).sum(1).float()


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self.embedding(tokens)
        return vectors


class Mistaken(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(3)


class Halfway(nn.Module):
    """A tensor that stays where it is when the module moves."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(4, device="meta")

    def forward(self, rows: Tensor) -> Tensor:
        return rows - self.mean


@pytest.mark.parametrize(
    ("network", "kind", "cause"),
    [
        (nn.Linear(4, 3), "f8", r"sample is float64, and the weights are float32; give sample.float\(\), or publish module.dou"),
        (nn.Linear(4, 3).double(), "f4", r"float32, and the weights are float64; give sample.double\(\), or publish module.fl"),
        (nn.Linear(4, 3), "i8", r"sample is int64, and the weights are float32; give sample.float\(\)\. "),
        (nn.Linear(4, 3), "?", r"sample is bool, and the weights are float32; give sample.float\(\)\. "),
        (nn.Linear(4, 3).bfloat16(), "f4", r"cause: the weights are bfloat16; publish module.float\(\), and"),
        (nn.Linear(4, 3).half(), "f4", r"cause: the weights are float16; publish module.float\(\), and"),
        (nn.Conv1d(4, 3, 1), "f2", r"sample is float16, and the weights are float32; give sample.float\(\)\. "),
        (nn.GRU(4, 3), "f8", r"sample is float64, and the weights are float32; give sample.float\(\)"),
        (Embedded(), "f4", r"cause: a sample of fractions where nn.Embedding takes whole numbers; give sample.long\(\)"),
        (Embedded(), "u1", r"cause: sample is uint8, and nn.Embedding and other indices take int64; give sample.long\(\)"),
        (OneHot(), "i2", r"cause: sample is int16, and nn.Embedding and other indices take int64; give sample.long\(\)"),
        (OneHot(), "f8", r"cause: a sample of fractions where nn.Embedding takes whole numbers; give sample.long\(\)"),
        (Halfway(), "f4", "a tensor that does not move with the module, such as a plain attribute.*register_buffer"),
        (nn.Linear(5, 3), "f4", r"cause: rows that do not fit the network\. "),
        (Mistaken(), "f4", r"or a mistake in forward\(\), which fails in `return rows.reshape\(3\)` \(line \d+ of test_verify.py\)\. "),
    ],
)  # fmt: skip
def test_why_a_network_cannot_take_the_sample_is_said(network: nn.Module, kind: str, cause: str) -> None:
    rows = np.zeros((70, 4), kind) if not isinstance(network, nn.Conv1d) else np.zeros((70, 4, 2), kind)
    with pytest.raises(RefusedError, match=cause):
        check_network(network.eval(), {"input": rows}, TOLERANCE)


def test_of_several_inputs_the_one_whose_whole_numbers_are_no_index_is_named() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, numbers: Tensor, city: Tensor) -> Tensor:
            picked: Tensor = self.table(city)
            return picked + numbers

    rows: dict[str, NDArray[np.generic]] = {"numbers": np.zeros((70, 3), np.float32), "city": np.zeros(70, np.uint8)}
    with pytest.raises(RefusedError, match=r"cause: sample\['city'\] is uint8, .*; give sample\['city'\].long\(\)"):
        check_network(Both().eval(), rows, TOLERANCE, call=lambda network, named: network(**named))


@pytest.mark.parametrize(
    ("network", "cause"),
    [
        (nn.Linear(4, 3).half(), r"weights in half precision; publish module.float\(\)"),
        (
            nn.Identity(),
            r"\.half\(\) or \.bfloat16\(\), in forward\(\), while the weights are not; end it with \.float",
        ),
    ],
)
def test_half_precision_is_told_from_half_weights(network: nn.Module, cause: str) -> None:
    with pytest.raises(RefusedError, match=cause):
        check_network(network.eval(), {"input": np.zeros((70, 4), "f2")}, TOLERANCE)


def test_a_right_file_is_proved_at_every_batch_size(file: Path, held_out: HeldOut) -> None:
    proof = check_file(file, held_out, TOLERANCE)
    assert list(proof.differences) == [1, 2, 7, 64]
    assert proof.max_abs_difference == max(proof.whole_difference, *proof.differences.values()) < 1e-5
    assert proof.near_ties == ()
    np.testing.assert_array_equal(proof.outputs["logits"].argmax(axis=1), held_out.outputs["logits"].argmax(axis=1))


def test_few_held_out_rows_are_repeated_to_fill_every_batch_size(file: Path, held_out: HeldOut) -> None:
    few = HeldOut({"input": held_out.inputs["input"][:3]}, {"logits": held_out.outputs["logits"][:3]})
    assert list(check_file(file, few, TOLERANCE).differences) == [1, 2, 7, 64]


def test_an_edited_weight_is_refused_with_the_largest_difference_and_row(file: Path, held_out: HeldOut) -> None:
    _shift(file, "bias", [0, 0.25, 0])
    with pytest.raises(
        RefusedError, match=r"disagrees with PyTorch .* an operator that the exporter converts"
    ) as refusal:
        check_file(file, held_out, TOLERANCE)
    assert refusal.value.largest == pytest.approx(0.25, rel=1e-5)
    assert refusal.value.row is not None


def test_one_wrong_row_outside_the_golden_ones_is_found(file: Path, held_out: HeldOut) -> None:
    (row, *_) = set(range(70)) - set(held_out.golden.tolist())
    held_out.outputs["logits"][row] += 0.125
    with pytest.raises(RefusedError, match="on all held-out rows") as refusal:
        check_file(file, held_out, TOLERANCE)
    assert refusal.value.row == row
    assert refusal.value.largest == pytest.approx(0.125, rel=1e-5)


def test_a_tolerance_wide_enough_accepts_the_difference(file: Path, held_out: HeldOut) -> None:
    _shift(file, "bias", [1e-4] * 3)
    proof = check_file(file, held_out, Tolerance(relative=0, absolute=2e-4))
    assert proof.max_abs_difference == pytest.approx(1e-4, rel=1e-2)


def test_a_near_tie_that_comes_out_the_other_way_is_reported_not_refused(file: Path, held_out: HeldOut) -> None:
    best, second = np.argsort(held_out.outputs["logits"][5])[::-1][:2]
    held_out.outputs["logits"][5, second] = held_out.outputs["logits"][5, best] + 1e-6
    proof = check_file(file, held_out, Tolerance(relative=0, absolute=10))
    assert proof.near_ties == (5,)


def test_however_loose_the_tolerance_another_class_is_refused(file: Path, held_out: HeldOut) -> None:
    _shift(file, "bias", [0, 0, 0.5])
    with pytest.raises(RefusedError, match="prefers another class than PyTorch") as refusal:
        check_file(file, held_out, Tolerance(relative=0, absolute=1))
    assert refusal.value.row is not None


def test_randomness_in_the_file_is_named_as_the_cause(tmp_path: Path, sample: Tensor) -> None:
    path = _hand_made(tmp_path / "m.onnx", helper.make_node("RandomNormalLike", ["input"], ["logits"]))
    with pytest.raises(RefusedError, match=r"disagrees .* likely cause: dropout or other randomness"):
        check_file(path, HeldOut({"input": sample.numpy()}, {"logits": sample.numpy()}), TOLERANCE)


def test_a_file_that_fails_at_another_batch_size_is_refused_with_that_cause(tmp_path: Path, sample: Tensor) -> None:
    path = _hand_made(tmp_path / "m.onnx", helper.make_node("Reshape", ["input", "shape"], ["logits"]), shape=(64, 4))
    with pytest.raises(
        RefusedError, match=r"fails on a batch of 1: .* likely cause: a number of rows frozen"
    ) as refusal:
        check_file(path, HeldOut({"input": sample.numpy()}, {"logits": sample.numpy()}), TOLERANCE)
    assert "\n" not in str(refusal.value)


def test_a_file_that_answers_with_another_number_of_rows_is_refused(tmp_path: Path, sample: Tensor) -> None:
    path = _hand_made(tmp_path / "m.onnx", helper.make_node("Reshape", ["input", "shape"], ["logits"]), shape=(-1, 2))
    with pytest.raises(
        RefusedError, match=r"a batch of 64 with float32 \[128, 2\] in logits, not float32 \[64, 4\]; .* frozen"
    ):
        check_file(path, HeldOut({"input": sample.numpy()}, {"logits": sample.numpy()}), TOLERANCE)


def test_a_file_that_is_wrong_only_at_some_batch_sizes_is_refused_with_that_cause(
    tmp_path: Path, sample: Tensor
) -> None:
    # input - (rows == 7): wrong by one in batches of 7 only.
    path = _hand_made(
        tmp_path / "m.onnx",
        helper.make_node("Shape", ["input"], ["rows"], start=0, end=1),
        helper.make_node("Equal", ["rows", "shape"], ["is_seven"]),
        helper.make_node("Cast", ["is_seven"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["input", "one"], ["logits"]),
        shape=(7,),
    )
    with pytest.raises(RefusedError, match=r"in batches of 7 .* a number of rows frozen into the graph") as refusal:
        check_file(path, HeldOut({"input": sample.numpy()}, {"logits": sample.numpy()}), TOLERANCE)
    assert refusal.value.largest == pytest.approx(1)


def test_a_file_that_answers_nan_is_refused(tmp_path: Path, sample: Tensor) -> None:
    path = _hand_made(tmp_path / "m.onnx", helper.make_node("Sqrt", ["input"], ["logits"]))
    with pytest.raises(RefusedError, match="largest difference inf"):
        check_file(path, HeldOut({"input": sample.numpy()}, {"logits": sample.numpy()}), TOLERANCE)


def test_a_file_that_onnx_runtime_cannot_load_is_refused(tmp_path: Path, held_out: HeldOut) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(RefusedError, match="ONNX Runtime cannot load the exported file"):
        check_file(tmp_path / "m.onnx", held_out, TOLERANCE)


@pytest.mark.parametrize(
    ("got", "wanted"),
    [(np.inf, np.inf), (-np.inf, np.inf), (1.0, np.inf), (np.nan, np.nan), (np.nan, 1.0), (np.inf, 1.0)],
)
def test_an_answer_that_is_no_finite_number_agrees_with_none(got: float, wanted: float) -> None:
    given, right = ({"logits": np.array([[number, 1.0]], np.float32)} for number in (got, wanted))
    assert not agree(given, right, TOLERANCE)


def test_beside_large_numbers_a_small_one_is_as_inexact_as_they_are() -> None:
    allowed = TOLERANCE.allowed(np.array([[1e-3, -4000.0], [1e-3, 2.0]], np.float32))
    assert allowed[0, 0] == pytest.approx(TOLERANCE.absolute + TOLERANCE.relative * 1e-3 + verify.ROUNDING * 4000)
    assert allowed[1, 0] == pytest.approx(TOLERANCE.absolute + TOLERANCE.relative * 1e-3 + verify.ROUNDING * 2)
    assert verify.ROUNDING == golden.ROUNDING
