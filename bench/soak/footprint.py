"""The footprint of a server at a time: memory, threads, descriptors, and the processes that it has started."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measure import process


@dataclass(frozen=True)
class Footprint:
    """What a server takes.

    Attributes:
        rss_mib: resident memory of its process.
        anonymous_mib: the part of it that no file holds.
        threads: of its process.
        descriptors: its open files.
        children: processes that it has started, and that these have.
        children_mib: their resident memory.
        cpu_s: processor time of its process so far.
    """

    rss_mib: float
    anonymous_mib: float
    threads: int
    descriptors: int
    children: int
    children_mib: float
    cpu_s: float

    def json(self) -> dict[str, Any]:
        """By the attributes' names."""
        return asdict(self)


def footprint(pid: int) -> Footprint:
    """What a server takes now.

    Raises:
        OSError: its process has ended.
        ValueError: it has ended, and is still there by its number.
    """
    own = Path(f"/proc/{pid}")
    children = process.descendants(pid)
    return Footprint(
        rss_mib=process.memory_mib(pid),
        anonymous_mib=process.memory_mib(pid, "RssAnon"),
        threads=len(list((own / "task").iterdir())),
        descriptors=len(list((own / "fd").iterdir())),
        children=len(children),
        children_mib=process.whole_mib(children),
        cpu_s=process.cpu_s(pid),
    )
