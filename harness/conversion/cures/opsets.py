"""The same model at another opset, and graphs that are handled without their large weights."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from harness.model import Model, load_model


def convert_opset(model: Model, opset: int) -> Model | None:
    """`model` at a newer opset, by ONNX's own converter; None where that cannot do it."""
    from onnx import version_converter

    if not model.opset:  # operators of other domains only
        graph = model.ir.clone()
        graph.opset_imports[""] = opset
        return load_model(graph, name=model.name)
    try:
        proto = version_converter.convert_version(model.skeleton, opset)
        return load_model(with_weights(proto, model), name=model.name)
    except Exception:
        return None


def with_weights(proto: onnx.ModelProto, model: Model) -> ir.Model:
    """The graph of `proto`, with the large weights that `model` keeps apart."""
    graph: ir.Model = ir.from_proto(proto)
    for value in [value for value in graph.graph.inputs if value.name in model.weights]:
        graph.graph.inputs.remove(value)
        value.const_value = model.weights[str(value.name)]
        graph.graph.initializers[str(value.name)] = value
    return graph
