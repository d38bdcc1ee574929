"""Layers for distributed data-parallel training: batch-norm, dropout and the loss over the whole batch.

Each process computes on its part of a batch what PyTorch's own layers compute on the whole of it. Most layers look at
a row at a time, and a part of the rows is as good as all. Those that do not are batch-norm, whose statistics are over
the rows, and dropout, whose draws go from row to row. For these each process adds up with the others, or draws for
every row and takes its own. So processes learn together what one alone would, to the last digits.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from frostline_training.errors import TrainingError


@dataclass(frozen=True)
class Part:
    """Which rows of every batch are this process's: from `first` to before `end`, of `rows`."""

    first: int
    end: int
    rows: int

    @classmethod
    def of(cls, rows: int, rank: int, size: int) -> Self:
        """Return the part of process `rank` among `size`: as even as can be, none empty.

        Raises:
            TrainingError: There are fewer rows than processes.
        """
        if rows < size:
            raise TrainingError(
                f"a batch of {rows} rows is too small for {size} processes: start fewer, or raise batch_size"
            )
        return cls(rank * rows // size, (rank + 1) * rows // size, rows)

    def own(self, batch: Tensor, axis: int = 0) -> Tensor:
        """Return this process's rows of a whole batch's, which lie along `axis`."""
        return batch.narrow(axis, self.first, self.end - self.first)

    def whole(self, own: Tensor) -> Tensor:
        """Return all rows [rows, ...], of which each process has its `own`. It can be differentiated."""
        behind = (0, 0) * (own.ndim - 1)
        return total(functional.pad(own, (*behind, self.first, self.rows - self.end)))


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        summed = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        del ctx
        return total(gradients[0])


def total(values: Tensor) -> Tensor:
    """Return the sum of all processes' `values`, the same bits in each.

    It can be differentiated. The gradient is that of the sum of what all processes make of it. Where all make the same
    loss of it, theirs add up to as many times that loss's as there are processes, and their mean is the loss's own.
    """
    summed: Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]  # PyTorch leaves this method untyped
    return summed


def over_whole_batches(network: nn.Module, part: Part) -> nn.Module:
    """Return a module that computes, on this process's `part` of a batch, what `network` does on all of it.

    It is for training alone. It has its weights and buffers in common with `network`, which stays as it is.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return _converted(copy.deepcopy(network, shared), part)


def _converted(layer: nn.Module, part: Part) -> nn.Module:
    match layer:
        case nn.BatchNorm1d() | nn.BatchNorm2d() if layer.weight.is_cuda:
            # PyTorch's own has no version for the CPU.
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
            synchronised: nn.Module = convert(layer)
            return synchronised
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return BatchNorm(layer, part)
        case nn.Dropout() if layer.p:
            return Dropout(layer.p, part)
        case nn.MultiheadAttention() if layer.dropout:
            return SelfAttention(layer, part)
        case nn.RNNBase() if layer.dropout and layer.num_layers > 1:
            return Recurrent(layer, part)
    for name, child in layer.named_children():
        setattr(layer, name, _converted(child, part))
    return layer


class BatchNorm(nn.Module):
    """`layer`, normalising values [n, C, ...] by the mean and variance over all processes' rows."""

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, part: Part) -> None:
        super().__init__()
        self.layer = layer
        self.part = part

    def forward(self, values: Tensor) -> Tensor:
        """Return the values normalised, and move the running statistics."""
        layer, axes = self.layer, (0, *range(2, values.ndim))
        count = self.part.rows * math.prod(values.shape[2:])
        mean = total(values.sum(axes, keepdim=True)) / count
        centred = values - mean
        variance = total(centred.square().sum(axes, keepdim=True)) / count
        with torch.no_grad():
            moved = cast("float", layer.momentum)
            cast("Tensor", layer.num_batches_tracked).add_(1)
            cast("Tensor", layer.running_mean).lerp_(mean.flatten(), moved)
            cast("Tensor", layer.running_var).lerp_(variance.flatten() * (count / (count - 1)), moved)
        scale = layer.weight.reshape(mean.shape) * (variance + layer.eps).rsqrt()
        return centred * scale + layer.bias.reshape(mean.shape)


class Dropout(nn.Module):
    """Dropout of values that have the rows along `axis`: every process draws for all rows, and takes its own.

    The processes must be at the same random state. The draws are those of PyTorch's own dropout on the CPU.
    """

    def __init__(self, p: float, part: Part, axis: int = 0) -> None:
        super().__init__()
        self.p = p
        self.part = part
        self.axis = axis

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, some of them 0 and the others as much larger."""
        shape = (*values.shape[: self.axis], self.part.rows, *values.shape[self.axis + 1 :])
        return values * self.part.own(_noise(values, shape, self.p), self.axis)


class SelfAttention(nn.Module):
    """`layer`, attending from vectors [n, T, F] to themselves, with `Dropout` of the weights."""

    def __init__(self, layer: nn.MultiheadAttention, part: Part) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = Dropout(layer.dropout, part)

    def forward(
        self, vectors: Tensor, *_: Tensor, key_padding_mask: Tensor | None, **__: object
    ) -> tuple[Tensor, None]:
        """Return the vectors attended to, and no weights; the mask [n, T] is added, -inf where a step pads."""
        layer = self.layer
        projected = functional.linear(vectors, cast("Tensor", layer.in_proj_weight), layer.in_proj_bias)
        heads = projected.reshape(*vectors.shape[:2], 3, layer.num_heads, layer.head_dim)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [n, heads, T, F / heads]
        scores = query @ key.transpose(2, 3) / math.sqrt(layer.head_dim)
        if key_padding_mask is not None:
            scores = scores + key_padding_mask[:, None, None]
        attended = self.dropout(scores.softmax(3)) @ value
        # Time first in memory, as PyTorch leaves it: the draws of the dropout behind may follow the memory.
        return layer.out_proj(attended.permute(2, 0, 1, 3).flatten(2)).transpose(0, 1), None


class Recurrent(nn.Module):
    """`stack`, layer by layer, with `Dropout` between the layers."""

    def __init__(self, stack: nn.RNNBase, part: Part) -> None:
        super().__init__()
        self.bidirectional = stack.bidirectional
        self.layers = nn.ModuleList(_layer(stack, number) for number in range(stack.num_layers))
        self.p = float(stack.dropout)
        self.part = part
        self.dropout = Dropout(self.p, part, axis=1)

    def forward(self, steps: Tensor | PackedSequence) -> tuple[Any, Any]:
        """Return every step's output and the last states of the last layer alone, as `stack` would."""
        *before, last = self.layers
        for layer in before:
            steps, _ = layer(steps)
            if isinstance(steps, PackedSequence):
                steps = steps._replace(data=steps.data * self._packed_noise(steps))
            else:
                steps = self.dropout(steps.transpose(0, 1)).transpose(0, 1)  # PyTorch draws time first
        outputs, states = last(steps)
        return outputs, states

    def _packed_noise(self, steps: PackedSequence) -> Tensor:
        # PyTorch draws for the steps as they are packed, and how all rows are packed depends on all their lengths.
        device, width = steps.data.device, steps.data.shape[1]
        _, lengths = pad_packed_sequence(steps)
        every = self.part.whole(lengths.to(device)).cpu()
        places = torch.arange(self.part.rows * int(every.max()), device=device).reshape(self.part.rows, -1)
        packed = _packed(places, every)
        noise = torch.zeros(places.numel(), width, dtype=steps.data.dtype, device=device)
        noise[packed] = _noise(steps.data, (len(packed), width), self.p)
        return _packed(noise.reshape(*places.shape, width)[self.part.first : self.part.end], lengths)


def _noise(values: Tensor, shape: tuple[int, ...], p: float) -> Tensor:
    # What to multiply `values` by, as many as `shape` says, in an order of memory like theirs.
    noise = torch.empty_permuted(shape, values.dim_order(), dtype=values.dtype, device=values.device)
    return noise.bernoulli_(1 - p).div_(1 - p)


def _packed(steps: Tensor, lengths: Tensor) -> Tensor:
    return pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False).data


def _layer(stack: nn.RNNBase, number: int) -> nn.RNNBase:
    # One layer of `stack`, with its very weights.
    directions = 2 if stack.bidirectional else 1
    own: dict[str, Any] = {"nonlinearity": stack.nonlinearity} if isinstance(stack, nn.RNN) else {}
    make: Any = type(stack)
    layer: nn.RNNBase = make(
        stack.input_size if number == 0 else directions * stack.hidden_size,
        stack.hidden_size,
        batch_first=True,
        bidirectional=stack.bidirectional,
        device="meta",
        **own,
    )
    for name, _ in list(layer.named_parameters()):
        setattr(layer, name, stack.get_parameter(name.replace("_l0", f"_l{number}")))
    return layer
