"""Odd, linked and oversized files: what stands in a model's folder where a small regular file is expected.

Every function here makes a way: a callable that writes a hostile model into a folder that does not exist yet.
"""

import io
import json
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.conformance.broken import WIDTH, write_good

Build = Callable[[Path], None]
Put = Callable[[Path], None]

MODEL, CARD, GOLDEN = "1/model.onnx", "1/card.json", "1/golden.npz"
CONFIG, ROLLOUT, LABELS = "config.pbtxt", "rollout.json", "labels.txt"
_LABELLED = f'output {{ name: "logits" data_type: TYPE_FP32 dims: [ {WIDTH} ] label_filename: "%s" }}\n'
DEEP = 100_000
_BLOCK = bytes(1 << 20)


def with_file(where: str, put: Put) -> Build:
    """A good model but for one file.

    Args:
        where: its path inside the folder; for `LABELS` a config names it.
        put: makes it.
    """

    def build(folder: Path) -> None:
        write_good(folder, 0)
        file = folder / where
        file.unlink(missing_ok=True)
        if where == LABELS:
            (folder / CONFIG).write_text(_LABELLED % LABELS, encoding="utf-8")
        put(file)

    return build


def configured(text: str) -> Build:
    """A good model with this config.pbtxt."""
    return with_file(CONFIG, content(text.encode()))


def labelled(name: str) -> Build:
    """A good model whose config names this label file."""
    return configured(_LABELLED % name)


def content(data: bytes) -> Put:
    """A regular file of these bytes."""

    def put(file: Path) -> None:
        file.write_bytes(data)

    return put


def repeated(data: bytes, size: int) -> Put:
    """A regular file of these bytes, over and over, until it has this size."""

    def put(file: Path) -> None:
        file.write_bytes(data * (size // len(data)))

    return put


def link(target: str) -> Put:
    """A symbolic link."""

    def put(file: Path) -> None:
        file.symlink_to(target)

    return put


def fifo(file: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(file)


def folder(file: Path) -> None:
    """A folder."""
    file.mkdir()


def unix_socket(file: Path) -> None:
    """A Unix socket."""
    # A socket's path may have 107 bytes; by way of the open folder it is short.
    descriptor = os.open(file.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{descriptor}/{file.name}")
    finally:
        os.close(descriptor)


def unreadable(file: Path) -> None:
    """A file that nobody may read; for the superuser, who may, a link to nothing."""
    if os.geteuid():
        file.touch(mode=0)
    else:
        file.symlink_to("nothing")


def sparse(size: int) -> Put:
    """A file of zeros that takes no room on the disk."""

    def put(file: Path) -> None:
        file.touch()
        os.truncate(file, size)

    return put


def zip_bomb(file: Path) -> None:
    """A golden sample of 5 MB that unpacks to 1 GiB."""
    rows = (1 << 30) // (4 * WIDTH)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        with packed.open("input.npy", "w", force_zip64=True) as member:
            member.write(_npy_header(rows))
            for _ in range(1 << 10):
                member.write(_BLOCK)
        _put_arrays(packed)


def lying_header(file: Path) -> None:
    """A golden sample whose input says that it has 2^40 rows, and has none."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("input.npy", _npy_header(1 << 40))
        _put_arrays(packed)


class _Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        # Harmless, and visible: the server would end.
        return os.abort, ()


def pickled(file: Path) -> None:
    """A golden sample that ends whoever unpickles it."""
    logits: dict[str, Any] = {"logits": np.zeros((1, WIDTH), np.float32)}
    np.savez(file, input=np.array([_Pickled()], dtype=object), rtol=np.array(1.0), atol=np.array(1.0), **logits)


def _npy_header(rows: int) -> bytes:
    written = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (rows, WIDTH)}
    np.lib.format.write_array_header_1_0(written, described)
    return written.getvalue()


def _put_arrays(packed: zipfile.ZipFile) -> None:
    for name, array in (("logits", np.zeros((1, WIDTH), np.float32)), ("rtol", np.array(1.0)), ("atol", np.array(1.0))):
        written = io.BytesIO()
        np.lib.format.write_array(written, array)
        packed.writestr(f"{name}.npy", written.getvalue())


def in_version(name: str) -> Build:
    """A good version in a folder of this name, which is no sane number."""

    def build(folder: Path) -> None:
        write_good(folder, 0)
        (folder / "1").rename(folder / name)

    return build


def good(folder: Path) -> None:
    """A good version; what is hostile is the model's name."""
    write_good(folder, 0)


def looped(folder: Path) -> None:
    """A version that is a link to itself."""
    folder.mkdir()
    (folder / "1").symlink_to("1")


def everywhere(folder: Path) -> None:
    """A version that is a link to the root of the file system."""
    folder.mkdir()
    (folder / "1").symlink_to("/")


def itself(folder: Path) -> None:
    """A version that holds a link to its own model's folder, and so for ever."""
    write_good(folder, 0)
    (folder / "1/more").symlink_to("..")


def crowd(folder: Path) -> None:
    """1 000 versions without a file."""
    for number in range(1, 1001):
        (folder / str(number)).mkdir(parents=True)


def nested(opening: str) -> bytes:
    """JSON that goes 100 000 levels deep and does not come back."""
    return (opening * DEEP).encode()


def odd_labels(file: Path) -> None:
    """Labels with control characters, quotes and half of a surrogate pair."""
    labels = ["a\n} evil 1", "b\x00", 'c"', "d\\", "e\u202e", "f{}", "g\ud800", *map(str, range(WIDTH - 7))]
    file.write_text(json.dumps({"labels": labels}), encoding="utf-8")


def long_labels(file: Path) -> None:
    """A card of 25 MB that is nothing but labels."""
    file.write_text(json.dumps({"labels": ["x" * 100_000] * WIDTH}), encoding="utf-8")
