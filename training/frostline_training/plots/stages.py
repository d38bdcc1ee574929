"""The stages of a traced network, from input to output; equal repeats are one stage."""

# ruff: noqa: RUF001, RUF002 - the pictures are written with the multiplication sign

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from frostline_training.plots.trace import Layer, Parameter, Shape

HEADS = ("weights", "recurrent", "attention", "embedding", "other")


@dataclass(frozen=True)
class Stage:
    """One layer that learns, with the small ones behind it.

    Attributes:
        role: ``input``, ``hidden 3`` or ``output``.
        layers: In the order of the calls; none learns but the first (and norms).
        gave: The shape of one row behind it.
        group: The repeated part that it belongs to, or "".
    """

    role: str
    layers: tuple[Layer, ...]
    gave: Shape
    group: str = ""


@dataclass(frozen=True)
class Part:
    """Stages that stand together; `times` of them follow each other, alike in every shape."""

    stages: tuple[Stage, ...]
    group: str = ""
    times: int = 1


def stages(layers: Sequence[Layer]) -> tuple[Stage, ...]:
    """Group `layers` into an input stage, hidden stages and the output stage."""
    cut: list[list[Layer]] = [[]]
    for layer in layers:
        last = cut[-1]
        headed = any(known.kind in HEADS for known in last)
        # Learnt positions belong to the layer they are added to.
        loose = layer.title.startswith("+ ") or (layer.aside and headed)
        begins = layer.kind in HEADS and not loose and (headed or len(cut) == 1)
        changed = bool(last) and layer.group != last[-1].group and layer.kind not in ("add", "activation") and headed
        if begins or changed:
            cut.append([])
        cut[-1].append(layer)
    if len(cut) > 2 and not any(layer.kind in HEADS for layer in cut[-1]):
        behind = cut.pop()  # what stands behind the last layer that learns, a temperature say
        cut[-1] += behind
    shape = layers[0].took
    found = [Stage("input", tuple(cut[0]), cut[0][-1].gave if cut[0] else shape)]
    for number, part in enumerate(cut[1:], start=1):
        role = "output" if number == len(cut) - 1 else f"hidden {number}"
        found.append(Stage(role, tuple(part), part[-1].gave, part[0].group))
    return tuple(found)


def parts(found: Sequence[Stage]) -> tuple[Part, ...]:
    """Put stages of one group together, and groups that are alike in every shape into one."""
    grouped = [(name, tuple(same)) for name, same in groupby(found, key=lambda stage: stage.group)]
    told: list[Part] = []
    for name, same in grouped:
        if not name:
            told += [Part((stage,)) for stage in same]
        elif told and told[-1].group and _likeness(told[-1].stages) == _likeness(same):
            told[-1] = replace(told[-1], times=told[-1].times + 1)
        else:
            told.append(Part(same, name))
    return tuple(told)


def described(layer: Layer) -> Iterator[tuple[str, str]]:
    """Yield what a layer holds as (kind, words): kind is weight, bias or fixed."""
    if layer.kind == "norm":
        learnt = [parameter for parameter in layer.parameters if parameter.kind != "fixed"]
        if learnt:
            yield "norm", "scale and shift  " + " + ".join(f"{parameter.count:,}" for parameter in learnt)
        fixed = [parameter for parameter in layer.parameters if parameter.kind == "fixed" and parameter.shape]
        if fixed:
            names = " and ".join(parameter.name.removeprefix("running_") for parameter in fixed)
            yield "fixed", f"{names}  {fixed[0].count:,} each"
        return
    for words, kind, members in _families(layer.parameters):
        total = sum(parameter.count for parameter in members)
        shapes = {parameter.shape for parameter in members}
        if len(members) == 1:
            shown = f"{by(members[0].shape)} = {total:,}" if len(members[0].shape) > 1 else f"{total:,}"
        elif len(shapes) == 1:
            shape = by(members[0].shape)
            shown = f"{len(members)} × {f'({shape})' if len(members[0].shape) > 1 else shape} = {total:,}"
        elif len(shapes) == 2:
            shown = f"{' and '.join(by(shape) for shape in sorted(shapes))}, {len(members)} in all = {total:,}"
        else:
            shown = f"{len(members)} tensors = {total:,}"
        yield kind, f"{words}  {shown}"
    loose = layer.title.startswith("+ ")
    if layer.kind == "weights" and not loose and all(known.kind != "bias" for known in layer.parameters):
        yield "none", "no biases"


def by(shape: Shape) -> str:
    """Return a shape in words: ``32 × 8 × 8``."""
    return " × ".join(str(size) for size in shape) or "1"


def _families(parameters: Sequence[Parameter]) -> Iterator[tuple[str, str, list[Parameter]]]:
    families: dict[tuple[str, str], list[Parameter]] = {}
    for parameter in parameters:
        families.setdefault((_family(parameter), parameter.kind), []).append(parameter)
    for (words, kind), members in families.items():
        yield words, kind, members


def _family(parameter: Parameter) -> str:
    name = parameter.name
    for start, words in (
        ("weight_ih", "input weights"),
        ("weight_hh", "recurrent weights"),
        ("in_proj_weight", "query, key, value weights"),
        ("in_proj_bias", "query, key, value biases"),
        ("out_proj.weight", "output weights"),
        ("out_proj.bias", "output biases"),
        ("weight", "weights"),
        ("bias", "biases"),
    ):
        if name.startswith(start):
            return words
    return name.replace("_", " ")


def _likeness(same: Sequence[Stage]) -> tuple[object, ...]:
    return tuple(
        (layer.title, layer.kind, layer.took, layer.gave, layer.parameters) for stage in same for layer in stage.layers
    )
