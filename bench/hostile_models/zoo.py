"""The zoo: every hostile model by its name, with its kind and what must not happen to it."""

import itertools
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.conformance import broken
from bench.hostile_models import files, graphs
from bench.hostile_models.files import CARD, CONFIG, GOLDEN, LABELS, MODEL, ROLLOUT, Build, with_file
from bench.hostile_models.graphs import later

PASSWORDS = "/etc/passwd"
_LARGE = 50_000_000


@dataclass(frozen=True)
class Way:
    """One hostile model.

    Attributes:
        kind: of hostility, as docs/security.md lists them.
        build: writes it into a folder that does not exist yet.
        refused: whether it must never become READY; False where serving it harms nobody, or shows only when it runs.
        asks: elements of a request whose run must be cut off or refused if the model becomes READY; None for none.
        folder: its folder's name, where that is what is hostile.
    """

    kind: str
    build: Build
    refused: bool = True
    asks: float | None = None
    folder: bytes = b""


def _odd(where: str, put: files.Put) -> Way:
    return Way("odd file", with_file(where, put))


def _link(build: Build) -> Way:
    return Way("link", build)


def _size(build: Build, *, refused: bool = True) -> Way:
    return Way("size", build, refused)


def _graph(build: Build, *, refused: bool = True) -> Way:
    return Way("graph", build, refused)


def _kernel(build: Build) -> Way:
    return Way("kernel", build, refused=False, asks=0.0)


def _run(build: Build, asks: float | None = None, *, refused: bool = False) -> Way:
    return Way("run", build, refused, asks)


def _data(build: Build) -> Way:
    return Way("external data", build)


def _name(folder: bytes, *, refused: bool = True) -> Way:
    return Way("name", files.good, refused, folder=folder)


def _demand(build: Build) -> Way:
    return Way("demand", build, refused=False)


def _configured(text: str) -> Way:
    return _demand(files.configured(text))


def _broken(name: str) -> Way:
    return Way("broken file", broken.WAYS[name])


ZOO: Mapping[str, Way] = {
    "fifo-card": _odd(CARD, files.fifo),
    "fifo-model": _odd(MODEL, files.fifo),
    "fifo-golden": _odd(GOLDEN, files.fifo),
    "fifo-config": _odd(CONFIG, files.fifo),
    "fifo-rollout": Way("odd file", with_file(ROLLOUT, files.fifo), refused=False),
    "fifo-labels": _odd(LABELS, files.fifo),
    "socket-card": _odd(CARD, files.unix_socket),
    "socket-model": _odd(MODEL, files.unix_socket),
    "device-card": _odd(CARD, files.link("/dev/zero")),
    "device-model": _odd(MODEL, files.link("/dev/zero")),
    "device-golden": _odd(GOLDEN, files.link("/dev/urandom")),
    "device-labels": _odd(LABELS, files.link("/dev/zero")),
    "folder-card": _odd(CARD, files.folder),
    "unreadable-model": _odd(MODEL, files.unreadable),
    "link-labels": _link(with_file(LABELS, files.link(PASSWORDS))),
    "link-labels-up": _link(files.labelled("../../../../../../../../../etc/passwd")),
    "link-labels-absolute": _link(files.labelled(PASSWORDS)),
    "link-card": _link(with_file(CARD, files.link(PASSWORDS))),
    "link-config": _link(with_file(CONFIG, files.link(PASSWORDS))),
    "link-rollout": Way("link", with_file(ROLLOUT, files.link(PASSWORDS)), refused=False),
    "link-loop": _link(files.looped),
    "link-root": _link(files.everywhere),
    "link-itself": Way("link", files.itself, refused=False),
    "size-card-lists": _size(with_file(CARD, files.content(files.nested("[")))),
    "size-card-objects": _size(with_file(CARD, files.content(files.nested('{"a":')))),
    "size-card-zeros": _size(with_file(CARD, files.sparse(4 << 30))),
    "size-config-comment": _size(with_file(CONFIG, files.repeated(b"#", _LARGE))),
    "size-config-fields": _size(with_file(CONFIG, files.repeated(b"zzz: 1\n", _LARGE))),
    "size-config-deep": _size(files.configured("zzz { " * files.DEEP + "}" * files.DEEP)),
    "size-rollout": _size(with_file(ROLLOUT, files.content(files.nested('{"labels":'))), refused=False),
    "size-labels": _size(with_file(LABELS, files.repeated(b"label\n", _LARGE))),
    "size-golden-bomb": _size(with_file(GOLDEN, files.zip_bomb)),
    "size-golden-header": _size(with_file(GOLDEN, files.lying_header)),
    "size-golden-pickle": _size(with_file(GOLDEN, files.pickled)),
    "size-model": _size(with_file(MODEL, files.sparse(20 << 30))),
    "size-versions": _size(files.crowd),
    "graph-functions": _graph(later(graphs.nested_functions)),
    "graph-fold-12-gib": _graph(later(graphs.folded, 12)),
    "graph-fold-range": _graph(later(graphs.folded_range, 4_000_000_000)),
    "graph-fold-doubled": _graph(later(graphs.doubled, 33)),
    "graph-fold-products": _graph(later(graphs.multiplied, 6000, 200)),
    "graph-wide": _graph(later(graphs.wide, 50_000_000), refused=False),
    "graph-squared": _graph(later(graphs.squared, 500_000_000)),
    "graph-chain": _graph(later(graphs.chain, 200_000), refused=False),
    "graph-deep": _graph(later(graphs.deep, 25), refused=False),
    "graph-declared": _graph(later(graphs.declared, 4, 2**31)),
    "graph-negative": _graph(later(graphs.declared, -5, 2**62)),
    "kernel-lstm": _kernel(later(graphs.recurrent, "LSTM", 4, 4)),
    "kernel-gru": _kernel(later(graphs.recurrent, "GRU", 3, 4)),
    "kernel-rnn-empty": _kernel(later(graphs.recurrent, "RNN", 1, 0)),
    "kernel-stft": _kernel(later(graphs.short_time_fourier, 0)),
    "kernel-stft-back": _kernel(later(graphs.short_time_fourier, -1)),
    "kernel-divide": _kernel(later(graphs.divided, "Div", 0)),
    "kernel-divide-least": _kernel(later(graphs.divided, "Div", -1)),
    "kernel-modulo": _kernel(later(graphs.divided, "Mod", 0)),
    "kernel-pool": _kernel(later(graphs.pooled, kernel_shape=[2, 2], strides=[0, 0])),
    "kernel-resize": _kernel(later(graphs.resized, 1e6)),
    "run-endless": _run(later(graphs.endless), refused=True),
    "run-counted": _run(later(graphs.counted, 2**62), refused=True),
    "run-nested": _run(later(graphs.loops_in_loops), refused=True),
    "run-counted-by-input": _run(later(graphs.counted_by_input), 1e15),
    "run-while-positive": _run(later(graphs.while_positive), 1.0),
    "run-large": _run(later(graphs.large_by_input), 1_500.0),
    "broken-truncated": _broken("truncated"),
    "broken-empty": _broken("empty"),
    "broken-text": _broken("text"),
    "broken-other-message": _broken("other_message"),
    "broken-opset": _broken("future_opset"),
    "broken-operator": _broken("unknown_operator"),
    "broken-weights": _broken("fails_to_initialise"),
    "broken-golden": _broken("broken_golden"),
    "data-up": _data(later(graphs.external, "../../../../../../../../etc/passwd")),
    "data-absolute": _data(later(graphs.external, PASSWORDS)),
    "data-link": _data(later(graphs.external, "w.bin", link=PASSWORDS, length=64)),
    "data-missing": _data(later(graphs.external, "w.bin")),
    "data-device": _data(later(graphs.external, "w.bin", link="/dev/zero", length=64)),
    "data-length": _data(later(graphs.external, "model.onnx", length=2**62)),
    "data-offset": _data(later(graphs.external, "model.onnx", offset=-1, length=64)),
    "data-constant": _data(later(graphs.external, "../../../../etc/passwd", where="constant")),
    "data-function": _data(later(graphs.external, "../../../../etc/passwd", where="function", length=64)),
    "name-newline": _name(b"name\nREADY everything"),
    "name-escape": _name(b"name\x1b[2J\x07"),
    "name-bytes": _name(b"name\xff\xfe"),
    "name-long": _name(b"n" * 255, refused=False),
    "name-quotes": _name(b'name"} 1\\', refused=False),
    "name-version-large": Way("name", files.in_version(str(2**63)), refused=False),
    "name-version-larger": Way("name", files.in_version("9" * 200), refused=False),
    "name-version-zero": Way("name", files.in_version("007")),
    "demand-instances": _configured("instance_group [ { count: 1000000 kind: KIND_CPU } ]"),
    "demand-threads": _configured('parameters { key: "intra_op_thread_count" value: { string_value: "100000" } }'),
    "demand-batch": _configured("max_batch_size: 2147483647"),
    "demand-warmup": _configured(
        'model_warmup [ { name: "w" batch_size: 1 count: 4000000000 inputs { key: "input" value '
        "{ data_type: TYPE_FP32 dims: [ 256 ] random_data: true } } } ]"
    ),
    "demand-library": _configured(
        'parameters { key: "session.custom_op_library" value: { string_value: "/nowhere/evil.so" } }'
    ),
    "demand-labels": _demand(with_file(CARD, files.odd_labels)),
    "demand-long-labels": _demand(with_file(CARD, files.long_labels)),
}


def mixed(names: Iterable[str]) -> list[str]:
    """Hostile models in an order in which kinds follow each other: one of each kind, and again."""
    by_kind: dict[str, list[str]] = {}
    for name in names:
        by_kind.setdefault(ZOO[name].kind, []).append(name)
    rounds = itertools.zip_longest(*by_kind.values())
    return [name for names_of_round in rounds for name in names_of_round if name is not None]


def folder_of(name: str) -> str:
    """The name of a hostile model's folder, as Python spells any bytes."""
    return os.fsdecode(ZOO[name].folder) or name


def build(staging: Path, names: Iterable[str]) -> None:
    """Write hostile models into a folder beside the models folder, from where a rename publishes them."""
    staging.mkdir(parents=True, exist_ok=True)
    for name in names:
        ZOO[name].build(staging / folder_of(name))


def publish(staging: Path, models: Path, name: str) -> None:
    """Move a hostile model into the models folder."""
    (staging / folder_of(name)).rename(models / folder_of(name))


def withdraw(staging: Path, models: Path, name: str) -> None:
    """Move it back."""
    (models / folder_of(name)).rename(staging / folder_of(name))


def remove(folder: Path) -> None:
    """Remove hostile models with all that is in them; links are not followed."""
    shutil.rmtree(folder, ignore_errors=True)
