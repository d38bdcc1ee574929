"""Freezing a network into one ONNX file."""

import logging
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from frostline_training.errors import RefusedError
from frostline_training.publishing.onnx_export import OPSET, freeze


class FrozenRows(nn.Module):
    """Turns the number of rows into a Python number."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.reshape(int(rows.shape[0]), 4) * 2


class RowByRow(nn.Module):
    """Loops over the rows."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in rows])


class DecidesByValues(nn.Module):
    """Branches on a number it computed."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows if rows.sum() > 0 else -rows


class NotInOnnx(nn.Module):
    """Uses an operator that ONNX does not have."""

    def forward(self, rows: Tensor) -> Tensor:
        eigenvalues: Tensor = torch.linalg.eigvals(rows.unsqueeze(-1) * torch.eye(4))
        return eigenvalues.real


class Middle(nn.Module):
    """Uses one that has a substitute."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.median(1, keepdim=True).values


class Raises(nn.Module):
    """Fails by itself."""

    def forward(self, rows: Tensor) -> Tensor:
        raise ValueError("no rows\ntoday")


class TwoOutputs(nn.Module):
    """Returns a pair."""

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows * 2, rows * 3


def test_the_file_has_one_input_and_one_output_with_one_dynamic_batch_axis(frozen_linear: bytes) -> None:
    graph = onnx.load_from_string(frozen_linear).graph
    (taken,), (given,) = graph.input, graph.output
    assert (taken.name, given.name) == ("input", "logits")
    batch, features = taken.type.tensor_type.shape.dim
    rows, classes = given.type.tensor_type.shape.dim
    assert batch.dim_param == rows.dim_param != ""
    assert (features.dim_value, classes.dim_value) == (4, 3)


def test_metadata_and_opset_are_in_the_file(frozen_linear: bytes) -> None:
    model = onnx.load_from_string(frozen_linear)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"frostline.name": "m"}
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", OPSET)]


def test_the_file_does_not_say_where_it_was_made(frozen_linear: bytes) -> None:
    assert b".py" not in frozen_linear
    assert b"stack_trace" not in frozen_linear


def test_the_same_network_gives_the_same_bytes_without_a_word(
    tmp_path: Path, linear: nn.Module, sample: Tensor, frozen_linear: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    freeze(linear, {"input": sample}, tmp_path / "m.onnx", metadata={"frostline.name": "m"})
    assert (tmp_path / "m.onnx").read_bytes() == frozen_linear
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("network", "rows"), [(FrozenRows(), 70), (RowByRow(), 2)])
def test_a_frozen_batch_axis_is_refused(tmp_path: Path, network: nn.Module, sample: Tensor, rows: int) -> None:
    with pytest.raises(RefusedError, match=f"exactly {min(rows, 7)} rows: its batch axis is frozen; likely cause"):
        freeze(network.eval(), {"input": sample[:rows]}, tmp_path / "m.onnx", metadata={})


@pytest.mark.parametrize(
    ("network", "fact", "cause"),
    [
        (DecidesByValues(), "cannot export the network: Could not guard on data-dependent", "use torch.where"),
        (
            NotInOnnx(),
            "cannot export the network: No ONNX function found",
            "an operator that ONNX does not have, in `eigenvalues: Tensor = torch.linalg.eigvals(",
        ),
        (
            Middle(),
            "cannot export the network: No ONNX function found",
            "in `return rows.median(1, keepdim=True).values` (line ",
        ),
        (Middle(), "aten.median", "of test_onnx_export.py); x.sort(axis).values has the numbers in order"),
        (Raises(), "cannot export the network: no rows", "that torch.export cannot follow"),
        (TwoOutputs(), "has inputs and outputs", "the same tensor twice"),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused_in_one_sentence_with_the_cause(
    tmp_path: Path, sample: Tensor, network: nn.Module, fact: str, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("torch").level
    with pytest.raises(RefusedError) as refusal:
        freeze(network.eval(), {"input": sample}, tmp_path / "m.onnx", metadata={})
    assert fact in refusal.value.fact
    assert cause in refusal.value.cause
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch").level == level


def test_a_network_too_large_for_one_file_is_refused_before_it_is_exported(tmp_path: Path, sample: Tensor) -> None:
    network = nn.Module()
    network.register_buffer("huge", torch.zeros(1).expand(2**29))  # counts as 2 GiB, takes four bytes
    with pytest.raises(RefusedError, match=r"weights take 2\.0 GiB"):
        freeze(network.eval(), {"input": sample}, tmp_path / "m.onnx", metadata={})


def test_a_file_that_the_checker_rejects_is_refused(
    tmp_path: Path, linear: nn.Module, sample: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(path: Path, *, full_check: bool) -> None:
        assert path.exists()
        assert full_check
        raise onnx.checker.ValidationError("bad node\nin detail")

    monkeypatch.setattr(onnx.checker, "check_model", reject)
    with pytest.raises(RefusedError, match="not valid ONNX: bad node; likely cause"):
        freeze(linear, {"input": sample}, tmp_path / "m.onnx", metadata={})
