"""What is near to what, with neighbours that are known."""

import numpy as np
import pytest

from frostline_training.errors import TrainingError
from frostline_training.evaluation.compare import compare
from frostline_training.evaluation.evaluate import score
from frostline_training.evaluation.neighbours import neighbours

# Directions in the plane, in degrees, and how long each vector is, which must not count.
ANGLES, LENGTHS = np.radians([0, 10, 25, 90, 95, 130]), np.array([1.0, 5.0, 0.1, 2.0, 3.0, 1.0])
VECTORS = (np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1) * LENGTHS[:, np.newaxis]).astype(np.float32)
CLASSES = np.array([0, 0, 1, 1, 1, 2])


def test_recall_and_precision_at_r_are_counted_by_hand() -> None:
    found = neighbours(VECTORS, CLASSES)
    assert found.nearest.tolist() == [1, 0, 1, 4, 3, 4]
    # Nobody else has class 2. Of class 1 there are two mates: 25 has 10, 0 as its nearest; 90 has 95, 130; 95 has 90, 130.
    np.testing.assert_array_equal(found.recall_at_1, [1, 1, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(found.map_at_r, [1, 1, 0, 0.5, 0.5, np.nan])
    evaluation = score(VECTORS, CLASSES, "embedding")
    assert evaluation.scores == {"recall_at_1": pytest.approx(4 / 5), "map_at_r": pytest.approx(3 / 5)}
    assert evaluation.headline[0] == "recall_at_1"
    assert evaluation.interval is not None


def test_the_precision_counts_up_to_each_place() -> None:
    # From 0 degrees: other, own, other, own, own. Three mates: only the second of the first three is one.
    angles = np.radians([0, 10, 20, 30, 40, 50])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = neighbours(vectors, np.array([0, 1, 0, 1, 0, 0]))
    assert found.map_at_r[0] == pytest.approx((1 / 2) / 3)


def test_many_rows_are_compared_part_by_part_and_alike() -> None:
    random = np.random.default_rng(0)
    vectors, classes = random.normal(size=(600, 8)), random.integers(0, 40, 600)
    found = neighbours(vectors, classes)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -2)
    np.testing.assert_array_equal(found.nearest, similar.argmax(1))
    np.testing.assert_array_equal(found.recall_at_1, classes[similar.argmax(1)] == classes)


def test_rows_without_any_mate_say_nothing() -> None:
    with pytest.raises(TrainingError, match="no two rows have the same class"):
        score(VECTORS, np.arange(6), "embedding")


@pytest.mark.parametrize("metric", ["recall_at_1", "map_at_r"])
def test_two_embeddings_are_compared_on_the_same_rows(metric: str) -> None:
    random = np.random.default_rng(1)
    classes = np.arange(200) % 5
    good = np.eye(5)[classes] + random.normal(size=(200, 5)) * 0.1
    poor = np.eye(5)[classes] + random.normal(size=(200, 5))
    live, new = (score(vectors.astype(np.float32), classes, "embedding") for vectors in (poor, good))
    found = compare(metric, live, new)
    assert found.better
    assert found.p_value < 0.05
    assert not compare(metric, live, live).better
