"""The list of a network's tensors: the picture of a network that cannot be drawn as a diagram, and why."""

from textwrap import wrap

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from frostline_training.plots import canvas
from frostline_training.plots.canvas import BLUE, MARGIN, text_width
from frostline_training.plots.stages import by

_SIZE, _LEAD, _TOP = 9.0, 15.0, 80.0
_MOST = 24
_LETTERS = 100  # a line of the reason


def draw(network: nn.Module, *, title: str, learnt: int, why: str) -> Figure:
    """Say in a picture why `network` is not drawn, and list the tensors that it has learnt."""
    named = list(network.named_parameters())
    lines = [
        f"{name}  {f'{by(tuple(tensor.shape))} = ' if tensor.ndim > 1 else ''}{tensor.numel():,}"
        for name, tensor in named[:_MOST]
    ]
    if len(named) > _MOST:
        lines.append(f"and {len(named) - _MOST} more")
    reasons = wrap(f"{type(network).__name__} is not drawn: {why}", _LETTERS)
    widths = [text_width(line, _SIZE) + 16 for line in (*reasons, *lines)]
    height = _TOP + _LEAD * (len(reasons) + len(lines)) + 40
    made, axes = canvas.page(max(640.0, *widths) + 2 * MARGIN, height, title, f"{learnt:,} learnt parameters")
    y = _TOP
    for line in reasons:
        axes.text(MARGIN, y, line, fontsize=_SIZE, va="center")
        y += _LEAD
    y += 6
    for line in lines:
        axes.add_patch(Rectangle((MARGIN, y - 4.5), 9, 9, fc=BLUE, ec="none"))
        axes.text(MARGIN + 16, y, line, fontsize=_SIZE, va="center")
        y += _LEAD
    return made
