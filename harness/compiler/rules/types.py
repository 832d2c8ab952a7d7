"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.compiler.facts import RTX, FindingKind, NodeFacts, Releases
from harness.compiler.rules.view import GraphView, NodeView
from harness.worker.protocol import TENSORRT

MEASURED = (
    "measured: TensorRT for RTX 1.4.0.76, 1.6.1.120 and 1.7.1.116 on the operator models of onnx 1.23.2"
)
DOCUMENTED = "onnx-tensorrt 10.1, docs/operators.md"
MEASURED_AND_DOCUMENTED = f"{MEASURED}; {DOCUMENTED}"

ALSO_TENSORRT = (RTX, Releases(TENSORRT, last="10.1"))
"""Measured on TensorRT for RTX, and documented of TensorRT up to the release whose document is cited."""


@dataclass(frozen=True)
class Rule:
    """One thing that is known of an operator, or of tensors that any operator reads and writes.

    Args:
        code: stable, and a finding's.
        kind: what becomes of a node that it holds of.
        ops: the operators of ONNX that it is about; empty: any, of any domain.
        when: whether it holds of a node of those; None: it is about the model as a whole.
        explanation: one sentence, without a final full stop.
        source: how it is known.
        advice: what to do, one sentence without a final full stop.
        releases: of which it holds.
        of_model: whether it holds of a model as a whole, where that is what it is about.
        hint: what to do about one node, where that says more than `advice`.
    """

    code: str
    kind: FindingKind
    ops: tuple[str, ...]
    when: Callable[[NodeView], bool] | None
    explanation: str
    source: str = MEASURED
    advice: str = ""
    releases: tuple[Releases, ...] = (RTX,)
    of_model: Callable[[GraphView], bool] | None = None
    hint: Callable[[NodeView], str] | None = None

    def include(self, product: str, release: str) -> bool:
        """Whether it holds of a release."""
        return any(each.include(product, release) for each in self.releases)


@dataclass(frozen=True)
class Match:
    """A rule that holds of a node; None: of the model as a whole.

    Args:
        rule: the rule.
        node: the node.
        advice: what to do.
    """

    rule: Rule
    node: NodeFacts | None
    advice: str


def always(_: NodeView) -> bool:
    """The rule holds of every node of its operators."""
    return True
