"""Small graphs for the tests of models and backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str] | None],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    dtypes: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A checked model of float32 inputs and outputs (or the TensorProto types in `dtypes`)."""
    kinds = dtypes or {}
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [
            helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s))
            for n, s in inputs.items()
        ],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def norm_chain(scale: float = 1.0, width: int = 16, opset: int = 13) -> onnx.ModelProto:
    """x·scale, squared, averaged, rooted, divided, times a matrix: an RMSNorm and a projection."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"], name="scaled"),
        helper.make_node("Mul", ["scaled", "scaled"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[-1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["root"], name="root"),
        helper.make_node("Div", ["scaled", "root"], ["norm"], name="norm"),
        helper.make_node("MatMul", ["norm", "w"], ["proj"], name="proj"),
        helper.make_node("Relu", ["proj"], ["relu"], name="relu"),
        helper.make_node("Add", ["relu", "x"], ["y"], name="y"),
    ]
    weights = {
        "scale": np.float32(scale),
        "w": rng.standard_normal((width, width)).astype(np.float32) / np.float32(np.sqrt(width)),
    }
    return graph_model(
        nodes, inputs={"x": ["n", width]}, outputs={"y": ["n", width]}, weights=weights, opset=opset
    )


def own_norm(scale: float, *, returned: str = "y") -> onnx.ModelProto:
    """x of [4, 64] times `scale`, over the root of its mean square, which the file itself takes in float16.

    The part up to `returned`: `wide` is the square back in FP32.
    """
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["big"], name="big"),
        helper.make_node("Cast", ["big"], ["low"], name="low", to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["low", "low"], ["sq"], name="sq"),
        helper.make_node("Cast", ["sq"], ["wide"], name="wide", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["mean"], name="mean", axes=[1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["root"], name="root"),
        helper.make_node("Div", ["big", "root"], ["y"], name="y"),
    ]
    last = [node.name for node in nodes].index(returned)
    return graph_model(
        nodes[: last + 1],
        inputs={"x": [4, 64]},
        outputs={returned: [4, 64]},
        weights={"scale": np.float32(scale)},
    )


def branch_and_loop() -> onnx.ModelProto:
    """An If whose branches square or halve `a`, then a Loop that adds `w` · state three times."""
    then = helper.make_graph(
        [helper.make_node("Mul", ["a", "a"], ["then_sq"], name="then_sq")],
        "then",
        [],
        [helper.make_tensor_value_info("then_sq", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Mul", ["a", "half"], ["else_half"], name="else_half")],
        "else",
        [],
        [helper.make_tensor_value_info("else_half", TensorProto.FLOAT, None)],
    )
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["step"], name="step"),
            helper.make_node("Add", ["step", "state"], ["next"], name="next"),
            helper.make_node("Identity", ["go"], ["still"], name="still"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4, 16]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4, 16]),
        ],
    )
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"], name="a"),
        helper.make_node("ReduceSum", ["a"], ["total"], name="total", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"], name="positive"),
        helper.make_node("If", ["positive"], ["b"], name="choose", then_branch=then, else_branch=other),
        helper.make_node("Loop", ["three", "true", "b"], ["y"], name="loop", body=body),
    ]
    weights = {
        "half": np.float32(0.5),
        "zero": np.float32(0),
        "three": np.int64(3),
        "true": np.bool_(True),
        "w": rng.standard_normal((16, 16)).astype(np.float32) / 8,
    }
    return graph_model(nodes, inputs={"x": [4, 16]}, outputs={"y": [4, 16]}, weights=weights)


def picked_elements(*, summed: bool = False) -> onnx.ModelProto:
    """The elements of x + 2048 that are over 2048, or their number; FP16 knows no number between 2048 and 2050."""
    nodes = [
        helper.make_node("Add", ["x", "base"], ["far"], name="far"),
        helper.make_node("Greater", ["far", "base"], ["over"], name="over"),
        helper.make_node("NonZero", ["over"], ["places"], name="places"),
        helper.make_node("Transpose", ["places"], ["indices"], name="indices"),
        helper.make_node("GatherND", ["far", "indices"], ["picked"], name="picked"),
    ]
    if summed:
        nodes += [
            helper.make_node("Div", ["picked", "base"], ["ones"], name="ones"),
            helper.make_node("ReduceSum", ["ones"], ["number"], name="number", keepdims=0),
        ]
    outputs = {"number": []} if summed else {"picked": ["k"]}
    return graph_model(nodes, inputs={"x": [200]}, outputs=outputs, weights={"base": np.float32(2048)})


def looked_up() -> onnx.ModelProto:
    """A table read at |x| + 700, by way of numbers beyond FP16's largest, and beside it |x| as it is."""
    nodes = [
        helper.make_node("Abs", ["x"], ["size"], name="size"),
        helper.make_node("Add", ["size", "offset"], ["near"], name="near"),
        helper.make_node("Mul", ["near", "hundred"], ["large"], name="large"),
        helper.make_node("Div", ["large", "hundred"], ["bucket"], name="bucket"),
        helper.make_node("Cast", ["bucket"], ["index"], name="index", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["read"], name="read"),
        helper.make_node("Relu", ["read"], ["y"], name="y"),
    ]
    weights = {
        "offset": np.float32(700),
        "hundred": np.float32(100),
        "table": np.random.default_rng(5).random((1000, 4)).astype(np.float32),
    }
    return graph_model(nodes, inputs={"x": [8]}, outputs={"size": [8], "y": [8, 4]}, weights=weights)


def looping(
    body: Sequence[onnx.NodeProto], trips: int, shape: Sequence[int | str], **weights: object
) -> onnx.ModelProto:
    """A Loop over a state of 8 elements that begins as |x| + 700; `body` writes `next`, `still` and `scanned`."""

    def value(name: str, kind: int, shape: Sequence[int] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        list(body),
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, [8]),
        ],
        [
            value("still", TensorProto.BOOL, []),
            value("next", TensorProto.FLOAT, [8]),
            value("scanned", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["size"], name="size"),
        helper.make_node("Add", ["size", "offset"], ["near"], name="near"),
        helper.make_node("Loop", ["trips", "true", "near"], ["last", "y"], name="loop", body=graph),
    ]
    constants = {"offset": np.float32(700), "trips": np.int64(trips), "true": np.bool_(True)}
    constants |= {name: np.asarray(array) for name, array in weights.items()}
    return graph_model(nodes, inputs={"x": [8]}, outputs={"y": shape}, weights=constants)


def halved_until_small() -> onnx.ModelProto:
    """The sums of a state that is halved until its sum is under 1e-8; FP16 rounds it to 0 some steps earlier."""
    body = [
        helper.make_node("Mul", ["state", "half"], ["next"], name="next"),
        helper.make_node("ReduceSum", ["next"], ["scanned"], name="scanned", keepdims=0),
        helper.make_node("Greater", ["scanned", "least"], ["still"], name="still"),
    ]
    return looping(body, 60, ["k"], half=np.float32(0.5), least=np.float32(1e-8))


def looked_up_in_a_loop() -> onnx.ModelProto:
    """`looked_up` in the body of a Loop: with numbers beyond FP16's largest, the Loop fails by itself."""
    body = [
        helper.make_node("Mul", ["state", "hundred"], ["large"], name="large"),
        helper.make_node("Div", ["large", "hundred"], ["bucket"], name="bucket"),
        helper.make_node("Cast", ["bucket"], ["index"], name="index", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["scanned"], name="read"),
        helper.make_node("Identity", ["state"], ["next"], name="next"),
        helper.make_node("Identity", ["go"], ["still"], name="still"),
    ]
    table = np.random.default_rng(5).random((1000, 4)).astype(np.float32)
    return looping(body, 1, [1, 8, 4], hundred=np.float32(100), table=table)


def masked_logits(*, scale: float = 1.0, masked: int = 4) -> onnx.ModelProto:
    """The squares of x · scale over their mean, −inf in the last `masked` of 8 columns."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["h"], name="h"),
        helper.make_node("Mul", ["h", "h"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[-1], keepdims=1),
        helper.make_node("Div", ["sq", "mean"], ["share"], name="share"),
        helper.make_node("Where", ["allowed", "share", "fill"], ["y"], name="y"),
    ]
    weights = {
        "scale": np.float32(scale),
        "fill": np.float32(-np.inf),
        "allowed": np.arange(8) < 8 - masked,
    }
    return graph_model(nodes, inputs={"x": [4, 8]}, outputs={"y": [4, 8]}, weights=weights)
