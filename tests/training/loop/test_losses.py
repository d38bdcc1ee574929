"""What a network is trained and judged by."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from frostline_training.data.heads import Head
from frostline_training.loop import losses
from frostline_training.loop.losses import Objective

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.4, 3.0], [1.0, 0.0, 0.0]])
CLASSES = torch.tensor([0, 1, 2, 1])


def _fit(task: str, targets: Tensor, *, smoothing: float = 0.0, weights: bool = False) -> Objective:
    return Objective.fit(task, targets, label_smoothing=smoothing, class_weights=weights)  # type: ignore[arg-type]


def test_single_labels_are_learnt_by_cross_entropy_and_judged_without_smoothing() -> None:
    objective = _fit("single-label", CLASSES, smoothing=0.1)
    torch.testing.assert_close(objective.loss(LOGITS, CLASSES), cross_entropy(LOGITS, CLASSES, label_smoothing=0.1))
    torch.testing.assert_close(objective.judge(LOGITS, CLASSES), cross_entropy(LOGITS, CLASSES) * 4)
    assert objective.right(LOGITS, CLASSES) == 3


def test_class_weights_make_every_class_count_the_same() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    objective = _fit("single-label", targets, weights=True)
    assert objective.weights is not None
    assert (objective.weights * torch.bincount(targets)).tolist() == pytest.approx([50, 50])
    assert _fit("single-label", targets).weights is None


def test_a_weighted_network_is_judged_by_the_odds_of_the_rows_as_they_are() -> None:
    # Nine to one: weights 5/9 and 5. A network that learns so is even where the odds are 9 to 1.
    targets = torch.tensor([0] * 9 + [1])
    objective = _fit("single-label", targets, weights=True)
    even = torch.zeros(10, 2)
    assert objective.corrected(even).softmax(1)[0].tolist() == pytest.approx([0.9, 0.1])
    assert objective.judge(even, targets).item() == pytest.approx(-9 * math.log(0.9) - math.log(0.1))
    assert objective.right(even, targets) == 9


def test_weighted_labels_are_judged_by_the_odds_of_the_rows_as_they_are() -> None:
    targets = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    objective = _fit("multi-label", targets, weights=True)
    assert objective.corrected(torch.zeros(1, 1)).sigmoid().item() == pytest.approx(0.25)


def test_a_binary_task_is_one_label() -> None:
    classes, outputs = torch.tensor([1, 0, 0, 0]), torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
    labels = classes[:, None].float()
    binary, one = (
        _fit("binary", classes, smoothing=0.1, weights=True),
        _fit("multi-label", labels, smoothing=0.1, weights=True),
    )
    assert (binary.measure, one.measure) == ("accuracy", "labels_right")
    torch.testing.assert_close(binary.weights, torch.tensor([3.0]))
    for name in ("loss", "judge", "right"):
        torch.testing.assert_close(getattr(binary, name)(outputs, classes), getattr(one, name)(outputs, labels))


def test_a_weighted_label_counts_its_ones_as_much_as_its_zeros() -> None:
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    objective = _fit("multi-label", targets, weights=True)
    assert objective.weights is not None
    assert objective.weights.tolist() == pytest.approx([3, 1 / 3])


def test_labels_are_right_one_by_one() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    objective = _fit("multi-label", targets)
    outputs = torch.tensor([[3.0, -1.0], [-2.0, 1.0]])
    assert objective.right(outputs, targets) == 1.5
    loss = sum(math.log(1 + math.exp(value)) for value in (-3, -1, 2, -1)) / 4
    assert objective.loss(outputs, targets).item() == pytest.approx(loss)
    assert objective.judge(outputs, targets).item() == pytest.approx(loss * 2)


def test_smoothed_labels_ask_for_less_than_certainty() -> None:
    targets = torch.ones(1, 1)
    objective = _fit("multi-label", targets, smoothing=0.2)
    sure, less = (objective.loss(torch.tensor([[value]]), targets).item() for value in (20.0, math.log(9)))
    assert less < sure
    assert objective.judge(torch.tensor([[20.0]]), targets) < 1e-6


def test_errors_of_a_regression_are_measured_in_deviations_of_the_target() -> None:
    targets = torch.tensor([[100.0, 1.0], [300.0, 3.0]])
    objective = _fit("regression", targets)
    assert isinstance(objective.deviations, Tensor)
    assert objective.deviations.tolist() == [100, 1]
    off_by_half = targets + torch.tensor([50.0, 0.5])
    assert objective.loss(off_by_half, targets).item() == pytest.approx(0.125)
    assert objective.judge(off_by_half, targets).item() == pytest.approx(0.25)


def test_a_regression_that_answers_the_mean_explains_nothing_of_the_variance() -> None:
    targets = torch.tensor([[1.0], [2.0], [6.0]])
    objective = _fit("regression", targets)
    assert objective.right(targets, targets) == 3
    assert objective.right(targets.mean(0).expand(3, 1), targets).item() == pytest.approx(0, abs=1e-6)


def test_what_is_explained_of_other_rows_is_relative_to_their_own_mean() -> None:
    training, others = torch.tensor([[0.0], [1000.0]]), torch.tensor([[1.0], [2.0], [6.0]])
    objective = _fit("regression", training).judging(others)
    assert objective.right(others.mean(0).expand(3, 1), others).item() == pytest.approx(0, abs=1e-6)
    assert objective.judge(others + 500, others).item() == pytest.approx(1.5)  # in deviations of the training targets


def test_nothing_is_explained_where_no_target_varies_and_else_of_those_that_do() -> None:
    objective = _fit("regression", torch.tensor([[0.0, 0.0], [1000.0, 10.0]]))
    alike = torch.full((2, 2), 7.0)
    assert math.isnan(objective.judging(alike).right(alike, alike).item())
    half = torch.tensor([[7.0, 1.0], [7.0, 3.0]])
    assert objective.judging(half).right(half + torch.tensor([5.0, 0.0]), half) == 2


def test_a_target_that_never_varies_does_not_divide_by_zero() -> None:
    targets = torch.full((4, 1), 7.0)
    objective = _fit("regression", targets, weights=True)
    assert objective.loss(targets + 1, targets).item() == pytest.approx(0.5)


def test_pixels_are_learnt_by_cross_entropy_and_judged_as_their_mean() -> None:
    logits = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(40).reshape(4, 2, 5) % 3
    objective = _fit("dense", targets, smoothing=0.1)
    torch.testing.assert_close(objective.loss(logits, targets), cross_entropy(logits, targets, label_smoothing=0.1))
    torch.testing.assert_close(objective.judge(logits, targets), cross_entropy(logits, targets) * 4)
    assert objective.right(logits, targets).item() == pytest.approx((logits.argmax(1) == targets).float().mean() * 4)
    assert objective.measure == "pixel_accuracy"


def test_weighted_pixels_are_judged_by_the_odds_of_the_pixels_as_they_are_and_a_class_without_any_is_left_alone() -> (
    None
):
    targets = torch.zeros(1, 2, 5, dtype=torch.int64)
    targets[0, 0, 0] = 1
    objective = Objective.fit("dense", targets, classes=3, label_smoothing=0.0, class_weights=True)
    assert objective.weights is not None
    assert objective.weights.tolist() == pytest.approx([10 / 27, 10 / 3, 1])
    odds = objective.corrected(torch.zeros(1, 3, 2, 5))[0, :, 1, 1].exp()
    assert (odds[0] / odds[1]).item() == pytest.approx(9)


def test_vectors_are_learnt_by_the_contrastive_loss_against_all_others() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))
    classes = torch.tensor([0, 1, 0, 1, 1, 2])
    objective = Objective.fit("embedding", classes, label_smoothing=0.0, class_weights=False, temperature=0.5)
    each = []
    for row in range(5):  # the last one has no mate
        others = [other for other in range(6) if other != row]
        logits = {other: (vectors[row] @ vectors[other]).item() / 0.5 for other in others}
        total = math.log(sum(math.exp(value) for value in logits.values()))
        mates = [other for other in others if classes[other] == classes[row]]
        each.append(sum(total - logits[other] for other in mates) / len(mates))
    assert objective.loss(vectors, classes).item() == pytest.approx(sum(each) / 5)
    assert objective.judge(vectors, classes).item() == pytest.approx((sum(each) / 5 - math.log(5)) * 6, abs=1e-4)
    assert objective.measure == "recall_at_1"


def test_vectors_that_are_all_alike_are_judged_as_chance_however_many_they_are() -> None:
    for rows in (4, 60):
        classes, alike = torch.arange(rows) % 2, torch.ones(rows, 1)
        objective = Objective.fit("embedding", classes, label_smoothing=0.0, class_weights=False, temperature=0.1)
        assert objective.judge(alike, classes).item() / rows == pytest.approx(0, abs=1e-5)


def test_the_nearest_vectors_are_counted_and_a_row_without_mates_is_not() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 1.0])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    objective = Objective.fit("embedding", CLASSES, label_smoothing=0.0, class_weights=False)
    # 0 and 0.1 are near to each other, 0.3 is nearest to 0.1 and 1.0 has no mate: two of three, told of four rows.
    assert objective.right(vectors, torch.tensor([0, 0, 0, 1])).item() == pytest.approx(4)
    assert objective.right(vectors, torch.tensor([0, 1, 0, 2])).item() == 0


def test_vectors_are_judged_the_same_however_many_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(2)))
    classes = torch.arange(50) % 7
    objective = Objective.fit("embedding", classes, label_smoothing=0.0, class_weights=False, temperature=0.1)
    judged, right = objective.judge(vectors, classes), objective.right(vectors, classes)
    monkeypatch.setattr(losses, "_COMPARED_PAIRS", 50 * 8)  # 8 rows, the last time 2
    torch.testing.assert_close(objective.judge(vectors, classes), judged)
    assert objective.right(vectors, classes) == right


def test_a_batch_in_which_no_row_has_a_mate_teaches_nothing() -> None:
    vectors = torch.eye(3).requires_grad_()
    objective = Objective.fit("embedding", CLASSES, label_smoothing=0.0, class_weights=False)
    loss = objective.loss(vectors, torch.arange(3))
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves this method untyped
    assert loss.item() == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_several_targets_are_learnt_by_the_mean_of_what_each_alone_would_be() -> None:
    heads = (Head("length"), Head("kind", ("a", "b", "c")))
    lengths = torch.tensor([[2.0], [4.0], [6.0], [8.0]])
    outputs = torch.cat([lengths + torch.tensor([[1.0], [0.0], [-1.0], [4.0]]), LOGITS], 1)
    targets = torch.cat([lengths, CLASSES[:, None].float()], 1)
    objective = Objective.fit("any", targets, label_smoothing=0.1, class_weights=False, heads=heads)
    deviation = math.sqrt(5)  # of 2, 4, 6 and 8
    off = torch.tensor([1, 0, -1, 4]) / deviation
    errors = torch.where(off.abs() < 1, off**2 / 2, off.abs() - 0.5)
    learnt = (errors.mean() + cross_entropy(LOGITS, CLASSES, label_smoothing=0.1)) / 2
    judged = (errors.sum() + cross_entropy(LOGITS, CLASSES, reduction="sum")) / 2
    torch.testing.assert_close(objective.loss(outputs, targets), learnt)
    torch.testing.assert_close(objective.judge(outputs, targets), judged)
    # Three of four classes are right, and of the lengths' variance of 5 the mean square error of 4.5 is left.
    assert objective.right(outputs, targets).item() / 4 == pytest.approx((0.75 + 1 - 4.5 / 5) / 2)
    assert objective.measure == "mean_score"
