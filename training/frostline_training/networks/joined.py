"""The way down and up again of a U-Net, joined at every size."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Joined(nn.Module):
    """Images [N, C, H, W] -> down to fewer and fewer pixels -> up again -> logits [N, C, H, W].

    Args:
        first: What every image goes through first.
        down: Blocks of layers; the image is halved between two.
        up: What doubles the image again, as often.
        blocks: The layers behind each, which also take what `down` made at that size.
        head: The last values of each pixel to its logits.
    """

    def __init__(
        self, first: nn.Module, down: list[nn.Module], up: list[nn.Module], blocks: list[nn.Module], head: nn.Module
    ) -> None:
        super().__init__()
        self.first = first
        self.down = nn.ModuleList(down)
        self.halve = nn.MaxPool2d(2)
        self.up = nn.ModuleList(up)
        self.blocks = nn.ModuleList(blocks)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of each pixel, for images of any height and width."""
        height, width = images.shape[2:]
        multiple = 2 ** len(self.up)
        values = functional.pad(self.first(images), (0, -width % multiple, 0, -height % multiple), mode="replicate")
        kept = []
        for block in self.down[:-1]:
            kept.append(block(values))
            values = self.halve(kept[-1])
        values = self.down[-1](values)
        for up, block in zip(self.up, self.blocks, strict=True):
            values = block(torch.cat([kept.pop(), up(values)], 1))
        logits: Tensor = self.head(values)
        return logits[:, :, :height, :width]
