"""Models on disk and in memory: into a `Model`, and back into a file."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from harness.errors import ModelError
from harness.model.analysis import embedded
from harness.model.model import Model, hash_proto
from harness.model.names import inline_functions, name_nodes

EXTERNAL_OVER = 1 << 30  # models with more bytes of weights are saved with external data beside them


def load_model(source: Path | str | onnx.ModelProto | ir.Model, *, name: str | None = None) -> Model:
    """Load a model from a file, or wrap one that was built in memory.

    Local functions are inlined (`caller/node`), nodes are put in topological order, and nodes without a name get one:
    `Conv_12`, operator and position; in a body, `choose/then_branch/Mul_0`. External data stays on disk,
    memory-mapped.

    Raises:
        ModelError: the file is missing, truncated or not ONNX, its external data is missing, too short or
            outside the model's folder, or a node name stands twice.
    """
    if isinstance(source, onnx.ModelProto):
        return _wrap(_from_proto(source, name or "model"), name or "model", hash_proto(source), None)
    if isinstance(source, ir.Model):
        return _wrap(source, name or "model", hash_proto(ir.to_proto(source)), None)
    path = Path(source)
    return _wrap(_from_file(path), name or path.stem, _hash_file(path), path)


def save_model(model: Model, path: Path | str) -> Path:
    """Write `model` to `path` atomically; weights over 1 GB go to `<path>.data` beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(tensor.nbytes for tensor in model.weights.values())
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        if size > EXTERNAL_OVER:
            ir.save(model.ir.clone(), temporary, external_data=f"{path.name}.data")
        else:
            ir.save(embedded(model.ir.clone()), temporary)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == temporary):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            shutil.move(file, path.parent / file.name)
    return path


def _wrap(model: ir.Model, name: str, sha256: str, path: Path | None) -> Model:
    if model.functions:
        model = inline_functions(model)
    common_passes.TopologicalSortPass()(model)
    name_nodes(model, name)
    return Model(model, name=name, sha256=sha256, path=path)


def _from_file(path: Path) -> ir.Model:
    if not path.exists():
        raise ModelError("no such model file", where=path, hint=_nearby(path))
    if path.is_dir():
        raise ModelError("is a folder, not an ONNX file", where=path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:
        raise ModelError(
            "not an ONNX model, or cut short", where=path, hint="export or download it again"
        ) from error
    _check_external_data(proto, path)
    model = _from_proto(proto, str(path))
    ir.external_data.set_base_dir(model.graph, path.parent.resolve())
    return model


def _from_proto(proto: onnx.ModelProto, where: str) -> ir.Model:
    if not proto.graph.node and not proto.graph.output:
        raise ModelError("not an ONNX model: it has no graph", where=where)
    if not proto.graph.output:
        raise ModelError(
            "the graph has no outputs, so there is nothing to judge",
            where=where,
            hint="name its results in graph.output, and save or export it again",
        )
    try:
        model: ir.Model = ir.from_proto(proto)
        return model
    except Exception as error:
        raise ModelError(f"the graph is malformed: {error}", where=where) from error


def _nearby(path: Path) -> str:
    others = sorted(file.name for file in path.parent.glob("*.onnx")) if path.parent.is_dir() else []
    return f"this folder holds {', '.join(others[:5])}" if others else "check the path"


def external_files(proto: onnx.ModelProto) -> Iterator[tuple[str, dict[str, str]]]:
    """Name of each external tensor of the main graph, and its entries (`location`, `offset`, `length`)."""
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor.name, {entry.key: entry.value for entry in tensor.external_data}


def _check_external_data(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for name, entry in external_files(proto):
        location = entry.get("location", "")
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise ModelError(
                f"external data of tensor {name!r} points outside the model's folder: {location}", where=path
            )
        if not file.is_file():
            raise ModelError(
                f"external data of tensor {name!r} is missing: {location}",
                where=path,
                hint="copy the data file beside the model",
            )
        needed = int(entry.get("offset", 0)) + int(entry.get("length", 0))
        if file.stat().st_size < needed:
            raise ModelError(
                f"external data of tensor {name!r} is cut short: {location} has {file.stat().st_size} bytes, "
                f"{needed} are needed",
                where=path,
            )


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    proto = onnx.load(path, load_external_data=False)
    data = {entry.get("location", "") for _, entry in external_files(proto)}
    for file in [path, *(path.parent / location for location in sorted(data))]:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
