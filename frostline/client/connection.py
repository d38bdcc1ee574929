"""The client's connection to a server, blocking and for asyncio."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from numpy.typing import ArrayLike

from frostline.client import calls, messages
from frostline.client.calls import Call, Conversation
from frostline.client.catalog import Model
from frostline.client.channel import arguments as channel_arguments
from frostline.client.channel import check_timeout
from frostline.client.errors import FrostlineError, from_status
from frostline.client.messages import OutputName
from frostline.client.prediction import Prediction
from frostline.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from frostline.pb.predictor_pb2 import PredictResponse
from frostline.protocol import ERROR_KIND, PREDICT

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0


def connect(
    address: str | Sequence[str] = "localhost:8001",
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    tls: bool | str | Path = False,
    server_name: str = "",
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    token: str | None = None,
    insecure_token: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> "Client":
    """Prepares the connection to a server, or to a pool of them; it is made when the first call needs it.

    Args:
        address: `host:port`, or `unix:PATH`, for one server; the port is 8001 when left out. `dns:///NAME:PORT`, for all
            addresses of a name, or a list of IP addresses, for a pool of servers that share the calls.
        timeout_s: How long a call may take, retries included, unless the call says otherwise.
        tls: True to speak TLS and trust the usual authorities; a path to trust the certificates in that PEM file.
        server_name: The name that the server's certificate must have, where it is not in the address.
        certificate: A PEM file, the certificate chain of this client, for servers that ask for one; needs TLS.
        key: A PEM file, the private key of that certificate.
        token: A bearer token, sent with every call. Without TLS it is sent only on this machine: to a loopback address
            or a Unix socket.
        insecure_token: Whether the token may go over a network in plain text.
        metadata: Headers sent with every call, such as one that a proxy asks for.

    Returns:
        The client, to be closed, or used in a `with` statement.

    Raises:
        ValueError: An argument makes no sense, or the token would go over a network in plain text.
        OSError: A PEM file cannot be read.
    """
    check_timeout(timeout_s)
    given = channel_arguments(
        address,
        tls=tls,
        server_name=server_name,
        certificate=certificate,
        key=key,
        token=token,
        insecure_token=insecure_token,
        metadata=metadata,
    )
    channel = (
        grpc.secure_channel(given.target, given.credentials, given.options)
        if given.credentials
        else grpc.insecure_channel(given.target, given.options)
    )
    return Client(channel, given.address, timeout_s, given.metadata)


def connect_async(
    address: str | Sequence[str] = "localhost:8001",
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    tls: bool | str | Path = False,
    server_name: str = "",
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    token: str | None = None,
    insecure_token: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> "AsyncClient":
    """Prepares the connection to a server, or to a pool of them, for asyncio; see `connect`.

    Call it inside the running event loop. Arguments and errors are those of `connect`.

    Returns:
        The client, to be closed, or used in an `async with` statement.
    """
    check_timeout(timeout_s)
    given = channel_arguments(
        address,
        tls=tls,
        server_name=server_name,
        certificate=certificate,
        key=key,
        token=token,
        insecure_token=insecure_token,
        metadata=metadata,
    )
    channel = (
        grpc.aio.secure_channel(given.target, given.credentials, given.options)
        if given.credentials
        else grpc.aio.insecure_channel(given.target, given.options)
    )
    return AsyncClient(channel, given.address, timeout_s, given.metadata)


class Client:
    """A connection to a server for blocking code; made by `connect`, and safe to share between threads.

    Attributes:
        address: Where the server is.
    """

    def __init__(
        self, channel: grpc.Channel, address: str, timeout_s: float, metadata: Mapping[str, str] | None
    ) -> None:
        self._channel = channel
        self._predict = _predict(channel)
        self._methods = _methods(channel)
        self.address = address
        self._timeout_s = timeout_s
        self._metadata = tuple((metadata or {}).items())

    def predict(
        self,
        model: str,
        inputs: ArrayLike | Mapping[str, ArrayLike],
        *,
        version: str = "",
        outputs: Iterable[OutputName] | None = None,
        top_k: int = 0,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Runs rows through a model.

        float64 arrays, NumPy's default, and Python lists of numbers are sent as float32; any other array is sent
        with its own element type.

        Args:
            model: The model's name.
            inputs: The rows, batch axis first; a dict of arrays by name for a model with several inputs.
            version: The version in decimal; empty or "latest" for the highest ready one.
            outputs: Any of "logits", "softmax" and "argmax".  None asks for all three, or for the ranking alone when
                `top_k` is given.
            top_k: How many of the most probable classes the server shall rank, with their labels.
            timeout_s: How long the call may take, retries included; None for the client's default.

        Returns:
            The prediction.

        Raises:
            FrostlineError: The call failed; the subclass tells how.
            ValueError: There is no such output, or `top_k` is negative.
        """
        request = messages.request(model, inputs, version=version, outputs=outputs, top_k=top_k)
        allowed_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        try:
            response = self._predict(request, timeout=allowed_s, metadata=self._metadata)
        except grpc.RpcError as error:
            failure = _translated(error, self.address, allowed_s)
            raise self._hold(calls.explained(failure, model, str(version))) from error
        return messages.prediction(response, top_k)

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Every version of every model in the server's repository, by name and number.

        Raises:
            FrostlineError: The call failed; the subclass tells how.
        """
        return self._hold(calls.list_models(timeout_s))

    def model(self, name: str, *, version: str = "", timeout_s: float | None = None) -> Model:
        """One ready version, with its inputs and outputs; the highest one for an empty `version`.

        Raises:
            FrostlineError: The call failed; the subclass tells how.
        """
        return self._hold(calls.describe(name, version, timeout_s))

    def ready(self, model: str = "", *, version: str = "", timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its models, is ready for traffic; False when no server answers.

        Raises:
            ModelNotFound: There is no such model.
            FrostlineError: The call failed in another way than finding no server.
        """
        return self._hold(calls.is_ready(model, version, timeout_s))

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, talk: Conversation[T]) -> T:
        try:
            call = next(talk)
            while True:
                try:
                    answer = self._call(call)
                except FrostlineError as error:
                    call = talk.throw(error)
                else:
                    call = talk.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    def _call(self, call: Call) -> Any:
        timeout_s = self._timeout_s if call.timeout_s is None else check_timeout(call.timeout_s)
        try:
            return self._methods[call.method](call.request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _translated(error, self.address, timeout_s) from error


class AsyncClient:
    """A connection to a server for asyncio; made by `connect_async`, with the methods of `Client` as coroutines.

    Cancelling the task that awaits a call cancels the call on the server too.

    Attributes:
        address: Where the server is.
    """

    def __init__(
        self, channel: grpc.aio.Channel, address: str, timeout_s: float, metadata: Mapping[str, str] | None
    ) -> None:
        self._channel = channel
        self._predict = _predict(channel)
        self._methods = _methods(channel)
        self.address = address
        self._timeout_s = timeout_s
        self._metadata = grpc.aio.Metadata(*(metadata or {}).items())

    async def predict(
        self,
        model: str,
        inputs: ArrayLike | Mapping[str, ArrayLike],
        *,
        version: str = "",
        outputs: Iterable[OutputName] | None = None,
        top_k: int = 0,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Runs rows through a model; see `Client.predict`."""
        request = messages.request(model, inputs, version=version, outputs=outputs, top_k=top_k)
        allowed_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        try:
            response = await self._predict(request, timeout=allowed_s, metadata=self._metadata)
        except grpc.RpcError as error:
            failure = _translated(error, self.address, allowed_s)
            raise await self._hold(calls.explained(failure, model, str(version))) from error
        return messages.prediction(response, top_k)

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Every version of every model in the server's repository; see `Client.models`."""
        return await self._hold(calls.list_models(timeout_s))

    async def model(self, name: str, *, version: str = "", timeout_s: float | None = None) -> Model:
        """One ready version, with its inputs and outputs; see `Client.model`."""
        return await self._hold(calls.describe(name, version, timeout_s))

    async def ready(self, model: str = "", *, version: str = "", timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its models, is ready for traffic; see `Client.ready`."""
        return await self._hold(calls.is_ready(model, version, timeout_s))

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _hold(self, talk: Conversation[T]) -> T:
        try:
            call = next(talk)
            while True:
                try:
                    answer = await self._call(call)
                except FrostlineError as error:
                    call = talk.throw(error)
                else:
                    call = talk.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _call(self, call: Call) -> Any:
        timeout_s = self._timeout_s if call.timeout_s is None else check_timeout(call.timeout_s)
        try:
            return await self._methods[call.method](call.request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _translated(error, self.address, timeout_s) from error


def _predict(channel: Any) -> Callable[..., Any]:
    # The generated stub would take a message; requests come serialised.
    call: Callable[..., Any] = channel.unary_unary(
        PREDICT, response_deserializer=PredictResponse.FromString, _registered_method=True
    )
    return call


def _methods(channel: grpc.Channel | grpc.aio.Channel) -> dict[str, Callable[..., Any]]:
    inference: Any = GRPCInferenceServiceStub(channel)
    return {
        "ModelConfig": inference.ModelConfig,
        "ModelMetadata": inference.ModelMetadata,
        "ModelReady": inference.ModelReady,
        "RepositoryIndex": inference.RepositoryIndex,
        "ServerReady": inference.ServerReady,
    }


def _translated(error: Any, address: str, timeout_s: float) -> FrostlineError:
    kind = dict(error.trailing_metadata() or ()).get(ERROR_KIND, "")
    return from_status(error.code().name, error.details() or "", kind=kind, address=address, timeout_s=timeout_s)
