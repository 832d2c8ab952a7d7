"""Findings about the scales of Q/DQ nodes, and about pairs that stand where TensorRT has no use for them."""

from __future__ import annotations

from harness.compiler import GraphView, Kind
from harness.conversion.findings import Finding, FoundBy
from harness.model import Model
from harness.quantization import ScaleFault, find_misplaced, find_scale_faults

# What rules say already: zero points, and UINT8.
_SAID: dict[ScaleFault, tuple[Kind, str, str]] = {
    ScaleFault.ZERO: (
        Kind.DIFFERENT,
        "a scale is 0: what it divides becomes infinite or NaN",
        "calibrate again",
    ),
    ScaleFault.SUBNORMAL: (
        Kind.RISKY,
        "a scale is subnormal: GPUs may take it for 0",
        "calibrate again, or give what is 0 throughout a scale of 1",
    ),
    ScaleFault.NOT_FINITE: (Kind.DIFFERENT, "a scale is not finite", "calibrate again"),
    ScaleFault.NEGATIVE: (Kind.RISKY, "a scale is negative", "calibrate again"),
    ScaleFault.UNEVEN: (
        Kind.RISKY,
        "one scale for a weight whose channels differ by 100 times and more: small channels round to 0",
        "give each output channel a scale",
    ),
    ScaleFault.AXIS: (
        Kind.RISKY,
        "the scales of a weight do not lie along its output channels",
        "quantise it along the axis of the output channels",
    ),
}


def scale_findings(model: Model, graph: GraphView, environment: str | None = None) -> list[Finding]:
    """What is wrong with the Q/DQ nodes of a model at first sight."""
    if not model.quantized:
        return []

    def finding(code: str, kind: Kind, name: str, explanation: str, advice: str) -> Finding:
        view = graph.node(name)
        facts = None if view is None else view.facts()
        return Finding(code, kind, FoundBy.RULE, facts, environment, explanation=explanation, advice=advice)

    found = [
        finding(
            f"scale-{each.fault.value.replace('_', '-')}", kind, each.node, f"{text} ({each.pair})", advice
        )
        for each in find_scale_faults(model)
        if each.fault in _SAID
        for kind, text, advice in (_SAID[each.fault],)
    ]
    for pair in find_misplaced(model):
        where = f"put the pair on {pair.moved_to}" if pair.moved_to else "take the pair out"
        found.append(
            finding(
                "misplaced-pair",
                Kind.IMPROVABLE,
                pair.reader,
                f"it reads {pair.pair} dequantised, and computes in float: the pair costs accuracy, and parts kernels",
                where,
            )
        )
    return found
