"""The study of traces and the access log: what they take of one core's answers, off and on.

The server has one core to itself; the load and a collector, which drops what it gets, have the others. Every rate is divided
by that of the server with everything off, of the same round; with `--before`, that one by an earlier commit's.
"""

import argparse
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from bench.load.workload import ask
from bench.measure import machine, report
from bench.measure.harness import Lab, Samples
from bench.measure.rounds import measure
from bench.measure.scenarios import TINY
from bench.measure.targets import Goal, quotient, verdicts
from bench.raw import on
from frostline import server_process

IN_FLIGHT = 64
_BEFORE, _OFF, _TRACED, _LOGGED = "before", "off", "traces of 1 %", "access log of 1 %"
_FLAGS = {
    _OFF: (),
    _TRACED: ("--traces", "otlp", "--trace-ratio", "0.01"),
    _LOGGED: ("--access-log", os.devnull, "--access-log-ratio", "0.01"),
}
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

GOALS = (
    Goal("traces off, against before", quotient((_OFF, "rate"), (_BEFORE, "rate")), 0.99, unit="{:.3f}"),
    Goal("traces of 1 %, against off", quotient((_TRACED, "rate"), (_OFF, "rate")), 0.97, unit="{:.3f}"),
    Goal("an access log of 1 %, against off", quotient((_LOGGED, "rate"), (_OFF, "rate")), 0.97, unit="{:.3f}"),
)


def one(lab: Lab, before: Path | None) -> Samples:
    """One round of each server.

    Args:
        lab: where they run.
        before: a checkout of an earlier commit; None without one.
    """
    questions = ask("tiny", TINY, [4])
    core, *others = sorted(os.sched_getaffinity(0))
    programs = {} if before is None else {_BEFORE: _program(before)}
    names = [*_FLAGS, *programs]
    # Another order in each round, of the starts too: the server that is started first is two per cent slower.
    order = random.Random(lab.number)
    with on([core]):
        servers = {
            name: lab.server(
                name, {"tiny": TINY}, *_FLAGS.get(name, ()), program=programs.get(name, server_process.PROGRAM)
            )
            for name in order.sample(names, len(names))
        }
    with on(others or [core]):
        return {name: lab.closed(servers[name], questions, IN_FLIGHT) for name in order.sample(names, len(names))}


def _program(checkout: Path) -> tuple[str, ...]:
    """What serves with the code of a checkout and the libraries of this one."""
    paths = os.pathsep.join(str(checkout.resolve() / folder) for folder in ("", "server", "training"))
    # Safe: not from the folder that this is started in.
    return ("env", "PYTHONSAFEPATH=1", f"PYTHONPATH={paths}", *server_process.PROGRAM)


@contextmanager
def collector() -> Iterator[int]:
    """A collector that drops what it gets; gives its port."""
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
    _, service, method = _EXPORT.split("/")
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(None).wait()


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.traces",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench.traces --rounds 4 --seconds 5 --before ../earlier",
    )
    parser.add_argument("--rounds", type=int, default=4, help="number of rounds (default 4)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one load (default 5)")
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit, to compare with")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    console = report.console_of_width()
    load = machine.load()
    with collector() as port:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        rows = {"one": lambda lab: one(lab, options.before)}
        record = measure(rows, options.rounds, options.seconds, options.flags, console)
    for sheet in (report.goals(verdicts(record.results, GOALS)), report.everything(record.results)):
        console.print(sheet.table())
    console.print(report.conditions(options.rounds, options.seconds, load))


if __name__ == "__main__":
    main()
