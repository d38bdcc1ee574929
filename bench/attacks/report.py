"""The report of all attacks, for a terminal and for docs/security.md."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.attacks.result import MOST_KEPT, MOST_OVER_BUDGET, MOST_SLOWER, Result
from bench.measure.report import Sheet

DOCUMENT = Path("docs/security.md")
SECTION = "attacks"
_MOST_ENDS = 4


def verdicts(results: Sequence[Result], budget_mib: float) -> Sheet:
    """What the honest client and the server's memory noticed of each attack."""
    return Sheet(
        "What the honest client and the server's memory noticed: at rest / beside a burner / attacked, and "
        "before / at most / after",
        ("attack", "p50 ms", "p99 ms", "new connection ms", "MiB", "verdict"),
        tuple(_verdict(result, budget_mib) for result in results),
    )


def _verdict(result: Result, budget_mib: float) -> tuple[str, ...]:
    memory = (result.before.memory_mib, result.peak_mib, result.after.memory_mib if result.after else None)
    return (
        result.name,
        _numbers(result.idle.p50_ms, result.during.p50_ms),
        _numbers(result.idle.p99_ms, result.control_ms, result.during.p99_ms),
        _numbers(result.idle.new_ms, result.during.new_ms),
        " / ".join("-" if each is None else f"{each:,.0f}" for each in memory),
        said(result, budget_mib),
    )


def said(result: Result, budget_mib: float) -> str:
    """The verdict, and at which try if not at the first."""
    verdict = "; ".join(result.complaints(budget_mib)) or "met"
    return verdict if result.tries == 1 else f"{verdict} (try {result.tries})"


def costs(results: Sequence[Result]) -> Sheet:
    """What each attacker sent, and what became of it."""
    return Sheet(
        "What the attacker sent, and what became of it",
        ("attack", "sent", "a second", "connections", "cores: attacker / server", "log lines", "ended"),
        tuple(_cost(result) for result in results),
    )


def _cost(result: Result) -> tuple[str, ...]:
    sent = result.sent
    ends = ", ".join(f"{count:,} {how}" for how, count in sent.ends.most_common(_MOST_ENDS))
    return (
        result.name,
        f"{sent.count:,} {sent.unit}",
        f"{sent.count / sent.seconds:,.0f}",
        f"{sent.connections:,}",
        _numbers(result.attacker_cpu, result.server_cpu),
        f"{result.log_lines:,}",
        ends or "-",
    )


def attacks(results: Sequence[Result]) -> Sheet:
    """What each attack does."""
    return Sheet("Attacks", ("attack", "what it does"), tuple((result.name, result.what) for result in results))


def _numbers(*values: float | None) -> str:
    return " / ".join(map(_number, values))


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def summary(results: Sequence[Result], missing: Mapping[str, str], budget_mib: float) -> str:
    """How many attacks the server withstood, the rule, and what was not measured and why."""
    met = sum(not result.complaints(budget_mib) for result in results)
    rule = (
        f"{met} of {len(results)} attacks met: the honest client's p99 at most {MOST_SLOWER:g} times that at rest, every "
        f"answer right and every status OK, memory at most {MOST_OVER_BUDGET:g} times the budget of {budget_mib:,.0f} MiB "
        f"over that before, at most {MOST_KEPT - 1:.0%} more than before 10 s after, and the server alive."
    )
    return " ".join([rule, *(f"Not measured: {name}: {reason}." for name, reason in missing.items())])


def body(results: Sequence[Result], missing: Mapping[str, str], budget_mib: float, how: str) -> str:
    """The section of the document."""
    sheets = (attacks(results), verdicts(results, budget_mib), costs(results))
    return "\n\n".join(
        [f"Measured {how}.", summary(results, missing, budget_mib), *(sheet.markdown() for sheet in sheets)]
    )
