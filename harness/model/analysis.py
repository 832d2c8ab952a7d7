"""What a graph is made of: dtypes of its tensors, and which nodes can be lowered."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 and its like by name once it is imported
import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from harness.errors import ModelError
from harness.tensors import is_float

# Operators whose float outputs are not arithmetic on run-time data, or that are precision boundaries themselves.
NEVER_LOWERED = frozenset(
    {"Constant", "ConstantOfShape", "Shape", "Size", "Range", "EyeLike", "QuantizeLinear", "DequantizeLinear"}
    | {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "DynamicQuantizeLinear"}
)
# Their outputs say how large a tensor is, not what is in it: data dependence stops here (see `harness.model.sizes`).
SHAPE_OPS = frozenset({"Shape", "Size"})
# Input positions that steer an operator instead of being computed with, or (scales, running statistics) that
# TensorRT folds in FP32 before it rounds anything.
STEERING_INPUTS: Mapping[str, frozenset[int]] = {
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
    "QuantizeLinear": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "NonMaxSuppression": frozenset({2, 3, 4}),
    "BatchNormalization": frozenset({3, 4}),
    "Dropout": frozenset({1, 2}),
    "Loop": frozenset({0, 1}),
    "If": frozenset({0}),
}
# Matrix products and convolutions: what TF32 tensor cores compute.
PRODUCT_OPS = frozenset(
    {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN", "Attention", "DeformConv"}
)
# What they draw differs from run to run and, even with a seed, from runtime to runtime.
DRAWING_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def skeleton(model: ir.Model, weights: frozenset[str]) -> onnx.ModelProto:
    """`model` as a protobuf with `weights` turned into plain graph inputs, so that no data is in it.

    Raises:
        ModelError: it cannot be written, as names in it are no text, or dtypes no dtypes.
    """
    try:
        proto = ir.to_proto(_without_weights(model, weights))
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"the graph is malformed: {cause}", where=model.graph.name) from error
    graph = proto.graph
    declared = {value.name for value in graph.input}
    for name in sorted(weights - declared):
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        shape = [int(size) for size in tensor.shape.numpy()]
        graph.input.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), shape))
    return proto


def _without_weights(model: ir.Model, weights: frozenset[str]) -> ir.Model:
    small = (
        value.const_value
        for graph in model.graphs()
        for name, value in graph.initializers.items()
        if name not in weights
    )
    if not any(isinstance(tensor, ir.ExternalTensor) for tensor in small):
        return _viewed(model, weights)
    clone = model.clone()
    for name in weights:
        value = clone.graph.initializers.pop(name)
        value.const_value = None
    return embedded(clone)


def embedded(model: ir.Model) -> ir.Model:
    """`model`, a copy of another, with its external data turned into tensors that are written with it.

    External data is a file beside the model, memory-mapped. The tensors share the maps of the original's: nothing is
    copied, and nothing is closed that others still read.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = held(tensor, tensor)
    return model


def held(tensor: ir.TensorProtocol, like: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor as an array, with the doc string and the metadata of another."""
    name, doc, notes = tensor.name, like.doc_string, dict(like.metadata_props)
    if isinstance(tensor, ir.StringTensor):
        shape = ir.Shape(tensor.shape.numpy())
        return ir.StringTensor(
            tensor.string_data(), shape=shape, name=name, doc_string=doc, metadata_props=notes
        )
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name, doc_string=doc, metadata_props=notes)


def _viewed(model: ir.Model, weights: frozenset[str]) -> ir.Model:
    """`model` without the data of `weights`; it shares its nodes, and a copy of them would take most of the time."""
    graph = model.graph
    view = ir.GraphView(
        graph.inputs,
        graph.outputs,
        nodes=list(graph),
        initializers=[value for name, value in graph.initializers.items() if name not in weights],
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )
    return ir.Model(
        view,  # type: ignore[arg-type]  # it is written as a graph is
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=list(model.functions.values()),
        metadata_props=model.metadata_props,
    )


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and its subgraphs, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from all_graphs(body)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its subgraphs, at any depth."""
    return (node for each in all_graphs(graph) for node in each.node)


def _with_inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    return itertools.chain([node], *(all_nodes(body) for body in bodies(node)))


def outer_reads(graph: onnx.GraphProto) -> set[str]:
    """Names that a subgraph, at any depth, reads from the graphs around it."""
    local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    read: set[str] = set()
    for node in graph.node:
        read |= {name for name in node.input if name}
        for body in bodies(node):
            read |= outer_reads(body)
        local |= set(node.output)
    return (read | {value.name for value in graph.output}) - local


def node_reads(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that a node reads, its subgraphs' outer reads included, without repeats."""
    names = [name for name in node.input if name]
    for body in bodies(node):
        names += sorted(outer_reads(body))
    return tuple(dict.fromkeys(names))


def numeric_inputs(node: onnx.NodeProto) -> Iterator[int]:
    """Positions of the inputs that the node computes with."""
    steering = STEERING_INPUTS.get(node.op_type, frozenset())
    return (position for position, name in enumerate(node.input) if name and position not in steering)


def computes_products(node: onnx.NodeProto) -> bool:
    """Whether the node, or one in its subgraphs, is a matrix product or a convolution."""
    return any(each.op_type in PRODUCT_OPS for each in _with_inner(node))


def draws_random(node: onnx.NodeProto) -> bool:
    """Whether the node, or one in its subgraphs, may draw random numbers: a Dropout does in training mode."""
    return any(
        each.op_type in DRAWING_OPS or (each.op_type == "Dropout" and any(each.input[2:3]))
        for each in _with_inner(node)
    )


def quantizes(graph: onnx.GraphProto) -> bool:
    """Whether a graph, or one of its subgraphs, holds a QuantizeLinear or a DequantizeLinear."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in all_nodes(graph))


MICROSCALED: Mapping[str, tuple[int, ...]] = {
    "TRT_MXFP8DequantizeLinear": (onnx.TensorProto.FLOAT,),
    "TRT_MXFP8DynamicQuantize": (onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.UINT8),
}
"""TensorRT's own operators for MXFP8: what each writes, the first unless `output_dtype` says otherwise."""


def infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with inferred shapes and dtypes; as it is where inference gives up."""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # a malformed graph: whoever runs it reports it better than inference does
        return proto


def assume_dtypes(inferred: onnx.ModelProto, kinds: Collection[tuple[str, str]]) -> onnx.ModelProto:
    """`inferred` with dtypes behind nodes that only their user knows: that of the first float each reads.

    What the model declares is believed, and whoever runs such a node says so if it writes another dtype.

    Args:
        inferred: the model, as far as ONNX inference comes.
        kinds: domain and type of these operators.
    """
    for node in inferred.graph.node:
        known = graph_dtypes(inferred.graph)
        unknown = [name for name in node.output if name and name not in known]
        if (node.domain, node.op_type) not in kinds or not unknown:
            continue
        read = [known[name] for name in node.input if known.get(name, "string") != "string"]
        dtype = next((each for each in read if is_float(np.dtype(each))), read[0] if read else "float32")
        more = copy.deepcopy(inferred)
        more.graph.value_info.extend(
            helper.make_tensor_value_info(name, element_type(dtype), None) for name in unknown
        )
        inferred = infer(more)
    return inferred


def with_microscaled_dtypes(inferred: onnx.ModelProto) -> onnx.ModelProto:
    """`inferred` with the dtypes that TensorRT's own operators for MXFP8 write, which ONNX inference does not know."""
    known = graph_dtypes(inferred.graph)
    found: dict[str, int] = {}
    for node in inferred.graph.node:
        if node.domain == "trt" and node.op_type in MICROSCALED:
            given = {attribute.name: attribute.i for attribute in node.attribute}
            defaults = MICROSCALED[node.op_type]
            types = [given.get("output_dtype", defaults[0]), *defaults[1:]]
            written = zip(node.output, types, strict=False)
            found |= {name: kind for name, kind in written if name and name not in known}
    if not found:
        return inferred
    more = copy.deepcopy(inferred)
    more.graph.value_info.extend(
        helper.make_tensor_value_info(name, kind, None) for name, kind in found.items()
    )
    return infer(more)


def tensor_dtypes(inferred: onnx.ModelProto, libraries: Iterable[Path] = ()) -> dict[str, str]:
    """Dtype name of each tensor of the main graph: as declared, else as ONNX Runtime infers it.

    Args:
        inferred: the model.
        libraries: those that ONNX Runtime registers operators from.
    """
    found = graph_dtypes(inferred.graph)
    written = [name for node in inferred.graph.node for name in node.output if name]
    if any(name not in found for name in written):
        found |= _runtime_dtypes(inferred, [name for name in written if name not in found], libraries)
    return found


def graph_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | str | None, ...]]:
    """Shapes that a graph declares; a dimension is an int, a name, or None."""
    found: dict[str, tuple[int | str | None, ...]] = {
        tensor.name: tuple(tensor.dims) for tensor in graph.initializer
    }
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in dims
            )
    return found


def graph_dtypes(graph: onnx.GraphProto) -> dict[str, str]:
    """Dtype names that a graph declares: inputs, outputs, value infos and initializers."""
    values = [*graph.input, *graph.output, *graph.value_info]
    found = {
        value.name: dtype_name(value.type.tensor_type.elem_type)
        for value in values
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type
    }
    return found | {tensor.name: dtype_name(tensor.data_type) for tensor in graph.initializer}


def dtype_name(elem_type: int) -> str:
    """`float32` for TensorProto.FLOAT, and so on."""
    return ir.DataType(elem_type).numpy().name if elem_type != onnx.TensorProto.STRING else "string"


def element_type(name: str) -> int:
    """TensorProto.FLOAT for `float32`, and so on: the other way round."""
    if name == "string":
        return int(onnx.TensorProto.STRING)
    return int(ir.DataType.from_numpy(np.dtype(name)))


def _runtime_dtypes(
    proto: onnx.ModelProto, names: Iterable[str], libraries: Iterable[Path]
) -> dict[str, str]:
    import onnxruntime

    probe = copy.deepcopy(proto)
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    for library in libraries:
        options.register_custom_ops_library(str(library))
    try:
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # the reference will say what is wrong with this model
        return {}
    names_of = {"float": "float32", "double": "float64"}
    kinds = {value.name: re.sub(r"^tensor\((.*)\)$", r"\1", value.type) for value in session.get_outputs()}
    return {name: names_of.get(kind, kind) for name, kind in kinds.items()}


def data_nodes(proto: onnx.ModelProto, fed: Iterable[str]) -> frozenset[str]:
    """Names of the nodes of the main graph that compute from what is in the inputs `fed`, and not only their sizes."""
    depends, found = set(fed), set()
    for node in proto.graph.node:
        if any(name in depends for name in node_reads(node)):
            found.add(node.name)
            if node.op_type not in SHAPE_OPS:
                depends.update(filter(None, node.output))
    return frozenset(found)
