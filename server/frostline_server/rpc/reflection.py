"""Server reflection: tools such as grpcurl ask the server for the contracts of its services.

Under both names that tools ask by: `v1`, and `v1alpha` of before, whose messages are the same.
"""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from frostline.pb import inference_pb2, model_config_pb2, predictor_pb2
from frostline_server.rpc.methods import Methods

_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def add_reflection(services: Iterable[str], methods: Methods) -> None:
    """Answer reflection.

    Args:
        services: the names of the services that there are, besides reflection's own.
        methods: where its methods are added.
    """
    servicer = _Reflection((*services, *_SERVICES), pool=_contracts())
    for service in _SERVICES:
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        methods.add_registered_method_handlers(service, {"ServerReflectionInfo": handler})


class _Reflection(ReflectionServicer):  # type: ignore[misc]  # it has no types
    """As grpc's own, which finds methods too: protobuf's pool finds everything but these by name."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        service, _, method = fully_qualified_name.rpartition(".")
        try:
            is_method = method in self._pool.FindServiceByName(service).methods_by_name
        except KeyError:
            is_method = False
        return super()._file_containing_symbol(request, service if is_method else fully_qualified_name)


def _contracts() -> DescriptorPool:
    """The contracts of all services in one descriptor pool; by default the libraries' are in another one."""
    pool = DescriptorPool()
    for module in (health_pb2, reflection_pb2, model_config_pb2, inference_pb2, predictor_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    renamed = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    pool.AddSerializedFile(text_format.Parse(renamed, FileDescriptorProto()).SerializeToString())
    return pool
