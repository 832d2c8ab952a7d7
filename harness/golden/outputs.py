"""What is kept of an output, whether a fresh output is still the same, and what that makes of a whole reference.

An output of up to `WHOLE_BYTES` is kept whole. Of a larger one, goldens being files that people review and clone,
a hash, a few statistics and `SAMPLED` of its elements are kept: the hash tells whether a bit changed, the elements
and statistics by about how much. The elements are those of a Weyl sequence: spread evenly, the same on every
machine and in every NumPy release.

Two outputs are equal up to rounding when nrmse ≤ `ROUNDING`, or the resolution of the dtype where that is coarser.
ONNX Runtime's FP32 kernels differ between processors and releases by the order in which they sum, which moves deep
networks by some 10⁻⁶. Integers and bools must be equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import ml_dtypes
import numpy as np
from pydantic import BaseModel, ConfigDict

from harness.comparison import compare_tensors
from harness.tensors import dtype_name, hash_array, is_float
from harness.text import plural

WHOLE_BYTES = 64 << 10
SAMPLED = 2048
ROUNDING = 1e-5
# The extremes of a tensor are single elements: they move further than its root mean square does.
_EXTREMES = 100
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class GoldenState(StrEnum):
    """How the fresh outputs compare with the golden ones."""

    SAME = "same"
    """The same bits."""
    ROUNDING = "rounding"
    """Other bits, but no more than another processor or release of ONNX Runtime may round differently."""
    CHANGED = "changed"
    """Another answer."""
    MISSING = "missing"
    """There is no golden reference of this case."""


@dataclass(frozen=True)
class Difference:
    """Something that is not what it was when the golden reference was written.

    Args:
        what: `model`, `inputs`, `ONNX Runtime`, `processor`, or `output 'name' of sample n`.
        detail: from what to what, or by how much.
        rounding: whether it is no more than another order of summation makes.
    """

    what: str
    detail: str
    rounding: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


@dataclass(frozen=True)
class GoldenStatus:
    """A fresh reference compared with the golden one.

    Args:
        case: name of the case.
        state: how the outputs compare.
        causes: what else differs from when the golden reference was written: the model, the inputs, the
            release of ONNX Runtime, the processor.
        outputs: the outputs that are not the same bits.
    """

    case: str
    state: GoldenState
    causes: tuple[Difference, ...] = ()
    outputs: tuple[Difference, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the answer is the golden one, up to rounding."""
        return self.state in (GoldenState.SAME, GoldenState.ROUNDING)

    @property
    def message(self) -> str | None:
        """One line for a person: what changed, and why if that is known. None if the bits are the same."""
        if self.state is GoldenState.SAME:
            return None
        if self.state is GoldenState.MISSING:
            return "there is no golden reference yet; --golden-update writes one"
        if self.state is GoldenState.ROUNDING:
            return f"the reference is rounded differently from the golden one: {self._evidence}"
        return f"the reference is not the golden one any more: {self._evidence}"

    @property
    def _evidence(self) -> str:
        worst_first = sorted(self.outputs, key=lambda output: output.rounding)
        shown = "; ".join(map(str, worst_first[:2]))
        if len(self.outputs) > 2:
            shown += f"; and {plural(len(self.outputs) - 2, 'more output')}"
        if not self.causes:
            return f"{shown}. Model, inputs, ONNX Runtime and processor are the same"
        return f"{shown}. Changed since then: {'; '.join(map(str, self.causes))}"


class Statistics(BaseModel):
    """Of the finite elements of an output, in float64."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min: float
    max: float
    mean: float
    rms: float
    nonfinite: int


class KeptOutput(BaseModel):
    """What stands in the JSON of one output of one sample."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sample: int
    tensor: str
    dtype: str
    shape: list[int]
    sha256: str
    kept: Literal["whole", "elements"]
    statistics: Statistics

    @property
    def key(self) -> str:
        """The name under which the values stand in the tensor file."""
        return f"{self.sample}/{self.tensor}"

    def difference(self, detail: str, *, rounding: bool = False) -> Difference:
        """A difference of this output."""
        return Difference(f"output {self.tensor!r} of sample {self.sample}", detail, rounding)

    def describes(self, stored: np.ndarray) -> bool:
        """Whether `stored` are the values that were stored with this description."""
        if self.kept == "whole":
            shape, known = tuple(self.shape), hash_array(stored) == self.sha256
        else:
            shape, known = _places(math.prod(self.shape)).shape, True
        return known and (dtype_name(stored.dtype), stored.shape) == (self.dtype, shape)


def keep(sample: int, tensor: str, values: np.ndarray) -> tuple[KeptOutput, np.ndarray]:
    """The description of an output, and the values to store."""
    whole = values.nbytes <= WHOLE_BYTES
    described = KeptOutput(
        sample=sample,
        tensor=tensor,
        dtype=dtype_name(values.dtype),
        shape=list(values.shape),
        sha256=hash_array(values),
        kept="whole" if whole else "elements",
        statistics=_statistics(values),
    )
    return described, values if whole else _elements(values)


def difference(kept: KeptOutput, stored: np.ndarray, fresh: np.ndarray) -> Difference | None:
    """How `fresh` differs from the output that was kept; None if not a bit does.

    Args:
        kept: the description of the golden output.
        stored: the values that were stored with it.
        fresh: the whole fresh output.
    """
    if dtype_name(fresh.dtype) != kept.dtype or list(fresh.shape) != kept.shape:
        return kept.difference(f"{kept.dtype}{kept.shape} is {fresh.dtype.name}{list(fresh.shape)} now")
    if hash_array(fresh) == kept.sha256:
        return None
    metrics = compare_tensors(fresh if kept.kept == "whole" else _elements(fresh), stored)
    if not is_float(fresh.dtype):
        return kept.difference(f"{metrics.mismatch_fraction:.2%} of the elements differ")
    if metrics.nonfinite:
        return kept.difference(f"{metrics.nonfinite} elements are not finite as they were")
    limit = max(ROUNDING, float(ml_dtypes.finfo(fresh.dtype).eps))
    moved = _moved(kept.statistics, _statistics(fresh), limit)
    if metrics.nrmse <= limit and moved is not None:  # in elements that were not kept
        return kept.difference(moved)
    return kept.difference(
        f"nrmse {metrics.nrmse:.2g}, largest error {metrics.max_abs:.2g}", rounding=metrics.nrmse <= limit
    )


def _elements(values: np.ndarray) -> np.ndarray:
    elements: np.ndarray = values.reshape(-1)[_places(values.size)]
    return elements


def _places(size: int) -> np.ndarray:
    """Which elements are kept of `size`: the Weyl sequence of the golden ratio, each once, in their order."""
    fractions = np.modf((np.arange(SAMPLED) + 0.5) * _GOLDEN_RATIO)[0]
    return np.unique((fractions * size).astype(np.int64))


def _statistics(values: np.ndarray) -> Statistics:
    flat = values.reshape(-1).astype(np.float64)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return Statistics(min=0.0, max=0.0, mean=0.0, rms=0.0, nonfinite=flat.size)
    return Statistics(
        min=float(finite.min()),
        max=float(finite.max()),
        mean=float(finite.mean()),
        rms=math.sqrt(float(np.mean(finite * finite))),
        nonfinite=flat.size - finite.size,
    )


def _moved(golden: Statistics, fresh: Statistics, limit: float) -> str | None:
    """Which statistic moved by more than rounding, from where to where."""
    far = max(abs(golden.min), abs(golden.max)) * limit * _EXTREMES
    near = golden.rms * limit
    limits = {"min": far, "max": far, "mean": near, "rms": near, "nonfinite": 0.0}
    for name, allowed in limits.items():
        before, now = getattr(golden, name), getattr(fresh, name)
        if abs(now - before) > allowed:
            return f"{name} {before:.6g} is {now:.6g} now"
    return None
