"""The bisection of a failed batch: it runs in parts until only the requests that cause the failure fail."""

from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

MAX_STREAK = 128
"""So many runs in a row that fail are those of a dead device: 64 requests, a batch's usual most, need less if all are guilty."""


def nobody(_part: list[T], _error: E) -> list[tuple[T, E]]:
    """The entries that an error names, where none does."""
    return []


def isolate(
    batch: list[T],
    error: E,
    attempt: Callable[[list[T]], E | None],
    named: Callable[[list[T], E], list[tuple[T, E]]] = nobody,
) -> Iterator[tuple[list[T], E]]:
    """Run a failed batch in halves, and halves of those that fail, until single entries fail.

    Where an error names the entries that are to blame, they fail at once, and the others run together once more.

    One failing entry among n costs at most 2 log2 n further runs; any number of them costs less than 2 n. The smallest
    part that is known to fail is divided first, so that a run succeeds soon if any entry is good. After `MAX_STREAK`
    failed runs in a row, every entry that has not run apart from a failing one fails with it.

    Args:
        batch: the entries, two or more.
        error: the error of the whole batch.
        attempt: runs a part; returns its error, or None once the part is answered.
        named: the entries of a failed part that its error names, each with its own error.

    Yields:
        The parts that failed, each with its error, as soon as that is known: a later run may take long.
    """
    streak = 0
    suspects = [(batch, error)]

    def probe(part: list[T]) -> bool:
        nonlocal streak
        found = attempt(part)
        if found is not None:
            streak += 1
            suspects.append((part, found))
            return False
        streak = 0
        return True

    while suspects:
        part, known = suspects.pop()
        blamed = named(part, known)
        if blamed:
            yield from [([entry], own) for entry, own in blamed]
            others = [entry for entry in part if all(entry is not guilty for guilty, _ in blamed)]
            if others:
                probe(others)
            continue
        if len(part) == 1 or streak >= MAX_STREAK:
            yield part, known
            continue
        left, right = part[: len(part) // 2], part[len(part) // 2 :]
        if probe(left) and len(right) > 1:
            # The left half is well, so the fault is in the right one; a run of that would only say so again.
            suspects.append((right, known))
        else:
            probe(right)
