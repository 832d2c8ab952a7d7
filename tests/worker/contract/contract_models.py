"""The models of the contract tests: small, seeded, each for one kind of trouble."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.worker.protocol import NodeHint

OPSET, IR_VERSION = 17, 8
_RANDOM = np.random.default_rng(0)


def _weight(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(_RANDOM.normal(size=shape).astype(dtype), name)


def _constant(name: str, value: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def _info(name: str, shape: list[int | str], elem: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
    between: list[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "contract", inputs, outputs, weights, value_info=between)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _node(op: str, name: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=name, **attributes)


def mixed(rows: int | str = 4) -> onnx.ModelProto:
    """A Gemm, an RMSNorm, a LayerNormalization, a mask, and shape arithmetic beside them; rows may be dynamic."""
    nodes = [
        _node("Gemm", "gemm", ["x", "w", "b"], ["h"]),
        _node("Relu", "relu", ["h"], ["a"]),
        _node("Pow", "pow", ["a", "two"], ["sq"]),
        _node("ReduceMean", "mean", ["sq"], ["m"], axes=[1], keepdims=1),
        _node("Add", "addeps", ["m", "eps"], ["me"]),
        _node("Sqrt", "sqrt", ["me"], ["root"]),
        _node("Div", "div", ["a", "root"], ["n"]),
        _node("LayerNormalization", "norm", ["n", "scale"], ["l"], axis=-1),
        _node("Greater", "positive", ["l", "zero"], ["mask"]),
        _node("Where", "select", ["mask", "l", "n"], ["s"]),
        _node("Shape", "shape", ["x"], ["dims"]),
        _node("Gather", "gather", ["dims", "first"], ["rows"], axis=0),
        _node("Concat", "target", ["rows", "minus"], ["wanted"], axis=0),
        _node("Reshape", "reshape", ["s", "wanted"], ["r"]),
        _node("Softmax", "softmax", ["r"], ["y"], axis=-1),
    ]
    weights = [
        _weight("w", 8, 6),
        _weight("b", 6),
        _weight("scale", 6),
        _constant("two", 2.0),
        _constant("eps", 1e-3),
        _constant("zero", 0.0),
        _constant("first", [0], np.int64),
        _constant("minus", [-1], np.int64),
    ]
    return _model(nodes, [_info("x", [rows, 8])], [_info("y", [rows, 6])], weights)


def conv() -> onnx.ModelProto:
    """Two convolutions, each with an activation to fuse."""
    nodes = [
        _node("Conv", "conv1", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        _node("Relu", "relu1", ["c1"], ["a1"]),
        _node("Conv", "conv2", ["a1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        _node("Relu", "relu2", ["c2"], ["y"]),
    ]
    weights = [_weight("w1", 4, 3, 3, 3), _weight("w2", 4, 4, 3, 3)]
    return _model(nodes, [_info("x", [1, 3, 6, 6])], [_info("y", [1, 4, 6, 6])], weights)


def quantized() -> onnx.ModelProto:
    """A convolution between Q/DQ pairs."""
    nodes = [
        _node("QuantizeLinear", "q", ["x", "s", "z"], ["xq"]),
        _node("DequantizeLinear", "dq", ["xq", "s", "z"], ["xd"]),
        _node("Conv", "conv", ["xd", "w"], ["c"], pads=[1, 1, 1, 1]),
        _node("Relu", "relu", ["c"], ["y"]),
    ]
    weights = [_constant("s", 0.05), _constant("z", 0, np.int8), _weight("w", 4, 3, 3, 3)]
    return _model(nodes, [_info("x", [1, 3, 6, 6])], [_info("y", [1, 4, 6, 6])], weights)


def typed(elem: int) -> onnx.ModelProto:
    """A strongly typed graph: a product in `elem` with Casts around it, and the sum in FP32 as an island."""
    weight = _RANDOM.normal(size=(8, 6)).astype(np.float32)
    nodes = [
        _node("Cast", "down", ["x"], ["xl"], to=elem),
        _node("MatMul", "product", ["xl", "w"], ["p"]),
        _node("Relu", "relu", ["p"], ["a"]),
        _node("Cast", "up", ["a"], ["af"], to=TensorProto.FLOAT),
        _node("Add", "island", ["af", "b"], ["y"]),
    ]
    weights = [
        helper.make_tensor("w", elem, (8, 6), weight.flatten().tolist()),
        _weight("b", 6),
    ]
    return _model(nodes, [_info("x", [4, 8])], [_info("y", [4, 6])], weights)


def branches() -> onnx.ModelProto:
    """An If and a Loop, with tensors inside that nobody may mark."""
    yes = helper.make_graph(
        [_node("Relu", "then_relu", ["x"], ["then_out"])], "then", [], [_info("then_out", [2, 3])]
    )
    no = helper.make_graph(
        [
            _node("Tanh", "else_tanh", ["x"], ["else_mid"]),
            _node("Abs", "else_abs", ["else_mid"], ["else_out"]),
        ],
        "else",
        [],
        [_info("else_out", [2, 3])],
    )
    body = helper.make_graph(
        [
            _node("Mul", "body_mul", ["state", "half"], ["scaled"]),
            _node("Add", "body_add", ["scaled", "half"], ["next"]),
            _node("Identity", "body_go", ["go_in"], ["go_out"]),
        ],
        "body",
        [_info("i", [], TensorProto.INT64), _info("go_in", [], TensorProto.BOOL), _info("state", [2, 3])],
        [_info("go_out", [], TensorProto.BOOL), _info("next", [2, 3])],
    )
    nodes = [
        _node("If", "choice", ["flag"], ["chosen"], then_branch=yes, else_branch=no),
        _node("Loop", "loop", ["trips", "", "chosen"], ["looped"], body=body),
        _node("Relu", "end", ["looped"], ["y"]),
    ]
    weights = [_constant("half", 0.5), _constant("trips", 3, np.int64)]
    inputs = [_info("x", [2, 3]), _info("flag", [], TensorProto.BOOL)]
    between = [_info("chosen", [2, 3]), _info("looped", [2, 3])]
    return _model(nodes, inputs, [_info("y", [2, 3])], weights, between)


def data_dependent() -> onnx.ModelProto:
    """An output whose shape depends on data, and an int64 input."""
    nodes = [
        _node("Gather", "pick", ["x", "index"], ["g"], axis=0),
        _node("Relu", "relu", ["g"], ["a"]),
        _node("NonZero", "nonzero", ["a"], ["found"]),
    ]
    inputs = [_info("x", [4, 3]), _info("index", [2], TensorProto.INT64)]
    return _model(nodes, inputs, [_info("a", [2, 3]), _info("found", [2, "n"], TensorProto.INT64)], [])


def unsupported() -> onnx.ModelProto:
    """An operator that TensorRT does not have."""
    nodes = [_node("Relu", "relu", ["x"], ["a"]), _node("Det", "determinant", ["a"], ["y"])]
    return _model(nodes, [_info("x", [2, 2])], [_info("y", [])], [])


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mixed": mixed,
    "dynamic": lambda: mixed("n"),
    "conv": conv,
    "quantized": quantized,
    "typed-fp16": lambda: typed(TensorProto.FLOAT16),
    "typed-bf16": lambda: typed(TensorProto.BFLOAT16),
    "branches": branches,
    "data-dependent": data_dependent,
    "unsupported": unsupported,
}


def write_all(folder: Path) -> dict[str, Path]:
    """Write every model; name → path."""
    paths = {name: folder / f"{name}.onnx" for name in MODELS}
    for name, path in paths.items():
        onnx.save(MODELS[name](), path)
    return paths


def hints(path: Path) -> tuple[NodeHint, ...]:
    """What the host tells the worker of the nodes."""
    return tuple(
        NodeHint(node.name, node.op_type, tuple(name for name in node.output if name))
        for node in onnx.load(path).graph.node
    )
