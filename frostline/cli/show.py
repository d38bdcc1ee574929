"""The `frostline show` command: prints the card of a model version and the paths of its pictures."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frostline.cli.usage import BadUsage, CannotDo

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PICTURES = (".png", ".svg")
_MOST_CLASSES = 40
_MOST_LABELS = 12
_FROM_HERE_WHOLE = 1000  # an error in the target's unit is shown without decimals

_SHARES = ("accuracy", "macro_f1", "micro_f1", "exact_match", "mean_iou", "pixel_accuracy", "recall_at_1")
"""Scores that are shares, and so percentages. Others are areas, errors in the target's unit, or ratios."""


def command(
    model: Annotated[str, typer.Argument(help="The name of the model.", show_default=False)],
    models: Annotated[Path, typer.Option(help="The folder of models.")] = Path("models"),
    model_version: Annotated[str, typer.Option(help="The version to show. By default, the highest.")] = "",
    open_pictures: Annotated[bool, typer.Option("--open", help="Open the pictures in the desktop's viewer.")] = False,
) -> None:
    """Show the card of a model version, and the paths of its pictures."""
    # ruff: noqa: PLC0415 - rich is slow to load, and the command line imports this module for its options alone
    from rich.console import Console

    folder = _version_folder(models, model, model_version)
    show(folder, _card(folder, model), Console())
    if open_pictures:
        _open(folder)


def show(folder: Path, card: Mapping[str, Any], console: "Console") -> None:
    """Print the card of the version in `folder`, then the paths of its pictures."""
    from rich.table import Table

    facts = Table(
        title=_plain(f"{card.get('name', folder.parent.name)} version {card.get('version', folder.name)}"),
        title_justify="left",
        show_header=False,
    )
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in (*_facts(card), *_traffic(folder)):
        facts.add_row(_plain(name), _plain(value))
    console.print(facts)
    scores = _part(card, "scores")
    targets = _part(scores, "targets")
    of_each = [_classes(_part(targets, name), f" of {name}") for name in targets]
    for table in (_columns(card), _classes(scores), _values(card), *of_each):
        if table is not None:
            console.print(table)
    found = pictures(folder)
    for path in found:
        console.print(str(path), soft_wrap=True, markup=False, highlight=False)
    if not found:
        console.print("This version has no pictures.")


def pictures(folder: Path) -> list[Path]:
    """Return the paths of the pictures in the version's folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in _PICTURES)


def _version_folder(models: Path, model: str, version: str) -> Path:
    from frostline_server.model.artifact import is_version

    latest = version in ("", "latest")
    if not latest and not is_version(version):
        raise BadUsage(f"--model-version {version!r} is neither latest nor a positive number")
    parent = models / model
    if not model or Path(model).name != model or not parent.is_dir():
        there = sorted(path.name for path in models.glob("[!.]*") if path.is_dir())
        raise BadUsage(f"{models} has no model {model!r}; it has: {', '.join(there) or 'none'}")
    versions = sorted(int(path.name) for path in parent.iterdir() if path.is_dir() and is_version(path.name))
    if not versions:
        raise BadUsage(f"model {model!r} in {models} has no version")
    if not latest and int(version) not in versions:
        raise BadUsage(f"model {model!r} has no version {version}; it has: {', '.join(map(str, versions))}")
    return parent / (str(versions[-1]) if latest else version)


def _card(folder: Path, model: str) -> Mapping[str, Any]:
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotDo(f"version {folder.name} of {model!r} has no card: {path} is not there") from None
    except (OSError, ValueError) as error:
        raise CannotDo(f"the card {path} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise CannotDo(f"the card {path} is not a JSON object")
    return card


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from frostline.tables import joined

    scores, taken, exported = (_part(card, key) for key in ("scores", "input", "export"))
    rows = _part(card, "data").get("rows")
    labels = card.get("labels")
    yield "task", str(card.get("task") or "single-label")
    if isinstance(labels, list) and labels:
        more = f", and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
        what = "values" if card.get("task") == "regression" else "labels"
        yield f"{len(labels)} {what}", joined(labels[:_MOST_LABELS]) + more
    for name, classes in _part(_part(card, "data"), "targets").items():
        if isinstance(classes, list):
            more = f", and {len(classes) - _MOST_LABELS} more" if len(classes) > _MOST_LABELS else ""
            yield f"target {name}", f"{len(classes)} classes: {joined(classes[:_MOST_LABELS])}{more}"
        else:
            yield f"target {name}", "a number"
    for place, (name, shown) in enumerate(_tested(scores).items()):
        value = shown
        interval = scores.get("interval_95")
        if name in ("test_accuracy", "test_exact_match", "test_recall_at_1") and isinstance(interval, list):
            value += f"  (95 % interval {interval[0]:.2%} to {interval[1]:.2%})"
        if place == 0 and "test_rows" in scores:
            value += f"  of {scores['test_rows']} rows never seen in training"
        yield name.replace("_", " "), value
    if "test_rows" not in scores and isinstance(_part(exported, "accuracy").get("onnxruntime"), float):
        yield "accuracy", f"{exported['accuracy']['onnxruntime']:.2%} of {exported.get('held_out_rows')} held-out rows"
    for name, baseline in _part(scores, "baselines").items():
        if isinstance(baseline, dict):
            told = ", ".join(f"{each.removeprefix('test_')} {shown}" for each, shown in _tested(baseline).items())
            yield f"baseline: {name}", told.replace("_", " ") or f"skipped: {baseline.get('skipped')}"
    yield from _decision(scores)
    if "ece" in scores:
        before = f"; {scores['ece_before']:.2%} before" if isinstance(scores.get("ece_before"), float) else ""
        heat = f", temperature {scores['temperature']:.3g}" if isinstance(scores.get("temperature"), float) else ""
        yield "calibration error", f"{scores['ece']:.2%}{before}{heat}"
    variant = _part(card, "variant")
    if variant:
        yield "variant of", f"{_part(variant, 'of').get('name')} version {_part(variant, 'of').get('version')}"
        size, full = variant.get("bytes"), variant.get("full_precision_bytes")
        yield "precision", f"{variant.get('precision')}: {size:,} bytes, the full-precision file {full:,}"
        yield "against full precision", _against(variant)
    known = {
        "parameters": f"{card['parameters']:,}" if isinstance(card.get("parameters"), int) else None,
        "data": _part(card, "data").get("name"),
        "source": _part(card, "data").get("source"),
        "rows": ", ".join(f"{count} {part}" for part, count in rows.items()) if isinstance(rows, dict) else None,
        "network": _network(card),
        "input": _tensors(card, "input"),
        "output": _tensors(card, "output"),
        "send": taken.get("send") or card.get("send"),
        "largest difference": f"{exported['max_abs_difference']:.1e} between ONNX Runtime and PyTorch"
        if isinstance(exported.get("max_abs_difference"), float)
        else None,
        "created": card.get("created"),
        "made with": ", ".join(f"{name} {version}" for name, version in _part(card, "frameworks").items()),
        "sha256": card.get("sha256"),
    }
    yield from ((name, str(value)) for name, value in known.items() if value)


def _traffic(folder: Path) -> Iterator[tuple[str, str]]:
    """What part of the traffic the model's rollout gives the version, and whether it was taken back."""
    from frostline_server.errors import ConfigError
    from frostline_server.regular_files import FileReader
    from frostline_server.repository import rollout as rollouts

    try:
        rollout = rollouts.read(folder.parent, FileReader(folder.parent))
    except ConfigError as error:
        yield "traffic", str(error)
        return
    if rollout is None:
        return
    number = int(folder.name)
    parts = [
        f"{label} with {rollout.split[label]:g} % of the traffic" if label in rollout.split else label
        for label, version in rollout.labels.items()
        if version == number
    ]
    if rollout.shadow == number:
        parts.append("a copy of the traffic")
    if rollout.taken_back is not None and rollout.taken_back.version == number:
        parts.append(rollout.taken_back.told)
    if rollout.given_up is not None and rollout.given_up.version == number:
        parts.append(rollout.given_up.told)
    yield "traffic", ", ".join(parts) or "none, except requests that name it"


def _tested(scores: Mapping[str, Any]) -> dict[str, str]:
    """The scores on the test rows, as they are shown."""
    return {
        name: _number(value, share=_measure(name) in _SHARES)
        for name, value in scores.items()
        if name.startswith("test_") and _measure(name) not in ("rows", "loss")
    }


def _measure(name: str) -> str:
    """What a score of the card measures: of several targets their names and a dot are before it."""
    return name.removeprefix("test_").rpartition(".")[2]


def _decision(scores: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The thresholds that decide which labels are answered, one for each label that has one."""
    decision = _part(scores, "decision")
    parts = {name: each if isinstance(each, list) else [each] for name, each in decision.items() if name != "rule"}
    rule = decision.get("rule")
    told = " and ".join(f"{name} {value}" for name, value in rule.items()) if isinstance(rule, dict) else rule
    for at, threshold in enumerate(parts.get("threshold", ())[:_MOST_CLASSES]):
        one = {name: each[at] for name, each in parts.items() if at < len(each)}
        missed = "; the validation rows do not reach it" if one.get("reached") is False else ""
        test = _part(one, "test")
        counted = ", ".join(f"{name} {test[name]:.1%}" for name in ("precision", "recall", "f1") if name in test)
        yield (
            f"threshold of {one['label']}" if "label" in one else "threshold",
            f"{_number(threshold, share=False)}"
            + (f" ({told}{missed})" if told else "")
            + (f"; on the test rows {counted}" if counted else ""),
        )


def _against(variant: Mapping[str, Any]) -> str:
    drop = variant.get("drop_points", 0.0)
    parts = [f"{abs(drop):.2f} points {'higher' if drop < 0 else 'lower'} in {variant.get('score')}"]
    parts.append(f"{variant.get('bound_points', 0):g} lower were allowed")
    if isinstance(variant.get("disagreement_rate"), float):
        parts.append(f"{variant['disagreement_rate']:.2%} of the test rows answered differently")
    return "; ".join(parts)


def _columns(card: Mapping[str, Any]) -> "Table | None":
    """The columns of raw rows."""
    from rich.table import Table

    from frostline.tables import joined

    columns = _part(card, "rows").get("columns")
    if not isinstance(columns, list) or not columns:
        return None
    table = Table(title="columns", title_justify="left")
    for name in ("column", "kind", "range or categories"):
        table.add_column(name, overflow="fold")
    table.add_column("missing", justify="right")
    for column in columns[:_MOST_CLASSES]:
        categories = column.get("categories")
        if isinstance(categories, list):
            more = f", and {len(categories) - _MOST_LABELS} more" if len(categories) > _MOST_LABELS else ""
            told = joined(categories[:_MOST_LABELS]) + more
        else:
            bounds = [_bound(column[name]) for name in ("lowest", "highest") if column.get(name) is not None]
            told = " to ".join(bounds)
        table.add_row(
            _plain(column["name"]), _plain(str(column["kind"])), _plain(told), f"{column.get('share_missing', 0):.1%}"
        )
    if len(columns) > _MOST_CLASSES:
        table.caption = f"and {len(columns) - _MOST_CLASSES} more"
    return table


def _bound(value: object) -> str:
    """A number, or a date without a time of midnight."""
    return f"{value:g}" if isinstance(value, float | int) else str(value).removesuffix("T00:00:00").replace("T", " ")


def _classes(scores: Mapping[str, Any], whose: str = "") -> "Table | None":
    from rich.table import Table

    per_class = _part(scores, "per_class")
    if not per_class:
        return None
    table = Table(title=_plain(f"per class{whose}"), title_justify="left")
    table.add_column("class", overflow="fold")
    shown = list(per_class.items())[:_MOST_CLASSES]
    pixels = "iou" in shown[0][1]
    names = ["iou"] * pixels + ["precision", "recall", "f1"]
    for name in (*names, "pixels" if pixels else "rows"):
        table.add_column(name, justify="right")
    for label, own in shown:
        # A class that no pixel has, in truth or as answered, has no IoU.
        shares = ("" if own[name] is None else f"{own[name]:.1%}" for name in names)
        table.add_row(_plain(label), *shares, str(own["support"]))
    if len(per_class) > _MOST_CLASSES:
        table.caption = f"and {len(per_class) - _MOST_CLASSES} more"
    return table


def _values(card: Mapping[str, Any]) -> "Table | None":
    from rich.table import Table

    per_value = _part(_part(card, "scores"), "per_value")
    if len(per_value) < 2:  # of one, the scores above are all
        return None
    table = Table(title="per value, errors in its own unit", title_justify="left")
    table.add_column("value", overflow="fold")
    names = list(dict.fromkeys(name for scores in per_value.values() for name in scores))
    for name in names:
        table.add_column(_plain(name.replace("_", " ")), justify="right")
    for label, scores in list(per_value.items())[:_MOST_CLASSES]:
        table.add_row(_plain(label), *(_number(scores.get(name, ""), share=False) for name in names))
    if len(per_value) > _MOST_CLASSES:
        table.caption = f"and {len(per_value) - _MOST_CLASSES} more"
    return table


def _network(card: Mapping[str, Any]) -> str | None:
    network = _part(card, "recipe").get("network")
    if not isinstance(network, dict):
        return None
    options = ", ".join(f"{name} {value}" for name, value in network.items() if name != "family")
    return f"{network.get('family', '')}: {options}"


def _tensors(card: Mapping[str, Any], key: str) -> str | None:
    several = card.get(f"{key}s")
    tensors = several if isinstance(several, list) else [card.get(key)]
    return ", ".join(
        f"{tensor.get('name')}: {tensor.get('dtype')} {tensor['shape']}".replace("'", "")
        for tensor in tensors
        if isinstance(tensor, dict) and tensor.get("shape")
    )


def _number(value: object, *, share: bool) -> str:
    if not isinstance(value, float | int):
        return str(value)
    if share:
        return f"{value:.2%}"
    return f"{value:,.0f}" if abs(value) >= _FROM_HERE_WHOLE else f"{value:.4g}"


def _part(card: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = card.get(key)
    return value if isinstance(value, dict) else {}


def _plain(text: str) -> str:
    from rich.markup import escape

    from frostline.terminal import visible

    return escape(visible(text))


def _open(folder: Path) -> None:
    # Where a picture exists as PNG and SVG, open the PNG: more viewers can show it.
    found = [path for path in pictures(folder) if path.suffix == ".png" or not path.with_suffix(".png").exists()]
    if not found:
        raise CannotDo(f"{folder} has no pictures to open")
    for path in found:
        if typer.launch(str(path)) != 0:
            raise CannotDo(f"no viewer opens {path} here")
