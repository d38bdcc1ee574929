"""What callers notice while versions are swapped: p99 with and without, in one run: `python -m bench.swaps --help`.

The server is started as users start it, 32 one-row requests are in flight all the time, and windows in which a new version
appears every half second (one in four of them wrong) take turns with windows in which none does.
"""

import argparse
import hashlib
import itertools
import json
import shutil
import statistics
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from bench.questions import MODEL_INFER, ask, framed
from bench.rows import MLP
from frostline import child

MODEL = "bench"
IN_FLIGHT = 32


def write_version(folder: Path, model: onnx.ModelProto, *, good: bool) -> None:
    """An artifact as training publishes it; a bad one's golden sample is not what the network answers."""
    folder.mkdir(parents=True)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    rows = np.random.default_rng(2).normal(size=(64, 784)).astype(np.float32)
    logits = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["logits"], {"input": rows})[0]
    arrays = {"input": rows, "logits": logits + (0 if good else 1), "rtol": np.array(1e-4), "atol": np.array(1e-5)}
    np.savez(folder / "golden.npz", **arrays)
    (folder / "card.json").write_text(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}), encoding="utf-8")


def percentile_ms(log: Path, share: float) -> float:
    """A percentile of the request times in h2load's log, in milliseconds."""
    times = []
    for line in log.read_text(encoding="utf-8").splitlines():
        _, status, microseconds = line.split("\t")
        if status != "200":
            raise SystemExit(f"a request ended with HTTP status {status}")
        times.append(int(microseconds))
    return float(np.percentile(times, share)) / 1000


def window(h2load: str, address: str, body: Path, log: Path, seconds: float, publish: list[tuple[Path, Path]]) -> None:
    """Load the server for `seconds`, and rename each of `publish` into place, evenly over that time."""
    command = [h2load, "-c", "4", "-t", "1", "-m", str(IN_FLIGHT // 4), "-D", f"{seconds:g}", "-d", str(body)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers", f"--log-file={log}"]
    log.unlink(missing_ok=True)
    with subprocess.Popen(
        [*command, *headers, f"http://{address}{MODEL_INFER}"], stdout=subprocess.PIPE, text=True
    ) as process:
        step = seconds / max(1, len(publish))
        for number, (staged, place) in enumerate(publish):
            try:
                process.wait(step if number else step / 2)
            except subprocess.TimeoutExpired:
                staged.rename(place)
        out, _ = process.communicate()
    if ", 0 failed, 0 errored, 0 timeout" not in out:
        raise SystemExit(f"h2load reports failures:\n{out}")


def failed(metrics: str) -> float:
    """How many requests the server has failed so far, by its own count."""
    with urllib.request.urlopen(f"{metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nv_inference_request_failure"))


def main() -> None:
    """Measure, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.swaps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="windows of each kind")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    options = parser.parse_args()
    h2load = shutil.which("h2load")
    if h2load is None:
        raise SystemExit("bench needs h2load: Debian package nghttp2-client")
    console, model = Console(), MLP
    quiet: list[float] = []
    swapped: list[float] = []
    with tempfile.TemporaryDirectory(prefix="frostline-swaps-") as scratch:
        root = Path(scratch)
        write_version(root / "models" / MODEL / "1", model, good=True)
        numbers = itertools.count(2)
        per_window = max(1, round(options.seconds / 0.5))
        (root / "body").write_bytes(framed(ask(MODEL, model, [784]).messages[0]))
        flags = ["--models", str(root / "models"), "--transport", options.transport, "--log-level", "info"]
        events: list[child.Event] = []
        with child.serve(flags, events.append) as served:
            log = root / "log"
            window(h2load, served.address, root / "body", log, 1, [])
            for _ in range(options.rounds):
                window(h2load, served.address, root / "body", log, options.seconds, [])
                quiet.append(percentile_ms(log, 99))
                staged = []
                for number in itertools.islice(numbers, per_window):
                    write_version(root / "staging" / str(number), model, good=number % 4 != 0)
                    staged.append((root / "staging" / str(number), root / "models" / MODEL / str(number)))
                window(h2load, served.address, root / "body", log, options.seconds, staged)
                swapped.append(percentile_ms(log, 99))
            if failures := failed(served.metrics):
                raise SystemExit(f"{failures:.0f} requests failed")
        loaded = sum(event.get("event") == "model" and event.get("state") == "READY" for event in events)
    table = Table(
        "p99, ms", "without", "with swaps", "ratio", title=f"{MODEL}: {IN_FLIGHT} in flight, {options.transport}"
    )
    for before, after in zip(quiet, swapped, strict=True):
        table.add_row("", f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}")
    before, after = statistics.median(quiet), statistics.median(swapped)
    table.add_row("median", f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}")
    console.print(table)
    console.print(f"{loaded} versions became READY under load")


if __name__ == "__main__":
    main()
