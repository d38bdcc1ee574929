"""The load plan: which versions to load, to unload and to forget.

It is a pure function of what is on disk and what is loaded.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from frostline.pb import model_config_pb2

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""The path, size, modification time and inode of each file in a folder. Equal fingerprints mean equal files."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A model as its folder describes it.

    Attributes:
        policy: which of its versions to serve.
        versions: the fingerprint of every version that can be loaded, by number.
        named: version numbers to serve in addition to the policy's.
        stable: candidates for requests that name no version; the first one that can be served answers, and is loaded
            first. If none can be served, the next version older than the first candidate answers.
        settling: numbers of new versions whose files may still be being written.
    """

    policy: model_config_pb2.ModelVersionPolicy
    versions: Mapping[int, Fingerprint]
    named: Set[int] = frozenset()
    stable: Sequence[int] = ()
    settling: Set[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Known:
    """A version as the server knows it.

    Attributes:
        ready: whether it answers.
        fingerprint: of the files that were loaded, or that failed to load.
        refused: of newer files of a ready version that failed to load, or None.
    """

    ready: bool
    fingerprint: Fingerprint
    refused: Fingerprint | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next for one model.

    Attributes:
        load: numbers to load, the first one first.
        unload: numbers of ready versions to unload.
        forget: numbers of failed versions that no longer exist on disk.
    """

    load: tuple[int, ...] = ()
    unload: tuple[int, ...] = ()
    forget: tuple[int, ...] = ()


def plan(on_disk: OnDisk | None, known: Mapping[int, Known]) -> Plan:
    """What to do next for one model.

    A version that failed is not tried again until its files change; the previous version takes its place. A ready
    version is unloaded only after every wanted version is ready; one whose own folder is gone, as soon as the version is
    that comes before it: so a deployment that replaces a folder by another one leaves no gap, and what was withdrawn
    answers no longer than it must. If nothing that is on disk can be served, because all of it failed or because a policy
    names only versions that do not exist, what is ready stays.

    Args:
        on_disk: the model's folder, or None if the model has no folder or must not be served.
        known: its versions as the server knows them, by number.
    """
    versions = on_disk.versions if on_disk else {}
    ready = {number for number, version in known.items() if version.ready}
    forget = tuple(sorted(number for number, version in known.items() if not version.ready and number not in versions))
    if on_disk is None:
        return Plan((), tuple(sorted(ready)), forget)
    wanted = choose(on_disk, _failures(on_disk, known))
    load = tuple(number for number in wanted if _differs(known.get(number), versions[number]))
    # The stable version first: until it is loaded, a newer version would answer in its place.
    first = _stand_in(on_disk.stable, wanted)
    load = tuple(sorted(load, key=lambda number: number != first))
    coming = {*load, *awaited(on_disk, known)}
    if wanted and not coming:
        spare = ready.difference(wanted)
    else:
        stable = _stand_in(on_disk.stable, sorted({*wanted, *coming}, reverse=True))
        spare = _withdrawn(ready, versions.keys(), wanted, coming, stable)
    return Plan(load, tuple(sorted(spare)), forget)


def _withdrawn(
    ready: Set[int], there: Set[int], wanted: Sequence[int], coming: Set[int], first: int | None
) -> set[int]:
    """What of the ready versions was deleted, and is answered for by what is ready.

    Args:
        ready: the ready versions.
        there: those on disk.
        wanted: those to serve.
        coming: those of them that will be loaded.
        first: the stable one of them, if there is one: no other may answer in its place.
    """
    gone, left = ready - there, ready & ({*wanted} if first is None else {first})
    if not wanted:
        left = ready & there
    if not left:
        return set()
    # What comes next after a version that is gone takes its place; a newer one is a publication, which may take long.
    return {number for number in gone if not any(max(left) < other < number for other in coming if first is None)}


def awaited(on_disk: OnDisk, known: Mapping[int, Known]) -> set[int]:
    """The new versions that will be served once their files have settled, if they can be loaded."""
    versions = {**on_disk.versions, **dict.fromkeys(on_disk.settling, ())}
    return set(choose(replace(on_disk, versions=versions), _failures(on_disk, known))) & on_disk.settling


def _failures(on_disk: OnDisk, known: Mapping[int, Known]) -> set[int]:
    return {number for number, version in known.items() if _failed(version, on_disk.versions.get(number))}


def choose(on_disk: OnDisk, failed: Set[int]) -> tuple[int, ...]:
    """The versions to serve, newest first, given the versions that failed."""
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
