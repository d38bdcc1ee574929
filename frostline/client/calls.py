"""The client protocol without I/O: which calls each question to a server takes.

A question is a generator: it yields the calls to make, is sent their answers, has failures thrown into it, and returns
the value for the user. The blocking and the asyncio client differ only in how they make a call.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from frostline.client import catalog
from frostline.client import schema as schemas
from frostline.client.catalog import Model
from frostline.client.errors import FrostlineError, ModelNotFound, ModelNotReady, ServerUnavailable
from frostline.client.schema import Schema
from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed

# What a failed call is looked up for may not take long: the user is waiting for the failure.
LOOK_UP_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One remote call: the method's name, the request, and the seconds it may take (None: the client's default)."""

    method: str
    request: Message | bytes
    timeout_s: float | None


Conversation = Generator[Call, Any, T]


def expects(model: Model) -> str:
    """What a model takes, for a message to the user."""
    return f"{model.name} expects {'; '.join(map(str, model.inputs))}"


def describe(name: str, version: str, timeout_s: float | None) -> Conversation[Model]:
    """Asks for one ready version's inputs and outputs; see `Client.model`."""
    try:
        config = yield Call("ModelConfig", pb.ModelConfigRequest(name=name, version=version), timeout_s)
        # Where versions share the traffic, the next question might be answered by another one.
        version = catalog.answering(version, config)
        metadata = yield Call("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version), timeout_s)
    except ModelNotFound as error:
        raise (yield from with_what_is_there(error)) from error.__cause__
    return catalog.described(version, metadata, config)


def schema(name: str, version: str, timeout_s: float | None) -> Conversation[Schema]:
    """Asks what one ready version takes and answers; see `Client.schema`."""
    try:
        told = yield Call("Schema", typed.SchemaRequest(model=name, version=version), timeout_s)
    except ModelNotFound as error:
        raise (yield from with_what_is_there(error)) from error.__cause__
    return schemas.described(told)


def list_models(timeout_s: float | None) -> Conversation[list[Model]]:
    """Asks for every version in the repository; see `Client.models`."""
    index = yield Call("RepositoryIndex", pb.RepositoryIndexRequest(), timeout_s)
    models = []
    for entry in index.models:
        model = catalog.unready(entry)
        if model.ready:
            try:
                model = yield from describe(model.name, model.version, timeout_s)
            except ModelNotFound:
                continue  # Unloaded since the index was made.
        models.append(model)
    return models


def is_ready(model: str, version: str, timeout_s: float | None) -> Conversation[bool]:
    """Asks whether the server, or one model, is ready; see `Client.ready`."""
    try:
        if model:
            answer = yield Call("ModelReady", pb.ModelReadyRequest(name=model, version=version), timeout_s)
        else:
            answer = yield Call("ServerReady", pb.ServerReadyRequest(), timeout_s)
    except (ServerUnavailable, ModelNotReady):
        return False
    return bool(answer.ready)


def with_what_is_there(error: ModelNotFound) -> Conversation[ModelNotFound]:
    """Asks what the user of a model that is not there wants to know next: which models there are."""
    return ModelNotFound(f"{error}; {(yield from _what_is_there())}", error.code, error.kind)


def _what_is_there() -> Conversation[str]:
    try:
        index = yield Call("RepositoryIndex", pb.RepositoryIndexRequest(), LOOK_UP_S)
    except FrostlineError:
        return "list what is there with `frostline models`"
    versions = [
        f"{entry.name} version {entry.version}" if entry.version else f"{entry.name} (not loaded)"
        for entry in index.models
    ]
    return f"the server has: {', '.join(versions)}" if versions else "the server has no models"
