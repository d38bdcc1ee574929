"""The checks: answers alone, answers in company, and health, each of one served folder."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import grpc

from bench.conformance import opened
from bench.conformance.reference import Array, Reference, Refused, Tensors, likeness, same_form
from bench.conformance.served import Answer, Served
from bench.conformance.suite import Case

Verdict = Literal["equal", "close", "varies", "refused", "error", "wrong"]
"""The likeness of an answer; random numbers of the right form; not loaded; a status; an answer that is wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one request.

    Attributes:
        case: the case's name.
        verdict: in a word.
        detail: the server's reason, or the difference.
    """

    case: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Companions:
    """A case with open axes, and what four callers ask.

    Attributes:
        name: the case's name.
        model: the ONNX file with open axes.
        rounds: requests that are sent at once; with each what ONNX Runtime alone answers, or None where it refuses.
    """

    name: str
    model: bytes
    rounds: tuple[tuple[tuple[Tensors, Tensors | None], ...], ...]


def alone(served: Served, case: Case, states: dict[str, tuple[str, str]]) -> Finding:
    """One request of the suite's own, bit for bit."""
    state, reason = states.get(case.name, ("MISSING", "the server does not list it"))
    if state != "READY":
        return Finding(case.name, "refused", reason or state)
    got = served.ask(case.name, case.inputs)
    if case.varies and not isinstance(got, grpc.RpcError):
        if same_form(got, case.outputs):
            return Finding(case.name, "varies", "ONNX Runtime itself answers differently from run to run")
        return Finding(case.name, "wrong", "of another form")
    finding = judge(case.name, got, case.outputs)
    # Nothing else was in the batch, so nothing may be in another order.
    return Finding(case.name, "wrong", finding.detail) if finding.verdict == "close" else finding


def judge(case: str, got: Answer, want: Tensors) -> Finding:
    """The verdict on one answer."""
    if isinstance(got, grpc.RpcError):
        return Finding(case, "error", f"{got.code().name}: {got.details()}")
    verdict = likeness(got, want)
    return Finding(case, verdict, "" if verdict == "equal" else _difference(got, want))


def companions(case: Case) -> Companions | None:
    """A case with open axes; None where ONNX Runtime does not run it so, or answers differently from run to run."""
    model = opened.open_first_axis(case.model)
    if model is None or case.varies:
        return None
    try:
        reference = Reference(model)
        reference.run(case.inputs)
    except Refused:
        return None
    callers = [case.inputs]
    for other in opened.others(case.inputs):
        if _answer(reference, other) is not None and not any(_same(other, known) for known in callers):
            callers.append(other)
    # With too few kinds of data that ONNX Runtime takes, some are sent twice.
    callers = [callers[number % len(callers)] for number in range(4)]
    found = tuple(
        tuple((inputs, _answer(reference, inputs)) for inputs in together) for together in opened.rounds(callers)
    )
    return Companions(case.name, model, found)


def in_company(served: Served, each: Companions, repeats: int) -> list[Finding]:
    """All rounds of a case, so often.

    A request that ONNX Runtime alone refuses may fail; it may not be answered.
    """
    findings = []
    for _ in range(repeats):
        for together in each.rounds:
            answers = served.ask_at_once(each.name, [inputs for inputs, _ in together])
            for got, (_, want) in zip(answers, together, strict=True):
                if want is not None:
                    findings.append(judge(each.name, got, want))
                elif not isinstance(got, grpc.RpcError):
                    findings.append(Finding(each.name, "wrong", "ONNX Runtime alone refuses this request"))
    return findings


def unhealthy(served: Served, models: Iterable[str]) -> list[Finding]:
    """The models that are not ready, by ModelReady or by the gRPC health service."""
    return [Finding(name, "error", "not ready") for name in models if not served.ready(name)]


def soak(served: Served, cases: Sequence[Case], seconds: float, tick: Callable[[], None]) -> list[Finding]:
    """Answer one request of each model, let the probes run, and return what is unhealthy then.

    Args:
        served: a server of these cases alone, with probes every second.
        cases: those whose requests are answered.
        seconds: how long the probes run.
        tick: called each second.
    """
    for case in cases:
        served.ask(case.name, case.inputs)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))
        tick()
    findings = unhealthy(served, [case.name for case in cases])
    status, text = served.get("/readyz")
    return findings if status == 200 else [*findings, Finding("/readyz", "error", f"{status}: {text.strip()[:200]}")]


def _answer(reference: Reference, inputs: Tensors) -> dict[str, Array] | None:
    try:
        return reference.run(inputs)
    except Refused:
        return None


def _same(one: Tensors, other: Tensors) -> bool:
    return likeness(one, other) == "equal"


def _difference(got: Tensors, want: Tensors) -> str:
    for name, array in want.items():
        if name not in got:
            return f"output '{name}' is missing"
        if (got[name].dtype, got[name].shape) != (array.dtype, array.shape):
            return f"output '{name}' is {got[name].dtype}{list(got[name].shape)} instead of {array.dtype}{list(array.shape)}"
        if likeness({name: got[name]}, {name: array}) != "equal":
            return f"output '{name}': {_start(got[name])} instead of {_start(array)}"
    return f"outputs {sorted(set(got) - set(want))} were not asked for"


def _start(array: Array) -> str:
    return str(array.ravel()[:4].tolist())
