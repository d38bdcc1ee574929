"""The permissions: the role that each RPC method needs.

Roles do not include each other: whoever controls a server and wants to look at it needs both.
"""

from collections.abc import Mapping

from frostline_server.config import ROLES

Roles = frozenset[str]
"""Some of `config.ROLES`."""

EVERY_ROLE: Roles = frozenset(ROLES)
OBSERVE: Roles = frozenset({"observe"})
CONTROL: Roles = frozenset({"control"})

_OPEN: Roles = frozenset()
_PREDICT: Roles = frozenset({"predict"})
# What a client asks before and beside its predictions, and an operator too.
_EITHER = _PREDICT | OBSERVE

_INFERENCE: Mapping[str, Roles] = {
    # Probes bring no credentials.
    "ServerLive": _OPEN,
    "ServerReady": _OPEN,
    "ModelReady": _EITHER,
    "ServerMetadata": _EITHER,
    "ModelMetadata": _EITHER,
    "ModelConfig": _EITHER,
    "ModelInfer": _PREDICT,
    "ModelStreamInfer": _PREDICT,
    "ModelStatistics": OBSERVE,
    "RepositoryIndex": OBSERVE,
    "RepositoryModelLoad": CONTROL,
    "RepositoryModelUnload": CONTROL,
    "SystemSharedMemoryStatus": OBSERVE,
    "SystemSharedMemoryRegister": CONTROL,
    "SystemSharedMemoryUnregister": CONTROL,
    "CudaSharedMemoryStatus": OBSERVE,
    "CudaSharedMemoryRegister": CONTROL,
    "CudaSharedMemoryUnregister": CONTROL,
    # To read them; a request that changes them needs `control`.
    "TraceSetting": OBSERVE,
    "LogSettings": OBSERVE,
}

SETTINGS = frozenset(f"/inference.GRPCInferenceService/{name}" for name in ("TraceSetting", "LogSettings"))
"""The methods that read settings, or change them, depending on the request."""

METRICS = "/metrics"
"""The one page of the metrics port that needs a role, where the operator says so."""

NEEDED: Mapping[str, Roles] = {
    **{f"/inference.GRPCInferenceService/{name}": roles for name, roles in _INFERENCE.items()},
    "/frostline.v1.Predictor/Predict": _PREDICT,
    "/frostline.v1.Predictor/Schema": _EITHER,
    "/grpc.health.v1.Health/Check": _OPEN,
    "/grpc.health.v1.Health/Watch": _OPEN,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _EITHER,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _EITHER,
    METRICS: OBSERVE,
}
"""By path of a method or page: the roles of which a caller needs one; none for a method that is open to everybody."""
