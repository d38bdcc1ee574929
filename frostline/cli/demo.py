"""The `frostline demo` command: train, publish, serve and predict on real data, and show the metrics."""

import asyncio
import contextlib
import os
import time
import urllib.request
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from rich.text import Text

from frostline import server_process
from frostline.client.connection import connect_async
from frostline.tables import table
from frostline_training import data, pipeline
from frostline_training.config import find_recipe
from frostline_training.data import Rows

RECIPE = "digits"
LEAST_ACCURACY = 0.98
# How many pictures are drawn. At most half of them are pictures with a wrong answer, and these come first.
DRAWN = 4
# How often a demo that stays looks at its server, in seconds.
_LOOK_S = 0.3

Labels = tuple[tuple[str, str], ...]
Series = dict[tuple[str, Labels], float]


class DemoFailed(Exception):
    """A step of the demo failed. The message says which one."""


def run(*, models: Path, device: str, seed: int | None, console: Console, stay: bool = False) -> None:
    """Trains, publishes and serves a model of handwritten digits, and shows every step.

    Args:
        models: The folder to publish into and to serve.
        device: Where to train and serve: `auto`, `cpu`, `cuda` or `cuda:N`.
        seed: The seed of the training; None for the recipe's seed.
        console: Where to print.
        stay: Whether to go on serving until Ctrl-C.

    Raises:
        DemoFailed: A step failed, or too few answers are right.
        frostline_training.errors.TrainingError: Training or publishing failed.
    """
    _head("1  Train, freeze, verify, publish", console)
    recipe = find_recipe(RECIPE)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    published = pipeline.run(recipe, models=models, device=device, console=console)
    # The same split again, because nothing random but its own seed decides it. Training never used these rows.
    held_out = data.prepare(recipe).test

    _head("2  Serve: a real server on a real port", console)
    flags = ["--models", str(models), "--device", device, "--require", RECIPE, "--http"]
    try:
        with server_process.serve(flags, lambda event: _show_event(event, console), settings=False) as served:
            before = _scrape(served.metrics)
            _head(f"3  Predict {len(held_out.targets)} held-out pictures, one request each, all at once", console)
            predicted, confidence = asyncio.run(_predict(served.address, data.named(held_out.inputs)["input"]))
            _show_answers(held_out, predicted, confidence, console)
            _head("4  The metrics of the server, before and after the requests", console)
            _show_metrics(before, _scrape(served.metrics), console)
            if stay:
                _stay(served, console)
            _head("5  Stop: SIGTERM", console)
    except server_process.ServerFailed as error:
        raise DemoFailed(str(error)) from error
    console.print("The server ended with code 0.\n")
    accuracy = float(np.mean(predicted == held_out.targets))
    if accuracy < LEAST_ACCURACY:
        raise DemoFailed(f"only {accuracy:.2%} of the held-out pictures were right, less than {LEAST_ACCURACY:.0%}")
    _show_next_steps(models, published.path, console)


async def _predict(address: str, pictures: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    async with connect_async(address) as client:
        answers = await asyncio.gather(
            *(client.predict(RECIPE, picture[np.newaxis], outputs=["softmax", "argmax"]) for picture in pictures)
        )
    predicted = np.concatenate([answer.argmax for answer in answers])
    return predicted, np.concatenate([answer.softmax.max(axis=1) for answer in answers])


def _stay(served: server_process.Served, console: Console) -> None:
    """Wait for Ctrl-C, or for the end of the server."""
    with contextlib.suppress(KeyboardInterrupt):
        console.print(f"\n[bold]Try it in a browser:[/] {served.ready['http']}/", highlight=False, soft_wrap=True)
        console.print(f"gRPC: {served.address}. Ctrl-C stops the server.", highlight=False, soft_wrap=True)
        # Not one call that waits for ever: a signal just before it would be seen only after it.
        while os.waitid(os.P_PID, served.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(_LOOK_S)


def _head(title: str, console: Console) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left")


def _show_event(event: server_process.Event, console: Console) -> None:
    fields = {name: value for name, value in event.items() if name not in ("event", "level", "timestamp")}
    line = Text(str(event.get("event", "")), style="bold")
    for name, value in fields.items():
        line.append(f"  {name}={value}", style="dim")
    console.print(line, soft_wrap=True)


def _show_answers(
    held_out: Rows, predicted: NDArray[np.int64], confidence: NDArray[np.float32], console: Console
) -> None:
    wrong = np.flatnonzero(predicted != held_out.targets)[: DRAWN // 2]
    chosen = [*wrong, *np.flatnonzero(predicted == held_out.targets)[: DRAWN - len(wrong)]]
    drawings = Table.grid(padding=(0, 3))
    drawings.add_row(*(_draw(held_out.inputs[i][0], console) for i in chosen))
    drawings.add_row(
        *(
            Text(f"it is {held_out.targets[i]}\nanswer {predicted[i]}\n{confidence[i]:.1%}", style="red" * (i in wrong))
            for i in chosen
        )
    )
    console.print(drawings)
    right = int(np.sum(predicted == held_out.targets))
    console.print(f"\n[bold]{right / len(predicted):.2%}[/] right: {right} of {len(predicted)} held-out pictures")


# A character is twice as high as it is wide, so each pixel is drawn as two characters.
def _draw(picture: NDArray[np.float32], console: Console) -> Text:
    shades = np.array(list(" ░▒▓█" if console.encoding.lower().startswith("utf") else " .:+#"))
    levels = (picture / picture.max() * (len(shades) - 1)).round().astype(int)
    return Text("\n".join("".join(np.repeat(row, 2)) for row in shades[levels]), no_wrap=True)


def _scrape(address: str) -> Series:
    # The server is on this machine, so a proxy from the environment must not be used.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _show_metrics(before: Series, after: Series, console: Console) -> None:
    moved = [
        (name, labels)
        for name, labels in after
        if name.startswith("frostline_")
        and not name.endswith(("_bucket", "_created"))
        and after[name, labels] != before.get((name, labels), 0.0)
    ]
    lines = [
        [
            name,
            ", ".join(f"{key}={value}" for key, value in labels if key not in ("model", "version")),
            f"{before.get((name, labels), 0.0):.6g}",
            f"{after[name, labels]:.6g}",
        ]
        for name, labels in moved
    ]
    console.print(table(["metric", "labels", "before", "after"], lines, numbers=("before", "after")))
    requests, runs = (
        sum(after[key] - before.get(key, 0.0) for key in moved if key[0] == name)
        for name in ("frostline_requests_total", "frostline_run_seconds_count")
    )
    console.print(f"\n[bold]{requests:.0f}[/] requests became [bold]{runs:.0f}[/] runs of the network")


def _show_next_steps(models: Path, version: Path, console: Console) -> None:
    console.print("[bold]Next:[/]")
    console.print(f"  frostline serve --models {models}", highlight=False, soft_wrap=True)
    console.print("  frostline open: the page of that server, http://127.0.0.1:8000/", highlight=False)
    console.print(f"  frostline predict {RECIPE} {version}/golden.npz", highlight=False, soft_wrap=True)
    console.print("  frostline train --list", highlight=False)
    console.print("  docs/clients.md: calls from Python, tritonclient, Node and other languages", highlight=False)
