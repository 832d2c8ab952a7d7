"""Normalisations and GELUs in primitives: the one operator that a compiler knows, and computes inside in FP32.

Exporters write them in many ways: 1/√ as Reciprocal, Div or Pow, the half of a GELU in any place. So they are known by
what they compute and not by how: what follows from one tensor and constants alone is computed on a sample, and a
tensor that holds the operator's values there is replaced by the operator. The proof has the last word.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.applying import with_shapes
from harness.conversion.cures.building import Inapplicable, constant_of, known_sizes, rank
from harness.conversion.cures.cure import Transformed
from harness.model import Model, add_constant, own_type

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_REDUCED: dict[str, Callable[..., np.ndarray]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda values, **axes: np.sum(values * values, **axes),
    "ReduceL2": lambda values, **axes: np.sqrt(np.sum(values * values, **axes)),
}
_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Cast": np.positive,
    "Div": np.divide,
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Identity": np.positive,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tanh": np.tanh,
}
_MOST_NODES = 24
_FARTHEST = 7
"""Nodes between what is normalised, or activated, and its ReduceMean, Erf or Tanh."""
_MOST_VALUES = 1 << 22
_MOST_ERFS = 1 << 12
_LARGEST_EPSILON = 0.1
_GRID = np.linspace(-5, 5, 101)


@dataclass(frozen=True)
class _Found:
    """An operator in primitives.

    Args:
        value: what it writes.
        source: what it reads.
        operator: its type.
        attributes: those of the operator.
        constants: what it reads besides.
    """

    value: ir.Value
    source: ir.Value
    operator: str
    attributes: dict[str, int | float | str]
    constants: tuple[np.ndarray, ...] = ()


@dataclass
class _Sample:
    """What follows from one tensor and constants alone, on a sample of it.

    Args:
        values: by tensor, in the order in which they are computed.
        constants: those that were read.
    """

    values: dict[ir.Value, np.ndarray]
    constants: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, source: ir.Value, sample: np.ndarray) -> _Sample:
        """Compute on from `source`."""
        found = cls({source: sample})
        waiting = deque(source.uses())
        with np.errstate(all="ignore"):
            while waiting and len(found.values) < _MOST_NODES:
                node, _ = waiting.popleft()
                if node.outputs[0] not in found.values and found._compute(node):
                    waiting.extend(node.outputs[0].uses())
        return found

    def _compute(self, node: ir.Node) -> bool:
        computed = _ELEMENTWISE.get(node.op_type)
        if (
            node.domain
            or (computed is None and node.op_type not in _REDUCED)
            or node.outputs[0].dtype not in FLOATS
        ):
            return False
        try:
            if computed is None:
                axes, keepdims = _axes(node), bool(node.attributes.get_int("keepdims", 1))
                made = _REDUCED[node.op_type](self._read(node, 0), axis=axes, keepdims=keepdims)
            else:
                read = [self._read(node, index) for index in range(len(node.inputs))]
                if (
                    node.op_type == "Erf" and read[0].size > _MOST_ERFS
                ):  # one by one: not for what is normalised
                    return False
                made = computed(*(each.astype(np.float64) for each in read))
        except (Inapplicable, ValueError):  # it reads something else, or other sizes
            return False
        self.values[node.outputs[0]] = made
        return True

    def _read(self, node: ir.Node, index: int) -> np.ndarray:
        value = node.inputs[index]
        if value is not None and value in self.values:
            return self.values[value]
        constant = constant_of(node, index)
        if constant is None:
            raise Inapplicable("it reads something else")
        self.constants.append(constant)
        return constant


def layer_norms(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """LayerNormalization for (x − mean) / √(variance + ε), with its scale and its bias."""
    return _replaced(model, _REDUCED, lambda node: _norms(node, centred=True))


def rms_norms(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """RMSNormalization for x / √(mean of squares + ε), with its scale."""
    return _replaced(model, _REDUCED, lambda node: _norms(node, centred=False))


def gelus(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """Gelu for x/2 · (1 + erf(x/√2)), and for its approximation by tanh."""
    return _replaced(model, ("Erf", "Tanh"), _gelus)


def affine_norms(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """The factor and the summand behind a LayerNormalization within it."""
    return _replaced(model, ("LayerNormalization",), _affine)


def _replaced(
    model: Model, operators: Collection[str], find: Callable[[ir.Node], Iterator[_Found]]
) -> Transformed | None:
    graph = with_shapes(model)
    names, reasons = [], []
    for node in list(graph.graph):
        if node.op_type not in operators or node.graph is None:
            continue
        try:
            found = next(find(node), None)
        except Inapplicable as reason:
            reasons.append(str(reason))
            continue
        if found is not None:
            names.append(_replace(graph.graph, found))
    if not names and reasons:
        raise Inapplicable(reasons[0])
    return Transformed(graph, tuple(names)) if names else None


def _replace(graph: ir.Graph, found: _Found) -> str:
    last = found.value.producer()
    assert last is not None
    dtype = found.source.dtype
    assert dtype is not None  # it is one of FLOATS
    constants = [
        add_constant(graph, f"{last.name}/constant_{index}", each.astype(dtype.numpy()))
        for index, each in enumerate(found.constants)
    ]
    made = ir.node(
        found.operator, [found.source, *constants], found.attributes, name=f"{last.name}/{found.operator}"
    )
    made.outputs[0].type, made.outputs[0].shape = own_type(found.value), found.value.shape
    ir.convenience.replace_nodes_and_values(graph, last, [last], [made], [found.value], made.outputs)
    return str(last.name)


def _sources(node: ir.Node) -> Iterator[ir.Value]:
    """What `node` may be computed from, the nearest first."""
    waiting, seen = deque((value, 0) for value in node.inputs[:1]), set()
    while waiting:
        value, steps = waiting.popleft()
        if value is None or value in seen or ir.convenience.get_const_tensor(value) is not None:
            continue
        seen.add(value)
        if value.dtype in FLOATS:
            yield value
        writer = value.producer()
        if writer is not None and steps < _FARTHEST and writer.op_type in _ELEMENTWISE:
            waiting.extend((each, steps + 1) for each in writer.inputs)


def _gelus(node: ir.Node) -> Iterator[_Found]:
    exact = node.op_type == "Erf"
    inner = (
        _ELEMENTWISE["Erf"](_GRID / math.sqrt(2))
        if exact
        else np.tanh(math.sqrt(2 / math.pi) * (_GRID + 0.044715 * _GRID**3))
    )
    wanted = _GRID / 2 * (1 + inner)
    for source in _sources(node):
        sample = _Sample.of(source, _GRID)
        if node.outputs[0] in sample.values:
            for value, values in sample.values.items():
                if value.dtype == source.dtype and _same(values, wanted, source):
                    attributes: dict[str, int | float | str] = {"approximate": "none" if exact else "tanh"}
                    yield _Found(value, source, "Gelu", attributes)


def _norms(node: ir.Node, *, centred: bool) -> Iterator[_Found]:
    source = node.inputs[0]
    if source is None or source.shape is None or source.dtype not in FLOATS:
        return
    axes = _axes(node)
    first, count = min(axes, default=0), rank(source)
    if list(axes) != list(range(first, count)):
        return
    for each in _sources(node):
        if each.shape is None or rank(each) != count:
            continue
        sizes = known_sizes(each, first)
        if math.prod(sizes) << first > _MOST_VALUES:
            return
        drawn = np.random.default_rng(0).normal(0.5, 2.0, (2,) * first + tuple(sizes))
        sample = _Sample.of(each, drawn)
        if node.outputs[0] in sample.values:
            yield from _normalised(each, sample, first, sizes, centred=centred)


def _normalised(
    source: ir.Value, sample: _Sample, first: int, sizes: Sequence[int], *, centred: bool
) -> Iterator[_Found]:
    drawn, over = sample.values[source], tuple(range(first, first + len(sizes)))
    if centred:
        drawn = drawn - drawn.mean(over, keepdims=True)
    power = np.square(drawn).mean(over, keepdims=True)
    numbers = {float(each.reshape(-1)[0]) for each in sample.constants if each.size == 1}
    shaped = [each.astype(np.float64).reshape(sizes) for each in sample.constants if _is_of(each, sizes)]
    scales, biases = [np.ones(sizes), *shaped], [np.zeros(sizes), *(shaped if centred else ())]
    for value, values in reversed(sample.values.items()):
        if value.dtype != source.dtype or values.shape != drawn.shape:
            continue
        for epsilon in sorted(number for number in numbers if 0 < number < _LARGEST_EPSILON):
            normalised = drawn / np.sqrt(power + epsilon)
            for scale, bias in itertools.product(scales, biases):
                if _same(values, normalised * scale + bias, source):
                    constants = (scale, bias) if centred and np.any(bias) else (scale,)
                    operator = "LayerNormalization" if centred else "RMSNormalization"
                    yield _Found(value, source, operator, {"axis": first, "epsilon": epsilon}, constants)


def _affine(node: ir.Node) -> Iterator[_Found]:
    """A product with a scale, or a sum with a bias, behind a normalisation that lacks it."""
    source, scale, bias = node.inputs[0], constant_of(node, 1), constant_of(node, 2)
    if (
        source is None
        or scale is None
        or len(node.outputs[0].uses()) != 1
        or node.outputs[0].is_graph_output()
    ):
        return
    ((reader, index),) = node.outputs[0].uses()
    other = constant_of(reader, 1 - index) if reader.op_type in ("Mul", "Add") else None
    if other is None or (len(node.inputs) > 2 and bias is None):
        return
    if not _is_of(other, scale.shape):
        raise Inapplicable("what stands behind it has not the shape of the scale")
    other = other.reshape(scale.shape).astype(np.float64)
    before = np.zeros(scale.shape) if bias is None else bias.astype(np.float64)
    factor, summand = (other, 0.0) if reader.op_type == "Mul" else (1.0, other)
    joined = before * factor + summand
    constants = (scale * factor, joined) if np.any(joined) else (scale * factor,)
    attributes = {name: each.value for name, each in node.attributes.items()}
    yield _Found(reader.outputs[0], source, "LayerNormalization", attributes, constants)


def _is_of(array: np.ndarray, sizes: Sequence[int]) -> bool:
    """Whether a constant has the shape of what is normalised, be it with axes of size 1 in front."""
    return array.shape[-len(sizes) :] == tuple(sizes) and array.size == math.prod(sizes)


def _same(values: np.ndarray, wanted: np.ndarray, source: ir.Value) -> bool:
    """Whether they are but for the rounding of constants."""
    allowed = 1e-4 if source.dtype == ir.DataType.FLOAT else 4e-3
    return values.shape == wanted.shape and bool(
        np.abs(values - wanted).max() <= allowed * np.abs(wanted).max()
    )


def _axes(node: ir.Node) -> tuple[int, ...]:
    """The axes of a reduction, counted from the front.

    Raises:
        Inapplicable: they are not constant, or the rank is unknown.
    """
    value = node.inputs[0]
    assert value is not None
    axes = node.attributes.get_ints("axes")
    if axes is None and len(node.inputs) > 1:
        constant = constant_of(node, 1)
        axes = None if constant is None else [int(axis) for axis in constant.reshape(-1)]
    if not axes:
        raise Inapplicable("the axes of a mean are not constant")
    return tuple(sorted(axis % rank(value) for axis in axes))
