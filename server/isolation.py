"""Who spoils a batch: a failed batch is run again in parts, so that only the guilty fail."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def isolate(batch: list[T], error: E, attempt: Callable[[list[T]], E | None]) -> list[tuple[list[T], E]]:
    """Run a failed batch in halves, and halves of those that fail, until single entries fail.

    One guilty entry among n costs at most 2 log2 n further runs. If nothing that is tried succeeds (the device is dead),
    it is given up after 2 log2 n runs: down to a single entry, and each part that was left aside on the way once. In all
    there are never more than 6 (log2 n + 1) runs, which find 4 guilty entries wherever they are; beyond that, whoever has
    not run apart from a guilty one fails with it.

    Args:
        batch: the entries.
        error: what they ran into together.
        attempt: runs a part; returns what that ran into, or None once the part is answered.

    Returns:
        The parts that failed, and what each ran into.
    """
    runs_left = 6 * len(batch).bit_length()
    answered = False
    failed: list[tuple[list[T], E]] = []
    aside: list[tuple[list[T], E]] = []

    def probe(part: list[T], known: E) -> E | None:
        nonlocal runs_left, answered
        if runs_left == 0:
            return known
        runs_left -= 1
        found = attempt(part)
        answered = answered or found is None
        return found

    def search(part: list[T], known: E) -> None:
        if len(part) == 1 or runs_left == 0:
            failed.append((part, known))
            return
        left, right = part[: len(part) // 2], part[len(part) // 2 :]
        found = probe(left, known)
        if found is not None:
            search(left, found)
        # If the left half is well the fault is in the right one; a run of that would only say so again.
        found = known if found is None and len(right) > 1 else probe(right, known)
        if found is not None and (answered or len(right) == 1):
            search(right, found)
        elif found is not None:
            # Nothing has succeeded yet: before more is tried here, see whether anything does.
            aside.append((right, found))

    search(batch, error)
    for part, known in aside:
        if answered:
            search(part, known)
        else:
            failed.append((part, known))
    return failed
