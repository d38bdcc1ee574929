"""What every test starts from."""

import os
from collections.abc import Iterator

import pytest
import structlog

# For servers in processes of their own. Tests of the GPU, in tests/gpu, say so by flag.
os.environ.setdefault("FROSTLINE_DEVICE", "cpu")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that configures logging must not leave the next one a closed stream."""
    yield
    structlog.reset_defaults()
