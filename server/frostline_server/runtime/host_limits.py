"""The process's share of its host: how many CPUs and how much memory it may use.

In a container the host's own numbers say nothing: a pod with 2 of 64 cores would start 32 threads for each session, and
the kernel would stop it each time they had used up its quota together.
"""

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def cpu_count(root: Path = _ROOT) -> int:
    """CPUs that the process may keep busy: the least of its affinity mask and its cgroups' quotas, rounded up.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        At least 1.
    """
    # Only Linux has affinity masks.
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([mask, *(math.ceil(quota) for quota in _quotas(root))]))


def memory_limit_bytes(root: Path = _ROOT) -> int:
    """Memory that the process may use, in bytes: the least of its cgroups' limits, RLIMIT_AS and the machine's memory.

    Args:
        root: where `proc` and `sys` are.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # version 2, version 1
            limits += _numbers(group / name)[:1]
    return min(limits)


def memory_available_bytes(root: Path = _ROOT) -> int:
    """Memory that the process may still take, in bytes: the least that its cgroups and the machine have left.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        `memory_limit_bytes` where the system does not say.
    """
    left = [memory_limit_bytes(root)]
    left += [1024 * size for size in _field(root / "proc/meminfo", "MemAvailable:")]
    for group in _groups(root, "memory"):
        for most, used, cached in (
            ("memory.max", "memory.current", ("active_file", "inactive_file")),  # version 2
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ("total_active_file", "total_inactive_file"),
            ),  # version 1
        ):
            limit, usage = _numbers(group / most)[:1], _numbers(group / used)[:1]
            # What the kernel keeps of files it gives up when it needs the room.
            kept = sum(size for name in cached for size in _field(group / "memory.stat", name))
            left += [most_bytes - used_bytes + kept for most_bytes, used_bytes in zip(limit, usage, strict=False)]
    return max(0, min(left))


def _field(file: Path, name: str) -> list[int]:
    """The number after a name in a file of one name and number a line; none where it cannot be read."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return []
    return [int(words[1]) for words in lines if len(words) > 1 and words[0] == name]


def _quotas(root: Path) -> Iterator[float]:
    """How many CPUs' time each cgroup of the process gets, where it is limited."""
    for group in _groups(root, "cpu"):
        # Version 2 has "quota period" in one file, version 1 has a file for each; microseconds, both.
        pair = _numbers(group / "cpu.max") or [
            *_numbers(group / "cpu.cfs_quota_us"),
            *_numbers(group / "cpu.cfs_period_us"),
        ]
        # "max" in version 2 and -1 in version 1 mean no limit.
        if len(pair) == 2 and min(pair) > 0:
            yield pair[0] / pair[1]


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The process's cgroup and all above it, each of which limits it, in every hierarchy that may have `controller`."""
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # A container may see the path it has on the host, and its own cgroup as the top: so whatever is missing is
        # skipped. A path out of the container's own part of the tree begins with "..", and nothing there can be seen.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in (mounts / controllers, mounts / controller) if controllers else (mounts, mounts / "unified"):
            for depth in range(len(parts), -1, -1):
                yield top.joinpath(*parts[:depth])


def _numbers(file: Path) -> list[int]:
    """The numbers in a cgroup's file; none where there is no such file, or it says that there is no limit."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []
