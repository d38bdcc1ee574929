"""The table of element types: the protocol's name of each, NumPy's type and ONNX Runtime's name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""The protocol's data types. BF16 is missing: neither numpy nor any network served here takes it."""

NAMES = {dtype.str: name for name, dtype in DTYPES.items()}
"""The protocol's name of an array's data type, by numpy's."""

_ONNX_NAMES = {"FP16": "float16", "FP32": "float", "FP64": "double", "BYTES": "string"}

ONNX_TYPES: Mapping[str, str] = {f"tensor({_ONNX_NAMES.get(name, name.lower())})": name for name in DTYPES}
"""The protocol's name of a data type, by ONNX Runtime's."""
