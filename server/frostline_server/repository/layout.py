"""The layout of the models folder: whether it holds models, or is one model itself."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from frostline_server.model.artifact import is_version
from frostline_server.model_config.pbtxt import MODEL_FILE

MAX_LISTED = 1000
"""The most entries of a folder that are looked at to see what it may be."""


def why_no_folder(root: Path) -> str:
    """Why there can be no models at a path, with what to do; "" where a folder is there."""
    if os.path.isdir(root):  # noqa: PTH112  it never raises
        return ""
    if not os.path.exists(root):  # noqa: PTH110  as above
        return f"no such models folder: {root}; train one with `frostline train digits`"
    told = (
        f"{root} is no folder; `models` is the folder that has <name>/<version>/{MODEL_FILE} in it, or one model's own"
    )
    if root.name != MODEL_FILE:
        return told
    version = root.absolute().parent
    if not is_version(version.name):
        return f"{told}: for this file, {version}"
    return f"{told}: for this file, {version.parent.parent} or {version.parent}"


def layout_of(root: Path, folders: Sequence[Path], *, was_model: bool) -> Literal["models", "versions", "network"]:
    """What lies right in the models folder: models, versions of the only one, or the network of its only version.

    Args:
        root: the models folder.
        folders: the folders in it.
        was_model: whether versions lay in it until now; one that is being written anew may lack its network yet.
    """
    if any(is_version(path.name) and (was_model or os.path.lexists(path / MODEL_FILE)) for path in folders):
        return "versions"
    return "network" if os.path.lexists(root / MODEL_FILE) else "models"


def models_among(folders: Sequence[Path]) -> list[Path]:
    """Which folders, in a folder that is a model itself, are models too."""
    return [path for path in folders if not is_version(path.name) and _has_versions(path)]


def why_both(root: Path, model: str) -> str:
    """Why a folder is no model, although it looks like one."""
    return (
        f"the folder {root} is a model itself, because {MODEL_FILE} or versions lie right in it, and it holds models, "
        f"such as '{model}'; put each model into a folder of its own, as <name>/<version>/{MODEL_FILE}"
    )


def _has_versions(folder: Path) -> bool:
    try:
        with os.scandir(folder) as listing:
            names = [entry.name for entry in islice(listing, MAX_LISTED) if is_version(entry.name)]
        return any(os.path.lexists(folder / name / MODEL_FILE) for name in names)
    except OSError:
        return False
