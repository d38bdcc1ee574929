"""The server's settings, from command-line flags, environment variables and a TOML file.

A flag wins over the environment, the environment over the file, and the file over the default.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from frostline_server.errors import ConfigError

ENVIRONMENT = "FROSTLINE_"
MAX_BATCH_SIZE = 65536
"""No network gains from more rows in one run, and the memory for them would be the machine's."""
LEAST_NETWORK_BYTES = 65536
"""In less, gRPC's and HTTP's shares of it have no room for a request of a few rows and its answer."""
ROLES = ("predict", "observe", "control")
"""What a caller may be allowed to do: ask for predictions, look at the server, change what it does."""
RENAMED: Mapping[str, str] = {"canary_s": "probe_s"}
"""Settings that are still accepted under their old name, by that name."""


@dataclass(frozen=True)
class _Switch:
    """A setting of which some values leave other settings without effect.

    Attributes:
        name: the setting.
        off: a pattern of those values, as they are written.
        on: what to set it to instead.
        details: the other settings.
        why: more about those values.
    """

    name: str
    off: str
    on: str
    details: tuple[str, ...]
    why: str = ""

    def is_off(self, value: object) -> bool:
        """Whether a value, also one that nobody has checked yet, is one of those."""
        return re.fullmatch(self.off, str(value), re.IGNORECASE) is not None


_OF_HTTP = ("http_port", "http_hosts", "http_cors_origins")
_SWITCHES = (
    _Switch("model_control", "watch|poll|none", "explicit", ("load_models",), ", which loads all models"),
    _Switch("model_control", "explicit|none", "watch or poll", ("poll_s",)),
    _Switch("trial_load", "never", "auto or always", ("load_timeout_s", "load_memory_bytes")),
    _Switch("http", "false|0|no|off|n|f", "true", _OF_HTTP),
    _Switch("host", "unix:.*", "an address of the network", _OF_HTTP, ", where HTTP is not answered"),
    _Switch("max_connection_age_s", r"0*\.?0*", "more", ("connection_grace_s",)),
    _Switch("access_log", "off", "stdout or a file", ("access_log_ratio",)),
    _Switch("traces", "off", "otlp", ("trace_ratio",)),
)


class ServerConfig(BaseModel):
    """Every setting of a server. A flag wins over the environment, that over the file, that over the default.

    In the environment a setting is FROSTLINE_ and its name in capitals; in the file (TOML) it is its name. The flags of
    `frostline serve`, their help and the table in docs/operating.md are generated from these fields: a description is
    one phrase in which `backticks` mark what is typed, `group` is its heading in the help, and `see` the section of the
    guide that says more.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    models: Path = Field(
        description="folder of models: `<name>/<version>/model.onnx`; or one model: `<version>/model.onnx`, or `model.onnx`",
        json_schema_extra={"group": "Models", "see": "One model"},
    )
    model_name: str = Field(
        "",
        pattern=r"^[^/]*$",
        description="name of the model where `models` is one model; by default the folder's name",
        json_schema_extra={"group": "Models", "see": "One model"},
    )
    model_control: Literal["watch", "poll", "explicit", "none"] = Field(
        "watch",
        description="how the server decides what to load and unload; with `explicit`, clients request it",
        json_schema_extra={"group": "Models", "see": "Loading and unloading models"},
    )
    poll_s: float = Field(
        15.0,
        ge=0.1,
        le=86400,
        allow_inf_nan=False,
        description="seconds between two reads of the folder; with `watch`, file system events cause further reads",
        json_schema_extra={"group": "Models"},
    )
    linked_folders: str = Field(
        "",
        description="folders outside of `models`, separated by commas, that links in it may lead to; `/` allows any",
        json_schema_extra={"group": "Models", "see": "Links"},
    )
    load_models: str = Field(
        "",
        description="with `model_control` explicit: models to load at the start, separated by commas, or `*`",
        json_schema_extra={"group": "Models"},
    )
    require: str = Field(
        "all",
        description="models that must be ready before the server is: `all`, `none`, or names separated by commas",
        json_schema_extra={"group": "Models"},
    )
    trial_load: Literal["auto", "always", "never"] = Field(
        "auto",
        description="which versions are loaded in a child process first, so that none can end the server; `auto` tries those "
        "that Frostline has not published, and very large ones",
        json_schema_extra={"group": "Models", "see": "Trial loads"},
    )
    load_timeout_s: float = Field(
        120.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds that a version may take to load in that child process",
        json_schema_extra={"group": "Models", "see": "Trial loads"},
    )
    load_memory_bytes: int = Field(
        0,
        ge=0,
        description="memory that a version may take to load in that child process, in bytes, and never more than is free; 0 "
        "takes half of the memory that the process may use",
        json_schema_extra={"group": "Models", "see": "Trial loads"},
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address to listen on, or `unix:/path/to.sock`",
        json_schema_extra={"group": "Network"},
    )
    port: int = Field(
        8001, ge=0, le=65535, description="gRPC port; 0 picks a free one", json_schema_extra={"group": "Network"}
    )
    metrics_port: int = Field(
        8002,
        ge=0,
        le=65535,
        description="HTTP port of `/metrics`, `/healthz` and `/readyz`; 0 picks a free one",
        json_schema_extra={"group": "Network"},
    )
    http: bool = Field(
        True,
        description="whether HTTP is answered too: the protocol as REST, raw rows as JSON, and a page to try models on",
        json_schema_extra={"group": "HTTP", "see": "HTTP"},
    )
    http_port: int = Field(
        8000, ge=0, le=65535, description="HTTP port; 0 picks a free one", json_schema_extra={"group": "HTTP"}
    )
    http_hosts: str = Field(
        "",
        description="names that clients reach the HTTP port by, separated by commas, or `*`; requests for others are refused, if "
        "there are any, and where anonymous callers are trusted because only this machine can reach the port",
        json_schema_extra={"group": "HTTP", "see": "HTTP"},
    )
    http_cors_origins: str = Field(
        "",
        description="origins whose pages may use the HTTP port, such as `https://app.example.org`, separated by commas, or `*`",
        json_schema_extra={"group": "HTTP", "see": "HTTP"},
    )
    transport: Literal["auto", "h2", "grpcio"] = Field(
        "auto",
        description="which front end owns the gRPC port; `auto` takes `h2` wherever its library is installed",
        json_schema_extra={"group": "Network", "see": "Transports"},
    )
    max_message_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        le=2**31 - 1,
        description="largest message accepted, in bytes",
        json_schema_extra={"group": "Network"},
    )
    compression: Literal["none", "gzip", "deflate"] = Field(
        "none",
        description="how answers are compressed for clients that can read it; compressed requests are always understood",
        json_schema_extra={"group": "Network"},
    )
    shared_memory: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether clients may use shared memory; `auto` allows it if only this machine can reach the port",
        json_schema_extra={"group": "Network", "see": "Shared memory"},
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM certificate chain; turns TLS on, together with `tls_key`",
        json_schema_extra={"group": "Network"},
    )
    tls_key: Path | None = Field(None, description="PEM private key", json_schema_extra={"group": "Network"})
    client_certificates: Literal["off", "optional", "required"] = Field(
        "off",
        description="whether clients show a certificate of `tls_client_ca`; `grpcio` has no `optional`",
        json_schema_extra={"group": "Access", "see": "Who may do what"},
    )
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file of the authorities whose client certificates are trusted",
        json_schema_extra={"group": "Access"},
    )
    access_file: Path | None = Field(
        None,
        description="TOML file of tokens and client certificates, with their roles; read again when it changes",
        json_schema_extra={"group": "Access", "see": "Who may do what"},
    )
    allow_anonymous: str = Field(
        "auto",
        pattern=rf"^(auto|none|all|({'|'.join(ROLES)})( *, *({'|'.join(ROLES)}))*)$",
        description="roles of callers without credentials: `none`, `all`, or roles separated by commas; `auto` is "
        "`predict,observe` on an address that only this machine can reach, and `none` on any other",
        json_schema_extra={"group": "Access", "see": "Who may do what"},
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="gRPC port on which alone calls that need the role `control` are answered; 0 picks a free one",
        json_schema_extra={"group": "Access", "see": "A port for control"},
    )
    admin_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address of `admin_port`",
        json_schema_extra={"group": "Access"},
    )
    metrics_access: Literal["open", "observe"] = Field(
        "open",
        description="who may read `/metrics`: everyone who reaches the port, or callers with the role `observe`",
        json_schema_extra={"group": "Access", "see": "The metrics port"},
    )
    metrics_tls: bool = Field(
        False,
        description="whether the metrics port has TLS too, with `tls_cert` and `tls_key`",
        json_schema_extra={"group": "Access", "see": "The metrics port"},
    )
    network_bytes: int = Field(
        0,
        ge=0,
        description="memory for messages in flight, requests and answers of all clients together, in bytes, 65536 or more; what finds "
        "no room gets `RESOURCE_EXHAUSTED`; 0 takes a quarter of the memory that the process may use",
        json_schema_extra={"group": "Limits on clients", "see": "Limits on clients"},
    )
    max_connections: int = Field(
        16384,
        ge=1,
        description="most connections at one time",
        json_schema_extra={"group": "Limits on clients"},
    )
    max_connections_per_address: int = Field(
        4096,
        ge=1,
        description="most connections at one time from one address",
        json_schema_extra={"group": "Limits on clients"},
    )
    max_calls_per_connection: int = Field(
        1024,
        ge=1,
        le=2**31 - 1,
        description="most calls at one time on one connection; clients keep further ones back",
        json_schema_extra={"group": "Limits on clients"},
    )
    max_resets_per_s: int = Field(
        1000,
        ge=1,
        description="calls that one connection may give up in a second, on average; twice as many at once",
        json_schema_extra={"group": "Limits on clients"},
    )
    max_header_bytes: int = Field(
        16384,
        ge=1024,
        le=2**20,
        description="largest list of headers of a call, in bytes",
        json_schema_extra={"group": "Limits on clients"},
    )
    handshake_timeout_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="seconds in which a new connection must have begun, with TLS and HTTP/2",
        json_schema_extra={"group": "Limits on clients"},
    )
    message_timeout_s: float = Field(
        60.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds that a message may be on its way",
        json_schema_extra={"group": "Limits on clients"},
    )
    answer_timeout_s: float = Field(
        60.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds that an answer may stay unread, without any progress",
        json_schema_extra={"group": "Limits on clients"},
    )
    load_reports: bool = Field(
        True,
        description="whether answers carry the server's load, for clients that balance by it (`weighted_round_robin`)",
        json_schema_extra={"group": "Network"},
    )
    max_connection_age_s: float = Field(
        1800.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds after which a client is told to connect anew, so that load spreads to new replicas; 0 for never",
        json_schema_extra={"group": "Limits on clients", "see": "Limits on clients"},
    )
    connection_grace_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds after that until its open calls end too; 0 lets them take as long as they need",
        json_schema_extra={"group": "Limits on clients"},
    )
    max_batch_size: int = Field(
        64,
        ge=1,
        le=MAX_BATCH_SIZE,
        description="most rows in one batch, and in one request",
        json_schema_extra={"group": "Batches and queues"},
    )
    max_queue_delay_s: float = Field(
        0.0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="seconds that an incomplete batch waits for more rows; with 0 a batch holds the rows that were queued "
        "while the device was busy",
        json_schema_extra={"group": "Batches and queues"},
    )
    max_queue_size: int = Field(
        4096,
        ge=1,
        description="largest number of queued rows, for each model; if the queue is full, requests get `UNAVAILABLE`",
        json_schema_extra={"group": "Batches and queues"},
    )
    slo_ms: float = Field(
        0.0,
        ge=0,
        le=3_600_000,
        allow_inf_nan=False,
        description="time limit of a request in milliseconds; one that would take longer is refused at once; 0 means no limit",
        json_schema_extra={"group": "Batches and queues", "see": "The latency limit: slo_ms"},
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="where models run: `auto`, `cpu`, `cuda` or `cuda:N`",
        json_schema_extra={"group": "Devices", "see": "Devices"},
    )
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="processes that share the port, each with all models, on the CPU only",
        json_schema_extra={"group": "Devices", "see": "Several processes"},
    )
    threads: int = Field(
        0,
        ge=0,
        description="threads of one run on the CPU; 0 takes half the CPUs that the process may use, the other half being for reading requests",
        json_schema_extra={"group": "Devices"},
    )
    max_run_bytes: int = Field(
        0,
        ge=0,
        description="memory that one run may take, in bytes; a model's batches are made no larger than it allows, as measured "
        "before READY; 0 takes a quarter of the memory that the process may use",
        json_schema_extra={"group": "Batches and queues"},
    )
    max_run_s: float = Field(
        60.0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds that one run may take before it is ended, and its requests get `DEADLINE_EXCEEDED`; 0 means no limit",
        json_schema_extra={"group": "Batches and queues", "see": "Runs that do not end"},
    )
    probe_s: float = Field(
        10.0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds between two probes of every model on its device; 0 for none",
        json_schema_extra={"group": "Devices"},
    )
    exit_on_fault: bool = Field(
        False,
        description="stop with exit code 1 if a device fails its probe, or a model answers nothing because its runs hang, and has "
        "not recovered after two more periods of `probe_s`",
        json_schema_extra={"group": "Devices"},
    )
    max_class_series: int = Field(
        100,
        ge=0,
        le=100_000,
        description="most classes of a model with a series of their own in `frostline_predictions_total`; the rest share one",
        json_schema_extra={"group": "Metrics", "see": "Predictions of many classes"},
    )
    grace_s: float = Field(
        30.0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds to finish accepted requests after SIGTERM",
        json_schema_extra={"group": "Shutdown and logs"},
    )
    log_format: Literal["console", "json"] = Field(
        "console",
        description="format of log lines; with `json`, each line is one JSON object",
        json_schema_extra={"group": "Shutdown and logs"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged", json_schema_extra={"group": "Shutdown and logs"}
    )
    access_log: str = Field(
        "off",
        min_length=1,
        description="where a line of JSON for each request goes: `off`, `stdout`, or a file",
        json_schema_extra={"group": "Traces and access log", "see": "The access log"},
    )
    access_log_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="the share of requests that have a line there",
        json_schema_extra={"group": "Traces and access log", "see": "The access log"},
    )
    traces: Literal["off", "otlp"] = Field(
        "off",
        description="whether requests are traced; `otlp` sends spans to the collector at `OTEL_EXPORTER_OTLP_ENDPOINT`",
        json_schema_extra={"group": "Traces and access log", "see": "Traces"},
    )
    trace_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="the share of requests that are traced, of those whose caller has not decided; without it "
        "`OTEL_TRACES_SAMPLER` says, or else one of a hundred is",
        json_schema_extra={"group": "Traces and access log", "see": "Traces"},
    )

    _deprecated: tuple[str, ...] = PrivateAttr(())

    @property
    def deprecated(self) -> tuple[str, ...]:
        """What to write instead of the old names that were used, a sentence for each."""
        return self._deprecated

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever set the settings should know, a sentence for each: of old names, and of folders that are not there."""
        absent = [folder for folder in self.linked if not os.path.isdir(folder)]  # noqa: PTH112  it never raises
        return (
            *self._deprecated,
            *(
                f"linked_folders names {each}, where there is no folder: no link leads there until there is"
                for each in absent
            ),
        )

    @classmethod
    def load(cls, file: Path | None = None, environ: Mapping[str, str] = os.environ, **flags: Any) -> Self:
        """Merge the sources.

        Args:
            file: a TOML file, or None.
            environ: the environment.
            flags: settings given on the command line; None means not given.

        Raises:
            ConfigError: a value makes no sense, or the file cannot be read.
        """
        from_file: dict[str, Any] = {}
        if file is not None:
            try:
                from_file = tomllib.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(f"cannot read the configuration file {file}: {error}") from error
        from_environ = {
            name: environ[key]
            for name in (*cls.model_fields, *RENAMED)
            if (key := ENVIRONMENT + name.upper()) in environ
        }
        given = {name: value for name, value in flags.items() if value is not None}
        sources = (from_file, from_environ, given)
        old = [name for name in RENAMED if any(name in source for source in sources)]
        merged: dict[str, Any] = {}
        strength: dict[str, int] = {}
        for place, source in enumerate(sources):
            renamed = {new: source[name] for name, new in RENAMED.items() if name in source}
            named = renamed | {name: value for name, value in source.items() if name not in RENAMED}
            merged |= named
            strength |= dict.fromkeys(named, place)
        for name, switch in _without_effect(merged).items():
            # A source may turn off what a weaker one says more about.
            if strength.get(name, place) < strength[switch.name]:
                del merged[name]
        try:
            config = cls(**merged)
        except ValidationError as error:
            raise ConfigError("; ".join(_sentence(problem) for problem in error.errors())) from error
        config._deprecated = tuple(_instead(name, RENAMED[name]) for name in old)
        return config

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: object, info: ValidationInfo) -> object:
        # To Python, true is the number 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise PydanticCustomError("truth_value", "Input should not be a truth value")
        return value

    @field_validator("network_bytes")
    @classmethod
    def _holds_a_request(cls, value: int) -> int:
        if 0 < value < LEAST_NETWORK_BYTES:
            raise PydanticCustomError(
                "least",
                f"Input should be 0, or at least {LEAST_NETWORK_BYTES}, for a request and its answer to find room",
            )
        return value

    @field_validator("http_cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        return _checked(
            value,
            _is_origin,
            "origin",
            "An origin is a scheme and a host, with the port unless it is the scheme's own, as browsers send it: "
            "https://app.example.org or http://localhost:3000",
        )

    @field_validator("http_hosts")
    @classmethod
    def _are_hosts(cls, value: str) -> str:
        return _checked(
            value,
            _is_host,
            "host",
            "A name of a host is expected, without scheme and port, such as models.example.org, or *",
        )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        # Not whether it was set: a worker is told every setting.
        given = {name for name, info in type(self).model_fields.items() if getattr(self, name) != info.default}
        if self.http_port == 0:  # whoever wants any free port does not mind that there is none
            given.discard("http_port")
        for name, switch in _without_effect(self.model_dump()).items():
            if name in given:
                value = getattr(self, switch.name)
                told = (
                    str(value).lower()
                    if isinstance(value, bool)
                    else f"{value:g}"
                    if isinstance(value, float)
                    else value
                )
                raise ValueError(
                    f"{name} has no effect with {switch.name} {told}{switch.why}: set that to {switch.on}, or leave {name} out"
                )
        if self.admin_port is None and "admin_host" in given:
            raise ValueError(
                "admin_host has no effect without admin_port, whose address it is: set that too, or leave admin_host out"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or neither")
        if self.processes > 1 and self.device.startswith("cuda"):
            raise ValueError("several processes are for the CPU: a GPU serves one process fastest; use --processes 1")
        if self.processes > 1 and self.host.startswith("unix:"):
            raise ValueError("several processes cannot share a Unix socket; use a TCP address, or --processes 1")
        if self.metrics_tls and not self.tls_cert:
            raise ValueError("metrics_tls needs tls_cert and tls_key: the metrics port shows the same certificate")
        if self.client_certificates != "off" and not (self.tls_cert and self.tls_client_ca):
            raise ValueError(
                f"client_certificates {self.client_certificates} needs tls_cert, tls_key and tls_client_ca, the file of "
                "the authorities whose client certificates are trusted"
            )
        if self.admin_port is not None and self.client_certificates == "optional":
            raise ValueError(
                "client_certificates optional is not possible with admin_port, which asks for a certificate or does not: set it to "
                "required, or show tokens there"
            )
        if self.tls_client_ca and self.client_certificates == "off":
            raise ValueError("tls_client_ca has no effect without client_certificates: set it to optional or required")
        return self

    def required(self, name: str) -> bool:
        """Whether the server is not ready without the model `name`."""
        return self.require == "all" or (self.require != "none" and name in self.required_names)

    @property
    def required_names(self) -> frozenset[str]:
        """The models named as required, whether or not they exist."""
        if self.require in ("all", "none"):
            return frozenset()
        return _names(self.require)

    def anonymous_roles(self, *, local: bool) -> frozenset[str]:
        """The roles of a caller without credentials, through an address that only this machine can reach or another."""
        if self.allow_anonymous == "auto":
            return frozenset({"predict", "observe"} if local else ())
        if self.allow_anonymous in ("all", "none"):
            return frozenset(ROLES if self.allow_anonymous == "all" else ())
        return _names(self.allow_anonymous)

    @property
    def linked(self) -> tuple[Path, ...]:
        """The folders that links in the models folder may lead to besides."""
        return tuple(Path(folder).expanduser() for folder in sorted(_names(self.linked_folders)))

    @property
    def host_names(self) -> frozenset[str]:
        """The names that clients reach the HTTP port by."""
        return _names(self.http_hosts)

    @property
    def cors_origins(self) -> frozenset[str]:
        """The origins whose pages may use the HTTP port."""
        return _names(self.http_cors_origins)

    @property
    def models_at_start(self) -> frozenset[str] | None:
        """The models to load at the start; None for all."""
        if self.model_control != "explicit" or self.load_models.strip() == "*":
            return None
        return _names(self.load_models)


def _without_effect(settings: Mapping[str, Any]) -> dict[str, _Switch]:
    """The settings that have no effect beside these, each with what turns it off."""
    off = [switch for switch in _SWITCHES if switch.name in settings and switch.is_off(settings[switch.name])]
    return {detail: switch for switch in off for detail in switch.details}


def _names(listed: str) -> frozenset[str]:
    return frozenset(name.strip() for name in listed.split(",") if name.strip())


def _checked(listed: str, is_one: Callable[[str], bool], kind: str, expected: str) -> str:
    """Names that are all of a kind, as they are."""
    for name in sorted(_names(listed)):
        if not is_one(name):
            raise PydanticCustomError(kind, f"{expected}; {name!r} is none")
    return listed


def _is_origin(origin: str) -> bool:
    """Whether a browser may send it as the header Origin, or it stands for all that they may send."""
    if origin in ("*", "null"):
        return True
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+/?", origin, re.IGNORECASE):
        return False
    try:
        parts = urlsplit(origin)
        # Browsers leave out the port that a scheme has anyway.
        return bool(parts.hostname) and parts.port != {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return False


def _is_host(host: str) -> bool:
    """Whether it may be the name in a header Host, or stands for all of them."""
    if host == "*" or re.fullmatch(r"[a-z0-9._-]+", host, re.IGNORECASE):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _instead(old: str, new: str) -> str:
    flag, variable = f"--{new.replace('_', '-')}", ENVIRONMENT + new.upper()
    return f"the setting {old} is deprecated; use {new} ({flag}, {variable}) instead"


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name} is required; give --{name.replace('_', '-')} or set {ENVIRONMENT}{name.upper()}"
    if problem["type"] == "extra_forbidden":
        return f"there is no setting '{name}'"
    if not name:
        return str(problem["msg"]).removeprefix("Value error, ")
    if name == "allow_anonymous":
        return f"allow_anonymous must be auto, none, all, or roles separated by commas, of {', '.join(ROLES)}; got {problem['input']!r}"
    if name == "device":
        return f"device must be auto, cpu, cuda or cuda:N, got {problem['input']!r}"
    return f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"
