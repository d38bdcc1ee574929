"""Requests per second of `frostline serve` on this machine: `python -m bench --help`.

The server is started as users start it. `h2load` sends one-row ModelInfer requests, as many in flight as asked; a sample of
answers is compared with ONNX Runtime's own, and the server's counters must agree with the load generator's.
"""

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from frostline import child
from frostline.pb import inference_pb2 as pb
from frostline.pb import inference_pb2_grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = "bench"


@dataclass(frozen=True)
class Round:
    """One run of the load generator.

    Attributes:
        rate: answers a second.
        mean_ms: mean time of a request, milliseconds.
        cpu_ms: the server's CPU time for each request, milliseconds.
    """

    rate: float
    mean_ms: float
    cpu_ms: float


def mlp(sizes: list[int]) -> onnx.ModelProto:
    """A ReLU network with these layer sizes and fixed random weights, input [N, sizes[0]] to logits [N, sizes[-1]]."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "input"
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        last = layer == len(sizes) - 2
        weights = rng.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(np.float32)
        constants += [numpy_helper.from_array(weights, f"w{layer}"), numpy_helper.from_array(weights[0], f"b{layer}")]
        name = "logits" if last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [name]))
        if not last:
            value = f"a{layer}"
            nodes.append(helper.make_node("Relu", [name], [value]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", sizes[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", sizes[-1]])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def request_for(row: np.ndarray[Any, Any]) -> pb.ModelInferRequest:
    """A request for one row [1, D]."""
    tensor = {"name": "input", "datatype": "FP32", "shape": row.shape}
    return pb.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[row.tobytes()])


def check_answers(address: str, model: onnx.ModelProto, width: int) -> None:
    """Compare 64 answers with ONNX Runtime's own; raises AssertionError if one differs."""
    rows = np.random.default_rng(1).normal(size=(64, 1, width)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(request_for(row), timeout=30) for row in rows]
        for row, call in zip(rows, calls, strict=True):
            got = np.frombuffer(call.result().raw_output_contents[0], "<f4")
            np.testing.assert_allclose(got, session.run(["logits"], {"input": row})[0][0], rtol=1e-4, atol=1e-5)


def scraped(url: str, name: str) -> float:
    """The sum of a series over its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


def load(h2load: str, address: str, body: Path, in_flight: int, seconds: int) -> tuple[int, float, float]:
    """Run the load generator once; returns answers, answers a second, and the mean request time in ms."""
    command = [h2load, "-c", "1", "-t", "1", "-m", str(in_flight), "-D", str(seconds), "-d", str(body)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    out = subprocess.run(
        [*command, *headers, f"http://{address}{METHOD}"], check=True, capture_output=True, text=True
    ).stdout
    succeeded = re.search(r"(\d+) succeeded, 0 failed, 0 errored, 0 timeout", out)
    rate = re.search(r"([\d.]+) req/s", out)
    mean = re.search(r"time for request: +\S+ +\S+ +([\d.]+)(us|ms|s)", out)
    if not (succeeded and rate and mean):
        raise SystemExit(f"h2load reports failures:\n{out}")
    return int(succeeded[1]), float(rate[1]), float(mean[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[mean[2]]


def measure(h2load: str, served: child.Served, body: Path, in_flight: int, seconds: int) -> Round:
    """One round; the server must have answered OK as often as the load generator says."""
    before = {name: scraped(served.metrics, name) for name in ("frostline_rows_total", "process_cpu_seconds_total")}
    failed_before = scraped(served.metrics, "nv_inference_request_failure")
    answered, rate, mean_ms = load(h2load, served.address, body, in_flight, seconds)
    rows = scraped(served.metrics, "frostline_rows_total") - before["frostline_rows_total"]
    cpu_s = scraped(served.metrics, "process_cpu_seconds_total") - before["process_cpu_seconds_total"]
    # The load generator does not wait for what is in flight at the end.
    if rows < answered or scraped(served.metrics, "nv_inference_request_failure") - failed_before > in_flight:
        raise SystemExit(f"the load generator counts {answered} answers, the server {rows:.0f} and failures besides")
    return Round(rate, mean_ms, cpu_s / rows * 1000)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench --layers 784,256,128,10 --in-flight 1,8,64,256 --rounds 5",
    )
    parser.add_argument("--layers", default="4,16,3", help="layer sizes of the network (default 4,16,3)")
    parser.add_argument("--in-flight", default="1,8,64,256", help="requests in flight (default 1,8,64,256)")
    parser.add_argument("--transport", default="native,grpcio", help="doors to measure (default both)")
    parser.add_argument("--seconds", type=int, default=3, help="length of one run (default 3)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each, interleaved; medians are shown (default 3)"
    )
    options = parser.parse_args()
    h2load = shutil.which("h2load")
    if h2load is None:
        parser.error("h2load is not installed (Debian package nghttp2-client)")
    layers = [int(size) for size in options.layers.split(",")]
    flights = [int(count) for count in options.in_flight.split(",")]
    doors = options.transport.split(",")
    model = mlp(layers)
    console = Console()
    rounds: dict[tuple[str, int], list[Round]] = {(door, flight): [] for door in doors for flight in flights}
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "models" / MODEL / "1"
        version.mkdir(parents=True)
        onnx.save(model, version / "model.onnx")
        message = request_for(np.zeros((1, layers[0]), np.float32)).SerializeToString()
        body = Path(folder) / "request.bin"
        # gRPC frames a message as a compression flag and its length.
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        for number in range(options.rounds):
            for door in doors:
                flags = ["--models", str(version.parents[1]), "--transport", door]
                with (
                    console.status(f"round {number + 1} of {options.rounds}, {door}"),
                    child.serve(flags, _ignore) as served,
                ):
                    check_answers(served.address, model, layers[0])
                    for flight in flights:
                        rounds[door, flight].append(measure(h2load, served, body, flight, options.seconds))
                    check_answers(served.address, model, layers[0])
    _print(console, options.layers, rounds)


def _ignore(event: dict[str, Any]) -> None:
    if event.get("level") == "error":
        sys.stderr.write(json.dumps(event) + "\n")


def _print(console: Console, layers: str, rounds: dict[tuple[str, int], list[Round]]) -> None:
    machine = f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, ONNX Runtime {ort.__version__}"
    table = Table(
        "door",
        "in flight",
        "answers/s",
        "mean ms",
        "server CPU ms/request",
        title=f"{layers} network, one row a request",
    )
    for (door, flight), runs in rounds.items():
        middle = [
            statistics.median(values)
            for values in zip(*((run.rate, run.mean_ms, run.cpu_ms) for run in runs), strict=True)
        ]
        table.add_row(door, str(flight), f"{middle[0]:,.0f}", f"{middle[1]:.2f}", f"{middle[2]:.3f}")
    console.print(table)
    count = len(next(iter(rounds.values())))
    console.print(f"medians of {count} interleaved rounds; {machine}; the load generator shares the machine")


if __name__ == "__main__":
    main()
