"""The shadow study: the latency that a shadow adds to the live version.

`h2load` sends one-row ModelInfer requests to one server without a pause. Meanwhile the study detaches and attaches the
shadow several times a second, so that noise of the machine affects both cases alike. h2load's log has the start of
each request; the result is the ratio of the two median latencies. The first part of each period does not count,
because the shadow still works off its queue then.
"""

import argparse
import asyncio
import itertools
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from bench.load.networks import mlp
from bench.load.workload import ask, framed
from bench.measure import machine
from frostline.protocol import MODEL_INFER
from frostline_server import logs
from frostline_server.app import Server
from frostline_server.config import ServerConfig
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout

MODEL = "shadowed"
TURN_S, SKIPPED_S = 0.25, 0.1

Array = np.ndarray[Any, Any]


@contextmanager
def serving(models: Path, transport: str) -> Iterator[Server]:
    """A server in this process, so that its shadow can be detached faster than a folder is scanned."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    config = ServerConfig.load(
        environ={}, models=models, port=0, metrics_port=0, transport=transport, probe_s=0, model_control="none"
    )
    server = Server(config)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        yield server
        asyncio.run_coroutine_threadsafe(server.drain(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def measure(h2load: str, server: Server, body: Path, in_flight: int, seconds: int) -> tuple[Array, Array]:
    """Latencies of requests in microseconds, without and with the shadow; every request must succeed."""
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
    tap = server.repository.get(MODEL, "1").tap
    shadow = tap.shadow
    if shadow is None:
        raise SystemExit(f"no shadow is attached: {server.repository.traffic(MODEL).problems}")
    turns_us = []
    with subprocess.Popen(
        [*command, *headers, f"http://{server.address}{MODEL_INFER}"], stdout=subprocess.DEVNULL
    ) as process:
        for shadowed in itertools.cycle((False, True)):
            tap.shadow = shadow if shadowed else None
            turns_us.append(time.time_ns() // 1000)
            time.sleep(TURN_S)
            if process.poll() is not None:
                break
    tap.shadow = shadow
    # Start in microseconds since 1970, status, and the time of the request in microseconds.
    began_us, statuses, times_us = np.loadtxt(log, dtype=np.int64, unpack=True)
    if process.returncode or (statuses != 200).any():
        raise SystemExit(f"h2load ended with {process.returncode} and reports the statuses {sorted(set(statuses))}")
    turn = np.searchsorted(turns_us, began_us, side="right") - 1
    counts = (turn >= 0) & (began_us - np.array(turns_us)[turn] >= SKIPPED_S * 1e6)
    return times_us[counts & (turn % 2 == 0)], times_us[counts & (turn % 2 == 1)]


def main() -> None:
    """Parse the command line, measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.shadow", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--layers", default="784,256,128,10", help="layer sizes of both networks (default 784,256,128,10)"
    )
    parser.add_argument("--in-flight", default="1,8,64", help="requests in flight (default 1,8,64)")
    parser.add_argument("--transport", default="h2", help="h2 or grpcio (default h2)")
    parser.add_argument("--seconds", type=int, default=20, help="length of a run (default 20)")
    options = parser.parse_args()
    h2load = shutil.which("h2load")
    if h2load is None:
        parser.error("h2load is not installed (Debian package nghttp2-client)")
    logs.configure("console", "warning")
    layers = [int(size) for size in options.layers.split(",")]
    table = Table(
        "in flight", "p50 ms", "with a shadow", "ratio", "p99 ms", "with a shadow", "compared",
        title=f"{options.layers} network, one row a request, {options.transport}",
    )  # fmt: skip
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        network = mlp(layers)
        for version in ("1", "2"):
            (models / MODEL / version).mkdir(parents=True)
            onnx.save(network, models / MODEL / version / "model.onnx")
        rollouts.write(models / MODEL, Rollout({"stable": 1}, shadow=2))
        body = Path(folder) / "request.bin"
        body.write_bytes(framed(ask(MODEL, network, layers[:1]).messages[0]))
        with serving(models, options.transport) as server:
            for flight in map(int, options.in_flight.split(",")):
                ((*_, before),) = server.repository.shadows()
                with console.status(f"{flight} in flight"):
                    alone, shadowed = measure(h2load, server, body, flight, options.seconds)
                ((*_, after),) = server.repository.shadows()
                compared, dropped = after.rows - before.rows, after.dropped - before.dropped
                share = compared / max(1, compared + dropped)
                p50s, p99s = ([float(np.percentile(times, q)) / 1e3 for times in (alone, shadowed)] for q in (50, 99))
                table.add_row(
                    str(flight), f"{p50s[0]:.3f}", f"{p50s[1]:.3f}", f"{p50s[1] / p50s[0]:.3f}",
                    f"{p99s[0]:.3f}", f"{p99s[1]:.3f}", f"{100 * share:.0f} %",
                )  # fmt: skip
    console.print(table)
    console.print(f"runs of {options.seconds} s; {machine.described()}; the load generator shares the machine")


if __name__ == "__main__":
    main()
