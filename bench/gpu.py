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
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from rich.console import Console

from bench.load import networks
from bench.load.baselines import Target
from bench.load.gpu_workload import LENGTHS, Images, texts
from bench.load.workload import ask
from bench.measure import machine
from bench.measure.gpu_baselines import Floors, Memory, gpu_name, obstacle, watched
from bench.measure.harness import Lab, Sample
from bench.measure.report import Sheet, console_of_width
from bench.measure.scenarios import MLP, TINY
from frostline_server.runtime.devices import CPU

_NO_GPU = 2


def config(*, graphs: bool, instances: int) -> str:
    """The server's config.pbtxt."""
    return (
        f'parameters {{ key: "enable_cuda_graph" value: {{ string_value: "{int(graphs)}" }} }}\n'
        f"instance_group [ {{ count: {instances} kind: KIND_GPU }} ]\n"
    )


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
            "--transport=h2",
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
            target = lab.server(device, {"mlp": MLP}, f"--device={device}", "--transport=h2")
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
        target = lab.server("h2", {"tiny": TINY}, "--device=cpu", "--transport=h2")
        samples = [lab.closed(target, questions, count, connections=16) for count in in_flight]
    row = (
        "h2",
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
