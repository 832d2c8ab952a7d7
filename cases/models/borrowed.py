"""Real graphs that come with installed packages, with seeded weights in place of their own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import IR_VERSION, seeded_uniform


def resnet50(*, seed: int = 0) -> onnx.ModelProto:
    """ResNet-50 of the onnx wheel's backend test data (176 nodes, opset 9) with He-initialised weights.

    In the file all weights are constants, made by ConstantOfShape nodes. Here they are initializers: variance
    2 / fan-in for the convolutions (He et al. 2015), batch statistics near 0 and 1, and, as in trained nets,
    a small last batch norm in each residual branch, so that the residual stream stays within a few units.
    Nodes and tensors are named after the weights that they read.
    """
    import onnx.backend.test

    path = Path(onnx.backend.test.__file__).parent / "data" / "light" / "light_resnet50.onnx"
    source = onnx.load(path)
    data = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    nodes = [node for node in source.graph.node if node.op_type != "ConstantOfShape"]
    shapes = {node.output[0]: data[node.input[0]] for node in source.graph.node if node not in nodes}
    weights = {name: _resnet_weight(seed, name, tuple(shape)) for name, shape in shapes.items()}
    used = {name for node in nodes for name in node.input}
    weights |= {name: value for name, value in data.items() if name in used}
    names = {"gpu_0/data_0": "data"}
    names |= {name: name.removeprefix("gpu_0/").removesuffix("_0") for name in weights}
    for node in nodes:
        name = _resnet_name(node, names)
        names |= {node.name: name, node.output[0]: name}
    return _rebuilt(source, nodes, weights, names)


def _resnet_name(node: onnx.NodeProto, names: Mapping[str, str]) -> str:
    match node.op_type:
        case "Conv":
            return names[node.input[1]].removesuffix("_w")
        case "BatchNormalization":
            return names[node.input[1]].removesuffix("_s")
        case "Sum":
            return names[node.input[0]].removesuffix("_branch2c_bn") + "_sum"
        case "Relu":
            return names[node.input[0]] + "_relu"
        case other:
            return other.lower()


def _resnet_weight(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 4:
        return seeded_uniform(seed, name, shape, math.sqrt(2 / math.prod(shape[1:])))
    if len(shape) == 2:
        return seeded_uniform(seed, name, shape, 0.1 * math.sqrt(1 / shape[1]))  # logits of about 1
    if name.endswith("_bn_s_0"):  # scales
        scale = 0.3 if "branch2c" in name else 1.0
        return seeded_uniform(seed, name, shape, 0.1 * scale, scale)
    if name.endswith("_bn_riv_0"):  # running variances
        return seeded_uniform(seed, name, shape, 0.1, 1.0)
    return seeded_uniform(seed, name, shape, 0.1)  # running means and biases


def whisper_encoder(*, seed: int = 0, frames: int = 200) -> onnx.ModelProto:
    """The one-layer Whisper encoder of onnxscript with seeded weights, for an even number of frames.

    The file's graph is for 3000 frames, says opset 18 and needs nothing beyond 17. Its weights are Constant
    nodes, each followed by a CastLike that changes nothing and that older TensorRT releases do not read: here
    they are initializers. So is the batch of 1, which the file reads by a Shape that starts and ends at an axis:
    TensorRT 8 reads all axes there. Nodes are named after the tensors that they write.
    """
    from onnxscript.rewriter.models import _whisper_encoder

    source = _script_model(_whisper_encoder.make_model, lambda name: np.zeros(1, dtype=np.float32))
    constants = {
        n.output[0]: helper.get_node_attr_value(n, "value") for n in source.graph.node if not n.input
    }
    length = frames // 2
    weights, names, nodes = {}, {}, []
    for name, tensor in constants.items():
        if name.startswith("encoder_"):
            weights[name] = _whisper_weight(seed, name, length)
        else:
            value = numpy_helper.to_array(tensor)
            weights[name] = np.where(value == 1500, length, value).astype(value.dtype)
        names[name] = name.replace("1500", str(length))
    for node in source.graph.node:
        if node.op_type == "Shape":
            weights[node.output[0]] = np.ones(1, np.int64)
        elif node.op_type == "CastLike" and node.input[0] in constants:
            names[node.output[0]] = names[node.input[0]]
        elif node.op_type != "Constant":
            names[node.name] = node.output[0]
            nodes.append(node)
    return _rebuilt(
        source, nodes, weights, names, opset=17, shapes=[[1, 80, frames], [1, length, _WHISPER_WIDTH]]
    )


_WHISPER_WIDTH = 384


def _script_model(
    make: Callable[..., onnx.ModelProto], weight: Callable[[str], np.ndarray]
) -> onnx.ModelProto:
    return make(**{name: weight(name) for name in inspect.signature(make).parameters})


def _whisper_weight(seed: int, name: str, length: int) -> np.ndarray:
    width = _WHISPER_WIDTH
    if name.endswith("embed_positions_weight"):
        return seeded_uniform(seed, name, (length, width), 0.5)
    if "layer_norm" in name:
        is_gain = name.endswith("_weight")
        return seeded_uniform(seed, name, (width,), 0.1, 1.0 if is_gain else 0.0)
    hidden = 4 * width if "fc" in name else width
    if name.endswith("_bias"):
        return seeded_uniform(seed, name, (4 * width if "fc1" in name else width,), 0.05)
    shape = {
        "conv1": (width, 80, 3),
        "conv2": (width, width, 3),
        "fc1": (hidden, width),
        "fc2": (width, hidden),
    }.get(name.split("_")[-2], (width, width))
    return seeded_uniform(seed, name, shape, math.sqrt(1 / math.prod(shape[1:])))


def _rebuilt(
    source: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    *,
    opset: int | None = None,
    shapes: list[list[int]] | None = None,
) -> onnx.ModelProto:
    """`source` with these nodes and initializers, and with nodes and tensors renamed by `names`.

    `shapes`, if given, are those of the data inputs and of the outputs, in this order.
    """
    for node in nodes:
        node.name = names.get(node.name, node.name)
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    values = [value for value in source.graph.input if value.name not in weights] + list(source.graph.output)
    if shapes is None:
        shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values]
    infos = [
        helper.make_tensor_value_info(
            names.get(value.name, value.name), value.type.tensor_type.elem_type, shape
        )
        for value, shape in zip(values, shapes, strict=True)
    ]
    count = len(infos) - len(source.graph.output)
    graph = helper.make_graph(
        nodes,
        source.graph.name,
        infos[:count],
        infos[count:],
        [numpy_helper.from_array(value, names.get(name, name)) for name, value in weights.items()],
    )
    version = opset or source.opset_import[0].version
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=IR_VERSION)
