"""The baselines of the benchmark: echo servers of the same bytes, and ONNX Runtime in this process.

They are measured in the same rounds as the server.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from bench.load.echo import ECHO
from bench.load.probe import NotMeasured

Array = np.ndarray[Any, Any]

CPP, H2 = "C++ echo", "h2 echo"
"""gRPC's C++ core; the server's own front end without inference."""

__all__ = ["CPP", "ECHO", "H2", "Target", "echo", "rows_per_second"]

_SOURCE = Path(__file__).with_name("echo.cc")
_BUILT = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Target:
    """A server under load.

    Attributes:
        address: host:port.
        pid: its process.
        tls: whether it is encrypted.
        http: host:port of its HTTP; "" where it has none.
    """

    address: str
    pid: int
    tls: bool = False
    http: str = ""


@contextmanager
def echo(kind: str) -> Iterator[Target]:
    """Run an echo server for the duration of the block.

    Raises:
        NotMeasured: the C++ echo cannot be compiled here.
    """
    program = [str(_compiled())] if kind == CPP else [sys.executable, "-m", "bench.load.echo"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Target(f"127.0.0.1:{process.stdout.readline().strip()}", process.pid)
        finally:
            # It ends with its input.
            process.stdin.close()


def _compiled() -> Path:
    """The path of the C++ echo; compiled once for each version of its source."""
    source = _SOURCE.read_bytes()
    program = _BUILT / f"echo-{hashlib.sha256(source).hexdigest()[:12]}"
    if program.exists():
        return program
    compiler, flags = shutil.which("g++"), shutil.which("pkg-config")
    if compiler is None or flags is None:
        raise NotMeasured("no g++ or no pkg-config")
    found = subprocess.run([flags, "--cflags", "--libs", "grpc++"], check=False, capture_output=True, text=True)
    if found.returncode != 0:
        raise NotMeasured("gRPC's C++ headers are not installed (Debian package libgrpc++-dev)")
    _BUILT.mkdir(exist_ok=True)
    # Under a name of its own until it is whole.
    making = program.with_name(f"{program.name}.{os.getpid()}")
    command = [compiler, "-O2", "-std=c++17", str(_SOURCE), "-o", str(making), *found.stdout.split()]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        raise NotMeasured(f"the C++ echo does not compile here: {made.stderr.strip().splitlines()[-1]}")
    return making.rename(program)


def rows_per_second(model: onnx.ModelProto, row: Sequence[int], batch: int, seconds: float, threads: int = 1) -> float:
    """Rows a second of ONNX Runtime alone in this process, in batches of `batch` random rows."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"input": np.random.default_rng(2).normal(size=(batch, *row)).astype(np.float32)}
    session.run(["logits"], feed)
    runs, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        session.run(["logits"], feed)
        runs += 1
    return runs * batch / spent
