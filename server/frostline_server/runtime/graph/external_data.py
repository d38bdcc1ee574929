"""External data: the files that hold weights of an ONNX file."""

import os
from pathlib import Path

import onnx

from frostline_server.errors import LoadError
from frostline_server.runtime.graph.traversal import tensors


def external_files(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Names of the files beside the ONNX file `path` that hold its weights.

    Raises:
        LoadError: one is missing, or is not in the same folder.
    """
    names = dict.fromkeys(
        entry.value
        for tensor in tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    for name in names:
        weights_file(path, name)
    return tuple(names)


def weights_file(path: Path, name: str) -> Path:
    """A file that holds weights of the ONNX file `path`.

    It is in the same folder, or in a folder in it. It may be a link, which is followed as far as links may lead; but no
    folder on the way may be one: through it, the ONNX file could name any file below where the link leads.

    Args:
        path: the ONNX file.
        name: as in the ONNX file, or in the card.

    Raises:
        LoadError: it is missing, or somewhere else.
    """
    parts, folder = Path(name).parts, path.parent
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise LoadError(f"{path.name} has weights in '{name}'; they must be in the version's own folder")
    for part in parts[:-1]:
        folder /= part
        if os.path.islink(folder):  # noqa: PTH114  pathlib raises for a name that no file can have
            raise LoadError(
                f"{path.name} has weights in '{name}', but '{part}' is a link to another folder; put the files themselves, "
                "or links to them, into the version's own folder"
            )
    if not os.path.isfile(path.parent / name):  # noqa: PTH113  as above
        raise LoadError(f"{path.name} has weights in '{name}', which is missing from the version's folder")
    return path.parent / name
