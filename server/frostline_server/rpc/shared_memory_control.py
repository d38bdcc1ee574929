"""The shared memory extensions: registration of system shared memory.

The server refuses CUDA shared memory, because it does not support it.
"""

from frostline.pb import inference_pb2 as pb
from frostline_server.codec.shared_memory import Regions
from frostline_server.errors import RegionNotFound, Unsupported


class SharedMemory:
    """Answers the methods of the extensions.

    Args:
        regions: those of system shared memory.
    """

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest
    ) -> pb.SystemSharedMemoryStatusResponse:
        """One region, or all."""
        status = pb.SystemSharedMemoryStatusResponse.RegionStatus
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                region.name: status(name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size)
                for region in self._regions.status(request.name)
            }
        )

    def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Register a region."""
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Unregister one region, or all."""
        self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(self, request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        """Always none."""
        if request.name:
            raise RegionNotFound(f"Unable to find cuda shared memory region: '{request.name}'")
        return pb.CudaSharedMemoryStatusResponse()

    def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Always refused."""
        raise Unsupported(
            f"failed to register CUDA shared memory region '{request.name}': this server does not support CUDA "
            "shared memory; "
            "use system shared memory, or send them in the message"
        )

    def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Always succeeds, because no region can be registered."""
        return pb.CudaSharedMemoryUnregisterResponse()
