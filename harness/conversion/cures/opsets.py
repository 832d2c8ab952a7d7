"""The same model at another opset, and graphs that are handled without their large weights."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable
from harness.errors import HarnessError
from harness.model import Model, load_model

#: What ONNX's converter and checker raise of a model that they do not take.
NOT_TAKEN = (
    RuntimeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    onnx.version_converter.ConvertError,
)


def convert_opset(model: Model, opset: int) -> Model:
    """`model` at a newer opset, by ONNX's own converter.

    Raises:
        Inapplicable: it cannot do it; with its words.
    """
    if not model.opset:  # operators of other domains only
        graph = model.clone()
        graph.opset_imports[""] = opset
        return load_model(graph, name=model.name)
    try:
        proto = onnx.version_converter.convert_version(model.skeleton, opset)
        return load_model(with_weights(proto, model), name=model.name)
    except (*NOT_TAKEN, HarnessError) as reason:
        why = f"ONNX's converter does not bring the model to opset {opset}: {first_line(reason)}"
        raise Inapplicable(why) from reason


def first_line(reason: Exception) -> str:
    """The first line of what was said."""
    lines = filter(None, map(str.strip, str(reason).splitlines()))
    return next(lines, type(reason).__name__)[:300]


def with_weights(proto: onnx.ModelProto, model: Model) -> ir.Model:
    """The graph of `proto`, with the large weights that `model` keeps apart."""
    graph: ir.Model = ir.from_proto(proto)
    for value in [value for value in graph.graph.inputs if value.name in model.weights]:
        graph.graph.inputs.remove(value)
        value.const_value = model.weights[str(value.name)]
        graph.graph.initializers[str(value.name)] = value
    return graph
