"""What is found or made anew again and again, and mostly is what it was."""

from collections.abc import Mapping
from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def keep_unchanged(before: Mapping[_Key, _Value], after: Mapping[_Key, _Value]) -> Mapping[_Key, _Value]:
    """`after`, with the objects of `before` in place of those that equal them; `before` itself if nothing has changed.

    So a scan of a folder that nobody touches leaves no new objects. They would lie wherever memory is free just then, as
    in what a flood of requests has left, and keep it from being returned.
    """
    if before == after:
        return before
    return {key: before[key] if key in before and before[key] == value else value for key, value in after.items()}


def besides(name: str, known: Mapping[str, _Value]) -> dict[str, _Value]:
    """What is known of all models but one."""
    return {other: value for other, value in known.items() if other != name}
