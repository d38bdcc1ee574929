"""The client's connection to a server, blocking and for asyncio."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from frostline.client import asking, calls, messages
from frostline.client.arrays import Inputs
from frostline.client.asking import Known, Question
from frostline.client.calls import Call, Conversation
from frostline.client.catalog import Model
from frostline.client.cells import unwritable
from frostline.client.channel import arguments as channel_arguments
from frostline.client.channel import check_timeout
from frostline.client.errors import FrostlineError, from_status
from frostline.client.messages import OutputName
from frostline.client.prediction import Prediction
from frostline.client.rows import Extra
from frostline.client.schema import Schema
from frostline.client.tracing import traced, traced_async
from frostline.pb.inference_pb2 import ServerReadyRequest
from frostline.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from frostline.pb.predictor_pb2 import PredictResponse
from frostline.pb.predictor_pb2_grpc import PredictorStub
from frostline.protocol import ERROR_KIND, PREDICT

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0
_PROBE_S = 0.1
"""How long a server is looked for where a call got no answer in time; that there is none shows at once."""


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
    metadata: Mapping[str, str | bytes] | None = None,
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
        metadata: Headers sent with every call, such as one that a proxy asks for: texts of printable ASCII, or bytes if
            the key ends in `-bin`.

    Returns:
        The client, to be closed, or used in a `with` statement.

    Raises:
        ValueError: An argument makes no sense, or the token would go over a network in plain text.
        OSError: A PEM file cannot be read.
    """
    timeout_s = check_timeout(timeout_s)
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
    return Client(channel, given.address, timeout_s, given.metadata, given.proxy)


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
    metadata: Mapping[str, str | bytes] | None = None,
) -> "AsyncClient":
    """Prepares the connection to a server, or to a pool of them, for asyncio; see `connect`.

    Call it inside the running event loop, which is the only one that can use the client. Arguments and errors are those of
    `connect`.

    Returns:
        The client, to be closed, or used in an `async with` statement.
    """
    timeout_s = check_timeout(timeout_s)
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
    _refuse_forked_asyncio()
    try:
        channel = (
            grpc.aio.secure_channel(given.target, given.credentials, given.options)
            if given.credentials
            else grpc.aio.insecure_channel(given.target, given.options)
        )
    except RuntimeError as error:  # of asyncio, outside of a coroutine
        raise RuntimeError(
            "there is no event loop here; call connect_async inside of a coroutine: "
            "async with frostline.connect_async(...) as client"
        ) from error
    _note_asyncio()
    return AsyncClient(channel, given.address, timeout_s, given.metadata, given.proxy)


_asyncio_pid: int | None = None
"""The process in which asyncio clients were made; gRPC's part for asyncio does not work in a child forked from it."""


def _note_asyncio() -> None:
    global _asyncio_pid  # noqa: PLW0603  gRPC's own state, which it does not tell, is the process's too
    _asyncio_pid = os.getpid()


def _refuse_forked_asyncio() -> None:
    """Refuses asyncio in a child forked from a process that had made such clients; there calls hang, or end the process.

    Raises:
        RuntimeError: This is such a child.
    """
    if _asyncio_pid not in (None, os.getpid()):
        raise RuntimeError(
            "this process was forked from one that had made an asyncio client, after which gRPC cannot use asyncio here; "
            "start it with the method 'spawn' of multiprocessing, or use the blocking frostline.connect"
        )


class Client:
    """A connection to a server for blocking code; made by `connect`, and safe to share between threads.

    Attributes:
        address: Where the server is.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        address: str,
        timeout_s: float,
        metadata: Mapping[str, str | bytes] | None,
        proxy: str = "",
    ) -> None:
        self._channel = channel
        self._methods = _methods(channel)
        self._predict = self._methods["Predict"] = traced(self._methods["Predict"])
        self._known = Known()
        self.address = address
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._metadata = tuple((metadata or {}).items())
        self._pid = os.getpid()
        self._closed = False

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int | None = "",
        outputs: OutputName | Iterable[OutputName] | None = None,
        top_k: int = 0,
        extra: Extra = "refuse",
        timeout_s: float | None = None,
    ) -> Prediction:
        """Runs rows through a model.

        A model that was trained on a table takes raw rows: a dict for each row, or a table. What its columns are is asked
        of the server once for each version; see `schema`. Columns are matched by name. None, NaN, NaT and NA are missing
        values, and so is a column that is not there, if training had rows without it.

        Any other model gets the element type that it takes. Floats are rounded to it; any other number that the type does not
        have is refused, and so are floats that would become infinite. What the model takes is looked up only where its
        server has refused the rows as they are, or they alone do not tell.

        More rows than the model or the server takes at once are sent in several requests, one after the other, and all
        are answered by one version. If that version is replaced in between, all rows are sent again to the newest.

        Args:
            model: The model's name.
            inputs: Raw rows: a list of dicts, a dict of one row or of columns, or a table of pandas, polars or pyarrow; of a
                model that takes texts or pictures also a list of texts, or of paths, files as bytes, pictures of Pillow and
                arrays uint8 [height, width, colours], or one of them. What iterates in an order is taken as a list. Or the
                network's own input, batch axis first; a dict of arrays by name for a model with several. A DataFrame also
                for a model each of whose inputs is one of its columns; they are matched by name.
            version: The number of the version, or a label; None, empty or "latest" for the highest ready one.
            outputs: One or a list of "logits", "softmax" and "argmax" where the model chooses one of several classes, and "values",
                the network's own outputs.  None asks for the first three, or for "values" of other models; for the ranking
                alone when `top_k` is given.
            top_k: How many of the most probable classes the server shall rank, with their labels.
            extra: What becomes of columns of raw rows that the model does not take: "refuse" or "ignore".
            timeout_s: How long the call may take, with all its requests and retries; None for the client's default.

        Returns:
            The prediction for all rows.

        Raises:
            InvalidInput: The rows do not fit the model, or a number would be changed; the message says which.
            FrostlineError: The call failed; the subclass tells how.
            ValueError: There is no such output, `top_k` is negative, `extra` is none of its words, or an argument is of
                another type.
        """
        allowed_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        (model, version), wanted, top_k = (
            messages.asked(model, version),
            messages.readings(outputs),
            messages.ranked(top_k),
        )
        until = time.monotonic() + allowed_s
        refusal = None
        # The commonest first: all that a conversation may have to do takes longer than packing a small array.
        if self._known.takes(inputs, model, version):
            request = messages.request(model, inputs, version=version, outputs=wanted, top_k=top_k)
            self._check_process()
            try:
                answer = self._predict(request, timeout=allowed_s, metadata=self._metadata)
            except grpc.RpcError as error:
                refusal = self._failure(error, allowed_s)
                refusal.__cause__ = error
            except ValueError:
                self._check_open()
                raise
            else:
                return messages.prediction(answer, top_k)
        question = Question(model, version, inputs, wanted, top_k, allowed_s, until, extra)
        return messages.prediction(self._hold(asking.predict(question, self._known, refusal)), top_k)

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Every version of every model in the server's repository, by name and number.

        Raises:
            FrostlineError: The call failed; the subclass tells how.
        """
        return self._hold(calls.list_models(timeout_s))

    def model(self, name: str, *, version: str | int | None = "", timeout_s: float | None = None) -> Model:
        """One ready version, with its inputs and outputs; the highest one for an empty `version`.

        Raises:
            FrostlineError: The call failed; the subclass tells how.
        """
        return self._hold(calls.describe(*messages.asked(name, version), timeout_s))

    def schema(self, model: str, *, version: str | int | None = "", timeout_s: float | None = None) -> Schema:
        """What a ready version takes and answers: its columns, its labels and an example of a row.

        A version never changes, so that of a number is asked for once.

        Raises:
            FrostlineError: The call failed; the subclass tells how.
        """
        return self._hold(asking.schema(*messages.asked(model, version), self._known, timeout_s))

    def ready(self, model: str = "", *, version: str | int | None = "", timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its models, is ready for traffic; False when no server answers.

        Raises:
            ModelNotFound: There is no such model.
            FrostlineError: The call failed in another way than finding no server.
        """
        return self._hold(calls.is_ready(*messages.asked(model, version), timeout_s))

    def close(self) -> None:
        """Closes the connection; calls under way, and later ones, fail with the code `CANCELLED`.

        In a forked child it does nothing: the connection is its parent's.
        """
        self._closed = True
        if os.getpid() == self._pid:
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
        except UnicodeEncodeError as error:
            raise unwritable(error.object) from None

    def _call(self, call: Call) -> Any:
        self._check_process()
        timeout_s = self._timeout_s if call.timeout_s is None else check_timeout(call.timeout_s)
        try:
            return self._methods[call.method](call.request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error, timeout_s) from error
        except ValueError:
            self._check_open()
            raise

    def _failure(self, error: Any, timeout_s: float) -> FrostlineError:
        if _ran_out(error):
            try:
                self._methods["ServerReady"](ServerReadyRequest(), timeout=_PROBE_S, metadata=self._metadata)
            except grpc.RpcError as refusal:
                error = refusal if _is_unreachable(refusal) else error
            except ValueError:  # closed meanwhile
                pass
        return _translated(error, self.address, timeout_s, self._proxy, closed=self._closed)

    def _check_process(self) -> None:
        # The threads of gRPC are not in a forked child, so that a call could wait there for ever.
        if os.getpid() != self._pid:
            raise _forked(self.address)

    def _check_open(self) -> None:
        if self._closed:
            raise _closed(self.address) from None


class AsyncClient:
    """A connection to a server for asyncio; made by `connect_async`, with the methods of `Client` as coroutines.

    Cancelling the task that awaits a call cancels the call on the server too. A client belongs to the event loop in which
    it was made: in another one, each method raises RuntimeError.

    Attributes:
        address: Where the server is.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: str,
        timeout_s: float,
        metadata: Mapping[str, str | bytes] | None,
        proxy: str = "",
    ) -> None:
        self._channel = channel
        self._methods = _methods(channel)
        self._predict = self._methods["Predict"] = traced_async(self._methods["Predict"])
        self._known = Known()
        # gRPC binds a channel to the event loop in which it is made, and does not tell another one so.
        self._loop = getattr(channel, "_loop", None)
        self.address = address
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._metadata = grpc.aio.Metadata(*(metadata or {}).items())
        self._pid = os.getpid()
        self._closed = False

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int | None = "",
        outputs: OutputName | Iterable[OutputName] | None = None,
        top_k: int = 0,
        extra: Extra = "refuse",
        timeout_s: float | None = None,
    ) -> Prediction:
        """Runs rows through a model; see `Client.predict`."""
        self._check_loop()
        allowed_s = self._timeout_s if timeout_s is None else check_timeout(timeout_s)
        (model, version), wanted, top_k = (
            messages.asked(model, version),
            messages.readings(outputs),
            messages.ranked(top_k),
        )
        until = time.monotonic() + allowed_s
        refusal = None
        # The commonest first: all that a conversation may have to do takes longer than packing a small array.
        if self._known.takes(inputs, model, version):
            request = messages.request(model, inputs, version=version, outputs=wanted, top_k=top_k)
            try:
                answer = await self._predict(request, timeout=allowed_s, metadata=self._metadata)
            except grpc.RpcError as error:
                refusal = await self._failure(error, allowed_s)
                refusal.__cause__ = error
            except (asyncio.CancelledError, grpc.aio.UsageError) as error:
                self._check_open(error)
                raise
            else:
                return messages.prediction(answer, top_k)
        question = Question(model, version, inputs, wanted, top_k, allowed_s, until, extra)
        return messages.prediction(await self._hold(asking.predict(question, self._known, refusal)), top_k)

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """Every version of every model in the server's repository; see `Client.models`."""
        return await self._hold(calls.list_models(timeout_s))

    async def model(self, name: str, *, version: str | int | None = "", timeout_s: float | None = None) -> Model:
        """One ready version, with its inputs and outputs; see `Client.model`."""
        return await self._hold(calls.describe(*messages.asked(name, version), timeout_s))

    async def schema(self, model: str, *, version: str | int | None = "", timeout_s: float | None = None) -> Schema:
        """What a ready version takes and answers; see `Client.schema`."""
        return await self._hold(asking.schema(*messages.asked(model, version), self._known, timeout_s))

    async def ready(self, model: str = "", *, version: str | int | None = "", timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its models, is ready for traffic; see `Client.ready`."""
        return await self._hold(calls.is_ready(*messages.asked(model, version), timeout_s))

    async def close(self) -> None:
        """Closes the connection; calls under way, and later ones, fail with the code `CANCELLED`.

        In a forked child it does nothing: the connection is its parent's.
        """
        if os.getpid() != self._pid:
            return
        self._check_loop()
        self._closed = True
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
        except UnicodeEncodeError as error:
            raise unwritable(error.object) from None

    def _check_loop(self) -> None:
        if os.getpid() != self._pid:
            raise _forked(self.address)
        if self._loop not in (None, asyncio.get_running_loop()):
            raise RuntimeError(
                f"this client of {self.address} was made in another event loop; make one in each loop, inside of its "
                "coroutines: async with frostline.connect_async(...) as client"
            )

    def _check_open(self, failure: BaseException) -> None:
        # A call that ends with its channel raises what the task does if somebody cancels it.
        task = asyncio.current_task() if isinstance(failure, asyncio.CancelledError) else None
        if self._closed and not (task and task.cancelling()):
            raise _closed(self.address) from None

    async def _call(self, call: Call) -> Any:
        self._check_loop()
        timeout_s = self._timeout_s if call.timeout_s is None else check_timeout(call.timeout_s)
        try:
            return await self._methods[call.method](call.request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise await self._failure(error, timeout_s) from error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            self._check_open(error)
            raise

    async def _failure(self, error: Any, timeout_s: float) -> FrostlineError:
        if _ran_out(error):
            try:
                await self._methods["ServerReady"](ServerReadyRequest(), timeout=_PROBE_S, metadata=self._metadata)
            except grpc.RpcError as refusal:
                error = refusal if _is_unreachable(refusal) else error
            except grpc.aio.UsageError:  # closed meanwhile
                pass
        return _translated(error, self.address, timeout_s, self._proxy, closed=self._closed)


def _methods(channel: Any) -> dict[str, Callable[..., Any]]:
    inference: Any = GRPCInferenceServiceStub(channel)
    predictor: Any = PredictorStub(channel)
    return {
        "ModelConfig": inference.ModelConfig,
        "ModelMetadata": inference.ModelMetadata,
        "ModelReady": inference.ModelReady,
        "RepositoryIndex": inference.RepositoryIndex,
        "ServerReady": inference.ServerReady,
        "Schema": predictor.Schema,
        # The generated stub would take a message; requests come serialised.
        "Predict": channel.unary_unary(
            PREDICT, response_deserializer=PredictResponse.FromString, _registered_method=True
        ),
    }


def _ran_out(error: Any) -> bool:
    """Whether a call ended at its own deadline: of a server that cannot be reached it was tried again until then."""
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not _kind(error)


def _is_unreachable(error: Any) -> bool:
    """Whether a call that is not tried again found no server; its details say why."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and not _kind(error)


def _kind(error: Any) -> str:
    return str(dict(error.trailing_metadata() or ()).get(ERROR_KIND, ""))


def _translated(error: Any, address: str, timeout_s: float, proxy: str, *, closed: bool) -> FrostlineError:
    code = error.code()
    if closed and code is grpc.StatusCode.CANCELLED:
        return _closed(address)
    return from_status(
        code.name, error.details() or "", kind=_kind(error), address=address, timeout_s=timeout_s, proxy=proxy
    )


def _forked(address: str) -> RuntimeError:
    return RuntimeError(
        f"this client of {address} was made in another process, from which this one was forked; make one in each process, "
        "after the fork"
    )


def _closed(address: str) -> FrostlineError:
    return FrostlineError(f"this client of {address} is closed; make another one", "CANCELLED")
