"""Fill values: what a mask writes over a part of a tensor, so large that it hides the rest from errors over all of it.

Logits of which half are -1e4 have an rms of 7e3. Whatever becomes of the other half is nothing beside that.
"""

from __future__ import annotations

import numpy as np

ALIKE = 1e-3
"""A fill differs from the largest element by no more than this share: a mask that is added leaves the sums so."""

ABOVE = 16.0
"""It is so many times as large as all that is no fill."""

SIZE = 100.0
"""It is at least so large: what saturates at 1, as probabilities do, was computed, and is no mask."""

LEAST = 0.01
"""It has at least this share of the elements, and two of them."""

_PROBE = 1 << 16


def find_fill(tensor: np.ndarray) -> np.ndarray | None:
    """Which elements of `tensor` are a fill, as bools of its shape; None if it has none.

    A fill is a group of elements that are alike in sign and size, at least 1 % of all, beyond 100, and more than 16
    times as large as every other element that is finite.
    """
    if tensor.dtype.kind != "f" or tensor.size < 4 or not _may_have_one(tensor):
        return None
    values = tensor.astype(np.float64, copy=False)
    finite = np.isfinite(values)
    sizes = np.where(finite, np.abs(values), 0.0)
    fill = _fill(values, sizes)
    others = sizes[~fill & finite]
    if np.count_nonzero(fill) < max(2, LEAST * tensor.size) or not others.size:
        return None
    return fill if sizes.max() >= SIZE and 0.0 < others.max() * ABOVE < sizes.max() else None


def _fill(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    largest = sizes.max()
    sign = np.sign(values.flat[int(np.argmax(sizes))])
    near: np.ndarray = (sizes >= largest * (1 - ALIKE)) & (np.sign(values) == sign) & (sizes > 0)
    return near


def _may_have_one(tensor: np.ndarray) -> bool:
    """Whether a sample of a large tensor has one: most have none, and need not be looked at as a whole."""
    if tensor.size <= _PROBE:
        return True
    places = np.random.default_rng(0).integers(0, tensor.size, _PROBE)
    sample = tensor.reshape(-1)[places].astype(np.float64)
    sizes = np.where(np.isfinite(sample), np.abs(sample), 0.0)
    fill = _fill(sample, sizes)
    return bool(
        np.count_nonzero(fill) >= LEAST * _PROBE / 2 and sizes[~fill].max(initial=0.0) * ABOVE < sizes.max()
    )
