"""Who spoils a batch: a failed batch is run again in parts, so that only the guilty fail."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def isolate(batch: list[T], error: E, attempt: Callable[[list[T]], E | None]) -> list[tuple[list[T], E]]:
    """Run a failed batch in halves, and halves of those that fail, until single entries fail.

    One guilty entry among n costs at most 2 log2 n further runs. As long as no run succeeds the smallest part is looked into
    first and there are some 3 (log2 n + 1) runs at most, so that a dead device is soon given up. Then it is the largest, where
    most innocent entries are, and in all there are some 6 (log2 n + 1) runs at most, which find 3 guilty entries wherever they
    are. Beyond these bounds, whoever has not run apart from a guilty one fails with it.

    Args:
        batch: the entries, two or more.
        error: what they ran into together.
        attempt: runs a part; returns what that ran into, or None once the part is answered.

    Returns:
        The parts that failed, and what each ran into.
    """
    most = 6 * len(batch).bit_length()
    runs = 0
    answered = False
    failed: list[tuple[list[T], E]] = []
    suspects = [(batch, error)]

    def probe(part: list[T]) -> bool:
        nonlocal runs, answered
        runs += 1
        found = attempt(part)
        if found is not None:
            suspects.append((part, found))
            return False
        answered = True
        return True

    while suspects:
        choose = max if answered else min
        part, known = suspects.pop(choose(range(len(suspects)), key=lambda index: len(suspects[index][0])))
        if len(part) == 1 or runs >= (most if answered else most // 2):
            failed.append((part, known))
            continue
        left, right = part[: len(part) // 2], part[len(part) // 2 :]
        if probe(left) and len(right) > 1:
            # The left half is well, so the fault is in the right one; a run of that would only say so again.
            suspects.append((right, known))
        else:
            probe(right)
    return failed
