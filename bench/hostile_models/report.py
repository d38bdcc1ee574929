"""The report of the trial, for a terminal and for docs/security.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.hostile_models import verdict
from bench.hostile_models.verdict import Outcome
from bench.hostile_models.zoo import ZOO
from bench.measure.report import Sheet

DOCUMENT = Path("docs/security.md")
SECTION = "hostile models"
_REASON = 110


def models(outcome: Outcome) -> Sheet:
    """What the server said of each hostile model."""
    rows = []
    for name, said in sorted(outcome.said.items(), key=lambda item: (ZOO[item[0]].kind, item[0])):
        reason = "-" if said is None else _plain(said.reason)
        if name in outcome.asked:
            reason = f"its run: {outcome.asked[name]}"
        fault = verdict.of_model(ZOO[name], said, outcome.asked.get(name))
        rows.append((name, ZOO[name].kind, said.state if said else "-", reason or "-", fault or "met"))
    return Sheet("What the server says", ("model", "kind", "state", "reason", "verdict"), tuple(rows))


def _plain(reason: str) -> str:
    """One line of a table: no control characters, no bars, and not too long."""
    line = "".join(each if each.isprintable() else " " for each in reason).replace("|", "/")
    line = " ".join(line.split())
    return line if len(line) <= _REASON else line[: _REASON - 1] + "…"


def phases(outcome: Outcome) -> Sheet:
    """What the caller of the good models noticed."""
    rows = [_phase("alone", outcome.alone)] if outcome.alone else []
    rows += [_phase(name, seen) for name, seen in outcome.beside.items()]
    return Sheet(
        "What callers of the good models noticed",
        ("phase", "answers", "p50 ms", "p99 ms", "longest ms", "bad"),
        tuple(rows),
    )


def _phase(name: str, seen: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = ("-" if seen[key] is None else f"{seen[key]:,.2f}" for key in ("p50_ms", "p99_ms", "most_ms"))
    bad = sum(seen["lost"].values()) + sum(seen["wrong"].values())
    return (name, f"{sum(seen['ended'].values()):,}", *numbers, f"{bad:,}")


def numbers(outcome: Outcome) -> Sheet:
    """Start, swap, memory and stop."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    memory = " / ".join(f"{each:,.0f}" for each in outcome.memory_mib)
    rows = (
        ("all good models answer after s: alone / beside", " / ".join(map(seconds, outcome.start_s))),
        ("their new versions answer after s", seconds(outcome.swap_s)),
        ("memory, MiB: alone / at most, with its processes / in the end", memory),
        ("from SIGTERM to the end, s; exit code", f"{seconds(outcome.stop_s)}; {outcome.code}"),
    )
    return Sheet("Start, swap, memory and stop", ("what", "measured"), rows)


def summary(outcome: Outcome) -> str:
    """How many hostile models were met, and what was not as it should be."""
    met = sum(not verdict.of_model(ZOO[name], said, outcome.asked.get(name)) for name, said in outcome.said.items())
    found = "; ".join(verdict.complaints(outcome, ZOO)) or "all bounds met"
    return f"{met} of {len(outcome.said)} hostile models met. {_one_line(found)}."


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def body(outcome: Outcome, how: str) -> str:
    """The section of the document."""
    sheets = (phases(outcome), numbers(outcome), models(outcome))
    return "\n\n".join([f"Measured {how}.", summary(outcome), *(sheet.markdown() for sheet in sheets)])
