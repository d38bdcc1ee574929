"""Metrics between processes: a registry's samples as JSON, with the rule by which several processes' are put together.

Prometheus's own text format does not carry the rule, and whoever reads it would have to know every metric.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Exemplar

Across = Literal["total", "sum", "max", "min", "supervisor"]
"""How the processes' values of one series become one: `total` is the sum, also of processes that have ended; `sum`,
`max` and `min` are of those that run; `supervisor` is none of them, because the supervisor itself knows."""

PROCESS: Mapping[str, Across] = {
    "process_resident_memory_bytes": "sum",
    "process_virtual_memory_bytes": "sum",
    "process_open_fds": "sum",
    "process_max_fds": "min",
    "process_start_time_seconds": "min",
    "python_info": "max",
}
"""The rules of the gauges that Prometheus's library has for every process."""

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A series: the sample's name, and its labels in order."""


@dataclass(frozen=True, slots=True)
class Block:
    """One metric of one process.

    Attributes:
        name: of the family, as the library has it.
        help: its HELP text.
        type: its TYPE.
        across: how it is put together with other processes'.
        samples: value by series.
        examples: the exemplars of some of them, by series.
    """

    name: str
    help: str
    type: str
    across: Across
    samples: Mapping[Key, float]
    examples: Mapping[Key, Exemplar] = field(default_factory=dict)


def rule(name: str, kind: str, declared: Mapping[str, Across]) -> Across:
    """How a metric is put together across processes.

    Args:
        name: its family's name.
        kind: its type.
        declared: the rules of gauges, by name.

    Returns:
        The declared rule; else `total` for whatever counts, and `max` for other gauges, which are the machine's and the
        same in every process.
    """
    if kind != "gauge":
        return "total"
    return declared.get(name) or PROCESS.get(name) or "max"


def dump(registry: CollectorRegistry, declared: Mapping[str, Across]) -> bytes:
    """Write what a registry has now, without what the supervisor knows better."""
    blocks = []
    for metric in registry.collect():
        across = rule(metric.name, metric.type, declared)
        if across != "supervisor":
            samples = [
                (sample.name, list(sample.labels.items()), sample.value, sample.exemplar) for sample in metric.samples
            ]
            blocks.append((metric.name, metric.documentation, metric.type, across, samples))
    return json.dumps(blocks).encode()


def load(written: bytes) -> list[Block]:
    """Read what `dump` wrote."""
    return [
        _block(
            name,
            text,
            kind,
            across,
            [((series, tuple(map(tuple, labels))), *rest) for series, labels, *rest in samples],
        )
        for name, text, kind, across, samples in json.loads(written)
    ]


def _block(name: str, text: str, kind: str, across: Across, samples: Sequence[Any]) -> Block:
    examples = {key: Exemplar(*exemplar) for key, _, exemplar in samples if exemplar is not None}
    return Block(name, text, kind, across, {key: value for key, value, _ in samples}, examples)
