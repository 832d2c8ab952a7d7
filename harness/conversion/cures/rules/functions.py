"""Operators that stand for graphs: the definition that ONNX gives them, or the body of a Loop once a turn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from harness.conversion.cures.cure import Transformed
from harness.model import Model, load_model, with_weights

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
#: Not taken by every release: not left in what is written.
_NOT_BY_ALL = ("Swish",)
_DOMAIN = "definition"


def inline_never_taken(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """Operators that no release takes, also in the definitions of others, and LayerNormalization with more outputs."""
    found = _inline(model, _never_taken(model))
    own = {node.name for node in model.skeleton.graph.node}
    while found is not None:
        inner = load_model(found.graph, name=model.name)
        nodes = inner.skeleton.graph.node
        newer = {node.name for node in nodes if node.op_type in _NOT_BY_ALL and node.name not in own}
        more = _inline(inner, _never_taken(inner) | newer)
        if more is None:
            return found
        found = Transformed(more.graph, found.nodes)
    return None


def _never_taken(model: Model) -> frozenset[str]:
    return frozenset(node.name for node in model.skeleton.graph.node if _is_never_taken(node))


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


#: Turns beyond which a Loop stays one.
MOST_TURNS = 64


def unrolled(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """Loops that turn a constant number of times, written out turn by turn."""
    if not refused:
        return None
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in proto.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    written: list[onnx.NodeProto] = []
    found = []
    for node in proto.graph.node:
        turns = _turns(node, constants) if node.op_type == "Loop" and node.name in refused else None
        if turns is None:
            written.append(node)
            continue
        written += _turn_by_turn(node, turns)
        found.append(node.name)
    if not found:
        return None
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    return Transformed(with_weights(proto, model), tuple(found))


def _turns(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    """How often a Loop turns; None where that is not known, or is not few times."""
    (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
    count = constants.get(node.input[0])
    start = node.input[1] if len(node.input) > 1 else ""
    goes_on = not start or (start in constants and bool(onnx.numpy_helper.to_array(constants[start])))
    origin = {name: inner for inner in body.node for name in inner.output}
    stays, seen = body.output[0].name, body.input[1].name
    while stays in origin and origin[stays].op_type == "Identity":
        stays = origin[stays].input[0]
    kept = {tensor.name: tensor for tensor in body.initializer}
    always = stays == seen or (stays in kept and bool(onnx.numpy_helper.to_array(kept[stays])))
    if count is None or not goes_on or not always:
        return None
    turns = int(onnx.numpy_helper.to_array(count).reshape(()))
    return turns if 0 < turns <= MOST_TURNS else None


def _turn_by_turn(node: onnx.NodeProto, turns: int) -> list[onnx.NodeProto]:
    """The nodes of the body once a turn, what it carries handed on, what it collects joined."""
    (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
    carried = list(node.input[2:])
    collected: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
    written: list[onnx.NodeProto] = []
    values = list(carried)
    for turn in range(turns):
        prefix = f"{node.name}/{turn}/"
        written.append(_constant(f"{prefix}turn", np.array(turn, np.int64)))
        written.append(_constant(f"{prefix}goes_on", np.array(True)))
        names = dict(zip([value.name for value in body.input[2:]], values, strict=True))
        names |= {body.input[0].name: f"{prefix}turn", body.input[1].name: f"{prefix}goes_on"}
        for tensor in body.initializer:
            names[tensor.name] = f"{prefix}{tensor.name}"
            written.append(_constant(names[tensor.name], tensor))
        for inner in body.node:
            names |= {name: f"{prefix}{name}" for name in inner.output if name}
            written.append(_renamed(inner, names, prefix))
        results = [names.get(value.name, value.name) for value in body.output[1:]]
        values = results[: len(carried)]
        for rows, result in zip(collected, results[len(carried) :], strict=True):
            rows.append(f"{prefix}{result}/row")
            written.append(_constant(f"{rows[-1]}/axes", np.array([0], np.int64)))
            written.append(
                onnx.helper.make_node("Unsqueeze", [result, f"{rows[-1]}/axes"], [rows[-1]], rows[-1])
            )
    for output, value in zip(node.output, values, strict=False):
        if output:
            written.append(onnx.helper.make_node("Identity", [value], [output], f"{node.name}/{output}"))
    for output, rows in zip(node.output[len(carried) :], collected, strict=False):
        if output:
            written.append(onnx.helper.make_node("Concat", rows, [output], f"{node.name}/{output}", axis=0))
    return written


def _constant(name: str, values: np.ndarray | onnx.TensorProto) -> onnx.NodeProto:
    tensor = values if isinstance(values, onnx.TensorProto) else onnx.numpy_helper.from_array(values, "value")
    return onnx.helper.make_node("Constant", [], [name], name, value=tensor)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    """A copy of `node` that reads and writes the tensors of one turn, in its own bodies too."""
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    copy.name = f"{prefix}{node.name}"
    for field in (copy.input, copy.output):
        for index, name in enumerate(field):
            field[index] = names.get(name, name)
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            inside = [_renamed(inner, names, prefix) for inner in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inside)
            for value in attribute.g.output:
                value.name = names.get(value.name, value.name)
    return copy
