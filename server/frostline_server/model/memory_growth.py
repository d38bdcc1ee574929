"""The memory growth of runs: measured for small batches, and predicted from them for larger ones."""

from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_bytes() -> int:
    """The most memory that the process has had since the last `reset_peak`, in bytes; 0 where the system does not say."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Measure the peak from now on."""
    try:
        # Only the mark is set back; no page is touched.
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        # Then the peak is that of all time, so growth below it is not seen.
        return


def _status(key: str) -> int:
    try:
        lines = (_PROCESS / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


class MemoryGrowth:
    """What batches of a growing number of rows add to the memory that the process had before the first.

    Memory that a run frees may stay with ONNX Runtime for the next one, so all is compared with the beginning.

    Args:
        budget_bytes: the most that a batch may add.
        peak: gives the most memory since `reset`, in bytes.
        reset: measures the peak from now on.
    """

    def __init__(
        self, budget_bytes: int, peak: Callable[[], int] = peak_bytes, reset: Callable[[], None] = reset_peak
    ) -> None:
        self.budget_bytes = budget_bytes
        self._peak, self._reset = peak, reset
        reset()
        self._before = peak()
        self._added: list[tuple[int, int]] = []

    def ran(self, rows: int) -> None:
        """A batch of so many rows ran; only larger ones than before tell something new."""
        if not self._added or rows > self._added[-1][0]:
            self._added.append((rows, self._grown()))

    def measure_again(self, run: Callable[[], object]) -> None:
        """Repeat the largest batch: what the rest of the process did meanwhile may have been counted with it.

        Args:
            run: runs a batch of as many rows as the last that was told to `ran`.
        """
        rows, most = self._added[-1]
        self._reset()
        run()
        self._added[-1] = rows, min(most, self._grown())

    def _grown(self) -> int:
        return max(0, self._peak() - self._before)

    def predicted(self, rows: int) -> int:
        """What a batch of so many rows adds, in bytes, if it goes on as it began; 0 before anything ran."""
        if not self._added:
            return 0
        (first, least), (last, most) = self._added[0], self._added[-1]
        by_row = (most - least) / (last - first) if last > first else most / last
        return int(most + by_row * (rows - last))

    def fits(self, rows: int) -> bool:
        """Whether a batch of so many rows stays within the budget."""
        return self.predicted(rows) <= self.budget_bytes
