"""The server on a GPU against ONNX Runtime's CUDA provider in a process of its own: `python -m bench.gpu`.

Networks of ResNet-50's and BERT-base's shape with random weights. The floors are ONNX Runtime with IO binding and the
server's own options, in this process. One floor copies its input from the host for every run, in bytes as the server's
clients send it. The other runs again and again on what is already on the device. Each section prints its table as soon as it
is measured.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto
from rich.console import Console

from bench.load import networks
from bench.load.baselines import Target
from bench.load.workload import WrongAnswer, ask
from bench.measure import machine
from bench.measure.harness import Lab, Sample
from bench.measure.report import Sheet, console_of_width
from bench.measure.scenarios import MLP, TINY
from frostline.pb import inference_pb2 as pb
from frostline_server.runtime.cuda_options import with_graphs, with_precision
from frostline_server.runtime.devices import (
    CPU,
    CUDA,
    CUDA_DEFAULTS,
    Provider,
    cuda_devices,
    load_cuda_libraries,
    why_unbound,
)
from frostline_server.runtime.heads import add_heads

Array = np.ndarray[Any, Any]

_NO_GPU = 2
_MIB = 2**20
_DISTINCT = 16
"""Images that requests are put together from: the CPU computes their classes."""

LENGTHS = (16, 32, 64, 128)
"""Tokens of a text, as clients pad theirs."""


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


class Images:
    """A network over images, some of them, and the logits that a CPU computes for those.

    Args:
        model: input `input` [N, 3, side, side] of numbers from 0 to 255, and `logits`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.row = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])
        self.pixels = np.random.default_rng(1).integers(0, 256, (_DISTINCT, *self.row)).astype(np.uint8)
        session = ort.InferenceSession(model.SerializeToString(), providers=[CPU])
        # One by one: a CPU has no use for the memory of a large batch.
        rows = self.pixels.astype(np.float32)
        self.logits = np.concatenate([session.run(["logits"], {"input": row[None]})[0] for row in rows])

    def classes(self, name: str, rows: int, count: int = 4) -> Classes:
        """Requests to the model `name` with `rows` of these images each, in bytes, asking for the class only."""
        rng = np.random.default_rng(2)
        chosen = rng.integers(0, len(self.pixels), (count, rows))
        messages = []
        for places in chosen:
            tensor = {"name": "input", "datatype": "UINT8", "shape": (rows, *self.row)}
            request = pb.ModelInferRequest(
                model_name=name,
                inputs=[tensor],
                outputs=[{"name": "argmax"}],
                raw_input_contents=[self.pixels[places].tobytes()],
            )
            messages.append(request.SerializeToString())
        return Classes(tuple(messages), self.logits[chosen])


@dataclass(frozen=True)
class Texts:
    """Requests to a model with one text of `length` tokens each, and what a CPU answers in single precision.

    Attributes:
        messages: serialised ModelInferRequests, all of one size.
        logits: [len(messages), 1, C].
        tolerance: by how much logits may differ: precisions do.
    """

    messages: tuple[bytes, ...]
    logits: Array
    tolerance: float = 0.05

    def check(self, index: int, message: bytes, *, stream: bool = False) -> None:
        """Compare an answer's logits.

        Raises:
            WrongAnswer: they are others, or none.
        """
        if stream:
            raise WrongAnswer("texts are not asked in streams")
        response = pb.ModelInferResponse.FromString(message)
        if [output.name for output in response.outputs] != ["logits"]:
            raise WrongAnswer(f"an answer holds {[output.name for output in response.outputs]}, expected logits")
        got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(self.logits[index].shape)
        if not np.allclose(got, self.logits[index], atol=self.tolerance, rtol=0):
            raise WrongAnswer(f"logits differ by {np.abs(got - self.logits[index]).max():.3g}")


def texts(name: str, session: ort.InferenceSession, length: int, vocabulary: int, count: int = 4) -> Texts:
    """Random texts of one length, and what `session` answers."""
    rng = np.random.default_rng(length)
    messages, logits = [], []
    for _ in range(count):
        feed = {"input_ids": rng.integers(0, vocabulary, (1, length)), "attention_mask": np.ones((1, length), np.int64)}
        request = pb.ModelInferRequest(
            model_name=name,
            inputs=[{"name": key, "datatype": "INT64", "shape": (1, length)} for key in feed],
            outputs=[{"name": "logits"}],
            raw_input_contents=[array.tobytes() for array in feed.values()],
        )
        messages.append(request.SerializeToString())
        logits.append(session.run(["logits"], feed)[0])
    return Texts(tuple(messages), np.stack(logits))


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
    over = Event()
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)

    def read() -> None:
        while not over.wait(memory.PERIOD_S):
            memory.mib.append(nvml.nvmlDeviceGetMemoryInfo(gpu).used / _MIB)

    thread = Thread(target=read, name="memory")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def of_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, whose first node casts its input, given bytes."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return changed


class Floors:
    """ONNX Runtime in this process, on the device that is measured.

    Args:
        device: cuda or cpu; the second only to try the benchmark out.
        seconds: how long one floor is measured.
    """

    def __init__(self, device: str, seconds: float) -> None:
        self.device = device
        self._seconds = seconds

    def session(self, model: onnx.ModelProto, *, graphs: bool = False) -> ort.InferenceSession:
        """A network with the server's heads and options."""
        _, addition = add_heads(model)
        data = model.SerializeToString() + addition
        if self.device == "cpu":
            return ort.InferenceSession(data, providers=[CPU])
        cuda: list[Provider] = [(CUDA, {"device_id": "0", **CUDA_DEFAULTS}), (CPU, {})]
        providers = with_graphs(with_precision(cuda, model.graph), enabled=graphs)
        session = ort.InferenceSession(data, providers=providers, enable_fallback=0)
        if CUDA not in session.get_providers():
            raise SystemExit(f"ONNX Runtime did not bind {CUDA}: {why_unbound(CUDA)}. Install the extra `cuda`")
        return session

    def images(self, model: onnx.ModelProto, batch: int, *, graphs: bool = True, copying: bool = True) -> Sample:
        """Classes of batches of images.

        Args:
            model: the network, without heads.
            batch: rows of a batch.
            graphs: whether a CUDA graph is captured and replayed.
            copying: whether each run copies its images from the host, as bytes.
        """
        session = self.session(of_bytes(model), graphs=graphs)
        row = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        images = np.random.default_rng(2).integers(0, 256, (batch, *row)).astype(np.uint8)
        value = ort.OrtValue.ortvalue_from_numpy(images, self.device, 0)
        answer = ort.OrtValue.ortvalue_from_shape_and_type([batch], np.int64, self.device, 0)
        binding = session.io_binding()
        binding.bind_ortvalue_input("input", value)
        binding.bind_ortvalue_output("argmax", answer)
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "1" if graphs else "-1")

        def once() -> None:
            if copying:
                value.update_inplace(images)
            session.run_with_iobinding(binding, options)
            answer.numpy()

        return self.timed(once, batch)

    def texts(self, session: ort.InferenceSession, length: int, batch: int, vocabulary: int) -> Sample:
        """Logits of batches of texts, copied from the host for each run."""
        rng = np.random.default_rng(3)
        feed = {
            "input_ids": rng.integers(0, vocabulary, (batch, length)),
            "attention_mask": np.ones((batch, length), np.int64),
        }
        values = {name: ort.OrtValue.ortvalue_from_numpy(array, self.device, 0) for name, array in feed.items()}
        answer = ort.OrtValue.ortvalue_from_shape_and_type([batch, 2], np.float32, self.device, 0)
        binding = session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("logits", answer)

        def once() -> None:
            for name, value in values.items():
                value.update_inplace(feed[name])
            session.run_with_iobinding(binding)
            answer.numpy()

        return self.timed(once, batch)

    def timed(self, once: Callable[[], None], rows: int) -> Sample:
        """`timed` after three calls that warm up."""
        for _ in range(3):
            once()
        return timed(once, rows, self._seconds)


def timed(once: Callable[[], None], rows: int, seconds: float) -> Sample:
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


class Study:
    """What the sections have in common.

    Args:
        floors: ONNX Runtime in this process.
        seconds: how long one load lasts.
        nvml: NVIDIA's library; None where the CPU stands in.
        side: of the images.
        width: channels of the residual network's first stage.
        layers: of the transformer.
    """

    def __init__(self, floors: Floors, seconds: float, nvml: Any, *, side: int, width: int, layers: int) -> None:
        self.floors = floors
        self.seconds = seconds
        self.nvml = nvml
        self.layers = layers
        self.vocabulary = 30522
        self.resnet = networks.resnet50(half=True, size=side, width=width)
        self._images: Images | None = None

    @property
    def images(self) -> Images:
        """Of the residual network."""
        if self._images is None:
            self._images = Images(self.resnet)
        return self._images

    @contextmanager
    def lab(self) -> Iterator[Lab]:
        """Servers that end with the block, or the next would find the device full."""
        with Lab(self.seconds) as lab:
            yield lab

    def serve(
        self, lab: Lab, models: Mapping[str, onnx.ModelProto], batch: int, *, graphs: bool = True, instances: int = 2
    ) -> Target:
        """A server with these models on the device."""
        return lab.server(
            "gpu",
            dict(models),
            f"--device={self.floors.device}",
            f"--max-batch-size={batch}",
            "--transport=native",
            config=config(graphs=graphs, instances=instances),
        )

    def load(self, lab: Lab, target: Target, asked: Any, in_flight: int, rows: int) -> Sample:
        """Load a server; the rate is for rows."""
        memory = Memory()
        if self.nvml is None:
            sample = lab.closed(target, asked, in_flight)
        else:
            with watched(self.nvml, memory):
                sample = lab.closed(target, asked, in_flight)
        sample["rate"] *= rows
        return sample | memory.sample()


def _ratio(value: float, goal: float) -> str:
    return f"{value:.2f}{'' if value >= goal else f' (short of {goal:g})'}"


def _mib(sample: Mapping[str, float]) -> str:
    return " -> ".join(f"{sample[f'gpu_{when}_mib']:,.0f}" for when in ("first", "most", "last"))


def batches(study: Study, sizes: Sequence[int] = (1, 8, 32, 128)) -> Sheet:
    """Whole batches: rows a second against ONNX Runtime in this process at the same batch."""
    rows = []
    for batch in sizes:
        copying = study.floors.images(study.resnet, batch)
        resident = study.floors.images(study.resnet, batch, copying=False)
        with study.lab() as lab:
            target = study.serve(lab, {"resnet": study.resnet}, batch)
            served = study.load(lab, target, study.images.classes("resnet", batch), 6, batch)
        rows.append(
            (
                str(batch),
                f"{served['rate']:,.0f}",
                f"{served['p50_ms']:.2f} / {served['p99_ms']:.2f}",
                f"{copying['rate']:,.0f}",
                f"{resident['rate']:,.0f}",
                _ratio(served["rate"] / copying["rate"], 0.95),
                f"{served['rate'] / resident['rate']:.2f}",
                _mib(served),
            )
        )
    columns = (
        "batch",
        "rows/s",
        "p50 / p99 ms",
        "ORT, copying",
        "ORT, resident",
        "of copying",
        "of resident",
        "GPU MiB",
    )
    return Sheet(
        "ResNet-50's shape, FP16, UINT8 rows in, class out; 2 instances, 6 batches in flight", columns, tuple(rows)
    )


def callers(study: Study, batch: int = 64, in_flight: int = 256) -> Sheet:
    """One row a request from many callers, which the server puts together."""
    floor = study.floors.images(study.resnet, batch)
    rows = []
    for instances in (1, 2):
        with study.lab() as lab:
            target = study.serve(lab, {"resnet": study.resnet}, batch, instances=instances)
            served = study.load(lab, target, study.images.classes("resnet", 1), in_flight, 1)
        rows.append(
            (
                str(instances),
                f"{served['rate']:,.0f}",
                f"{served['p50_ms']:.2f} / {served['p99_ms']:.2f}",
                f"{floor['rate']:,.0f}",
                f"{floor['p50_ms']:.2f}",
                _ratio(served["rate"] / floor["rate"], 0.85),
                f"{served['p99_ms'] / floor['p50_ms']:.2f}",
                f"{served['cpu_ms'] * 1000:.0f}",
            )
        )
    columns = (
        "instances",
        "rows/s",
        "p50 / p99 ms",
        "ORT, copying",
        "its run ms",
        "of copying",
        "p99 in runs",
        "CPU us/row",
    )
    return Sheet(f"{in_flight} callers of one row each, batches of at most {batch}", columns, tuple(rows))


def graphs(study: Study, sizes: Sequence[int] = (1, 8)) -> Sheet:
    """One request at a time, with and without CUDA graphs."""
    rows = []
    for batch in sizes:
        took = {}
        for captured in (True, False):
            floor = study.floors.images(study.resnet, batch, graphs=captured)
            with study.lab() as lab:
                target = study.serve(lab, {"resnet": study.resnet}, batch, graphs=captured, instances=1)
                took[captured] = (study.load(lab, target, study.images.classes("resnet", batch), 1, batch), floor)
        (with_, floor), (without, plain) = took[True], took[False]
        rows.append(
            (
                str(batch),
                f"{with_['p50_ms']:.2f}",
                f"{without['p50_ms']:.2f}",
                _ratio(without["p50_ms"] / with_["p50_ms"], 1.3),
                f"{floor['p50_ms']:.2f}",
                f"{plain['p50_ms']:.2f}",
                f"{plain['p50_ms'] / floor['p50_ms']:.2f}",
            )
        )
    columns = ("batch", "p50 ms", "without graphs", "times faster", "ORT ms", "ORT without", "times faster")
    return Sheet("one request in flight, with and without CUDA graphs", columns, tuple(rows))


def lengths(study: Study, callers_each: int = 16) -> Sheet:
    """Texts of four lengths at once, which share batches with those of their own length only."""
    reference = ort.InferenceSession(networks.bert(layers=study.layers).SerializeToString(), providers=[CPU])
    asked = {length: texts("bert", reference, length, study.vocabulary) for length in LENGTHS}
    del reference
    model = networks.bert(half=True, layers=study.layers)
    session = study.floors.session(model)
    floor = {length: study.floors.texts(session, length, callers_each, study.vocabulary) for length in LENGTHS}
    del session
    rows: list[tuple[str, ...]] = []
    for instances in (1, 2):
        with study.lab() as lab, ThreadPoolExecutor(len(LENGTHS)) as pool:
            target = study.serve(lab, {"bert": model}, callers_each, instances=instances)
            study.load(lab, target, asked[LENGTHS[-1]], callers_each, 1)
            jobs = {length: pool.submit(study.load, lab, target, asked[length], callers_each, 1) for length in LENGTHS}
            served = {length: job.result() for length, job in jobs.items()}
        busy = sum(served[length]["rate"] / floor[length]["rate"] for length in LENGTHS)
        rows.extend(
            (
                f"{instances}, {length} tokens",
                f"{served[length]['rate']:,.0f}",
                f"{served[length]['p50_ms']:.2f} / {served[length]['p99_ms']:.2f}",
                f"{floor[length]['rate']:,.0f}",
                "",
            )
            for length in LENGTHS
        )
        total = sum(sample["rate"] for sample in served.values())
        rows.append((f"{instances}, together", f"{total:,.0f}", "", "", _ratio(busy, 0.8)))
    columns = ("instances", "texts/s", "p50 / p99 ms", f"ORT alone, batch {callers_each}", "of ORT's time")
    return Sheet(f"BERT-base's shape, FP16, {callers_each} callers for each length at once", columns, tuple(rows))


def together(study: Study, batch: int = 32) -> Sheet:
    """Two models at once, and two instances of one, against the better alone."""
    asked = {name: study.images.classes(name, batch) for name in ("a", "b")}
    rows = []
    for instances in (1, 2):
        with study.lab() as lab, ThreadPoolExecutor(2) as pool:
            target = study.serve(lab, dict.fromkeys(asked, study.resnet), batch, instances=instances)
            alone = max(study.load(lab, target, asked[name], 4, batch)["rate"] for name in asked)
            jobs = [pool.submit(study.load, lab, target, asked[name], 4, batch) for name in asked]
            both = [job.result() for job in jobs]
        total = sum(sample["rate"] for sample in both)
        rows.append(
            (
                str(instances),
                f"{alone:,.0f}",
                " + ".join(f"{sample['rate']:,.0f}" for sample in both),
                _ratio(total / alone, 0.9),
                _mib(both[0]),
            )
        )
    columns = ("instances each", "one model alone, rows/s", "two at once", "sum of alone", "GPU MiB")
    return Sheet(f"two models of ResNet-50's shape, batch {batch}", columns, tuple(rows))


def small(study: Study, in_flight: Sequence[int] = (1, 8, 64, 256)) -> Sheet:
    """A small MLP on the device and on the CPU of the same machine."""
    questions = ask("mlp", MLP, [784])
    found: dict[str, list[Sample]] = {}
    for device in dict.fromkeys((study.floors.device, "cpu")):
        with study.lab() as lab:
            target = lab.server(device, {"mlp": MLP}, f"--device={device}", "--transport=native")
            found[device] = [lab.closed(target, questions, count) for count in in_flight]
    rows = [
        (
            device,
            *(f"{sample['rate']:,.0f} ({sample['p50_ms']:.2f} ms)" for sample in samples),
        )
        for device, samples in found.items()
    ]
    return Sheet(
        "MLP 784-256-128-10, one row a request, answers/s (p50)", ("device", *map(str, in_flight)), tuple(rows)
    )


def front_end(study: Study, in_flight: Sequence[int] = (64, 256, 1024)) -> Sheet:
    """A network of next to no cost on the CPU: what the way in and out takes."""
    questions = ask("tiny", TINY, [4])
    with study.lab() as lab:
        target = lab.server("native", {"tiny": TINY}, "--device=cpu", "--transport=native")
        samples = [lab.closed(target, questions, count, connections=16) for count in in_flight]
    row = (
        "native",
        *(f"{sample['rate']:,.0f} ({sample['cpu_ms'] * 1000:.0f} us CPU)" for sample in samples),
    )
    return Sheet("MLP 4-16-3 on the CPU, answers/s", ("transport", *map(str, in_flight)), (row,))


SECTIONS: Mapping[str, Callable[[Study], Sheet]] = {
    "batches": batches,
    "callers": callers,
    "graphs": graphs,
    "lengths": lengths,
    "together": together,
    "small": small,
    "front-end": front_end,
}


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
    return load_cuda_libraries()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, tell.

    Returns:
        The exit code: 2 where there is no GPU, 1 where a section failed.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"what to measure: {', '.join(SECTIONS)}; all by default"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one load (default 6)")
    parser.add_argument("--side", type=int, default=224, help="of the images (default 224)")
    parser.add_argument("--width", type=int, default=64, help="channels of ResNet's first stage (default 64)")
    parser.add_argument("--layers", type=int, default=12, help="of BERT (default 12)")
    parser.add_argument("--json", type=Path, help="append each section's table to this file, a line each")
    parser.add_argument("--dry", action="store_true", help="try the benchmark out on the CPU; its numbers mean nothing")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.sections) - set(SECTIONS)):
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    # Its words about every plan that cuDNN does not have would hide the tables.
    ort.set_default_logger_severity(4)
    nvml: Any = None
    if not options.dry:
        if why := obstacle():
            sys.stderr.write(f"nothing was measured: {why}\n")
            return _NO_GPU
        import pynvml  # noqa: PLC0415  only the cuda extra brings it

        pynvml.nvmlInit()
        nvml = pynvml
    console = console_of_width()
    console.print(f"{gpu_name(nvml) if nvml else 'no GPU'}; {machine.described()}; loads of {options.seconds:g} s")
    floors = Floors("cpu" if options.dry else "cuda", options.seconds / 2)
    study = Study(floors, options.seconds, nvml, side=options.side, width=options.width, layers=options.layers)
    failed = [name for name in options.sections or SECTIONS if not shown(name, study, console, options.json)]
    return 1 if failed else 0


def shown(name: str, study: Study, console: Console, record: Path | None) -> bool:
    """Measure a section and print its table; tells whether that worked. One that fails does not take the others along."""
    began_s = time.monotonic()
    try:
        sheet = SECTIONS[name](study)
    except (Exception, SystemExit):  # noqa: BLE001  it is printed, and the exit code says so
        console.print(f"{name} failed:\n{traceback.format_exc()}", markup=False)
        return False
    console.print(sheet.table())
    console.print(f"({name}: {time.monotonic() - began_s:.0f} s)")
    if record:
        with record.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"section": name, "title": sheet.title, "columns": sheet.columns, "rows": sheet.rows}) + "\n"
            )
    return True


if __name__ == "__main__":
    sys.exit(main())
