"""The client study: how long one call takes with Frostline's client and with tritonclient, against the same server.

The calls of both clients take turns in random order, one at a time, so that what else the machine does affects both
alike. Each call makes its request, and reads the same outputs of its answer into arrays.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio

import frostline
from bench.load.workload import Array, WrongAnswer
from bench.measure import machine
from bench.measure.harness import Lab, Samples
from bench.measure.report import Sheet, console_of_width, goals
from bench.measure.rounds import measure
from bench.measure.scenarios import MLP
from bench.measure.targets import Goal, Results, quotient, verdicts
from frostline.client.messages import OutputName

Answer = list[Array]
"""The outputs that were asked for, in their order."""

_MODEL = "mlp"
_ROW = np.random.default_rng(0).random((1, 784), np.float32)
_TIMEOUT_S = 30.0
_WARM_UP_CALLS = 50

OUTPUTS: Mapping[str, tuple[OutputName, ...]] = {"logits": ("logits",), "softmax and argmax": ("softmax", "argmax")}
STYLES = ("blocking", "asyncio")
OURS, THEIRS = "frostline", "tritonclient"


def blocking(address: str, outputs: tuple[OutputName, ...], seconds: float, rng: random.Random) -> Samples:
    """The calls of the blocking clients, by client."""
    with ExitStack() as stack:
        ours = stack.enter_context(frostline.connect(address))
        theirs = stack.enter_context(closing(tritonclient.grpc.InferenceServerClient(address)))

        def call_ours() -> Answer:
            prediction = ours.predict(_MODEL, _ROW, outputs=outputs, timeout_s=_TIMEOUT_S)
            return [getattr(prediction, output) for output in outputs]

        def call_theirs() -> Answer:
            answer = theirs.infer(*_request(tritonclient.grpc, outputs), client_timeout=_TIMEOUT_S)
            return [answer.as_numpy(output) for output in outputs]

        calls = {OURS: call_ours, THEIRS: call_theirs}
        for _ in range(_WARM_UP_CALLS):
            _check({client: call() for client, call in calls.items()})
        taken_s: dict[str, list[float]] = {client: [] for client in calls}
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            for client in rng.sample(sorted(calls), len(calls)):
                started_s = time.perf_counter()
                calls[client]()
                taken_s[client].append(time.perf_counter() - started_s)
    return _summary(taken_s)


async def concurrent(address: str, outputs: tuple[OutputName, ...], seconds: float, rng: random.Random) -> Samples:
    """The same with the clients for asyncio."""
    theirs = tritonclient.grpc.aio.InferenceServerClient(address)
    async with frostline.connect_async(address) as ours:

        async def call_ours() -> Answer:
            prediction = await ours.predict(_MODEL, _ROW, outputs=outputs, timeout_s=_TIMEOUT_S)
            return [getattr(prediction, output) for output in outputs]

        async def call_theirs() -> Answer:
            answer = await theirs.infer(*_request(tritonclient.grpc.aio, outputs), client_timeout=_TIMEOUT_S)
            return [answer.as_numpy(output) for output in outputs]

        calls: dict[str, Callable[[], Awaitable[Answer]]] = {OURS: call_ours, THEIRS: call_theirs}
        for _ in range(_WARM_UP_CALLS):
            _check({client: await call() for client, call in calls.items()})
        taken_s: dict[str, list[float]] = {client: [] for client in calls}
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            for client in rng.sample(sorted(calls), len(calls)):
                started_s = time.perf_counter()
                await calls[client]()
                taken_s[client].append(time.perf_counter() - started_s)
    await theirs.close()
    return _summary(taken_s)


def _request(client: Any, outputs: Sequence[str]) -> tuple[str, list[Any], str, list[Any]]:
    """The arguments of `infer`: model, inputs, version, outputs."""
    tensor = client.InferInput("input", _ROW.shape, "FP32")
    tensor.set_data_from_numpy(_ROW)
    return _MODEL, [tensor], "", [client.InferRequestedOutput(output) for output in outputs]


def _check(answers: Mapping[str, Answer]) -> None:
    for ours, theirs in zip(answers[OURS], answers[THEIRS], strict=True):
        if not np.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
            raise WrongAnswer(f"the clients read different answers: {ours} and {theirs}")


def _summary(taken_s: Mapping[str, Sequence[float]]) -> Samples:
    middle_s = {client: statistics.median(times_s) for client, times_s in taken_s.items()}
    return {client: {"us": each_s * 1e6, "rate": 1 / each_s} for client, each_s in middle_s.items()}


def scenario(lab: Lab, style: str, outputs: tuple[OutputName, ...], name: str) -> Samples:
    """One round of one row."""
    address = lab.server("mlp", {_MODEL: MLP}).address
    rng = random.Random(lab.number)
    if style == "blocking":
        samples = blocking(address, outputs, lab.seconds, rng)
    else:
        samples = asyncio.run(concurrent(address, outputs, lab.seconds, rng))
    return {f"{name}, {client}": sample for client, sample in samples.items()}


ROWS = {f"{style}, {what}": (style, outputs) for style in STYLES for what, outputs in OUTPUTS.items()}
GOALS = tuple(
    Goal(
        f"{name}: calls a second, of tritonclient's",
        quotient((f"{name}, {OURS}", "rate"), (f"{name}, {THEIRS}", "rate")),
        1.0,
        unit="{:.3f}",
    )
    for name in ROWS
)


def numbers(results: Results) -> Sheet:
    """The medians of all that was measured."""
    rows = [
        (name, *(f"{statistics.median(values[number]):,.0f}" for number in ("us", "rate")))
        for name, values in results.items()
    ]
    return Sheet("One call at a time", ("client", "µs a call", "calls a second"), tuple(rows))


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.client", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round of each row (default 3)")
    parser.add_argument("flags", nargs="*", help="flags of the server, after --")
    options = parser.parse_args()
    console = console_of_width()
    rows = {name: partial(scenario, style=style, outputs=outputs, name=name) for name, (style, outputs) in ROWS.items()}
    record = measure(rows, options.rounds, options.seconds, options.flags, console)
    console.print(numbers(record.results).table())
    console.print(goals(verdicts(record.results, GOALS)).table())
    console.print(f"{machine.described()}; 784-256-128-10 MLP, one row; medians of {options.rounds} rounds")


if __name__ == "__main__":
    main()
