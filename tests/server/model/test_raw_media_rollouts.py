"""Texts and pictures while versions whose preprocessing differs take turns: every answer is that of the version it names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from tests.support import calls, raw_media
from tests.support.raw_media import logits_of, saved
from tests.support.rollouts import check_rollout, settled
from tests.support.servers import TIMEOUT_S, running

Array = np.ndarray[Any, Any]

TEXTS = ["great film", "a great play", "film of a play", "dull", "great great great great great", "\N{FOX FACE} a", ""]


@dataclass(frozen=True)
class Case:
    """Two versions of a model.

    Attributes:
        cells: raw rows.
        write: writes a version, by its number, and returns the network's own input for the cells.
    """

    cells: Sequence[Any]
    write: Callable[[Path, int], Array]


def _write(
    root: Path, version: int, column: dict[str, Any], numbers: Array, golden: dict[str, Any], **files: bytes
) -> Array:
    dtype = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}[str(numbers.dtype)]
    network = raw_media.network(numbers.shape[1:], dtype)
    named = {name.replace("_", "."): content for name, content in files.items()}
    rows = {"columns": [{"name": "cell", **column}], **({"file": "tokenizer.json"} if files else {})}
    raw = {**golden, "rows_logits": logits_of(numbers)}
    raw_media.write(root, "model", version, network, numbers[:4], raw, rows, named)
    return numbers


def _bytes(root: Path, version: int) -> Array:
    size = (8, 5)[version - 1]
    numbers = raw_media.text_bytes(TEXTS, size)
    return _write(root, version, {"kind": "text", "bytes": size}, numbers, {"rows.cell": np.array(TEXTS)})


def _numbered(words: list[str], length: int) -> Array:
    rows = np.zeros((len(TEXTS), length), np.int64)
    for row, text in enumerate(TEXTS):
        for at, word in enumerate(text.split()[:length]):
            rows[row, at] = words.index(word) + 2 if word in words else 1
    return rows


VOCABULARIES = ["great", "film", "dull", "a"], ["a", "play", "great"]


def _words(root: Path, version: int) -> Array:
    words, length = list(VOCABULARIES[version - 1]), (4, 6)[version - 1]
    column = {"kind": "text", "length": length, "vocabulary": words, "split": "spaces"}
    return _write(root, version, column, _numbered(words, length), {"rows.cell": np.array(TEXTS)})


def _same_length(root: Path, version: int) -> Array:
    words = list(VOCABULARIES[version - 1])
    column = {"kind": "text", "length": 4, "vocabulary": words, "split": "spaces"}
    return _write(root, version, column, _numbered(words, 4), {"rows.cell": np.array(TEXTS)})


def _tokens(root: Path, version: int) -> Array:
    words, length = list(VOCABULARIES[version - 1]), 5
    known = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=0, pad_token="[PAD]")
    column = {"kind": "text", "length": length}
    golden = {"rows.cell": np.array(TEXTS)}
    return _write(root, version, column, _numbered(words, length), golden, tokenizer_json=tokenizer.to_str().encode())


PICTURES = [
    np.random.default_rng(at).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for at, (height, width) in enumerate([(6, 8), (12, 9), (30, 40), (5, 5)])
]
FILES = [saved(Image.fromarray(picture), "PNG") for picture in PICTURES]


def _pictures(root: Path, version: int) -> Array:
    height, width = ((6, 8), (9, 5))[version - 1]
    shown = [Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC) for picture in PICTURES]
    numbers = np.stack([np.asarray(image) for image in shown]).transpose(0, 3, 1, 2).astype(np.float32)
    column = {"kind": "image", "size": [height, width], "fit": "stretch"}
    golden = {
        "rows.cell": np.frombuffer(b"".join(FILES), np.uint8),
        "rows.cell.lengths": np.array([len(file) for file in FILES], np.int64),
    }
    return _write(root, version, column, numbers, golden)


CASES = {
    "bytes of another length": Case(TEXTS, _bytes),
    "words of another vocabulary and length": Case(TEXTS, _words),
    "words of another vocabulary": Case(TEXTS, _same_length),
    "tokens of another tokenizer": Case(TEXTS, _tokens),
    "pictures of another size": Case(FILES, _pictures),
}


def _column(cells: Sequence[Any]) -> dict[str, Array]:
    array = np.empty(len(cells), object)
    array[:] = cells
    return {"cell": array}


@pytest.mark.parametrize("name", CASES)
def test_every_answer_is_that_of_the_version_that_it_names(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    expected = {str(version): logits_of(case.write(tmp_path, version)) for version in (1, 2)}
    assert np.abs(expected["1"] - expected["2"]).max() > 0.1
    rollouts.write(tmp_path / "model", Rollout({"stable": 1}))
    check_rollout(tmp_path, "model", lambda at: _column([case.cells[at]]), expected, rtol=1e-4)


def test_pixels_are_answered_by_the_version_that_an_answer_names(tmp_path: Path) -> None:
    expected = {str(version): logits_of(_pictures(tmp_path, version)) for version in (1, 2)}
    rollouts.write(tmp_path / "model", Rollout({"stable": 1}))
    check_rollout(tmp_path, "model", lambda at: {"cell": PICTURES[at][None]}, expected, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_shadow_encodes_for_itself_and_sees_no_numbers_of_another_encoding(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    numbers = [case.write(tmp_path, version) for version in (1, 2)]
    ours, theirs = map(logits_of, numbers)
    rollouts.write(tmp_path / "model", Rollout({"stable": 1}, shadow=2))
    with running(tmp_path, log_level="error") as server, grpc.insecure_channel(server.address) as channel:
        for arrays in (_column(case.cells), {"input": numbers[0][:3]}):
            request = calls.infer_request("model", arrays, ["logits"])
            calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
        ((_, _, _, counts),) = settled(server, rows=len(case.cells))
    assert (counts.rows, counts.dropped, counts.failed) == (len(case.cells), 3, 0)
    assert counts.disagreements == int((ours.argmax(axis=1) != theirs.argmax(axis=1)).sum())
    assert counts.difference.total == pytest.approx(float(np.abs(ours - theirs).max(axis=1).sum()), rel=1e-4)
