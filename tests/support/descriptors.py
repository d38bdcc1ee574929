"""The open descriptors of this process."""

from pathlib import Path


def descriptors() -> set[str]:
    """Each with what it is of. Compare two sets by what is in one of them alone, not by their sizes: what earlier tests have
    left may be closed at any time.
    """
    found: set[str] = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{each.name} of {each.readlink()}")
        except FileNotFoundError:
            # The one with which the folder is read.
            continue
    return found
