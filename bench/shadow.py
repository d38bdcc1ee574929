"""What a shadow costs the version it follows: `python -m bench.shadow --help`.

One server, started as users start it. `h2load` sends one-row ModelInfer requests while the rollout is switched between no shadow
and a shadow, round by round on the same server, so that whatever else the machine does meets both alike. The ratio of the
median times of a request is the answer; on a machine that is not quiet, that of the quietest rounds says more.
"""

import argparse
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

import frostline
from frostline import child
from frostline.pb import inference_pb2 as pb
from server import rollout as rollouts
from server.rollout import Rollout

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "shadowed"

_ALONE = Rollout({"stable": 1})
_SHADOWED = Rollout({"stable": 1}, shadow=2)
_TRIES, _WAIT_S = 400, 0.05


@dataclass(frozen=True)
class Round:
    """One run of the load generator.

    Attributes:
        p50_ms: the median time of a request, milliseconds.
        p99_ms: the 99th percentile.
        rate: answers a second.
    """

    p50_ms: float
    p99_ms: float
    rate: float


def mlp(sizes: list[int]) -> onnx.ModelProto:
    """A ReLU network with these layer sizes and fixed random weights, input [N, sizes[0]] to logits [N, sizes[-1]]."""
    random = np.random.default_rng(0)
    nodes, constants, value = [], [], "input"
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weights = random.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{layer}"))
        name = "logits" if layer == len(sizes) - 2 else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}"], [name]))
        if name != "logits":
            value = f"a{layer}"
            nodes.append(helper.make_node("Relu", [name], [value]))
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])]
        for name, size in (("input", sizes[0]), ("logits", sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "mlp", ends[0], ends[1], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def scraped(url: str, name: str) -> float:
    """The sum of a series over its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def switch(models: Path, served: child.Served, rollout: Rollout) -> None:
    """Change the rollout, and wait until the server follows it."""
    rollouts.write(models / MODEL, rollout)
    pause = threading.Event()
    with frostline.connect(served.address) as client:
        for _ in range(_TRIES):
            shadows = [model.version for model in client.models() if model.shadow_of]
            if shadows == ([] if rollout.shadow is None else [str(rollout.shadow)]):
                return
            pause.wait(_WAIT_S)
    raise SystemExit("the server does not follow the rollout")


def measure(h2load: str, address: str, body: Path, in_flight: int, seconds: int) -> Round:
    """One round; every request must have succeeded."""
    log = body.with_suffix(".log")
    log.unlink(missing_ok=True)
    command = [
        h2load,
        "-c",
        "1",
        "-t",
        "1",
        "-m",
        str(in_flight),
        "-D",
        str(seconds),
        "-d",
        str(body),
        "--log-file",
        str(log),
    ]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    subprocess.run([*command, *headers, f"http://{address}{METHOD}"], check=True, capture_output=True)
    # Start in microseconds since 1970, status, and the time of the request in microseconds.
    _, statuses, times_us = np.loadtxt(log, dtype=np.int64, unpack=True)
    if (statuses != 200).any():
        raise SystemExit(f"h2load reports failures: statuses {sorted(set(statuses))}")
    p50_us, p99_us = np.percentile(times_us, [50, 99])
    return Round(float(p50_us) / 1e3, float(p99_us) / 1e3, len(times_us) / seconds)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.shadow", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--layers", default="784,256,128,10", help="layer sizes of both networks (default 784,256,128,10)"
    )
    parser.add_argument("--in-flight", default="1,8,64", help="requests in flight (default 1,8,64)")
    parser.add_argument("--transport", default="native", help="native or grpcio (default native)")
    parser.add_argument("--seconds", type=int, default=3, help="length of one run (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs, without and with a shadow (default 5)")
    options = parser.parse_args()
    h2load = shutil.which("h2load")
    if h2load is None:
        parser.error("h2load is not installed (Debian package nghttp2-client)")
    layers = [int(size) for size in options.layers.split(",")]
    flights = [int(count) for count in options.in_flight.split(",")]
    model, console = mlp(layers), Console()
    pairs: dict[int, list[tuple[Round, Round]]] = {flight: [] for flight in flights}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for version in ("1", "2"):
            (models / MODEL / version).mkdir(parents=True)
            onnx.save(model, models / MODEL / version / "model.onnx")
        rollouts.write(models / MODEL, _ALONE)
        row = np.random.default_rng(1).normal(size=(1, layers[0])).astype(np.float32)
        tensor = {"name": "input", "datatype": "FP32", "shape": row.shape}
        message = pb.ModelInferRequest(
            model_name=MODEL, inputs=[tensor], raw_input_contents=[row.tobytes()]
        ).SerializeToString()
        body = Path(folder) / "request.bin"
        # gRPC frames a message as a compression flag and its length.
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        with child.serve(["--models", str(models), "--transport", options.transport], report_errors) as served:
            for flight in flights:
                measure(h2load, served.address, body, flight, 1)
            compared = dropped = 0.0
            for number, flight in itertools.product(range(options.rounds), flights):
                found: dict[bool, Round] = {}
                # Which of the two goes first alternates, so that a drift of the machine favours neither.
                for shadowed in (False, True) if number % 2 == 0 else (True, False):
                    with console.status(f"round {number + 1} of {options.rounds}, {flight} in flight"):
                        switch(models, served, _SHADOWED if shadowed else _ALONE)
                        found[shadowed] = measure(h2load, served.address, body, flight, options.seconds)
                        if shadowed:
                            compared += scraped(served.metrics, "frostline_shadow_rows_total")
                            dropped += scraped(served.metrics, "frostline_shadow_dropped_rows_total")
                pairs[flight].append((found[False], found[True]))
    _print(console, options.layers, pairs)
    console.print(f"the shadows compared {compared:,.0f} rows and had no time for {dropped:,.0f}")


def report_errors(event: dict[str, Any]) -> None:
    """Show what the server complains of."""
    if event.get("level") == "error":
        sys.stderr.write(f"{event}\n")


def _print(console: Console, layers: str, pairs: dict[int, list[tuple[Round, Round]]]) -> None:
    table = Table(
        "in flight", "p50 ms", "with a shadow", "ratio (least to most)", "ratio, quietest", "p99 ms", "with a shadow", "answers/s ratio",
        title=f"{layers} network, one row a request",
    )  # fmt: skip
    for flight, rounds in pairs.items():
        ratios = sorted(shadowed.p50_ms / alone.p50_ms for alone, shadowed in rounds)
        middle = [statistics.median(values) for values in zip(*((a.p50_ms, s.p50_ms, a.p99_ms, s.p99_ms, s.rate / a.rate) for a, s in rounds), strict=True)]  # fmt: skip
        table.add_row(
            str(flight), f"{middle[0]:.3f}", f"{middle[1]:.3f}",
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            f"{min(shadowed.p50_ms for _, shadowed in rounds) / min(alone.p50_ms for alone, _ in rounds):.3f}",
            f"{middle[2]:.3f}", f"{middle[3]:.3f}", f"{middle[4]:.3f}",
        )  # fmt: skip
    console.print(table)
    machine = f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"
    count = len(next(iter(pairs.values())))
    console.print(
        f"medians of {count} interleaved pairs on one server; {machine}; the load generator shares the machine"
    )


if __name__ == "__main__":
    main()
