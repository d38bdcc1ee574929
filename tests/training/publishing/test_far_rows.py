"""Files that are right on the sample, and on other rows are not."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline_training import publish
from frostline_training.errors import RefusedError

Function = Callable[[Tensor], Tensor]


class Lambda(nn.Module):
    """Any function as a network."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(rows)


def _targets(rows: Tensor) -> Tensor:
    return torch.full_like(rows, 0.3)


def _atan2(rows: Tensor) -> Tensor:
    y, x = rows[:, :2], rows[:, 2:]
    return torch.where(y == 0, torch.where(x < 0, math.pi, 0.0), torch.atan2(y, x))


CONVERTED_WRONGLY: dict[str, Function] = {
    "logsigmoid": functional.logsigmoid,
    "binary_cross_entropy_with_logits": lambda rows: functional.binary_cross_entropy_with_logits(
        rows, _targets(rows), reduction="none"
    ),
    "logaddexp": lambda rows: torch.logaddexp(rows[:, :2], rows[:, 2:]),
    "logcumsumexp": lambda rows: torch.logcumsumexp(rows, 1),
    "atan2": lambda rows: torch.atan2(rows[:, :2], rows[:, 2:]),
    "signbit": torch.signbit,
}
AS_THE_CURES_SAY: dict[str, Function] = {
    "logsigmoid": lambda rows: -functional.softplus(-rows),
    "binary_cross_entropy_with_logits": lambda rows: functional.softplus(rows) - rows * _targets(rows),
    "logaddexp": lambda rows: torch.logsumexp(torch.stack([rows[:, :2], rows[:, 2:]]), 0),
    "logcumsumexp": lambda rows: (rows[:, None] + torch.ones(4, 4).tril().log()).logsumexp(2),
    "atan2": _atan2,
    "signbit": lambda rows: rows < 0,
}
LIKE_NOTHING_FAR: dict[str, Function] = {
    "the spread of equal numbers": lambda rows: (
        (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-5)
    ),
    "sines of large numbers": lambda rows: torch.cat([torch.sin(rows * 2.0**power) for power in range(10)], 1),
    "the order of equal numbers": lambda rows: rows.argsort(1).float(),
    "the second of equal numbers": lambda rows: functional.one_hot(rows.topk(2, 1).indices[:, 1], 4),
    "1 - p where p is near 1": lambda rows: torch.logit(rows.sigmoid(), eps=1e-6),
    "a softmax of one": lambda rows: (rows / 0.01).softmax(1),
    "overflow": torch.exp,
    "an index out of range": lambda rows: torch.eye(50)[(rows * 3).long() + 20],
}


def _publish(function: Function, sample: Tensor, models: Path) -> Path:
    return publish(Lambda(function), sample, name="m", models=models, task="any", probabilities=False).path


def _asked(path: Path, rows: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"input": rows.numpy()})
    return torch.from_numpy(answers)


@pytest.mark.parametrize("operator", CONVERTED_WRONGLY)
def test_an_operator_that_is_right_for_ordinary_numbers_only_is_refused_by_name(
    tmp_path: Path, sample: Tensor, operator: str
) -> None:
    said = (
        rf"answers .+ where PyTorch answers .+, to a row of the sample .+; likely cause: (F|torch)?\.?{operator}, which"
    )
    with pytest.raises(RefusedError, match=said):
        _publish(CONVERTED_WRONGLY[operator], sample, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operator", AS_THE_CURES_SAY)
def test_written_as_the_refusal_says_it_is_right_everywhere(tmp_path: Path, sample: Tensor, operator: str) -> None:
    function = AS_THE_CURES_SAY[operator]
    path = _publish(function, sample, tmp_path)
    far = torch.tensor([[-15.0, -17, -20, -80], [100, 0, -100, 99], [0, 0, -1, 5], [1e4, -1e4, 300, -300]])
    torch.testing.assert_close(_asked(path, far), function(far), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", LIKE_NOTHING_FAR)
def test_what_hangs_on_rounding_or_has_no_answer_far_away_is_no_fault(
    tmp_path: Path, sample: Tensor, what: str
) -> None:
    assert _publish(LIKE_NOTHING_FAR[what], sample, tmp_path).exists()


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.GELU(), nn.Flatten(), nn.LayerNorm(144)),
    ],
)
def test_normalised_pictures_of_one_colour_are_no_fault(tmp_path: Path, network: nn.Module) -> None:
    pictures = torch.rand(9, 3, 8, 8) * 255
    assert publish(network, pictures, name="m", models=tmp_path, task="embedding").version == 1


def test_whole_numbers_and_masks_stay_as_they_are(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 3)

        def forward(self, words: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
            if not torch.compiler.is_exporting():
                assert ((mask == 0) | (mask == 1)).all()
            answer: Tensor = (self.words(words) * mask[..., None]).sum(1) * weight
            return answer

    sample = {"words": torch.randint(0, 9, (8, 5)), "mask": torch.ones(8, 5), "weight": torch.randn(8, 1)}
    sample["mask"][:, 3:] = 0
    assert publish(Masked(), sample, name="m", models=tmp_path, task="any").version == 1


@pytest.mark.parametrize("small", [1e-8, 1e-12])
def test_a_small_number_that_keeps_a_division_from_one_by_0_stays(tmp_path: Path, sample: Tensor, small: float) -> None:
    path = _publish(lambda rows: rows / (rows.abs().sum(1, keepdim=True) + small), sample, tmp_path)
    assert _asked(path, torch.zeros(2, 4)).tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("number", [math.pi, 1234567.891, 1e-9])
def test_a_python_number_that_is_rounded_in_a_float64_network_is_refused(tmp_path: Path, number: float) -> None:
    sample = number * torch.randn(16, 3, dtype=torch.float64) + number
    exact = torch.tensor(number, dtype=torch.float64)
    with pytest.raises(RefusedError, match=r"a Python number, about .+torch\.tensor\(number, dtype=torch\.float64\)"):
        _publish(lambda rows: rows * 2 - number, sample, tmp_path)
    path = _publish(lambda rows: rows * 2 - exact, sample, tmp_path)
    torch.testing.assert_close(_asked(path, sample), sample * 2 - exact, rtol=1e-12, atol=0)


def test_a_float64_network_of_numbers_that_both_precisions_have_is_published(tmp_path: Path) -> None:
    sample = torch.randn(16, 3, dtype=torch.float64)
    layer = nn.Linear(3, 2).double()
    path = _publish(lambda rows: (layer(rows) * 2 + 0.5).tanh(), sample, tmp_path)
    np.testing.assert_allclose(_asked(path, sample), (layer(sample) * 2 + 0.5).tanh().detach(), rtol=1e-12)


def test_single_precision_inside_a_float64_network_is_its_own(tmp_path: Path) -> None:
    sample = torch.randn(16, 3, dtype=torch.float64)
    assert _publish(lambda rows: (rows.float() * math.pi).double(), sample, tmp_path).exists()
