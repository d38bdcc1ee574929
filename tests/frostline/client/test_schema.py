"""What a server says of a model is read as its users write it."""

import numpy as np

from frostline.client.schema import described
from frostline.pb import predictor_pb2 as pb


def test_numbers_of_single_precision_have_their_shortest_decimals() -> None:
    lowest, highest = (float(np.float32(bound)) for bound in (0.1, 7.7))
    told = pb.SchemaResponse(
        columns=[pb.Column(name="n", kind=pb.NUMBER, lowest=lowest, highest=highest)],
        example=f'{{"n": {lowest!r}, "c": null}}',
    )
    schema = described(told)
    assert (schema.columns[0].lowest, schema.columns[0].highest) == (0.1, 7.7)
    assert schema.example == {"n": 0.1, "c": None}


def test_a_column_without_a_value_in_training_has_no_bounds() -> None:
    number, date = described(pb.SchemaResponse(columns=[pb.Column(kind=pb.NUMBER), pb.Column(kind=pb.DATE)])).columns
    assert (number.lowest, number.highest, date.lowest, date.highest) == (None,) * 4


def test_a_kind_of_a_later_server_goes_by_its_number() -> None:
    [column] = described(pb.SchemaResponse.FromString(b"\x2a\x02\x10\x63")).columns
    assert column.kind == "kind 99"
