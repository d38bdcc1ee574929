"""Hostile models beside three good ones, in a real `frostline serve`: `python -m bench.hostile_models`.

A caller of the good models keeps calling through start, watch, swap, runs and stop. The exit code is 1 if it noticed, if
a hostile model was served or was not answered for, or if the server did not stop in time.
"""

import argparse
import fnmatch
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.hostile_models import report, trial, verdict
from bench.hostile_models.server import defences
from bench.hostile_models.zoo import ZOO, mixed
from bench.measure import document, machine

EXAMPLES = """examples:
  python -m bench.hostile_models                       all of them, some minutes
  python -m bench.hostile_models --list                what there is
  python -m bench.hostile_models --only 'fifo-*,data-*'
  python -m bench.hostile_models --write               all, and write the tables of docs/security.md
  python -m bench.hostile_models -- --threads 1        every server gets the flags after --
"""
_WIDE = 220


def main() -> None:
    """Parse the command line, make the trial, and print what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.hostile_models",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="*", metavar="NAME[,NAME]", help="models of these names, such as 'fifo-*'")
    parser.add_argument("--list", action="store_true", help="print the models and end")
    parser.add_argument("--decide-s", type=float, default=180.0, help="to decide about half of them (default 180)")
    parser.add_argument("--guard-mib", type=float, default=3072.0, help="kill the server beyond (default 3072)")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {report.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    patterns = options.only.split(",")
    names = mixed(name for name in ZOO if any(fnmatch.fnmatch(name, pattern) for pattern in patterns))
    if options.list:
        for name in names:
            print(f"{name:24} {ZOO[name].kind}")
        return
    if not names:
        parser.error(f"there is no hostile model {options.only!r}; --list prints them")
    if options.write and len(names) < len(ZOO):
        parser.error(f"--write needs every hostile model, or {report.DOCUMENT} would lose those left out")
    # The hostile ones never get ready, and the good ones must.
    flags = ["--require", "mlp,cnn,text", *defences(), *options.flags]
    progress = Console(stderr=True)
    load = machine.load()
    with tempfile.TemporaryDirectory(prefix="frostline-hostile-", ignore_cleanup_errors=True) as folder:
        setup = trial.Setup(names, flags, options.decide_s, options.guard_mib, progress.print)
        outcome = trial.run(Path(folder), setup)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    for sheet in (report.models(outcome), report.phases(outcome), report.numbers(outcome)):
        console.print(sheet.table())
    console.print(report.summary(outcome), markup=False, highlight=False)
    if options.write:
        how = (
            f"{machine.described()}; callers and server share the machine; server flags `{' '.join(flags)}`; load of "
            f"the machine before: {load:.1f}"
        )
        document.write(report.SECTION, report.body(outcome, how), report.DOCUMENT)
    sys.exit(1 if verdict.complaints(outcome, ZOO) else 0)


if __name__ == "__main__":
    main()
