"""Training: a recipe becomes a verified, self-describing artifact in ``models/``.

A user's own script needs only ``frostline.publish``, which is this package's `publish`.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frostline_training.publishing.publish import publish

# ONNX Runtime's own wheels report usage to their maker unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["publish"]


def __getattr__(name: str) -> object:
    # Late, so that `frostline_training.config` (recipes, for `--help` and the like) does not cost the import of PyTorch.
    if name == "publish":
        return import_module("frostline_training.publishing.publish").publish
    raise AttributeError(f"module 'frostline_training' has no attribute {name!r}")
