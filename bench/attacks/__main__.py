"""Attacks on a real `frostline serve`, each on a fresh one: `python -m bench.attacks`.

While a process of the lowest priority attacks, an honest client on another connection keeps calling. The exit code is 1
if the client noticed, if the server's memory grew too much or did not come back, or if the server did not survive.
"""

import argparse
import dataclasses
import fnmatch
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.attacks import report, trial
from bench.attacks.catalogue import ATTACKS
from bench.attacks.result import Result
from bench.measure import document, machine
from frostline.server_process import ServerFailed
from frostline_server.config import ServerConfig

EXAMPLES = """examples:
  python -m bench.attacks                                  all of them, about half an hour
  python -m bench.attacks --list                           what there is
  python -m bench.attacks --only 'resets*'                 those with such names
  python -m bench.attacks --only unread --transport grpcio
  python -m bench.attacks --write                          all, and write the tables of docs/security.md
  python -m bench.attacks -- --threads 1                   every server gets the flags after --
"""
_MIB = 2**20
_WIDE = 250
"""Columns of a terminal that no line of a table is too long for."""


def flags_of(further: Sequence[str], transport: str | None, budget_mib: float) -> list[str]:
    """The flags of every server.

    Args:
        further: the user's.
        transport: the front end; None for the server's own choice.
        budget_mib: for bytes in flight. A server without such a setting is measured against the same number.
    """
    flags = ["--device", "cpu", *further]
    if transport:
        flags += ["--transport", transport]
    if "network_bytes" in ServerConfig.model_fields:
        flags += ["--network-bytes", str(round(budget_mib * _MIB))]
    return flags


def measured(
    names: Sequence[str], setup: trial.Setup, budget_mib: float, tries: int
) -> tuple[list[Result], dict[str, str]]:
    """Make all trials, and show how far they are; returns their results, and why others could not be made.

    Args:
        names: of the attacks.
        setup: how they are made.
        budget_mib: the server's budget.
        tries: of an attack that is found to delay the honest client and nothing else, which a busy machine does too.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[Result] = []
    missing: dict[str, str] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            try:
                for number in range(1, tries + 1):
                    result = trial.run(name, setup, lambda phase: progress.update(task, description=phase))
                    result = dataclasses.replace(result, tries=number)
                    progress.console.print(f"{name}: {report.said(result, budget_mib)}", markup=False, highlight=False)
                    if not result.delays() or result.faults(budget_mib):
                        break
                results.append(result)
            except ServerFailed as reason:
                missing[name] = str(reason)
                progress.console.print(f"{name}: {reason}", markup=False, highlight=False)
            progress.advance(task)
    return results, missing


def main() -> None:
    """Parse the command line, attack, and print what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.attacks",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="*", metavar="NAME[,NAME]", help="attacks of these names, such as 'resets*'")
    parser.add_argument("--list", action="store_true", help="print the attacks and end")
    parser.add_argument("--transport", help="the server's front end (default: the server's own)")
    parser.add_argument("--seconds", type=float, default=8.0, help="least length of an attack (default 8)")
    parser.add_argument("--mbit", type=float, default=1000.0, help="the attacker's link in Mbit/s (default 1000)")
    parser.add_argument(
        "--budget-mib", type=float, default=256.0, help="the server's budget for bytes in flight (default 256)"
    )
    parser.add_argument(
        "--guard-mib", type=float, default=8192.0, help="kill the server at this much memory (default 8192)"
    )
    parser.add_argument(
        "--tries", type=int, default=3, help="most tries of an attack that only delays, on a busy machine (default 3)"
    )
    parser.add_argument("--write", action="store_true", help=f"write the tables into {report.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    if options.list:
        for name, attack in ATTACKS.items():
            print(f"{name:20} {attack.what}")
        return
    patterns = options.only.split(",")
    names = [name for name in ATTACKS if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        parser.error(f"there is no attack {options.only!r}; --list prints them")
    if options.write and len(names) < len(ATTACKS):
        parser.error(f"--write needs every attack, or {report.DOCUMENT} would lose those left out")
    flags = flags_of(options.flags, options.transport, options.budget_mib)
    load = machine.load()
    setup = trial.Setup(flags, options.seconds, options.mbit, options.guard_mib)
    results, missing = measured(names, setup, options.budget_mib, options.tries)
    how = (
        f"{machine.described()}; attacker, honest client and server share the machine; server flags "
        f"`{' '.join(flags)}`; at most {options.tries} tries of an attack that only delays; attacker's link {options.mbit:g} Mbit/s; load of the machine before: {load:.1f}"
    )
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    for sheet in (report.verdicts(results, options.budget_mib), report.costs(results)):
        console.print(sheet.table())
    console.print(report.summary(results, missing, options.budget_mib))
    if options.write:
        document.write(report.SECTION, report.body(results, missing, options.budget_mib, how), report.DOCUMENT)
    sys.exit(1 if missing or any(result.complaints(options.budget_mib) for result in results) else 0)


if __name__ == "__main__":
    main()
