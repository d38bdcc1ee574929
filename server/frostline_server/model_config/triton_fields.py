"""The schema of Triton's ModelConfig, as far as the contract does not have it: fields that this server does not act on.

With it a field that is only not supported is told from a name that is misspelled.
"""

from collections.abc import Mapping

Fields = Mapping[str, "Fields"]
"""A message's fields by name, each with the fields of its own message; a scalar has none, and a map those of its entries."""

VERSION = "2.73"
"""Triton's version whose fields these are."""


def _named(names: str) -> Fields:
    return {name: {} for name in names.split()}


def _map_of(value: Fields) -> Fields:
    return {"key": {}, "value": value}


def is_map(fields: Fields) -> bool:
    """Whether these are the fields of a map's entries; no other message of Triton's has just these two."""
    return fields.keys() == {"key", "value"}


_TEXTS = _map_of({})
_SHAPES = _map_of(_named("dim"))
_PINNED = _named("enable")

NOT_SUPPORTED: Fields = {
    **_named("runtime"),
    "input": _named("format is_shape_tensor allow_ragged_batch optional is_non_linear_format_io"),
    "output": _named("is_shape_tensor is_non_linear_format_io"),
    "batch_input": _named("kind target_name data_type source_input"),
    "batch_output": _named("kind target_name source_input"),
    "instance_group": {
        **_named("profile passive host_policy"),
        "rate_limiter": {**_named("priority"), "resources": _named("name global count")},
        "secondary_devices": _named("kind device_id"),
    },
    "optimization": {
        **_named("priority gather_kernel_buffer_threshold eager_batching"),
        "cuda": {
            **_named("graphs busy_wait_events output_copy_stream"),
            "graph_spec": {
                **_named("batch_size"),
                "input": _SHAPES,
                "graph_lower_bound": {**_named("batch_size"), "input": _SHAPES},
            },
        },
        "input_pinned_memory": _PINNED,
        "output_pinned_memory": _PINNED,
    },
    "sequence_batching": {
        **_named("max_sequence_idle_microseconds iterative_sequence"),
        "direct": _named("max_queue_delay_microseconds minimum_slot_utilization"),
        "oldest": _named("max_candidate_sequences preferred_batch_size max_queue_delay_microseconds preserve_ordering"),
        "control_input": {
            **_named("name"),
            "control": _named("kind int32_false_true fp32_false_true bool_false_true data_type"),
        },
        "state": {
            **_named("input_name output_name data_type dims use_same_buffer_for_input_output use_growable_memory"),
            "initial_state": _named("name data_type dims zero_data data_file"),
        },
    },
    "ensemble_scheduling": {
        **_named("max_inflight_requests"),
        "step": {**_named("model_name model_version model_namespace"), "input_map": _TEXTS, "output_map": _TEXTS},
    },
    "cc_model_filenames": _TEXTS,
    "metric_tags": _TEXTS,
    "model_operations": _named("op_library_filename"),
    "model_repository_agents": {"agents": {**_named("name"), "parameters": _TEXTS}},
    "response_cache": _named("enable"),
    "model_metrics": {
        "metric_control": {"metric_identifier": _named("family"), "histogram_options": _named("buckets")},
    },
}
"""By their place in the message, where the contract's own fields stand beside them."""
