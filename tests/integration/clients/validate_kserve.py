"""Print what KServe's SDK does not know in manifests: JSON in, a list of manifests; JSON out, a list of problems for each."""

import json
import re
import sys
from typing import Any

import kserve.models
import kubernetes.client

PLAIN = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "ResourceQuantity": (str, int),
    "object": (object,),
}
KINDS = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}


def problems(value: Any, kind: str, where: str) -> list[str]:
    """What is wrong with a value of a type of the SDK, such as `list[V1Container]`."""
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and not (kind == "int" and isinstance(value, bool))
        return [] if right else [f"{where}: expected {kind}, got {value!r}"]
    if listed := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: expected a list, got {value!r}"]
        return [found for index, each in enumerate(value) for found in problems(each, listed[1], f"{where}[{index}]")]
    if not isinstance(value, dict):
        return [f"{where}: expected an object, got {value!r}"]
    if mapped := re.fullmatch(r"[dD]ict[(\[]str, (.+)[)\]]", kind):
        return [found for name, each in value.items() for found in problems(each, mapped[1], f"{where}.{name}")]
    return of_model(value, kind, where)


def of_model(value: dict[str, Any], kind: str, where: str) -> list[str]:
    """What is wrong with an object: fields that it does not have, fields that it lacks, and those that are wrong themselves."""
    short = re.sub(r"^K8sIoApi\w+?(?=V\d)", "", kind)
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, short)
    names = {name: attribute for attribute, name in model.attribute_map.items()}
    found = [f"{where}: unknown field {name}" for name in value if name not in names]
    known = {names[name]: each for name, each in value.items() if name in names}
    for attribute, each in known.items():
        found += problems(each, model.openapi_types[attribute], f"{where}.{model.attribute_map[attribute]}")
    try:
        model(**known)
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found


def main() -> None:
    """Read, validate, print."""
    manifests = json.load(sys.stdin)
    json.dump([problems(each, KINDS[each["kind"]], each["kind"]) for each in manifests], sys.stdout)


main()
