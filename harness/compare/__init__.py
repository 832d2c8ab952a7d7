"""Comparing a candidate's tensors with the reference's: metrics, gates, origins."""

from harness.compare.accumulator import Accumulator, compare, not_computed
from harness.compare.defaults import DEFAULT_GATES, default_gate, gates_for, options_for
from harness.compare.fill import find_fill
from harness.compare.gates import Gate, GateResult, check
from harness.compare.metrics import CompareOptions, Metrics
from harness.compare.origins import find_origins

__all__ = [
    "DEFAULT_GATES",
    "Accumulator",
    "CompareOptions",
    "Gate",
    "GateResult",
    "Metrics",
    "check",
    "compare",
    "default_gate",
    "find_fill",
    "find_origins",
    "gates_for",
    "not_computed",
    "options_for",
]
