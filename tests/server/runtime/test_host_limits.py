import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from frostline_server.runtime.host_limits import cpu_count, memory_available_bytes, memory_limit_bytes

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


def host(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root folder whose process is in `groups`, with these files under sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param("", {}, 16, id="no cgroups"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 16, id="version 2 without a limit"),
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="version 2"),
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 2, id="a part of a CPU counts as one"),
        pytest.param("0::/\n", {"cpu.max": "1000 100000\n"}, 1, id="never none"),
        pytest.param("0::/\n", {"cpu.max": "9900000 100000\n"}, 16, id="a quota above the affinity mask"),
        pytest.param(
            "0::/pod/a\n", {"pod/cpu.max": "300000 100000", "pod/a/cpu.max": "max 100000"}, 3, id="a parent's"
        ),
        pytest.param("0::/docker/abc\n", {"cpu.max": "400000 100000"}, 4, id="the host's path in a container"),
        pytest.param("0::/../../b\n", {"cpu.max": "400000 100000"}, 4, id="a path above the namespace"),
        pytest.param(
            "5:cpu,cpuacct:/pod\n0::/pod\n",
            {"cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"},
            3,
            id="version 1, mounted with another controller",
        ),
        pytest.param(
            "5:cpu:/\n4:cpuset:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            16,
            id="version 1 without a limit",
        ),
        pytest.param("0::/pod\n", {"unified/pod/cpu.max": "500000 100000"}, 5, id="both versions mounted"),
    ],
)
def test_the_cpus_are_those_of_the_affinity_mask_and_of_the_quota(
    tmp_path: Path, sixteen_cores: None, groups: str, files: dict[str, str], expected: int
) -> None:
    assert cpu_count(host(tmp_path, groups, files)) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param("", {}, PHYSICAL, id="no cgroups"),
        pytest.param("0::/\n", {"memory.max": "max\n"}, PHYSICAL, id="version 2 without a limit"),
        pytest.param("0::/\n", {"memory.max": f"{512 * MIB}\n"}, 512 * MIB, id="version 2"),
        pytest.param("0::/a/b\n", {"a/memory.max": f"{64 * MIB}", "a/b/memory.max": "max"}, 64 * MIB, id="a parent's"),
        pytest.param(
            "4:memory:/pod\n", {"memory/pod/memory.limit_in_bytes": f"{256 * MIB}\n"}, 256 * MIB, id="version 1"
        ),
        pytest.param(
            "4:memory:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712\n"},
            PHYSICAL,
            id="version 1 without a limit",
        ),
    ],
)
def test_the_memory_is_what_the_cgroups_allow(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    assert memory_limit_bytes(host(tmp_path, groups, files)) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param("", {}, 1000 * MIB, id="no cgroups: the machine's"),
        pytest.param("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, 1000 * MIB, id="no limit"),
        pytest.param(
            "0::/a/b\n",
            {
                "a/memory.max": f"{512 * MIB}\n",
                "a/memory.current": f"{300 * MIB}\n",
                "a/memory.stat": f"anon 1\nactive_file {40 * MIB}\ninactive_file {60 * MIB}\n",
                "a/b/memory.max": f"{900 * MIB}\n",
                "a/b/memory.current": f"{MIB}\n",
            },
            312 * MIB,
            id="version 2: the least of all groups, files that are kept not counted",
        ),
        pytest.param(
            "4:memory:/pod\n",
            {
                "memory/pod/memory.limit_in_bytes": f"{256 * MIB}\n",
                "memory/pod/memory.usage_in_bytes": f"{100 * MIB}\n",
                "memory/pod/memory.stat": f"active_file 7\ntotal_active_file {MIB}\ntotal_inactive_file {3 * MIB}\n",
            },
            160 * MIB,
            id="version 1",
        ),
        pytest.param("0::/\n", {"memory.max": "100\n", "memory.current": "200\n"}, 0, id="never less than none"),
    ],
)
def test_the_memory_that_is_free_is_what_the_cgroups_and_the_machine_have_left(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    root = host(tmp_path, groups, files)
    (root / "proc/meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable:   {1000 * 1024} kB\n")
    assert memory_available_bytes(root) == min(expected, PHYSICAL)


def test_where_the_system_does_not_say_all_memory_is_free(tmp_path: Path) -> None:
    assert memory_available_bytes(host(tmp_path, "", {})) == memory_limit_bytes()


def test_the_memory_is_never_more_than_ulimit_allows() -> None:
    limit = PHYSICAL // 2
    code = "from frostline_server.runtime.host_limits import memory_limit_bytes; print(memory_limit_bytes())"
    told = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1])),
    )
    assert int(told.stdout) == min(limit, memory_limit_bytes())
