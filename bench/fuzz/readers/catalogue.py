"""All targets, by name. A new reader of what comes from outside gets a row here."""

from bench.fuzz.readers import config, folder, messages, wire
from bench.fuzz.readers.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*messages.TARGETS, *wire.TARGETS, *folder.TARGETS, *config.TARGETS)
}
