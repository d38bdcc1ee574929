"""What the tests against real programs share: finding the programs."""

import os
import shutil
from collections.abc import Callable

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
