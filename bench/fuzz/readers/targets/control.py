"""The target of shared memory control."""

import uuid
from pathlib import Path

from google.protobuf.message import DecodeError

from bench.fuzz.oracle import Found
from bench.fuzz.readers.mutators import message
from bench.fuzz.readers.target import Check, Target
from bench.fuzz.readers.targets.messages import shared_memory
from frostline.pb import inference_pb2 as pb
from frostline_server.codec.shared_memory import FOLDER
from frostline_server.errors import PredictionError
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.shared_memory_control import SharedMemory


def _control(_: Path) -> Check:
    regions = shared_memory()
    control, name = SharedMemory(regions), f"frostline-fuzz-{uuid.uuid4().hex}"

    def check(data: bytes) -> None:
        try:
            request = pb.SystemSharedMemoryRegisterRequest.FromString(data)
        except DecodeError:
            return
        # There is an object only while it is looked for, so that none is left behind.
        if request.key.endswith("object"):
            request.key = request.key.removesuffix("object") + name
            (FOLDER / name).write_bytes(bytes(64))
        try:
            register(request, data)
        finally:
            (FOLDER / name).unlink(missing_ok=True)

    def register(request: pb.SystemSharedMemoryRegisterRequest, data: bytes) -> None:
        try:
            control.SystemSharedMemoryRegister(request)
        except PredictionError as error:
            ending(error)
            return
        try:
            region = regions.find(request.name)
            if len(regions.read(request.name, 0, min(region.byte_size, 16))) != min(region.byte_size, 16):
                raise Found("a region that was registered is not there", data)
            control.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name=request.name)).SerializeToString()
        finally:
            if request.name != "region":
                regions.unregister(request.name)

    return check


TARGETS = (
    Target(
        "shared-memory",
        "requests to register shared memory",
        _control,
        (
            pb.SystemSharedMemoryRegisterRequest(name="a", key="/object", offset=8, byte_size=16).SerializeToString(),
            pb.SystemSharedMemoryRegisterRequest(name="b", key="object", offset=60, byte_size=16).SerializeToString(),
            pb.SystemSharedMemoryRegisterRequest(name="a", key="/none", offset=8, byte_size=64).SerializeToString(),
            pb.SystemSharedMemoryRegisterRequest(
                name="region", key="a/b", offset=2**63, byte_size=2**63
            ).SerializeToString(),
        ),
        message(pb.SystemSharedMemoryRegisterRequest),
    ),
)
