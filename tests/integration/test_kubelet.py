"""The life of pods, played with real server processes by the manifest's own times: no call is lost in any of it."""

import itertools
import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import numpy_helper

import frostline
from tests.support import https, onnx_models, tokens
from tests.support.calls import row_request, stub
from tests.support.dns import NAME, name_server
from tests.support.hostile_models import endless
from tests.support.kubelet import LAG_S, Endpoints, Pod, Volume, free_ports, pods, spec_of
from tests.support.kubernetes import FOLDER, build, of_kind
from tests.support.servers import TIMEOUT_S

CALLERS = 3
ROWS = onnx_models.rows(2)
PAUSE_S = 0.004
"""Between two calls of a caller: the machine is for the servers, too."""


@pytest.fixture(scope="module")
def spec(tool: Callable[[str], str]) -> dict[str, Any]:
    """The pods of the deployment with TLS and tokens."""
    return spec_of(of_kind(build(tool("kubectl"), FOLDER / "production"), "Deployment"))


@dataclass
class Load:
    """Callers who check every answer, and count by whom it was given: each pod here has a version of its own."""

    model: str
    rows: np.ndarray[Any, Any]
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, client: frostline.Client) -> None:
        """Call until it is over, or a call fails."""
        while not self.over.wait(PAUSE_S):
            try:
                prediction = client.predict(self.model, self.rows)
                if self.model == "linear":
                    np.testing.assert_allclose(prediction.logits, onnx_models.logits_of(self.rows), rtol=1e-5)
                self.answered[prediction.version] += 1
            except Exception as error:  # noqa: BLE001  whatever it is, it is a lost call
                self.failed.append(f"{type(error).__name__}: {error}")
                return

    def run_through_a_proxy(self, endpoints: Endpoints, port: int, authority: Path) -> None:
        """Call one of the endpoints, each time on a new connection and with a single try, as a proxy does."""
        credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        options = [
            ("grpc.ssl_target_name_override", NAME),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        for turn in itertools.count():
            if self.over.wait(5 * PAUSE_S):
                return
            began_s, addresses = time.monotonic(), list(endpoints.addresses)
            host = addresses[turn % len(addresses)]
            try:
                with grpc.secure_channel(f"{host}:{port}", credentials, options) as channel:
                    request = row_request(self.rows)
                    stub(channel).ModelInfer(request, timeout=TIMEOUT_S, **tokens.bearer(tokens.TOKENS["predict"]))
                self.answered[host] += 1
            except grpc.RpcError as error:
                # A call that takes longer than endpoints and preStop are apart would be lost in a cluster, too.
                if time.monotonic() - began_s < LAG_S:
                    self.failed.append(f"{host}: {error}")
                    return

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait, while calls run, until something is true."""
        for _ in range(int(TIMEOUT_S / PAUSE_S)):
            if self.failed or condition():
                break
            self.over.wait(PAUSE_S)
        assert self.failed == []
        assert condition()

    def until_answered(self, *versions: str, calls: int = 20) -> None:
        """Wait until each of these has answered so many further calls."""
        before = self.answered.copy()
        self.until(lambda: all(self.answered[version] >= before[version] + calls for version in versions))


@dataclass
class Cluster:
    """Volumes, a name and pods.

    Attributes:
        spec: of the pods.
        folder: where the volumes are.
        endpoints: of the Service.
        port: gRPC's.
        started: all pods.
    """

    spec: Mapping[str, Any]
    folder: Path
    endpoints: Endpoints
    port: int
    started: list[Pod]

    def __post_init__(self) -> None:
        self.access, self.tls = Volume(self.folder / "access"), Volume(self.folder / "tls")
        self.write_access("")
        self.write_certificate("first.example")

    def write_access(self, more: str) -> None:
        """Replace the access file's Secret."""
        content = self._content("access.toml")
        tokens.write_access_file(content / "access.toml", more)
        self.access.write(content)

    def write_certificate(self, name: str) -> None:
        """Replace the certificate's Secret."""
        content = self._content("tls.crt")
        issued = https.AUTHORITY.issue_cert("localhost", "127.0.0.1", name, NAME)
        (content / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        (content / "tls.key").write_bytes(issued.private_key_pem.bytes())
        self.tls.write(content)

    def _content(self, name: str) -> Path:
        content = self.folder / "content" / f"{name}-{len(list(self.folder.glob('content/*')))}"
        content.mkdir(parents=True)
        return content

    def start(self, host: str, models: Path) -> Pod:
        """A pod, which joins the endpoints when it is ready."""
        [container] = self.spec["containers"]
        here = {"models": models, "access": self.folder / "access", "tls": self.folder / "tls", "tmp": self.folder}
        mounts = {mount["mountPath"]: here[mount["name"]] for mount in container["volumeMounts"]}
        ports = free_ports(host, "http", "metrics", grpc=self.port)
        environment = {
            # As on 0.0.0.0, where who shows no token may do nothing.
            "FROSTLINE_ALLOW_ANONYMOUS": "none",
            # A client looks the name up again when its connection is old: in a second, and not in minutes.
            "FROSTLINE_MAX_CONNECTION_AGE_S": "1",
        }
        pod = Pod(self.spec, host, ports, mounts, self.endpoints, environment)
        self.started.append(pod)
        return pod

    @contextmanager
    def load(self, model: str = "linear", rows: np.ndarray[Any, Any] = ROWS, *, proxy: bool = False) -> Iterator[Load]:
        """Callers of the name, with the client as it is shipped, and perhaps through a proxy; no call may fail."""
        load = Load(model, rows)
        authority = self.folder / "ca.pem"
        https.AUTHORITY.cert_pem.write_to_path(authority)
        with ExitStack() as stack:
            names = stack.enter_context(name_server(self.endpoints.addresses))
            client = stack.enter_context(
                frostline.connect(
                    f"dns://{names}/{NAME}:{self.port}",
                    tls=authority,
                    token=tokens.TOKENS["predict"],
                    timeout_s=TIMEOUT_S,
                )
            )
            pool = stack.enter_context(ThreadPoolExecutor(CALLERS + 1))
            calls: list[Future[None]] = [pool.submit(load.run, client) for _ in range(CALLERS)]
            if proxy:
                calls.append(pool.submit(load.run_through_a_proxy, self.endpoints, self.port, authority))
            try:
                yield load
            finally:
                load.over.set()
                for call in calls:
                    call.result(TIMEOUT_S)
        assert load.failed == []
        assert [pod.kills for pod in self.started if pod.kills] == []


@pytest.fixture
def cluster(spec: Mapping[str, Any], tmp_path: Path) -> Iterator[Cluster]:
    """No pod yet."""
    with pods() as started:
        yield Cluster(spec, tmp_path, Endpoints(), free_ports("127.0.0.1", "grpc")["grpc"], started)


def artifact(root: Path, version: int) -> Path:
    """A folder of models with one version of `linear`."""
    onnx_models.write_artifact(root, "linear", version)
    return root


def test_a_pod_is_not_ready_before_its_slow_model_is_and_is_not_killed_while_it_is_busy(
    cluster: Cluster, tmp_path: Path
) -> None:
    models = artifact(tmp_path / "models", 1)
    slow = endless()
    # A run of some hundredths of a second for each row, and one for every size of a batch before it is ready.
    [steps] = [each for each in slow.graph.initializer if each.name == "steps"]
    steps.CopyFrom(numpy_helper.from_array(np.array(30_000), "steps"))
    onnx_models.write_artifact(models, "slow", 1, slow, labels=None)
    pod = cluster.start("127.0.0.1", models)
    cluster.endpoints.wait_for("127.0.0.1")
    # It was asked while it loaded, and said no.
    assert cluster.endpoints.refused["127.0.0.1"] > 0
    pod.log.until("ready")
    assert any(event.get("model") == "slow" and event.get("state") == "READY" for event in pod.log.events)
    with cluster.load("slow", np.tile(onnx_models.rows(2), (32, 1))) as load:
        load.until_answered("1", calls=1)
        before = pod.probed["liveness", True]
        load.until(lambda: pod.probed["liveness", True] >= before + 2)
    assert pod.probed["liveness", False] == 0
    assert pod.delete() == 0


def test_no_call_is_lost_while_secrets_and_models_are_swapped(cluster: Cluster, tmp_path: Path) -> None:
    models = Volume(tmp_path / "models")
    models.write(artifact(tmp_path / "one", 1))
    pod = cluster.start("127.0.0.1", tmp_path / "models")
    cluster.endpoints.wait_for("127.0.0.1")
    with cluster.load() as load:
        load.until_answered("1")

        token = "n-" + "4" * 30
        cluster.write_access(tokens.entry("new", token, "predict"))
        target, authority = f"127.0.0.1:{cluster.port}", tmp_path / "ca.pem"
        with frostline.connect(target, tls=authority, server_name="localhost", token=token) as client:
            load.until(lambda: accepted(client))

        for number in range(3):
            cluster.write_certificate(f"{number}.example")
            load.until(lambda name=f"{number}.example": https.name_seen(f"https://{target}") == name)  # type: ignore[misc]

        models.write(artifact(tmp_path / "two", 2))
        load.until_answered("2")
        before = load.answered["1"]
        load.until_answered("2")
        assert load.answered["1"] == before
        # Its connections outlive the pod's endpoint, as in a cluster.
        load.over.set()
    assert pod.delete() == 0


def accepted(client: frostline.Client) -> bool:
    """Whether the server knows the client's token by now."""
    try:
        client.predict("linear", onnx_models.rows(1))
    except frostline.FrostlineError:
        return False
    return True


def test_no_call_is_lost_from_one_pod_to_three_and_back(cluster: Cluster, tmp_path: Path) -> None:
    hosts = {"1": "127.0.0.1", "2": "127.0.0.2", "3": "127.0.0.3"}
    models = {version: artifact(tmp_path / "models" / version, int(version)) for version in hosts}
    first = cluster.start(hosts["1"], models["1"])
    cluster.endpoints.wait_for(hosts["1"])
    with cluster.load(proxy=True) as load:
        load.until_answered("1")
        second, third = (cluster.start(hosts[version], models[version]) for version in ("2", "3"))
        load.until_answered("2", "3")
        cluster.endpoints.wait_for(*hosts.values())
        load.until_answered(*hosts.values(), calls=3)
        # The pods that are left are not those that the clients found first.
        assert first.delete() == 0
        assert second.delete() == 0
        cluster.endpoints.wait_for(hosts["3"])
        load.until_answered("3", calls=50)
        load.over.set()
    assert third.delete() == 0


def test_a_pod_of_kserve_serves_the_model_in_its_mount_over_rest_and_grpc(
    tool: Callable[[str], str], tmp_path: Path
) -> None:
    """The model lies right in the mount, and is swapped there."""
    [container] = of_kind(build(tool("kubectl"), FOLDER / "kserve"), "ClusterServingRuntime")["spec"]["containers"]
    # KServe fills the name in; a runtime cannot say how long a pod may take to end, so it is Kubernetes' default.
    filled = json.loads(json.dumps(container).replace("{{.Name}}", "digits"))
    spec = {"containers": [filled], "terminationGracePeriodSeconds": 30}
    mount = Volume(tmp_path / "mount")
    mount.write(onnx_models.write_artifact(tmp_path / "one", "any"))
    ports, endpoints = free_ports("127.0.0.1", "grpc", "http", "metrics"), Endpoints()
    with pods() as started:
        pod = Pod(spec, "127.0.0.1", ports, {"/mnt/models": tmp_path / "mount", "/tmp": tmp_path}, endpoints, {})
        started.append(pod)
        endpoints.wait_for("127.0.0.1")
        with frostline.connect(f"127.0.0.1:{ports['grpc']}") as client:
            np.testing.assert_allclose(client.predict("digits", ROWS).logits, onnx_models.logits_of(ROWS), rtol=1e-5)
        assert np.allclose(over_rest(ports["http"]), onnx_models.logits_of(ROWS), rtol=1e-5)
        mount.write(onnx_models.write_artifact(tmp_path / "two", "any", model=onnx_models.linear(shift=1.0)))
        waited = threading.Event()
        while not np.allclose(over_rest(ports["http"]), onnx_models.logits_of(ROWS) + 1, rtol=1e-5):
            waited.wait(PAUSE_S)
        assert pod.delete() == 0
        assert pod.kills == []


def over_rest(port: int) -> np.ndarray[Any, Any]:
    """The logits of a pod of KServe."""
    sent = {"inputs": [{"name": "input", "datatype": "FP32", "shape": ROWS.shape, "data": ROWS.ravel().tolist()}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/digits/infer",
        json.dumps(sent).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        [logits] = [each for each in json.load(response)["outputs"] if each["name"] == "logits"]
    return np.reshape(logits["data"], logits["shape"])
