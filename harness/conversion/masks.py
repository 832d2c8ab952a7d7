"""Findings about numbers that mask scores before a Softmax, and are infinite at the precision asked for."""

from __future__ import annotations

import numpy as np

from harness.compiler import FindingKind, GraphView
from harness.conversion.cures import Breaks, masking_numbers
from harness.conversion.findings import Finding, FoundBy
from harness.model import LOW_DTYPE, Model, round_array
from harness.tensors import Precision

MASK_BEYOND = "mask-beyond-precision"
_BREAKS = {
    Breaks.PRODUCT: "times 0 it is NaN",
    Breaks.ROWS: "a row that is masked throughout is NaN",
    Breaks.RAISED: "the Softmax of a row with a score that it raises is NaN",
}


def mask_findings(
    model: Model, graph: GraphView, precision: Precision | None, environment: str | None = None
) -> list[Finding]:
    """The numbers that mask and are infinite at `precision`, where something becomes NaN by that."""
    if precision not in LOW_DTYPE:
        return []
    found = []
    for each in masking_numbers(model):
        rounded = round_array(np.array([each.value], np.float32), precision)
        if np.isfinite(rounded).all() or each.breaks is Breaks.NOTHING:
            continue
        found.append(
            Finding(
                MASK_BEYOND,
                FindingKind.RISKY,
                FoundBy.RULE,
                graph.facts(each.node),
                environment,
                explanation=f"masks with {each.value:.3g}, which is infinite at {precision}: {_BREAKS[each.breaks]}",
                advice="mask with -10000, as `harness check --fix` writes it where that is proved",
                source="microsoft/onnxscript issues 2479 and 2561",
            )
        )
    return found
