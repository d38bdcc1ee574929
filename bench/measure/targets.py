"""The targets, and whether the results meet them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Results = Mapping[str, Mapping[str, Sequence[float]]]
"""For each thing measured and each number of it, its values, one a round."""


@dataclass(frozen=True)
class Goal:
    """One line of the table of goals.

    Attributes:
        what: what is measured.
        value: takes it from the results; raises KeyError where they lack it.
        target: what it should be.
        least: whether it should be at least that, and else at most.
        unit: how the numbers are written, a format with one field.
    """

    what: str
    value: Callable[[Results], float]
    target: float
    least: bool = True
    unit: str = "{:,.0f}/s"


@dataclass(frozen=True)
class Verdict:
    """The result of a goal.

    Attributes:
        goal: the goal.
        measured: the value, or None if it was not measured.
    """

    goal: Goal
    measured: float | None

    @property
    def met(self) -> bool:
        """Whether it was measured and is as it should be."""
        if self.measured is None:
            return False
        return self.measured >= self.goal.target if self.goal.least else self.measured <= self.goal.target

    def cells(self) -> tuple[str, str, str, str]:
        """What, goal, measured, and met or the distance."""
        goal = f"{'≥' if self.goal.least else '≤'} {self.goal.unit.format(self.goal.target)}"
        if self.measured is None:
            return self.goal.what, goal, "-", "not measured"
        distance = abs(self.measured / self.goal.target - 1)
        verdict = "met" if self.met else f"{distance:.0%} {'below' if self.goal.least else 'above'}"
        return self.goal.what, goal, self.goal.unit.format(self.measured), verdict


def middle(row: str, number: str) -> Callable[[Results], float]:
    """The median of a number over the rounds."""
    return lambda results: float(statistics.median(results[row][number]))


def quotient(over: tuple[str, str], under: tuple[str, str]) -> Callable[[Results], float]:
    """The median over the rounds of one number divided by another of the same round."""

    def value(results: Results) -> float:
        pairs = zip(results[over[0]][over[1]], results[under[0]][under[1]], strict=True)
        return statistics.median(first / second for first, second in pairs)

    return value


def best(*values: Callable[[Results], float]) -> Callable[[Results], float]:
    """The largest of several."""
    return lambda results: max(value(results) for value in values)


def less_the_model(results: Results) -> float:
    """How the time of an image's echo compares with the server's time for it without the model's own; 1 is as fast."""
    rows = ("image float32@8 C++ echo", "image float32@8", "image ONNX Runtime")
    rounds = zip(*(results[row]["rate"] for row in rows), strict=True)
    return float(statistics.median((1 / echo) / (1 / server - 1 / model) for echo, server, model in rounds))


GOALS: tuple[Goal, ...] = (
    *(
        Goal(
            f"MLP, {in_flight} in flight, against gRPC's C++ echo of the same bytes",
            quotient((f"mlp@{in_flight}", "rate"), (f"mlp@{in_flight} C++ echo", "rate")),
            target,
            unit="{:.2f}",
        )
        for in_flight, target in ((1, 0.6), (8, 0.7), (64, 1.0), (256, 0.9))
    ),
    Goal("MLP, 64 in flight: server CPU a request", middle("mlp@64", "cpu_ms"), 0.022, least=False, unit="{:.3f} ms"),
    Goal(
        "MLP, 64 in flight, TLS against none",
        quotient(("mlp@64, TLS", "rate"), ("mlp@64, beside TLS", "rate")),
        0.8,
        unit="{:.2f}",
    ),
    Goal("4-16-3 network, 64 in flight", middle("tiny@64", "rate"), 50_000),
    Goal(
        "CNN, 64 in flight, against ONNX Runtime on one thread",
        quotient(("cnn@64", "rate"), ("cnn@64 ONNX Runtime, 1 thread", "rate")),
        0.95,
        unit="{:.3f}",
    ),
    Goal(
        "CNN, 64 in flight, 2 instances or threads",
        best(middle("cnn@64, 2 threads", "rate"), middle("cnn@64, 2 instances", "rate")),
        1_750,
    ),
    Goal(
        "open loop at 50 % of peak: p99 over p50",
        quotient(("open loop", "p99_ms"), ("open loop", "p50_ms")),
        3,
        least=False,
        unit="{:.2f}",
    ),
    Goal("streaming, rows", middle("stream", "rate"), 60_000),
    Goal("602 KB FP32 images at 8, against a C++ echo, less the model", less_the_model, 1.3, unit="{:.2f}"),
    Goal(
        "UINT8 images at 8, against FP32 ones",
        quotient(("image uint8@8", "rate"), ("image float32@8", "rate")),
        3.0,
        unit="{:.2f}",
    ),
    Goal(
        "100 models, traffic on one, against 1 model",
        quotient(("100 models@64", "rate"), ("1 model@64", "rate")),
        0.95,
        unit="{:.3f}",
    ),
    Goal("start to ready, 10 small models", middle("start, 10 models", "ready_s"), 2.5, least=False, unit="{:.2f} s"),
)


def verdicts(results: Results, goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """Every goal with what was measured."""
    return [Verdict(goal, _measured(goal, results)) for goal in goals]


def _measured(goal: Goal, results: Results) -> float | None:
    try:
        value = goal.value(results)
    except KeyError:
        return None
    # The percentile of nothing.
    return None if math.isnan(value) else value
