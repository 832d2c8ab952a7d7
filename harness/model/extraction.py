"""Cut a subgraph out of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from harness.errors import ModelError
from harness.model.model import Model

Shape = Sequence[int | str | None]


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
        _declare(value, model, (shapes or {}).get(key) or (None if value.shape else model.shapes.get(key)))
    label = name or f"{model.name}-{outputs[0]}"
    graph.name = label
    cut = ir.Model(graph, ir_version=model.ir.ir_version, producer_name="harness")
    digest = hashlib.sha256(f"{model.sha256} {sorted(inputs)} {list(outputs)}".encode()).hexdigest()
    return Model(cut, name=label, sha256=digest)


def _declare(value: ir.Value, model: Model, shape: Shape | None) -> None:
    if value.dtype is None and (dtype := model.dtypes.get(str(value.name))) is not None:
        value.dtype = ir.DataType[_ENUM_NAMES.get(dtype, dtype.upper())]
    if shape is not None:
        value.shape = ir.Shape(shape)


_ENUM_NAMES = {"float32": "FLOAT", "float64": "DOUBLE"}
