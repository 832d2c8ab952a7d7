"""Findings about the scales of Q/DQ nodes, and about pairs that stand where TensorRT has no use for them."""

from __future__ import annotations

from functools import partial

import numpy as np

from harness.compiler import FindingKind, GraphView
from harness.conversion.findings import Finding, FoundBy
from harness.model import Model
from harness.quantization import ScaleFault, find_misplaced, find_scale_faults

_MEASURED = "measured: TensorRT for RTX 1.4 to 1.7, and 1.4, 1.6 and TensorRT 8.6.0 on an H200"
_POSITIVE = "parsers take positive scales only"

# What rules say already: zero points, and UINT8.
_SAID: dict[ScaleFault, tuple[FindingKind, str, str]] = {
    ScaleFault.ZERO: (FindingKind.REFUSED, f"a scale is 0: {_POSITIVE}", "calibrate again"),
    ScaleFault.SUBNORMAL: (
        FindingKind.RISKY,
        "a scale is subnormal: GPUs may take it for 0",
        "calibrate again, or give tensors that are 0 throughout a scale of 1",
    ),
    ScaleFault.NOT_FINITE: (
        FindingKind.RISKY,
        "a scale is infinite: what it dequantises is NaN, or 0 on TensorRT 8.6",
        "calibrate again",
    ),
    ScaleFault.NEGATIVE: (FindingKind.REFUSED, f"a scale is negative: {_POSITIVE}", "calibrate again"),
    ScaleFault.UNEVEN: (
        FindingKind.RISKY,
        "one scale for a weight whose channels differ by 100 times and more: small channels round to 0",
        "give each output channel a scale",
    ),
    ScaleFault.AXIS: (
        FindingKind.RISKY,
        "the scales of a weight do not lie along its output channels",
        "quantise it along the axis of the output channels",
    ),
}
_MISPLACED = (
    "it reads a dequantised tensor, and computes in float: the pair costs accuracy, and splits kernels"
)
_WANTED = "the product that reads it is computed in float"
_MISPLACED_CODE = "misplaced-pair"
_CODES_MEASURED = ("scale-zero", "scale-negative", "scale-not-finite")


def _code(fault: ScaleFault) -> str:
    return f"scale-{fault.value.replace('_', '-')}"


SCALE_CODES = (*map(_code, _SAID), _MISPLACED_CODE)


def scale_findings(model: Model, graph: GraphView, environment: str | None = None) -> list[Finding]:
    """What is wrong with the Q/DQ nodes of a model at first sight."""
    if not model.quantized:
        return []
    finding = partial(Finding, found_by=FoundBy.RULE, environment=environment)
    found = []
    for each in find_scale_faults(model):
        if each.fault in _SAID:
            kind, text, advice = _SAID[each.fault]
            if np.isnan(each.value):
                kind, text = FindingKind.REFUSED, f"a scale is NaN: {_POSITIVE}"
            code, node = _code(each.fault), graph.facts(each.node)
            source = _MEASURED if code in _CODES_MEASURED else ""
            found.append(finding(code, kind, node=node, explanation=text, advice=advice, source=source))
    for pair in find_misplaced(model):
        explanation, advice = _MISPLACED, "take the pair out"
        if pair.moved_to is not None:
            explanation += f"; {_WANTED}"
            advice = "move the pair in front of the product behind it"
        node = graph.facts(pair.reader)
        found.append(
            finding(
                _MISPLACED_CODE, FindingKind.IMPROVABLE, node=node, explanation=explanation, advice=advice
            )
        )
    return found
