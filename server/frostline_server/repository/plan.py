"""The load plan: which versions to load, to unload and to forget.

It is a pure function of what is on disk and what is loaded.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from frostline.pb import model_config_pb2

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""What a folder's files are: for each its path, size, time of change and inode. Equal fingerprints mean equal files."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A model as its folder has it.

    Attributes:
        policy: which of its versions are to be served.
        versions: the fingerprint of every version, by number.
        named: numbers to be served whatever the policy says.
        stable: those that are to answer what names no version, the first of them that can be served; it is loaded first. If
            none can be, the next older one than the first takes its place.
    """

    policy: model_config_pb2.ModelVersionPolicy
    versions: Mapping[int, Fingerprint]
    named: Set[int] = frozenset()
    stable: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A version as the server has it.

    Attributes:
        ready: whether it answers.
        fingerprint: of what was loaded, or could not be.
        refused: of newer files of a ready version that could not be loaded, or None.
    """

    ready: bool
    fingerprint: Fingerprint
    refused: Fingerprint | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next for one model.

    Attributes:
        load: numbers to load, the first one first.
        unload: numbers of ready versions to let go.
        forget: numbers of failed versions that no longer mean anything.
    """

    load: tuple[int, ...] = ()
    unload: tuple[int, ...] = ()
    forget: tuple[int, ...] = ()


def plan(on_disk: OnDisk | None, known: Mapping[int, Known]) -> Plan:
    """What to do next for one model.

    A version that failed is not tried again until its files change; the one before it takes its place. Nothing that
    answers is let go before all that is wanted is loaded, or because a policy asks only for what is not there; except what is
    no longer on disk: that was withdrawn.

    Args:
        on_disk: the model's folder, or None if it has none or is not to be served.
        known: its versions as the server has them, by number.
    """
    versions = on_disk.versions if on_disk else {}
    withdrawn = tuple(sorted(number for number, version in known.items() if version.ready and number not in versions))
    forget = tuple(sorted(number for number, version in known.items() if not version.ready and number not in versions))
    if on_disk is None:
        return Plan((), withdrawn, forget)
    failed = {number for number, version in known.items() if _failed(version, versions.get(number))}
    wanted = choose(on_disk, failed)
    load = tuple(number for number in wanted if _differs(known.get(number), versions[number]))
    # Before the stable version is there, a newer one would answer in its place.
    first = _stand_in(on_disk.stable, wanted)
    load = tuple(sorted(load, key=lambda number: number != first))
    if load:
        return Plan(load, withdrawn, forget)
    if not wanted:  # a slip of the pen in the policy is no reason to serve nothing
        return Plan((), withdrawn, forget)
    spare = {number for number, version in known.items() if version.ready and number not in wanted}
    return Plan((), tuple(sorted({*withdrawn, *spare})), forget)


def choose(on_disk: OnDisk, failed: Set[int]) -> tuple[int, ...]:
    """The versions to be served, newest first, given those that cannot be."""
    usable = sorted((number for number in on_disk.versions if number not in failed), reverse=True)
    policy = on_disk.policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        chosen = usable
    elif choice == "specific":
        chosen = [number for number in usable if number in policy.specific.versions]
    else:
        chosen = usable[: max(1, policy.latest.num_versions)]
    named = {*on_disk.named, _stand_in(on_disk.stable, usable)}
    return tuple(number for number in usable if number in chosen or number in named)


def _stand_in(stable: Sequence[int], usable: Sequence[int]) -> int | None:
    """The first that can be served or, if none can, the newest that is not newer than the first."""
    if not stable:
        return None
    older = (number for number in usable if number <= stable[0])
    return next((number for number in stable if number in usable), max(older, default=None))


def _failed(version: Known, files: Fingerprint | None) -> bool:
    return not version.ready and version.fingerprint == files


def _differs(version: Known | None, files: Fingerprint) -> bool:
    return version is None or files not in (version.fingerprint, version.refused)
