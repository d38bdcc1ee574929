"""The block diagram of a network: one card for each stage, with the shapes on the arrows."""

# ruff: noqa: RUF001 - the pictures are written with the multiplication sign and Greek letters

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from frostline_training.plots import canvas, columns, glyphs
from frostline_training.plots.canvas import BLUE, FAINT, GREEN, INK, MARGIN, ORANGE, PURPLE, text_width
from frostline_training.plots.stages import Part, Stage, by, described, parts
from frostline_training.plots.trace import Layer

WIDTH = 1080.0  # points
GAP, PAD, FRAME = 22.0, 11.0, 13.0
TITLE, BODY, SMALL = 10.5, 9.0, 8.0
LEAD = 15.0  # from one line to the next
ROW_GAP = 62.0
LANE, LANES = 10.0, 8.0  # from one skip to the next, and from the cards to the first

COLOURS = {"weight": BLUE, "bias": ORANGE, "norm": PURPLE, "fixed": FAINT, "none": "#a0a6b0"}
_GATES = {
    "LSTM": ("σ gates: input, forget, output", "tanh of state and candidate"),
    "GRU": ("σ gates: reset, update", "tanh of candidate"),
    "RNN tanh": ("tanh of the new state",),
    "RNN relu": ("ReLU of the new state",),
}


@dataclass(frozen=True)
class _Line:
    kind: str
    text: str
    height: float = LEAD
    cells: tuple[tuple[str, ...], ...] = ()  # of a table, its columns side by side, each of some lines

    @property
    def width(self) -> float:
        if self.cells:
            return columns.width(self.cells)
        return text_width(
            self.text, TITLE if self.kind == "title" else BODY, "bold" if self.kind == "title" else "normal"
        ) + {"title": 0, "name": 0, "activation": 36}.get(self.kind, 16)


@dataclass
class _Card:
    stage: Stage
    lines: tuple[_Line, ...]
    width: float
    height: float
    passes: str
    x: float = 0.0
    y: float = 0.0

    @property
    def middle(self) -> float:
        return self.y + 34


@dataclass(frozen=True)
class _Skip:
    """A path past the cards between, below them: from a card's output, or from what goes into it.

    It ends at the foot of the card that adds or joins it, or goes into one that takes nothing else.
    """

    start: _Card
    before: bool  # whether it is what goes into `start`
    end: _Card
    into: bool
    lane: int


@dataclass
class _Box:
    """A part of the network with its cards: what is never broken over two rows."""

    part: Part
    cards: list[_Card]

    @property
    def framed(self) -> bool:
        return bool(self.part.group)

    @property
    def width(self) -> float:
        inside = sum(card.width for card in self.cards) + sum(_arrow(card) for card in self.cards[:-1])
        return inside + 2 * FRAME * self.framed


def draw(
    found: Sequence[Stage], *, title: str, learnt: int, names: Sequence[str] = (), answer: Sequence[str] = ()
) -> Figure:
    """Draw the stages, and behind the last what becomes of its outputs, and return the figure.

    Args:
        found: The stages of the network.
        title: What stands above it.
        learnt: How many numbers it has learnt.
        names: Those of a table's columns.
        answer: What becomes of the outputs, step by step.
    """
    order = [layer for stage in found for layer in stage.layers]
    boxes = [_Box(part, [_card(stage, order, names) for stage in part.stages]) for part in parts(found)]
    if answer:
        boxes.append(_behind(answer, found[-1]))
    rows = _rows(boxes)
    skips = [_skips([card for box in row for card in box.cards], order) for row in rows]
    # How far what belongs to a row reaches: its cards, and below them the skips.
    heights = [
        max(card.height for box in row for card in box.cards)
        + (LANES + LANE * max(skip.lane + 1 for skip in past) if past else 0)
        for row, past in zip(rows, skips, strict=True)
    ]
    widest = max(_row_width(row) for row in rows)
    width = max(640.0, widest + 2 * MARGIN)
    top = 88.0
    for row, height in zip(rows, heights, strict=True):
        x = MARGIN
        top += 20.0 * any(box.framed for box in row)
        for box in row:
            x += FRAME * box.framed
            for card in box.cards:
                card.x, card.y = x, top
                x += card.width + _arrow(card)
            x += FRAME * box.framed
        top += height + ROW_GAP
    made, axes = canvas.page(width, top + 12, title, f"{learnt:,} learnt parameters; shapes are those of one row")
    cards = [card for row in rows for box in row for card in box.cards]
    for row, height in zip(rows, heights, strict=True):
        for box in row:
            _frame(axes, box, height)
    for card in cards:
        _draw_card(axes, card)
    for past in skips:
        for skip in past:
            _draw_skip(axes, skip, max(card.y + card.height for card in cards if card.y == skip.end.y))
    places = {id(card): index for index, row in enumerate(rows) for box in row for card in box.cards}
    for before, after in pairwise(cards):
        if after.stage.layers and _elsewhere(after.stage, order):
            continue
        _connect(
            axes,
            before,
            after,
            same_row=places[id(before)] == places[id(after)],
            bottom=before.y + heights[places[id(before)]],
        )
    _legend(axes, top - 6)
    return made


def _behind(answer: Sequence[str], last: Stage) -> _Box:
    # It is no part of the exported network, so it is no stage, but readers look for it there.
    stage = Stage("answer", (), last.gave)
    lines = (_Line("text", "behind the network"), *(_Line("activation", words, 22.0) for words in answer))
    width = max(line.width for line in lines) + 16 + 2 * PAD
    card = _Card(stage, lines, width, sum(line.height for line in lines) + 2 * PAD, "")
    return _Box(Part((stage,)), [card])


def _skips(cards: Sequence[_Card], order: Sequence[Layer]) -> list[_Skip]:
    # Of one row. What comes from another row, or from a repeat that is not drawn, is only told in words.
    homes = {id(layer): card for card in cards for layer in card.stage.layers}
    wanted: list[tuple[int | None, _Card, bool]] = []
    for end in cards:
        if end.stage.layers and _elsewhere(end.stage, order):
            wanted.append((end.stage.layers[0].takes, end, True))
        for layer in end.stage.layers:
            past = layer.joins if layer.skips_from is None else (layer.skips_from,)
            wanted += [(source, end, False) for source in past]
    found: list[_Skip] = []
    for source, end, into in wanted:
        if source is None:  # what the network was given
            home = next((card for card in cards if card.stage.role == "input"), None)
        else:
            home = homes.get(id(order[source]))
        if home is not None and home is not end:
            found.append(_Skip(home, False, end, into, len(found)))
        elif home is None and source is not None:
            # It comes from the row before, into the first layer of a card of this one.
            layer = order[source + 1]
            first = homes.get(id(layer))
            if first is not None and first.stage.layers[0] is layer and layer.takes == source and not layer.aside:
                found.append(_Skip(first, True, end, into, len(found)))
    return found


def _draw_skip(axes: Axes, skip: _Skip, bottom: float) -> None:
    lane = bottom + LANES + LANE * skip.lane
    aside = 9 * (skip.lane % 3)
    if skip.before:
        start = skip.start.x - 8
        axes.add_patch(Circle((start, skip.start.middle), 2.4, fc=INK, ec="none"))
        path = [(start, skip.start.middle)]
    else:
        start = skip.start.x + skip.start.width - 24 - aside
        path = [(start, skip.start.y + skip.start.height)]
    if skip.into:
        end = skip.end.x - 11
        path += [(start, lane), (end, lane), (end, skip.end.middle), (skip.end.x, skip.end.middle)]
    else:
        end = skip.end.x + 24 + aside
        path += [(start, lane), (end, lane), (end, skip.end.y + skip.end.height)]
    glyphs.arrow(axes, path)


def _rows(boxes: Sequence[_Box]) -> list[list[_Box]]:
    rows: list[list[_Box]] = [[]]
    for box in boxes:
        if rows[-1] and _row_width([*rows[-1], box]) > WIDTH - 2 * MARGIN:
            rows.append([])
        rows[-1].append(box)
    return rows


def _row_width(row: Sequence[_Box]) -> float:
    return sum(box.width for box in row) + sum(_arrow(box.cards[-1]) for box in row[:-1])


def _arrow(card: _Card) -> float:
    return text_width(card.passes, SMALL) + 2 * GAP


def _card(stage: Stage, order: Sequence[Layer], names: Sequence[str]) -> _Card:
    lines = [line for layer in stage.layers for line in _lines(layer, order, names)]
    if stage.layers and _elsewhere(stage, order):
        takes = stage.layers[0].takes
        lines.insert(
            0, _Line("text", "takes raw values" if takes is None else f"takes the output of {_called(order[takes])}")
        )
    if stage.role == "input" and not lines:
        lines = [_Line("title", "raw values"), _Line("text", "as a client sends them")]
    elif stage.role == "input":
        lines.insert(0, _Line("title", "raw values"))
    width = max(86.0, *(line.width for line in lines)) + 2 * PAD
    return _Card(stage, tuple(lines), width, sum(line.height for line in lines) + 2 * PAD, _passes(stage, order))


def _elsewhere(stage: Stage, order: Sequence[Layer]) -> bool:
    # Whether a stage takes something else than what the stage before it gives.
    place = next(index for index, layer in enumerate(order) if layer is stage.layers[0])
    takes = stage.layers[0].takes
    return place > 0 and stage.role != "input" and takes != place - 1


def _passes(stage: Stage, order: Sequence[Layer]) -> str:
    # What the next layer takes may be a part of what this one gives: the last step in time, say.
    behind = [layer for layer in order if layer is stage.layers[-1]] if stage.layers else []
    place = order.index(behind[0]) + 1 if behind else 0
    chained = 0 < place < len(order) and order[place].takes == place - 1
    taken = order[place].took if chained else stage.gave
    return by(stage.gave) if taken == stage.gave else f"{by(stage.gave)} → {by(taken)}"


def _lines(  # noqa: PLR0911, PLR0912 a table, one case for each kind
    layer: Layer, order: Sequence[Layer], names: Sequence[str]
) -> list[_Line]:
    match layer.kind:
        case "table":
            return [
                _Line("text", layer.title),
                *_side_by_side(layer, names),
                _Line("text", f"join  → {by(layer.gave)}"),
            ]
        case "activation":
            return [_Line("activation", layer.title, 22.0)]
        case "dropout":
            return [_Line("text", f"{layer.title} (training only)")]
        case "reshape" if layer.took == layer.gave:
            return []
        case "pool" | "reshape":
            return [_Line("text", f"{layer.title}  → {by(layer.gave)}")]
        case "add":
            if layer.skips_from is None:
                return [_Line("add", "adds two paths")]
            past = order[layer.skips_from + 1]
            if past.aside:
                return [_Line("add", f"adds {_called(past)} to {_called(order[layer.skips_from])}")]
            if past.takes != layer.skips_from:
                return [_Line("add", f"adds the output of {_called(order[layer.skips_from])}")]
            return [_Line("add", f"adds what went into {_called(past)}")]
        case "norm" if layer.title.startswith("+ "):
            return [_Line("add", f"adds {layer.title[2:]}")]
        case "norm":
            held = [_Line(kind, words) for kind, words in described(layer)]
            return [_Line("norm_title", layer.title), *held]
    lines = (
        [_Line("title", layer.title, 18.0)]
        if not layer.title.startswith("+ ")
        else [_Line("add", f"adds {layer.title[2:]}")]
    )
    if layer.name and not layer.title.startswith("+ ") and not layer.name.rpartition(".")[2].isdecimal():
        lines.append(_Line("name", layer.name))
    lines += [_Line(kind, words) for kind, words in described(layer)]
    if layer.kind == "recurrent":
        lines.append(_Line("steps", "", 34.0))
        if getattr(layer.module, "bidirectional", False):
            lines.append(_Line("steps_back", "", 34.0))
        kind = layer.title.split(" ×")[0].split(",")[0]
        lines += [_Line("activation", words, 22.0) for words in _GATES.get(kind, ())]
    if layer.kind == "attention":
        lines.append(_Line("activation", "softmax of query · key", 22.0))
    return lines


def _side_by_side(layer: Layer, names: Sequence[str]) -> list[_Line]:
    return [_Line("cells", "", columns.height(row), tuple(row)) for row in columns.rows(layer, names)]


def _called(layer: Layer) -> str:
    last = layer.name.rpartition(".")[2]
    return canvas.shortened(layer.title if not last or last.isdecimal() else last, 26)


def _draw_card(axes: Axes, card: _Card) -> None:
    role = card.stage.role
    colour = {"input": FAINT, "output": GREEN, "answer": FAINT}.get(role, BLUE)
    axes.add_patch(
        FancyBboxPatch(
            (card.x, card.y),
            card.width,
            card.height,
            boxstyle="round,pad=0,rounding_size=5",
            fc="#fbfcfd",
            ec=colour,
            lw=1.4,
        )
    )
    axes.text(card.x + 2, card.y - 8, role.upper(), fontsize=SMALL, weight="bold", color=colour, va="center")
    y = card.y + PAD
    x = card.x + PAD
    for line in card.lines:
        middle = y + line.height / 2
        match line.kind:
            case "title":
                axes.text(x, middle, line.text, fontsize=TITLE, weight="bold", va="center")
            case "name":
                axes.text(x, middle, line.text, fontsize=SMALL, color=FAINT, va="center")
            case "text":
                axes.text(x, middle, line.text, fontsize=BODY, color=FAINT, va="center")
            case "activation":
                glyphs.pill(axes, x, middle, line.text, card.width - 2 * PAD)
            case "add":
                glyphs.plus(axes, x + 5.5, middle)
                axes.text(x + 16, middle, line.text, fontsize=BODY, va="center")
            case "steps" | "steps_back":
                glyphs.steps(axes, x, middle, card.width - 2 * PAD, backward=line.kind == "steps_back")
            case "cells":
                columns.draw(axes, line.cells, x, y, line.height)
            case "norm_title":
                axes.text(x, middle, line.text, fontsize=BODY, weight="bold", color=PURPLE, va="center")
            case _:
                axes.add_patch(Rectangle((x + 1, middle - 4.5), 9, 9, fc=COLOURS[line.kind], ec="none"))
                axes.text(x + 16, middle, line.text, fontsize=BODY, va="center", color=INK)
        y += line.height


def _connect(axes: Axes, before: _Card, after: _Card, *, same_row: bool, bottom: float) -> None:
    start = before.x + before.width
    if same_row:
        glyphs.arrow(axes, [(start, before.middle), (after.x, after.middle)])
        axes.text(
            (start + after.x) / 2,
            before.middle - 9,
            before.passes,
            fontsize=SMALL,
            ha="center",
            va="center",
            color=FAINT,
        )
        return
    turn = bottom + 30
    out = start + (FRAME + 11 if before.stage.group else 14)
    side = MARGIN - 14  # left of every card and frame
    glyphs.arrow(
        axes,
        [
            (start, before.middle),
            (out, before.middle),
            (out, turn),
            (side, turn),
            (side, after.middle),
            (after.x, after.middle),
        ],
    )
    axes.text((out + side) / 2, turn - 8, before.passes, fontsize=SMALL, ha="center", va="center", color=FAINT)


def _frame(axes: Axes, box: _Box, height: float) -> None:
    if not box.framed:
        return
    left, right = box.cards[0].x - FRAME, box.cards[-1].x + box.cards[-1].width + FRAME
    top = box.cards[0].y - 34
    axes.add_patch(Rectangle((left, top), right - left, height + 34 + 8, fc="none", ec=PURPLE, lw=1.1, ls=(0, (4, 3))))
    times = f"{box.part.times} of these in a row, the first is drawn: " if box.part.times > 1 else ""
    axes.text(left + 6, top + 11, f"{times}{box.part.group}", fontsize=SMALL, color=PURPLE, va="center", weight="bold")


def _legend(axes: Axes, y: float) -> None:
    x = MARGIN
    for colour, words in (
        (BLUE, "weights (learnt)"),
        (ORANGE, "biases (learnt)"),
        (PURPLE, "normalisation (learnt)"),
        (FAINT, "measured or chosen, not learnt"),
    ):
        axes.add_patch(Rectangle((x, y - 4.5), 9, 9, fc=colour, ec="none"))
        axes.text(x + 14, y, words, fontsize=SMALL, va="center", color=FAINT)
        x += text_width(words, SMALL) + 32
    glyphs.pill(axes, x, y, "activation", 84)
