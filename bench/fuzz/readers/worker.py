"""The process that fuzzes one target: with Atheris, which follows the coverage, or with the target's own mutator alone.

Atheris (https://github.com/google/atheris) sees the branches only of what is imported under it, so nothing of the
server may be imported before `main` is.
"""

import gc
import json
import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from bench.fuzz.readers.target import Target
    from bench.fuzz.readers.watch import Watch

BOARD, REPORT, FOUND = "board", "report.json", "found"
"""Files of the job's folder: the last input, the report, and the folder of inputs that reached something new."""

_INSTRUMENTED = ["frostline_server", "frostline.protocol"]
"""Not the libraries' parsers of protobuf's text format and of TOML: they would take most of the time."""
_LARGEST = 8192
_MOST_MEMORY = 8 << 30
"""Of addresses: what asks for more is refused, and nothing else on the machine suffers."""
_OWN_MUTATIONS = 0.5
_WARM_UP = 0.1
"""Share of the executions before memory is measured: pools and caches fill with them."""
_TO_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Job:
    """What a worker does.

    Attributes:
        target: the target's name.
        engine: atheris or python.
        executions: how many.
        seconds: after how long it stops, however many there were.
        seed: of the mutations.
        folder: of files it needs and leaves.
    """

    target: str
    engine: str
    executions: int
    seconds: float
    seed: int
    folder: str


@dataclass
class Report:
    """What became of it.

    Attributes:
        executions: how many ended.
        seconds: how long they took all together.
        slowest_s: CPU time of the longest.
        memory_mib: resident after the warm-up, and at the end.
        objects: of Python, at the same times.
        fault: the traceback of the one that ended it; "" if none did.
    """

    executions: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    memory_mib: tuple[float, float] = (0.0, 0.0)
    objects: tuple[int, int] = (0, 0)
    fault: str = ""


def main(arguments: Sequence[str]) -> None:
    """Do a job, given as JSON."""
    job = Job(**json.loads(arguments[0]))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    if job.engine == "atheris":
        import atheris  # noqa: PLC0415  an extra, and it must come before what it instruments

        with atheris.instrument_imports(include=_INSTRUMENTED, enable_loader_override=False):
            from bench.fuzz.readers.catalogue import TARGETS  # noqa: PLC0415  as above
    else:
        from bench.fuzz.readers.catalogue import TARGETS  # noqa: PLC0415  as above
    from bench.fuzz.readers import corpus  # noqa: PLC0415  as above
    from bench.fuzz.readers.watch import Watch  # noqa: PLC0415  as above

    target, folder = TARGETS[job.target], Path(job.folder)
    files = folder / "files"
    files.mkdir()
    seeds = corpus.inputs(target)
    run = _Run(job, Watch(target.open(files), folder / BOARD))
    for seed in seeds:
        run.once(seed)
    if job.engine == "atheris":
        _with_atheris(job, target, seeds, run.once)
    rng = random.Random(job.seed)
    while True:
        run.once(target.mutate(rng, rng.choice(seeds), seeds))


class _Run:
    """The executions of a job; ends the process with the last of them."""

    def __init__(self, job: Job, watch: "Watch") -> None:
        self._job = job
        self._watch = watch
        self._began_s = time.monotonic()
        self._warm_up = max(1, int(job.executions * _WARM_UP))
        self._warm: tuple[float, int] | None = None

    def once(self, data: bytes) -> None:
        """Run one input."""
        watch = self._watch
        try:
            watch.run(data)
        except BaseException:  # noqa: BLE001  any that gets here is a fault, an exit too
            self._end(traceback.format_exc())
        late = watch.executions % 64 == 0 and time.monotonic() - self._began_s > self._job.seconds
        if watch.executions == self._warm_up:
            self._warm = _memory()
        if watch.executions >= self._job.executions or late:
            self._end("")

    def _end(self, fault: str) -> NoReturn:
        memory = _memory()
        warm = self._warm or memory
        report = Report(
            executions=self._watch.executions,
            seconds=time.monotonic() - self._began_s,
            slowest_s=self._watch.slowest_s,
            memory_mib=(warm[0], memory[0]),
            objects=(warm[1], memory[1]),
            fault=fault,
        )
        (Path(self._job.folder) / REPORT).write_text(json.dumps(asdict(report)), encoding="utf-8")
        # At once: libFuzzer has no other way to be told, and what it found is written already.
        os._exit(0)


def _memory() -> tuple[float, int]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * _TO_MIB, len(gc.get_objects())


def _with_atheris(job: Job, target: "Target", seeds: Sequence[bytes], once: Callable[[bytes], None]) -> NoReturn:
    import atheris  # noqa: PLC0415  an extra

    folder = Path(job.folder)
    found, given = folder / FOUND, folder / "seeds"
    found.mkdir()
    given.mkdir()
    for number, seed in enumerate(seeds):
        (given / str(number)).write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < _OWN_MUTATIONS:
            return target.mutate(rng, data, seeds)[:most]
        changed: bytes = atheris.Mutate(data, most)
        return changed

    # Time and memory are this fuzzer's own business.
    flags = [
        f"-seed={job.seed}",
        f"-max_len={_LARGEST}",
        "-rss_limit_mb=0",
        "-timeout=3600",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *flags, str(found), str(given)], once, custom_mutator=mutate)
    atheris.Fuzz()
    raise AssertionError("it ends with the last execution")


if __name__ == "__main__":
    main(sys.argv[1:])
