"""External data: tensors whose bytes are in files beside the model. Checked before anything reads them.

Whoever reads them later maps the file where the model says, so what a damaged or hostile model says must be refused
here: a place outside the model's folder, a FIFO that nobody writes to, a file that is too short. Tensors of bodies (If,
Loop, Scan) and of functions count as those of the main graph do.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from harness.errors import ModelError
from harness.model.analysis import bodies


@dataclass(frozen=True)
class ExternalTensor:
    """Where the bytes of a tensor are.

    Args:
        name: of the tensor, for messages.
        location: the file, relative to the model's folder.
        offset: of its first byte in the file.
        nbytes: how many bytes its dtype and shape take.
    """

    name: str
    location: str
    offset: int
    nbytes: int


def external_tensors(proto: onnx.ModelProto, where: Path) -> tuple[ExternalTensor, ...]:
    """The external tensors of `proto`, wherever they are in it.

    Raises:
        ModelError: an entry (`location`, `offset`, `length`) is missing or makes no sense.
    """
    return tuple(
        _external_tensor(tensor, where)
        for tensor in _tensors(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    )


def check_external_data(tensors: Iterable[ExternalTensor], path: Path) -> None:
    """Check that the files beside the model at `path` hold `tensors`, without reading them.

    Raises:
        ModelError: a file is missing, no regular file, outside the model's folder, linked to from elsewhere, or too
            short.
    """
    folder = path.parent.resolve()
    for tensor in tensors:
        file = (folder / tensor.location).resolve()
        data = f"external data of tensor {tensor.name!r}"
        if not file.is_relative_to(folder):
            raise ModelError(f"{data} points outside the model's folder: {tensor.location}", where=path)
        if not file.exists():
            hint = "copy the data file beside the model"
            raise ModelError(f"{data} is missing: {tensor.location}", where=path, hint=hint)
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{data} is not a regular file: {tensor.location}", where=path)
        if found.st_nlink > 1:
            raise ModelError(
                f"{data} is a hard link, which may lead outside the model's folder: {tensor.location}",
                where=path,
                hint="replace it by a copy",
            )
        needed = tensor.offset + tensor.nbytes
        if found.st_size < needed:
            raise ModelError(
                f"{data} is cut short: {tensor.location} has {found.st_size} bytes, {needed} are needed",
                where=path,
            )


def _external_tensor(tensor: onnx.TensorProto, where: Path) -> ExternalTensor:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    data = f"external data of tensor {tensor.name!r}"
    if not all(isinstance(text, str) for entry in entries.items() for text in entry):
        raise ModelError(f"{data} is described by bytes that are not text", where=where)
    location = entries.get("location", "")
    if not location or "\0" in location:
        raise ModelError(f"{data} names no file: {location!r}", where=where)
    nbytes = _nbytes(tensor, where)
    offset = _number(entries, "offset", 0, data, where)
    length = _number(entries, "length", nbytes, data, where)
    if length < nbytes:
        raise ModelError(f"{data} has {length} bytes, its shape takes {nbytes}", where=where)
    return ExternalTensor(tensor.name, location, offset, nbytes)


def _number(entries: Mapping[str, str], key: str, default: int, data: str, where: Path) -> int:
    text = entries.get(key, str(default))
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise ModelError(f"{data} has {key} {text!r}, which is not a number of bytes", where=where)
    return int(text)


def _nbytes(tensor: onnx.TensorProto, where: Path) -> int:
    try:
        dtype = ir.DataType(tensor.data_type)
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"negative dimensions {list(tensor.dims)}")
        nbytes: int = -(-math.prod(tensor.dims) * dtype.bitwidth // 8)
        return nbytes
    except (ValueError, TypeError) as error:  # no such dtype, or one whose elements have no size
        raise ModelError(f"tensor {tensor.name!r} is malformed: {error}", where=where) from error


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for body in bodies(node):
            yield from _of_graph(body)
