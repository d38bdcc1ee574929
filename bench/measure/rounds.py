"""Interleaved rounds: every scenario runs once in each round, so that noise of the machine affects all alike."""

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from bench.load.h2load import LoadFailed
from bench.load.probe import NotMeasured
from bench.load.workload import WrongAnswer
from bench.measure.harness import Lab, Samples
from frostline.server_process import ServerFailed


class Record:
    """The samples measured so far."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, list[float]]] = {}
        self.missing: dict[str, str] = {}
        """Rows that could not be measured, and why."""

    def add(self, samples: Samples) -> None:
        """Append one round's samples."""
        for name, sample in samples.items():
            numbers = self.results.setdefault(name, {})
            for number, value in sample.items():
                numbers.setdefault(number, []).append(value)


def measure(
    rows: Mapping[str, Callable[[Lab], Samples]], rounds: int, seconds: float, flags: Sequence[str], console: Console
) -> Record:
    """Measure rows in interleaved rounds, by name.

    Args:
        rows: each measures one thing.
        rounds: number of rounds.
        seconds: how long one load lasts.
        flags: further flags of every server.
        console: shows what is being measured.

    Raises:
        SystemExit: a server failed or answered wrongly, or the load generator failed; the message says which.
    """
    record = Record()
    for number in range(rounds):
        with Lab(seconds, flags, number) as lab:
            for name, row in rows.items():
                with console.status(f"round {number + 1} of {rounds}: {name}"):
                    try:
                        record.add(row(lab))
                    except NotMeasured as reason:
                        record.missing[name] = str(reason)
                    except (LoadFailed, ServerFailed, WrongAnswer) as error:
                        raise SystemExit(f"{name}: {error}") from error
    return record
