"""Recurrent layers over padded sequences, exported as ONNX's own RNN, LSTM and GRU.

The time axis stays open in the exported file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

# Where PyTorch and ONNX keep the gates of a cell: PyTorch's order by ONNX's.
_GATES: dict[str, tuple[int, ...]] = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


class LastState(nn.Module):
    """The state [N, D] in which recurrent layers leave a sequence [N, T, F], both directions side by side.

    A sequence ends with its last valid step: what pads it changes nothing, in either direction.

    Args:
        layers: PyTorch's own, with ``batch_first``.
    """

    def __init__(self, layers: nn.RNNBase) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, steps: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the last states; `lengths` [N] int64 are at least 1, and None where every step is valid."""
        if torch.compiler.is_exporting():
            # PyTorch's exporter unrolls an RNN over time and knows no packed sequences; parity is measured afterwards.
            return _in_onnx(self.layers, steps, lengths)
        if lengths is not None and not self.layers.bidirectional:
            # What comes later changes no earlier step, and packing would make it several times slower.
            every, _ = self.layers(steps)
            valid: Tensor = every[torch.arange(len(lengths), device=lengths.device), lengths - 1]
            return valid
        if lengths is None:
            _, states = self.layers(steps)
        else:
            _, states = self.layers(pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False))
        last: Tensor = states[0] if isinstance(states, tuple) else states
        directions = 2 if self.layers.bidirectional else 1
        return last[-directions:].transpose(0, 1).flatten(1)


def _in_onnx(layers: nn.RNNBase, steps: Tensor, lengths: Tensor | None) -> Tensor:
    directions = 2 if layers.bidirectional else 1
    size = layers.hidden_size
    operator = "RNN" if layers.mode.startswith("RNN") else layers.mode
    attributes: dict[str, Any] = {
        "hidden_size": size,
        "direction": "bidirectional" if layers.bidirectional else "forward",
    }
    if operator == "RNN":
        attributes["activations"] = [layers.mode.removeprefix("RNN_").capitalize()] * directions
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    through = steps.transpose(0, 1)  # ONNX puts time first
    time, rows = through.shape[0], through.shape[1]
    last = steps
    for number in range(layers.num_layers):
        weights = [_weights(layers, number, reverse, operator) for reverse in range(directions)]
        weight, recurrent, bias = (torch.cat(parts) for parts in zip(*weights, strict=True))
        state = [directions, rows, size]
        shapes: Sequence[Sequence[int | torch.SymInt]] = [[time, directions, rows, size], state, state]
        count = 3 if operator == "LSTM" else 2
        every, last, *_ = torch.onnx.ops.symbolic_multi_out(
            operator,
            [through, weight, recurrent, bias, None if lengths is None else lengths.to(torch.int32)],
            attributes,
            dtypes=[steps.dtype] * count,
            shapes=shapes[:count],
        )
        through = every.transpose(1, 2).reshape(time, rows, directions * size)
    return last.transpose(0, 1).reshape(rows, directions * size)


def _weights(layers: nn.RNNBase, number: int, reverse: int, operator: str) -> tuple[Tensor, Tensor, Tensor]:
    suffix = f"l{number}{'_reverse' * reverse}"
    size = layers.hidden_size
    inputs, recurrent, bias_in, bias_state = (
        torch.cat([tensor[gate * size : (gate + 1) * size] for gate in _GATES[operator]])[None]
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for tensor in (layers.get_parameter(f"{kind}_{suffix}"),)
    )
    return inputs, recurrent, torch.cat([bias_in, bias_state], 1)
