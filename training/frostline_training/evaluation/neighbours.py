"""The nearest neighbours of vectors, by the cosine: how often they are of the same class."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_ROWS = 256  # bounds memory; the result does not depend on it


class Neighbours(NamedTuple):
    """What is near to each row among all others, each [N]; a score is NaN where no other row has the row's class.

    Attributes:
        nearest: The nearest row.
        recall_at_1: 1 where it has the row's class, else 0.
        map_at_r: Of the R nearest rows, where R others have the row's class: the precision up to each of these that has it
            too, added up and divided by R (Musgrave, Belongie and Lim, "A Metric Learning Reality Check", 2020).
    """

    nearest: NDArray[np.int64]
    recall_at_1: Numbers
    map_at_r: Numbers


def neighbours(vectors: NDArray[np.floating], classes: NDArray[np.int64]) -> Neighbours:
    """Find the nearest neighbours of each of the `vectors` [N, D], of which each has one of the `classes` [N]."""
    wide = vectors.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    mates = np.bincount(classes)[classes] - 1
    most = max(1, int(mates.max()))
    parts = []
    for start in range(0, len(wide), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(wide)))
        similar = wide[rows] @ wide.T
        similar[np.arange(len(rows)), rows] = -np.inf
        order = np.argsort(-similar, axis=1, kind="stable")[:, :most]
        same = classes[order] == classes[rows][:, np.newaxis]
        counted = np.arange(1, most + 1)
        precision = np.cumsum(same, axis=1) / counted
        of_r = mates[rows][:, np.newaxis]
        added = (precision * same * (counted <= of_r)).sum(axis=1)
        some = mates[rows] > 0
        parts.append(
            (order[:, 0], np.where(some, same[:, 0], np.nan), np.where(some, added / np.maximum(of_r[:, 0], 1), np.nan))
        )
    return Neighbours(*(np.concatenate(each) for each in zip(*parts, strict=True)))
