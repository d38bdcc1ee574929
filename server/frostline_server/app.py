"""The application object: it starts, serves and drains one server.

It is the only module that creates the other rooms' objects and connects them. It reads from top to bottom: what `start`
creates and starts, what the server's state is, what happens while it serves, and how it ends.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

import onnxruntime
import structlog
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry

from frostline_server import interpreter, logs
from frostline_server.access.access import Access
from frostline_server.access.credentials import Credentials
from frostline_server.access.permissions import CONTROL, EVERY_ROLE, OBSERVE
from frostline_server.access.reach import local_only
from frostline_server.batching.request_queue import Batching, QueuePolicy
from frostline_server.codec.shared_memory import Regions
from frostline_server.config import ServerConfig
from frostline_server.errors import ConfigError, PredictionError, StartError
from frostline_server.inference import Inference
from frostline_server.metrics.exchange import dump
from frostline_server.metrics.families import RULES, Network, Sources
from frostline_server.metrics.http import MetricsServer
from frostline_server.metrics.prometheus import register
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.memory_return import MemoryReturn
from frostline_server.model.stats import Unrouted
from frostline_server.model.trial import Trials
from frostline_server.model.watchdog import Watchdog
from frostline_server.regular_files import FileReader
from frostline_server.reloaded import Reloaded
from frostline_server.repository.canary_watch import CanaryWatch
from frostline_server.repository.device_probe import DeviceProbe
from frostline_server.repository.layout import why_no_folder
from frostline_server.repository.reconciler import Reconciler
from frostline_server.repository.registry import ModelVersion, Repository, Traffic
from frostline_server.repository.rollout import Rollout, RolloutChanged, change
from frostline_server.repository.rollout_steps import take_back
from frostline_server.repository.watcher import Watcher
from frostline_server.rpc.health import Health
from frostline_server.rpc.load_report import LoadReport, Totals
from frostline_server.rpc.log_settings import LogControl
from frostline_server.rpc.metadata import Metadata
from frostline_server.rpc.model_statistics import Statistics
from frostline_server.rpc.oip_service import InferenceService
from frostline_server.rpc.private_port import PrivatePort
from frostline_server.rpc.repository_control import ModelControl
from frostline_server.rpc.schema import Schemas
from frostline_server.rpc.server import SERVICES, Transport
from frostline_server.rpc.shared_memory_control import SharedMemory
from frostline_server.rpc.supervised import ControlOfAll, Place
from frostline_server.rpc.trace_settings import TraceControl
from frostline_server.runtime.devices import CPU, choose_providers, cuda_devices, load_cuda_libraries
from frostline_server.runtime.host_limits import cpu_count, memory_limit_bytes
from frostline_server.telemetry.access_log import AccessLog
from frostline_server.telemetry.recorder import Recorder
from frostline_server.telemetry.sampling import Rules, first_rule
from frostline_server.tls import expiry_s
from frostline_server.turns import Turns

if TYPE_CHECKING:
    from frostline_server.http.front_end import HttpFrontEnd

LINGER_S = 1.0
"""How long the server goes on refusing requests before it closes its ports, in seconds."""
_QUIET_S = 0.2
_UNREAD_S = 2.0
"""How long the end waits for answers of which no client reads any."""
_CLOSE_S = 0.3
_END_S = 0.5
_ANNOUNCE_S = 0.02
_RECORD_S, _MOST_RECORD_S = 0.5, 5.0
"""How long the last traces and lines of the access log have at the end: what is left of the grace period, within these."""
_HANG_GRACE_S = 10.0
"""How long runs may hang before `exit_on_fault` ends the process, where models are probed more often than that, or never."""

_log = structlog.get_logger(__name__)


class Server:
    """One server: `start` it, and when it is to end, `drain` it.

    Args:
        config: its settings.
        place: its place among the processes that share its address; None for one that is alone.
    """

    def __init__(self, config: ServerConfig, place: Place | None = None) -> None:
        self._config = config
        self._place = place
        self._private: PrivatePort | None = None
        self._metrics: MetricsServer | None = None
        self._phase = "starting"
        self.broken = asyncio.Event()
        """Set when a device goes on failing and the configuration says to stop then."""
        self._http: HttpFrontEnd | None = None
        self.address = ""
        self.http_url = ""
        self.metrics_url = ""
        self.repository = Repository()
        self._unrouted = Unrouted()
        self._announcing = False
        self._health = Health()
        # Named by load_models and not loaded, not even as FAILED, because there is no such folder.
        self._absent: set[str] = set()
        self._watcher: Watcher | None = None
        self._probe: DeviceProbe | None = None
        self._canaries: CanaryWatch | None = None
        self._files = FileReader(config.models, config.linked)
        self._trials: Trials | None = None
        self._watchdog = Watchdog()
        self._watchdog.idle = self._between_loads
        self._memory_return = MemoryReturn(self._watchdog.sessions, held=self._held)
        # What answers nothing, because its runs do not end.
        self._hanging: set[LoadedModel] = set()
        self._credentials = Credentials(config.access_file) if config.access_file else None
        self._rules: Rules | None = None
        self._recorder: Recorder | None = None

    # Start

    async def start(self) -> None:
        """Open the ports, then load every model; returns when that is done, ready or not.

        Raises:
            StartError: a port, the models folder or the device cannot be had.
        """
        started_s = time.monotonic()
        interpreter.share()
        self._turns = Turns()
        self._loop = asyncio.get_running_loop()
        release = installed_version("frostline")
        self._create_recorder(release)
        self._create_reconciler()
        self._create_front_end(release)
        self._create_http()
        self._create_metrics(release)
        await self._open_ports()
        self._turns.start(lambda: self._http is not None and self._http.asked)
        self._watchdog.start()
        self._start_watcher()
        await self._loop.run_in_executor(None, self._load)
        if self._phase != "starting":  # told to end meanwhile
            return
        if self._private is not None and not await self._join(self._private):
            return
        self._phase = "serving"
        self._announce()
        self._after_load()
        self._start_probe()
        self._canaries = CanaryWatch(self._rollouts, self.repository, self._take_back)
        self._canaries.start()
        about = {
            **({"http": self.http_url} if self.http_url else {}),
            **({"admin": self._transport.admin_address} if self._transport.admin_address else {}),
            "transport": self._transport.name,
            "reason": self._transport.reason,
            "device": self._config.device,
            "models": [f"{v.name}:{v.version}" for v in self.repository.versions() if v.state == "READY"],
        }
        event = "ready" if self.ready() else "not ready"
        _log.info(
            event if self._place is None else f"process {event}",
            address=self.address,
            metrics=self.metrics_url,
            **about,
            seconds=round(time.monotonic() - started_s, 3),
            **({} if self.ready() else {"unready": self.unready()}),
        )
        if self._place is not None:
            self._place.report(open=True, **about)

    def _create_recorder(self, release: str) -> None:
        """Create what makes traces and the access log, if the settings ask for any of them."""
        config = self._config
        log = None if config.access_log == "off" else AccessLog(config.access_log)
        if config.traces == "otlp":
            # Only who traces pays for the libraries.
            try:
                from frostline_server.telemetry.spans import open_spans  # noqa: PLC0415
            except ImportError as error:
                raise StartError(
                    f"traces otlp needs OpenTelemetry, of which {error.name} is not installed: pip install 'frostline[otel]'"
                ) from error
            self._rules = Rules(first_rule(config.trace_ratio, os.environ))
        if log is not None:
            log.open()
        if log is None and self._rules is None:
            return
        spans = None if self._rules is None else open_spans(release, os.environ)
        self._recorder = Recorder(self._rules, spans, log, config.access_log_ratio)
        self._recorder.start()

    def _create_reconciler(self) -> None:
        """Choose the devices, and create what loads models onto them."""
        config = self._config
        if reason := why_no_folder(config.models):
            raise StartError(reason)
        # Its own log is not JSON, and what it calls an error there it raises too, or tries something else: on a GPU an
        # "error" for every convolution that cuDNN has no fastest plan for. Only what is fatal it cannot raise.
        onnxruntime.set_default_logger_severity(4)
        available, devices = onnxruntime.get_available_providers(), cuda_devices()
        self._providers = choose_providers(config.device, available, devices)
        if self._place is not None and self._providers[0][0] != CPU:
            raise StartError("several processes are for the CPU, and here is a GPU; use --device cpu or --processes 1")
        if self._providers[0][0] != CPU and (missing := load_cuda_libraries()):
            _log.warning("CUDA libraries", warning=missing)
        memory_bytes = memory_limit_bytes() // config.processes
        # Other systems cannot bound a child's memory, nor end it with the server.
        if config.trial_load != "never" and sys.platform == "linux":
            self._trials = Trials(
                always=config.trial_load == "always",
                timeout_s=config.load_timeout_s,
                memory_bytes=config.load_memory_bytes or memory_bytes // 2,
            )
        loader = Loader(
            self._providers,
            strict=config.device.startswith("cuda"),
            threads=_threads(config.threads, cpu_count() // config.processes),
            batching=Batching(
                config.max_batch_size, (QueuePolicy(config.max_queue_size),), max_queue_delay_s=config.max_queue_delay_s
            ),
            devices=devices,
            slo_s=config.slo_ms / 1000,
            max_run_bytes=config.max_run_bytes or memory_bytes // 4,
            max_run_s=config.max_run_s,
            watchdog=self._watchdog,
            on_hang=self._on_hang,
            max_class_series=config.max_class_series,
            files=self._files,
            trials=self._trials,
            recorder=self._recorder,
        )
        self.reconciler = Reconciler(
            config.models,
            self.repository,
            loader,
            name=config.model_name,
            explicit=config.model_control == "explicit",
            on_change=self._on_change,
            on_warning=_log_warning,
            on_rollout=_log_rollout,
            on_decision=_audit_decision,
        )

    def _create_front_end(self, release: str) -> None:
        """Create what answers gRPC: the predictions, and every other method of the protocol."""
        config = self._config
        shared = config.shared_memory == "on" or (config.shared_memory == "auto" and local_only(config.host))
        self.regions = Regions(enabled=shared, max_tensor_bytes=config.max_message_bytes)
        self._inference = Inference(
            self.repository, self._unrouted, config.max_message_bytes, self.regions, self._recorder
        )
        self._log_control = LogControl(config.log_format, config.log_level)
        parts = (
            Metadata(self.repository, self.ready, release, shared_memory=shared),
            Schemas(self.repository),
            Statistics(self.repository),
            ModelControl(self.repository, self.reconciler),
            self._log_control,
            TraceControl(self.repository, self._rules),
            SharedMemory(self.regions),
        )
        self._own_service = service = InferenceService(parts)
        if self._place is not None:
            service = InferenceService((*parts, ControlOfAll(self._place.supervisor)))
        self._service = service
        here = EVERY_ROLE if config.admin_port is None else EVERY_ROLE - CONTROL
        known = self._credentials
        self._access = Access.at(config.host, config, known, here, "connect to the admin port (admin_port)")
        admin = Access.at(config.admin_host, config, known, CONTROL | OBSERVE, "connect to the other gRPC port (port)")
        cpus = cpu_count() / config.processes
        report = LoadReport(lambda: Totals.of(self.repository.snapshot()), cpus, time.monotonic())
        self._transport = Transport(
            config.model_copy(update={"network_bytes": self._network_bytes() - self._http_bytes()}),
            self._inference,
            service,
            self._health,
            self._access,
            None if config.admin_port is None else admin,
            report.measure if config.load_reports else None,
            reuse_port=self._place is not None,
        )

    def _create_http(self) -> None:
        """Create what answers HTTP, unless it is off; a Unix socket, which only some may open, has no port beside it."""
        config = self._config
        if not self._http_bytes():
            return
        # Only who answers HTTP pays for its libraries.
        from frostline_server.http.front_end import HttpFrontEnd  # noqa: PLC0415
        from frostline_server.http.routes import routes  # noqa: PLC0415
        from frostline_server.http.views import Views  # noqa: PLC0415

        views = Views(
            self.repository,
            self._access,
            self.reconciler.folder_of,
            self._files,
            self._look_again,
            self.unready,
            lambda: self.address,
            config.model_control == "explicit",
            config.processes,
        )
        answered = routes(self._inference, self._service, self._access, self.regions, self.repository, views)
        self._http = HttpFrontEnd(
            config, answered, self._http_bytes(), self._turns.begin, reuse_port=self._place is not None
        )

    def _network_bytes(self) -> int:
        """The memory for messages in flight, of gRPC and HTTP together."""
        return self._config.network_bytes or memory_limit_bytes() // 4 // self._config.processes

    def _http_bytes(self) -> int:
        """The part of it that is HTTP's; 0 where HTTP is not answered."""
        answered = self._config.http and not self._config.host.startswith("unix:")
        return self._network_bytes() // 3 if answered else 0

    def _look_again(self) -> None:
        """Have the models folder looked at, because something in it has changed."""
        self.reconciler.reroute()
        if self._watcher is not None:
            self._watcher.look()

    def _rollouts(self) -> dict[str, Rollout]:
        """The rollout of each model that has one, as it is now where changes of the folder are followed."""
        if self._config.model_control in ("watch", "poll"):
            self.reconciler.reroute()
        return self.reconciler.rollouts()

    def _held(self) -> int:
        network = self._network()
        return 0 if network is None else network.held

    def _network(self) -> Network | None:
        """What both front ends hold and refuse; None where one of them does not say."""
        network, http = self._transport.network(), self._http
        if network is None or http is None:
            return network
        refused = {**network.refused}
        for reason, count in http.refused.items():
            refused[reason] = refused.get(reason, 0) + count
        return Network(
            network.held + http.budget.used,
            network.limit + http.budget.limit,
            network.connections + http.connections,
            refused,
        )

    def _create_metrics(self, release: str) -> None:
        """Create what answers /metrics, /healthz and /readyz."""
        registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            registry.register(collector)
        transport, config = self._transport, self._config
        sources = Sources(
            self.repository,
            self._unrouted,
            release,
            transport.name,
            self.ready,
            self.fell_back,
            self._network,
            self._last_look,
            _certificate_expiry(config),
            self._recorder,
        )
        register(registry, sources)
        if self._place is not None:
            self._private = PrivatePort(self._place.socket, self._own_service, lambda: dump(registry, RULES))
            return
        self._metrics = MetricsServer.of(config, registry, self.unready, self._credentials)

    async def _open_ports(self) -> None:
        """Listen for scrapes, probes and requests; all are told "not ready" until the models are loaded."""
        if self._credentials is not None:
            self._credentials.start()
        if self._private is not None:
            await self._private.start()
        if self._metrics is None:
            return
        try:
            self.metrics_url = self._metrics.start()
            try:
                self._announce()
                await self._open()
            except StartError:
                self._metrics.close()
                raise
        except StartError:
            self._close_credentials()
            raise

    async def _join(self, private: PrivatePort) -> bool:
        """Open the address that other processes share, once this one is told that it has caught up with them.

        Not before: the kernel gives every listener its share of the connections, also one whose models still load.

        Returns:
            Whether it is open; otherwise the server was told to end meanwhile.
        """
        if self._place is not None:
            self._place.report(loaded=True)
        await private.opened.wait()
        if self._phase != "starting":
            return False
        await self._open()
        return True

    async def _open(self) -> None:
        """Listen for requests.

        Raises:
            StartError: a port cannot be had; none is open then.
        """
        address = await self._transport.start()
        if self._http is not None:
            try:
                self.http_url = await self._http.start()
            except StartError:
                await self._transport.stop(0)
                raise
        self.address = address

    def _start_watcher(self) -> None:
        """Follow changes of the models folder, as far as the configuration says so, and scan it when `reload` asks."""
        config = self._config
        poll_s = config.poll_s if config.model_control in ("watch", "poll") else None
        # Before the first look, so that nothing can come between the two.
        notified = config.model_control == "watch"
        self._watcher = Watcher(config.models, self.reconciler.reconcile, poll_s, notified=notified, files=self._files)
        self._watcher.start()

    def _load(self) -> None:
        """Load what is to be served from the start; blocks."""
        self.reconciler.reconcile()
        names: Sequence[str] = ()
        if self._config.model_control == "explicit":
            wanted = self._config.models_at_start
            names = self.reconciler.unloaded() if wanted is None else sorted(wanted)
            self.reconciler.expect(names)
        # What needs no trial first.
        started = [name for name in names if self._loaded(name, self.reconciler.start_load)]
        for name in self.reconciler.in_trial():
            self.reconciler.tried(name).result()
        for name in started:
            self._loaded(name, self.reconciler.finish_load)

    def _loaded(self, name: str, load: Callable[[str], None]) -> bool:
        """Take a part of a model's load; whether it went well."""
        try:
            load(name)
        except PredictionError as error:
            self._absent.add(name)
            _log.error("model", model=name, state="FAILED", reason=str(error))
            return False
        return True

    def _after_load(self) -> None:
        """Warn of what an operator should see at once, and settle."""
        config = self._config
        if self._access.closed:
            reason = (
                f"other machines can reach {config.host}"
                if config.allow_anonymous == "auto"
                else f"allow_anonymous is {config.allow_anonymous}"
            )
            _log.warning(
                "access",
                warning=f"every call will be refused: {reason}, and nobody may call; "
                "give tokens in an access file (--access-file FILE; `frostline token NAME --file FILE` writes one), or let "
                "everyone who reaches the port ask for predictions (--allow-anonymous predict)",
            )
        names = sorted({*self.repository.names(), *self.reconciler.unloaded()})
        if config.model_name and names and config.model_name not in names:
            # The folder may yet become one model, so this is no reason not to start.
            _log.warning(
                "configuration",
                warning=f"model_name has no effect: {config.models} is no single model, and its models have the names of their "
                f"folders, such as '{names[0]}'; leave model_name out, or give one model's own folder as models",
            )
        if self.fell_back():
            _log.warning("no usable CUDA device: models run on the CPU", device=config.device)
        if not self.repository.versions():
            _log.warning("the models folder has no models", models=str(config.models))
        interpreter.settle()

    def _start_probe(self) -> None:
        """Check now and then that every device still answers, if the configuration says so."""
        if self._config.probe_s:
            self._probe = DeviceProbe(self._served, self._on_fault, self._config.probe_s)
            self._probe.start()

    # State

    def ready(self) -> bool:
        """Whether the server is ready for traffic."""
        return not self.unready()

    def unready(self) -> str:
        """Why the server is not ready; "" when it is."""
        if self._phase != "serving":
            return self._phase
        # A model that is new and still loading takes nothing from those that were there before it, and one that goes was to go.
        passing = ("LOADING", "UNLOADING")
        there = {version.name for version in self.repository.versions() if version.state not in passing}
        names = there | self._config.required_names | self._absent
        missing = [
            name for name in sorted(names) if self._config.required(name) and not self.repository.ready_versions(name)
        ]
        return "" if not missing else f"required models without a ready version: {', '.join(missing)}"

    def fell_back(self) -> bool:
        """Whether device=auto ended on the CPU: no GPU was found, or a version could not be bound to it."""
        # A version may be released meanwhile, so what it answers with is looked at once.
        fallen = any(served.fell_back for version in self.repository.versions() if (served := version.served))
        return self._config.device == "auto" and (self._providers[0][0] == CPU or fallen)

    def _last_look(self) -> float | None:
        """When the last look at the models folder ended, in seconds since 1970; None where nobody looks again."""
        return self.reconciler.last_look_s if self._config.model_control in ("watch", "poll") else None

    def _served(self) -> list[LoadedModel]:
        """What READY versions answer with."""
        return [
            served
            for version in self.repository.versions()
            if version.state == "READY" and (served := version.served) is not None
        ]

    # What happens while it serves

    def reload(self) -> None:
        """Read the folder and the files again, and forget what clients have changed of the log; on the event loop."""
        if self._watcher is not None:
            self._log_control.reset()
        _log.info("reading the models folder, the certificate and the access file again")
        # While it still starts, all are read for the first time.
        if self._watcher is not None:
            if self._credentials is not None:
                self._credentials.look()
            self._watcher.look()
            if self._recorder is not None:
                self._recorder.reopen()
            self._transport.reload()
            if self._http is not None:
                self._http.reload()

    def _on_change(self, version: ModelVersion) -> None:
        """Announce and log a change of state; called from the thread that loads."""
        if version.state == "FAILED":
            self._announce_soon()
        else:
            self._announce_from_thread()
        served = version.served  # read once: it may be released meanwhile
        fields = {"model": version.name, "version": version.version, "state": version.state}
        if version.state == "FAILED" or (version.reason and version.state != "LOADING"):
            _log.error("model", **fields, reason=version.reason)
        elif version.state == "UNLOADED":
            _log.info("model", **fields)
        elif version.state == "READY" and served is not None:
            self._absent.discard(version.name)
            _log.info(
                "model",
                **fields,
                provider=served.provider,
                device=served.device,
                verified=served.golden is not None,
                seconds=round(version.load_s, 3),
            )
        else:
            _log.debug("model", **fields)

    def _take_back(self, name: str, judged: Rollout, reason: str) -> None:
        """End the trial of a canary that is worse than the stable version; called from the watch's thread."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        after = take_back(judged, reason, at)

        def step(before: Rollout | None, _: list[int]) -> Rollout:
            if before != judged:
                raise RolloutChanged("it has been changed meanwhile")
            return after

        try:
            change(self.reconciler.folder_of(name), self._files, step)
        except RolloutChanged:
            return  # by another process or an operator, whose decision holds
        except (ConfigError, OSError) as error:
            _log.warning("rollout", model=name, warning=f"the take-back holds in this process alone: {error}")
            self.reconciler.use_instead(name, judged, after)
        self._look_again()

    def _on_fault(self, served: LoadedModel) -> None:
        """A model's device began or ceased to fail its probe; called from the probe's thread."""
        if served.fault:
            _log.error("device fault", model=served.name, version=served.version, reason=served.fault)
            if self._config.exit_on_fault:
                self._loop.call_soon_threadsafe(
                    self._loop.call_later, 2 * self._config.probe_s, self._give_up_on, served
                )
        else:
            _log.info("device recovered", model=served.name, version=served.version)
        self._announce_from_thread()

    def _between_loads(self, now_s: float) -> None:
        """Give memory back; not while a load measures what its runs add to the memory that there is."""
        if not self.reconciler.busy:
            self._memory_return.look(now_s)

    def _on_hang(self) -> None:
        """A model may have ceased to answer because its runs do not end, or begun to again; called from any thread."""
        with suppress(RuntimeError):  # the event loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._follow_hanging)

    def _follow_hanging(self) -> None:
        hanging = {served for served in self._served() if served.batcher.fault}
        for served in hanging - self._hanging:
            _log.error("runs do not end", model=served.name, version=served.version, reason=served.fault)
            if self._config.exit_on_fault:
                grace_s = max(2 * self._config.probe_s, _HANG_GRACE_S)
                self._loop.call_later(grace_s, self._give_up_on, served)
        for served in self._hanging - hanging:
            _log.info("runs have ended", model=served.name, version=served.version)
        self._hanging = hanging
        self._announce()

    def _give_up_on(self, served: LoadedModel) -> None:
        # A version that was replaced took its fault with it.
        if served.fault and served in self._served() and self._phase == "serving":
            _log.error("giving up: the fault has not gone away", model=served.name, reason=served.fault)
            self.broken.set()

    def _announce(self) -> None:
        """Tell the health service where the server, every model and every version stand; on the event loop."""
        serving = self._phase == "serving"
        known: dict[str, bool] = {}
        for name, number in self.repository.waiting():
            known |= {name: False, f"{name}/{number}": False}
        for version in self.repository.versions():
            known[version.name] = known.get(version.name, False) or (serving and version.ready)
            known[f"{version.name}/{version.version}"] = serving and version.ready
        # Last: a model may be called like a service.
        services = dict.fromkeys(("", *SERVICES), self.ready())
        self._health.update(known | services, complete=self.repository.scanned)
        if self._place is not None:
            self._place.report(unready=self.unready())

    def _announce_soon(self) -> None:
        """Have changes announced that nobody waits for, many at once: a folder may hold thousands of broken models."""
        if not self._announcing:
            self._announcing = True
            self._loop.call_soon_threadsafe(self._loop.call_later, _ANNOUNCE_S, self._announce_now)

    def _announce_now(self) -> None:
        # First, so that what changes meanwhile is announced again.
        self._announcing = False
        self._announce()

    def _announce_from_thread(self) -> None:
        """Have a change announced before the thread that made it goes on."""

        async def announce() -> None:
            self._announce()

        asyncio.run_coroutine_threadsafe(announce(), self._loop).result()

    # End

    def hurry(self) -> None:
        """Load nothing more, because the server is to end; what is being loaded is given up as soon as it can be."""
        self._phase = "draining"
        self.reconciler.stop_loading()
        if self._private is not None:
            self._private.opened.set()

    async def drain(self) -> bool:
        """Not ready, refuse new requests, finish the accepted ones, close the ports.

        Returns:
            Whether everything accepted was finished within the grace period.
        """
        self._phase, began_s = "draining", time.monotonic()
        for background in (self._watcher, self._probe, self._canaries):
            if background is not None:
                background.close()
        self._announce()
        _log.info("draining", grace_s=self._config.grace_s)
        self._inference.stop()
        if self._http is not None:
            self._http.leave()
        streams = asyncio.create_task(self._transport.drain(self._config.grace_s))
        finished = await self._loop.run_in_executor(None, self.reconciler.close, self._config.grace_s)
        finished = await streams and finished
        finished = await self._sent(began_s + self._config.grace_s) and finished
        if self._trials is not None and not self.reconciler.busy:
            self._trials.close()
        await self._linger()
        self._watchdog.close()
        # Everything accepted is answered; what is still open are watches, half-sent calls, and answers that nobody reads.
        if self.address:
            await self._transport.stop(_CLOSE_S)
        if self._http is not None:
            await self._http.stop(_CLOSE_S)
        if self._metrics is not None:
            self._metrics.close()
        if self._private is not None:
            await self._private.stop()
        self._close_credentials()
        if self._recorder is not None:
            left_s = max(_RECORD_S, self._config.grace_s - (time.monotonic() - began_s))
            await self._loop.run_in_executor(None, self._recorder.close, min(left_s, _MOST_RECORD_S))
        answered = sum(version.loaded.stats.succeeded for version in self.repository.snapshot() if version.loaded)
        self._turns.stop()
        interpreter.leave()
        _log.info("stopped", finished=finished, answered=self.repository.answered_before + answered)
        return finished

    async def end_runs(self) -> bool:
        """After `drain`: tell the runs that still go on to end.

        Returns:
            Whether no thread is left in ONNX Runtime, after the moment that there is for it.
        """
        until_s = time.monotonic() + _END_S
        while self._watchdog.end_runs() or self._watchdog.looking:
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(_END_S / 20)
        return True

    def _close_credentials(self) -> None:
        if self._credentials is not None:
            self._credentials.close()

    async def _sent(self, until_s: float) -> bool:
        """Wait until the answers to what was accepted have left, as long as clients read them.

        Args:
            until_s: how long at most, on the `time.monotonic` clock.

        Returns:
            Whether nobody who reads was cut off.
        """
        pending: dict[object, int] | None = None
        since_s = time.monotonic()
        while True:
            try:
                unsent = await asyncio.wait_for(self._unsent(), max(_QUIET_S, until_s - time.monotonic()))
            except TimeoutError:
                return False
            # Only what there was at first: new requests are refused, and come without end.
            left = unsent if pending is None else {key: unsent[key] for key in pending if key in unsent}
            now_s = time.monotonic()
            if left != pending or -1 in left.values():  # answers are being made
                pending, since_s = left, now_s
            if not left or now_s - since_s > _UNREAD_S:
                return True
            if now_s > until_s:
                return False
            await asyncio.sleep(_QUIET_S / 5)

    async def _unsent(self) -> dict[object, int]:
        """What has not left, by what it is part of."""
        found: dict[object, int] = {}
        if self._http is not None:
            found.update(self._http.unsent)
        found.update(await self._transport.unsent())
        return found

    async def _linger(self) -> None:
        """Go on refusing until clients have stopped trying, for a moment at most.

        A call that a closing port never looked at ends as CANCELLED or with a broken connection; a refusal is a status
        that clients retry elsewhere.
        """
        began_s = time.monotonic()
        # Never less than the quiet: the last answers must leave before the port closes.
        while time.monotonic() < min(began_s + LINGER_S, max(began_s, self._inference.refused_s) + _QUIET_S):
            await asyncio.sleep(_QUIET_S / 5)


def _threads(asked: int, cpus: int) -> int:
    """Threads of one run: as asked, or half the CPUs, the other half being for reading requests."""
    return asked or max(1, cpus // 2)


def _certificate_expiry(config: ServerConfig) -> Callable[[], float | None]:
    """Tells when the certificate in use expires, in seconds since 1970; None without TLS.

    Raises:
        StartError: the certificate cannot be read, or is not that of the key.
    """
    if not (config.tls_cert and config.tls_key):
        return lambda: None
    pair = (config.tls_cert, config.tls_key)
    expiry = Reloaded("certificate", pair, lambda: expiry_s(*pair))
    expiry.start()
    return expiry.look


def _audit_decision(model: str, decision: str, told: str) -> None:
    """One line for each step of a rollout, whoever wrote it into the file: an operator, a training, or the server."""
    logs.audit(
        identity="rollout.json",
        credential="file",
        peer="",
        method="Rollout",
        model=model,
        decision=decision,
        rollout=told,
        status="OK",
    )


def _log_warning(model: str, warning: str) -> None:
    _log.warning("model configuration", model=model, warning=warning)


def _log_rollout(model: str, traffic: Traffic) -> None:
    shares = {str(number): round(100 * share, 3) for number, share in traffic.routes.shares().items()}
    _log.info("rollout", model=model, percent=shares, labels=dict(traffic.routes.labels), shadow=traffic.routes.shadow)
    for problem in traffic.problems:
        _log.warning("rollout", model=model, warning=problem)
