"""Raw rows of every kind, as `publish` takes them: a table or texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from frostline_training.data import Array
from frostline_training.data.pythontext import encoded
from frostline_training.data.raw import Input, text_of
from frostline_training.errors import DataError, PublishError
from frostline_training.publishing.raw_table import RawTable
from frostline_training.publishing.raw_texts import RawTexts
from frostline_training.publishing.verify import Named

Raw = RawTable | RawTexts


def of(sample: Any, test: Any, inputs: Sequence[Input], dynamic: object = None) -> Raw:
    """Return the raw rows that `frostline.publish` was given.

    Raises:
        PublishError: They do not fit the inputs, or what else was given does not fit them.
    """
    if test is not None and (not isinstance(test, tuple) or len(test) != 2):
        raise PublishError(f"test is {type(test).__name__}: with inputs, give (raw rows, targets)")
    try:
        text = text_of(inputs)
        if text is not None:
            return RawTexts.of(sample, test, text)
        if dynamic:
            raise PublishError("a table has no dynamic axes: leave out dynamic, or inputs")
        return RawTable.of(sample, test, inputs)
    except DataError as error:
        raise PublishError(str(error)) from error


def encoded_golden(told: Mapping[str, Any], rows: Named) -> Array:
    """Return raw rows of a golden sample that are no table as the network takes them.

    Args:
        told: What the card says of them under `rows`.
        rows: The golden sample's, by column.
    """
    (values,) = rows.values()
    (column,) = told["columns"]
    words = told["missing"]
    texts = [text.strip() for text in values.tolist()]
    return encoded([None if text in words else text for text in texts], column["bytes"])
