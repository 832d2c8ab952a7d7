"""What a cure is: rules that rewrite the graph, what they need, and where they are from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable, Ops

if TYPE_CHECKING:
    from onnxscript.rewriter import RewriterContext, RewriteRule

    from harness.model import Model

Built = ir.Value | Sequence[ir.Value] | None
Feeds = Mapping[str, np.ndarray]


class Against(StrEnum):
    """What a cure is for."""

    REFUSED = "refused"
    SILENT = "silently different"
    RISKY = "risky"


@dataclass(frozen=True)
class Pattern:
    """Some nodes, and what takes their place.

    Args:
        build: writes the replacement, given the last node of what was matched, and by name the values that `graph`
            binds; returns None, or raises Inapplicable, where it does not apply.
        operator: of a single node with any inputs and attributes.
        outputs: how many outputs such a node has at most.
        domain: of the operator.
        graph: onnxscript's pattern, instead of `operator`; its outputs are bound to `out0`.
    """

    build: Callable[..., Built]
    operator: str = ""
    outputs: int = 1
    domain: str = ""
    graph: Callable[..., ir.Value] | None = None


@dataclass(frozen=True)
class Cure:
    """A rewrite of the model, proved where it is used.

    Args:
        code: stable name.
        does: what it writes instead, in a few words.
        needs: what must hold.
        source: where the fault and the rewrite are from.
        against: what it cures.
        replaces: the operators of nodes that it replaces, where `patterns` do not name them; none: any.
        patterns: what it looks for, and what it writes.
        transform: instead of patterns: rewrites the whole graph, given the model and the nodes that are refused (None:
            unknown); None where it does not apply.
        calibrate: instead of patterns: rewrites the whole graph, given the model and samples of its inputs.
        where_refused: whether it is applied only to nodes that a compiler refuses, since some like them are taken.
        opset: the first that has what it writes; an older model is converted.
        where_finite: whether it may give a number where the original gives none; and then masks are drawn that leave
            something of every row.
        largest: magnitude of the largest numbers that its proof draws; what it is right for may end beyond.
    """

    code: str
    does: str
    needs: str
    source: str
    against: Against = Against.REFUSED
    replaces: tuple[str, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    transform: Callable[[Model, frozenset[str] | None], Transformed | None] | None = None
    calibrate: Callable[[Model, Sequence[Feeds]], Transformed | None] | None = None
    where_refused: bool = False
    opset: int = 0
    where_finite: bool = False
    largest: float = 1e4

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators of nodes that it replaces; none: any."""
        named = dict.fromkeys(pattern.operator for pattern in self.patterns if pattern.operator)
        return self.replaces or tuple(named)


@dataclass(frozen=True)
class Transformed:
    """What a transform made of a model.

    Args:
        graph: the new graph.
        nodes: names of the nodes that it replaced.
        batch: the one batch that the original takes, where the new graph takes any.
        plain: of what is calibrated: the graph that both the original and the new one round.
        calibrated: how many samples it was calibrated on.
        unseen: the samples that it was not.
    """

    graph: ir.Model
    nodes: tuple[str, ...]
    batch: int | None = None
    plain: ir.Model | None = None
    calibrated: int = 0
    unseen: tuple[Feeds, ...] = ()


@dataclass
class Applied:
    """What a set of rules did."""

    nodes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def rewrite_rules(cure: Cure, opset: int, only: frozenset[str] | None, applied: Applied) -> list[RewriteRule]:
    """The patterns of `cure` as rules of onnxscript's rewriter, which say in `applied` what they did.

    Args:
        cure: the cure.
        opset: that of the model.
        only: names of the nodes that may be replaced; None: all.
        applied: is filled.
    """
    from onnxscript.rewriter import RewriteRule

    rules: list[RewriteRule] = []
    for pattern in cure.patterns:
        for count in range(pattern.outputs, 0, -1):
            looked_for = pattern.graph or _single(pattern, count)
            replace = _replacement(pattern, count, opset, only, applied)
            rule = RewriteRule(looked_for, replace, name=cure.code)
            rules.extend(rule.commute() if pattern.graph else [rule])
    return rules


def _single(pattern: Pattern, count: int) -> Callable[..., ir.Value]:
    def looked_for(op: RewriterContext) -> ir.Value:
        found: ir.Value = getattr(op, pattern.operator)(
            _domain=pattern.domain,
            _allow_other_inputs=True,
            _allow_other_attributes=True,
            _outputs=[f"out{index}" for index in range(count)],
        )
        return found

    return looked_for


def _replacement(
    pattern: Pattern, count: int, opset: int, only: frozenset[str] | None, applied: Applied
) -> Callable[..., Built]:
    def replace(tape: RewriterContext, out0: ir.Value, **bound: ir.Value) -> Built:
        node = out0.producer()
        assert node is not None
        name = str(node.name)
        if len(node.outputs) < count or (only is not None and name not in only):
            return None  # onnxscript matches a node with fewer outputs, too
        try:
            built = pattern.build(Ops(tape, opset), node, **(bound if pattern.graph else {}))
        except Inapplicable as error:
            applied.reasons[name] = str(error)
            return None
        if built is None:
            return None
        values = [built] if isinstance(built, ir.Value) else list(built)
        made = {id(output) for new in tape.nodes for output in new.outputs}
        values = [value if id(value) in made else tape.Identity(value) for value in values]
        for index, new in enumerate(tape.nodes):
            new.name = f"{name}/{new.op_type}_{index}"
        applied.nodes.append(name)
        return values

    return replace
