"""What every test starts from."""

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import grpc
import hypothesis
import pytest
import structlog

from tests.support.servers import Running

# No test is timed, and what takes a millisecond alone takes longer beside other tests.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# For servers in processes of their own. Tests of the GPU, in tests/gpu, say so by flag.
os.environ.setdefault("FROSTLINE_DEVICE", "cpu")
# Tests of HTTP turn it on: to import its libraries takes every other server a tenth of a second.
os.environ.setdefault("FROSTLINE_HTTP", "false")

# PyTorch's threads wait for each other by spinning, which costs the other workers their cores. Read when PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is there when the tests are collected out of every later collection of garbage.

    The tests and PyTorch are a million objects, which no test can free and the collector else visits again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders of few and long tests first, so that at the end no worker is alone with one."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in ("integration", "page", "training"))


@pytest.fixture(scope="session", autouse=True)
def _quick_exports() -> None:
    # The modules of the tests are imported by now; without PyTorch among their imports, none of them exports.
    if "torch" in sys.modules:
        from tests.support import foreign  # noqa: PLC0415  it imports PyTorch

        foreign.quicken()


@pytest.fixture(scope="session", autouse=True)
def _coverage_of_processes() -> dict[str, str]:
    """Take what starts coverage in the processes of tests out of the environment, and return it.

    It costs a server a third of its start, and nearly all that runs in processes runs in this one too.
    """
    return {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith("COVERAGE_PROCESS_")}


@pytest.fixture(scope="module")
def traced_processes(_coverage_of_processes: dict[str, str]) -> Iterator[None]:
    """For modules of which coverage counts the processes too: what these run is run nowhere else."""
    os.environ.update(_coverage_of_processes)
    yield
    for name in _coverage_of_processes:
        del os.environ[name]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that configures logging must not leave the next one a closed stream."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """A server that was run in this process leaves handlers of an event loop that is closed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def sigint(_signals_as_they_were: None) -> None:
    """Not ignored, as it is in a test run in the background; a child inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    """A channel to the server of a module that has the fixture `server`."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel


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
