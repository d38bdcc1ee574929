"""Dates as the text that a model reads: in UTC, in the format of its training.

Tables have them to the nanosecond, and Python to the microsecond.
"""

import re
from datetime import UTC, date, datetime, time
from typing import Any

_DIRECTIVE = re.compile("%.")


def written(value: date, form: str) -> str:
    """A date or time as text.

    Args:
        value: A date is its midnight; a time without an offset is in UTC, as everything is that a model has read.
        form: ``iso``, or as in `datetime.strftime`.

    Raises:
        ValueError: It cannot be written so.
        OverflowError: It has no year in UTC.
    """
    if not isinstance(value, datetime):
        if form == "iso":
            return value.isoformat()
        value = datetime.combine(value, time())
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    if form == "iso":
        return datetime.isoformat(value)  # pandas' own has nanoseconds, which no ISO date of training had
    # C's %Y has less than four digits for the years before 1000, which strptime does not read.
    form = _DIRECTIVE.sub(lambda found: f"{value.year:04d}" if found[0] == "%Y" else found[0], form)
    return value.replace(tzinfo=UTC).strftime(form)


def coarse(column: Any) -> Any:
    """A column of Arrow with its times in microseconds; anything else as it is.

    Finer times have no value of Python.
    """
    kind: Any = getattr(column, "type", None)
    if getattr(kind, "unit", "") != "ns" or not str(kind).startswith(("timestamp", "time64")):
        return column
    # Who has such a column has pyarrow, which is optional.
    from pyarrow import time64, timestamp  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: PLC0415

    return column.cast(time64("us") if str(kind).startswith("time64") else timestamp("us", kind.tz), safe=False)
