"""The reference: ONNX Runtime alone, in this process, and how an answer is compared with its own."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

Likeness = Literal["equal", "close", "wrong"]
"""Equal in every bit; equal but for the order of a sum, where rows of others were in the batch; neither."""

TOLERANCE = 1e-3
"""How far `close` may be from the reference, as a part of each number and of the largest one."""


class Refused(Exception):
    """ONNX Runtime itself does not load the model, or does not run it on these tensors."""


class Reference:
    """One model in ONNX Runtime, with the options that decide about bits as the server has them with `--threads 1`.

    Args:
        model: the ONNX file, or its path where weights lie beside it.

    Raises:
        Refused: ONNX Runtime does not load it.
    """

    def __init__(self, model: bytes | str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise Refused(str(error)) from error
        self.input_names = tuple(node.name for node in self._session.get_inputs())
        self.output_names = tuple(node.name for node in self._session.get_outputs())

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Every output by name.

        Raises:
            Refused: ONNX Runtime does not run the model on these tensors.
        """
        try:
            arrays = self._session.run(None, dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise Refused(str(error)) from error
        return dict(zip(self.output_names, map(np.asarray, arrays), strict=True))


def likeness(got: Tensors, want: Tensors) -> Likeness:
    """How alike two sets of tensors are; names, element types and shapes must be the same in any case."""
    if not same_form(got, want):
        return "wrong"
    if all(_equal(got[name], want[name]) for name in want):
        return "equal"
    return "close" if all(_close(got[name], want[name]) for name in want) else "wrong"


def same_form(got: Tensors, want: Tensors) -> bool:
    """Whether names, element types and shapes are the same."""
    return set(got) == set(want) and all(
        got[name].dtype == want[name].dtype and got[name].shape == want[name].shape for name in want
    )


def _equal(got: Array, want: Array) -> bool:
    if want.dtype.kind != "f":
        return bool(np.array_equal(got, want))
    # Bytes, not values: -0.0 is not 0.0. A NaN is one, whatever it carries.
    nan = np.isnan(want)
    return bool(np.array_equal(np.isnan(got), nan)) and got[~nan].tobytes() == want[~nan].tobytes()


def _close(got: Array, want: Array) -> bool:
    if want.dtype.kind != "f":
        return bool(np.array_equal(got, want))
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return False
    exact, approximate = want[finite].astype(np.float64), got[finite].astype(np.float64)
    scale = np.abs(exact).max(initial=0.0)
    return bool(np.allclose(approximate, exact, rtol=TOLERANCE, atol=TOLERANCE * scale))
