"""The heads of a network: of several targets, which one each of its outputs answers.

While a network learns, its outputs are one array [N, ...], those of each head behind those of the head before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from frostline_training.sources import Task


@dataclass(frozen=True)
class Head:
    """One target of several.

    Attributes:
        name: Of the target, and of what clients read.
        labels: The names of the classes; None where the target is a number.
    """

    name: str
    labels: tuple[str, ...] | None = None

    @property
    def task(self) -> Task:
        """What the target alone would be."""
        return "regression" if self.labels is None else "single-label"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs: of a class a logit for each, of a number the number."""
        return (self.name,) if self.labels is None else self.labels


def slices(heads: Sequence[Head]) -> tuple[slice, ...]:
    """Return where the outputs of each head are."""
    ends = list(accumulate(len(head.outputs) for head in heads))
    return tuple(map(slice, [0, *ends[:-1]], ends))


def divided(heads: Sequence[Head], outputs: Any, targets: Any) -> Iterator[tuple[Head, Any, Any]]:
    """Yield each head with its own `outputs` [N, C], and its targets: classes [N], or numbers [N, 1].

    Args:
        heads: Of the network.
        outputs: All of them, [N, ...], an array or a tensor.
        targets: [N, K], as `outputs`.
    """
    for place, (head, part) in enumerate(zip(heads, slices(heads), strict=True)):
        yield head, outputs[:, part], of_head(head, place, targets)


def of_head(head: Head, place: int, targets: Any) -> Any:
    """Return the targets of one head among `targets` [N, K]: classes [N], or numbers [N, 1]."""
    return targets[:, place : place + 1] if head.labels is None else targets[:, place]


def output_names(heads: Sequence[Head]) -> tuple[str, ...]:
    """Return the names of all outputs, those of classes with what they are classes of."""
    return tuple(
        output if head.labels is None else f"{head.name}: {output}" for head in heads for output in head.outputs
    )
