"""Models made from others: a part that is cut out, and a model with a precision written into its graph.

A typed graph, with islands of FP32 between Casts, is what strongly typed TensorRT networks take, and what a person
hands on: the same file runs in ONNX Runtime. Graph inputs and outputs keep their names and their dtype. Bodies of If,
Loop and Scan stay in FP32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from harness.errors import ModelError
from harness.model.analysis import STEERING_INPUTS, element_type, held
from harness.model.lowering import units_of
from harness.model.model import LARGE_BYTES, Model, own_type
from harness.model.names import bodies_of, name_nodes
from harness.model.rounding import round_array
from harness.tensors import Precision

Shape = Sequence[int | str | None]
_BFLOAT16 = 13
"""The first operator set that has it."""
LOW_DTYPE = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}


def extract(
    model: Model,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    shapes: Mapping[str, Shape] | None = None,
    name: str | None = None,
) -> Model:
    """The part of `model` that computes `outputs` from `inputs`.

    Args:
        model: the whole model.
        inputs: tensor names that become graph inputs; those that `outputs` do not need are left out.
        outputs: tensor names that become the graph outputs.
        shapes: shapes of the new inputs, where they are known better than inference does (TensorRT needs ranks).
        name: name of the new model; by default made from the model's and the first output's.

    Returns:
        A model whose nodes keep their names, with only the initializers they read.

    Raises:
        ModelError: a tensor is not in the model, or `outputs` need an input that is not among `inputs`.
    """
    try:
        graph = ir.convenience.extract(model.ir.graph, list(inputs), list(outputs))
    except ValueError as error:
        raise ModelError(str(error), where=model.name) from error
    read = {value for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.inputs}
    for value in [value for value in graph.inputs if value not in read and value not in graph.outputs]:
        graph.inputs.remove(value)
    for value in (*graph.inputs, *graph.outputs):
        key = str(value.name)
        if value.dtype is None and key in model.dtypes:
            value.dtype = ir.DataType(element_type(model.dtypes[key]))
        shape = (shapes or {}).get(key) or (None if value.shape else model.shapes.get(key))
        if shape is not None:
            value.shape = ir.Shape(shape)
    label = name or f"{model.name}-{outputs[0]}"
    graph.name = label
    cut = ir.Model(
        graph,
        ir_version=model.ir.ir_version,
        producer_name="harness",
        metadata_props=dict(model.ir.metadata_props),
    )
    digest = hashlib.sha256(f"{model.sha256} {sorted(inputs)} {list(outputs)}".encode()).hexdigest()
    return Model(cut, name=label, sha256=digest, operators=model.operators)


def with_islands(
    model: Model, precision: Precision, islands: Collection[str] = (), fp32_sums: Collection[str] = ()
) -> Model:
    """`model` with `precision` written into its graph and the nodes named in `islands` kept in FP32.

    FP32 and TF32 have no type of their own in ONNX: the model comes back as it is. The same holds for FP8 and
    INT8, whose models carry their Q/DQ nodes already.

    Args:
        model: the model.
        precision: the precision.
        islands: names of nodes that stay in FP32, with their weights.
        fp32_sums: names of products that stand between Casts: they read what is rounded, weights included, are added
            up in FP32, and are rounded again. A compiler can make one kernel of it that costs what FP16 costs.

    Raises:
        NothingSelectedError: an island is no node of the model.
        ModelError: the precision's dtype does not exist in the model's opset, and it cannot be converted.
    """
    model.check_nodes(sorted({*islands, *fp32_sums}))
    if precision not in LOW_DTYPE:
        return model
    if precision is Precision.BF16 and model.opset < _BFLOAT16:
        model = at_opset(model, _BFLOAT16)
        islands = frozenset(islands) & {node.name for node in model.nodes}
    copy = model.clone()
    chosen = {node.name for node in units_of(model, precision)} - set(islands)
    _Typing(model, copy, LOW_DTYPE[precision], precision).apply(chosen, chosen.intersection(fp32_sums))
    between = f" {sorted(fp32_sums)}" if fp32_sums else ""
    digest = hashlib.sha256(f"{model.sha256} {precision} {sorted(islands)}{between}".encode()).hexdigest()
    return Model(copy, name=f"{model.name}-{precision}", sha256=digest, operators=model.operators)


_MOVERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Expand", "Concat"}
)
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})


def kept_for(model: Model, refused: Collection[str]) -> frozenset[str]:
    """The nodes to keep in FP32 where a parser refuses `refused` in a lower precision; others are left out.

    With them, what computes the data of a recurrent one: a Cast right in front of it is drawn into the loop, and then
    TensorRT for RTX 1.4 to 1.7 find no shapes (`Mismatched number of elements in reshape op`).
    """
    lowerable = {node.name for node in model.lowerable}
    kept = {name for name in refused if name in lowerable}
    for name in sorted(kept):
        node = model.node(name)
        waiting = list(node.inputs[:1]) if node.op in _RECURRENT else []
        while waiting:
            writer = model.producer(waiting.pop())
            if writer is not None and writer.name in lowerable and writer.name not in kept:
                kept.add(writer.name)
                waiting += writer.inputs if writer.op in _MOVERS else ()
    return frozenset(kept)


def at_opset(model: Model, version: int) -> Model:
    """`model` in a newer ONNX operator set. Its nodes and tensors keep their names, those that are added get some.

    Only the skeleton goes through onnx's converter, which holds a model in memory several times.

    Raises:
        ModelError: onnx cannot convert it.
    """
    from onnx import version_converter

    try:
        if model.opset:
            converted = with_weights(version_converter.convert_version(model.skeleton, version), model)
        else:  # it holds operators of other domains only
            converted = model.clone()
            converted.opset_imports[""] = version
    except (
        Exception
    ) as error:  # whatever the converter raises, RuntimeError for an operator that it does not know
        said = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise ModelError(
            f"opset {model.opset} cannot be converted to {version}: {said}",
            where=model.name,
            hint=f"export it at opset {version} or newer",
        ) from error
    _copy_metadata(model.ir, converted)
    name_nodes(converted, model.name)
    digest = hashlib.sha256(f"{model.sha256} opset {version}".encode()).hexdigest()
    return Model(converted, name=model.name, sha256=digest, operators=model.operators)


def add_constant(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    """Add an initializer."""
    value = ir.Value(name=name, const_value=ir.Tensor(np.array(values, order="C"), name=name))
    value.dtype, value.shape = ir.DataType.from_numpy(values.dtype), ir.Shape(values.shape)
    graph.register_initializer(value)
    return value


def with_weights(skeleton: onnx.ModelProto, model: Model) -> ir.Model:
    """The graph of what was made of a model's skeleton, with the model's weights."""
    made: ir.Model = ir.from_proto(skeleton)
    for value in [value for value in made.graph.inputs if value.name in model.weights]:
        made.graph.inputs.remove(value)
        value.const_value = model.weights[str(value.name)]
        made.graph.register_initializer(value)
    return made


def _copy_metadata(source: ir.Model, made: ir.Model) -> None:
    """Copy what onnx's converter loses: metadata of graph, nodes and tensors, doc strings of constants, annotations."""
    made.graph.metadata_props.update(source.graph.metadata_props)
    nodes = {node.name: node for node in source.graph.all_nodes()}
    for node in made.graph.all_nodes():
        if node.name in nodes:
            node.metadata_props.update(nodes[node.name].metadata_props)
    tensors = _tensors(source)
    for name, value in _tensors(made).items():
        if name not in tensors:
            continue
        value.metadata_props.update(tensors[name].metadata_props)
        value.meta.update(tensors[name].meta)
        old, new = tensors[name].const_value, value.const_value
        if old is not None and new is not None and old is not new:
            value.const_value = held(new, old)


def _tensors(model: ir.Model) -> dict[str, ir.Value]:
    written = (value for node in model.graph for value in node.outputs)
    return {
        str(each.name): each for each in (*model.graph.inputs, *written, *model.graph.initializers.values())
    }


class _Typing:
    def __init__(self, model: Model, copy: ir.Model, low: ir.DataType, precision: Precision) -> None:
        self.model, self.graph, self.low, self.precision = model, copy.graph, low, precision
        self.low_values: set[ir.Value] = set()  # tensors that now have the low dtype
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def apply(self, chosen: set[str], between: set[str]) -> None:
        """Lower the nodes `chosen`; those of them in `between` compute in FP32 between Casts."""
        for node in list(self.graph):
            if node.name in chosen and not any(True for _ in bodies_of(node)):
                self._lower(node)
                if node.name in between:
                    self._put_between_casts(node)
            else:
                self._raise_inputs(node)
        for position, value in enumerate(list(self.graph.outputs)):
            if value in self.low_values:
                self._restore_output(position, value)
        for value in [value for value, _ in self.casts if value.is_initializer() and not value.uses()]:
            del self.graph.initializers[str(value.name)]

    def _lower(self, node: ir.Node) -> None:
        steering = STEERING_INPUTS.get(node.op_type, frozenset())
        if node.op_type == "BatchNormalization" and self.model.opset < 15:
            steering = frozenset()  # statistics had to have the type of the input
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            if position in steering:
                node.replace_input_with(position, self._as(value, ir.DataType.FLOAT, node))
            elif self._is_float(value):
                node.replace_input_with(position, self._as(value, self.low, node))
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(self.low))
        for value in node.outputs:
            if self.model.dtypes.get(str(value.name)) == "float32":
                value.dtype = self.low
                self.low_values.add(value)

    def _put_between_casts(self, node: ir.Node) -> None:
        """Let a lowered node read and write FP32, of the same values: what it writes is rounded by a Cast behind it."""
        self._raise(node, node)
        for value in [value for value in node.outputs if value in self.low_values]:
            name = str(value.name)
            cast = _cast(value, self.low, name, f"{name}::{self.precision}")
            rounded = cast.outputs[0]
            value.dtype = ir.DataType.FLOAT
            self.low_values.discard(value)
            self.low_values.add(rounded)
            for user, position in list(value.uses()):
                if user is not cast:
                    user.replace_input_with(position, rounded)
            for position, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[position] = rounded
            value.name, rounded.name = f"{name}::sum", name
            self.graph.insert_after(node, cast)

    def _raise_inputs(self, node: ir.Node) -> None:
        self._raise(node, node)
        for _, body in bodies_of(node):
            for inner in ir.traversal.RecursiveGraphIterator(body):
                self._raise(inner, node)

    def _raise(self, node: ir.Node, reader: ir.Node) -> None:
        """Let `node`, which is `reader` or in one of its bodies, read FP32."""
        for position, value in enumerate(node.inputs):
            if value is not None and value in self.low_values:
                node.replace_input_with(position, self._as(value, ir.DataType.FLOAT, reader))

    def _is_float(self, value: ir.Value) -> bool:
        if value in self.low_values:
            return True
        if value.const_value is not None:
            return value.const_value.dtype == ir.DataType.FLOAT
        return self.model.dtypes.get(str(value.name)) == "float32"

    def _as(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` as `dtype`: itself, a converted initializer, or a Cast placed before its first reader."""
        if (dtype == self.low) == (value in self.low_values):
            return value
        if (value, dtype) not in self.casts:
            made = self._initializer(value) if value.is_initializer() and dtype == self.low else None
            self.casts[value, dtype] = made or self._cast(value, dtype, reader)
        return self.casts[value, dtype]

    def _initializer(self, value: ir.Value) -> ir.Value | None:
        tensor = value.const_value
        if tensor is None:
            return None
        name = f"{value.name}::{self.precision}"

        def rounded() -> ir.TensorProtocol:
            array = round_array(tensor.numpy(), self.precision).astype(self.low.numpy())
            return ir.Tensor(np.asarray(array), name=name)

        large = (
            tensor.nbytes > LARGE_BYTES
        )  # such are rounded whenever they are read: held, they would take 1.5 times
        lazy = ir.LazyTensor(rounded, self.low, ir.Shape(tensor.numpy().shape), name=name) if large else None
        new = ir.Value(name=name, const_value=lazy or rounded())
        new.dtype, new.shape = self.low, value.shape
        self.graph.register_initializer(new)
        self.low_values.add(new)
        return new

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        name = f"{value.name}::{'fp32' if dtype == ir.DataType.FLOAT else self.precision}"
        node = _cast(value, dtype, name, name)
        self.graph.insert_before(reader, node)
        if dtype == self.low:
            self.low_values.add(node.outputs[0])
        return node.outputs[0]

    def _restore_output(self, position: int, value: ir.Value) -> None:
        """Give the graph output its FP32 dtype back, under its own name."""
        name = str(value.name)
        value.name = f"{name}::{self.precision}"
        node = _cast(value, ir.DataType.FLOAT, name, f"{name}::output")
        self.graph.append(node)
        self.graph.outputs[position] = node.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, writes: str, name: str) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=name)
    output = node.outputs[0]
    output.name, output.dtype, output.shape = writes, dtype, value.shape
    return node


def with_given(model: Model, tensors: Sequence[str]) -> Model:
    """`model` with some tensors as inputs in place of what their nodes compute.

    Where one is the places that a TopK chooses, the values of that TopK are those at the given places.

    Args:
        model: the whole model.
        tensors: names of tensors that nodes of the main graph write; they keep their names.
    """
    copy = model.clone()
    graph = copy.graph
    written = {str(value.name): value for node in graph for value in node.outputs}
    for name in tensors:
        old = written[name]
        node = old.producer()
        assert node is not None, "a node writes it"
        new = ir.Value(name=name, shape=old.shape, type=own_type(old))
        if new.dtype is None:
            new.dtype = ir.DataType.INT64
        _replace_uses(graph, old, new)
        old.name = f"{name}::chosen"
        graph.inputs.append(new)
        if node.op_type != "TopK":
            continue
        axis = node.attributes.get_int("axis", -1)
        values = node.outputs[0]
        gather = ir.node(
            "GatherElements", [node.inputs[0], new], attributes={"axis": axis}, name=f"{name}::given"
        )
        gather.outputs[0].type, gather.outputs[0].shape = own_type(values), values.shape
        graph.insert_after(node, gather)
        kept, values.name = str(values.name), f"{values.name}::chosen"
        gather.outputs[0].name = kept
        _replace_uses(graph, values, gather.outputs[0])
    digest = hashlib.sha256(f"{model.sha256} given {list(tensors)}".encode()).hexdigest()
    return Model(copy, name=model.name, sha256=digest, path=model.path, operators=model.operators)


def with_larger_steps(model: Model, share: float) -> Model:
    """`model` in which all that its QuantizeLinear nodes compute with is larger by a share, constants left out."""
    copy = model.clone()
    for node in [node for node in copy.graph.all_nodes() if node.op_type == "QuantizeLinear"]:
        value = node.inputs[0]
        if value is None or ir.convenience.get_const_tensor(value) is not None:
            continue
        dtype = value.dtype or ir.DataType.FLOAT
        factor = np.array(1 + max(share, float(ml_dtypes.finfo(dtype.numpy()).eps)), dtype.numpy())
        constant = ir.node("Constant", [], {"value": ir.tensor(factor)}, name=f"{node.name}::factor")
        larger = ir.node("Mul", [value, constant.outputs[0]], name=f"{node.name}::larger")
        for made in (constant, larger):
            made.outputs[0].name, made.outputs[0].dtype = str(made.name), dtype
        assert node.graph is not None
        node.graph.insert_before(node, [constant, larger])
        node.replace_input_with(0, larger.outputs[0])
    digest = hashlib.sha256(f"{model.sha256} larger {share}".encode()).hexdigest()
    return Model(copy, name=model.name, sha256=digest, operators=model.operators)


def _replace_uses(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    for user, position in list(old.uses()):
        user.replace_input_with(position, new)
    for position, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[position] = new
