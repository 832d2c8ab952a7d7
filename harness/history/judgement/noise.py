"""How far two releases may differ before it is more than noise.

Two builds of one network need not agree: the builder times its tactics anew, and sums are taken in another order.
So a difference must leave three bands, in this order:

1. **Exact.** The new release's values have the same bits as those of most of the older release's builds: `same`. Bits
   of any of them are enough where the error does not change by more than an effect (3).
2. **Noise.** From K builds of the older release with mean m and standard deviation s, the mean of n further builds
   of the same release lies within

       m ± t(K − 1) · s · √(1/K + 1/n)

   with a stated confidence, t being the quantile of Student's distribution (the prediction interval for the mean
   of further observations of a normal population: G. J. Hahn and W. Q. Meeker, "Statistical Intervals", 1991,
   section 4.7). The quantile pays for a small K: with 99 %, 8 standard deviations for 3 builds against 3, and 2.3
   for 6 against 6. One build leaves the noise unknown, and two say next to nothing of it (64).

   Builds that chose the same tactics have no deviation at all, and the next one may choose others: on an H200, three
   builds of a release gave 4.2e-4, 9.1e-4 and 4.2e-4. So where the newer release's builds differ among themselves,
   the band is at least that of Student's t-test for two samples, with the deviation s of both sides pooled:

       m ± t(K + n − 2) · s · √(1/K + 1/n)

   Earlier nights have a band of their own: `harness.history.judgement.nights`.

   A gate that held in every older build and breaks in a newer one is compared with the first band alone: a release
   that fails now and then would hide behind its own scatter.
3. **Effect.** The error changes by more than a quarter of itself, and by more than a floor for its precision: a
   tenth of the unit roundoff, and for FP32 sixteen of them, as sums in another order differ by that much. What a
   t-test alone would call certain, one ULP at an error that is otherwise always the same, ends here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np


def half_width(
    builds: np.ndarray,
    deviation: np.ndarray,
    further: np.ndarray,
    confidence: float,
    *,
    further_deviation: np.ndarray | None = None,
) -> np.ndarray:
    """Half the width of the band around the mean of some builds in which the mean of `further` builds lies.

    Args:
        builds: how many builds of the older release there are.
        deviation: their standard deviation, with `builds - 1` in its denominator; read where there are two.
        further: how many builds of the newer release there are.
        confidence: two-sided.
        further_deviation: likewise that of the further ones, pooled with the older ones' (Student's two-sample t-test);
            None is the prediction interval, from the older ones alone.

    Returns:
        NaN where single builds leave the noise unknown.
    """
    older, newer = np.maximum(builds - 1, 0), np.maximum(further - 1, 0)
    squares, freedom = older * np.where(older > 0, deviation, 0.0) ** 2, older
    if further_deviation is not None:
        squares = squares + newer * np.where(newer > 0, further_deviation, 0.0) ** 2
        freedom = older + newer
    spread = np.sqrt(1 / np.maximum(builds, 1) + 1 / np.maximum(further, 1))
    return np.asarray(quantiles(freedom, confidence) * np.sqrt(squares / np.maximum(freedom, 1)) * spread)


def quantiles(freedom: np.ndarray, confidence: float) -> np.ndarray:
    """`student` of each number of degrees of freedom; NaN where there are none."""
    counts, which = np.unique(np.maximum(freedom, 0), return_inverse=True)
    found = [student(int(count), confidence) if count else math.nan for count in counts]
    return np.array(found, dtype=np.float64)[which]


@lru_cache(maxsize=512)
def student(freedom: int, confidence: float) -> float:
    """The two-sided quantile of Student's t distribution: |t| stays below it with `confidence`.

    Exact for one and two degrees of freedom, else to three digits or better: G. W. Hill, "Algorithm 396: Student's
    t-quantiles", Communications of the ACM 13(10), 1970.
    """
    tails, n = 1 - confidence, freedom
    if n == 1:
        return 1 / math.tan(tails * math.pi / 2)
    if n == 2:
        return math.sqrt(2 / (tails * (2 - tails)) - 2)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * tails) ** (2 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tails / 2)
        y = x * x
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (
            n + 1
        ) / (n + 2) + 1 / y
    return math.sqrt(n * y)
