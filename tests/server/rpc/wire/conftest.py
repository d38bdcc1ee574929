"""One server for the tests of a module, behind each front end in turn."""

from collections.abc import Iterator

import pytest

from tests.support.wires import WIRES, Wire, served


@pytest.fixture(scope="module", params=WIRES)
def wire(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with served(tmp_path_factory.mktemp("wire"), request.param) as running:
        yield running
