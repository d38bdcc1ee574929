"""The files of Kubernetes: each is what its schema says, they fit together, and they run the server as it is."""

import copy
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from frostline.cli.main import run as frostline
from frostline.pb import inference_pb2, predictor_pb2
from frostline_server.access.access_file import Entries, parse
from frostline_server.config import ENVIRONMENT, ServerConfig
from tests.integration.conftest import CLIENTS
from tests.support.kubernetes import FOLDER, Manifest, build, loose_ends, of_kind, settings

DEPLOYMENTS = ("cpu", "gpu", "production", "hpa")
TYPED: Mapping[str, str] = {
    "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
    "keda.sh": "@kubernetes-models/keda",
    "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
}
"""The npm packages with the types of other projects' kinds, generated from their Go sources, by API group."""
KSERVE = "serving.kserve.io"
Edit = Callable[[Any], object]


def group(manifest: Manifest) -> str:
    return str(manifest["apiVersion"]).partition("/")[0]


def edited(manifest: Manifest, edit: Edit) -> Manifest:
    """A copy with an error planted in it."""
    changed = copy.deepcopy(dict(manifest))
    edit(changed)
    return changed


@pytest.fixture(scope="module")
def built(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Manifest]]:
    """What each kustomization makes; the autoscaler, which not every cluster can serve, is added as a user adds it."""
    own = tmp_path_factory.mktemp("hpa")
    resources, components = (os.path.relpath(FOLDER / path, own) for path in ("cpu", "components/hpa"))
    made = {"kind": "Kustomization", "resources": [resources], "components": [components]}
    (own / "kustomization.yaml").write_text(yaml.safe_dump(made))
    folders = {**{name: FOLDER / name for name in (*DEPLOYMENTS[:-1], "kserve")}, "hpa": own}
    return {name: build(tool("kubectl"), folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def container(built: Mapping[str, list[Manifest]]) -> dict[str, Any]:
    """The server's container in the deployment that `cpu` makes."""
    return dict(of_kind(built["cpu"], "Deployment")["spec"]["template"]["spec"]["containers"][0])


@pytest.fixture(scope="module")
def runtime(built: Mapping[str, list[Manifest]]) -> dict[str, Any]:
    """The server's container in KServe's runtime."""
    return dict(of_kind(built["kserve"], "ClusterServingRuntime")["spec"]["containers"][0])


def test_all_components_are_in_what_the_tests_build() -> None:
    production = yaml.safe_load((FOLDER / "production" / "kustomization.yaml").read_text())
    used = {*(Path(path).name for path in production["components"]), "hpa"}
    assert {path.name for path in (FOLDER / "components").iterdir()} == used
    assert {path.name for path in FOLDER.iterdir()} == {*DEPLOYMENTS, "kserve", "base", "components"} - {"hpa"}


# Schemas.


def check(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_kubernetes_own_kinds_are_what_kubernetes_takes(built: Mapping[str, list[Manifest]], name: str) -> None:
    own = [each for each in built[name] if group(each) not in {*TYPED, KSERVE}]
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {each["kind"] for each in own}
    for each in own:
        check(each)


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("Deployment", lambda each: each["spec"]["template"]["spec"].update(terminationGracePeriod=45)),
        ("Deployment", lambda each: each["spec"]["template"]["spec"]["containers"][0]["ports"].append({"name": "x"})),
        ("Service", lambda each: each["spec"]["ports"][0].update(port="grpc")),
        ("PersistentVolumeClaim", lambda each: each["spec"].update(accessModes="ReadWriteOnce")),
        ("PodDisruptionBudget", lambda each: each["spec"].update(maxUnavailible=1)),
        ("NetworkPolicy", lambda each: each["spec"]["ingress"][0].update(ports={"port": "grpc"})),
        ("HorizontalPodAutoscaler", lambda each: each["spec"]["metrics"][0]["external"]["target"].pop("type")),
    ],
)
def test_an_error_in_them_is_found(built: Mapping[str, list[Manifest]], kind: str, edit: Edit) -> None:
    manifest = next(each for each in built["hpa"] if each["kind"] == kind)
    with pytest.raises(kubernetes_validate.ValidationError):
        check(edited(manifest, edit))


def type_errors(packages: Path, folder: Path, manifests: Sequence[Manifest]) -> dict[int, str]:
    """What the types of the projects say of their kinds: the first error of each manifest, by its position."""
    lines = []
    for number, each in enumerate(manifests):
        kind, module = f"I{each['kind']}", f"{TYPED[group(each)]}/{each['apiVersion']}/{each['kind']}"
        lines.append(f'export const _{number}: import("{module}").{kind} = {json.dumps(each)};')
    (folder / "manifests.mts").write_text("\n".join(lines))
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(packages)
    compiler = ["node", str(packages / "typescript" / "bin" / "tsc"), "--noEmit", "--strict", "--skipLibCheck"]
    found = subprocess.run(
        [*compiler, "--module", "nodenext", "--target", "es2022", "manifests.mts"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout.splitlines()
    where = [line.removeprefix("manifests.mts(").split(",", 1) for line in found if not line.startswith(" ")]
    return {int(number) - 1: told for number, told in reversed(where)}


@pytest.fixture(scope="module")
def others(built: Mapping[str, list[Manifest]]) -> dict[str, Manifest]:
    """The kinds of other projects, with the rules as the guide has them made."""
    rules = subprocess.run(
        [FOLDER / "components" / "monitoring" / "rules.sh"], check=True, capture_output=True, text=True
    ).stdout
    made = yaml.safe_load(rules)
    shipped = [yaml.safe_load((FOLDER.parent / "prometheus" / f"{name}.yml").read_text()) for name in ("rules", "slo")]
    assert made["spec"]["groups"] == [group for each in shipped for group in each["groups"]]
    found = [*(each for each in built["production"] if group(each) in TYPED), made]
    return {each["kind"]: each for each in found}


def test_the_kinds_of_keda_the_gateway_api_and_the_prometheus_operator_are_what_those_take(
    others: Mapping[str, Manifest], node_packages: Path, tmp_path: Path
) -> None:
    assert set(others) == {"GRPCRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
    assert type_errors(node_packages, tmp_path, list(others.values())) == {}


def test_errors_in_those_are_found(others: Mapping[str, Manifest], node_packages: Path, tmp_path: Path) -> None:
    planted: list[tuple[str, Edit, str]] = [
        ("ScaledObject", lambda each: each["spec"].update(maxReplicas=4), "maxReplicas"),
        ("ScaledObject", lambda each: each["spec"].pop("scaleTargetRef"), "scaleTargetRef"),
        ("ScaledObject", lambda each: each["spec"]["triggers"][0]["metadata"].update(threshold=1), "'number'"),
        ("GRPCRoute", lambda each: each["spec"]["rules"][0]["backendRefs"][0].update(port="grpc"), "string"),
        ("GRPCRoute", lambda each: each["spec"]["rules"][0]["matches"][0].update(service="x"), "service"),
        ("ServiceMonitor", lambda each: each["spec"]["endpoints"][0].update(intervall="15s"), "intervall"),
        ("PrometheusRule", lambda each: each["spec"]["groups"][0].update(rules={}), "IRule"),
    ]
    manifests = [edited(others[kind], edit) for kind, edit, _ in planted]
    found = type_errors(node_packages, tmp_path, manifests)
    assert [word in found.get(number, "") for number, (_, _, word) in enumerate(planted)] == [True] * len(planted), (
        found
    )


def kserve_problems(python: Path, manifests: Sequence[Manifest]) -> list[list[str]]:
    """What KServe's SDK does not know in each manifest."""
    validated = subprocess.run(
        [python, CLIENTS / "validate_kserve.py"],
        input=json.dumps(manifests),
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    return [list(problems) for problems in json.loads(validated.stdout)]


def test_the_runtime_and_the_sample_are_what_kserve_takes_and_errors_in_them_are_found(
    built: Mapping[str, list[Manifest]], kserve_python: Path
) -> None:
    sample = yaml.safe_load((FOLDER / "kserve" / "inferenceservice.yaml").read_text())
    made = of_kind(built["kserve"], "ClusterServingRuntime")
    planted: list[tuple[Manifest, Edit, str]] = [
        (made, lambda each: each["spec"].update(autoSelect=True), "spec: unknown field autoSelect"),
        (made, lambda each: each["spec"].update(protocolVersions="v2"), "spec.protocolVersions: expected a list"),
        (made, lambda each: each["spec"]["containers"][0]["ports"][0].update(containerPort="http"), "expected int"),
        (made, lambda each: each["spec"]["containers"][0].pop("name"), "name"),
        (sample, lambda each: each["spec"]["predictor"]["model"].update(storageURI="x"), "unknown field storageURI"),
        (sample, lambda each: each["spec"]["predictor"].update(maxReplicas="3"), "maxReplicas: expected int"),
    ]
    manifests = [made, sample, *(edited(manifest, edit) for manifest, edit, _ in planted)]
    right, sampled, *wrong = kserve_problems(kserve_python, manifests)
    assert right == sampled == []
    for (_, _, word), problems in zip(planted, wrong, strict=True):
        assert any(word in problem for problem in problems), (word, problems)


# What refers to what.


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_manifests_of_a_deployment_refer_only_to_what_is_there(
    built: Mapping[str, list[Manifest]], name: str
) -> None:
    assert loose_ends(built[name]) == []


@pytest.mark.parametrize(
    ("kind", "edit", "told"),
    [
        ("Service", lambda each: each["spec"]["ports"][0].update(targetPort="grcp"), "there is no port grcp"),
        ("NetworkPolicy", lambda each: each["spec"]["ingress"][0]["ports"][0].update(port="h2"), "there is no port h2"),
        (
            "ServiceMonitor",
            lambda each: each["spec"]["endpoints"][0].update(port="http-metrics"),
            "there is no port of the Service http-metrics",
        ),
        (
            "GRPCRoute",
            lambda each: each["spec"]["rules"][0]["backendRefs"][0].update(port=8000 + 1000),
            "there is no number of a port 9000",
        ),
        ("ScaledObject", lambda each: each["spec"]["scaleTargetRef"].update(name="server"), "there is no Deployment server"),
        ("PersistentVolumeClaim", lambda each: each["metadata"].update(name="m"), "no PersistentVolumeClaim frostline-models"),
        ("Secret", lambda each: each["metadata"].update(name="tokens"), "there is no Secret frostline-access"),
        (
            "Deployment",
            lambda each: each["spec"]["template"]["spec"]["volumes"].append({"name": "spare"}),
            "nothing mounts the volume spare",
        ),
        (
            "Deployment",
            lambda each: each["spec"]["template"]["metadata"]["labels"].update({"app.kubernetes.io/name": "x"}),
            "there is no label ('app.kubernetes.io/name', 'frostline')",
        ),
    ],
)  # fmt: skip
def test_a_reference_to_nothing_is_found(built: Mapping[str, list[Manifest]], kind: str, edit: Edit, told: str) -> None:
    first = next(each for each in built["production"] if each["kind"] == kind)
    manifests = [edited(each, edit) if each is first else each for each in built["production"]]
    assert any(told in each for each in loose_ends(manifests)), loose_ends(manifests)


# The server as it is.


def test_a_pod_runs_the_image_as_it_was_made(
    built: Mapping[str, list[Manifest]], container: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, device, image in (("cpu", "cpu", "frostline:serve"), ("gpu", "cuda", "frostline:serve-cuda")):
        pod = of_kind(built[name], "Deployment")["spec"]["template"]["spec"]
        [server] = pod["containers"]
        assert configured(settings(server)).device == device
        assert server["image"] == image
        assert server["resources"]["limits"].get("nvidia.com/gpu", 0) == (1 if device == "cuda" else 0)
    command = (FOLDER.parents[1] / "Dockerfile").read_text().rpartition("\nCMD ")[2]
    assert container["args"] == json.loads(command)
    assert frostline([*container["args"], "--help"]) == 0
    capsys.readouterr()
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        name: ServerConfig.model_fields[field].default
        for name, field in (("grpc", "port"), ("http", "http_port"), ("metrics", "metrics_port"))
    }


def configured(environment: Mapping[str, str]) -> ServerConfig:
    """The server's settings; raises for one that it does not know."""
    fields = {name.removeprefix(ENVIRONMENT).lower(): value for name, value in environment.items()}
    return ServerConfig(models=Path("models"), **fields)


def test_pods_may_do_nothing_that_they_need_not(
    built: Mapping[str, list[Manifest]], container: Mapping[str, Any], runtime: Mapping[str, Any]
) -> None:
    pod = of_kind(built["cpu"], "Deployment")["spec"]["template"]["spec"]
    # A Service named frostline would otherwise set FROSTLINE_PORT to an address, which is no port.
    assert pod["enableServiceLinks"] is pod["automountServiceAccountToken"] is False
    # KServe's pods have no security context of their own.
    for context in ({**pod["securityContext"], **container["securityContext"]}, runtime["securityContext"]):
        assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True
        assert context["runAsUser"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    for each in (container, runtime):
        assert "/tmp" in {mount["mountPath"] for mount in each["volumeMounts"]}


def test_a_pod_asks_for_tokens_whose_hashes_alone_are_in_its_secret(
    built: Mapping[str, list[Manifest]], container: Mapping[str, Any]
) -> None:
    environment, mounts = settings(container), {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert "FROSTLINE_ALLOW_ANONYMOUS" not in environment
    assert environment["FROSTLINE_METRICS_ACCESS"] == "observe"
    assert environment["FROSTLINE_ACCESS_FILE"] == f"{mounts['access']}/access.toml"
    # Under a name that changes with what is in it, pods would be replaced instead of reading it again.
    assert of_kind(built["cpu"], "Secret")["metadata"]["name"] == "frostline-access"
    assert parse((FOLDER / "base" / "access.toml").read_text(), "access file", Entries()).tokens == ()


def test_certificates_are_those_of_a_secret_of_kubernetes_kind(built: Mapping[str, list[Manifest]]) -> None:
    [server] = of_kind(built["production"], "Deployment")["spec"]["template"]["spec"]["containers"]
    folder = next(each["mountPath"] for each in server["volumeMounts"] if each["name"] == "tls")
    config = configured(settings(server))
    assert [config.tls_cert, config.tls_key] == [Path(folder, "tls.crt"), Path(folder, "tls.key")]
    ports = {port["name"]: port["appProtocol"] for port in of_kind(built["production"], "Service")["spec"]["ports"]}
    assert ports == {"grpc": "https", "http": "https", "metrics": "http"}


def test_a_volume_of_one_node_blocks_no_rollout_and_one_of_several_leaves_no_gap(
    built: Mapping[str, list[Manifest]],
) -> None:
    for name, mode, rolling in (
        ("cpu", "ReadWriteOnce", {"maxUnavailable": 1, "maxSurge": 0}),
        ("production", "ReadWriteMany", {"maxUnavailable": 0, "maxSurge": 1}),
    ):
        assert of_kind(built[name], "PersistentVolumeClaim")["spec"]["accessModes"] == [mode]
        spec = of_kind(built[name], "Deployment")["spec"]
        assert spec["strategy"]["rollingUpdate"] == rolling
        # Else an apply would undo what an autoscaler has decided.
        assert "replicas" not in spec


def test_probes_ask_liveness_and_readiness_apart(container: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
    for each, live, ready in ((container, "/healthz", "/readyz"), (runtime, "/v2/health/live", "/v2/health/ready")):
        paths = {name: each[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert paths == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}


def test_a_pod_is_given_longer_to_stop_than_the_server_takes(
    built: Mapping[str, list[Manifest]], container: Mapping[str, Any], runtime: Mapping[str, Any]
) -> None:
    pod = of_kind(built["cpu"], "Deployment")["spec"]["template"]["spec"]
    # A runtime of KServe cannot say how long, so it is Kubernetes' own 30 s.
    for each, period_s in ((container, pod["terminationGracePeriodSeconds"]), (runtime, 30)):
        command = each["lifecycle"]["preStop"]["exec"]["command"]
        assert command[0] == "sleep"
        # Beside the grace period the server refuses calls for up to a second.
        assert period_s > int(command[1]) + configured(settings(each)).grace_s + 1


def test_autoscalers_ask_for_the_series_that_is_recorded_and_keep_it_a_time(
    built: Mapping[str, list[Manifest]],
) -> None:
    rules = (FOLDER.parent / "prometheus" / "rules.yml").read_text()
    series = "job:frostline_queue_seconds:mean5m"
    assert f"record: {series}\n" in rules
    [trigger] = of_kind(built["production"], "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["query"] == f'max({series}{{job="frostline"}})'
    scaler = of_kind(built["hpa"], "HorizontalPodAutoscaler")["spec"]
    [external] = [metric["external"] for metric in scaler["metrics"] if metric["type"] == "External"]
    assert external["metric"]["name"] == "frostline_queue_seconds"
    assert series in (FOLDER / "components" / "hpa" / "kustomization.yaml").read_text()
    # An average over replicas would be taken for a sum.
    assert trigger["metricType"] == external["target"]["type"] == "Value"
    assert float(trigger["metadata"]["threshold"]) == int(external["target"]["value"].removesuffix("m")) / 1000


def test_the_services_that_a_gateway_lets_through_are_the_servers(built: Mapping[str, list[Manifest]]) -> None:
    [rule] = of_kind(built["production"], "GRPCRoute")["spec"]["rules"]
    served = {
        service.full_name
        for module in (inference_pb2, predictor_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    assert {match["method"]["service"] for match in rule["matches"]} == {*served, "grpc.health.v1.Health"}


# KServe.


def test_kserve_finds_the_ports_the_model_and_the_metrics_of_its_runtime(
    built: Mapping[str, list[Manifest]], runtime: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = of_kind(built["kserve"], "ClusterServingRuntime")
    fields = ServerConfig.model_fields
    # By this name KServe knows the server's container.
    assert runtime["name"] == "kserve-container"
    # The first port becomes port 80 of the Service, and `grpc` in a name makes it h2c.
    assert [(port["name"], port["containerPort"]) for port in runtime["ports"]] == [
        ("http", fields["http_port"].default),
        ("grpc", fields["port"].default),
    ]
    assert {runtime[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        fields["http_port"].default
    }
    assert made["spec"]["annotations"]["prometheus.io/port"] == str(fields["metrics_port"].default)
    assert made["spec"]["annotations"]["prometheus.kserve.io/port"] == str(fields["metrics_port"].default)
    assert made["spec"]["protocolVersions"] == ["v2", "grpc-v2"]
    # KServe puts the name of the InferenceService there, and the model where `--models` says.
    assert frostline([*runtime["args"], "--help"]) == 0
    capsys.readouterr()
    flags = dict(zip(runtime["args"][1::2], runtime["args"][2::2], strict=True))
    assert flags == {"--models": "/mnt/models", "--model-name": "{{.Name}}", "--host": "0.0.0.0"}
    assert configured(settings(runtime)).anonymous_roles(local=False) == {"predict", "observe"}
    sample = yaml.safe_load((FOLDER / "kserve" / "inferenceservice.yaml").read_text())["spec"]["predictor"]["model"]
    assert sample["runtime"] == made["metadata"]["name"]
    assert sample["modelFormat"]["name"] in {each["name"] for each in made["spec"]["supportedModelFormats"]}
    assert sample["protocolVersion"] in made["spec"]["protocolVersions"]
