"""Normalisations and GELUs in primitives: the one operator that a compiler knows, and computes inside in FP32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable, Ops, known_sizes, rank, read

if TYPE_CHECKING:
    from onnxscript.rewriter import RewriterContext

Graph = Callable[..., ir.Value]
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def layer_norm_pattern(op: RewriterContext, x: ir.Value, epsilon: ir.Value) -> ir.Value:
    """(x − mean) / √(variance + ε)."""
    from onnxscript.rewriter.pattern import OrValue

    mean = op.ReduceMean(x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["mean"])
    centred = op.Sub(x, mean)
    squared = OrValue([op.Mul(centred, centred), op.Pow(centred, 2.0)])
    variance = op.ReduceMean(
        squared, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["variance"]
    )
    return _over_root(op, centred, variance, epsilon)


def scaled(pattern: Graph) -> Graph:
    """`pattern` and a product with a scale."""

    def graph(op: RewriterContext, x: ir.Value, epsilon: ir.Value, scale: ir.Value) -> ir.Value:
        found: ir.Value = op.Mul(pattern(op, x, epsilon), scale, _outputs=["out0"])
        return found

    return graph


def rms_norm_pattern(op: RewriterContext, x: ir.Value, epsilon: ir.Value) -> ir.Value:
    """x / √(mean of squares + ε)."""
    from onnxscript.rewriter.pattern import OrValue

    squared = OrValue([op.Mul(x, x), op.Pow(x, 2.0)])
    mean = op.ReduceMean(
        squared, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["variance"]
    )
    return _over_root(op, x, mean, epsilon)


def _over_root(op: RewriterContext, value: ir.Value, variance: ir.Value, epsilon: ir.Value) -> ir.Value:
    from onnxscript.rewriter.pattern import OrValue

    root = op.Sqrt(op.Add(variance, epsilon))
    either: ir.Value = OrValue([op.Div(value, root), op.Mul(value, op.Reciprocal(root))])
    return either


def layer_norm(ops: Ops, node: ir.Node, **bound: ir.Value) -> ir.Value:
    """LayerNormalization over the axes of both means."""
    axis = _axis(bound["x"], bound["mean"], bound["variance"])
    return ops.LayerNormalization(
        bound["x"], _scale(bound, axis), axis=axis, epsilon=_epsilon(bound["epsilon"])
    )


def rms_norm(ops: Ops, node: ir.Node, **bound: ir.Value) -> ir.Value:
    """RMSNormalization over the axes of the mean."""
    axis = _axis(bound["x"], bound["variance"])
    return ops.RMSNormalization(
        bound["x"], _scale(bound, axis), axis=axis, epsilon=_epsilon(bound["epsilon"])
    )


def bias_pattern(op: RewriterContext, x: ir.Value, scale: ir.Value, bias: ir.Value) -> ir.Value:
    """A normalisation without bias, and what is added."""
    normalised = op.LayerNormalization(x, scale, _allow_other_attributes=True, _outputs=["normalised"])
    found: ir.Value = op.Add(normalised, bias, _outputs=["out0"])
    return found


def with_bias(ops: Ops, node: ir.Node, **bound: ir.Value) -> ir.Value:
    """The bias within the normalisation."""
    norm = bound["normalised"].producer()
    assert norm is not None
    bias, scale = bound["bias"], bound["scale"]
    if bias.const_value is None or known_sizes(bias) != known_sizes(scale):
        raise Inapplicable("what is added has not the shape of the scale, or is not constant")
    return ops.LayerNormalization(bound["x"], scale, bias, **dict(norm.attributes))


def gelu_patterns() -> list[Graph]:
    """x/2 · (1 + erf(x/√2)), with the half in each of the places where exporters put it."""

    def one_plus(op: RewriterContext, x: ir.Value, root: ir.Value) -> ir.Value:
        from onnxscript.rewriter.pattern import OrValue

        found: ir.Value = op.Add(op.Erf(OrValue([op.Div(x, root), op.Mul(x, root)])), 1.0)
        return found

    return [
        lambda op, x, root: op.Mul(op.Mul(x, one_plus(op, x, root)), 0.5, _outputs=["out0"]),
        lambda op, x, root: op.Mul(x, op.Mul(one_plus(op, x, root), 0.5), _outputs=["out0"]),
        lambda op, x, root: op.Mul(op.Mul(x, 0.5), one_plus(op, x, root), _outputs=["out0"]),
    ]


def gelu(ops: Ops, node: ir.Node, **bound: ir.Value) -> ir.Value:
    """Gelu."""
    root = _number(bound["root"])
    if not (
        math.isclose(root, math.sqrt(2), rel_tol=1e-3) or math.isclose(root, math.sqrt(0.5), rel_tol=1e-3)
    ):
        raise Inapplicable("its constant is not the root of 2")
    return _gelu(ops, bound["x"], "none")


def tanh_gelu_patterns() -> list[Graph]:
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), with the half in each of its places."""

    def one_plus(op: RewriterContext, x: ir.Value) -> ir.Value:
        from onnxscript.rewriter.pattern import OrValue

        cube = OrValue([op.Pow(x, 3.0), op.Mul(x, op.Mul(x, x))])
        inner = op.Mul(op.Add(x, op.Mul(cube, 0.044715)), math.sqrt(2 / math.pi))
        found: ir.Value = op.Add(op.Tanh(inner), 1.0)
        return found

    return [
        lambda op, x: op.Mul(op.Mul(x, one_plus(op, x)), 0.5, _outputs=["out0"]),
        lambda op, x: op.Mul(x, op.Mul(one_plus(op, x), 0.5), _outputs=["out0"]),
        lambda op, x: op.Mul(op.Mul(x, 0.5), one_plus(op, x), _outputs=["out0"]),
    ]


def tanh_gelu(ops: Ops, node: ir.Node, **bound: ir.Value) -> ir.Value:
    """Gelu, approximated by tanh."""
    return _gelu(ops, bound["x"], "tanh")


def _gelu(ops: Ops, value: ir.Value, approximate: str) -> ir.Value:
    if value.dtype not in FLOATS:
        raise Inapplicable(f"its values are {value.dtype}")
    result: ir.Value = ops.Gelu(value, approximate=approximate)
    return result


def _number(value: ir.Value) -> float:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1:
        raise Inapplicable(f"{value.name} is no constant number")
    return float(np.asarray(tensor.numpy(), np.float64).reshape(()))


def _epsilon(value: ir.Value) -> float:
    return _number(value)


def _axis(value: ir.Value, *means: ir.Value) -> int:
    """The first axis of all means, which are over it and those behind it."""
    if value.dtype not in FLOATS:
        raise Inapplicable(f"its values are {value.dtype}")
    count, found = rank(value), set()
    for mean in means:
        node = mean.producer()
        assert node is not None
        if not node.attributes.get_int("keepdims", 1):
            raise Inapplicable("a mean does not keep its axes")
        axes = node.attributes.get_ints("axes")
        if axes is None and len(node.inputs) > 1:
            tensor = ir.convenience.get_const_tensor(read(node, 1))
            axes = None if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]
        if not axes:
            raise Inapplicable("the axes of a mean are not constant")
        found.add(tuple(sorted(axis % count for axis in axes)))
    (axes, *others) = found
    if others or list(axes) != list(range(axes[0], count)):
        raise Inapplicable("its means are not over the last axes")
    return axes[0]


def _scale(bound: dict[str, ir.Value], axis: int) -> ir.Value:
    scale = bound["scale"]
    if scale.const_value is None or known_sizes(scale) != known_sizes(bound["x"], axis):
        raise Inapplicable("its scale is not constant, or not of the shape of what is normalised")
    return scale
