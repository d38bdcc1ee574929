"""The process group of a training: the processes that ``torchrun`` started, or this one alone.

They are data-parallel on PyTorch's own engine: each computes its part of every batch, and all make the step that one
alone would make on the whole of it. Only the first process prints, writes and publishes.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

# DistributedDataParallel imports it, and as defaults its functions keep the group that there is at its first import. Imported
# here there is none yet. Else the group is never freed, and a thread of gloo's may abort a process that has done all its work.
import torch.distributed.nn.functional
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from frostline_training.loop.ddp_layers import Part, over_whole_batches
from frostline_training.loop.device import choose_device

T = TypeVar("T")

# A group's own timeout, 10 or 30 minutes, is for the steps of a training. A publication may take hours, but no days.
_LONGEST_ACT = timedelta(days=7)


@dataclass(frozen=True)
class Group:
    """This process among those that train together.

    Attributes:
        rank: Which one it is, from 0.
        size: How many there are.
        local_rank: Which one on this machine: the CUDA device it takes.
        patient: The same processes, which wait for the first one as long as it takes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    patient: distributed.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks, writes and publishes."""
        return self.rank == 0

    def device(self, asked: str) -> torch.device:
        """Choose as `choose_device` does, a CUDA device of its own for each process.

        Raises:
            DeviceError: It is not there.
        """
        device = choose_device(asked)
        return choose_device(f"cuda:{self.local_rank}") if self.size > 1 and device == torch.device("cuda") else device

    def parallel(self, network: nn.Module, rows: int) -> nn.Module:
        """Return a module that answers whole batches of `rows` as `network` does, each process computing its part.

        It is for training: a loss of its answers gives each process's `network` the gradients of the whole batch.

        Raises:
            TrainingError: There are fewer rows than processes.
        """
        return _Together(network, Part.of(rows, self.rank, self.size)) if self.size > 1 else network

    def first(self, act: Callable[[], T]) -> T:
        """Let the first process `act`, and give every process what came out.

        Where it fails, its error goes on in the first process, and the others end.
        """
        if self.size == 1:
            return act()
        answer: list[Any] = []
        told: list[Any] = [answer]
        try:
            if self.leads:
                answer.append(act())
        finally:
            # Also after an error: nobody waits for what never comes.
            distributed.broadcast_object_list(told, group=self.patient)
        if not told[0]:
            raise SystemExit(2)  # the first process says why
        result: T = told[0][0]
        return result


class _Together(nn.Module):
    def __init__(self, network: nn.Module, part: Part) -> None:
        super().__init__()
        self.part = part
        # It takes the mean of the processes' gradients, and each goes back from the loss of the whole batch: see `total`.
        # Buffers are the same in all, and need not be sent at every step.
        self.network = DistributedDataParallel(over_whole_batches(network, part), forward_sync_buffers=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.part.whole(self.network(*(self.part.own(values) for values in inputs)))


ALONE = Group()


@contextmanager
def joined(environ: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """Meet the other processes that ``torchrun`` started, if it did, and part from them at the end."""
    if int(environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    distributed.init_process_group()  # gloo on the CPU, nccl on CUDA
    try:
        patient = distributed.new_group(backend="gloo", timeout=_LONGEST_ACT)
        yield Group(distributed.get_rank(), distributed.get_world_size(), int(environ["LOCAL_RANK"]), patient)
    finally:
        distributed.destroy_process_group()
