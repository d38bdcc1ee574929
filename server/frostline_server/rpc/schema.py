"""The method Schema of the typed API: what a model takes and answers."""

import json
from collections.abc import Iterable

from frostline.pb import predictor_pb2 as pb
from frostline.pictures import MOST_BYTES, MOST_PIXELS
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model_config.tensor_config import protocol_shape
from frostline_server.repository.registry import Repository
from frostline_server.runtime.row_schema import MOST_TEXT_BYTES, Category, Column, Date, Image, Number, Text
from frostline_server.runtime.signature import TensorSpec


class Schemas:
    """Answers Schema.

    Args:
        repository: the models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def Schema(self, request: pb.SchemaRequest) -> pb.SchemaResponse:
        """What a version takes and answers."""
        return schema_of(self._repository.get(request.model, request.version))


def schema_of(served: LoadedModel) -> pb.SchemaResponse:
    """What a version takes and answers."""
    signature = served.session.signature
    schema = pb.SchemaResponse(
        model=served.name,
        version=served.version,
        task=served.codec.task.name,
        labels=served.labels or (),
        inputs=_tensors(signature.inputs, batched=signature.batched),
        outputs=_tensors(served.outputs, batched=signature.batched),
        max_rows=served.batching.max_batch_size if signature.batched else 0,
    )
    if served.encoder is not None:
        rows = served.encoder.schema
        schema.columns.extend(map(_column, rows.columns))
        schema.missing.extend(rows.missing)
        schema.example = json.dumps(rows.example, ensure_ascii=False) if rows.example else ""
        schema.reading = json.dumps(rows.reading, ensure_ascii=False) if rows.reading else ""
    return schema


def _column(column: Column) -> pb.Column:
    told = pb.Column(name=column.name, share_missing=column.share_missing, dtype=pb.BYTES)
    match column:
        case Number():
            told.kind, told.dtype = pb.NUMBER, pb.FP64
            if column.lowest is not None and column.highest is not None:
                told.lowest, told.highest = column.lowest, column.highest
        case Category():
            told.kind = pb.CATEGORY
            told.categories.extend(column.categories)
        case Date():
            told.kind, told.format = pb.DATE, column.format
            if column.lowest is not None and column.highest is not None:
                told.earliest, told.latest = column.lowest.isoformat(), column.highest.isoformat()
        case Text():
            told.kind, told.most_bytes = pb.TEXT, MOST_TEXT_BYTES
            told.bytes, told.length = column.bytes or 0, column.length or 0
        case Image():
            told.kind, told.most_bytes, told.most_pixels = pb.IMAGE, MOST_BYTES, MOST_PIXELS
            told.height, told.width = column.size
            told.color, told.fit, told.pixels = column.color, column.fit, True
    return told


def _tensors(specs: Iterable[TensorSpec], *, batched: bool) -> list[pb.Tensor]:
    lead = [-1] if batched else []
    return [
        pb.Tensor(
            name=spec.client_name,
            dtype=spec.datatype,
            shape=[*lead, *protocol_shape(spec)],
        )
        for spec in specs
    ]
