"""Frostline for Python: `connect` to a server and `predict`."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frostline.catalog import Model, TensorSpec
    from frostline.client import AsyncClient, Client, connect, connect_async
    from frostline.errors import (
        DeadlineExceeded,
        FrostlineError,
        InvalidInput,
        MessageTooLarge,
        ModelNotFound,
        ModelNotReady,
        Overloaded,
        PredictionFailed,
        ServerUnavailable,
    )
    from frostline.prediction import Prediction

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "FrostlineError",
    "InvalidInput",
    "MessageTooLarge",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "Overloaded",
    "Prediction",
    "PredictionFailed",
    "ServerUnavailable",
    "TensorSpec",
    "__version__",
    "connect",
    "connect_async",
]

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "Model": "catalog",
    "Prediction": "prediction",
    "TensorSpec": "catalog",
    "connect": "client",
    "connect_async": "client",
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
            value = getattr(importlib.import_module(f"frostline.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
