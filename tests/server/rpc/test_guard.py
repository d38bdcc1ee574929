"""Who may call what, through a real server and real clients; the audit log; the admin port."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from structlog.testing import capture_logs
from tritonclient.utils import InferenceServerException

from frostline.pb import inference_pb2 as pb
from frostline.pb import predictor_pb2 as typed
from frostline.pb import predictor_pb2_grpc
from frostline.protocol import ERROR_KIND
from frostline_server import logs
from frostline_server.access.access import Access
from frostline_server.access.identity import Identity
from frostline_server.access.permissions import METRICS, NEEDED
from frostline_server.access.rate_limit import RateLimit
from frostline_server.errors import StartError
from frostline_server.rpc.guard import guard
from frostline_server.rpc.server import SERVICES
from tests.support import onnx_models, process_logging
from tests.support.calls import row_request, stub
from tests.support.http_calls import unrouted
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.tokens import TOKENS, bearer, entry, write_access_file

ROW = onnx_models.rows(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(folder, "linear", 1)
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_access_file(tmp_path_factory.mktemp("access") / "access.toml")


def serving(models: Path, file: Path | None = None, **settings: Any) -> Any:
    return running(
        models,
        **{
            "log_level": "error",
            "access_file": file,
            "allow_anonymous": "none",
            "model_control": "explicit",
            "load_models": "*",
            **settings,
        },
    )


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(models: Path, file: Path, transport: str) -> Iterator[Running]:
    with serving(models, file, transport=transport) as instance:
        yield instance


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@contextmanager
def audited() -> Iterator[list[dict[str, Any]]]:
    """The lines of the audit log, also of a server that runs already."""
    structlog.reset_defaults()
    lines: list[dict[str, Any]] = []
    with capture_logs() as logged:
        yield lines
    lines += [dict(line) for line in logged if line["event"] == "audit"]


@contextmanager
def json_log(level: str) -> Iterator[None]:
    """The log as a process has it, on standard error."""
    with process_logging.untouched():
        logs.configure("json", level)
        yield


Call = Callable[..., Any]


def ended(call: Call, **shown: Any) -> tuple[str, str]:
    """The status of a call, and its word."""
    try:
        call(timeout=TIMEOUT_S, **shown)
    except grpc.RpcError as error:
        failed: Any = error
        return failed.code().name, dict(failed.trailing_metadata()).get(ERROR_KIND, "")
    return "OK", ""


def unary(channel: grpc.Channel, method: str, request: Any) -> Call:
    return lambda **shown: getattr(stub(channel), method)(request, **shown)


def streamed(channel: grpc.Channel, path: str, request: Any) -> Call:
    method: Any = channel.stream_stream(path, lambda message: message.SerializeToString(), bytes)
    return lambda **shown: next(method(iter([request]), **shown))


def calls(channel: grpc.Channel) -> dict[str, Call]:
    """A call of every method."""
    tensor = typed.Tensor(dtype=typed.FP32, shape=ROW.shape, data=ROW.tobytes())
    health = health_pb2_grpc.HealthStub(channel)
    requests = {
        "ServerLive": pb.ServerLiveRequest(),
        "ServerReady": pb.ServerReadyRequest(),
        "ModelReady": pb.ModelReadyRequest(name="linear"),
        "ServerMetadata": pb.ServerMetadataRequest(),
        "ModelMetadata": pb.ModelMetadataRequest(name="linear"),
        "ModelConfig": pb.ModelConfigRequest(name="linear"),
        "ModelInfer": row_request(ROW),
        "ModelStatistics": pb.ModelStatisticsRequest(),
        "RepositoryIndex": pb.RepositoryIndexRequest(),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="linear"),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="nobody"),
        "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
        "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="r", key="/absent", byte_size=4),
        "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(name="r"),
        "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusRequest(),
        "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name="r"),
        "CudaSharedMemoryUnregister": pb.CudaSharedMemoryUnregisterRequest(name="r"),
        "TraceSetting": pb.TraceSettingRequest(),
        "LogSettings": pb.LogSettingsRequest(),
    }
    infer_stream = "/inference.GRPCInferenceService/ModelStreamInfer"
    reflections = [f"/grpc.reflection.{each}.ServerReflection/ServerReflectionInfo" for each in ("v1", "v1alpha")]
    return {
        **{f"/inference.GRPCInferenceService/{name}": unary(channel, name, ask) for name, ask in requests.items()},
        infer_stream: streamed(channel, infer_stream, row_request(ROW)),
        "/frostline.v1.Predictor/Schema": lambda **shown: predictor_pb2_grpc.PredictorStub(channel).Schema(
            typed.SchemaRequest(model="linear"), **shown
        ),
        "/frostline.v1.Predictor/Predict": lambda **shown: predictor_pb2_grpc.PredictorStub(channel).Predict(
            typed.PredictRequest(model="linear", inputs=[tensor]), **shown
        ),
        "/grpc.health.v1.Health/Check": lambda **shown: health.Check(health_pb2.HealthCheckRequest(), **shown),
        "/grpc.health.v1.Health/Watch": lambda **shown: next(health.Watch(health_pb2.HealthCheckRequest(), **shown)),
        **{
            reflection: streamed(channel, reflection, reflection_pb2.ServerReflectionRequest(list_services=""))
            for reflection in reflections
        },
    }  # fmt: skip


RATE = pb.TraceSettingRequest(settings={"trace_rate": pb.TraceSettingRequest.SettingValue(value=["7"])})


def log_settings(**settings: pb.LogSettingsRequest.SettingValue) -> pb.LogSettingsRequest:
    return pb.LogSettingsRequest(settings=settings)


REFUSALS = ("unauthenticated", "permission_denied")


def test_every_method_that_is_served_has_a_role_and_every_role_a_method(server: Running) -> None:
    served = {path for path, _ in server.server._transport._methods()}
    assert served == set(NEEDED) - {METRICS}
    contracts = {f"/{service}/{method.name}" for service in SERVICES for method in _methods_of(service)}
    assert contracts <= served


def _methods_of(service: str) -> Any:
    module: Any = pb if service.startswith("inference") else typed
    return module.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods


def test_a_method_without_a_role_is_not_served() -> None:
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    with pytest.raises(KeyError, match=r"/no\.Such/Method"):
        guard("/no.Such/Method", handler, Access(None, ()))


@pytest.mark.parametrize("role", ["predict", "observe", "control", None])
def test_a_token_opens_the_methods_of_its_role_and_no_others(channel: grpc.Channel, role: str | None) -> None:
    shown = bearer(TOKENS[role]) if role else {}
    refused = {path: ended(call, **shown) for path, call in calls(channel).items()}
    assert set(refused) == set(NEEDED) - {METRICS}
    refusal = ("PERMISSION_DENIED", "permission_denied") if role else ("UNAUTHENTICATED", "unauthenticated")
    for path, (code, kind) in refused.items():
        allowed = not NEEDED[path] or role in NEEDED[path]
        assert ((code, kind) == refusal) == (not allowed), (path, code, kind)
        if allowed:
            assert kind not in REFUSALS, path


@pytest.mark.parametrize("role", ["observe", "control"])
def test_settings_are_read_with_observe_and_changed_with_control(channel: grpc.Channel, role: str) -> None:
    quiet = log_settings(log_verbose_level=pb.LogSettingsRequest.SettingValue(uint32_param=0))
    for method, request in (("LogSettings", quiet), ("TraceSetting", RATE)):
        with process_logging.untouched():
            code, _ = ended(unary(channel, method, request), **bearer(TOKENS[role]))
        assert code == ("OK" if role == "control" else "PERMISSION_DENIED")


@pytest.mark.parametrize("metadata", [[("authorization", "Bearer wrong")], [("authorization", "Basic x")], [("authorization", "Bearer a"), ("authorization", "Bearer b")]])  # fmt: skip
def test_credentials_that_are_not_known_are_refused_and_probes_answered(
    channel: grpc.Channel, metadata: list[tuple[str, str]]
) -> None:
    everything = calls(channel)
    assert ended(everything["/inference.GRPCInferenceService/ModelInfer"], metadata=metadata) == ("UNAUTHENTICATED", "unauthenticated")  # fmt: skip
    assert ended(everything["/grpc.health.v1.Health/Check"], metadata=metadata) == ("OK", "")


def test_a_coroutine_client_shows_its_token_too(server: Running) -> None:
    async def ask(**shown: Any) -> Any:
        async with grpc.aio.insecure_channel(server.address) as opened:
            return await stub(opened).ModelInfer(row_request(ROW), timeout=TIMEOUT_S, **shown)

    assert asyncio.run(ask(**bearer(TOKENS["predict"]))).model_name == "linear"
    with pytest.raises(grpc.aio.AioRpcError, match="an anonymous caller, whose roles are: none"):
        asyncio.run(ask())


def test_tritons_client_shows_its_token_in_headers(server: Running) -> None:
    tensor = triton.InferInput("input", list(ROW.shape), "FP32")
    tensor.set_data_from_numpy(ROW)
    with triton.InferenceServerClient(server.address) as client:
        assert client.is_server_ready()
        headers = {"authorization": f"Bearer {TOKENS['predict']}"}
        assert client.infer("linear", [tensor], headers=headers).as_numpy("logits") is not None
        with pytest.raises(InferenceServerException, match="needs the role control; you are taken for 'predict'"):
            client.load_model("linear", headers=headers)
        client.load_model("linear", headers={"authorization": f"Bearer {TOKENS['control']}"})
        with pytest.raises(InferenceServerException, match="you are taken for an anonymous caller"):
            client.get_server_metadata()


def test_a_stream_of_many_is_answered_for_who_may_predict(channel: grpc.Channel) -> None:
    requests = [row_request(ROW, str(number)) for number in range(20)]
    answers = list(stub(channel).ModelStreamInfer(iter(requests), timeout=TIMEOUT_S, **bearer(TOKENS["predict"])))
    assert sorted(int(answer.infer_response.id) for answer in answers) == list(range(20))


# By default


@pytest.mark.parametrize(
    ("host", "allow", "expected"),
    [
        ("127.0.0.1", "auto", {"ModelInfer": "OK", "RepositoryIndex": "OK", "RepositoryModelLoad": "UNAUTHENTICATED"}),
        ("0.0.0.0", "auto", {"ModelInfer": "UNAUTHENTICATED", "RepositoryIndex": "UNAUTHENTICATED"}),
        ("0.0.0.0", "predict", {"ModelInfer": "OK", "ModelMetadata": "OK", "RepositoryIndex": "UNAUTHENTICATED"}),
        ("0.0.0.0", "all", {"ModelInfer": "OK", "RepositoryModelLoad": "OK"}),
        ("127.0.0.1", "none", {"ModelInfer": "UNAUTHENTICATED"}),
    ],
)
def test_who_has_no_credentials_has_the_roles_that_address_and_operator_give(
    models: Path, host: str, allow: str, expected: dict[str, str]
) -> None:
    with (
        serving(models, None, host=host, allow_anonymous=allow) as instance,
        grpc.insecure_channel(instance.address.replace("0.0.0.0", "127.0.0.1")) as opened,
    ):
        everything = calls(opened)
        found = {name: ended(everything[f"/inference.GRPCInferenceService/{name}"])[0] for name in expected}
        assert found == expected
        assert ended(everything["/grpc.health.v1.Health/Check"])[0] == "OK"


def test_a_port_that_nobody_may_use_says_so_in_the_log_and_what_to_write(models: Path) -> None:
    structlog.reset_defaults()
    with capture_logs() as logged, serving(models, None, host="0.0.0.0", allow_anonymous="auto"):
        pass
    [said] = [line["warning"] for line in logged if line["event"] == "access"]
    assert "every call will be refused: other machines can reach 0.0.0.0" in said
    assert "--allow-anonymous predict" in said
    assert "frostline token NAME --file FILE" in said


def test_a_port_that_is_closed_by_a_setting_says_which_and_not_that_others_can_reach_it(models: Path) -> None:
    structlog.reset_defaults()
    with capture_logs() as logged, serving(models, None, host="127.0.0.1", allow_anonymous="none"):
        pass
    [said] = [line["warning"] for line in logged if line["event"] == "access"]
    assert said.startswith("every call will be refused: allow_anonymous is none, and nobody may call; give tokens")


# Rates


def test_a_caller_that_sends_too_much_is_told_when_to_go_on(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    file.write_text(entry("slow", "t", "predict", requests_per_s=0.001, burst=2))
    with serving(models, file) as instance, grpc.insecure_channel(instance.address) as opened:
        ask = calls(opened)["/inference.GRPCInferenceService/ModelInfer"]
        assert [ended(ask, **bearer("t"))[1] for _ in range(3)] == ["", "", "rate_limited"]
        with pytest.raises(grpc.RpcError) as caught:
            ask(timeout=TIMEOUT_S, **bearer("t"))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 0 < int(dict(error.trailing_metadata())["retry-pushback-ms"]) <= 1_000_000
    assert "this caller may send 0.001 requests a second" in error.details()


class Context:
    """A call's context with messages to read."""

    def __init__(self, *messages: bytes, token: str = "") -> None:
        self._messages = [*messages, grpc.aio.EOF]  # type: ignore[attr-defined]
        self._token = token

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._token}")]

    async def read(self) -> Any:
        return self._messages.pop(0)


class Time:
    """A clock that stands still but for who sleeps; `until` is set where nobody wakes before."""

    def __init__(self) -> None:
        self.now_s = 5.0
        self.slept_s: list[float] = []
        self.until: asyncio.Event | None = None

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(round(seconds, 6))
        if self.until is not None:
            await self.until.wait()
        self.now_s += seconds


def paced(time: Time, limit: RateLimit, seen: list[Any]) -> Callable[[Context], Any]:
    """A guarded stream of a caller with a limit, whose messages are seen."""

    async def echo(_: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            seen.append(message)

    class Slow(Access):
        """Everyone is one caller with a limit."""

        @property
        def asks(self) -> bool:
            return True

        def identify(self, authorization: bytes | None, certificate_names: Any = ()) -> Identity:
            return Identity("slow", frozenset({"predict"}), "token", limit)

    path = "/inference.GRPCInferenceService/ModelStreamInfer"
    handler: Any = grpc.stream_stream_rpc_method_handler(echo)
    guarded: Any = guard(path, handler, Slow(None, ()), clock=lambda: time.now_s, sleep=time.sleep)
    return lambda context: guarded.stream_stream(None, context)


async def test_a_stream_is_read_no_faster_than_its_caller_may_send() -> None:
    time, seen = Time(), list[Any]()
    await paced(time, RateLimit(2, 2), seen)(Context(b"1", b"2", b"3", b"4"))
    assert seen == [b"1", b"2", b"3", b"4"]
    assert time.slept_s == [0.5, 0.5]


async def test_streams_that_end_while_they_wait_owe_nothing() -> None:
    time, limit, seen = Time(), RateLimit(2, 1), list[Any]()
    time.until = asyncio.Event()
    call = paced(time, limit, seen)
    calls = [asyncio.create_task(call(Context(b"%d" % number))) for number in range(9)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert seen == [b"0"]
    for each in calls[1:8]:
        each.cancel()
    time.until.set()
    await calls[8]
    assert seen == [b"0", b"8"]
    assert time.now_s == 5.5
    assert limit.take(5.5) == 0.5


def _first(stream: Any, answered: "queue.SimpleQueue[bytes]") -> None:
    """Pass on the first answer of a stream, if there is one."""
    with suppress(grpc.RpcError):
        answered.put(next(stream))


def test_streams_that_were_cancelled_shut_nobody_out(models: Path, tmp_path: Path, transport: str) -> None:
    file = tmp_path / "access.toml"
    file.write_text(entry("slow", "t", "predict", requests_per_s=0.001, burst=1))
    with serving(models, file, transport=transport) as instance, grpc.insecure_channel(instance.address) as opened:
        channel: Any = opened
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        done = threading.Event()

        def requests() -> Iterator[bytes]:
            yield row_request(ROW).SerializeToString()
            done.wait(TIMEOUT_S)

        streams = [stream(requests(), timeout=TIMEOUT_S, **bearer("t")) for _ in range(8)]
        answered: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for each in streams:
            threading.Thread(target=lambda each=each: _first(each, answered), daemon=True).start()
        answered.get(timeout=TIMEOUT_S)
        for each in streams:
            each.cancel()
        done.set()
        with pytest.raises(grpc.RpcError) as caught:
            calls(opened)["/inference.GRPCInferenceService/ModelInfer"](timeout=TIMEOUT_S, **bearer("t"))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # For one token, and not for those of the streams as well.
    assert 900_000 < int(dict(error.trailing_metadata())["retry-pushback-ms"]) <= 1_000_000


# The file is read again


def test_a_change_of_the_file_counts_for_the_next_call(models: Path, tmp_path: Path) -> None:
    file = write_access_file(tmp_path / "access.toml")
    with serving(models, file) as instance, grpc.insecure_channel(instance.address) as opened:
        ask = calls(opened)["/inference.GRPCInferenceService/ModelInfer"]
        assert ended(ask, **bearer(TOKENS["predict"]))[0] == "OK"
        file.write_text(entry("new", "n" * 30, "predict"))
        instance.server.reload()  # what SIGHUP does; the thread would look within a second
        assert ended(ask, **bearer(TOKENS["predict"]))[0] == "UNAUTHENTICATED"
        assert ended(ask, **bearer("n" * 30))[0] == "OK"
        file.write_text("broken")
        instance.server.reload()
        assert ended(ask, **bearer("n" * 30))[0] == "OK"


def test_no_call_fails_while_tokens_are_replaced(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    file.write_text(entry("shop", "0", "predict"))
    with serving(models, file) as instance, grpc.insecure_channel(instance.address) as opened:
        ask = calls(opened)["/inference.GRPCInferenceService/ModelInfer"]
        found = []
        for number in range(20):
            # The old one stays until the caller has the new one.
            file.write_text(entry("shop", str(number), "predict") + entry("shop", str(number + 1), "predict"))
            instance.server.reload()
            found += [ended(ask, **bearer(str(token)))[0] for token in (number, number + 1)]
        assert found == ["OK"] * 40
        assert ended(ask, **bearer("0"))[0] == "UNAUTHENTICATED"


def test_a_broken_file_stops_the_start_and_leaves_no_port_open(models: Path, tmp_path: Path) -> None:
    (tmp_path / "access.toml").write_text("[[tokens]]\nname = 3")
    instance = Running(models, access_file=tmp_path / "access.toml")
    with pytest.raises(StartError, match=r"is not valid: tokens\.0\.name"):
        instance.start()
    instance.close_loop()
    assert instance.address == instance.metrics_url == ""


# The audit log


def test_every_control_call_is_a_line_of_the_audit_log_with_who_where_what_and_the_result(
    server: Running, channel: grpc.Channel
) -> None:
    everything = calls(channel)
    service = "/inference.GRPCInferenceService"
    with audited() as lines:
        ended(everything[f"{service}/RepositoryModelLoad"], **bearer(TOKENS["control"]))
        ended(everything[f"{service}/RepositoryModelUnload"], **bearer(TOKENS["control"]))
        ended(everything[f"{service}/RepositoryModelLoad"], **bearer(TOKENS["predict"]))
        ended(everything[f"{service}/RepositoryModelLoad"])
        ended(everything[f"{service}/RepositoryModelLoad"], **bearer("wrong"))
        ended(everything[f"{service}/SystemSharedMemoryRegister"], **bearer(TOKENS["control"]))
        ended(unary(channel, "TraceSetting", RATE), **bearer(TOKENS["control"]))
        # These need another role.
        ended(everything[f"{service}/LogSettings"], **bearer(TOKENS["observe"]))
        ended(everything[f"{service}/RepositoryIndex"], **bearer(TOKENS["observe"]))
        ended(everything[f"{service}/ModelInfer"], **bearer(TOKENS["predict"]))
    for line in lines:
        assert line.pop("peer").startswith("ipv4:127.0.0.1:")
        assert (line.pop("event"), line.pop("log_level")) == ("audit", "info")
    load, unload = "RepositoryModelLoad", "RepositoryModelUnload"
    who = {role: {"identity": role, "credential": "token"} for role in TOKENS}
    assert lines == [
        {**who["control"], "method": load, "model": "linear", "status": "OK"},
        {**who["control"], "method": unload, "model": "nobody", "status": "NOT_FOUND"},
        {**who["predict"], "method": load, "model": "linear", "status": "PERMISSION_DENIED"},
        {"identity": "anonymous", "credential": "none", "method": load, "model": "linear", "status": "UNAUTHENTICATED"},
        {"identity": "unknown", "credential": "unknown", "method": load, "model": "linear", "status": "UNAUTHENTICATED"},
        {**who["control"], "method": "SystemSharedMemoryRegister", "region": "r", "status": "INVALID_ARGUMENT"},
        {**who["control"], "method": "TraceSetting", "settings": ["trace_rate"], "status": "OK"},
    ]  # fmt: skip


def test_no_token_is_ever_logged(models: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        json_log("debug"),
        serving(models, file) as instance,
        grpc.insecure_channel(instance.address) as opened,
    ):
        for token in (*TOKENS.values(), "not-a-token-of-anyone"):
            for call in calls(opened).values():
                ended(call, **bearer(token))
    said = capsys.readouterr().err
    assert '"event": "audit"' in said
    assert [token for token in (*TOKENS.values(), "not-a-token-of-anyone") if token in said] == []


def test_whoever_is_watched_cannot_switch_the_audit_log_off(
    models: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off = pb.LogSettingsRequest.SettingValue(bool_param=False)
    quiet = log_settings(log_info=off, log_warning=off)
    with (
        json_log("info"),
        serving(models, file, log_level="info", log_format="json") as instance,
        grpc.insecure_channel(instance.address) as opened,
    ):
        assert ended(unary(opened, "LogSettings", quiet), **bearer(TOKENS["control"]))[0] == "OK"
        capsys.readouterr()
        ended(unary(opened, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="x\ny")), **bearer(TOKENS["control"]))  # fmt: skip
        [line] = capsys.readouterr().err.splitlines()
    assert '"event": "audit"' in line
    assert r'"model": "x\ny"' in line


@pytest.mark.parametrize(("failure", "status"), [(ValueError("defect"), "UNKNOWN"), (asyncio.CancelledError(), "CANCELLED")])  # fmt: skip
async def test_a_control_call_that_breaks_is_in_the_audit_log_too(failure: BaseException, status: str) -> None:
    async def broken(_: bytes, context: Any) -> None:
        raise failure

    class Caller:
        def peer(self) -> str:
            return "unix:"

    path = "/inference.GRPCInferenceService/RepositoryModelLoad"
    guarded: Any = guard(path, grpc.unary_unary_rpc_method_handler(broken), Access(None, ("control",)))
    with audited() as lines, pytest.raises(type(failure)):
        await guarded.unary_unary(b"\xff\xff", Caller())
    assert [(line["identity"], line["status"]) for line in lines] == [("anonymous", status)]


async def test_of_what_one_host_is_refused_ten_calls_have_a_line_and_then_one_a_second_that_says_how_many() -> None:
    class Caller:
        def __init__(self, peer: str) -> None:
            self._peer = peer

        def peer(self) -> str:
            return self._peer

        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return ()

        async def abort(self, code: grpc.StatusCode, *_: Any) -> None:
            raise PermissionError(code.name)

    async def behaviour(request: bytes, context: Any) -> None:
        raise AssertionError("nobody may call it")

    now_s = 100.0
    path = "/inference.GRPCInferenceService/LogSettings"
    handler = grpc.unary_unary_rpc_method_handler(behaviour)
    guarded: Any = guard(path, handler, Access(None, ("predict",)), clock=lambda: now_s)
    off = log_settings(log_info=pb.LogSettingsRequest.SettingValue(bool_param=False)).SerializeToString()

    async def refused(peer: str, times: int) -> list[int]:
        """For how many calls each line stands."""
        with audited() as lines:
            for port in range(times):
                with pytest.raises(PermissionError, match="UNAUTHENTICATED"):
                    await guarded.unary_unary(off, Caller(f"{peer}:{port}"))
        assert {line["status"] for line in lines} <= {"UNAUTHENTICATED"}
        return [line.get("calls", 1) for line in lines]

    assert await refused("ipv4:10.0.0.1", 50) == [1] * 10
    assert await refused("ipv4:10.0.0.2", 2) == [1, 1]
    assert await refused("ipv4:10.0.0.1", 5) == []
    now_s += 1.0
    assert await refused("ipv4:10.0.0.1", 5) == [46]
    now_s += 3600.0
    assert await refused("ipv4:10.0.0.1", 20) == [5, *[1] * 9]


# The admin port


def test_with_an_admin_port_control_is_only_there(models: Path, file: Path) -> None:
    with (
        serving(models, file, admin_port=0) as instance,
        grpc.insecure_channel(instance.address) as public,
        grpc.insecure_channel(instance.server._transport.admin_address) as private,
    ):
        assert instance.server._transport.admin_address.startswith("127.0.0.1:")
        service = "/inference.GRPCInferenceService"
        load, infer, index = (f"{service}/{name}" for name in ("RepositoryModelLoad", "ModelInfer", "RepositoryIndex"))
        public_calls, private_calls = calls(public), calls(private)
        assert ended(public_calls[load], **bearer(TOKENS["control"])) == ("PERMISSION_DENIED", "permission_denied")
        assert ended(private_calls[load], **bearer(TOKENS["control"])) == ("OK", "")
        assert ended(private_calls[load])[0] == "UNAUTHENTICATED"
        assert ended(public_calls[infer], **bearer(TOKENS["predict"])) == ("OK", "")
        assert ended(private_calls[infer], **bearer(TOKENS["predict"]))[0] == "PERMISSION_DENIED"
        for each in (public_calls, private_calls):
            assert ended(each[index], **bearer(TOKENS["observe"])) == ("OK", "")
            assert ended(each["/grpc.health.v1.Health/Check"]) == ("OK", "")


def test_everyone_on_this_machine_controls_through_the_admin_port_if_the_operator_says_so(models: Path) -> None:
    with (
        serving(models, None, host="0.0.0.0", allow_anonymous="predict,control", admin_port=0) as instance,
        grpc.insecure_channel(instance.address.replace("0.0.0.0", "127.0.0.1")) as public,
        grpc.insecure_channel(instance.server._transport.admin_address) as private,
    ):
        load = "/inference.GRPCInferenceService/RepositoryModelLoad"
        assert ended(calls(public)[load])[0] == "PERMISSION_DENIED"
        assert ended(calls(private)[load])[0] == "OK"


def test_an_admin_port_that_is_taken_stops_the_start(models: Path, server: Running) -> None:
    port = int(server.address.rpartition(":")[2])
    instance = Running(models, transport="grpcio", admin_port=port)
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
        instance.start()
    instance.close_loop()


def test_a_unix_socket_has_the_roles_of_this_machine(models: Path, tmp_path: Path) -> None:
    with (
        serving(models, None, host=f"unix:{tmp_path}/s", allow_anonymous="auto") as instance,
        grpc.insecure_channel(instance.address) as opened,
    ):
        assert ended(calls(opened)["/inference.GRPCInferenceService/ModelInfer"]) == ("OK", "")


def test_the_table_of_methods_keeps_what_is_open_as_it_is() -> None:
    async def check(request: Any, context: Any) -> Any:
        return request

    handler = grpc.unary_unary_rpc_method_handler(check)
    assert guard("/grpc.health.v1.Health/Check", handler, Access(None, ())) is handler
    infer = "/inference.GRPCInferenceService/ModelInfer"
    assert guard(infer, handler, Access(None, ("predict",))) is handler
    assert guard(infer, handler, Access(None, ("observe",))) is not handler


def test_who_may_not_ask_is_counted_by_every_front_end(server: Running, channel: grpc.Channel) -> None:
    before = unrouted(server.metrics_url, "UNAUTHENTICATED")
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as refused:
            stub(channel).ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert unrouted(server.metrics_url, "UNAUTHENTICATED") == before + 3


def test_a_service_whose_name_is_of_any_length_is_answered(channel: grpc.Channel) -> None:
    asked = health_pb2.HealthCheckRequest(service="x" * 100_000)
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(asked, timeout=TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == f"no such service: '{'x' * 200}'"
