"""What the number formats can hold, what a tensor holds, and what becomes of that in a format."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harness.model import round_array
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


@dataclass(frozen=True)
class TensorRange:
    """What one tensor holds in FP32, and what becomes of it in a format. Over finite elements.

    Args:
        name: name of the tensor.
        largest: largest magnitude.
        typical: root mean square.
        smallest: smallest magnitude above 0; 0 if all are 0.
        overflowing: share of the elements that become infinite in the format.
        flushed: share of the elements other than 0 that become 0 in the format.
        constant: whether it is an initializer or a constant.
        extreme: the element with the largest magnitude, with its sign.
        peak: largest magnitude of what is largest along the axis: of a softmax's inputs, those that count.
        underflow: nrmse of rounding the elements that are too small for a normal number of the format.
        rounding: root mean square of what rounding changes the elements by that stay finite.
        whole: whether all are whole numbers.
    """

    name: str
    largest: float
    typical: float
    smallest: float
    overflowing: float = 0.0
    flushed: float = 0.0
    constant: bool = False
    extreme: float = 0.0
    peak: float = 0.0
    underflow: float = 0.0
    rounding: float = 0.0
    whole: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        arrays: Iterable[np.ndarray],
        precision: Precision,
        *,
        constant: bool = False,
        axis: int = -1,
    ) -> TensorRange:
        """Measure one tensor over all samples.

        Args:
            name: name of the tensor.
            arrays: its values, sample by sample.
            precision: the format.
            constant: whether it is an initializer or a constant.
            axis: the axis of `peak`.
        """
        samples = [np.asarray(array, dtype=np.float32) for array in arrays]
        values = [array.reshape(-1) for array in samples]
        flat = np.concatenate(values) if values else np.zeros(0, dtype=np.float32)
        signed = flat[np.isfinite(flat)]
        if not signed.size:
            return cls(name, 0.0, 0.0, 0.0, constant=constant)
        flat = np.abs(signed)
        rounded = round_array(flat, precision)
        nonzero = flat > 0
        count = int(nonzero.sum())
        exact = flat.astype(np.float64)
        power = float(np.square(exact).sum())
        stays = np.isfinite(rounded)
        apart = np.where(stays, rounded, flat).astype(np.float64) - exact
        tiny = apart[flat < FORMATS[precision].normal]
        return cls(
            name=name,
            largest=float(flat.max()),
            typical=float(np.sqrt(power / flat.size)),
            smallest=float(flat[nonzero].min()) if count else 0.0,
            overflowing=float(np.mean(~stays)),
            flushed=float(np.sum((rounded == 0) & nonzero) / count) if count else 0.0,
            constant=constant,
            extreme=float(signed[np.argmax(flat)]),
            peak=max(map(_peak, samples, [axis] * len(samples))),
            underflow=float(np.sqrt(np.square(tiny).sum() / power)) if power else 0.0,
            rounding=float(np.sqrt(np.mean(apart * apart))),
            whole=bool((flat == np.rint(flat)).all()),
        )


def _peak(array: np.ndarray, axis: int) -> float:
    if not array.size:
        return 0.0
    tops = array.max(axis=axis if -array.ndim <= axis < array.ndim else -1) if array.ndim else array
    tops = tops[np.isfinite(tops)]
    return float(np.abs(tops).max()) if tops.size else 0.0
