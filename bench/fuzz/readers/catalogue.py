"""All targets, by name. A new reader of what comes from outside gets a row here."""

from bench.fuzz.readers.target import Target
from bench.fuzz.readers.targets import config, connections, control, folder, framing, messages, scan

_ROOMS = (messages, scan, framing, connections, control, folder, config)

TARGETS: dict[str, Target] = {target.name: target for room in _ROOMS for target in room.TARGETS}
