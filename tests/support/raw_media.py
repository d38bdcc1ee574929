"""Versions that take texts or pictures as they are, whose answers are known."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

Array = np.ndarray[Any, Any]

TEXT_BYTES = 8
TEXTS: Sequence[str] = (
    "great",
    "",
    " NA ",
    "a\x00b",
    "\N{FOX FACE}",
    "  spaced ",
    "abcdefgh",
    "abcdefghi",
    "abcdefg\N{FOX FACE}",
)
"""Plain ones, missing ones, a NUL, an emoji, spaces, one as long as counts, a longer one, one cut within a character."""


def text_bytes(texts: Sequence[str] = TEXTS, size: int = TEXT_BYTES) -> Array:
    """What training makes of texts, uint8 [N, `size`], written down anew."""
    rows = np.zeros((len(texts), size), np.uint8)
    for row, text in enumerate(texts):
        content = b"" if text.strip() in ("", "NA") else text.strip().encode()
        for at, byte in enumerate(content[:size]):
            rows[row, at] = byte
    return rows


def logits_of(rows: Array) -> Array:
    """What the network computes of rows [N, ...]: a sum of all numbers, each with a weight of its own."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    return (flat @ _weights(flat.shape[1]).astype(np.float64)).astype(np.float32)


def _weights(size: int) -> Array:
    return np.random.default_rng(0).uniform(-1 / size, 1 / size, (size, 2)).astype(np.float32)


def network(shape: Sequence[int], dtype: int) -> onnx.ModelProto:
    """Input `input` [batch, *shape] to logits [batch, 2]."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("Cast", ["flat"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["numbers", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", dtype, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(_weights(int(np.prod(shape))), "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def write_texts(root: Path, name: str = "mood", version: int = 1, card: Mapping[str, Any] | None = None) -> Path:
    """Write a version that takes texts, and return its folder; `card` takes the place of what the card says of the column."""
    column = {"name": "text", "kind": "text", "bytes": TEXT_BYTES, "share_missing": 0.1, **(card or {})}
    rows = {"missing": ["", "NA"], "columns": [column], "example": {"text": "great"}}
    raw = {"rows.text": np.array(TEXTS), "rows_logits": logits_of(text_bytes())}
    return write(root, name, version, network([TEXT_BYTES], TensorProto.UINT8), text_bytes()[:4], raw, rows)


SIZE = (6, 8)
"""Height and width of the network's pictures."""


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _colours(height: int = 6, width: int = 8) -> Array:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture_files() -> dict[str, tuple[bytes, Array]]:
    """Files by what they are, each with its pixels [6, 8, 3] as a viewer shows them, worked out without the decoder."""
    colours = _colours()
    grey = colours[:, :, 0]
    turned = Image.Exif()
    turned[0x0112] = 6  # its first row of pixels is the right side of what is seen
    half = np.dstack([colours, np.where(grey > 127, 255, 0).astype(np.uint8)])
    on_white = np.where(grey[:, :, None] > 127, colours, 255)
    lossy = saved(Image.fromarray(_colours(6, 8)), "JPEG", quality=95)
    with Image.open(io.BytesIO(lossy)) as image:
        lossy_pixels = np.asarray(image)
    return {
        "png": (saved(Image.fromarray(colours), "PNG"), colours),
        "webp": (saved(Image.fromarray(colours), "WEBP", lossless=True), colours),
        "jpeg": (lossy, lossy_pixels),
        "exif": (saved(Image.fromarray(np.rot90(colours).copy()), "PNG", exif=turned), colours),
        "transparent": (saved(Image.fromarray(half), "PNG"), on_white),
        "16-bit": (
            saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
            np.repeat(grey[:, :, None], 3, axis=2),
        ),
        "palette": (
            saved(Image.fromarray(colours).quantize(4), "PNG"),
            np.asarray(Image.fromarray(colours).quantize(4).convert("RGB")),
        ),
    }


def pixels_of(pictures: Sequence[Array]) -> Array:
    """The network's input, float32 [N, 3, 6, 8]."""
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32)


def write_pictures(root: Path, name: str = "fruit", version: int = 1, card: Mapping[str, Any] | None = None) -> Path:
    """Write a version that takes pictures; as `write_texts`."""
    column = {"name": "image", "kind": "image", "size": list(SIZE), "color": "rgb", "fit": "stretch", **(card or {})}
    files, pictures = zip(*picture_files().values(), strict=True)
    pixels = pixels_of(pictures)
    raw = {
        "rows.image": np.frombuffer(b"".join(files), np.uint8),
        "rows.image.lengths": np.array([len(file) for file in files], np.int64),
        "rows_logits": logits_of(pixels),
    }
    return write(root, name, version, network([3, *SIZE], TensorProto.FLOAT), pixels[:4], raw, {"columns": [column]})


def write(
    root: Path,
    name: str,
    version: int,
    model: onnx.ModelProto,
    inputs: Array,
    raw: Mapping[str, Any],
    rows: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write models/<name>/<version>/ as a training job publishes it, with further `files`; return that folder."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    tolerances: dict[str, Any] = {"rtol": np.float64(1e-4), "atol": np.float64(1e-4)}
    np.savez(folder / "golden.npz", input=inputs, logits=logits_of(inputs), **tolerances, **raw)
    for file, further in (files or {}).items():
        (folder / file).write_bytes(further)
    about = {
        "name": name,
        "files": {file: hashlib.sha256(further).hexdigest() for file, further in (files or {}).items()},
        "version": version,
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels": ["no", "yes"],
        "task": "single-label",
        "rows": rows,
    }
    (folder / "card.json").write_text(json.dumps(about), encoding="utf-8")
    return folder
