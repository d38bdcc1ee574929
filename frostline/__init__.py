"""The Python API of Frostline: `connect` to a server and `predict`, or `publish` a network that you trained."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frostline.client.catalog import Model, TensorSpec
    from frostline.client.connection import AsyncClient, Client, connect, connect_async
    from frostline.client.errors import (
        DeadlineExceeded,
        FrostlineError,
        InvalidInput,
        MessageTooLarge,
        ModelNotFound,
        ModelNotReady,
        Overloaded,
        PermissionDenied,
        PredictionFailed,
        RateLimited,
        ServerUnavailable,
        Unauthenticated,
    )
    from frostline.client.prediction import Prediction
    from frostline.client.schema import Column, Schema
    from frostline_training.data.raw import Category, Date, Number, encode
    from frostline_training.data.rows import Image, Text
    from frostline_training.publishing.publish import publish

    __version__: str

__all__ = [
    "AsyncClient",
    "Category",
    "Client",
    "Column",
    "Date",
    "DeadlineExceeded",
    "FrostlineError",
    "Image",
    "InvalidInput",
    "MessageTooLarge",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "Number",
    "Overloaded",
    "PermissionDenied",
    "Prediction",
    "PredictionFailed",
    "RateLimited",
    "Schema",
    "ServerUnavailable",
    "TensorSpec",
    "Text",
    "Unauthenticated",
    "__version__",
    "connect",
    "connect_async",
    "encode",
    "publish",
]

_HOMES = {
    "AsyncClient": "frostline.client.connection",
    "Category": "frostline_training.data.raw",
    "Client": "frostline.client.connection",
    "Column": "frostline.client.schema",
    "Date": "frostline_training.data.raw",
    "Image": "frostline_training.data.rows",
    "Model": "frostline.client.catalog",
    "Number": "frostline_training.data.raw",
    "Prediction": "frostline.client.prediction",
    "Schema": "frostline.client.schema",
    "TensorSpec": "frostline.client.catalog",
    "Text": "frostline_training.data.rows",
    "connect": "frostline.client.connection",
    "connect_async": "frostline.client.connection",
    "encode": "frostline_training.data.raw",
    "publish": "frostline_training.publishing.publish",
}


# The server and the command line import this package too, and should not pay for the client they do not use.
# Type checkers read the imports above instead, and so see a misspelt name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'frostline' has no attribute {name!r}")
        if name == "__version__":
            value: object = importlib.import_module("importlib.metadata").version("frostline")
        else:
            value = getattr(_home(name), name)
        globals()[name] = value
        return value


def _home(name: str) -> ModuleType:
    home = _HOMES.get(name, "frostline.client.errors")
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not home.startswith("frostline_training") or package.startswith("frostline"):
            raise
        raise ModuleNotFoundError(
            f"frostline.{name} needs {package}, which is not installed: pip install 'frostline[train]'",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
