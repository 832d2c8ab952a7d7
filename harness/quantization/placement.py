"""Where Q/DQ pairs go, as TensorRT wants them: before what products read, and before the residual input of an Add.

One pair a tensor serves all that want it. A product's other neighbours (bias, activation, the addition of a residual)
stay float between a DequantizeLinear and the next QuantizeLinear, which TensorRT fuses into the product's kernel: so
the sum of a residual block needs a pair on the branch that the product does not make, and none between product and sum.

What a Concat joins to a tensor that is quantised, and that is quantised elsewhere, too, has a pair in front of the
Concat. The skip of a U-Net is pooled and convolved, and joined again later: with one scale for both, TensorRT for RTX
1.7.1 stores it once, in INT8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from harness.errors import ModelError
from harness.model import Constants, Model, at_opset
from harness.quantization.editing import insert_pair, insert_stored, without
from harness.quantization.pairs import channel_axis, find_pairs
from harness.quantization.types import Format, PairKind, QdqPair, Reader, Scale

PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
WITHIN = 2**0.5
"""Scales that differ by no more become one, the larger: at most that doubles the squares of what rounding errs by."""

Joined = Sequence[tuple[str, str]]
"""Names of pairs, two by two."""


@dataclass(frozen=True)
class PairPlace:
    """A tensor that gets a pair.

    Args:
        tensor: its name.
        kind: weight or activation.
        readers: what reads it quantised.
        channel_axis: of a weight, the axis of its output channels; of one in blocks, the one that is summed over.
    """

    tensor: str
    kind: PairKind
    readers: tuple[Reader, ...]
    channel_axis: int | None = None


def place(model: Model, format: Format, *, exclude: Collection[str] = ()) -> tuple[PairPlace, ...]:
    """Where pairs go in a float model, in the order in which tensors are read.

    Args:
        model: the model.
        format: what tensors are quantised to; INT4 and NVFP4 are for the weights of matrix products alone.
        exclude: names of nodes that stay in float.

    Raises:
        ModelError: nothing can be quantised.
        NothingSelectedError: `exclude` names a node that the model does not have.
    """
    model.check_nodes(sorted(exclude))
    constants = Constants(model.ir)
    wanted: dict[str, list[tuple[Reader, int | None]]] = {}
    for node in model.ir.graph:
        if node.name in exclude or node.domain not in ("", "ai.onnx"):
            continue
        inputs = (
            _block_weight(node, constants) if format.block_size else _inputs(model, node, constants, format)
        )
        for position, axis in inputs:
            value = node.inputs[position]
            assert value is not None
            wanted.setdefault(str(value.name), []).append((Reader(str(node.name), position), axis))
    if not wanted:
        raise ModelError(f"holds nothing that {format} would quantise", where=model.name)
    if not format.block_size:
        for name, reader in _skips(model, frozenset(wanted)):
            wanted.setdefault(name, []).append((reader, None))
    return tuple(
        PairPlace(
            name,
            PairKind.WEIGHT if constants.get(name) is not None else PairKind.ACTIVATION,
            tuple(reader for reader, _ in readers),
            next((axis for _, axis in readers if axis is not None), None),
        )
        for name, readers in wanted.items()
    )


def _inputs(
    model: Model, node: ir.Node, constants: Constants, format: Format
) -> Iterator[tuple[int, int | None]]:
    """Positions of the inputs that get a pair, and the axis of the channels."""
    if node.op_type in PRODUCTS and _is_float(model, node.inputs[0]) and _is_float(model, node.inputs[1]):
        if format is Format.FP8 and node.op_type == "ConvTranspose":
            return
        for position in (0, 1):
            value = node.inputs[position]
            assert value is not None
            yield (
                position,
                channel_axis(node, position) if constants.get(str(value.name)) is not None else None,
            )
    elif _adds_two(node) and format is Format.INT8:
        residual = _residual(model, node, constants)
        if residual is not None:
            yield residual, None


def _skips(model: Model, quantized: Collection[str]) -> Iterator[tuple[str, Reader]]:
    """What a Concat joins to a tensor that is quantised, and that is quantised elsewhere, too.

    The compiler rounds for the pair behind a Concat where it joins: without a pair in front, what is joined waits in
    float for that, beside what was quantised of it for others.
    """

    def known(value: ir.Value) -> bool:
        return any(str(each.name) in quantized for each in moved(value))

    for node in model.ir.graph:
        if node.op_type == "Concat" and known(node.outputs[0]):
            for position, value in enumerate(node.inputs):
                if value is not None and value.producer() is not None and known(value):
                    yield str(value.name), Reader(str(node.name), position)


def moved(value: ir.Value) -> Iterator[ir.Value]:
    """A tensor, and what nodes behind it make of it that only move or pool it."""
    yield value
    for reader, _ in value.uses():
        if reader.op_type in SAME_SCALE - {"Relu"}:
            yield from moved(reader.outputs[0])


def _block_weight(node: ir.Node, constants: Constants) -> Iterator[tuple[int, int | None]]:
    value = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
    weight = None if value is None else constants.get(str(value.name))
    if value is not None and weight is not None and weight.ndim == 2 and value.is_initializer():
        yield 1, 1 if channel_axis(node, 1) == 0 else 0


def _is_float(model: Model, value: ir.Value | None) -> bool:
    return value is not None and model.dtypes.get(str(value.name)) == "float32"


def _adds_two(node: ir.Node) -> bool:
    return node.op_type in ("Add", "Sum") and len(node.inputs) == 2 and None not in node.inputs


def _residual(model: Model, node: ir.Node, constants: Constants) -> int | None:
    """Which input of a sum is the one that the product in front of it does not compute; None if there is no product.

    Of two products, the later one adds the other's result. Pairs in front of the sum are looked through.
    """
    raw = [_undone(value) for value in node.inputs]
    if any(constants.get(str(value.name)) is not None for value in raw):
        return None
    makers = [_product_behind(value) for value in raw]
    known = [(-1 if maker is None else model.node(str(maker.name)).index) for maker in makers]
    return None if max(known) < 0 else known.index(min(known))


def product_of_sum(model: Model) -> dict[str, str]:
    """For each sum that a convolution in front of it computes in its kernel: that convolution."""
    constants = Constants(model.ir)
    found = {}
    for node in model.ir.graph:
        position = _residual(model, node, constants) if _adds_two(node) else None
        maker = None if position is None else _product_behind(node.inputs[1 - position])
        if maker is not None:
            found[str(node.name)] = str(maker.name)
    return found


def _product_behind(value: ir.Value | None) -> ir.Node | None:
    """The convolution whose kernel could compute `value`: nothing else reads what is between."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in ("Conv", "ConvTranspose"):
            return node
        if node.op_type not in ("BatchNormalization",) or len(value.uses()) > 1:
            return None
        value = node.inputs[0]
    return None


def with_pairs(
    model: Model, format: Format, places: Collection[PairPlace], scales: Mapping[str, Scale]
) -> Model:
    """`model` with Q/DQ pairs at `places`; weights in blocks are stored quantised.

    Args:
        model: the float model; it is converted to a newer operator set where the format needs one.
        format: what tensors are quantised to.
        places: where; see `place`.
        scales: by name of the tensor.

    Raises:
        ModelError: the model cannot be converted to the operator set that the format needs.
    """
    if model.opset < format.opset:
        model = at_opset(model, format.opset)
    copy = model.clone()
    nodes = {str(node.name): node for node in copy.graph}
    for each in places:
        readers = [(nodes[reader.node], reader.position) for reader in each.readers if reader.node in nodes]
        if not readers:
            continue
        value = readers[0][0].inputs[readers[0][1]]
        assert value is not None
        insert = insert_stored if format.block_size else insert_pair
        insert(copy.graph, value, readers, scales[each.tensor], format.dtype)
    digest = hashlib.sha256(f"{model.sha256} {format}".encode())
    for each in places:
        digest.update(
            f"{each.tensor} {each.readers}".encode()
            + np.ascontiguousarray(scales[each.tensor].values).tobytes()
        )
    copy.ir_version = max(copy.ir_version, _IR_OF[format])
    return Model(copy, name=f"{model.name}-{format}", sha256=digest.hexdigest())


_IR_OF = {Format.INT8: 7, Format.FP8: 9, Format.INT4: 10, Format.NVFP4: 11}
"""The first version of ONNX files that has the type."""


@dataclass(frozen=True)
class Misplaced:
    """A pair where TensorRT has no use for it: it parts what would be one kernel.

    Args:
        pair: its name.
        reader: a node that reads it, and computes in float.
        moved_to: the tensor behind that reader that wants the pair instead, with the same scale; None: there is none.
    """

    pair: str
    reader: str
    moved_to: str | None = None


SAME_SCALE = frozenset(
    {"Relu", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
)
"""What is behind them holds no value that was not there before."""


def find_misplaced(model: Model) -> tuple[Misplaced, ...]:
    """The activation pairs of a Q/DQ model that nothing reads which computes quantised, in the order of the graph."""
    pairs = [pair for pair in find_pairs(model) if pair.kind is PairKind.ACTIVATION and pair.readers]
    constants = Constants(model.ir)
    nodes = {str(node.name): node for node in model.ir.graph}
    found = []
    for pair in pairs:
        if any(_wants(model, nodes[reader.node], reader.position, constants) for reader in pair.readers):
            continue
        reader = nodes[pair.readers[0].node]
        found.append(Misplaced(pair.name, str(reader.name), _behind(model, reader, constants)))
    return tuple(found)


def _wants(model: Model, node: ir.Node, position: int, constants: Constants) -> bool:
    if node.op_type in PRODUCTS:
        return position < 2
    if node.op_type == "Concat":
        behind = [reader for value in moved(node.outputs[0]) for reader, _ in value.uses()]
        return any(reader.op_type == "QuantizeLinear" for reader in behind)
    return _adds_two(node) and _residual(model, node, constants) == position


def _undone(value: ir.Value | None) -> ir.Value:
    """What a pair in front of `value` quantises; itself if there is none."""
    assert value is not None
    node = value.producer()
    if node is not None and node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
        quantizer = node.inputs[0].producer()
        if (
            quantizer is not None
            and quantizer.op_type == "QuantizeLinear"
            and quantizer.inputs[0] is not None
        ):
            return quantizer.inputs[0]
    return value


def _behind(model: Model, node: ir.Node, constants: Constants) -> str | None:
    """The tensor behind a few nodes that a product reads in float."""
    while node.op_type in SAME_SCALE:
        value = node.outputs[0]
        for reader, position in value.uses():
            if reader.op_type in PRODUCTS and _wants(model, reader, position, constants):
                return str(value.name)
        following = [reader for reader, _ in value.uses()]
        if len(following) != 1:
            return None
        node = following[0]
    return None


def with_products(model: Model, names: Collection[str]) -> frozenset[str]:
    """`names`, and behind those nodes that only move data all that read it on, as far as the products."""
    nodes = {str(node.name): node for node in model.ir.graph}
    found, waiting = set(names), [name for name in names if name in nodes]
    while waiting:
        node = nodes[waiting.pop()]
        if node.op_type not in SAME_SCALE:
            continue
        behind = {str(reader.name) for output in node.outputs for reader, _ in output.uses()} - found
        found |= behind
        waiting += behind
    return frozenset(found)


def well_placed(model: Model) -> Model:
    """`model` without its misplaced pairs; where a product behind one reads in float, the pair goes there."""
    misplaced = find_misplaced(model)
    if not misplaced:
        return model
    pairs = {pair.name: pair for pair in find_pairs(model)}
    reduced = without(model, tuple(pairs.values()), [each.pair for each in misplaced], {})
    nodes = list(reduced.ir.graph)
    for each in misplaced:
        readers = [
            (node, position)
            for node in nodes
            for position, value in enumerate(node.inputs[:2])
            if value is not None and value.name == each.moved_to and node.op_type in PRODUCTS
        ]
        if readers:
            value = readers[0][0].inputs[readers[0][1]]
            assert value is not None
            insert_pair(reduced.ir.graph, value, readers, pairs[each.pair].scale, pairs[each.pair].dtype)
    digest = hashlib.sha256(f"{model.sha256} well placed".encode()).hexdigest()
    return Model(reduced.ir, name=model.name, sha256=digest)


def joined_pairs(model: Model, pairs: Sequence[QdqPair]) -> Joined:
    """Pairs that could share a scale: on what a Concat joined, on a tensor that it joins, and on what is that moved.

    Args:
        model: the quantised model.
        pairs: its pairs.
    """
    quantizers = _quantizers(pairs)
    found: list[tuple[str, str]] = []
    for node in model.ir.graph:
        if node.op_type == "Concat":
            wholes = _pairs_of(node.outputs[0], quantizers)
            for value in node.inputs:
                parts = [] if value is None or not wholes else _pairs_of(_undone(value), quantizers)
                found += [(whole, part) for whole in wholes for part in parts]
                found += [(parts[0], part) for part in parts[1:]]
    return tuple(dict.fromkeys(found))


def readers_of_joined(model: Model, pairs: Sequence[QdqPair]) -> dict[str, frozenset[str]]:
    """For each Concat that reads a pair: the nodes that read the pairs on what it joined."""
    quantizers, readers = _quantizers(pairs), {pair.name: pair.readers for pair in pairs}
    found = {}
    for node in model.ir.graph:
        wholes = _pairs_of(node.outputs[0], quantizers) if node.op_type == "Concat" else []
        if wholes:
            found[str(node.name)] = frozenset(reader.node for name in wholes for reader in readers[name])
    return found


def _quantizers(pairs: Sequence[QdqPair]) -> dict[str, str]:
    return {
        pair.quantizer: pair.name
        for pair in pairs
        if pair.quantizer and pair.kind is PairKind.ACTIVATION and pair.scale.per_tensor
    }


def _pairs_of(value: ir.Value, quantizers: Mapping[str, str]) -> list[str]:
    """The pairs on a tensor, and on what is that tensor moved or pooled."""
    readers = [str(reader.name) for each in moved(value) for reader, _ in each.uses()]
    return [quantizers[name] for name in dict.fromkeys(readers) if name in quantizers]


def groups_of(names: Collection[str], joined: Joined) -> list[tuple[str, ...]]:
    """`names` in groups: those that are joined, directly or through others, in one."""
    group = {name: frozenset({name}) for name in names}
    for first, second in joined:
        if first in group and second in group:
            both = group[first] | group[second]
            group |= dict.fromkeys(both, both)
    return [tuple(name for name in names if name in each) for each in dict.fromkeys(group.values())]


def with_shared(scales: Mapping[str, Scale], joined: Joined) -> dict[str, Scale]:
    """`scales` by name of the pair, with one for those that are joined and differ little; see WITHIN."""
    near = [each for each in joined if _ratio(scales, *each) <= WITHIN]
    found = dict(scales)
    for group in groups_of(list(dict.fromkeys(name for each in near for name in each)), near):
        found |= dict.fromkeys(group, max((scales[name] for name in group), key=lambda each: each.largest))
    return found


def _ratio(scales: Mapping[str, Scale], first: str, second: str) -> float:
    sizes = scales[first].largest, scales[second].largest
    return max(sizes) / min(sizes)
