"""Models that take raw rows, published as a user publishes them, and requests to them whose answers are known."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from bench.load.workload import Questions
from frostline import Category, Date, Image, Number, encode, publish
from frostline.pb import inference_pb2 as pb
from frostline.protocol import pack_bytes
from frostline_training.data.raw import Input

Array = np.ndarray[Any, Any]

TABLE, PICTURES = "table", "pictures"
SIDE = 224
"""Of a picture, in pixels."""

_NUMBERS, _CATEGORIES, _WORDS = 5, 4, 20
_REQUESTS = 16
_FIRST_DAY = datetime(2010, 1, 1, tzinfo=UTC)
_DAYS = 5000


@dataclass(frozen=True)
class Asking:
    """Requests with the same rows: as their users have them, and as the network's own input.

    Attributes:
        raw: one tensor a column.
        encoded: one tensor `input`.
    """

    raw: Questions
    encoded: Questions


class _Linear(nn.Module):
    """Two logits of a row, each a sum of its numbers, of which a missing one counts as 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(width, 2)

    def forward(self, rows: Tensor) -> Tensor:
        scaled = torch.nan_to_num(rows, posinf=0.0, neginf=0.0) / 1000  # years are numbers of thousands
        return cast("Tensor", self.weigh(scaled))


class _FewPixels(nn.Module):
    """Ten logits of a picture [N, 3, SIDE, SIDE], of one pixel in a thousand: the network takes almost no time."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(3 * (SIDE // 32) ** 2, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return cast("Tensor", self.weigh(pixels[:, :, ::32, ::32].flatten(1)))


def table(folder: Path) -> dict[int, Asking]:
    """Publish a network for a table of five numbers, four categories and a date, into a folder of models.

    Returns:
        Requests to it, by how many rows each has.
    """
    inputs: list[Input] = [
        *(Number(f"number{at}") for at in range(_NUMBERS)),
        *(Category(f"category{at}", _words(at)) for at in range(_CATEGORIES)),
        Date("date", ("year", "month", "weekday")),
    ]
    torch.manual_seed(0)
    train = _rows(512)
    network = _Linear(_NUMBERS + _CATEGORIES + 3).eval()
    publish(network, train, name=TABLE, inputs=inputs, models=folder, task="single-label", probabilities=False)
    asked: dict[int, Asking] = {}
    for size in (1, 64):
        requests = [_rows(size, seed) for seed in range(1, _REQUESTS + 1)]
        numbers = [encode(rows, inputs) for rows in requests]
        with torch.no_grad():
            logits = np.stack([network(torch.from_numpy(each)).numpy() for each in numbers])
        raw = tuple(
            _message(TABLE, {name: np.array(cells)[:, None] for name, cells in rows.items()}) for rows in requests
        )
        encoded = tuple(_message(TABLE, {"input": each}) for each in numbers)
        asked[size] = Asking(Questions(raw, logits), Questions(encoded, logits))
    return asked


def pictures(folder: Path) -> tuple[Questions, list[bytes]]:
    """Publish a network for pictures that computes almost nothing, into a folder of models.

    Returns:
        Requests of one JPEG file each, and the files.
    """
    inputs = [Image("picture", (SIDE, SIDE))]
    torch.manual_seed(0)
    network = _FewPixels().eval()
    files = [_jpeg(seed) for seed in range(_REQUESTS)]
    publish(
        network, files, name=PICTURES, inputs=inputs, models=folder, task="single-label", probabilities=False, atol=1e-3
    )
    with torch.no_grad():
        logits = np.stack([network(torch.from_numpy(encode([file], inputs))).numpy() for file in files])
    messages = tuple(_message(PICTURES, {"picture": np.array([file], object)}) for file in files)
    return Questions(messages, logits), files


def _words(column: int) -> list[str]:
    """The categories of a column, of 5 to 14 characters."""
    return [f"word{'-' * (at % 10)}{column}{at:02d}"[: 5 + at % 10 + 2] for at in range(_WORDS)]


def _rows(count: int, seed: int = 0) -> dict[str, list[Any]]:
    random = np.random.default_rng(seed)
    days = [_FIRST_DAY + timedelta(days=int(day)) for day in random.integers(0, _DAYS, count)]
    return {
        **{f"number{at}": random.normal(size=count).tolist() for at in range(_NUMBERS)},
        **{f"category{at}": random.choice(_words(at), count).tolist() for at in range(_CATEGORIES)},
        "date": [f"{day:%Y-%m-%d}" for day in days],
    }


def _jpeg(seed: int) -> bytes:
    """A picture with the detail of a photograph: smooth shapes, and some noise."""
    random = np.random.default_rng(seed)
    coarse = Pillow.fromarray(random.integers(0, 256, (14, 14, 3), np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Pillow.Resampling.BICUBIC)).astype(np.float64)
    noisy = (smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def _message(model: str, columns: dict[str, Array]) -> bytes:
    request = pb.ModelInferRequest(model_name=model, outputs=[{"name": "logits"}])
    for name, cells in columns.items():
        text = cells.dtype.kind in "UO"
        datatype = "BYTES" if text else {"f4": "FP32", "f8": "FP64"}[cells.dtype.str[1:]]
        request.inputs.add(name=name, datatype=datatype, shape=cells.shape)
        request.raw_input_contents.append(pack_bytes(cells.ravel().tolist()) if text else cells.tobytes())
    return request.SerializeToString()
