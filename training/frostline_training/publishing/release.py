"""The release of a version: it goes live at once, is staged, or goes live only if it is better than the live version."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from frostline_training.evaluation.compare import Comparison
from frostline_training.publishing import artifact, rollout
from frostline_training.publishing.gate import Scorer
from frostline_training.publishing.rollout import Live


@dataclass(frozen=True)
class Released:
    """What became of a new version.

    Attributes:
        version: Its number.
        path: Its folder.
        live: Whether it answers requests that name no version.
        told: Why, in a sentence.
        comparison: With the version that was live; None where nothing was compared.
    """

    version: int
    path: Path
    live: bool
    told: str
    comparison: Comparison | None = None


def release(
    hidden: Path, card: Mapping[str, object], *, stage: bool = False, compared: Scorer | None = None
) -> Released:
    """Give the staged folder its number, and decide whether it goes live.

    Another version may become live between the comparison and the publication, by another training or by hand. The new
    one is then compared with that.

    Args:
        hidden: The folder, proved and complete but for its card.
        card: The card.
        stage: Leave the live version as it is.
        compared: Leave it so unless this says that the new one is better.

    Raises:
        PublishError: The live version cannot be compared, or something cannot be written.
    """
    folder = hidden.parent
    before = rollout.live(folder)
    comparison = compared(folder / str(before.version)) if compared and before.version is not None else None
    if stage or compared:
        rollout.hold(folder)
    if comparison:
        card = {**card, "comparison": {"version": before.version, **comparison.card()}}
    version, path = artifact.place(hidden, card)
    new = f"version {version}"
    if compared is None:
        live, told = _uncompared(folder, version, before, stage=stage)
        return Released(version, path, live=live, told=told)
    while True:
        now = rollout.live(folder, but=version)
        if now.version in (None, version):
            if before.version is None:
                told = f"{new} is live; it is the first one, so there is none to compare it with"
            else:
                told = f"{new} is live, in place of version {before.version}: it was promoted meanwhile"
            return Released(version, path, live=True, told=told, comparison=comparison)
        if comparison is None or now.version != before.version:
            before, comparison = now, compared(folder / str(now.version))
        if not comparison.better:
            held = rollout.hold(folder, but=version)
            if held.version != before.version:
                continue
            told = f"{new} is staged, version {held.version} stays live: {comparison.told}"
            return Released(version, path, live=False, told=told, comparison=comparison)
        if rollout.promote(folder, version, now):
            told = f"{new} is live, in place of version {now.version}: {comparison.told}"
            return Released(version, path, live=True, told=told, comparison=comparison)


def _uncompared(folder: Path, version: int, before: Live, *, stage: bool) -> tuple[bool, str]:
    """Return whether a new version that is compared with no other is live, and a sentence on it."""
    now, new = rollout.hold(folder, but=version) if stage else rollout.live(folder, but=version), f"version {version}"
    if now.version in (None, version):  # the latter where another publisher has held it, as the newest one, just now
        why = "; it is the first one, so there is no other that could answer" if stage else ""
        if before.version is not None:
            why = f", in place of version {before.version}"
        return True, f"{new} is live{why}"
    if now.held:
        why = "staged" if stage else "not live, because a version is called stable"
        return False, f"{new} is {why}: version {now.version} answers"
    return True, f"{new} is live, in place of version {now.version}"
