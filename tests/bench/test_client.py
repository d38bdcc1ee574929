"""The client study: both clients read the same answers, and differing ones end it."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench import client
from bench.load import networks
from bench.load.workload import WrongAnswer
from bench.measure.scenarios import MLP
from frostline.client.messages import OutputName
from tests.support.servers import Running, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    networks.publish(tmp_path, {"mlp": MLP})
    with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize("outputs", client.OUTPUTS.values(), ids=list(client.OUTPUTS))
async def test_each_client_has_a_time_for_a_call(server: Running, outputs: tuple[OutputName, ...]) -> None:
    found = [
        client.blocking(server.address, outputs, 0.01, random.Random(0)),
        await client.concurrent(server.address, outputs, 0.01, random.Random(0)),
    ]
    for samples in found:
        assert set(samples) == {client.OURS, client.THEIRS}
        assert all(sample["us"] * sample["rate"] == pytest.approx(1e6) for sample in samples.values())


def test_clients_that_read_different_answers_end_the_study() -> None:
    answers = {client.OURS: [np.array([1.0, 2.0])], client.THEIRS: [np.array([1.0, 2.5])]}
    with pytest.raises(WrongAnswer, match="the clients read different answers"):
        client._check(answers)
