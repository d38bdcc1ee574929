"""The benchmark suite of `frostline serve`, with its baselines: `python -m bench --help`.

It starts servers as users start them, in separate processes. Each round measures every row once, so that a change on
the machine affects all rows alike. The report shows medians over the rounds.
"""

import argparse
import json
from pathlib import Path

from bench.measure import document, machine, report
from bench.measure.rounds import measure
from bench.measure.scenarios import IN_FLIGHT, ROWS
from bench.measure.targets import Results, verdicts

CHART = document.IMAGES / "concurrency.png"


def chosen(asked: str | None) -> list[str]:
    """The names of rows in a comma-separated list, in the order of a round; all rows without a list.

    Raises:
        ValueError: a row does not exist.
    """
    if asked is None:
        return list(ROWS)
    wanted = [name.strip() for name in asked.split(",")]
    unknown = [name for name in wanted if name not in ROWS]
    if unknown:
        raise ValueError(f"there is no row {unknown[0]!r}; the rows are {', '.join(ROWS)}")
    return [name for name in ROWS if name in wanted]


def markdown(results: Results, missing: dict[str, str], how: str) -> str:
    """The section of the document."""
    parts = [f"Measured {how}.", report.goals(verdicts(results)).markdown()]
    parts += [f"Not measured: {name}: {reason}." for name, reason in missing.items()]
    if all(f"mlp@{count}" in results for count in IN_FLIGHT):
        parts.append(f"![throughput and p99 against requests in flight](images/{CHART.name})")
    parts.append(report.everything(results).markdown())
    return "\n\n".join(part.strip() for part in parts)


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench --only mlp@64,cnn@64 --rounds 3 -- --transport grpcio",
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one load (default 2)")
    parser.add_argument("--only", metavar="ROW[,ROW]", help=f"some of the rows: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="one short round, to check that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's numbers")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw throughput and p99 against requests in flight")
    parser.add_argument("--write", action="store_true", help=f"write the tables and the chart to {document.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    try:
        names = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.write and options.only:
        parser.error(f"--write needs every row, or {document.DOCUMENT} would lose those left out")
    rounds, seconds = (1, 0.7) if options.quick else (options.rounds, options.seconds)
    console = report.console_of_width()
    load = machine.load()
    if load > machine.QUIET:
        console.print(f"the machine is busy (load {load:.1f}): these numbers are not usable")
    record = measure({name: ROWS[name] for name in names}, rounds, seconds, options.flags, console)
    how = (
        f"{machine.described()}; medians of {rounds} interleaved rounds of {seconds:g} s; the load generators share the "
        f"cores; load of the machine before: {load:.1f}"
        + (f"; server flags `{' '.join(options.flags)}`" if options.flags else "")
    )
    console.print(report.everything(record.results).table())
    judged = [verdict for verdict in verdicts(record.results) if verdict.measured is not None or not options.only]
    console.print(report.goals(judged).table())
    for name, reason in record.missing.items():
        console.print(f"{name}: not measured: {reason}")
    console.print(how)
    if options.json:
        found = {"how": how, "flags": options.flags, "results": record.results, "missing": record.missing}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    charts_wanted = [path for path in (options.chart, CHART if options.write else None) if path]
    if charts_wanted and all(f"mlp@{count}" in record.results for count in IN_FLIGHT):
        from bench.measure import charts  # noqa: PLC0415  it brings matplotlib and torch, which nothing measured needs

        for path in charts_wanted:
            charts.concurrency(record.results, IN_FLIGHT, path)
    if options.write:
        document.write("results", markdown(record.results, record.missing, how))


if __name__ == "__main__":
    main()
