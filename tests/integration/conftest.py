"""What the tests against real programs share: finding the programs."""

import os
import shutil
import subprocess
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
