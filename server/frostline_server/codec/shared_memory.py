"""System shared memory: the regions that clients registered, and the tensors in them.

A region is read and written through a descriptor and never mapped. A client may shrink its object at any time, and
touching a page of a mapping that is gone ends the process; a read that comes back short is an error of one request.
"""

import os
import stat
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

from frostline_server.errors import (
    AlreadyExists,
    InvalidInput,
    MessageTooLarge,
    RegionNotFound,
    TooManyRegions,
    Unsupported,
)

FOLDER = Path("/dev/shm")  # noqa: S108  where Linux shows POSIX shared memory, not a place for files of ours
"""Where POSIX shared memory objects are found by name."""

MAX_REGIONS = 256
"""Each holds a descriptor open, and the descriptors are the clients' connections too."""

_MAX_KEY = 255


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a shared memory object. Whoever holds one may use it, even after it was unregistered.

    Attributes:
        name: what requests call it.
        key: the object's own name, as it was registered.
        offset: where in the object it begins, in bytes.
        byte_size: how long it is.
        descriptor: of the open object; closed when nobody holds the region any more.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.descriptor)

    def check(self, offset: int, byte_size: int) -> None:
        """Whether a tensor may lie there.

        Args:
            offset: where in the region it begins, in bytes.
            byte_size: how long it is.

        Raises:
            InvalidInput: it does not lie within the region.
        """
        if offset < 0 or offset > self.byte_size:
            raise InvalidInput(
                f"Invalid offset for shared memory region: '{self.name}': it has {self.byte_size} bytes, got offset "
                f"{offset}"
            )
        if byte_size < 0 or offset + byte_size > self.byte_size:
            raise InvalidInput(
                f"Invalid offset + byte size for shared memory region: '{self.name}': it has {self.byte_size} bytes, "
                f"got {offset} + {byte_size}"
            )

    def read(self, offset: int, byte_size: int) -> bytes:
        """A copy of the bytes of a tensor that `check` allows.

        Raises:
            InvalidInput: the object is shorter than it was.
        """
        data = os.pread(self.descriptor, byte_size, self.offset + offset)
        if len(data) != byte_size:
            raise self._shrunk(offset + byte_size)
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write the bytes of a tensor that `check` allows.

        Raises:
            InvalidInput: the object is shorter than it was, or the machine has no memory left for it.
        """
        # A write past the end would make the object longer again.
        if os.fstat(self.descriptor).st_size < self.offset + offset + len(data):
            raise self._shrunk(offset + len(data))
        try:
            written = os.pwrite(self.descriptor, data, self.offset + offset)
        except OSError as error:
            raise InvalidInput(f"cannot write to shared memory region '{self.name}': {error.strerror}") from error
        if written != len(data):
            raise InvalidInput(f"cannot write to shared memory region '{self.name}': the machine's memory is full")

    def _shrunk(self, end: int) -> InvalidInput:
        return InvalidInput(
            f"shared memory region '{self.name}' was registered with {self.byte_size} bytes, but its object "
            f"'{self.key}' no longer has the first {end} of them"
        )


class Regions:
    """The regions one server knows.

    Args:
        enabled: whether clients may register any.
        max_tensor_bytes: the longest tensor that is read from one.
    """

    def __init__(self, *, enabled: bool, max_tensor_bytes: int) -> None:
        self._enabled = enabled
        self._max_tensor_bytes = max_tensor_bytes
        self._regions: dict[str, Region] = {}
        self._changing = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Make a region known.

        Args:
            name: what requests will call it.
            key: the name of a POSIX shared memory object; one slash may precede it.
            offset: where in the object the region begins, in bytes.
            byte_size: how long it is.

        Raises:
            Unsupported: shared memory is off, or this platform does not show its objects.
            AlreadyExists: the name is taken.
            TooManyRegions: as many are registered as may be.
            InvalidInput: there is no such object that may be opened, or it is too short.
        """
        if not self._enabled:
            raise Unsupported(
                "system shared memory is off on this server; it is started with --shared-memory on, or on a loopback "
                "address"
            )
        if not FOLDER.is_dir():
            raise Unsupported(f"system shared memory needs {FOLDER}, which this server's machine does not have")
        if not name:
            raise InvalidInput("a shared memory region needs a name")
        with self._changing:
            if name in self._regions:
                raise AlreadyExists(f"shared memory region '{name}' already in manager")
            if len(self._regions) >= MAX_REGIONS:
                raise TooManyRegions(f"{MAX_REGIONS} shared memory regions are registered; unregister one first")
            region = Region(name, key, offset, byte_size, _open(name, key))
            size = os.fstat(region.descriptor).st_size
            if byte_size <= 0 or offset < 0 or offset + byte_size > size:
                raise InvalidInput(
                    f"failed to register shared memory region '{name}': invalid args: offset {offset} and byte_size "
                    f"{byte_size} for the {size} bytes of '{key}'"
                )
            self._regions[name] = region

    def unregister(self, name: str) -> None:
        """Forget one region, or every one if `name` is empty; an unknown name is no error, as in Triton.

        Requests that already hold the region go on with it.
        """
        with self._changing:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str) -> list[Region]:
        """One region, or every one if `name` is empty.

        Raises:
            RegionNotFound: no region has that name.
        """
        with self._changing:
            if not name:
                return list(self._regions.values())
            if name not in self._regions:
                raise RegionNotFound(f"Unable to find system shared memory region: '{name}'")
            return [self._regions[name]]

    def find(self, name: str) -> Region:
        """The region a request names.

        Raises:
            RegionNotFound: no region has that name.
        """
        region = self._regions.get(name)
        if region is None:
            raise RegionNotFound(f"Unable to find shared memory region: '{name}'")
        return region

    def read(self, name: str, offset: int, byte_size: int) -> bytes:
        """A copy of the bytes of a tensor.

        Raises:
            RegionNotFound: no region has that name.
            InvalidInput: the tensor does not lie within it.
            MessageTooLarge: the tensor is longer than a message may be.
        """
        region = self.find(name)
        region.check(offset, byte_size)
        if byte_size > self._max_tensor_bytes:
            raise MessageTooLarge(
                f"a tensor in shared memory may have {self._max_tensor_bytes} bytes on this server, got {byte_size}"
            )
        return region.read(offset, byte_size)


def _open(name: str, key: str) -> int:
    """A descriptor of a shared memory object, for reading and writing."""
    file = key.removeprefix("/")
    if not file or "/" in file or "\0" in file or file in (".", "..") or len(file.encode()) > _MAX_KEY:
        raise InvalidInput(
            f"failed to register shared memory region '{name}': the key must be the name of a shared memory object, "
            f"such as '/tensors', got '{key}'"
        )
    try:
        descriptor = os.open(FOLDER / file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidInput(f"Unable to open shared memory region: '{key}': {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"Unable to open shared memory region: '{key}': it is no shared memory object")
    return descriptor
