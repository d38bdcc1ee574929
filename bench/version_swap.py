"""The version swap study: the clients' p99 latency with and without replacements of versions, in one run.

The server is started as users start it, with 32 one-row requests in flight at all times. Windows in which a new version
appears every half second (one in four is wrong) alternate with windows without new versions.
"""

import argparse
import hashlib
import itertools
import json
import statistics
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from bench.load import h2load
from bench.load.workload import ask, framed
from bench.measure.scenarios import MLP
from frostline import server_process
from frostline.protocol import MODEL_INFER

MODEL = "bench"
IN_FLIGHT = 32


def write_version(folder: Path, model: onnx.ModelProto, *, good: bool) -> None:
    """Write an artifact as training publishes it; a bad one has a golden sample that the network does not reproduce."""
    folder.mkdir(parents=True)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    rows = np.random.default_rng(2).normal(size=(64, 784)).astype(np.float32)
    logits = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["logits"], {"input": rows})[0]
    arrays = {"input": rows, "logits": logits + (0 if good else 1), "rtol": np.array(1e-4), "atol": np.array(1e-5)}
    np.savez(folder / "golden.npz", **arrays)
    (folder / "card.json").write_text(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}), encoding="utf-8")


@contextmanager
def publishing(publish: Sequence[tuple[Path, Path]], seconds: float) -> Iterator[None]:
    """Rename each of `publish` into place during the block, at equal intervals."""
    ended = threading.Event()

    def work() -> None:
        step = seconds / max(1, len(publish))
        for number, (staged, place) in enumerate(publish):
            if ended.wait(step if number else step / 2):
                return
            staged.rename(place)

    thread = threading.Thread(target=work, name="publisher")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Parse the command line, measure, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.version_swap", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="windows of each kind")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--transport", choices=("h2", "grpcio"), default="h2")
    parser.add_argument("--device", default="cpu", help="of the server (default cpu)")
    options = parser.parse_args()
    console, model = Console(), MLP
    quiet: list[float] = []
    swapped: list[float] = []
    with tempfile.TemporaryDirectory(prefix="frostline-swaps-") as scratch:
        root = Path(scratch)
        # Numbers of one length: the answers' size, by which failures are found out, must not depend on the version.
        numbers = itertools.count(100)
        write_version(root / "models" / MODEL / str(next(numbers)), model, good=True)
        per_window = max(1, round(options.seconds / 0.5))
        message = ask(MODEL, model, [784]).messages[0]
        flags = ["--models", str(root / "models"), "--transport", options.transport, "--log-level", "info"]
        flags += ["--device", options.device]
        events: list[server_process.Event] = []
        with server_process.serve(flags, events.append) as served:
            with grpc.insecure_channel(served.address) as channel:
                answer: bytes = channel.unary_unary(MODEL_INFER, bytes, bytes)(message, timeout=30)

            def p99_ms(publish: Sequence[tuple[Path, Path]] = ()) -> float:
                with publishing(publish, options.seconds):
                    load = (served.address, MODEL_INFER, framed(message), IN_FLIGHT, options.seconds)
                    return h2load.run(*load, answer_bytes=len(framed(answer)), connections=4).p99_ms

            p99_ms()
            for _ in range(options.rounds):
                quiet.append(p99_ms())
                staged = []
                for number in itertools.islice(numbers, per_window):
                    write_version(root / "staging" / str(number), model, good=number % 4 != 0)
                    staged.append((root / "staging" / str(number), root / "models" / MODEL / str(number)))
                swapped.append(p99_ms(staged))
        loaded = sum(event.get("event") == "model" and event.get("state") == "READY" for event in events)
    table = Table(
        "p99, ms",
        "without",
        "with swaps",
        "ratio",
        title=f"{MODEL}: {IN_FLIGHT} in flight, {options.transport}, {options.device}",
    )
    for before, after in zip(quiet, swapped, strict=True):
        table.add_row("", f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}")
    before, after = statistics.median(quiet), statistics.median(swapped)
    table.add_row("median", f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}")
    console.print(table)
    console.print(f"{loaded} versions became READY under load")


if __name__ == "__main__":
    main()
