"""Networks of one operator with data that it cannot use, and what ONNX Runtime says about it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]

_ML = "ai.onnx.ml"
_ELEMENTS = {
    "x": TensorProto.FLOAT,
    "u": TensorProto.FLOAT,
    "i": TensorProto.INT64,
    "j": TensorProto.INT64,
    "t": TensorProto.STRING,
}


@dataclass(frozen=True)
class Bad:
    """Data that an operator refuses.

    Attributes:
        data: by name of the input.
        rank: the output's; None where it is a sequence.
        words: ONNX Runtime's, without what only its authors can use.
    """

    data: dict[str, Any]
    rank: int | None
    words: str

    @property
    def inputs(self) -> dict[str, Array]:
        """The data as the network takes it."""
        return {
            name: value.astype(np.float32) if _ELEMENTS[name] == TensorProto.FLOAT else value
            for name, value in self.data.items()
        }


BAD = {
    "Gather": Bad({"x": np.zeros((3, 2)), "i": np.array([7])}, 2, "indices element out of data bounds, idx=7 must be within the inclusive range [-3,2]"),
    "GatherElements": Bad({"x": np.zeros((3, 2)), "i": np.array([[7, 0]])}, 2, "GatherElements op: Out of range value in index tensor"),
    "ScatterND": Bad({"x": np.zeros((3, 2)), "i": np.array([[7]]), "u": np.zeros((1, 2))}, 2, "invalid indice found, indice = 7"),
    "Div": Bad({"i": np.array([1]), "j": np.array([0])}, 1, "Integer division by zero"),
    "Mod": Bad({"i": np.array([1]), "j": np.array([0])}, 1, "Integer modulo by zero"),
    "Reshape": Bad({"x": np.zeros((2, 3)), "i": np.array([4, 5])}, 2, "The input tensor cannot be reshaped to the requested shape. Input shape:{2,3}, requested shape:{4,5}"),
    "Expand": Bad({"x": np.zeros((2, 3)), "i": np.array([4, 5])}, 2, "invalid expand shape"),
    "Concat": Bad({"x": np.zeros((2, 3)), "u": np.zeros((2, 4))}, 2, "Non concat axis dimensions must match: Axis 1 has mismatched dimensions of 4 and 3"),
    "Add": Bad({"x": np.zeros(2), "u": np.zeros(3)}, 1, "Attempting to broadcast an axis by a dimension other than 1. 2 by 3"),
    "MatMul": Bad({"x": np.zeros((2, 3)), "u": np.zeros((4, 5))}, 2, "MatMul dimension mismatch"),
    "Tile": Bad({"x": np.zeros(2), "i": np.array([-1])}, 1, "Tile repeat value must be non-negative, got: -1"),
    "TopK": Bad({"x": np.zeros((1, 3)), "i": np.array([9])}, 2, "k argument [9] should not be greater than specified axis dim value [3]"),
    "Squeeze": Bad({"x": np.zeros((3, 2)), "i": np.array([0])}, 1, "Dimension of input 0 must be 1 instead of 3. shape={3,2}"),
    "ConstantOfShape": Bad({"i": np.array([-3])}, 1, "Tensor shape.Size() must be >= 0"),
    "Cast": Bad({"t": np.array(["abc"], object)}, 1, "a text is not a number that fits (stod)"),
    "SplitToSequence": Bad({"x": np.zeros(2), "i": np.array(-9)}, None, "Split should be > 0"),
    "ArgMax": Bad({"x": np.zeros(0)}, 1, "ONNX Runtime gives no reason"),
    "OneHotEncoder": Bad({"t": np.array(["zzz"], object)}, 2, "Unknown Category and zeros = 0."),
    "ArrayFeatureExtractor": Bad({"x": np.zeros((1, 2)), "i": np.array([9])}, 2, "Invalid Y argument: index is out of range: Y[0] (9) must be in [0, 2)"),
    "TreeEnsembleRegressor": Bad({"x": np.zeros((1, 2))}, 2, "One path in the graph requests feature 3 but input tensor has 2 features."),
}  # fmt: skip
"""By operator."""

_TREE = {
    "nodes_falsenodeids": [2, 0, 0], "nodes_featureids": [3, 0, 0], "nodes_hitrates": [1.0] * 3,
    "nodes_missing_value_tracks_true": [0] * 3, "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_nodeids": [0, 1, 2], "nodes_treeids": [0] * 3, "nodes_truenodeids": [1, 0, 0], "nodes_values": [0.5, 0.0, 0.0],
    "target_ids": [0, 0], "target_nodeids": [1, 2], "target_treeids": [0, 0], "target_weights": [1.0, 2.0], "n_targets": 1,
}  # fmt: skip
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Cast": {"to": TensorProto.FLOAT},
    "Concat": {"axis": 0},
    "OneHotEncoder": {"domain": _ML, "cats_strings": ["a"], "zeros": 0},
    "ArrayFeatureExtractor": {"domain": _ML},
    "TreeEnsembleRegressor": {"domain": _ML, **_TREE},
}


def network(operator: str) -> onnx.ModelProto:
    """The operator alone, with free sizes; its first output is `y`."""
    bad = BAD[operator]
    outputs = ["y", "z"] if operator == "TopK" else ["y"]
    node = helper.make_node(operator, list(bad.data), outputs, name=f"the {operator}", **_ATTRIBUTES.get(operator, {}))
    given = [
        helper.make_tensor_value_info(name, _ELEMENTS[name], [f"{name}{axis}" for axis in range(np.ndim(value))])
        for name, value in bad.data.items()
    ]
    element = TensorProto.INT64 if operator in ("ArgMax", "Div", "Mod") else TensorProto.FLOAT
    shown = (
        helper.make_tensor_sequence_value_info("y", element, None)
        if bad.rank is None
        else helper.make_tensor_value_info("y", element, [f"y{axis}" for axis in range(bad.rank)])
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(_ML, 3)]
    return helper.make_model(helper.make_graph([node], "g", given, [shown]), opset_imports=imports, ir_version=9)
