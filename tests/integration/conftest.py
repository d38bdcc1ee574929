"""What the tests against real programs share: finding the programs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Finds a program by name; skips the test without it, or fails it where FROSTLINE_TEST_TOOLS=required (as in CI)."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is not None:
            return path
        if os.environ.get("FROSTLINE_TEST_TOOLS") == "required":
            pytest.fail(f"{name} is not installed, and FROSTLINE_TEST_TOOLS=required")
        pytest.skip(f"{name} is not installed")

    return find


@pytest.fixture(scope="session")
def node_packages(tool: Callable[[str], str]) -> Path:
    """The folder of the Node client's packages, installed on first use and kept beside its package.json."""
    tool("node")
    clients = Path(__file__).parent / "clients"
    packages = clients / "node_modules"
    if not (packages / ".package-lock.json").exists():
        command = [tool("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund", "--prefix", str(clients)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    return packages


@pytest.fixture(scope="session")
def kserve_python() -> Path:
    """A Python with the KServe SDK, installed on first use and kept beside its clients.

    Not this one: the SDK holds python-dateutil, psutil and cloudevents to releases older than those the project is tested
    with.
    """
    if sys.version_info >= (3, 14):
        pytest.skip("the KServe SDK has no release for this Python")
    clients = Path(__file__).parent / "clients"
    folder = clients / ".kserve"
    python = folder / "bin" / "python"
    wanted = (clients / "kserve.txt").read_text()
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=100)
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(clients / "kserve.txt")]
        subprocess.run(command, check=True, capture_output=True, timeout=280)
        installed.write_text(wanted)
    return python
