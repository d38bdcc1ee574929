"""Targets of the models folder: the files that a publisher puts there."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.fuzz.oracle import Found
from bench.fuzz.readers.mutators import archive, text
from bench.fuzz.readers.target import Check, Target
from frostline.pb import model_config_pb2
from frostline_server.codec.typed_answers import Task, TypedAnswers
from frostline_server.errors import ConfigError, LoadError
from frostline_server.model.artifact import check_artifact, read_card, read_labels, whole
from frostline_server.model_config.pbtxt import label_file
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout, rollout_steps
from frostline_server.repository.routes import routes as routes_of
from frostline_server.repository.routes import wanted
from frostline_server.runtime.dtypes import DTYPES
from frostline_server.runtime.golden import compare, compare_classes, read_golden
from frostline_server.runtime.graph.heads import Heads
from frostline_server.runtime.signature import Signature, TensorSpec

_HEADS = Heads("logits", "softmax", "argmax", "confidence")
_NOTHING = model_config_pb2.ModelConfig()
_NETWORK, _WEIGHTS = b"no network", b"weights"
_JSON: tuple[bytes, ...] = (
    *(b"[", b"{", b'{"a":', b"[[", b"}", b"]", b",", b":", b'"', b"null", b"true", b"1e999", b"-1", b"1.5", b"NaN"),
    *(b"Infinity", b'"\\ud800"', b'"\\u0000"', b"\xff", b"0"),
)


def _card(folder: Path) -> Check:
    version = folder / "1"
    version.mkdir()
    (version / "model.onnx").write_bytes(_NETWORK)
    (version / "weights.bin").write_bytes(_WEIGHTS)
    (version / "golden.npz").write_bytes(_npz())
    path, files = version / "card.json", FileReader(folder)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            card = read_card(files, path)
        except LoadError:
            return
        if "sha256" in card:
            whole(version, _NOTHING, files)
        try:
            _use_labels(read_labels(card, {}, None))
            artifact = check_artifact(version, _NOTHING, files)
            artifact.check_weights(["weights.bin"], lambda _: None)
            artifact.weights("weights.bin")
        except LoadError:
            pass
        if repr(card) != repr(json.loads(data)):
            raise Found("the card is not what the file says", data)

    return check


def _metadata(_: Path) -> Check:
    def check(data: bytes) -> None:
        # What protobuf gives out is text.
        metadata = {"frostline.labels": data.decode(errors="replace")}
        for card, classes in (({}, None), ({}, 3), ({"labels": ["ant", "bee", "cat"]}, 3)):
            try:
                _use_labels(read_labels(card, metadata, classes))
            except LoadError:
                continue

    return check


def _use_labels(labels: Sequence[str] | None) -> None:
    """What becomes of labels at load."""
    TypedAnswers("m", "1", _HEADS, labels, {"logits": "logits"}, Task("single-label"))


def _label_file(folder: Path) -> Check:
    (folder / "labels.txt").write_bytes(b"\n")
    names, files = {path.name for path in folder.iterdir()}, FileReader(folder)

    def check(data: bytes) -> None:
        name, found, content = data.partition(b"\xff")
        file = name.decode(errors="replace") if found else "labels.txt"
        content = content if found else data
        (folder / "labels.txt").write_bytes(content)
        try:
            labels = label_file(files, folder, file)
        except LoadError:
            return
        if Path(file).name not in names:
            raise Found(f"labels came from {file!r}", data)
        lines = [line.strip() for line in content.decode("utf-8-sig").split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        if list(labels) != lines:
            raise Found(f"a label is not a line: {labels}", data)
        _use_labels(labels)

    return check


def _rollout(folder: Path) -> Check:
    path, files = folder / rollout.FILE, FileReader(folder)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read = rollout.read(folder, files)
        except ConfigError:
            return
        if read is None or rollout.parse(rollout.to_text(read)) != read:
            raise Found("a rollout does not survive being written and read", data)
        for ready in ((), (1,), (1, 2, 3), tuple(wanted(read))):
            _check_routes(read, ready, data)
        _step(read)

    return check


def _check_routes(read: rollout.Rollout, ready: Sequence[int], data: bytes) -> None:
    routes = routes_of(read, ready)
    shares = routes.shares()
    if ready and (abs(sum(shares.values()) - 1) > 1e-6 or not all(share > 0 for share in shares.values())):
        raise Found(f"the shares are {shares}", data)
    answering = {routes.choose(draw) for draw in (0.0, 0.25, 0.5, 0.999999)} | set(routes.labels.values())
    if not answering - {None} <= set(ready) or (ready and None in answering):
        raise Found(f"{answering} would answer, of {ready}", data)


def _step(read: rollout.Rollout) -> None:
    steps: Sequence[Callable[[], rollout.Rollout]] = (
        lambda: rollout_steps.promote(read, 2),
        lambda: rollout_steps.with_canary(read, 2, 5.0),
        lambda: rollout_steps.with_shadow(read, 2),
        lambda: rollout_steps.rollback(read, {1, 2}),
    )
    for step in steps:
        try:
            rollout.parse(rollout.to_text(step()))
        except ConfigError:
            continue


def _spec(name: str, datatype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, datatype, DTYPES[datatype], shape)


_SIGNATURE = Signature(
    (_spec("input", "FP32", 4),),
    (_spec("logits", "FP32", 3), _spec("argmax", "INT64")),
    ("logits",),
    batched=True,
    heads=_HEADS,
)


def _golden(folder: Path) -> Check:
    path, files = folder / "golden.npz", FileReader(folder)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            golden = read_golden(path, _SIGNATURE, files)
        except LoadError:
            return
        rows = len(golden.logits)
        # As the server does with what its network answers; one may have no logits to compare, and one no classes.
        with contextlib.suppress(LoadError):
            compare_classes(np.zeros(rows, np.int64), golden.logits, golden, 0, rows)
        try:
            compare(np.zeros((rows, 3), np.float32), golden.logits, golden, 0, rows)
        except LoadError:
            return
        for name, expected in golden.further.items():
            with contextlib.suppress(LoadError):
                compare(np.zeros((rows, 3), np.float32), expected, golden, 0, rows, name)
        if golden.logits.shape != (rows, 3) or not rows or len(golden.inputs["input"]) != rows:
            raise Found(f"a golden sample passed whose logits have shape {golden.logits.shape}", data)

    return check


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    usual: Mapping[str, Any] = {
        "input": np.zeros((2, 4), np.float32),
        "logits": np.array([[1, 0, 0], [2, 1, 0]], np.float64) * 0,
        "rtol": np.float64(1e-4),
        "atol": np.float64(1e-5),
    }
    np.savez(file, **{**usual, **arrays})
    return file.getvalue()


TARGETS = (
    Target(
        "card",
        "card.json, and the files and labels it names",
        _card,
        (
            json.dumps(
                {
                    "labels": ["ant", "größe"],
                    "sha256": hashlib.sha256(_NETWORK).hexdigest(),
                    "files": {"weights.bin": hashlib.sha256(_WEIGHTS).hexdigest()},
                }
            ).encode(),
            b'{"name": "m", "scores": {"accuracy": 0.97}, "created": "2026-01-01"}',
            b'{"labels": null, "files": []}',
        ),
        text(*_JSON, b'"labels"', b'"sha256"', b'"files"', b'"weights.bin"', b'{"files":{"weights.bin":1}}'),
    ),
    Target(
        "metadata",
        "frostline.labels in an ONNX file",
        _metadata,
        (b'["ant", "bee", "cat"]', b"[]", b"null", b'{"a": 1}'),
        text(*_JSON, b'"ant"'),
    ),
    Target(
        "labels",
        "a label file, and its name",
        _label_file,
        (
            b"ant\nbee\ncat\n",
            b"ant\r\nbee\r\n\r\n",
            b"labels.txt\xffa\n\nb",
            b"../labels.txt\xffa",
            "größe\u2028x\n".encode(),
        ),
        text(b"\n", b"\r", b"\xff", b"..", b"/", b"\0", b"labels.txt\xff", b"\xe2\x80\xa8", b"\xc2\x85", b"\x1c", b" "),
    ),
    Target(
        "rollout",
        "rollout.json, and the routes it makes",
        _rollout,
        (
            b'{"labels": {"stable": 1, "canary": 2}, "split": {"canary": 12.5}, "previous": [3, 4]}',
            b'{"labels": {"stable": 3}, "shadow": 2}',
            b"{}",
        ),
        text(*_JSON, b'"labels"', b'"stable"', b'"canary"', b'"split"', b'"shadow"', b'"previous"', b"100", b"1e-12"),
    ),
    Target(
        "golden",
        "golden.npz",
        _golden,
        (
            _npz(),
            _npz(logits=np.zeros(2)),
            _npz(logits=np.zeros((2, 3, 2), np.float16), rtol=np.int8(0)),
            _npz(input=np.array(["a", "b"]), atol=np.array([1.0])),
        ),
        archive,
    ),
)
