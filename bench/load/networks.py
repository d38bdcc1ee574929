"""The measured networks: ONNX files with fixed random weights, in a server's folder layout."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

CNN_SHAPE = (3, 32, 32)
IMAGE_SHAPE = (3, 224, 224)


def mlp(sizes: Sequence[int]) -> onnx.ModelProto:
    """A ReLU network with these layer sizes, input [N, sizes[0]] to logits [N, sizes[-1]]."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], {}, "input"
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        last = layer == len(sizes) - 2
        weights[f"w{layer}"] = rng.normal(0, fan_in**-0.5, (fan_in, fan_out))
        weights[f"b{layer}"] = rng.normal(0, 0.1, fan_out)
        name = "logits" if last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [name]))
        if not last:
            value = f"a{layer}"
            nodes.append(helper.make_node("Relu", [name], [value]))
    return _model(nodes, [sizes[0]], sizes[-1], weights)


def cnn(channels: int = 40, blocks: int = 3) -> onnx.ModelProto:
    """A residual network of 3x3 convolutions, about a millisecond a row on one core, input [N, 3, 32, 32] to logits [N, 10]."""
    rng = np.random.default_rng(0)
    weights = {"stem": rng.normal(0, 0.2, (channels, CNN_SHAPE[0], 3, 3))}
    nodes = [_convolution("input", "stem", "x0")]
    for block in range(blocks):
        for half in (0, 1):
            weights[f"k{block}.{half}"] = rng.normal(0, (channels * 9) ** -0.5, (channels, channels, 3, 3))
        nodes += [
            _convolution(f"x{block}", f"k{block}.0", f"m{block}"),
            helper.make_node("Relu", [f"m{block}"], [f"r{block}"]),
            _convolution(f"r{block}", f"k{block}.1", f"s{block}"),
            helper.make_node("Add", [f"x{block}", f"s{block}"], [f"t{block}"]),
            helper.make_node("Relu", [f"t{block}"], [f"x{block + 1}"]),
        ]
    weights |= {"w": rng.normal(0, channels**-0.5, (channels, 10)), "b": rng.normal(0, 0.1, 10)}
    nodes += _pooled(f"x{blocks}")
    return _model(nodes, CNN_SHAPE, 10, weights)


def image() -> onnx.ModelProto:
    """Almost no arithmetic for a large input: the mean of each channel, [N, 3, 224, 224] to logits [N, 10]."""
    rng = np.random.default_rng(0)
    return _model(_pooled("input"), IMAGE_SHAPE, 10, {"w": rng.normal(size=(3, 10)), "b": rng.normal(size=10)})


def resnet50(*, half: bool = False, size: int = 224, width: int = 64, classes: int = 1000) -> onnx.ModelProto:
    """A network of ResNet-50's shape, its batch normalisation folded into the convolutions, and random weights.

    Args:
        half: whether it computes in half precision; input and logits are single either way.
        size: of the image's sides: input [N, 3, size, size], pixels from 0 to 255.
        width: channels of the first stage; 64 in a ResNet-50.
        classes: logits are [N, classes].
    """
    rng = np.random.default_rng(0)
    dtype, element = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    weights: dict[str, Array] = {"scale": np.array(1 / 127.5), "shift": np.array(-1.0)}
    nodes = [
        helper.make_node("Cast", ["input"], ["given"], to=element),
        helper.make_node("Mul", ["given", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["pixels"]),
    ]

    def convolved(value: str, name: str, fan_in: int, fan_out: int, kernel: int, stride: int, gain: float) -> str:
        weights[f"{name}.k"] = rng.normal(
            0, gain * (2 / (fan_in * kernel**2)) ** 0.5, (fan_out, fan_in, kernel, kernel)
        )
        weights[f"{name}.b"] = rng.normal(0, 0.01, fan_out)
        pads, strides = [kernel // 2] * 4, [stride] * 2
        nodes.append(helper.make_node("Conv", [value, f"{name}.k", f"{name}.b"], [name], pads=pads, strides=strides))
        return name

    def relu(value: str) -> str:
        nodes.append(helper.make_node("Relu", [value], [f"{value}.relu"]))
        return f"{value}.relu"

    value, channels = relu(convolved("pixels", "stem", 3, width, 7, 2, 1.0)), width
    nodes.append(helper.make_node("MaxPool", [value], ["pooled"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    value = "pooled"
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for block in range(blocks):
            name, stride = f"s{stage}.{block}", 2 if stage and not block else 1
            middle = relu(convolved(value, f"{name}.0", channels, inner, 1, 1, 1.0))
            middle = relu(convolved(middle, f"{name}.1", inner, inner, 3, stride, 1.0))
            # The sum of a block's branches would double from block to block, and overflow half precision.
            end = convolved(middle, f"{name}.2", inner, 4 * inner, 1, 1, 0.3)
            if not block:
                value = convolved(value, f"{name}.skip", channels, 4 * inner, 1, stride, 0.7)
            nodes.append(helper.make_node("Add", [value, end], [f"{name}.sum"]))
            value, channels = relu(f"{name}.sum"), 4 * inner
    weights |= {"w": rng.normal(0, channels**-0.5, (channels, classes)), "b": rng.normal(0, 0.1, classes)}
    *pooling, last = _pooled(value)
    last.output[0] = "scores"
    nodes += [*pooling, last, helper.make_node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT)]
    return _model(nodes, [3, size, size], classes, weights, dtype=dtype)


def bert(
    *, half: bool = False, layers: int = 12, width: int = 768, heads: int = 12, vocabulary: int = 30522
) -> onnx.ModelProto:
    """A transformer encoder of BERT-base's shape with random weights, over texts of any length up to 512 tokens.

    Inputs `input_ids` and `attention_mask`, INT64 [N, T]; logits [N, 2] of the first token, in single precision.

    Args:
        half: whether it computes in half precision.
        layers: of the encoder.
        width: of a token.
        heads: of attention; `width` is a multiple of them.
        vocabulary: how many tokens there are.
    """
    rng = np.random.default_rng(0)
    dtype = np.float16 if half else np.float32
    constants: dict[str, Array] = {
        "tokens": rng.normal(0, 1, (vocabulary, width)).astype(dtype),
        "positions": rng.normal(0, 0.2, (512, width)).astype(dtype),
        "one": np.array(1, dtype),
        "hidden": np.array(-1e4, dtype),
        "scale": np.array((width // heads) ** -0.5, dtype),
        "zero": np.array([0]),
        "first": np.array(0),
        "axes": np.array([1, 2]),
        "split": np.array([0, 0, heads, width // heads]),
        "joined": np.array([0, 0, width]),
    }
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["positions", "zero", "length", "zero"], ["places"]),
        helper.make_node("Gather", ["tokens", "input_ids"], ["words"]),
        helper.make_node("Add", ["words", "places"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
        helper.make_node("Sub", ["one", "seen"], ["unseen"]),
        helper.make_node("Mul", ["unseen", "hidden"], ["masked"]),
        helper.make_node("Unsqueeze", ["masked", "axes"], ["mask"]),
    ]

    def node(kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def dense(value: str, name: str, fan_in: int, fan_out: int) -> str:
        constants[f"{name}.w"] = rng.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(dtype)
        constants[f"{name}.b"] = rng.normal(0, 0.02, fan_out).astype(dtype)
        return node("Add", name, node("MatMul", f"{name}.product", value, f"{name}.w"), f"{name}.b")

    def normed(value: str, name: str) -> str:
        constants[f"{name}.g"], constants[f"{name}.b"] = np.ones(width, dtype), np.zeros(width, dtype)
        return node("LayerNormalization", name, value, f"{name}.g", f"{name}.b", axis=-1, epsilon=1e-5)

    value = normed("embedded", "norm")
    for layer in range(layers):
        at = f"l{layer}"
        parts = {}
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            apart = node("Reshape", f"{at}.{part}.heads", dense(value, f"{at}.{part}", width, width), "split")
            parts[part] = node("Transpose", f"{at}.{part}.t", apart, perm=order)
        scores = node("Mul", f"{at}.scaled", node("MatMul", f"{at}.scores", parts["q"], parts["k"]), "scale")
        weights = node("Softmax", f"{at}.weights", node("Add", f"{at}.visible", scores, "mask"), axis=-1)
        mixed = node(
            "Transpose", f"{at}.mixed.t", node("MatMul", f"{at}.mixed", weights, parts["v"]), perm=[0, 2, 1, 3]
        )
        answer = dense(node("Reshape", f"{at}.joined", mixed, "joined"), f"{at}.out", width, width)
        value = normed(node("Add", f"{at}.sum", value, answer), f"{at}.norm")
        inner = dense(value, f"{at}.inner", width, 4 * width)
        answer = dense(node("Gelu", f"{at}.gelu", inner), f"{at}.outer", 4 * width, width)
        value = normed(node("Add", f"{at}.sum2", value, answer), f"{at}.norm2")
    scored = dense(node("Gather", "summary", value, "first", axis=1), "classifier", width, 2)
    node("Cast", "logits", scored, to=TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "measured",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    # Gelu is an operator from 20 on.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def first(count: int = 16) -> onnx.ModelProto:
    """A network that reads the first `count` of any number of features, [N, any] to logits [N, 10].

    Its own time does not depend on the size of the message.
    """
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Slice", ["input", "start", "end", "axis"], ["few"]),
        helper.make_node("Gemm", ["few", "w", "b"], ["logits"]),
    ]
    constants = {"start": np.array([0]), "end": np.array([count]), "axis": np.array([1])}
    weights = {"w": rng.normal(size=(count, 10)), "b": rng.normal(size=10)}
    return _model(nodes, ["features"], 10, weights, constants)


def publish(folder: Path, models: Mapping[str, onnx.ModelProto]) -> Path:
    """Lay out models by name as a server's `--models` folder, each as version 1, and return the folder."""
    for name, model in models.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        onnx.save(model, version / "model.onnx")
    return folder


def _convolution(value: str, kernel: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [value, kernel], [name], pads=[1, 1, 1, 1])


def _pooled(value: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("GlobalAveragePool", [value], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]


def _model(
    nodes: Sequence[onnx.NodeProto],
    row: Sequence[int | str],
    classes: int,
    weights: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    dtype: Any = np.float32,
) -> onnx.ModelProto:
    arrays = {name: array.astype(dtype) for name, array in weights.items()} | dict(constants or {})
    graph = helper.make_graph(
        nodes,
        "measured",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *row])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
