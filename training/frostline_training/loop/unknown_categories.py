"""The fit of what a table takes for an unknown category: the best answer where nothing is known of a column."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frostline_training.loop.losses import Objective
from frostline_training.networks.families import Table

_ROWS = 2048  # so many decide on two dozen numbers, and hundreds of columns take seconds
_STEPS = 60
_DOUBT = 1.0  # how far a number may be from 0 on the word of a single row


def fit_unknown(
    network: nn.Module, inputs: Sequence[Tensor], targets: Tensor, objective: Objective, order: Tensor
) -> None:
    """Set the vectors of unknown categories in the tables of `network` to those with the least loss on rows.

    For each column of categories all rows are taken for unknown there. While the network learns, that is so for few rows
    of each batch, and the answer to them would be another with every seed.

    Args:
        network: It has learnt, and is in evaluation mode; nothing else of it changes.
        inputs: The rows, whose first tensor [N, F] the table takes.
        targets: What is right for them, [N, ...].
        objective: The loss.
        order: The places of the rows at random: of many, the first ones are taken.
    """
    some = order[:_ROWS].to(targets.device)
    for path, table in network.named_modules():
        if isinstance(table, Table):
            for place, column in enumerate(table.categories):
                rows, *others = (values[some] for values in inputs)
                rows[:, column] = 0
                name = f"unknown_{place}"
                found = _least(network, f"{path}.{name}".lstrip("."), (rows, *others), targets[some], objective)
                setattr(table, name, found)


def _least(network: nn.Module, name: str, inputs: tuple[Tensor, ...], targets: Tensor, objective: Objective) -> Tensor:
    """The buffer `name` with which the loss is least."""
    before = network.get_buffer(name)
    numbers = before.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([numbers], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        outputs = functional_call(network, {name: numbers}, inputs)
        mean = (objective.judge(outputs, targets) + numbers.square().sum() / (2 * _DOUBT**2)) / len(targets)
        mean.backward()  # type: ignore[no-untyped-call]  # of PyTorch
        return mean.detach()

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # as above
    return numbers.detach() if numbers.isfinite().all() else before
