"""What the number formats can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.tensors import Precision


@dataclass(frozen=True)
class NumberFormat:
    """One floating-point format.

    Args:
        name: how people call it.
        largest: its largest finite number.
        smallest: its smallest number above 0, subnormal numbers included.
        bits: significant bits of a normal number, the implicit one included.
    """

    name: str
    largest: float
    smallest: float
    bits: int

    def step(self, magnitude: float) -> float:
        """The distance between neighbouring numbers at `magnitude`."""
        if not 0 < magnitude < math.inf:
            return self.smallest
        return max(2.0 ** (math.floor(math.log2(magnitude)) - (self.bits - 1)), self.smallest)

    @property
    def normal(self) -> float:
        """The smallest normal number: below it, steps no longer shrink with the magnitude."""
        return self.smallest * 2.0 ** (self.bits - 1)

    @property
    def rounding(self) -> float:
        """The largest relative error of rounding a normal number to nearest."""
        return float(2.0**-self.bits)


_FP32 = NumberFormat("FP32", 3.4028234663852886e38, 2.0**-149, 24)
FORMATS: dict[Precision, NumberFormat] = {
    Precision.FP32: _FP32,
    Precision.TF32: NumberFormat("TF32", _FP32.largest, _FP32.smallest, 11),
    Precision.FP16: NumberFormat("FP16", 65504.0, 2.0**-24, 11),
    Precision.BF16: NumberFormat("BF16", 3.3895313892515355e38, 2.0**-133, 8),
    Precision.FP8: NumberFormat("FP8 (E4M3)", 448.0, 2.0**-9, 4),
    Precision.INT8: NumberFormat("INT8", 127.0, 1.0, 7),
}
