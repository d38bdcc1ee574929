"""The parts of the check: each starts its own servers, and finds out one thing about all cases."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc

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

    def ask(chunk: Sequence[Case], served: Served) -> None:
        states = served.states()
        for case in chunk:
            part.findings.append(checks.alone(served, case, states))
            tick()

    for chunk in _chunks(cases):
        models = {case.name: case.model for case in chunk}
        _serve(models, ["--require", "none", *flags], part, partial(ask, chunk))
    return part


def remedied(cases: Sequence[Case], refused: Sequence[Finding], flags: Sequence[str], tick: Tick) -> Part:
    """What was refused, with the remedy that the refusal names."""
    part = Part()
    by_name = {case.name: case for case in cases}
    treated = []
    with tempfile.TemporaryDirectory() as folder:
        for finding in refused:
            case = by_name[finding.case]
            if remedy := remedies.named(finding.detail, case.inputs, case.outputs):
                remedy.write(publish(Path(folder), case.name, case.model))
                treated.append(case)
            else:
                part.findings.append(Finding(case.name, "refused", f"names no remedy: {finding.detail}"))
                tick()

        def ask(served: Served) -> None:
            states = served.states()
            for case in treated:
                part.findings.append(checks.alone(served, case, states))
                tick()

        serve_folder(Path(folder), ["--require", "none", *flags], part, ask)
    return part


def company(cases: Sequence[Case], repeats: int, flags: Sequence[str], tick: Tick) -> Part:
    """Every case with open axes, four callers at once, so often."""
    part = Part()
    left_out = 0

    def ask(opened: Sequence[checks.Companions], served: Served) -> None:
        states = served.states()
        for each in opened:
            state, reason = states.get(each.name, ("MISSING", "the server does not list it"))
            if state == "READY":
                part.findings += checks.in_company(served, each, repeats)
                part.shared += served.shared(each.name)
            else:
                part.findings.append(Finding(each.name, "refused", reason or state))
            tick()

    # An incomplete batch waits, so that the callers of a round do meet.
    settings = ["--require", "none", "--max-queue-delay-s", "0.005", *flags]
    for chunk in _chunks(cases):
        opened = [each for each in map(checks.companions, chunk) if each is not None]
        for _ in range(len(chunk) - len(opened)):
            left_out += 1
            tick()
        models = {each.name: each.model for each in opened}
        _serve(models, settings, part, partial(ask, opened))
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

    def ask(served: Served) -> None:
        states = served.states()
        part.findings += [
            Finding(case.name, "refused", states[case.name][1]) for case in cases if states[case.name][0] != "READY"
        ]
        part.findings += checks.soak(served, cases, seconds, tick)

    _serve({case.name: case.model for case in cases}, ["--probe-s", "1", *flags], part, ask)
    return part


def _serve(models: Mapping[str, bytes], flags: Sequence[str], part: Part, use: Callable[[Served], None]) -> None:
    """Serve models by name, without a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            publish(Path(folder), name, model)
        serve_folder(Path(folder), flags, part, use)


def serve_folder(
    folder: Path, flags: Sequence[str], part: Part, use: Callable[[Served], None]
) -> Sequence[dict[str, Any]]:
    """Serve a folder while `use` asks; what is wrong with the server's end and its log goes into `part`.

    Returns:
        What the server logged.
    """
    log = Log()
    try:
        with serving(folder, flags, log) as served:
            use(served)
    except (ServerFailed, grpc.RpcError) as error:
        part.crashes.append(f"{error}; its last lines: {log.last()}")
    finally:
        part.not_json += log.not_json
    return log.events


def _chunks(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    return (cases[start : start + PER_SERVER] for start in range(0, len(cases), PER_SERVER))
