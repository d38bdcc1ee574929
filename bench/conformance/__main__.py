"""Conformance of `frostline serve` with ONNX Runtime on the ONNX project's backend suite: `python -m bench.conformance`.

The suite's cases are served without any configuration by a real server, and its answers are compared with those of ONNX
Runtime in this process: alone bit for bit, then with open first axes and four callers at once, then their health under
probes, then good models among broken ones. The exit code is 1 if a floor is missed.
"""

import argparse
import fnmatch
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx
import onnxruntime
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.conformance import crowd, document, parts, report, suite
from bench.conformance.suite import Case, Suite
from bench.measure.report import Sheet, console_of_width

CYCLES = 6
"""Times that models come, change and go among broken ones."""

PARTS = ("alone", "company", "health", "slo", "broken")

EXAMPLES = """examples:
  python -m bench.conformance                                    everything, about fifteen minutes
  python -m bench.conformance --only 'test_softmax*' --parts alone,company
  python -m bench.conformance --limit 100 --soak-s 10            every fifteenth case or so
  python -m bench.conformance -- --transport grpcio              through the other front end
"""


@dataclass
class Outcome:
    """What the parts found, for the terminal and the document.

    Attributes:
        floors: all of them, in order.
        sheets: the tables of what falls short.
        notes: facts, a sentence each.
    """

    floors: list[report.Floor] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One run of the command.

    Attributes:
        cases: the cases.
        flags: further flags of every server.
        repeats: how often each round of callers is sent.
        soak_s: how long the probes run, in seconds.
        progress: where progress is shown.
    """

    cases: Sequence[Case]
    flags: Sequence[str]
    repeats: int
    soak_s: float
    progress: Progress

    def alone(self, outcome: Outcome) -> list[Case]:
        """Every case alone; returns those that answer."""
        found = parts.alone(self.cases, self.flags, self._tick("alone", len(self.cases)))
        refused = found.of("refused")
        remedied = parts.remedied(self.cases, refused, self.flags, self._tick("remedies", len(refused)))
        outcome.floors += report.floors_of_alone(found, remedied, len(self.cases))
        outcome.notes += report.ended("alone", [*found.crashes, *remedied.crashes])
        outcome.sheets.append(
            report.short_of("Alone: what falls short", found.of("refused", "error", "wrong", "varies"))
        )
        outcome.sheets.append(report.short_of("Refused: what became of it with the remedy it names", remedied.findings))
        right = {finding.case for finding in found.of("equal", "varies")}
        return [case for case in self.cases if case.name in right]

    def company(self, outcome: Outcome) -> None:
        """Every case with open axes and four callers at once."""
        found = parts.company(self.cases, self.repeats, self.flags, self._tick("in company", len(self.cases)))
        outcome.floors += report.floors_of_company(found)
        outcome.sheets.append(report.short_of("In company: what falls short", found.of("refused", "error", "wrong")))
        counts = found.verdicts
        outcome.notes += [
            *report.ended("in company", found.crashes),
            *found.notes,
            f"in company: {counts['equal']} answers equal in every bit, {counts['close']} equal but for rounding",
        ]

    def health(self, outcome: Outcome, answering: Sequence[Case], name: str, flags: Sequence[str]) -> None:
        """The cases that answer, under probes."""
        found = parts.health(answering, self.soak_s, [*flags, *self.flags], self._tick(name, int(self.soak_s)))
        outcome.floors += report.floors_of_health(name, found)
        outcome.sheets.append(report.short_of(f"{name}: what falls short", found.findings))
        outcome.notes += [*report.ended(name, found.crashes), f"{name}: {len(answering)} models, {self.soak_s:g} s"]

    def broken(self, outcome: Outcome) -> None:
        """Good models among broken ones."""
        found = crowd.run(100, 100, CYCLES, self.flags, self._tick("among broken models", CYCLES))
        outcome.floors += report.floors_of_crowd(found)
        outcome.sheets.append(report.short_of("Among broken models: what falls short", found.findings))
        outcome.notes += report.ended("among broken models", found.crashes)
        memory = ", ".join(f"{mib:.0f}" for mib in found.memory_mib)
        outcome.notes.append(
            f"among broken models: {found.answers} right answers, {found.scrapes[200]} scrapes; MiB with 50 models before "
            f"and after each of {CYCLES} cycles: {memory}; with all 200: {found.full_mib:.0f}"
        )

    def _tick(self, name: str, total: int) -> Callable[[], None]:
        task = self.progress.add_task(name, total=total)
        return lambda: self.progress.advance(task)


def chosen(cases: Sequence[Case], limit: int) -> Sequence[Case]:
    """At most so many cases, spread over all kinds; all for 0."""
    if not limit or limit >= len(cases):
        return cases
    return [cases[number * len(cases) // limit] for number in range(limit)]


def run(check: Check, wanted: Sequence[str]) -> Outcome:
    """Run the wanted parts."""
    outcome = Outcome()
    answering: Sequence[Case] = check.alone(outcome) if {"alone", "health", "slo"} & set(wanted) else []
    if "company" in wanted:
        check.company(outcome)
    if "health" in wanted:
        check.health(outcome, answering, "probed", [])
    if "slo" in wanted:
        check.health(outcome, answering, "probed with slo_ms 50", ["--slo-ms", "50"])
    if "broken" in wanted:
        check.broken(outcome)
    return outcome


def described(found: Suite, cases: Sequence[Case], flags: Sequence[str]) -> str:
    """What was checked, in a sentence."""
    left_out = "; ".join(f"{kind}: {count}, {reason}" for (kind, reason), count in sorted(found.skipped.items()))
    return (
        f"{len(cases)} cases of the backend suite of onnx {onnx.__version__} that ONNX Runtime {onnxruntime.__version__} "
        f"runs on the CPU{'; server flags `' + ' '.join(flags) + '`' if flags else ''}. Left out: {left_out}."
    )


def main() -> None:
    """Parse the command line, check, and print what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.conformance",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases of these names, such as 'test_softmax*'")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most N cases, spread over all")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="PART[,PART]", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=2, help="times that each round of callers is sent (default 2)")
    parser.add_argument("--soak-s", type=float, default=60.0, help="seconds under probes (default 60)")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {document.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    wanted = options.parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}; the parts are {', '.join(PARTS)}")
    if options.write and (options.only != "*" or options.limit or set(wanted) != set(PARTS)):
        parser.error(f"--write needs every case and part, or {document.DOCUMENT} would lose those left out")
    found = suite.load(lambda name: fnmatch.fnmatch(name, options.only))
    cases = chosen(found.cases, options.limit)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        outcome = run(Check(cases, options.flags, options.repeats, options.soak_s, progress), wanted)
    console = console_of_width()
    for sheet in outcome.sheets:
        if sheet.rows:
            console.print(report.text(sheet), markup=False, highlight=False)
    console.print(report.floors_table(outcome.floors).table())
    how = described(found, cases, options.flags)
    for note in (*outcome.notes, how):
        console.print(note)
    if options.write:
        document.write("conformance", document.body(how, outcome.floors, outcome.notes, outcome.sheets))
    sys.exit(0 if all(floor.met for floor in outcome.floors) else 1)


if __name__ == "__main__":
    main()
