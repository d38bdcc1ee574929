"""Recipe overrides: a recipe as the command line names it, with some of its settings changed.

The recipe is a built-in one or is in a user's file.
"""

import json
import re
import runpy
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from frostline_training.config import Recipe, find_recipe
from frostline_training.errors import SettingError, TrainingError, first_line

_OWN_SETTINGS = (
    "calibrate",
    "threshold",
    "positive",
    "baselines",
    "seed",
    "split_seed",
    "threads",
    "validation",
    "test",
)
_TEXTS = ("positive",)
"""Settings that are texts, which may look like something else: the class `true`."""
_TRUTHS: Mapping[str, bool] = {"true": True, "false": False}
_EXPECTED: Mapping[type, str] = {int: "a whole number", float: "a number"}
_RENAMED: Mapping[str, str] = {"server": "frostline_server", "training": "frostline_training"}
"""The packages that version 0.1 put into site-packages under names that users need themselves."""


def choose(named: str, assignments: Sequence[str] = ()) -> Recipe:
    """Return the built-in recipe called `named`, or the one in that file, changed by `assignments`.

    Raises:
        TrainingError: There is none, or a value cannot be changed so.
    """
    return with_settings(_in_file(Path(named)) if named.endswith(".py") else find_recipe(named), assignments)


def precisions(named: Sequence[str]) -> tuple[Literal["fp16", "int8"], ...]:
    """Return the precisions called so, each once.

    Raises:
        SettingError: There is no such precision.
    """
    known: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8")
    for name in named:
        if name not in known:
            raise SettingError(f"precision {name!r} is not one of {', '.join(known)}")
    return tuple(each for each in known if each in named)


def settings(recipe: Recipe) -> dict[str, object]:
    """Return what `with_settings` can change in `recipe`, with the present values."""
    own = {name: getattr(recipe, name) for name in _OWN_SETTINGS}
    network = recipe.network.model_dump(exclude={"family"})
    return recipe.hyperparameters.model_dump() | network | own


def with_settings(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Return `recipe` with other values: ``epochs=5``, ``hidden=64,32``, ``bidirectional=true``.

    Raises:
        SettingError: There is no such setting, its value is of the wrong type or out of range, or it has two.
    """
    values = recipe.model_dump()
    changed: dict[str, str] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise SettingError(f"--set {assignment}: write it as name=value")
        if key not in settings(recipe):
            raise SettingError(
                f"{recipe.name} has no setting {key!r}; there are: {', '.join(sorted(settings(recipe)))}"
            )
        if key in changed:
            raise SettingError(f"--set {changed[key]} and --set {assignment} set the same: leave out one of them")
        changed[key] = assignment
        owner = values if key in _OWN_SETTINGS else values["hyperparameters"]
        owner = owner if key in owner else values["network"]
        owner[key] = (text or None) if key in _TEXTS else _parsed(key, text, like=owner[key])
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(next((part for part in reversed(first["loc"]) if isinstance(part, str)), ""))
        told = where if where in settings(recipe) else ""
        raise SettingError(f"{told or 'the settings'}: {first['msg'].removeprefix('Value error, ')}") from error


def _parsed(name: str, text: str, *, like: object) -> object:
    if isinstance(like, tuple):
        return tuple(part.strip() for part in text.strip("[]() ").split(",") if part.strip())
    if isinstance(like, str):
        return text
    # pydantic takes true for the number 1.
    truth = _TRUTHS.get(text.strip().lower())
    if truth is not None and isinstance(like, int | float) and not isinstance(like, bool):
        raise SettingError(f"{name}: expected {_EXPECTED[type(like)]}, got {text}")
    if truth is not None:
        return truth
    if re.search(r"\b(true|false)\b", text):  # among other values
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # for the value's own type to refuse


def _in_file(path: Path) -> Recipe:
    try:
        values = runpy.run_path(str(path))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SettingError(f"{path}: {error.title}{f', {place}' if place else ''}: {said}") from error
    except TrainingError:
        raise
    except Exception as error:  # the user's own code: anything may come out
        said = f"{path} fails: {type(error).__name__}: {first_line(error)}"
        instead = _import_now(error)
        raise SettingError(f"{said}; since version 0.2, write: {instead}" if instead else said) from error
    found = {id(value): value for value in values.values() if isinstance(value, Recipe)}
    if len(found) != 1:
        raise SettingError(f"{path} must hold one Recipe, and holds {len(found) or 'none'}")
    return _beside(path, next(iter(found.values())))


def _beside(file: Path, recipe: Recipe) -> Recipe:
    """Return `recipe` with the path of its data taken from the folder of its `file`, not from the current one."""
    if isinstance(recipe.data, str) or recipe.data.path.is_absolute():
        return recipe
    data = recipe.data.model_copy(update={"path": file.parent / recipe.data.path})
    return recipe.model_copy(update={"data": data})


def _import_now(error: Exception) -> str:
    """Return what to write instead of the import that failed; nothing if it is not one of version 0.1's packages."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if package not in _RENAMED:
        return ""
    # The frames of the import system are not in an import error's traceback: the last one is the import statement.
    statement = re.sub(r"\($", "...", traceback.extract_tb(error.__traceback__)[-1].line or "")
    if re.match(r"from training import \(?publish\b", statement):
        return "from frostline import publish"
    return re.sub(rf"^(from|import) {package}\b", rf"\1 {_RENAMED[package]}", statement)
