"""The overload study: a server's answers, refusals and memory under more load than it can carry.

A first server, without a limit, shows the capacity in closed loop. A second server, with the given flags, then gets a
multiple of the capacity in open loop. The study shows how many requests are answered within the limit, how fast the
others are refused, and how much memory the server uses.
"""

import argparse
import statistics
from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from bench.load import networks
from bench.load.workload import ask, framed
from bench.measure import document, machine, process
from bench.measure.harness import Lab, Sample, Samples
from bench.measure.report import Sheet, console_of_width, goals
from bench.measure.rounds import measure
from bench.measure.scenarios import MLP
from bench.measure.targets import Goal, Results, middle, verdicts
from frostline.protocol import MODEL_INFER
from frostline.tune import openloop
from frostline.tune.http2 import Answer, connected
from frostline.tune.openloop import Outcome

NETWORKS: dict[str, tuple[onnx.ModelProto, tuple[int, ...]]] = {
    "cnn": (networks.cnn(), networks.CNN_SHAPE),
    "mlp": (MLP, (784,)),
}
_CONNECTIONS = 4
_PUSHBACK = "retry-pushback-ms"


@dataclass(frozen=True)
class Plan:
    """The parameters of the study.

    Attributes:
        network: one of `NETWORKS`.
        factor: the offered load, as a multiple of the capacity.
        slo_ms: the limit on an answer's latency.
        deadline: whether calls carry the limit as their deadline.
        config: the text of the model's config.pbtxt; empty for none.
        flags: of the server with the limit.
    """

    network: str
    factor: float
    slo_ms: float
    deadline: bool
    config: str
    flags: tuple[str, ...]


def overload(lab: Lab, plan: Plan) -> Samples:
    """One round."""
    net, row = NETWORKS[plan.network]
    questions = ask(plan.network, net, row)
    capacity = lab.closed(lab.server("without a limit", {plan.network: net}), questions, 64)
    target = lab.server("with the limit", {plan.network: net}, *plan.flags, config=plan.config)
    sampled: list[Answer] = []

    def on_answer(number: int, answer: Answer) -> None:
        sampled.append(answer)
        if answer.status == 0:
            questions.check(number % len(questions.messages), answer.messages()[0])

    bodies = [framed(message) for message in questions.messages]
    rate = plan.factor * capacity["rate"]
    timeout_s = plan.slo_ms / 1000 if plan.deadline else None
    # Memory is compared after one overload and after a longer one: the first may still be filling buffers.
    memory_mib = []
    for seconds in (lab.seconds / 2, lab.seconds):
        with connected(target.address, MODEL_INFER, _CONNECTIONS, timeout_s) as connections:
            due_s = openloop.poisson(rate, seconds, seed=lab.number)
            outcome = openloop.drive(connections, bodies, due_s, on_answer, sample=1000)
        memory_mib.append(process.memory_mib(target.pid))
    sample = summary(outcome, lab.seconds, plan.slo_ms)
    sample |= {
        "share": sample["inside"] / capacity["rate"],
        "before_mib": memory_mib[0],
        "after_mib": memory_mib[1],
        "most_mib": process.memory_mib(target.pid, "VmHWM"),
    }
    refusals = [answer for answer in sampled if answer.status != 0]
    if refusals:
        sample["pushback"] = sum(_PUSHBACK in refusal.trailers for refusal in refusals) / len(refusals)
    return {"capacity": capacity, "overload": sample}


def summary(outcome: Outcome, seconds: float, slo_ms: float) -> Sample:
    """The outcomes of the requests, without the first fifth of the time.

    Returns:
        A second: offered, inside (answered within the limit), outside (answered later), refused, unanswered; a number
        status_N for each status N; and refused_p50_ms and refused_p99_ms, NaN without refusals.
    """
    counted = outcome.due_s >= 0.2 * seconds
    latency_ms, status = outcome.latency_s[counted] * 1000, outcome.status[counted]
    answered, refused = status == 0, status > 0
    inside = answered & (latency_ms <= slo_ms)
    p50, p99 = np.percentile(latency_ms[refused], [50, 99]) if refused.any() else (np.nan, np.nan)
    window_s = 0.8 * seconds
    return {
        "offered": len(status) / window_s,
        "inside": np.count_nonzero(inside) / window_s,
        "outside": np.count_nonzero(answered & ~inside) / window_s,
        "refused": np.count_nonzero(refused) / window_s,
        "unanswered": np.count_nonzero(status < 0) / window_s,
        "refused_p50_ms": float(p50),
        "refused_p99_ms": float(p99),
        **{f"status_{code}": count / window_s for code, count in sorted(Counter(status.tolist()).items()) if code > 0},
    }


GOALS = (
    Goal("answered inside the limit, of capacity", middle("overload", "share"), 0.9, unit="{:.1%}"),
    Goal("refusal, p99", middle("overload", "refused_p99_ms"), 2.0, least=False, unit="{:.2f} ms"),
    Goal(
        "memory after, of before",
        lambda results: (
            statistics.median(results["overload"]["after_mib"]) / statistics.median(results["overload"]["before_mib"])
        ),
        1.05,
        least=False,
        unit="{:.3f}",
    ),
)


def numbers(results: Results, title: str) -> Sheet:
    """The medians of all that was measured."""
    rows = [("capacity, requests a second", statistics.median(results["capacity"]["rate"]))]
    rows += [(name.replace("_", " "), statistics.median(values)) for name, values in results["overload"].items()]
    return Sheet(title, ("what", "median"), tuple((name, f"{value:,.4g}") for name, value in rows))


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.overload",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench.overload --slo-ms 10 -- --slo-ms 10",
    )
    parser.add_argument("--network", choices=NETWORKS, default="cnn", help="the served network (default cnn)")
    parser.add_argument("--factor", type=float, default=2.0, help="offered load over capacity (default 2)")
    parser.add_argument("--slo-ms", type=float, default=10.0, help="limit on an answer's latency (default 10)")
    parser.add_argument("--deadline", action="store_true", help="give calls the limit as their deadline")
    parser.add_argument("--config", default="", help="text of the model's config.pbtxt")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one load (default 5)")
    parser.add_argument("--write", action="store_true", help=f"write the result into {document.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="flags of the server with the limit, after --")
    options = parser.parse_args()
    plan = Plan(options.network, options.factor, options.slo_ms, options.deadline, options.config, tuple(options.flags))
    console = console_of_width()
    record = measure({"overload": partial(overload, plan=plan)}, options.rounds, options.seconds, (), console)
    judged = verdicts(record.results, GOALS)
    what = (
        f"{plan.factor:g} x the capacity of the {plan.network}, limit {plan.slo_ms:g} ms, server flags "
        f"`{' '.join(plan.flags) or 'none'}`"
    )
    how = f"{machine.described()}; medians of {options.rounds} rounds of {options.seconds:g} s"
    found = numbers(record.results, what)
    console.print(found.table())
    console.print(goals(judged).table())
    console.print(how)
    if options.write:
        document.write("overload", f"Measured {how}.\n\n{goals(judged).markdown()}\n\n{found.markdown()}")


if __name__ == "__main__":
    main()
