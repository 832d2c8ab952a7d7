"""Operators that ONNX itself defines by others: their definition instead of them."""

from __future__ import annotations

import onnx

from harness.conversion.cures.cure import Transformed
from harness.conversion.cures.opsets import with_weights
from harness.model import Model

#: Never taken by a release that could be asked.
NEVER_TAKEN = frozenset(
    {
        "AffineGrid",
        "CausalConvWithState",
        "CenterCropPad",
        "FlexAttention",
        "LinearAttention",
        "NegativeLogLikelihoodLoss",
        "SoftmaxCrossEntropyLoss",
        "SwiGLU",
    }
)
_DOMAIN = "definition"


def inline_never_taken(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """Operators that no release takes, and LayerNormalization with more than one output."""
    chosen = [node.name for node in model.skeleton.graph.node if _is_never_taken(node)]
    return _inline(model, frozenset(chosen))


def inline_refused(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """Any operator with a definition that a compiler refuses in this model."""
    if not refused:
        return None
    return _inline(model, frozenset(refused))


def _is_never_taken(node: onnx.NodeProto) -> bool:
    if node.op_type == "LayerNormalization":
        return any(node.output[1:])
    return node.op_type in NEVER_TAKEN


def _inline(model: Model, chosen: frozenset[str]) -> Transformed | None:
    """Make each chosen node a call of a local function; `load_model` inlines those and names what they hold."""
    if not chosen:
        return None
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    types = {
        value.name: value.type for value in (*model.inferred.graph.input, *model.inferred.graph.value_info)
    }
    types |= {value.name: value.type for value in model.inferred.graph.output}
    for tensor in proto.graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    inlined = []
    for index, node in enumerate(proto.graph.node):
        if node.name not in chosen:
            continue
        body = _definition(node, [types.get(name, onnx.TypeProto()) for name in node.input], proto)
        if body is None:
            continue
        body.domain, body.name = _DOMAIN, f"{node.op_type}_{index}"
        node.domain, node.op_type = body.domain, body.name
        proto.functions.append(body)
        inlined.append(node.name)
    if not inlined:
        return None
    proto.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    return Transformed(with_weights(proto, model), tuple(inlined))


def _definition(
    node: onnx.NodeProto, types: list[onnx.TypeProto], model: onnx.ModelProto
) -> onnx.FunctionProto | None:
    """The function of ONNX's schema that defines `node`; None where there is none.

    Attributes that `node` leaves out are given their defaults.
    """
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None
    named = {attribute.name for attribute in node.attribute}
    node.attribute.extend(
        attribute.default_value
        for name, attribute in schema.attributes.items()
        if name not in named and attribute.default_value.name
    )
    newest = opsets.get("", 0)
    body = onnx.FunctionProto()
    fixed = [version for version in schema.function_opset_versions if version <= newest]
    by_types = [version for version in schema.context_dependent_function_opset_versions if version <= newest]
    if fixed:
        body.ParseFromString(schema.get_function_with_opset_version(max(fixed)))
    elif by_types:
        serialized = [each.SerializeToString() for each in types]
        body.ParseFromString(
            schema.get_context_dependent_function_with_opset_version(
                max(by_types), node.SerializeToString(), serialized
            )
        )
    if not body.node:
        return None
    return _fitting(body, node, newest)


def _fitting(body: onnx.FunctionProto, node: onnx.NodeProto, newest: int) -> onnx.FunctionProto:
    """`body` with the opset of the model; what neither computes nor reads an output goes from it and from `node`.

    A definition that depends on types leaves out what its call leaves out, and has taken in the bodies of `node`.
    """
    for opset in body.opset_import:
        if not opset.domain:
            opset.version = newest
    computed = {name for inner in body.node for name in inner.output}.union(body.input)
    pairs = [
        (name, node.output[index] if index < len(node.output) else "")
        for index, name in enumerate(body.output)
    ]
    kept = [(name, output) for name, output in pairs if name in computed]
    del body.output[:], node.output[:]
    body.output.extend(name for name, _ in kept)
    node.output.extend(output for _, output in kept)
    for attribute in [attribute for attribute in node.attribute if attribute.HasField("g")]:
        node.attribute.remove(attribute)
        if attribute.name in body.attribute:
            body.attribute.remove(attribute.name)
    return body
