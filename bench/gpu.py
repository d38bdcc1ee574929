"""The server on a GPU against ONNX Runtime's CUDA provider in a process of its own: `python -m bench.gpu`.

A network of ResNet-50's shape with random weights, in single and in half precision, with and without CUDA graphs. The server is sent
rows of bytes and asked for the class only. The floors are ONNX Runtime with IO binding and the same options, once copying its input
from the host for every run, in single precision as the network takes it, and once running again and again on what is already there.
"""

import argparse
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from bench.load import networks
from bench.load.workload import WrongAnswer, one_thread
from bench.measure import machine
from bench.measure.harness import Lab, Sample, Samples
from bench.measure.report import Sheet, console_of_width
from bench.measure.rounds import measure
from frostline.pb import inference_pb2 as pb
from frostline_server.runtime.devices import CPU, CUDA, CUDA_DEFAULTS, cuda_devices
from frostline_server.runtime.heads import add_heads

Array = np.ndarray[Any, Any]

ROW = (3, 224, 224)
PRECISIONS = ("fp32", "fp16")
GOAL = 0.9
_NO_GPU = 2
_MIB = 2**20


@dataclass(frozen=True)
class Classes:
    """Requests for a class, and the logits it must be the best of.

    Attributes:
        messages: serialised ModelInferRequests, all of one size.
        logits: [len(messages), rows, C], as ONNX Runtime computes them on the CPU.
        slack: by how much of the logits' spread a class may be worse than the best one: precisions differ.
    """

    messages: tuple[bytes, ...]
    logits: Array
    slack: float = 0.05

    def check(self, index: int, message: bytes, *, stream: bool = False) -> None:
        """Compare an answer's classes with the logits.

        Raises:
            WrongAnswer: one is not among the best, or there are none.
        """
        if stream:
            raise WrongAnswer("classes are not asked for in streams")
        try:
            response = pb.ModelInferResponse.FromString(message)
        except DecodeError as error:
            raise WrongAnswer(f"an answer of {len(message)} bytes is no response: {error}") from error
        logits = self.logits[index]
        if [output.name for output in response.outputs] != ["argmax"] or len(
            response.raw_output_contents[0]
        ) != 8 * len(logits):
            raise WrongAnswer(f"an answer holds {[output.name for output in response.outputs]}, expected argmax")
        classes = np.frombuffer(response.raw_output_contents[0], "<i8")
        if classes.min() < 0 or classes.max() >= logits.shape[1]:
            raise WrongAnswer(f"there are no such classes: {classes.tolist()[:8]}")
        behind = logits.max(axis=1) - logits[np.arange(len(logits)), classes]
        if (behind > self.slack * np.ptp(logits, axis=1)).any():
            raise WrongAnswer(f"classes are not the best ones: {behind.max():.3g} behind")


def classes_of(name: str, model: onnx.ModelProto, rows: int, count: int = 4) -> Classes:
    """Requests with `rows` random images of bytes each, asking for the class only."""
    rng = np.random.default_rng(1)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    session = one_thread(model)
    messages, logits = [], []
    for _ in range(count):
        images = rng.integers(0, 256, (rows, *shape)).astype(np.uint8)
        tensor = {"name": "input", "datatype": "UINT8", "shape": images.shape}
        request = pb.ModelInferRequest(
            model_name=name, inputs=[tensor], outputs=[{"name": "argmax"}], raw_input_contents=[images.tobytes()]
        )
        messages.append(request.SerializeToString())
        # Row by row: a CPU has no use for the memory of a large batch.
        logits.append(
            np.concatenate([session.run(["logits"], {"input": row[None].astype(np.float32)})[0] for row in images])
        )
    return Classes(tuple(messages), np.stack(logits))


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        precision: one of `PRECISIONS`.
        graphs: whether CUDA graphs are captured.
        batch: rows of a batch, and of a request.
    """

    precision: str
    graphs: bool
    batch: int

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.precision}, {'graphs' if self.graphs else 'no graphs'}, batch {self.batch}"


@dataclass(frozen=True)
class Load:
    """What a server is given to do.

    Attributes:
        model: the network.
        asked: the requests.
        rows: in each request.
        in_flight: requests in flight.
        instances: sessions of the server.
    """

    model: onnx.ModelProto
    asked: Classes
    rows: int
    in_flight: int
    instances: int


def shaped(batch: int, request_rows: int, batches: int) -> tuple[int, int]:
    """Rows in a request, and requests in flight, for so many batches in flight.

    Args:
        batch: rows of a batch.
        request_rows: rows that are wanted in a request; 0 for a batch.
        batches: in flight.
    """
    rows = min(request_rows or batch, batch)
    return rows, max(1, batches * batch // rows)


def cases(precisions: Sequence[str], batches: Sequence[int]) -> list[Case]:
    """All combinations, those of one server together."""
    return [Case(precision, graphs, batch) for precision in precisions for graphs in (True, False) for batch in batches]


def config(*, graphs: bool, instances: int) -> str:
    """The server's config.pbtxt."""
    return (
        f'parameters {{ key: "enable_cuda_graph" value: {{ string_value: "{int(graphs)}" }} }}\n'
        f"instance_group [ {{ count: {instances} kind: KIND_GPU }} ]\n"
    )


@dataclass
class Memory:
    """Used device memory over time.

    Attributes:
        mib: one reading every `PERIOD_S`.
    """

    mib: list[float] = field(default_factory=list)
    PERIOD_S = 0.25

    def sample(self) -> Sample:
        """The first reading, the largest and the last, in MiB; NaN where nothing was read."""
        mib = self.mib or [float("nan")]
        return {"gpu_first_mib": mib[0], "gpu_most_mib": max(mib), "gpu_last_mib": mib[-1]}


@contextmanager
def watched(nvml: Any, memory: Memory) -> Iterator[None]:
    """Read the first GPU's used memory all through the block."""
    over = threading.Event()
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)

    def read() -> None:
        while not over.wait(memory.PERIOD_S):
            memory.mib.append(nvml.nvmlDeviceGetMemoryInfo(gpu).used / _MIB)

    thread = threading.Thread(target=read, name="memory")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def floor(case: Case, model: onnx.ModelProto, seconds: float, *, copying: bool) -> Sample:
    """ONNX Runtime's CUDA provider in this process, with IO binding: rows a second, and percentiles of a batch.

    Args:
        case: what to measure.
        model: the network, without heads.
        seconds: how long.
        copying: whether each run copies its input from the host.
    """
    _, addition = add_heads(model)
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "1" if case.graphs else "-1")
    session = _on_cuda(model.SerializeToString() + addition, graphs=case.graphs)
    images = np.random.default_rng(2).integers(0, 256, (case.batch, *ROW)).astype(np.float32)
    value = ort.OrtValue.ortvalue_from_numpy(images, "cuda", 0)
    answer = ort.OrtValue.ortvalue_from_shape_and_type([case.batch], np.int64, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", value)
    binding.bind_ortvalue_output("argmax", answer)

    def once() -> None:
        if copying:
            value.update_inplace(images)
        session.run_with_iobinding(binding, options)
        answer.numpy()

    for _ in range(3):
        once()
    return timed(once, case.batch, seconds)


def timed(once: Any, rows: int, seconds: float) -> Sample:
    """Call again and again: rate is rows a second; p50_ms and p99_ms are of a call."""
    took: list[float] = []
    clock = time.perf_counter
    start = last = clock()
    while last - start < seconds or not took:
        once()
        now = clock()
        took.append(now - last)
        last = now
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return {"rate": rows * len(took) / (last - start), "p50_ms": float(p50), "p99_ms": float(p99)}


def _on_cuda(model: bytes, *, graphs: bool) -> ort.InferenceSession:
    cuda = {"device_id": "0", **CUDA_DEFAULTS, "enable_cuda_graph": str(int(graphs))}
    session = ort.InferenceSession(model, providers=[(CUDA, cuda), (CPU, {})], enable_fallback=0)
    if CUDA not in session.get_providers():
        raise SystemExit(f"ONNX Runtime did not bind {CUDA}; its own log says why. Install the extra `cuda`")
    return session


def compared(lab: Lab, case: Case, load: Load, nvml: Any) -> Samples:
    """A case's floors and then its server, in one round; the server ends with it, or the next would find the device full."""
    found = {
        f"{case.name} copying": floor(case, load.model, lab.seconds / 2, copying=True),
        f"{case.name} resident": floor(case, load.model, lab.seconds / 2, copying=False),
    }
    memory = Memory()
    with Lab(lab.seconds, lab.flags, lab.number) as own:
        target = own.server(
            case.name,
            {case.precision: load.model},
            "--device=cuda",
            f"--max-batch-size={case.batch}",
            "--transport=native",
            config=config(graphs=case.graphs, instances=load.instances),
        )
        with watched(nvml, memory):
            served = own.closed(target, load.asked, load.in_flight)
    served["rate"] *= load.rows
    return {case.name: served | memory.sample(), **found}


def ratios(results: Mapping[str, Mapping[str, Sequence[float]]], case: Case) -> tuple[float, float]:
    """The server's rows a second over both floors', medians of the ratios within each round: copying, resident."""
    served = results[case.name]["rate"]
    copying, resident = (
        statistics.median(
            mine / floor for mine, floor in zip(served, results[f"{case.name} {kind}"]["rate"], strict=True)
        )
        for kind in ("copying", "resident")
    )
    return copying, resident


def table(results: Mapping[str, Mapping[str, Sequence[float]]], chosen: Sequence[Case], title: str) -> Sheet:
    """A row for each case."""
    rows = []
    for case in chosen:
        served, copying, resident = (results[f"{case.name}{kind}"] for kind in ("", " copying", " resident"))
        of_copying, of_resident = ratios(results, case)
        rows.append(
            (
                case.name,
                f"{statistics.median(served['rate']):,.0f}",
                f"{statistics.median(served['p99_ms']):.2f}",
                f"{statistics.median(copying['rate']):,.0f}",
                f"{statistics.median(resident['rate']):,.0f}",
                f"{of_copying:.2f}{'' if of_copying >= GOAL else ' (short)'}",
                f"{of_resident:.2f}",
                " -> ".join(
                    f"{statistics.median(served[f'gpu_{when}_mib']):,.0f}" for when in ("first", "most", "last")
                ),
            )
        )
    columns = ("case", "rows/s", "p99 ms", "ORT, copying", "ORT, resident", "of copying", "of resident", "GPU MiB")
    return Sheet(title, columns, tuple(rows))


def gpu_name(nvml: Any) -> str:
    """The first GPU's exact name, its memory and the driver."""
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    total = nvml.nvmlDeviceGetMemoryInfo(gpu).total / _MIB
    return f"{_text(nvml.nvmlDeviceGetName(gpu))} ({total:,.0f} MiB, driver {_text(nvml.nvmlSystemGetDriverVersion())})"


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def obstacle() -> str:
    """Why nothing can be measured here; "" where it can."""
    if CUDA not in ort.get_available_providers():
        return "this ONNX Runtime was built without CUDA; install onnxruntime-gpu"
    if not cuda_devices():
        return "no CUDA device was found"
    try:
        import pynvml  # noqa: F401, PLC0415  only the cuda extra brings it
    except ImportError:
        return "nvidia-ml-py is missing; install the extra `cuda`"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, tell.

    Returns:
        The exit code: 2 where there is no GPU.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64], help="rows of a batch")
    parser.add_argument("--precisions", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--instances", type=int, default=2, help="sessions of the server (default 2)")
    parser.add_argument("--in-flight", type=int, default=8, help="batches in flight (default 8)")
    parser.add_argument("--request-rows", type=int, default=0, help="rows of a request (default 0: a whole batch)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one load (default 8)")
    options = parser.parse_args(arguments)
    if why := obstacle():
        sys.stderr.write(f"nothing was measured: {why}\n")
        return _NO_GPU
    import pynvml  # noqa: PLC0415  only the cuda extra brings it

    pynvml.nvmlInit()
    console = console_of_width()
    models = {precision: networks.resnet50(half=precision == "fp16") for precision in options.precisions}
    chosen, loads = cases(options.precisions, options.batches), {}
    for precision, batch in itertools.product(models, options.batches):
        rows, in_flight = shaped(batch, options.request_rows, options.in_flight)
        asked = classes_of(precision, models[precision], rows)
        loads[precision, batch] = Load(models[precision], asked, rows, in_flight, options.instances)
    measures = {
        case.name: partial(compared, case=case, load=loads[case.precision, case.batch], nvml=pynvml) for case in chosen
    }
    record = measure(measures, options.rounds, options.seconds, (), console)
    title = f"{gpu_name(pynvml)}; {options.instances} instances, {options.in_flight} batches in flight"
    console.print(table(record.results, chosen, title).table())
    console.print(f"{machine.described()}; medians of {options.rounds} rounds of {options.seconds:g} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
