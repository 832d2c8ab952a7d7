"""Models on disk and in memory: into a `Model`, and back into a file."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from harness.case import Case, Operators, load_operators, resolve_model
from harness.errors import ModelError
from harness.model.analysis import embedded, held
from harness.model.derived import add_constant, at_opset
from harness.model.external import check_external_data, external_tensors
from harness.model.model import LARGE_BYTES, Model, hash_proto
from harness.model.names import inline_functions, name_nodes, named_nodes
from harness.model.soundness import check_calls, check_declared, check_tensors, check_written, cycle
from harness.model.sparse import with_dense_tensors
from harness.tensors import atomic_path
from harness.text import names

TRT_DOMAIN = "trt"
TRT_PAIRS = {
    f"TRT_{name}{op}": (op, dtype)
    for name, dtype in (("FP8", ir.DataType.FLOAT8E4M3FN), ("INT8", ir.DataType.INT8))
    for op in ("QuantizeLinear", "DequantizeLinear")
}
"""Operators of TensorRT's own domain, as ModelOpt's PyTorch exports have them: ONNX's, and the type of the steps."""
FP8_OPSET = 19
EXTERNAL_OVER = 1 << 30  # models with more bytes of weights are saved with external data beside them

COPIED_OVER = 64 << 20
"""Files of more bytes do not stay in memory as a protobuf beside the arrays that are computed with."""


class ModelWarning(UserWarning):
    """A part of a model is left out of what is made of it."""


def load_model(
    source: Path | str | onnx.ModelProto | ir.Model,
    *,
    name: str | None = None,
    operators: Operators | None = None,
) -> Model:
    """Load a model from a file, or wrap one that was built in memory.

    Local functions are inlined (`caller/node`), nodes are put in topological order, and nodes without a name get one:
    `Conv_12`, operator and position; in a body, `choose/then_branch/Mul_0`. Q/DQ nodes of TensorRT's own domain become
    ONNX's. External data stays on disk, memory-mapped.

    Raises:
        ModelError: the file is missing, truncated or not ONNX, its external data is missing, too short or
            outside the model's folder, its graph or its functions call themselves or are too large, an input or
            output has no type that a tensor can have, or a node name stands twice.
    """
    if isinstance(source, onnx.ModelProto):
        return _wrap(
            _from_proto(source, name or "model"), name or "model", hash_proto(source), None, operators
        )
    if isinstance(source, ir.Model):
        return _wrap(source, name or "model", hash_proto(ir.to_proto(source)), None, operators)
    path = Path(source)
    model, sha256, named = _from_file(path)
    loaded = _wrap(model, name or path.stem, sha256, path, operators)
    loaded.named = named
    return loaded


def load_model_of(case: Case) -> Model:
    """The model of a case, with the operators that it brings.

    Raises:
        ModelError: it cannot be had; see `resolve_model`, `load_operators` and `load_model`.
    """
    return load_model(resolve_model(case), name=case.name, operators=load_operators(case))


def save_model(model: Model, path: Path | str) -> Path:
    """Write `model` to `path` atomically; weights over 1 GB go to `<path>.data` beside it."""
    path = Path(path)
    if sum(tensor.nbytes for tensor in model.weights.values()) <= EXTERNAL_OVER:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            _write(embedded(model.ir.clone()), file)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        ir.save(model.ir.clone(), written, external_data=f"{path.name}.data")
        proto = onnx.load(written, load_external_data=False)
        _describe(proto, _initializers(model.ir))
        written.write_bytes(proto.SerializeToString())
        for made in sorted(Path(folder).iterdir(), key=lambda made: made == written):
            with atomic_path(path.parent / made.name) as temporary:
                os.replace(made, temporary)
    return path


def _write(model: ir.Model, file: BinaryIO) -> None:
    """Write a model, one that nobody else holds, as ONNX's protobuf, its large tensors one by one.

    A protobuf of it, and that as bytes, would each take as much memory as its weights. A message within another is its
    field's number, its length and its fields in any order (https://protobuf.dev/programming-guides/encoding).
    """
    tensors, large = _initializers(model), {}
    for name, tensor in tensors.items():
        if tensor.dtype != ir.DataType.STRING and tensor.nbytes > LARGE_BYTES:
            large[name] = tensor
            model.graph.initializers[name].const_value = ir.ExternalTensor(
                "elsewhere", None, None, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    proto = ir.to_proto(model)
    _describe(proto, tensors)
    graph, heads = proto.graph, []
    for head in graph.initializer:
        if head.name in large:
            head.ClearField("data_location")
            head.ClearField("external_data")
            size = large[head.name].nbytes
            fields = head.SerializeToString() + _field(head, "raw_data", size)
            heads.append((_field(graph, "initializer", len(fields) + size) + fields, large[head.name]))
    embedded_ones = [tensor for tensor in graph.initializer if tensor.name not in large]
    del graph.initializer[:]
    graph.initializer.extend(embedded_ones)
    rest = graph.SerializeToString()
    proto.ClearField("graph")
    length = len(rest) + sum(len(fields) + tensor.nbytes for fields, tensor in heads)
    file.write(proto.SerializeToString() + _field(proto, "graph", length) + rest)
    for fields, tensor in heads:
        file.write(fields)
        file.write(tensor.tobytes())


def _initializers(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    values = model.graph.initializers.items()
    return {name: value.const_value for name, value in values if value.const_value is not None}


def _describe(proto: onnx.ModelProto, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    """Give initializers their doc strings and metadata: onnx_ir leaves out those of some, and writes others twice."""
    for tensor in proto.graph.initializer:
        known = tensors[tensor.name]
        if known.doc_string:
            tensor.doc_string = known.doc_string
        del tensor.metadata_props[:]
        for key, text in known.metadata_props.items():
            tensor.metadata_props.add(key=key, value=text)


def _field(message: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto, name: str, length: int) -> bytes:
    """What stands in front of a field that is so many bytes long."""
    return b"".join(map(_varint, (message.DESCRIPTOR.fields_by_name[name].number << 3 | 2, length)))


def _varint(number: int) -> bytes:
    """`number` in bytes of 7 bits, the lowest first; a bit says that more follow."""
    groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _wrap(model: ir.Model, name: str, sha256: str, path: Path | None, operators: Operators | None) -> Model:
    where = path or name
    check_tensors(model, where)
    if model.functions:
        check_calls(model, where)
        model = inline_functions(model)
    try:
        common_passes.TopologicalSortPass()(model)
    except ValueError as error:
        raise ModelError(
            f"the graph has a cycle: {names(cycle(model), separator=' → ')}", where=where
        ) from error
    name_nodes(model, name)
    fp8 = _with_onnx_pairs(model)
    check_written(model, where)
    loaded = Model(model, name=name, sha256=sha256, path=path, operators=operators)
    return at_opset(loaded, FP8_OPSET) if fp8 and loaded.opset < FP8_OPSET else loaded


def _with_onnx_pairs(model: ir.Model) -> bool:
    """Turn the Q/DQ nodes of TensorRT's own domain into ONNX's, which mean the same; whether some are FP8."""
    found = [
        node for node in model.graph.all_nodes() if node.domain == TRT_DOMAIN and node.op_type in TRT_PAIRS
    ]
    for node in found:
        node.op_type, dtype = TRT_PAIRS[node.op_type]
        node.domain, output = "", node.outputs[0]
        if node.op_type == "DequantizeLinear":
            continue
        scale = node.inputs[1]
        known = None if scale is None else ir.convenience.get_const_tensor(scale)
        zeros = np.zeros(() if known is None else known.shape.numpy(), dtype.numpy())
        node.resize_inputs(3)
        node.replace_input_with(2, add_constant(model.graph, f"{output.name}::zero", zeros))
        output.type = ir.TensorType(dtype)  # some exports declare uint8
    if found and not any(node.domain == TRT_DOMAIN for node in model.graph.all_nodes()):
        model.opset_imports.pop(TRT_DOMAIN, None)
    return any(node.outputs[0].dtype == ir.DataType.FLOAT8E4M3FN for node in found)


def _from_file(path: Path) -> tuple[ir.Model, str, frozenset[str]]:
    """The model in the file, the hash of the file and its external data, and the names that nodes have in it."""
    if not path.exists():
        raise ModelError("no such model file", where=path, hint=_nearby(path))
    if path.is_dir():
        raise ModelError("is a folder, not an ONNX file", where=path)
    if not path.is_file():
        raise ModelError("is not a regular file, and a model is read more than once", where=path)
    content = path.read_bytes()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:
        raise ModelError(
            "not an ONNX model, or cut short", where=path, hint="export or download it again"
        ) from error
    tensors = external_tensors(proto, path)
    check_external_data(tensors, path)
    digest, large = hashlib.sha256(content), len(content) > COPIED_OVER
    del content
    for location in sorted({tensor.location for tensor in tensors}):
        with (path.parent / location).open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    model = _from_proto(proto, path)
    ir.external_data.set_base_dir(model.graph, path.parent.resolve())
    if large:
        check_tensors(model, path)
        _copy_tensors(model)
    return model, digest.hexdigest(), named_nodes(proto)


def _copy_tensors(model: ir.Model) -> None:
    """Let a model hold its tensors as arrays: a protobuf is kept whole, and copies its bytes whenever they are read."""

    def copied(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.TensorProtoTensor) or tensor.dtype == ir.DataType.STRING:
            return tensor
        return held(tensor, tensor)

    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in (each for top in graphs for each in (top, *top.subgraphs())):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = copied(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    node.attributes[name] = ir.AttrTensor(name, copied(attribute.as_tensor()))


def _from_proto(proto: onnx.ModelProto, where: Path | str) -> ir.Model:
    if not proto.graph.node and not proto.graph.output:
        raise ModelError("not an ONNX model: it has no graph", where=where)
    if not proto.graph.output:
        raise ModelError(
            "the graph has no outputs, so there is nothing to judge",
            where=where,
            hint="name its results in graph.output, and save or export it again",
        )
    try:
        model: ir.Model = ir.from_proto(with_dense_tensors(proto, where))
    except Exception as error:
        reason: BaseException = error
        while isinstance(reason, ir.serde.SerdeError) and reason.__cause__ is not None:
            reason = reason.__cause__  # onnx_ir says the place first, and the reason last
        raise ModelError(f"the graph is malformed: {reason}", where=where) from error
    for value in (*model.graph.inputs, *model.graph.outputs):
        check_declared(value, where)
    if proto.training_info:
        said = "its training part (training_info) is not read, and no file that is made of it has one"
        warnings.warn(f"{where}: {said}", ModelWarning, stacklevel=4)
    return model


def _nearby(path: Path) -> str:
    others = sorted(file.name for file in path.parent.glob("*.onnx")) if path.parent.is_dir() else []
    return f"this folder holds {', '.join(others[:5])}" if others else "check the path"
