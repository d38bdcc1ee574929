"""The server's settings: which source wins, what is refused and in which words."""

from pathlib import Path
from typing import Any

import pytest

from frostline_server.config import ServerConfig
from frostline_server.errors import ConfigError


def load(file: Path | None = None, environ: dict[str, str] | None = None, **flags: Any) -> ServerConfig:
    return ServerConfig.load(file, environ or {}, **{"models": "m", **flags})


def refusal(file: Path | None = None, environ: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environ, **flags)
    return str(caught.value)


def toml(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Where a setting comes from


def test_the_defaults_are_safe_and_those_of_the_field() -> None:
    config = load()
    assert (config.host, config.port, config.metrics_port) == ("127.0.0.1", 8001, 8002)
    assert (config.device, config.transport, config.require) == ("auto", "auto", "all")
    assert (config.max_batch_size, config.max_queue_size, config.max_queue_delay_s) == (64, 4096, 0)
    assert (config.max_message_bytes, config.grace_s, config.threads) == (64 * 2**20, 30, 0)
    assert config.shared_memory == "auto"
    assert (config.log_format, config.log_level, config.tls_cert, config.tls_key) == ("console", "info", None, None)


def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 1\nmetrics_port = 1\nthreads = 1\n")
    environ = {"FROSTLINE_PORT": "2", "FROSTLINE_METRICS_PORT": "2"}
    config = load(file, environ, port=3)
    assert (config.port, config.metrics_port, config.threads, config.grace_s) == (3, 2, 1, 30)


def test_a_flag_that_was_not_given_hides_nothing(tmp_path: Path) -> None:
    assert load(toml(tmp_path, "port = 1\n"), {}, port=None).port == 1


def test_a_flag_may_turn_something_off(tmp_path: Path) -> None:
    assert load(toml(tmp_path, "grace_s = 5\n"), {"FROSTLINE_GRACE_S": "6"}, grace_s=0).grace_s == 0


def test_every_setting_can_come_from_the_environment() -> None:
    environ = {
        "FROSTLINE_MODELS": "/models", "FROSTLINE_HOST": "0.0.0.0", "FROSTLINE_PORT": "0", "FROSTLINE_METRICS_PORT": "9",
        "FROSTLINE_DEVICE": "cuda:1", "FROSTLINE_TRANSPORT": "grpcio", "FROSTLINE_MAX_BATCH_SIZE": "8",
        "FROSTLINE_MAX_QUEUE_DELAY_S": "0.5", "FROSTLINE_MAX_QUEUE_SIZE": "16", "FROSTLINE_MAX_MESSAGE_BYTES": "1024",
        "FROSTLINE_GRACE_S": "1.5", "FROSTLINE_REQUIRE": "a,b", "FROSTLINE_THREADS": "3", "FROSTLINE_LOG_FORMAT": "json",
        "FROSTLINE_LOG_LEVEL": "debug", "FROSTLINE_MODEL_CONTROL": "explicit", "FROSTLINE_POLL_S": "15",
        "FROSTLINE_LOAD_MODELS": "a", "FROSTLINE_MODEL_NAME": "m", "FROSTLINE_LINKED_FOLDERS": "/cache, b", "FROSTLINE_PROBE_S": "0", "FROSTLINE_EXIT_ON_FAULT": "true", "FROSTLINE_TLS_CERT": "c.pem", "FROSTLINE_TLS_KEY": "k.pem",
        "FROSTLINE_SHARED_MEMORY": "on", "FROSTLINE_COMPRESSION": "gzip", "FROSTLINE_SLO_MS": "10",
        "FROSTLINE_MAX_CLASS_SERIES": "20", "FROSTLINE_MAX_RUN_BYTES": "1000000", "FROSTLINE_PROCESSES": "1",
        "FROSTLINE_NETWORK_BYTES": "123456", "FROSTLINE_MAX_CONNECTIONS": "10", "FROSTLINE_MAX_CONNECTIONS_PER_ADDRESS": "4",
        "FROSTLINE_MAX_CALLS_PER_CONNECTION": "7", "FROSTLINE_MAX_RESETS_PER_S": "8", "FROSTLINE_MAX_HEADER_BYTES": "2048",
        "FROSTLINE_HANDSHAKE_TIMEOUT_S": "3", "FROSTLINE_MESSAGE_TIMEOUT_S": "4", "FROSTLINE_ANSWER_TIMEOUT_S": "5",
        "FROSTLINE_MAX_CONNECTION_AGE_S": "60", "FROSTLINE_CONNECTION_GRACE_S": "6",
        "FROSTLINE_LOAD_REPORTS": "false", "FROSTLINE_TRIAL_LOAD": "always", "FROSTLINE_LOAD_TIMEOUT_S": "30",
        "FROSTLINE_LOAD_MEMORY_BYTES": "1000000",
        "FROSTLINE_MAX_RUN_S": "5",
        "FROSTLINE_CLIENT_CERTIFICATES": "required", "FROSTLINE_TLS_CLIENT_CA": "ca.pem",
        "FROSTLINE_ACCESS_FILE": "a.toml", "FROSTLINE_ALLOW_ANONYMOUS": "predict", "FROSTLINE_ADMIN_PORT": "0",
        "FROSTLINE_ADMIN_HOST": "::1", "FROSTLINE_METRICS_ACCESS": "observe", "FROSTLINE_METRICS_TLS": "true",
        "FROSTLINE_HTTP": "true", "FROSTLINE_HTTP_PORT": "0", "FROSTLINE_HTTP_HOSTS": "a.example",
        "FROSTLINE_HTTP_CORS_ORIGINS": "https://b.example",
        "FROSTLINE_ACCESS_LOG": "stdout", "FROSTLINE_ACCESS_LOG_RATIO": "0.5",
        "FROSTLINE_TRACES": "otlp", "FROSTLINE_TRACE_RATIO": "0.25",
    }  # fmt: skip
    assert set(environ) == {f"FROSTLINE_{name.upper()}" for name in ServerConfig.model_fields}
    assert ServerConfig.load(None, environ).model_dump() == {
        "models": Path("/models"), "host": "0.0.0.0", "port": 0, "metrics_port": 9, "device": "cuda:1",
        "transport": "grpcio", "max_batch_size": 8, "max_queue_delay_s": 0.5, "max_queue_size": 16,
        "max_message_bytes": 1024, "grace_s": 1.5, "require": "a,b", "threads": 3, "log_format": "json",
        "log_level": "debug", "model_control": "explicit", "poll_s": 15.0, "load_models": "a", "model_name": "m", "linked_folders": "/cache, b", "probe_s": 0.0,
        "exit_on_fault": True, "tls_cert": Path("c.pem"), "tls_key": Path("k.pem"),
        "shared_memory": "on", "compression": "gzip", "slo_ms": 10.0,
        "max_class_series": 20, "max_run_bytes": 1000000, "max_run_s": 5.0, "processes": 1, "network_bytes": 123456, "max_connections": 10,
        "max_connections_per_address": 4, "max_calls_per_connection": 7, "max_resets_per_s": 8, "max_header_bytes": 2048,
        "handshake_timeout_s": 3.0, "message_timeout_s": 4.0, "answer_timeout_s": 5.0, "max_connection_age_s": 60.0,
        "connection_grace_s": 6.0, "load_reports": False, "trial_load": "always", "load_timeout_s": 30.0,
        "load_memory_bytes": 1000000,
        "client_certificates": "required", "tls_client_ca": Path("ca.pem"), "access_file": Path("a.toml"),
        "allow_anonymous": "predict", "admin_port": 0, "admin_host": "::1", "metrics_access": "observe",
        "metrics_tls": True,
        "http": True, "http_port": 0, "http_hosts": "a.example", "http_cors_origins": "https://b.example",
        "access_log": "stdout", "access_log_ratio": 0.5, "traces": "otlp", "trace_ratio": 0.25,
    }  # fmt: skip
    # Those two have no effect beside others of these.
    assert load(environ={"FROSTLINE_HTTP": "false"}).http is False
    assert load(environ={"FROSTLINE_POLL_S": "2.5"}).poll_s == 2.5


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROSTLINE_PORT", "1234")
    assert ServerConfig.load(models="m").port == 1234


def test_variables_that_are_no_settings_are_left_alone() -> None:
    assert load(environ={"FROSTLINE_TEST_TOOLS": "required", "PORT": "1"}).port == 8001


def test_settings_do_not_change_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load(), "port", 1)  # noqa: B010  assigned plainly, the type checker would refuse it first


# Old names


@pytest.mark.parametrize(
    ("text", "environ", "flags"),
    [
        ("canary_s = 3\n", {}, {}),
        ("probe_s = 5\n", {"FROSTLINE_CANARY_S": "3"}, {}),
        ("canary_s = 5\n", {"FROSTLINE_PROBE_S": "4"}, {"canary_s": 3.0}),
    ],
    ids=["file", "environment", "flag"],
)
def test_the_old_name_of_a_setting_still_works_and_says_what_to_use_now(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, float]
) -> None:
    config = load(toml(tmp_path, text), environ, **flags)
    assert config.probe_s == 3
    assert config.deprecated == (
        "the setting canary_s is deprecated; use probe_s (--probe-s, FROSTLINE_PROBE_S) instead",
    )


def test_the_new_name_of_a_setting_wins_over_the_old_one_beside_it(tmp_path: Path) -> None:
    assert load(toml(tmp_path, "canary_s = 5\nprobe_s = 3\n")).probe_s == 3


def test_nothing_is_deprecated_where_no_old_name_is_used() -> None:
    assert load(probe_s=1).deprecated == ()


# What is refused


def test_without_models_it_is_said_how_to_name_them() -> None:
    assert refusal(models=None) == "models is required; give --models or set FROSTLINE_MODELS"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 70_000}, "port: input should be less than or equal to 65535, got 70000"),
        ({"port": -1}, "port: input should be greater than or equal to 0, got -1"),
        ({"metrics_port": 70_000}, "metrics_port: input should be less than or equal to 65535, got 70000"),
        ({"max_batch_size": 0}, "max_batch_size: input should be greater than or equal to 1, got 0"),
        ({"max_queue_size": 0}, "max_queue_size: input should be greater than or equal to 1, got 0"),
        ({"max_queue_delay_s": -0.5}, "max_queue_delay_s: input should be greater than or equal to 0, got -0.5"),
        ({"max_queue_delay_s": 11}, "max_queue_delay_s: input should be less than or equal to 10, got 11"),
        ({"max_message_bytes": 100}, "max_message_bytes: input should be greater than or equal to 1024, got 100"),
        ({"max_message_bytes": 2**31}, "max_message_bytes: input should be less than or equal to 2147483647, got 2147483648"),
        ({"grace_s": -1}, "grace_s: input should be greater than or equal to 0, got -1"),
        ({"threads": -1}, "threads: input should be greater than or equal to 0, got -1"),
        ({"processes": 0}, "processes: input should be greater than or equal to 1, got 0"),
        ({"processes": 2, "device": "cuda"}, "several processes are for the CPU: a GPU serves one process fastest; use --processes 1"),
        ({"processes": 2, "host": "unix:/s"}, "several processes cannot share a Unix socket; use a TCP address, or --processes 1"),
        ({"host": ""}, "host: string should have at least 1 character, got ''"),
        ({"device": "gpu"}, "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"transport": "http"}, "transport: input should be 'auto', 'h2' or 'grpcio', got 'http'"),
        ({"log_format": "xml"}, "log_format: input should be 'console' or 'json', got 'xml'"),
        ({"log_level": "loud"}, "log_level: input should be 'debug', 'info', 'warning' or 'error', got 'loud'"),
        ({"colour": "red"}, "there is no setting 'colour'"),
        ({"client_certificates": "optional", "admin_port": 0, "tls_cert": "c", "tls_key": "k", "tls_client_ca": "a"}, "client_certificates optional is not possible with admin_port, which asks for a certificate or does not: set it to required, or show tokens there"),
        ({"max_batch_size": True}, "max_batch_size: input should not be a truth value, got True"),
        ({"grace_s": False}, "grace_s: input should not be a truth value, got False"),
        ({"load_models": "a"}, "load_models has no effect with model_control watch, which loads all models: set that to explicit, or leave load_models out"),
        ({"admin_host": "0.0.0.0"}, "admin_host has no effect without admin_port, whose address it is: set that too, or leave admin_host out"),
        ({"trace_ratio": 0.5}, "trace_ratio has no effect with traces off: set that to otlp, or leave trace_ratio out"),
        ({"poll_s": 5, "model_control": "none"}, "poll_s has no effect with model_control none: set that to watch or poll, or leave poll_s out"),
        ({"poll_s": 5, "model_control": "explicit"}, "poll_s has no effect with model_control explicit: set that to watch or poll, or leave poll_s out"),
        ({"trial_load": "never", "load_timeout_s": 9}, "load_timeout_s has no effect with trial_load never: set that to auto or always, or leave load_timeout_s out"),
        ({"trial_load": "never", "load_memory_bytes": 9}, "load_memory_bytes has no effect with trial_load never: set that to auto or always, or leave load_memory_bytes out"),
        ({"http": False, "http_port": 9}, "http_port has no effect with http false: set that to true, or leave http_port out"),
        ({"http": False, "http_hosts": "a.example"}, "http_hosts has no effect with http false: set that to true, or leave http_hosts out"),
        ({"http": False, "http_cors_origins": "*"}, "http_cors_origins has no effect with http false: set that to true, or leave http_cors_origins out"),
        ({"host": "unix:/A.sock", "http_port": 9}, "http_port has no effect with host unix:/A.sock, where HTTP is not answered: set that to an address of the network, or leave http_port out"),
        ({"max_connection_age_s": 0, "connection_grace_s": 5}, "connection_grace_s has no effect with max_connection_age_s 0: set that to more, or leave connection_grace_s out"),
        ({"access_log_ratio": 0.5}, "access_log_ratio has no effect with access_log off: set that to stdout or a file, or leave access_log_ratio out"),
        ({"network_bytes": 10}, "network_bytes: input should be 0, or at least 65536, for a request and its answer to find room, got 10"),
        ({"http_hosts": "a b"}, "http_hosts: a name of a host is expected, without scheme and port, such as models.example.org, or *; 'a b' is none, got 'a b'"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_named_with_what_would(flags: dict[str, Any], message: str) -> None:
    assert refusal(**flags) == message


@pytest.mark.parametrize(
    "origin",
    [
        "notanorigin",
        "app.example.org",
        "https://",
        "https://app.example.org/page",
        "https://app.example.org:443",
        "http://app.example.org:80/",
        "https://app.example.org:port",
        "https://*.example.org",
        "https://me@app.example.org",
        "https://b\u00fccher.example",
        "https://a.example https://b.example",
    ],
)
def test_what_no_browser_sends_as_an_origin_is_refused(origin: str) -> None:
    message = refusal(http_cors_origins=f"https://app.example.org, {origin}")
    assert message.startswith("http_cors_origins: an origin is a scheme and a host")
    assert f"{origin!r} is none" in message
    # The environment is no way around it.
    assert refusal(environ={"FROSTLINE_HTTP_CORS_ORIGINS": origin}).startswith("http_cors_origins: ")


def test_what_browsers_send_as_origins_is_taken() -> None:
    origins = {
        "*",
        "null",
        "https://app.example.org",
        "HTTPS://App.Example.org/",
        "http://localhost:3000",
        "https://a.example:80",
        "http://[::1]:8080",
        "chrome-extension://abcdef",
    }
    assert load(http_cors_origins=", ".join(sorted(origins))).cors_origins == origins


@pytest.mark.parametrize(
    "host", ["https://a.example", "a.example:8000", "*.example", "[::1]", "a/b", "b\u00fccher.example"]
)
def test_what_no_host_is_called_is_refused(host: str) -> None:
    assert f"{host!r} is none" in refusal(http_hosts=f"a.example,{host}")


def test_names_of_hosts_are_taken() -> None:
    hosts = {"*", "a.example", "my_host", "10.0.0.1", "::1", "A-1.example."}
    assert load(http_hosts=",".join(sorted(hosts))).host_names == hosts


def test_a_source_may_turn_off_what_a_weaker_one_says_more_about(tmp_path: Path) -> None:
    file = toml(tmp_path, 'http_hosts = "a.example"\npoll_s = 5\ntrace_ratio = 0.5\ntraces = "otlp"\n')
    environ = {"FROSTLINE_HTTP": "false", "FROSTLINE_CONNECTION_GRACE_S": "5"}
    config = load(file, environ, model_control="explicit", traces="off", max_connection_age_s=0)
    assert (config.http, config.http_hosts, config.poll_s, config.trace_ratio) == (False, "", 15, None)
    assert (config.connection_grace_s, config.max_connection_age_s) == (0, 0)
    assert load(file, environ, http=True).http_hosts == "a.example"
    for stronger in ({"FROSTLINE_HTTP_PORT": "9"}, {"FROSTLINE_HTTP": "0", "FROSTLINE_HTTP_PORT": "9"}):
        with pytest.raises(ConfigError, match="http_port has no effect with http false"):
            load(toml(tmp_path, "http = false\n"), stronger)


def test_settings_that_go_together_are_taken_together() -> None:
    assert load(max_connection_age_s=0.5, connection_grace_s=5).connection_grace_s == 5
    assert load(access_log="stdout", access_log_ratio=0.5).access_log_ratio == 0.5
    assert load(http=False, http_port=0).http_port == 0
    assert load(admin_host="0.0.0.0", admin_port=0).admin_host == "0.0.0.0"
    assert load(trace_ratio=0.0, traces="otlp").trace_ratio == 0
    assert load(network_bytes=65536).network_bytes == 65536


def test_a_worker_takes_what_its_supervisor_took() -> None:
    config = load(processes=2)
    assert ServerConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_linked_folder_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    (warning,) = load(linked_folders=f"{tmp_path}, {tmp_path}/nowhere").warnings
    assert (
        warning
        == f"linked_folders names {tmp_path}/nowhere, where there is no folder: no link leads there until there is"
    )
    assert load(canary_s=1).warnings == load(canary_s=1).deprecated


def test_words_where_a_number_should_be_are_refused() -> None:
    message = refusal(environ={"FROSTLINE_PORT": "many"})
    assert message.startswith("port: input should be a valid integer")
    assert message.endswith("got 'many'")


def test_everything_wrong_is_said_at_once() -> None:
    assert refusal(port=-1, threads=-1) == (
        "port: input should be greater than or equal to 0, got -1; threads: input should be greater than or equal to 0, got -1"
    )


def test_a_file_with_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    assert refusal(toml(tmp_path, "prot = 1\n")) == "there is no setting 'prot'"


@pytest.mark.parametrize("content", [b"port = ", b"\xff", b"[server"])
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "server.toml"
    path.write_bytes(content)
    assert refusal(path).startswith(f"cannot read the configuration file {path}: ")


def test_a_file_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.toml"
    assert refusal(path).startswith(f"cannot read the configuration file {path}: ")


# TLS


@pytest.mark.parametrize("flags", [{"tls_cert": "c.pem"}, {"tls_key": "k.pem"}])
def test_certificate_and_key_go_together(flags: dict[str, Any]) -> None:
    assert refusal(**flags) == "tls_cert and tls_key go together: give both or neither"


@pytest.mark.parametrize("transport", ["auto", "h2", "grpcio"])
def test_every_transport_has_tls(transport: str) -> None:
    assert load(tls_cert="c.pem", tls_key="k.pem", transport=transport).tls_cert == Path("c.pem")


# What follows from settings


@pytest.mark.parametrize(
    ("require", "required", "names"),
    [
        ("all", {"a", "b", "all"}, set()),
        ("none", set(), set()),
        ("", set(), set()),
        ("a", {"a"}, {"a"}),
        (" a , b,, ", {"a", "b"}, {"a", "b"}),
        ("c", set(), {"c"}),
    ],
)
def test_the_models_without_which_the_server_is_not_ready(require: str, required: set[str], names: set[str]) -> None:
    config = load(require=require)
    assert {name for name in ("a", "b", "all") if config.required(name)} == required
    assert config.required_names == names


@pytest.mark.parametrize(
    ("written", "near", "far"),
    [
        ("auto", {"predict", "observe"}, set()),
        ("none", set(), set()),
        ("all", {"predict", "observe", "control"}, {"predict", "observe", "control"}),
        ("predict", {"predict"}, {"predict"}),
        ("observe , control", {"observe", "control"}, {"observe", "control"}),
    ],
)
def test_callers_without_credentials_have_the_roles_that_are_written(
    written: str, near: set[str], far: set[str]
) -> None:
    config = load(allow_anonymous=written)
    assert config.anonymous_roles(local=True) == frozenset(near)
    assert config.anonymous_roles(local=False) == frozenset(far)


@pytest.mark.parametrize("written", ["", "root", "predict;observe", "all,predict", "auto,predict"])
def test_a_role_that_does_not_exist_is_refused_with_those_that_do(written: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^allow_anonymous must be auto, none, all, or roles .* of predict, observe, control; got "
    ):
        load(allow_anonymous=written)


def test_linked_folders_are_paths_and_home_is_the_users() -> None:
    config = ServerConfig.load(environ={"HOME": "/home/me"}, models="m", linked_folders="/cache, ~/hub ,")
    assert config.linked == (Path("/cache"), Path("~/hub").expanduser())
    assert ServerConfig.load(environ={}, models="m").linked == ()
