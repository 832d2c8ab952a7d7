"""Normalizations that are written out, and those and Dropout that were exported for training."""

import numpy as np
import onnx_ir as ir

from harness.compiler.facts import RTX, FindingKind, Releases
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import GraphView, NodeView, shape_of
from harness.model import Model
from harness.worker.protocol import TENSORRT

_LARGEST_EPSILON = 0.1


def _trains(node: NodeView) -> bool:
    return node.attribute("training_mode") == 1 or len(node.used) > 1


def _drops(node: NodeView) -> bool:
    if node.value(2) is None:
        return False
    mode = node.constant(2)
    return mode is None or bool(mode.any())


def _is_written_out(node: NodeView) -> bool:
    """√(ReduceMean(square) + epsilon), or 1 over it, as a power or not: of a normalization in primitives."""
    if node.op == "Pow":
        exponent = node.constant(1)
        if exponent is None or not np.all(np.abs(exponent) == 0.5):
            return False
    mean = _mean(node)
    squared = None if mean is None else _writer(mean.inputs[0])
    return squared is not None and squared.op_type in ("Pow", "Mul")


NORM_OPSETS = {"LayerNormalization": 17, "RMSNormalization": 23}
"""The operators that a normalization in primitives may be, and since which operator set there are."""


def written_out_norms(model: Model) -> dict[str, str]:
    """The operator that a normalization in primitives is the same as, by the name of each node from square to root."""
    found = {}
    for node in GraphView(model).nodes:
        if node.op in ("Sqrt", "Pow") and _is_written_out(node) and not _difference(node):
            mean, total, square = _mean(node), _total(node), _square(node)
            names = [str(each.name) for each in (square, mean, total, node.node) if each is not None]
            found.update(dict.fromkeys(names, _operator(node)))
    return found


def _operator(node: NodeView) -> str:
    return "LayerNormalization" if _is_centred(_square(node).inputs[0]) else "RMSNormalization"


def _instead(node: NodeView) -> str:
    """Which operator is the same as a normalization in primitives, or why none is."""
    difference = _difference(node)
    if difference:
        return f"it is neither LayerNormalization nor RMSNormalization, for {difference}: keep its squares in FP32"
    operator = _operator(node)
    opset = NORM_OPSETS[operator]
    return f"export it as {operator}, at opset {opset} or later; `harness check --fix` writes that, too"


def _difference(node: NodeView) -> str:
    """What distinguishes it from both operators; empty where nothing does."""
    mean, total, square = _mean(node), _total(node), _square(node)
    assert mean is not None
    assert total is not None
    source, other = square.inputs[:2]
    assert source is not None
    exponent = _number(other) if square.op_type == "Pow" else None
    if (square.op_type == "Mul" and other is not source) or (square.op_type == "Pow" and exponent != 2):
        return "what it averages is no square"
    shape, axes = shape_of(source), _axes(mean)
    if shape is None or axes is None:
        return "the axes of its mean are not known"
    last = sorted(axis % len(shape) for axis in axes)
    if last != list(range(last[0], len(shape))):
        return f"its mean is over {_axes_text(last)} of {len(shape)}, and not over the last ones"
    if None in shape[last[0] :]:
        return "the size of an axis that it averages over is known at run time only"
    epsilons = [number for value in total.inputs if (number := _number(value)) is not None]
    if not any(0 < number < _LARGEST_EPSILON for number in epsilons):
        return f"its epsilon is no constant between 0 and {_LARGEST_EPSILON}"
    if not _divides(node, source):
        return "what it divides is not what it squares"
    return ""


def _axes_text(axes: list[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"


def _writer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _total(node: NodeView) -> ir.Node | None:
    """The sum of the mean and epsilon under a root."""
    total = _writer(node.value(0))
    if total is not None and total.op_type == "Reciprocal":
        total = _writer(total.inputs[0])
    return total if total is not None and total.op_type == "Add" else None


def _mean(node: NodeView) -> ir.Node | None:
    total = _total(node)
    writers = [] if total is None else [_writer(value) for value in total.inputs]
    return next((each for each in writers if each is not None and each.op_type == "ReduceMean"), None)


def _square(node: NodeView) -> ir.Node:
    """What writes the squares that are averaged."""
    mean = _mean(node)
    square = None if mean is None else _writer(mean.inputs[0])
    assert square is not None, "it is written out"
    return square


def _number(value: ir.Value | None) -> float | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.size != 1 else float(tensor.numpy().reshape(()))


def _axes(mean: ir.Node) -> tuple[int, ...] | None:
    axes = mean.attributes.get_ints("axes")
    if axes is None and len(mean.inputs) > 1 and mean.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(mean.inputs[1])
        axes = None if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]
    return tuple(axes) if axes else None


def _is_centred(value: ir.Value | None) -> bool:
    """Whether its mean was taken from it."""
    node = _writer(value)
    if node is None or node.op_type != "Sub":
        return False
    mean = _writer(node.inputs[1])
    return mean is not None and mean.op_type == "ReduceMean" and mean.inputs[0] is node.inputs[0]


def _divides(node: NodeView, source: ir.Value) -> bool:
    """Whether `source`, scaled or cast, is divided by a root, or multiplied by 1 over it."""
    exponent = node.constant(1) if node.op == "Pow" else None
    under = _writer(node.value(0))
    inverted = (under is not None and under.op_type == "Reciprocal") != bool(
        exponent is not None and np.all(exponent < 0)
    )
    waiting = [(node.node.outputs[0], inverted)]
    while waiting:
        value, inverted = waiting.pop()
        for reader, place in value.uses():
            op, others = reader.op_type, [each for each in reader.inputs if each is not value]
            if op not in ("Cast", "Div", "Mul", "Reciprocal"):
                continue
            if any(_is_scaled(each, source) for each in others):
                if inverted == (op == "Mul") and (op == "Mul" or place == 1):
                    return True
            elif all(map(_is_constant, others)):
                flips = op == "Reciprocal" or (op == "Div" and place == 1)
                waiting.append((reader.outputs[0], inverted != flips))
    return False


def _is_scaled(value: ir.Value | None, source: ir.Value) -> bool:
    """Whether a value is `source`, cast or times a constant, or computed from the same in the same way."""
    if value is None or value is source:
        return value is source
    node, other = value.producer(), source.producer()
    if node is None:
        return False
    if other is not None and node.op_type == other.op_type == "Sub" and node.inputs == other.inputs:
        return True
    if node.op_type == "Cast":
        return _is_scaled(node.inputs[0], source)
    return node.op_type == "Mul" and any(
        _is_constant(one) and _is_scaled(two, source) for one, two in (node.inputs, reversed(node.inputs))
    )


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


RULES = (
    Rule(
        "layernorm-decomposed",
        FindingKind.IMPROVABLE,
        ("Sqrt", "Pow"),
        _is_written_out,
        "a normalization written in primitives squares in the precision under test, and overflows there first",
        "measured on an H200 with TensorRT for RTX 1.4 and 1.6: LayerNormalization computes inside in FP32",
        "export where it is one operator: LayerNormalization from opset 17 on, RMSNormalization from 23 on",
        (RTX, Releases(TENSORRT, "8.6")),
        hint=_instead,
    ),
    Rule(
        "layernorm-outputs",
        FindingKind.REFUSED,
        ("LayerNormalization",),
        lambda node: len(node.node.outputs) > 1,
        "only the first output is supported",
        MEASURED_AND_DOCUMENTED,
        "drop the outputs Mean and InvStdDev, or write the normalization out where they are read",
        ALSO_TENSORRT,
    ),
    Rule(
        "batchnorm-training",
        FindingKind.REFUSED,
        ("BatchNormalization",),
        _trains,
        "batch normalization in training mode is not supported",
        MEASURED,
        "export with model.eval()",
    ),
    Rule(
        "dropout-training",
        FindingKind.REFUSED,
        ("Dropout",),
        _drops,
        "training_mode must be a constant false",
        MEASURED_AND_DOCUMENTED,
        "export with model.eval()",
        ALSO_TENSORRT,
    ),
)
