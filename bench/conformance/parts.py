"""The parts of the check: each starts its own servers, and finds out one thing about all cases."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.conformance import checks, remedies
from bench.conformance.checks import Finding
from bench.conformance.served import Log, Served, publish, serving
from bench.conformance.suite import Case
from frostline.server_process import ServerFailed

Tick = Callable[[], None]
"""Called whenever a case is done."""

PER_SERVER = 500
"""Cases in one server: its start and its memory stay small, and a crash loses no more than these."""


@dataclass
class Part:
    """What a part found.

    Attributes:
        findings: one for each answer that was expected.
        not_json: lines of the servers' logs that are no JSON object.
        crashes: servers that ended by themselves, with their last lines.
        shared: answers that came from a batch with other callers' rows.
        notes: further facts, a sentence each.
    """

    findings: list[Finding] = field(default_factory=list)
    not_json: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    shared: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def verdicts(self) -> Counter[str]:
        """How many findings there are of each verdict."""
        return Counter(finding.verdict for finding in self.findings)

    def of(self, *verdicts: str) -> list[Finding]:
        """The findings with one of these verdicts."""
        return [finding for finding in self.findings if finding.verdict in verdicts]


def alone(cases: Sequence[Case], flags: Sequence[str], tick: Tick) -> Part:
    """Every case without any configuration, one request at a time."""
    part = Part()
    for chunk in _chunks(cases):
        with _server(((case.name, case.model, "") for case in chunk), ["--require", "none", *flags], part) as served:
            states = served.states()
            for case in chunk:
                part.findings.append(checks.alone(served, case, states))
                tick()
    return part


def remedied(cases: Sequence[Case], refused: Sequence[Finding], flags: Sequence[str], tick: Tick) -> Part:
    """What was refused, with the remedy that the refusal names."""
    part = Part()
    by_name = {case.name: case for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        treated = []
        for finding in refused:
            case = by_name[finding.case]
            if remedies.apply(finding.detail, case, publish(Path(folder), case.name, case.model)):
                treated.append(case)
            else:
                part.findings.append(Finding(case.name, "refused", f"names no remedy: {finding.detail}"))
                tick()
        with _folder(Path(folder), ["--require", "none", *flags], part) as served:
            states = served.states()
            for case in treated:
                part.findings.append(checks.alone(served, case, states))
                tick()
    return part


def company(cases: Sequence[Case], repeats: int, flags: Sequence[str], tick: Tick) -> Part:
    """Every case with open axes, four callers at once, so often."""
    part = Part()
    left_out = 0
    for chunk in _chunks(cases):
        found = [checks.companions(case) for case in chunk]
        opened = [each for each in found if each is not None]
        left_out += len(found) - len(opened)
        # An incomplete batch waits, so that the callers of a round do meet.
        settings = ["--require", "none", "--max-queue-delay-s", "0.005", *flags]
        with _server(((each.name, each.model, "") for each in opened), settings, part) as served:
            states = served.states()
            for each in opened:
                state, reason = states.get(each.name, ("MISSING", "the server does not list it"))
                if state == "READY":
                    part.findings += checks.in_company(served, each, repeats)
                    part.shared += served.shared(each.name)
                else:
                    part.findings.append(Finding(each.name, "refused", reason or state))
                tick()
        for _ in range(len(found) - len(opened)):
            tick()
    part.notes.append(
        f"{len(cases) - left_out} cases have a first axis to open and still run in ONNX Runtime; {left_out} do not"
    )
    part.notes.append(f"{part.shared} answers came from a batch shared with another caller")
    return part


def health(cases: Sequence[Case], seconds: float, flags: Sequence[str], tick: Tick) -> Part:
    """The cases that answer, probed every second for so long.

    Args:
        cases: those that are READY and answer; the server requires all of them.
        seconds: how long.
        flags: further flags, such as `--slo-ms`.
        tick: called each second.
    """
    part = Part()
    with _server(((case.name, case.model, "") for case in cases), ["--probe-s", "1", *flags], part) as served:
        states = served.states()
        refused = [Finding(case.name, "refused", states[case.name][1]) for case in cases if states[case.name][0] != "READY"]
        part.findings += refused
        part.findings += checks.soak(served, cases, seconds, tick)
    return part


@contextmanager
def _server(models: Iterable[tuple[str, bytes, str]], flags: Sequence[str], part: Part) -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        for name, model, config in models:
            publish(Path(folder), name, model, config)
        with _folder(Path(folder), flags, part) as served:
            yield served


@contextmanager
def _folder(folder: Path, flags: Sequence[str], part: Part) -> Iterator[Served]:
    """A server of a folder; what is wrong with its end and its log goes into `part`."""
    log = Log()
    try:
        with serving(folder, flags, log) as served:
            yield served
    except ServerFailed as error:
        part.crashes.append(f"{error}; its last lines: {log.last()}")
    finally:
        part.not_json += log.not_json


def _chunks(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    return (cases[start : start + PER_SERVER] for start in range(0, len(cases), PER_SERVER))
