"""The scaling study: the cost of a request by its rows, its bytes, the loaded models and the connections."""

import argparse
import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load import baselines, networks
from bench.load.workload import ask
from bench.measure import document, machine
from bench.measure.harness import Lab, Samples
from bench.measure.report import Sheet, console_of_width
from bench.measure.rounds import measure
from bench.measure.scenarios import MLP
from bench.measure.targets import Results

ROWS = (1, 2, 4, 8, 16, 32, 64)
MODELS = (1, 10, 100)
CONNECTIONS = (1, 10, 1000)
KILOBYTES = (1, 4, 16, 64, 256, 1024, 4096)
CHART = document.IMAGES / "growth.png"
IN_FLIGHT = 64
CONNECTED = 1000
"""In flight over all connections, so that only their number differs."""


@dataclass(frozen=True)
class Growth:
    """One quantity, and the time of a request against it.

    Attributes:
        name: of the quantity.
        x: its values.
        micros: [len(x)], a second divided by the median rate, in microseconds: with one in flight what a client waits,
            with many what the machine spends.
        sentence: what that says.
    """

    name: str
    x: Sequence[float]
    micros: Sequence[float]
    sentence: str


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """The line a + b x with the least relative error to `y`: a, b, and the largest relative error."""
    at, values = np.asarray(x, float), np.asarray(y, float)
    b, a = np.polyfit(at, values, 1, w=1 / values)
    return float(a), float(b), float(np.max(np.abs(a + b * at - values) / values))


def change(x: Sequence[float], y: Sequence[float], what: str) -> str:
    """A sentence on the last value against the first."""
    ratio = y[-1] / y[0] - 1
    return (
        f"With {x[-1]:,} {what} instead of {x[0]:,} a request takes {y[-1]:.1f} instead of {y[0]:.1f} µs, "
        f"{abs(ratio):.0%} {'more' if ratio > 0 else 'less'}."
    )


def grown(results: Results) -> list[Growth]:
    """The four quantities, from the medians of what was measured."""

    def micros(name: str, x: Sequence[int]) -> list[float]:
        return [1e6 / statistics.median(results[f"{name} {value}"]["rate"]) for value in x]

    rows, kilobytes = micros("rows", ROWS), micros("kilobytes", KILOBYTES)
    models, connections = micros("models", MODELS), micros("connections", CONNECTIONS)
    own = 1e6 / statistics.median(results["ONNX Runtime"]["rate"])
    a, b, off = line(ROWS, rows)
    by_row = (
        f"A request of n rows takes {a:.0f} + {b:.1f} n µs (within {off:.0%}); ONNX Runtime alone takes {own:.1f} µs a row "
        f"in batches of 64, the rest is the row's way through the server and the load generator."
    )
    a, b, off = line(KILOBYTES, kilobytes)
    by_size = (
        f"A message of n KB takes {a:.0f} + {b:.2f} n µs (within {off:.0%}): {1.024 / b:.1f} GB/s and a fixed part."
    )
    return [
        Growth("rows in a request", ROWS, rows, by_row),
        Growth("KB in a message", KILOBYTES, kilobytes, by_size),
        Growth("models loaded", MODELS, models, change(MODELS, models, "models loaded")),
        Growth("connections", CONNECTIONS, connections, change(CONNECTIONS, connections, "connections")),
    ]


def _rows(lab: Lab) -> Samples:
    server = lab.server("mlp", {"mlp": MLP})
    found = {f"rows {rows}": lab.closed(server, ask("mlp", MLP, [784], rows=rows), 1) for rows in ROWS}
    return found | {"ONNX Runtime": {"rate": baselines.rows_per_second(MLP, [784], 64, lab.seconds)}}


def _kilobytes(lab: Lab) -> Samples:
    net = networks.first()
    server = lab.server("first", {"first": net})
    return {f"kilobytes {size}": lab.closed(server, ask("first", net, [size * 256], count=4), 1) for size in KILOBYTES}


def _models(lab: Lab) -> Samples:
    found = {}
    for count in MODELS:
        others = {f"other{number}": MLP for number in range(count - 1)}
        server = lab.server(f"{count} models", {"mlp": MLP, **others})
        found[f"models {count}"] = lab.closed(server, ask("mlp", MLP, [784]), IN_FLIGHT)
    return found


def _connections(lab: Lab) -> Samples:
    server = lab.server("mlp", {"mlp": MLP})
    questions = ask("mlp", MLP, [784])
    return {
        f"connections {count}": lab.closed(server, questions, CONNECTED, connections=count) for count in CONNECTIONS
    }


QUANTITIES: Mapping[str, Callable[[Lab], Samples]] = {
    "rows": _rows,
    "kilobytes": _kilobytes,
    "models": _models,
    "connections": _connections,
}


def sheet(growths: Sequence[Growth]) -> Sheet:
    """The numbers behind the charts."""
    return Sheet(
        "Microseconds a request",
        ("against", "values", "µs"),
        tuple(
            (
                growth.name,
                ", ".join(f"{value:,}" for value in growth.x),
                ", ".join(f"{value:,.1f}" for value in growth.micros),
            )
            for growth in growths
        ),
    )


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one load (default 3)")
    parser.add_argument("--quick", action="store_true", help="one short round, to check that everything runs")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the four charts")
    parser.add_argument("--write", action="store_true", help=f"write charts and sentences into {document.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    # A thousand connections are a thousand open files, here and in the server.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rounds, seconds = (1, 0.5) if options.quick else (options.rounds, options.seconds)
    console = console_of_width()
    record = measure(QUANTITIES, rounds, seconds, options.flags, console)
    growths = grown(record.results)
    how = f"{machine.described()}; medians of {rounds} interleaved rounds of {seconds:g} s"
    console.print(sheet(growths).table())
    for growth in growths:
        console.print(f"- {growth.sentence}")
    console.print(how)
    for path in [path for path in (options.chart, CHART if options.write else None) if path]:
        from bench.measure import charts  # noqa: PLC0415  it brings matplotlib and torch, which nothing measured needs

        charts.growth(growths, path)
    if options.write:
        sentences = "\n".join(f"- {growth.sentence}" for growth in growths)
        picture = f"![time of a request against each quantity](images/{CHART.name})"
        document.write("growth", f"Measured {how}.\n\n{picture}\n\n{sentences}\n\n{sheet(growths).markdown()}")


if __name__ == "__main__":
    main()
