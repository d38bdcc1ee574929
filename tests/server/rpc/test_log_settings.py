"""LogSettings, through both front ends: Triton's names, real effects, clear refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from frostline.pb import inference_pb2 as pb
from frostline_server import logs
from tests.support import onnx_models, process_logging
from tests.support.calls import refused, stub
from tests.support.servers import TIMEOUT_S, Running, running

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    onnx_models.write_artifact(models, "other", 1)
    with running(models, transport=request.param, log_level="info") as instance:
        yield instance


@pytest.fixture
def calls(server: Running) -> Iterator[Any]:
    with process_logging.untouched(), grpc.insecure_channel(server.address) as channel:
        yield stub(channel)


def log(calls: Any, **settings: bool | int | str) -> dict[str, Any]:
    """Change log settings; returns those that are told."""
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    values: Any = {name: {kinds[type(value)]: value} for name, value in settings.items()}
    told = calls.LogSettings(pb.LogSettingsRequest(settings=values), timeout=TIMEOUT_S).settings
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in told.items()}


def test_log_settings_are_told_under_tritons_names(calls: Any) -> None:
    assert log(calls) == {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }


def test_what_is_logged_changes_while_the_server_runs(calls: Any, capsys: Capture) -> None:
    def shown() -> list[str]:
        capsys.readouterr()
        for level in ("debug", "info", "warning", "error"):
            getattr(structlog.get_logger(), level)(f"a {level} line")
        written = capsys.readouterr().err
        return [level for level in ("debug", "info", "warning", "error") if f"a {level} line" in written]

    assert log(calls, log_info=False, log_verbose_level=0)["log_info"] is False
    assert shown() == ["warning", "error"]
    log(calls, log_warning=False)
    assert shown() == ["error"]
    log(calls, log_info=True, log_warning=True, log_verbose_level=1)
    assert shown() == ["debug", "info", "warning", "error"]
    assert log(calls, log_verbose_level=0)["log_verbose_level"] == 0
    assert shown() == ["info", "warning", "error"]


def test_a_client_may_send_back_all_settings_that_it_has_read(calls: Any, capsys: Capture) -> None:
    before = log(calls)
    capsys.readouterr()
    assert log(calls, **before) == before
    assert logs.SETTINGS not in capsys.readouterr().err


def test_a_change_is_a_line_that_no_setting_hides_and_so_is_who_made_it(calls: Any, capsys: Capture) -> None:
    log(calls, log_format="json")
    capsys.readouterr()
    log(calls, log_info=False, log_warning=False)
    changed, audit = map(json.loads, capsys.readouterr().err.splitlines())
    assert (changed["event"], changed["level"]) == (logs.SETTINGS, "warning")
    assert changed["changed"] == {"log_info": False, "log_warning": False}
    assert (audit["event"], audit["settings"], audit["status"]) == ("audit", ["log_info", "log_warning"], "OK")
    log(calls, log_format="default", log_info=True, log_warning=True)


@pytest.mark.parametrize("transport", ["h2", "grpcio"])
def test_without_the_role_control_settings_are_read_and_not_changed(tmp_path: Path, transport: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    settings = {"transport": transport, "log_level": "info", "allow_anonymous": "predict,observe"}
    with (
        process_logging.untouched(),
        running(tmp_path, **settings) as instance,
        grpc.insecure_channel(instance.address) as channel,
    ):
        code, message = refused(log, stub(channel), log_info=False)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "needs the role control" in message
        assert log(stub(channel))["log_info"] is True


def test_the_format_of_lines_changes_while_the_server_runs(calls: Any, capsys: Capture) -> None:
    assert log(calls, log_format="json")["log_format"] == "json"
    structlog.get_logger().error("a line")
    assert capsys.readouterr().err.startswith("{")
    log(calls, log_format="ISO8601")
    structlog.get_logger().error("a line")
    assert not capsys.readouterr().err.startswith("{")
    assert log(calls, log_format="default")["log_format"] == "default"


LOG_BAD: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "an unknown name": ({"log_color": True}, grpc.StatusCode.INVALID_ARGUMENT, "unknown log setting 'log_color'"),
    "a number for a switch": ({"log_info": 1}, grpc.StatusCode.INVALID_ARGUMENT, "expect boolean for 'log_info'"),
    "a text for a number": (
        {"log_verbose_level": "1"},
        grpc.StatusCode.INVALID_ARGUMENT,
        "expect uint32 for 'log_verbose_level'",
    ),
    "a switch for a text": ({"log_format": True}, grpc.StatusCode.INVALID_ARGUMENT, "expect string for 'log_format'"),
    "an unknown format": (
        {"log_format": "xml"},
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid argument for log_format, got: xml",
    ),
    "no errors": (
        {"log_error": False},
        grpc.StatusCode.UNIMPLEMENTED,
        "log_error: errors cannot be switched off over the network; leave log_error true",
    ),
    "a file": ({"log_file": "/tmp/log"}, grpc.StatusCode.UNIMPLEMENTED, "log_file: lines always go to standard error"),
}


@pytest.mark.parametrize("name", LOG_BAD)
def test_a_wrong_log_setting_changes_nothing(calls: Any, name: str) -> None:
    settings, code, message = LOG_BAD[name]
    before = log(calls)
    got_code, got_message = refused(log, calls, **{"log_warning": False, **settings})
    assert (got_code, got_message[: len(message)]) == (code, message)
    assert log(calls) == before
