from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    BOOL: _ClassVar[DataType]
    UINT8: _ClassVar[DataType]
    UINT16: _ClassVar[DataType]
    UINT32: _ClassVar[DataType]
    UINT64: _ClassVar[DataType]
    INT8: _ClassVar[DataType]
    INT16: _ClassVar[DataType]
    INT32: _ClassVar[DataType]
    INT64: _ClassVar[DataType]
    FP16: _ClassVar[DataType]
    FP32: _ClassVar[DataType]
    FP64: _ClassVar[DataType]
    BYTES: _ClassVar[DataType]

class Output(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_UNSPECIFIED: _ClassVar[Output]
    LOGITS: _ClassVar[Output]
    SOFTMAX: _ClassVar[Output]
    ARGMAX: _ClassVar[Output]
    VALUES: _ClassVar[Output]
    STATES: _ClassVar[Output]

class ColumnKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLUMN_KIND_UNSPECIFIED: _ClassVar[ColumnKind]
    NUMBER: _ClassVar[ColumnKind]
    CATEGORY: _ClassVar[ColumnKind]
    DATE: _ClassVar[ColumnKind]
    TEXT: _ClassVar[ColumnKind]
    IMAGE: _ClassVar[ColumnKind]
DATA_TYPE_UNSPECIFIED: DataType
BOOL: DataType
UINT8: DataType
UINT16: DataType
UINT32: DataType
UINT64: DataType
INT8: DataType
INT16: DataType
INT32: DataType
INT64: DataType
FP16: DataType
FP32: DataType
FP64: DataType
BYTES: DataType
OUTPUT_UNSPECIFIED: Output
LOGITS: Output
SOFTMAX: Output
ARGMAX: Output
VALUES: Output
STATES: Output
COLUMN_KIND_UNSPECIFIED: ColumnKind
NUMBER: ColumnKind
CATEGORY: ColumnKind
DATE: ColumnKind
TEXT: ColumnKind
IMAGE: ColumnKind

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model", "version", "inputs", "outputs", "top_k", "id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    top_k: int
    id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ..., top_k: _Optional[int] = ..., id: _Optional[str] = ...) -> None: ...

class Class(_message.Message):
    __slots__ = ("index", "label", "probability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    probability: float
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Ranking(_message.Message):
    __slots__ = ("classes",)
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[Class]
    def __init__(self, classes: _Optional[_Iterable[_Union[Class, _Mapping]]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("model", "version", "id", "logits", "softmax", "argmax", "labels", "top", "values", "task", "names", "thresholds", "states")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    SOFTMAX_FIELD_NUMBER: _ClassVar[int]
    ARGMAX_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    id: str
    logits: Tensor
    softmax: Tensor
    argmax: Tensor
    labels: _containers.RepeatedScalarFieldContainer[str]
    top: _containers.RepeatedCompositeFieldContainer[Ranking]
    values: _containers.RepeatedCompositeFieldContainer[Tensor]
    task: str
    names: _containers.RepeatedScalarFieldContainer[str]
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    states: Tensor
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., id: _Optional[str] = ..., logits: _Optional[_Union[Tensor, _Mapping]] = ..., softmax: _Optional[_Union[Tensor, _Mapping]] = ..., argmax: _Optional[_Union[Tensor, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., top: _Optional[_Iterable[_Union[Ranking, _Mapping]]] = ..., values: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., task: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., thresholds: _Optional[_Iterable[float]] = ..., states: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class SchemaRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "kind", "dtype", "categories", "lowest", "highest", "format", "earliest", "latest", "share_missing", "most_bytes", "bytes", "most_pixels", "height", "width", "color", "fit", "pixels", "length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    EARLIEST_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    SHARE_MISSING_FIELD_NUMBER: _ClassVar[int]
    MOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    MOST_PIXELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: ColumnKind
    dtype: DataType
    categories: _containers.RepeatedScalarFieldContainer[str]
    lowest: float
    highest: float
    format: str
    earliest: str
    latest: str
    share_missing: float
    most_bytes: int
    bytes: int
    most_pixels: int
    height: int
    width: int
    color: str
    fit: str
    pixels: bool
    length: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[ColumnKind, str]] = ..., dtype: _Optional[_Union[DataType, str]] = ..., categories: _Optional[_Iterable[str]] = ..., lowest: _Optional[float] = ..., highest: _Optional[float] = ..., format: _Optional[str] = ..., earliest: _Optional[str] = ..., latest: _Optional[str] = ..., share_missing: _Optional[float] = ..., most_bytes: _Optional[int] = ..., bytes: _Optional[int] = ..., most_pixels: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., color: _Optional[str] = ..., fit: _Optional[str] = ..., pixels: bool = ..., length: _Optional[int] = ...) -> None: ...

class SchemaResponse(_message.Message):
    __slots__ = ("model", "version", "task", "labels", "columns", "missing", "example", "inputs", "outputs", "max_rows", "reading")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    task: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    missing: _containers.RepeatedScalarFieldContainer[str]
    example: str
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    max_rows: int
    reading: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., task: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ..., example: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., max_rows: _Optional[int] = ..., reading: _Optional[str] = ...) -> None: ...
