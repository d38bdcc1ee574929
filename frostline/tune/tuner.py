"""The auto-tuner: it finds the settings with which a model answers most requests within a latency limit.

It tries each candidate on a real server under load.
"""

import difflib
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from frostline import server_process
from frostline.client.catalog import Model
from frostline.client.connection import connect
from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2
from frostline.protocol import MODEL_INFER
from frostline.tables import table
from frostline.tune import openloop, pbtxt, sweep
from frostline.tune.http2 import ConnectionBroken, connected
from frostline.tune.sweep import Point, Setting, Trial
from frostline_server.runtime.dtypes import DTYPES
from frostline_server.runtime.golden import golden_keys
from frostline_server.runtime.host_limits import cpu_count

CONNECTIONS = 4
IN_FLIGHT = 64


class NoSuchModel(Exception):
    """The folder has no such model; the message says which there are."""


class CannotTune(Exception):
    """Nothing could be measured, or nothing keeps within the limit; the message says what there is instead."""


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        models: the folder of models.
        model: the model's name.
        slo_ms: what the 99th percentile of the latency is to keep within.
        seconds: how long each candidate is loaded.
        device: where to serve, as for `frostline serve`.
        write: whether to write the best configuration.
        picture: where to draw the candidates.
    """

    models: Path
    model: str
    slo_ms: float
    seconds: float
    device: str
    write: bool
    picture: Path


def run(job: Job, console: Console) -> Trial:
    """Try the candidates, show them, and write the best one's config.pbtxt.

    Raises:
        NoSuchModel: there is none of that name.
        ServerRefused: no server starts with these settings, such as a device that is not here.
        CannotTune: nothing could be measured, or nothing keeps within the limit; nothing was written then.
    """
    folder = job.models / job.model
    if not (job.model and folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())):
        there = sorted(path.name for path in job.models.iterdir()) if job.models.is_dir() else []
        raise NoSuchModel(f"no model '{job.model}' in {job.models}; there are: {', '.join(there) or 'none'}")
    path = folder / "config.pbtxt"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        trials = _trials(job, text, console)
    except pbtxt.NotAConfiguration as error:
        raise CannotTune(f"{path} is not a model configuration: {error}") from error
    except server_process.ServerRefused:
        raise
    except (server_process.ServerFailed, ConnectionBroken) as error:
        raise CannotTune(str(error)) from error
    best = sweep.choose(trials, job.slo_ms)
    console.print(table(*_lines(trials, job.slo_ms, best)))
    _draw(trials, best, job, console)
    if max(point.late_ms for trial in trials for point in trial.points) > job.slo_ms / 4:
        console.print("The load generator itself was late at times: this machine is busy, so true latencies are lower.")
    if best is None:
        trial, point = sweep.nearest(trials)
        raise CannotTune(
            f"nothing keeps 99 % of the answers within {job.slo_ms:g} ms; the nearest is {trial.setting} with "
            f"{point.p99_ms:.3g} ms at {point.rate:.0f} requests a second; nothing was written"
        )
    after = pbtxt.changed(text, best.setting.fields())
    changes = difflib.unified_diff(
        text.splitlines(), after.splitlines(), "config.pbtxt", "config.pbtxt, tuned", lineterm=""
    )
    console.print("\n".join(changes) or "config.pbtxt says so already.", markup=False, highlight=False)
    if job.write and after != text:
        _write(path, text, after)
        console.print(f"Written to {path}", markup=False, highlight=False, soft_wrap=True)
    return best


def _trials(job: Job, text: str, console: Console) -> list[Trial]:
    # A limit of its own would refuse what is to be measured.
    plain = pbtxt.changed(text, model_config_pb2.ModelConfig(), (sweep.SLO,))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("starting a first server", total=None)
        with _server(job, plain) as (served, provider):
            model = _described(served, job.model)
        body = _request(model, job.models / job.model / model.version / "golden.npz")
        gpu = provider.startswith("CUDA")
        most = model.max_batch_size
        shapes = sweep.shapes(cpu_count(), gpu=gpu)
        sizes = sweep.sizes(most) if most else []
        progress.update(task, total=len(shapes) + len(sizes))
        trials: list[Trial] = []

        def attempt(setting: Setting) -> None:
            progress.update(task, description=str(setting))
            with _server(job, pbtxt.changed(plain, setting.fields(), (sweep.SLO,))) as (candidate, _):
                trials.append(_measured(candidate.address, setting, body, job))
            progress.advance(task)

        for instances, threads in shapes:
            attempt(Setting(instances, threads, most))
        first = sweep.choose(trials, job.slo_ms) or max(trials, key=lambda trial: trial.capacity)
        for size in sizes:
            attempt(Setting(first.setting.instances, first.setting.threads, size))
    return trials


@contextmanager
def _server(job: Job, config: str) -> Iterator[tuple[server_process.Served, str]]:
    """A server with the model under another configuration, and the execution provider it is bound to."""
    told: dict[str, Any] = {}

    def on_event(event: server_process.Event) -> None:
        if event.get("event") == "model":
            told.update(event)

    with tempfile.TemporaryDirectory(prefix="frostline-tune-") as models:
        folder = Path(models) / job.model
        folder.mkdir()
        for path in (job.models / job.model).iterdir():
            if path.name not in ("config.pbtxt", "rollout.json") and not path.name.startswith("."):
                (folder / path.name).symlink_to(path.resolve())
        (folder / "config.pbtxt").write_text(config, encoding="utf-8")
        flags = [
            "--models",
            models,
            # The links made above, and those that the model's own folder has.
            "--linked-folders",
            "/",
            "--device",
            job.device,
            "--model-control",
            "none",
            "--probe-s",
            "0",
            "--slo-ms",
            "0",
        ]
        try:
            with server_process.serve(flags, on_event, settings=False) as served:
                yield served, str(told.get("provider", ""))
        except server_process.ServerFailed as error:
            if not told.get("reason"):
                raise
            raise server_process.ServerFailed(f"{error}: {told['reason']}") from error


def _described(served: server_process.Served, name: str) -> Model:
    with connect(served.address) as client:
        return client.model(name)


def _request(model: Model, golden: Path) -> bytes:
    """A request with one row: the golden sample's first, or random numbers between 0 and 1.

    Raises:
        CannotTune: no row can be made up.
    """
    rows = np.load(golden, allow_pickle=False) if golden.is_file() else {}
    rng = np.random.default_rng(0)
    message = pb.ModelInferRequest(model_name=model.name)
    keys = golden_keys([spec.name for spec in model.inputs])
    for spec in model.inputs:
        key = keys[spec.name]
        shape = (1, *spec.shape[1:]) if model.max_batch_size else spec.shape
        if key in rows:
            array = rows[key][: max(1, shape[0])] if shape else rows[key]
        elif spec.datatype not in DTYPES or DTYPES[spec.datatype].hasobject or min(shape, default=1) < 0:
            raise CannotTune(f"no row for the input {spec} can be made up; add a golden.npz to the version")
        else:
            array = rng.random(shape).astype(DTYPES[spec.datatype])
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    serialised = message.SerializeToString()
    return b"\0" + len(serialised).to_bytes(4, "big") + serialised


def _measured(address: str, setting: Setting, body: bytes, job: Job) -> Trial:
    share_s = job.seconds / (len(sweep.FRACTIONS) + 2)
    with connected(address, MODEL_INFER, CONNECTIONS) as connections:
        capacity = openloop.saturate(connections, body, IN_FLIGHT, share_s)
    trial = Trial(setting, capacity, ())
    for number, fraction in enumerate(sweep.FRACTIONS):
        rate = max(fraction * capacity, 2 / share_s)
        point = _point(address, body, rate, share_s, number)
        if point.p99_ms > job.slo_ms:
            # What else the machine does makes latencies worse, never better.
            point = min(point, _point(address, body, rate, share_s, 100 + number), key=lambda each: each.p99_ms)
        trial = sweep.with_point(trial, point)
        if point.p99_ms > job.slo_ms:
            break
    half_way = sweep.between(trial.points, job.slo_ms)
    if half_way is not None:
        trial = sweep.with_point(trial, _point(address, body, half_way, share_s, len(trial.points)))
    return trial


def _point(address: str, body: bytes, rate: float, seconds: float, seed: int) -> Point:
    with connected(address, MODEL_INFER, CONNECTIONS) as connections:
        outcome = openloop.drive(
            connections, [body], openloop.poisson(rate, seconds, seed), lambda *_: None, drain_s=1.0
        )
    latency_ms = np.where(outcome.status == 0, outcome.latency_s * 1000, math.inf)
    if not len(latency_ms):
        return Point(rate, math.inf, math.inf, 0.0)
    # Percentiles that exist: between a number and infinity there is none.
    p50, p99 = np.percentile(latency_ms, [50, 99], method="higher")
    return Point(rate, float(p50), float(p99), float(np.nanpercentile(outcome.late_s, 99)) * 1000)


def _lines(
    trials: Sequence[Trial], slo_ms: float, best: Trial | None
) -> tuple[list[str], list[list[str]], tuple[str, ...]]:
    header = ["", "batch", "instances", "threads", "capacity/s", f"within {slo_ms:g} ms/s", "p50 ms", "p99 ms"]
    lines = []
    for trial in trials:
        kept, setting = trial.best(slo_ms), trial.setting
        shown = kept or trial.points[0]
        lines.append([
            "best" if trial is best else "",
            str(setting.max_batch_size or "-"),
            str(setting.instances),
            str(setting.threads or "-"),
            f"{trial.capacity:.0f}",
            f"{kept.rate:.0f}" if kept else "none",
            f"{shown.p50_ms:.2f}",
            f"{shown.p99_ms:.2f}",
        ])  # fmt: skip
    return header, lines, tuple(header[1:])


def _draw(trials: Sequence[Trial], best: Trial | None, job: Job, console: Console) -> None:
    try:
        # A second to import, and not needed to serve.
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        console.print("No picture: matplotlib is not installed (pip install 'frostline[tune]').", markup=False)
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for trial in trials:
        points = [point for point in trial.points if math.isfinite(point.p99_ms)]
        axes.plot(
            [point.rate for point in points],
            [point.p99_ms for point in points],
            marker="o",
            linewidth=3 if trial is best else 1,
            label=f"{trial.setting}{' (best)' if trial is best else ''}",
        )
    axes.axhline(job.slo_ms, color="black", linestyle="--", label=f"limit {job.slo_ms:g} ms")
    axes.set(xlabel="requests offered a second", ylabel="99th percentile of latency, ms", yscale="log", title=job.model)
    axes.legend(fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    job.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(job.picture)
    console.print(f"Picture: {job.picture}", markup=False, highlight=False, soft_wrap=True)


def _write(path: Path, before: str, after: str) -> None:
    """Replace the configuration in one step; the one before stays beside it, hidden from servers."""
    if before:
        path.with_name(f".{path.name}.before-tune").write_text(before, encoding="utf-8")
    new = path.with_name(f".{path.name}.new")
    new.write_text(after, encoding="utf-8")
    new.replace(path)
