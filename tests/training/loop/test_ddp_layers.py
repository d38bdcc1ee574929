"""Processes that each compute a part of a batch, against one that computes all of it."""

import pytest
import torch
from torch import nn

from frostline_training.errors import TrainingError
from frostline_training.loop.ddp_layers import Part, over_whole_batches
from frostline_training.networks.families import build
from tests.support.training import together
from tests.support.training.together import NETWORKS, Learnt, Step

Done = dict[str, tuple[Step, Learnt]]


@pytest.fixture(scope="module")
def one() -> Done:
    return together.alone()


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    return together.together(request.param, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("case", NETWORKS)
def test_processes_together_compute_the_answers_gradients_and_statistics_of_one_on_the_whole_batch(
    case: str, one: Done, several: list[Done]
) -> None:
    whole, _ = one[case]
    assert whole.gradients
    for step, _ in (done[case] for done in several):
        torch.testing.assert_close(step.answers, whole.answers, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(step.gradients, whole.gradients, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(step.buffers, whole.buffers, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", NETWORKS)
def test_processes_together_learn_what_one_alone_does(case: str, one: Done, several: list[Done]) -> None:
    _, alone = one[case]
    for _, learnt in (done[case] for done in several):
        assert learnt.losses == pytest.approx(alone.losses, abs=1e-5)
        # A bias before batch-norm has a gradient of nothing but rounding, and Adam makes whole steps of it. The running
        # mean follows; while it learns that changes nothing, afterwards a little.
        torch.testing.assert_close(
            learnt.answers, alone.answers, rtol=0, atol=1e-2 if case in {"mlp", "embedding"} else 1e-4
        )


@pytest.mark.parametrize("case", NETWORKS)
def test_every_process_ends_with_the_same_bits(case: str, several: list[Done]) -> None:
    first, *others = [done[case] for done in several]
    for step, learnt in others:
        assert learnt.losses == first[1].losses
        assert torch.equal(learnt.answers, first[1].answers)
        assert all(torch.equal(step.gradients[name], value) for name, value in first[0].gradients.items())
        assert all(torch.equal(step.buffers[name], value) for name, value in first[0].buffers.items())


@pytest.mark.parametrize(("rows", "size", "sizes"), [(64, 2, [32, 32]), (64, 3, [21, 21, 22]), (5, 4, [1, 1, 1, 2])])
def test_the_parts_are_every_row_once_in_their_order(rows: int, size: int, sizes: list[int]) -> None:
    parts = [Part.of(rows, rank, size).own(torch.arange(rows)) for rank in range(size)]
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), torch.arange(rows))


def test_fewer_rows_than_processes_are_refused() -> None:
    with pytest.raises(TrainingError, match="a batch of 3 rows is too small for 4 processes: start fewer, or raise"):
        Part.of(3, 0, 4)


@pytest.mark.parametrize("case", NETWORKS)
def test_the_network_itself_stays_as_it_is_and_shares_its_weights(case: str) -> None:
    network = build(NETWORKS[case], together.rows_for(case).dataset)
    layers, state = str(network), {name: value.data_ptr() for name, value in network.state_dict().items()}
    twin = over_whole_batches(network, Part.of(8, 0, 2))
    assert str(network) == layers != str(twin)
    assert {name: value.data_ptr() for name, value in network.state_dict().items()} == state
    assert {id(value) for value in twin.parameters()} == {id(value) for value in network.parameters()}
    assert {id(value) for value in twin.buffers()} == {id(value) for value in network.buffers()}
    assert not any(
        isinstance(layer, nn.Dropout | nn.RNNBase) and getattr(layer, "dropout", 1) for layer in twin.modules()
    )


def test_on_cuda_batch_norm_is_pytorchs_own_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.0))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    twin = over_whole_batches(network, Part.of(8, 0, 2))
    assert [type(layer) for layer in twin.children()] == [nn.Conv2d, nn.SyncBatchNorm, nn.Dropout]
    assert {id(value) for value in twin.parameters()} == {id(value) for value in network.parameters()}
    assert {id(value) for value in twin.buffers()} == {id(value) for value in network.buffers()}
