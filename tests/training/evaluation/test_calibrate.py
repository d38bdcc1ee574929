"""The calibration: better probabilities, each class at its share."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from frostline_training.evaluation.calibrate import Calibrated, Unweighted, bias, temperature
from frostline_training.evaluation.evaluate import score


def _answers(rows: int, *, sharpened: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    # Targets drawn from the softmax of `logits`, so that a temperature of 1 is right before they are sharpened.
    random = np.random.default_rng(3)
    logits = random.normal(size=(rows, 4)) * 1.5
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = np.array([random.choice(4, p=share) for share in shares])
    return (logits * sharpened).astype(np.float32), targets


@pytest.mark.parametrize("sharpened", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_what_sharpened_the_logits(sharpened: float) -> None:
    assert temperature(*_answers(3000, sharpened=sharpened)) == pytest.approx(sharpened, rel=0.1)


def test_an_overconfident_network_is_calibrated_without_changing_a_class() -> None:
    logits, targets = _answers(3000, sharpened=4.0)
    found = np.float32(temperature(logits, targets))
    before, after = (score(answers, targets, "single-label") for answers in (logits, logits / found))
    assert before.ece is not None
    assert after.ece is not None
    assert after.ece < before.ece / 4
    assert after.accuracy == before.accuracy


def test_labels_that_may_go_together_are_calibrated_too() -> None:
    logits, _ = _answers(2000, sharpened=1.0)
    targets = np.random.default_rng(4).random(logits.shape) < 1 / (1 + np.exp(-logits))
    assert temperature(logits * 3, targets) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_the_likelihood_of_the_validation_rows_never_gets_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(12, 3)) * 10 ** random.uniform(-3, 3)).astype(np.float32)
    targets = random.integers(0, 3, 12)
    found = temperature(logits, targets)
    before, after = (score(answers, targets, "single-label") for answers in (logits, logits / np.float32(found)))
    assert after.scores["loss"] <= before.scores["loss"] + 1e-9


def test_a_few_rows_that_are_all_right_do_not_argue_for_certainty() -> None:
    targets = np.arange(20) % 2
    assert temperature(np.eye(2, dtype=np.float32)[targets] * 3, targets) > 0.3


def test_temperature_and_bias_are_folded_into_the_exported_graph(tmp_path: Path) -> None:
    network, rows = nn.Linear(3, 2).eval(), torch.randn(5, 3)
    file = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the exporter's own
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.onnx.export(
            Calibrated(network, 2.5, np.array([1.0, -2.0])).eval(),
            (rows,),
            dynamic_shapes=(batch,),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: rows[:3].numpy()})
    np.testing.assert_allclose(logits, network(rows[:3]).detach().numpy() / 2.5 + [1, -2], rtol=1e-5, atol=1e-6)


def test_with_its_bias_every_class_has_its_share_as_mean_probability() -> None:
    logits, targets = _answers(2000, sharpened=1.0)
    added = np.array([2.0, 0.0, -1.0, 0.5])  # as if classes had counted differently
    shifted = (logits + added).astype(np.float32)
    found = bias(shifted, targets)
    calibrated = score((shifted + found).astype(np.float32), targets, "single-label")
    share = np.bincount(targets) / len(targets)
    np.testing.assert_allclose(calibrated.probabilities.mean(axis=0), share, atol=0.001)
    np.testing.assert_allclose(found - found.mean(), added.mean() - added, atol=0.25)


def test_labels_that_may_go_together_have_each_its_share_as_mean_probability() -> None:
    logits, _ = _answers(2000, sharpened=1.0)
    targets = np.random.default_rng(4).random(logits.shape) < 1 / (1 + np.exp(-logits))
    shifted = (logits + np.array([3, -3, 1, 0])).astype(np.float32)
    calibrated = score((shifted + bias(shifted, targets)).astype(np.float32), targets, "multi-label")
    np.testing.assert_allclose(calibrated.probabilities.mean(axis=0), targets.mean(axis=0), atol=0.002)


def test_a_class_that_no_row_has_gets_no_infinite_bias() -> None:
    found = bias(np.zeros((10, 3), np.float32), np.arange(10) % 2)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 3


def test_class_weights_are_taken_out_of_the_probabilities() -> None:
    # Even answers of a network for which the second class counted nine times as much as the first.
    network = nn.Linear(1, 2)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    corrected = Unweighted(network, torch.tensor([5 / 9, 5.0])).eval()
    assert corrected(torch.ones(1, 1)).softmax(1)[0].tolist() == pytest.approx([0.9, 0.1])


def test_the_calibration_is_on_the_networks_device() -> None:
    calibrated = Calibrated(nn.Linear(2, 3, device="meta"), 1.5, np.zeros(3))
    assert {tensor.device.type for tensor in calibrated.state_dict().values()} == {"meta"}
    weighted = Unweighted(nn.Linear(2, 3, device="meta"), torch.ones(3))
    assert {tensor.device.type for tensor in weighted.state_dict().values()} == {"meta"}
