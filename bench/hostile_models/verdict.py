"""The verdict on a server among hostile models: each was refused with a reason, and the good ones noticed nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.hostile_models.server import Said
from bench.hostile_models.zoo import Way

MOST_SLOWER = 3.0
"""The good models' p99 beside hostile ones, over that alone."""
MOST_STALL_MS = 100.0
"""The longest answer; or 3 times the longest alone, on a machine that is busy itself."""
MOST_STOP_S = 2.0
"""From SIGTERM to the end."""
MOST_START_S = 10.0
"""Until all good models answer, more than alone."""
MOST_SWAP_S = 30.0
"""Until new versions of the good models answer."""
MOST_KEPT = 1.10
"""Resident memory 10 s after the last run, over that alone; hostile models that are served may take some of their own."""
MIB_A_MODEL = 2.0
BRIEF = "stop"
"""The phase that is too short for a p99."""
ENDED = ("OK", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNAVAILABLE")
"""How a request may end whose run is hostile; it is OK only if the run came to an end."""


@dataclass
class Outcome:
    """What was measured.

    Attributes:
        alone: what the caller of the good models saw without hostile ones: `p50_ms`, `p99_ms`, `most_ms`, `lost`, `wrong`.
        beside: the same beside them, by phase.
        start_s: seconds until all good models answered, alone and beside.
        swap_s: seconds until new versions of all of them answered; None if they never did.
        memory_mib: resident memory alone, at most beside with the server's processes, and in the end.
        said: of each hostile model; None for nothing.
        asked: how requests to hostile models ended, by their names.
        stop_s: from SIGTERM to the end.
        code: the exit code; None if it had to be killed.
        death: how the server ended before it should.
    """

    alone: Mapping[str, Any] = field(default_factory=dict)
    beside: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    start_s: list[float | None] = field(default_factory=list)
    swap_s: float | None = None
    memory_mib: list[float] = field(default_factory=list)
    said: dict[str, Said | None] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    stop_s: float | None = None
    code: int | None = None
    death: str = ""


def of_model(way: Way, said: Said | None, asked: str | None = None) -> str:
    """What is not as it should be with a hostile model; "" if nothing.

    Args:
        way: the model.
        said: what the server says of it.
        asked: how a request to it ended; None if there was none.
    """
    if said is None:
        return "silence"
    if said.state == "LOADING":
        return "never decided"
    if said.state == "READY" and way.refused:
        return "READY"
    if said.state != "READY" and not said.reason:
        return "no reason"
    if asked is not None and asked not in ENDED:
        return f"its run: {asked}"
    return ""


def complaints(outcome: Outcome, zoo: Mapping[str, Way]) -> list[str]:
    """What is not as it should be; empty if the server withstood all of them."""
    found = [f"the server {outcome.death}"] if outcome.death else []
    found += [
        f"{name}: {fault}"
        for name, said in outcome.said.items()
        if (fault := of_model(zoo[name], said, outcome.asked.get(name)))
    ]
    for phase, seen in outcome.beside.items():
        found += [f"{phase}: {fault}" for fault in _noticed(outcome.alone, seen, brief=phase == BRIEF)]
    alone_s, beside_s = [*outcome.start_s, None, None][:2]
    if beside_s is None or alone_s is None or beside_s - alone_s > MOST_START_S:
        found.append(f"the good models answered {'never' if beside_s is None else f'after {beside_s:.1f} s'}")
    if outcome.swap_s is None or outcome.swap_s > MOST_SWAP_S:
        found.append("new versions of the good models did not come in time")
    served = sum(said is not None and said.state == "READY" for said in outcome.said.values())
    if len(outcome.memory_mib) == 3 and (
        outcome.memory_mib[2] > MOST_KEPT * outcome.memory_mib[0] + MIB_A_MODEL * served
    ):
        found.append(f"memory kept: {outcome.memory_mib[2] / outcome.memory_mib[0] - 1:+.0%}")
    if outcome.code != 0:
        found.append(f"exit code {outcome.code} instead of 0")
    if outcome.stop_s is None or outcome.stop_s > MOST_STOP_S:
        found.append("no stop" if outcome.stop_s is None else f"it took {outcome.stop_s:.1f} s to stop")
    return found


def _noticed(alone: Mapping[str, Any], seen: Mapping[str, Any], *, brief: bool) -> list[str]:
    found = [f"{count} lost: {how}" for how, count in seen["lost"].items()]
    found += [f"{count} wrong: {how}" for how, count in seen["wrong"].items()]
    if seen["p99_ms"] is None:
        return found if brief else [*found, "no answer"]
    slower = seen["p99_ms"] / alone["p99_ms"]
    if slower > MOST_SLOWER and not brief:
        found.append(f"p99 {slower:.1f}x")
    if seen["most_ms"] > max(MOST_STALL_MS, MOST_SLOWER * alone["most_ms"]):
        found.append(f"an answer took {seen['most_ms']:,.0f} ms")
    return found
