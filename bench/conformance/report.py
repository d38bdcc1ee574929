"""The report: what the parts found against the floors, as tables, and those cases by name that fall short."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.conformance.checks import Finding
from bench.conformance.crowd import TOLERANCE_MIB, Crowd
from bench.conformance.parts import Part
from bench.measure.report import Sheet

_MOST_CRASH = 2000
"""Characters of what is told of a server that crashed, with its last lines."""
MOST_NAMES = 4
"""Cases of one reason that are named; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Floor:
    """A number that decides whether the check passes.

    Attributes:
        what: it counts.
        measured: the number.
        least: it must be at least this; None for no such bound.
        most: it must be at most this; None for no such bound.
    """

    what: str
    measured: int
    least: int | None = None
    most: int | None = None

    @property
    def met(self) -> bool:
        """Whether it is within its bounds."""
        return (self.least is None or self.measured >= self.least) and (self.most is None or self.measured <= self.most)

    def cells(self) -> tuple[str, str, str, str]:
        """A row of the table."""
        bounds = [
            f"≥ {self.least}" if self.least is not None else "",
            f"≤ {self.most}" if self.most is not None else "",
        ]
        return (self.what, " ".join(filter(None, bounds)), str(self.measured), "met" if self.met else "missed")


def floors_of_alone(part: Part, remedied: Part, cases: int) -> list[Floor]:
    """Every case alone: at most 17 of the 1 497 may be refused, and those with a remedy that works."""
    right = part.verdicts["equal"] + part.verdicts["varies"]
    refused_for_good = len(part.of("refused")) - remedied.verdicts["equal"] - remedied.verdicts["varies"]
    return [
        Floor("alone: READY and equal in every bit", right, least=cases - cases * 17 // 1497),
        Floor("alone: refused, and the remedy does not work", refused_for_good, most=0),
        Floor("alone: wrong answers", part.verdicts["wrong"] + remedied.verdicts["wrong"], most=0),
        Floor("alone: errors", part.verdicts["error"] + remedied.verdicts["error"], most=0),
        *_process("alone", part, remedied),
    ]


def floors_of_company(part: Part) -> list[Floor]:
    """Four callers at once: none is wrong, and callers did share batches."""
    return [
        Floor("in company: answers that are OK and wrong", part.verdicts["wrong"], most=0),
        Floor("in company: errors where ONNX Runtime answers, without a remedy", _helpless(part, "error"), most=0),
        Floor("in company: refused at load, without a remedy", _helpless(part, "refused"), most=0),
        Floor("in company: answers from a shared batch", part.shared, least=1),
        *_process("in company", part),
    ]


def _helpless(part: Part, verdict: str) -> int:
    """How many findings of this verdict do not say what to write."""
    return sum("config.pbtxt" not in finding.detail for finding in part.of(verdict))


def floors_of_health(name: str, part: Part) -> list[Floor]:
    """Probed every second: all are ready."""
    return [
        Floor(f"{name}: models that answered and are not ready", len(part.of("error")), most=0),
        Floor(f"{name}: models refused", len(part.of("refused")), most=0),
        *_process(name, part),
    ]


def floors_of_crowd(found: Crowd) -> list[Floor]:
    """Good models among broken ones: nothing is noticed, nothing stays."""
    failed = sum(count for status, count in found.scrapes.items() if status != 200)
    return [
        Floor("among broken models: wrong answers, errors and states", len(found.findings), most=0),
        Floor("among broken models: right answers", found.answers, least=1),
        Floor("among broken models: scrapes that were not 200", failed, most=0),
        Floor(
            "among broken models: MiB that each cycle leaves, added up",
            round(found.growth_mib),
            most=int(TOLERANCE_MIB),
        ),
        Floor("among broken models: servers that crashed", len(found.crashes), most=0),
        Floor("among broken models: log lines that are no JSON object", len(found.not_json), most=0),
    ]


def _process(name: str, *parts: Part) -> list[Floor]:
    return [
        Floor(f"{name}: servers that crashed", sum(len(part.crashes) for part in parts), most=0),
        Floor(f"{name}: log lines that are no JSON object", sum(len(part.not_json) for part in parts), most=0),
    ]


def floors_table(floors: Sequence[Floor]) -> Sheet:
    """All floors."""
    return Sheet("Floors", ("what", "floor", "measured", ""), tuple(floor.cells() for floor in floors))


def reasons(findings: Iterable[Finding]) -> list[tuple[str, str, int, list[str]]]:
    """Findings by verdict and by reason without its numbers and names: with how many, and the cases; most first."""
    by_reason: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        by_reason[finding.verdict, _plain(finding.detail)].append(finding)
    rows = [
        (verdict, found[0].detail, len(found), sorted({finding.case for finding in found}))
        for (verdict, _), found in by_reason.items()
    ]
    return sorted(rows, key=lambda row: (row[0], -row[2], row[1]))


def short_of(title: str, findings: Iterable[Finding], *, width: int = 160) -> Sheet:
    """What falls short, one row a reason; the reason is that of one of them."""
    rows = []
    for verdict, detail, count, cases in reasons(findings):
        named = ", ".join(cases[:MOST_NAMES]) + (
            f" and {len(cases) - MOST_NAMES} more" if len(cases) > MOST_NAMES else ""
        )
        rows.append((verdict, str(count), str(len(cases)), _one_line(detail, width), named))
    return Sheet(title, ("verdict", "answers", "cases", "reason", "which"), tuple(rows))


def ended(name: str, crashes: Iterable[str]) -> list[str]:
    """How servers ended that should not have, a sentence for each."""
    return [f"{name}: a server crashed: {_one_line(crash, _MOST_CRASH)}" for crash in crashes]


def text(sheet: Sheet) -> str:
    """A table whose cells are too wide for a terminal, as lines."""
    lines = [
        ": ".join(
            (
                " ".join(row[:1]),
                ", ".join(f"{cell} {name}" for cell, name in zip(row[1:3], sheet.columns[1:3], strict=True)),
                *row[3:],
            )
        )
        for row in sheet.rows
    ]
    return "\n  ".join([sheet.title, *lines])


def _plain(detail: str) -> str:
    """A reason without what differs from case to case."""
    without_lists = re.sub(r"\[[^\[\]]*\]", "[]", re.sub(r"'[^']*'", "''", detail))
    return re.sub(r"-?\d[\d.e+-]*", "#", without_lists)[:120]


def _one_line(text: str, width: int) -> str:
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= width else line[: width - 1] + "…"
