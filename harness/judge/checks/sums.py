"""What adding up FP16 products in FP16 costs a run by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from harness.comparison import compare_tensors
from harness.judge.results import OutputResult
from harness.judge.workbench import Workbench
from harness.tensors import Accumulate, Precision
from harness.text import magnitude

MUCH = 2.0
"""FP16 sums are told where they make the emulated error so many times as large: more than half of it is theirs."""

CURE = (
    "Casts to FP32 around the products, whose weights stay in FP16, cure it at the same speed on TensorRT for RTX 1.6; "
    "1.4 leaves them out around matrix products"
)


def cost_of_sums(bench: Workbench, precision: Precision, outputs: Sequence[OutputResult]) -> str | None:
    """A warning where FP16 sums are most of an error that counts; None where they are not.

    Args:
        bench: the case, whose emulator assumes what it does.
        precision: the precision under test.
        outputs: of the candidate.
    """
    finite = [
        output for output in outputs if output.metrics.nonfinite == 0 and output.metrics.failure is None
    ]
    worst = max(finite, key=lambda output: output.metrics.nrmse, default=None)
    if bench.assumed.accumulate is not Accumulate.FP16 or precision is not Precision.FP16 or worst is None:
        return None
    feeds, reference = bench.feeds[worst.sample], bench.expected[worst.sample][worst.tensor]
    plain = bench.emulator_with(replace(bench.assumed, accumulate=Accumulate.FP32))
    both = bench.emulated(precision, worst.sample), plain.attempt(feeds, precision)
    found = [computed.tensors.get(worst.tensor) for computed in both]
    low, high = (inf if value is None else compare_tensors(value, reference).nrmse for value in found)
    if not low > MUCH * high or worst.metrics.nrmse <= high:
        return None
    return (
        f"more than half of the error of {worst.tensor} comes from adding up FP16 products in FP16: "
        f"nrmse {magnitude(low)} emulated, and {magnitude(high)} with FP32 sums. {CURE}"
    )
