"""Where a training computes."""

import pytest
import torch

from frostline_training.errors import DeviceError
from frostline_training.loop.device import choose_device, cpu_threads, repeatable

CPU = torch.device("cpu")


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_a_word_that_is_no_device_is_refused(asked: str) -> None:
    with pytest.raises(DeviceError, match="is not one of auto, cpu, cuda, cuda:N"):
        choose_device(asked)


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == CPU


def test_cuda_is_refused_in_one_sentence_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(
        DeviceError, match=r"device 'cuda': this PyTorch .* finds no CUDA device; install .*, or use auto"
    ):
        choose_device("cuda")


def test_a_cuda_device_is_chosen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="there are only 2 CUDA devices"):
        choose_device("cuda:2")


def test_the_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_what_is_drawn_inside_is_not_missing_outside() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with repeatable(CPU):
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()
