"""Names of nodes, those of local functions and of the bodies of If, Loop and Scan too: given, listed and counted.

`inline_functions` and `name_nodes` work on a model that is being loaded, the others on a loaded one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from harness.errors import ModelError
from harness.model import analysis
from harness.model.model import Model

_CALL = "harness.call."
_NAME = "harness.name"


def bodies_of(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The subgraphs of a node, each with the name of its attribute: `then_branch`, `body`."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for number, graph in enumerate(attribute.as_graphs()):
                yield f"{attribute.name}_{number}", graph


def inline_functions(model: ir.Model) -> ir.Model:
    """`model` with its local functions inlined; what they hold is named after the call, too: `norm_1/Mul_0`."""
    functions = set(model.functions)
    calls = 0
    # A node that is inlined keeps its own entries, and gets those of the calls around it, the outermost first.
    graphs: list[ir.Function | ir.Graph] = [*model.functions.values(), model.graph]
    for graph in graphs:
        for index, node in enumerate(ir.traversal.RecursiveGraphIterator(graph)):
            name = node.name or f"{node.op_type}_{index}"
            if graph is not model.graph:
                node.metadata_props[_NAME] = name
            if node.op_identifier() in functions:
                node.metadata_props[f"{_CALL}{calls}"] = name
                calls += 1
    model = common_passes.InlinePass()(model).model
    every = list(ir.traversal.RecursiveGraphIterator(model.graph))
    taken = {str(node.name) for node in every if _NAME not in node.metadata_props}
    for node in every:
        around = [key for key in node.metadata_props if key.startswith(_CALL)]
        path = [node.metadata_props.pop(key) for key in around]
        own_name = node.metadata_props.pop(_NAME, None)
        if own_name is not None:
            node.name = _free("/".join([*path, own_name]), taken)
    return model


def name_nodes(model: ir.Model, where: str) -> None:
    """Give each node without a name one: `Conv_12`, operator and position; in bodies `choose/then_branch/Mul_0`.

    Raises:
        ModelError: two nodes of the main graph have one name.
    """
    taken = {str(node.name) for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.name}
    _name_unnamed(model.graph, "", taken)
    seen: set[str | None] = set()
    for node in model.graph:
        if node.name in seen:
            raise ModelError(
                f"two nodes are named {node.name!r}",
                where=where,
                hint="give every node a name of its own, or none at all",
            )
        seen.add(node.name)


def _name_unnamed(nodes: Iterable[ir.Node], prefix: str, taken: set[str]) -> None:
    for index, node in enumerate(nodes):
        if not node.name:
            node.name = _free(f"{prefix}{node.op_type}_{index}", taken)
        for attribute, body in bodies_of(node):
            _name_unnamed(body, f"{node.name}/{attribute}/", taken)


def _free(candidate: str, taken: set[str]) -> str:
    """`candidate`, longer by as much as it takes to be the only one; it is then taken."""
    while candidate in taken:
        candidate += "_"
    taken.add(candidate)
    return candidate


@dataclass(frozen=True)
class InnerNode:
    """One node of a body that computes float32 tensors.

    Args:
        name: its own name, which another node may have, too.
        op: operator type.
        outputs: names of the float32 tensors that it writes.
    """

    name: str
    op: str
    outputs: tuple[str, ...]


def inner_nodes(model: Model, node: str) -> tuple[InnerNode, ...]:
    """The nodes in the bodies of `node`, at any depth, that compute float32 tensors; those that hold bodies are left
    out for what is in them. Empty for a node without bodies.

    Raises:
        NothingSelectedError: no node is named `node`.
    """
    model.check_nodes([node])
    proto = next(each for each in model.inferred.graph.node if each.name == node)
    return tuple(inside for body in analysis.bodies(proto) for inside in _inside(body))


def _inside(graph: onnx.GraphProto) -> Iterator[InnerNode]:
    dtypes = analysis.graph_dtypes(graph)
    for node in graph.node:
        bodies = list(analysis.bodies(node))
        for body in bodies:
            yield from _inside(body)
        floats = tuple(name for name in node.output if dtypes.get(name) == "float32")
        if floats and not bodies and node.op_type not in analysis.NEVER_LOWERED:
            yield InnerNode(node.name, node.op_type, floats)


def repeated_names(model: Model, names: Collection[str]) -> tuple[str, ...]:
    """Those of `names` that more than one node has, at any depth: such nodes cannot be named alone."""
    counts = Counter(node.name for node in analysis.all_nodes(model.skeleton.graph))
    return tuple(name for name in dict.fromkeys(names) if counts[name] > 1)


def named_nodes(proto: onnx.ModelProto) -> frozenset[str]:
    """The names of all nodes of `proto`, those in bodies included."""
    return frozenset(node.name for node in analysis.all_nodes(proto.graph))
