"""Whether looking at an engine changed it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SAME_FAULT = (
    0.5  # an observed error vector this near the unobserved one, relative to its length, is the same fault
)


def is_faithful(
    observed: Mapping[str, np.ndarray],
    unobserved: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    limits: Mapping[str, float],
) -> bool:
    """Whether the observed engine's real outputs equal the unobserved engine's within the noise.

    Two builds of a sound engine differ by rounding, so a difference below what the gates let pass is noise. Beyond
    it both must show the same fault: non-finite values in mostly the same places, and elsewhere error vectors that
    differ by less than half of the unobserved error.

    Args:
        observed: outputs of the engine whose intermediate tensors were read.
        unobserved: outputs of the engine that a user would deploy.
        reference: outputs in FP32.
        limits: for each output, the root mean square error that its gates let pass.
    """
    return all(
        _same(
            np.asarray(observed[name], dtype=np.float64),
            np.asarray(unobserved[name], dtype=np.float64),
            np.asarray(reference[name], dtype=np.float64),
            limits.get(name, 0.0),
        )
        for name in unobserved
        if name in observed
    )


def _same(observed: np.ndarray, unobserved: np.ndarray, reference: np.ndarray, limit: float) -> bool:
    if observed.shape != unobserved.shape:
        return False
    if unobserved.shape != reference.shape:
        return True  # the fault is the shape, and it is the same
    broken, seen_broken = _broken(unobserved, reference), _broken(observed, reference)
    if (broken & seen_broken).sum() < SAME_FAULT * (broken | seen_broken).sum():
        return False
    finite = np.isfinite(unobserved) & np.isfinite(observed) & np.isfinite(reference)
    if broken.any() or not finite.any():
        return True  # what is left beside infinities and NaN says little of the fault
    difference = _rms(observed[finite] - unobserved[finite])
    error = _rms(unobserved[finite] - reference[finite])
    return difference <= max(limit, SAME_FAULT * error)


def _broken(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Where one is not finite and the other not the same: an infinity of the reference is no fault."""
    return ~(np.isfinite(values) & np.isfinite(reference)) & (values != reference)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values * values)))
