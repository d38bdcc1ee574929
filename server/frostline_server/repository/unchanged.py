"""What is found or made anew again and again, and mostly is what it was."""

from collections.abc import Mapping
from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def keep_unchanged(
    before: Mapping[_Key, _Value], after: Mapping[_Key, _Value], only: _Key | None = None
) -> Mapping[_Key, _Value]:
    """`after`, with the objects of `before` in place of those that equal them; `before` itself if nothing has changed.

    So a scan of a folder that nobody touches leaves no new objects. They would lie wherever memory is free just then, as
    in what a flood of requests has left, and keep it from being returned.

    Args:
        before: what was known.
        after: what is known now.
        only: the one key that `after` is about, if it is there; all others are as they were.
    """
    if only is not None:
        return {**besides(only, before), **after}
    if before == after:
        return before
    return {key: before[key] if key in before and before[key] == value else value for key, value in after.items()}


def besides(key: _Key, known: Mapping[_Key, _Value]) -> dict[_Key, _Value]:
    """What is known of all but one."""
    return {other: value for other, value in known.items() if other != key}
