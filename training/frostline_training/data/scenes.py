"""Scenes of digits: pictures of several handwritten digits on a noisy ground, with the class of each pixel."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frostline_training.data.rows import Array

SIZE = 32
GROUND = "background"

_FEWEST, _MOST = 2, 4  # digits of a scene
_INK = 4  # of 16: what is darker is the digit's
_NOISE = 20.0
_DIGIT = 8
_SEED = 20


def digit_scenes(images: Array, digits: Array) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return pictures [N, 1, 32, 32], 0 to 255, and the class of each pixel [N, 32, 32]: 0, or the digit plus 1.

    Every digit is in exactly one picture, so whichever pictures are held out, no digit of theirs was learnt from.

    Args:
        images: Digits [M, 8, 8], ink from 0 to 16.
        digits: What they are, 0 to 9.
    """
    random = np.random.default_rng(_SEED)
    pictures, masks = [], []
    for chosen in _dealt(len(images), random):
        picture = np.full((SIZE, SIZE), random.uniform(150, 255))
        mask = np.zeros((SIZE, SIZE), dtype=np.int64)
        for index, (top, left) in zip(chosen, _places(len(chosen), random), strict=True):
            place = slice(top, top + _DIGIT), slice(left, left + _DIGIT)
            picture[place] -= images[index] / 16 * random.uniform(90, 150)
            mask[place] = np.where(images[index] > _INK, digits[index] + 1, 0)
        pictures.append(np.clip(picture + random.normal(0, _NOISE, picture.shape), 0, 255).round())
        masks.append(mask)
    return np.stack(pictures)[:, np.newaxis].astype(np.float32), np.stack(masks)


def _dealt(count: int, random: np.random.Generator) -> list[Sequence[int]]:
    """Return the indices of `count` digits in shuffled groups of a few."""
    order, groups = random.permutation(count).tolist(), []
    while order:
        size = int(random.integers(_FEWEST, _MOST, endpoint=True))
        groups.append(order[:size])
        order = order[size:]
    return groups


def _places(count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Return the corners of `count` digits that do not overlap."""
    found: list[tuple[int, int]] = []
    while len(found) < count:
        top, left = random.integers(0, SIZE - _DIGIT, size=2, endpoint=True).tolist()
        if all(max(abs(top - other), abs(left - beside)) >= _DIGIT for other, beside in found):
            found.append((top, left))
    return found
