"""The Kubernetes manifests as `kubectl apply --kustomize` would send them, and what in them refers to each other."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Manifest = Mapping[str, Any]

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FROM_OUTSIDE = frozenset({"frostline-tls", "frostline-scrape"})
"""Secrets that who deploys has to make, because nobody else can."""


def build(kubectl: str, folder: Path) -> list[Manifest]:
    """What is in a folder's kustomization, with everything that it takes in."""
    made = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True, timeout=60)
    return [dict(each) for each in yaml.safe_load_all(made.stdout)]


def of_kind(manifests: Sequence[Manifest], kind: str) -> Manifest:
    """The only one of a kind."""
    [found] = [each for each in manifests if each["kind"] == kind]
    return found


def settings(container: Manifest) -> dict[str, str]:
    """A container's environment."""
    return {item["name"]: item["value"] for item in container["env"]}


def loose_ends(manifests: Sequence[Manifest]) -> list[str]:
    """What the manifests of a deployment refer to and none of them has; a schema cannot tell."""
    deployment, service = of_kind(manifests, "Deployment"), of_kind(manifests, "Service")
    pod = deployment["spec"]["template"]
    [container] = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    outer = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    known = {
        "label": set(labels.items()),
        "label of the Service": set(service["metadata"]["labels"].items()),
        "port": set(ports),
        "port of the Service": set(outer),
        "number of a port": set(outer.values()),
        "volume": set(volumes),
        "Deployment": {deployment["metadata"]["name"]},
        "Service": {service["metadata"]["name"]},
        "PersistentVolumeClaim": {
            each["metadata"]["name"] for each in manifests if each["kind"].endswith("VolumeClaim")
        },
        "Secret": {each["metadata"]["name"] for each in manifests if each["kind"] == "Secret"} | FROM_OUTSIDE,
    }
    used = [
        *(("label", item) for item in deployment["spec"]["selector"]["matchLabels"].items()),
        *(("label", item) for item in service["spec"]["selector"].items()),
        *(
            ("label", item)
            for spread in pod["spec"]["topologySpreadConstraints"]
            for item in spread["labelSelector"]["matchLabels"].items()
        ),
        *(("port", port["targetPort"]) for port in service["spec"]["ports"]),
        *(
            ("port", container[probe]["httpGet"]["port"])
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        ),
        *(("volume", mount["name"]) for mount in container["volumeMounts"]),
        *_of_volumes(volumes.values()),
        *(reference for each in manifests for reference in _references(each)),
    ]
    unused = set(volumes) - {mount["name"] for mount in container["volumeMounts"]}
    lost = [f"there is no {what} {value}" for what, value in used if value not in known[what]]
    return [*lost, *(f"nothing mounts the volume {name}" for name in sorted(unused))]


def _of_volumes(volumes: Any) -> Iterator[tuple[str, Any]]:
    for volume in volumes:
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]


def _references(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    """What one manifest beside the Deployment and the Service says of them: kind and value."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "NetworkPolicy":
            yield from (("label", item) for item in spec["podSelector"]["matchLabels"].items())
            yield from (("port", port["port"]) for rule in spec["ingress"] for port in rule["ports"])
        case "PodDisruptionBudget":
            yield from (("label", item) for item in spec["selector"]["matchLabels"].items())
        case "HorizontalPodAutoscaler" | "ScaledObject":
            yield "Deployment", spec["scaleTargetRef"]["name"]
        case "ServiceMonitor":
            yield from (("label of the Service", item) for item in spec["selector"]["matchLabels"].items())
            for endpoint in spec["endpoints"]:
                yield "port of the Service", endpoint["port"]
                yield "Secret", endpoint["authorization"]["credentials"]["name"]
        case "GRPCRoute":
            for backend in (backend for rule in spec["rules"] for backend in rule["backendRefs"]):
                yield "Service", backend["name"]
                yield "number of a port", backend["port"]
