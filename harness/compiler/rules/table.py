"""All rules, and which of them hold of the nodes of a model."""

from __future__ import annotations

from collections.abc import Iterator

from harness.compiler.rules import (
    arithmetic,
    attention,
    control,
    dtypes,
    indexing,
    normalization,
    operators,
    pooling,
    quantization,
    resizing,
    shapes,
    versions,
)
from harness.compiler.rules.types import Match, Rule
from harness.compiler.rules.view import GraphView, NodeView
from harness.model import Model

RULES: tuple[Rule, ...] = (
    *operators.RULES,
    *dtypes.RULES,
    *attention.RULES,
    *control.RULES,
    *normalization.RULES,
    *pooling.RULES,
    *indexing.RULES,
    *resizing.RULES,
    *shapes.RULES,
    *arithmetic.RULES,
    *quantization.RULES,
    *versions.RULES,
)


def match_rules(model: Model | GraphView) -> tuple[Match, ...]:
    """The rules that hold of `model` and of its nodes, of any release, in the order of the nodes."""
    graph = GraphView(model) if isinstance(model, Model) else model
    of_model = (
        Match(rule, None, rule.advice) for rule in RULES if rule.of_model is not None and rule.of_model(graph)
    )
    of_nodes = (
        Match(rule, view.facts(), rule.advice if rule.hint is None else rule.hint(view))
        for view in graph.nodes
        for rule in _holding(view)
    )
    return (*of_model, *of_nodes)


_ANY = tuple(rule for rule in RULES if not rule.ops)
_BY_OP: dict[str, tuple[Rule, ...]] = {
    op: tuple(rule for rule in RULES if op in rule.ops) for rule in RULES for op in rule.ops
}


def _holding(node: NodeView) -> Iterator[Rule]:
    own = () if node.domain else _BY_OP.get(node.op, ())
    return (rule for rule in (*own, *_ANY) if rule.when is not None and rule.when(node))
