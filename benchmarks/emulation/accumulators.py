"""FP16 accumulators in NumPy: what engines and the emulator's graphs are held to, bit by bit."""

from __future__ import annotations

import numpy as np

from harness.model import DEPTH
from harness.model.sums.emitting import parts_of


@np.errstate(over="ignore", invalid="ignore")
def accumulate_in_fp16(left: np.ndarray, right: np.ndarray, *, parts: int = 1) -> np.ndarray:
    """The product of two matrices as an FP16 accumulator gives it.

    Args:
        left: (rows, terms), values of FP16.
        right: (terms, columns), likewise.
        parts: into how many parts the terms are split: see `parts_of`. Their sums are added in FP16, those beyond a
            power of two to the first ones, then half to half.

    Returns:
        (rows, columns) of float64 that hold FP16 values; not finite where the accumulator overflowed.
    """
    places = parts_of(left.shape[1], parts) if parts > 1 else [(0, left.shape[1])]
    sums = np.zeros((parts, left.shape[0], right.shape[1]))
    for part, (start, end) in enumerate(places):
        for first in range(start, end, DEPTH):
            terms = slice(first, min(first + DEPTH, end))
            # 16 products of FP16 values: float64 holds their sum exactly unless they differ by more than 2**30.
            exact = left[:, terms].astype(np.float64) @ right[terms].astype(np.float64)
            sums[part] = _rounded(sums[part] + exact)
    power = 1 << parts.bit_length() - 1
    sums[: parts - power] = _rounded(sums[: parts - power] + sums[power:])
    sums = sums[:power]
    while len(sums) > 1:
        sums = _rounded(sums[: len(sums) // 2] + sums[len(sums) // 2 :])
    result: np.ndarray = sums[0]
    return result


def _rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)
