"""What the tests against real programs share: clients that are installed on first use."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.load.environments import python_with

CLIENTS = Path(__file__).parent / "clients"


@contextmanager
def alone_with_the_clients() -> Iterator[None]:
    """Wait until no other worker installs a client: what two install at once is broken."""
    descriptor = os.open(CLIENTS, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@pytest.fixture(scope="session")
def node_packages(tool: Callable[[str], str]) -> Path:
    """The folder of the Node client's packages, installed on first use and kept beside its package.json."""
    tool("node")
    packages = CLIENTS / "node_modules"
    wanted, installed = (CLIENTS / "package.json").read_text(), packages / "installed.json"
    with alone_with_the_clients():
        if not installed.exists() or installed.read_text() != wanted:
            command = [tool("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund", "--prefix", str(CLIENTS)]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            installed.write_text(wanted)
    return packages


@pytest.fixture(scope="session")
def kserve_python() -> Path:
    """A Python with the KServe SDK, installed on first use and kept beside its clients.

    Not this one: the SDK holds python-dateutil, psutil and cloudevents to releases older than those the project is tested
    with.
    """
    if sys.version_info >= (3, 14):
        pytest.skip("the KServe SDK has no release for this Python")
    return _python_with("kserve")


@pytest.fixture(scope="session")
def generator_python() -> Path:
    """A Python with a generator of clients of OpenAPI documents, and what these import.

    Not this one: the generator holds typer to older releases than the command line is written for.
    """
    return _python_with("openapi")


def _python_with(name: str) -> Path:
    """A Python with the packages of a list, installed on first use and kept beside the clients."""
    with alone_with_the_clients():
        return python_with(CLIENTS / f"{name}.txt")
