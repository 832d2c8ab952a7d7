"""Dynamically quantised products with static scales: what an engine computes in INT8 instead of scales at run time.

ONNX Runtime's dynamic quantisation writes DynamicQuantizeLinear, MatMulInteger or ConvInteger, a Cast, and a Mul by
both scales. Here the largest value of each input is taken from samples, and the product becomes one of Q/DQ pairs with
symmetric INT8 scales. That is no equal rewrite: both are roundings of the same product of floats, so both are held
against that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from harness.backends import Reference
from harness.conversion.cures.building import Inapplicable, along, constant_of, given
from harness.conversion.cures.cure import Feeds, Transformed
from harness.model import Model, add_constant

_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_STEPS = 127


@dataclass(frozen=True)
class _Product:
    """One integer product and the nodes around it.

    Args:
        quantizer: the DynamicQuantizeLinear in front.
        node: the product.
        scaled: the Mul that makes floats of it.
        integers: of the weight, around 0; float32.
        steps: their scales, one for each output.
        axis: of the weight, along which the outputs lie.
    """

    quantizer: ir.Node
    node: ir.Node
    scaled: ir.Node
    integers: np.ndarray
    steps: np.ndarray
    axis: int

    @property
    def weight(self) -> np.ndarray:
        """In float32."""
        weight: np.ndarray = self.integers * self.steps.reshape(self.along)
        return weight

    @property
    def along(self) -> list[int]:
        """The shape of what has a value for each output."""
        return along(self.axis, self.integers.ndim)


def static_scales(model: Model, feeds: Sequence[Feeds]) -> Transformed | None:
    """The graph with static scales, that with plain floats, and which samples the scales were not taken from.

    Args:
        model: stays as it is.
        feeds: samples: every other one is calibrated on.

    Raises:
        Inapplicable: there are not two samples, or an input is 0 in all of them.
    """
    graph, plain = model.clone(), model.clone()
    found, floats = _products(graph), _products(plain)
    if not found:
        return None
    if len(feeds) < 2:
        raise Inapplicable("there are not two samples, one to take scales from and one to prove them on")
    seen, unseen = feeds[::2], feeds[1::2]
    scales = _scales(model, found, seen)
    pairs: dict[str, ir.Value] = {}
    for product in found:
        data = str(product.quantizer.inputs[0].name)  # type: ignore[union-attr]
        if data not in pairs:
            pairs[data] = _pair(graph, product.quantizer, scales[data])
        _write(graph, product, pairs[data])
    for product in floats:
        _write(plain, product, None)
    names = tuple(dict.fromkeys(str(each.quantizer.name) for each in found))
    return Transformed(graph, names, plain=plain, unseen=tuple(unseen), calibrated=len(seen))


def _products(graph: ir.Model) -> list[_Product]:
    """The products behind every DynamicQuantizeLinear all of whose readers are such products."""
    found = []
    for quantizer in graph.graph:
        if quantizer.op_type != "DynamicQuantizeLinear" or quantizer.outputs[0].is_graph_output():
            continue
        own = [_product(quantizer, use.node) for use in quantizer.outputs[0].uses()]
        whole = [each for each in own if each is not None]
        if whole and len(whole) == len(own):
            found += whole
    return found


def _product(quantizer: ir.Node, node: ir.Node) -> _Product | None:
    """The product that `node` is, if it reads what `quantizer` writes as dynamic quantisation has it."""
    data, _, shift = quantizer.outputs
    if node.op_type not in _PRODUCTS or node.inputs[0] is not data or given(node, 2) is not shift:
        return None
    weight, zero = constant_of(node, 1), constant_of(node, 3)
    cast = _only_reader(node.outputs[0], "Cast")
    scaled = None if cast is None else _only_reader(cast.outputs[0], "Mul")
    if weight is None or scaled is None or (given(node, 3) is not None and zero is None):
        return None
    assert cast is not None
    other = next((value for value in scaled.inputs if value is not cast.outputs[0]), None)
    scale = _weight_scale(other, quantizer.outputs[1])
    if scale is None or cast.attributes.get_int("to", 0) != int(ir.DataType.FLOAT):
        return None
    axis = 0 if node.op_type == "ConvInteger" else weight.ndim - 1
    shape = along(axis, weight.ndim)
    parts = [np.asarray(each, np.float32).reshape(shape) for each in (0 if zero is None else zero, scale)]
    if any(part.size not in (1, weight.shape[axis]) for part in parts):
        return None
    steps = np.broadcast_to(parts[1].reshape(-1), weight.shape[axis : axis + 1])
    return _Product(quantizer, node, scaled, weight.astype(np.float32) - parts[0], steps, axis)


def _weight_scale(value: ir.Value | None, dynamic: ir.Value) -> np.ndarray | None:
    """The constant in `dynamic · constant`; 1 where it is `dynamic` alone, None where it is something else."""
    if value is dynamic:
        return np.ones((), np.float32)
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Mul" or dynamic not in node.inputs:
        return None
    return constant_of(node, 1 if node.inputs[0] is dynamic else 0)


def _only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].op_type != operator:
        return None
    return readers[0]


def _scales(model: Model, products: Sequence[_Product], samples: Sequence[Feeds]) -> dict[str, np.ndarray]:
    """By tensor: the scale at which no value of the samples saturates."""
    names = list(dict.fromkeys(str(each.quantizer.inputs[0].name) for each in products))  # type: ignore[union-attr]
    reference = Reference(model)
    largest = dict.fromkeys(names, 0.0)
    for sample in samples:
        for name, values in reference.run(sample, names).items():
            largest[name] = max(largest[name], float(np.abs(values).max(initial=0.0)))
    reference.close()
    for name, value in largest.items():
        if not 0 < value < np.inf:
            raise Inapplicable(f"{name!r} is {value:g} at most in the samples: there is no scale for it")
    return {name: np.asarray(value / _STEPS, np.float32) for name, value in largest.items()}


def _pair(graph: ir.Model, quantizer: ir.Node, scale: np.ndarray) -> ir.Value:
    """What `quantizer` reads, quantised with a static scale and dequantised."""
    name = str(quantizer.name)
    step = add_constant(graph.graph, f"{name}/step", scale)
    zero = add_constant(graph.graph, f"{name}/zero", np.zeros((), np.int8))
    quantize = ir.node("QuantizeLinear", [quantizer.inputs[0], step, zero], name=f"{name}/quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], step, zero], name=f"{name}/dequantize")
    graph.graph.insert_before(quantizer, [quantize, dequantize])
    return dequantize.outputs[0]


def _write(graph: ir.Model, product: _Product, data: ir.Value | None) -> None:
    """Replace a product by that of `data` with a weight of Q/DQ; without `data` by one of floats."""
    name, made = str(product.node.name), []
    if data is None:
        weight = add_constant(graph.graph, f"{name}/weight", product.weight)
    else:
        integers, steps = _symmetric(product)
        parts = {"weight": integers, "weight_step": steps, "weight_zero": np.zeros(steps.shape, np.int8)}
        constants = [add_constant(graph.graph, f"{name}/{part}", array) for part, array in parts.items()]
        axis = {"axis": product.axis}
        made.append(ir.node("DequantizeLinear", constants, axis, name=f"{name}/weight_dequantize"))
        weight = made[0].outputs[0]
    read = product.quantizer.inputs[0] if data is None else data
    operator = _PRODUCTS[product.node.op_type]
    made.append(ir.node(operator, [read, weight], dict(product.node.attributes), name=f"{name}/product"))
    graph.graph.insert_before(product.scaled, made)
    old, new = product.scaled.outputs[0], made[-1].outputs[0]
    if old.is_graph_output():
        product.scaled.replace_input_with(0, new)
        product.scaled.replace_input_with(
            1, add_constant(graph.graph, f"{name}/one", np.ones((), np.float32))
        )
    else:
        ir.convenience.replace_all_uses_with(old, new)


def _symmetric(product: _Product) -> tuple[np.ndarray, np.ndarray]:
    """The weight in INT8 with a scale for each output; exact where the integers are that already."""
    if np.abs(product.integers).max(initial=0) <= _STEPS:
        return product.integers.astype(np.int8), np.ascontiguousarray(product.steps)
    others = tuple(each for each in range(product.integers.ndim) if each != product.axis)
    largest = np.abs(product.weight).max(axis=others)
    steps = np.where(largest > 0, largest / _STEPS, 1).astype(np.float32)
    integers = np.rint(product.weight / steps.reshape(product.along)).clip(-_STEPS, _STEPS)
    return integers.astype(np.int8), steps
