"""Comparing a candidate's tensors with the reference's: metrics, gates, origins."""

from harness.compare.accumulator import Accumulator, compare
from harness.compare.gates import Gate, GateResult, check
from harness.compare.metrics import CompareOptions, Metrics
from harness.compare.origins import find_origins

__all__ = [
    "Accumulator",
    "CompareOptions",
    "Gate",
    "GateResult",
    "Metrics",
    "check",
    "compare",
    "find_origins",
]
