"""A network's outputs by the names of its targets, as clients read them."""

from collections.abc import Sequence

from torch import Tensor, nn

from frostline_training.data.heads import Head, slices


class ByTarget(nn.Module):
    """`network` with its outputs [N, ...] as a dict: of each class its logits [N, C], of each number the numbers [N].

    Args:
        network: What it calls.
        heads: Of its outputs, in their order.
    """

    def __init__(self, network: nn.Module, heads: Sequence[Head]) -> None:
        super().__init__()
        self.network = network
        self._heads = tuple(heads)

    def forward(self, first: Tensor, *others: Tensor) -> dict[str, Tensor]:
        """Return the outputs of each head by its name."""
        outputs = self.network(first, *others)
        return {
            head.name: outputs[:, part.start] if head.labels is None else outputs[:, part]
            for head, part in zip(self._heads, slices(self._heads), strict=True)
        }
