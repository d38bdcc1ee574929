"""The report: the targets, and the scenarios with their baselines, as tables."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measure import machine
from bench.measure.targets import Results, Verdict


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        title: what it shows.
        columns: their heads; all but the first are set to the right.
        rows: their cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def table(self) -> Table:
        """For a terminal."""
        made = Table(title=self.title, box=box.SIMPLE, title_justify="left")
        for number, column in enumerate(self.columns):
            made.add_column(column, justify="right" if number else "left", no_wrap=True)
        for cells in self.rows:
            made.add_row(*map(Text, cells))  # what stands in brackets is no markup
        return made

    def markdown(self) -> str:
        """For a document."""
        rule = ("---", *("---:" for _ in self.columns[1:]))
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return f"{self.title}\n\n" + "\n".join(lines) + "\n"


def conditions(rounds: int, seconds: float, load: float) -> str:
    """How something was measured, as a sentence without its end.

    Args:
        rounds: how many, interleaved.
        seconds: the length of one load.
        load: of the machine, before.
    """
    return f"{machine.described()}; medians of {rounds} interleaved rounds of {seconds:g} s; load of the machine before: {load:.1f}"


def console_of_width() -> Console:
    """A terminal as it is; what is written elsewhere is wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def goals(verdicts: Sequence[Verdict]) -> Sheet:
    """The goals and what became of them."""
    return Sheet("Goals", ("what", "goal", "measured", ""), tuple(verdict.cells() for verdict in verdicts))


def everything(results: Results) -> Sheet:
    """Medians of all that was measured: CPU time for each answer, resident memory, and the rate as a part of the echo's."""
    columns = ("what", "answers/s", "least to most", "p50 ms", "p99 ms", "CPU ms", "MiB", "of C++ echo")
    return Sheet("Everything that was measured", columns, tuple(_line(results, name) for name in results))


def _line(results: Results, name: str) -> tuple[str, ...]:
    numbers = results[name]
    if "ready_s" in numbers:
        values = numbers["ready_s"]
        return (
            f"{name}: {statistics.median(values):.2f} s",
            "",
            f"{min(values):.2f} to {max(values):.2f} s",
            *[""] * 5,
        )
    rates = numbers["rate"]
    spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
    cells = [name, f"{statistics.median(rates):,.0f}", spread]
    for number, form in (("p50_ms", ".3f"), ("p99_ms", ".3f"), ("cpu_ms", ".4f"), ("memory_mib", ".0f")):
        cells.append(format(statistics.median(numbers[number]), form) if number in numbers else "")
    # At a rate that was offered, both answer what they were offered.
    floor = None if "offered" in numbers else results.get(f"{name} C++ echo")
    cells.append(
        f"{statistics.median(ours / echo for ours, echo in zip(rates, floor['rate'], strict=True)):.2f}"
        if floor
        else ""
    )
    return tuple(cells)
