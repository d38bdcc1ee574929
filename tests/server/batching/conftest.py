"""Stages of the batcher's tests."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.puppet import Stage, Staging, stage


@pytest.fixture
def staging() -> Iterator[Staging]:
    """Builds stages, and ends their threads after the test."""
    stages: list[Stage] = []

    def build(**options: Any) -> Stage:
        stages.append(stage(**options))
        return stages[-1]

    yield build
    for built in stages:
        built.finish()
