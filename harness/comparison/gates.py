"""The default gates, in one table, and how a case's tolerances replace them.

The emulator is compared with an absolute bound on nrmse (rmse over the reference's root mean square) at each
precision. An engine is compared with the emulator at the same precision:

    rmse(engine) ≤ factor · min(rmse(emulator), bound · rms(reference)) + floor · rms(reference)

so that it may err as the precision must, a little more for other orders of summation, and no further. The
emulator's error counts only as far as its own bound: a fault that the emulator predicts does not excuse the engine.
The form is that of PyTorch's `same()` with an FP64 reference and of AWS Neuron's ratio of errors.

Integers and bools must be equal, but for outputs of QuantizeLinear nodes (`TensorGates` of the judge). Besides, a value
that is not finite where the reference is, or the other way round, fails whatever the gates say. cosine is never a
default: an absolute error of 26 can have a cosine of 1.0.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from harness.case import MetricLimits
from harness.comparison.metrics import ALIKE, CompareOptions, Metrics
from harness.errors import UsageError
from harness.tensors import UNLESS_DEFAULT, Precision

LOWER_BOUNDED = frozenset({"cosine", "sqnr_db", "psnr_db", "topk_agreement"})
"""The metrics that are better when larger: a gate on them is a lower limit."""

UPPER_BOUNDED = frozenset(
    {
        "max_abs",
        "mean_abs",
        "max_rel",
        "rmse",
        "nrmse",
        "abs_quantile",
        "max_ulp",
        "p99_ulp",
        "mismatch_fraction",
        "nan_count",
        "inf_count",
        "overflow_count",
        "subnormal_count",
        "nonfinite",
        "headroom",
        "slice_nrmse",
    }
)
"""The metrics that are better when smaller."""

SHAPE = "shape"
"""The gate that a tensor fails whose shape is not the reference's."""

SLICE = "slice_nrmse"
"""The metric of the gate on the worst slice."""

UNMASKED = "unmasked_"
"""Before the metric of a gate that leaves a fill value out: see find_fill."""

COMPUTED = "computed"
"""The gate that a tensor fails which the candidate could not compute."""


@dataclass(frozen=True)
class Gate:
    """A threshold: an upper limit, or a lower one for the metrics in LOWER_BOUNDED. The limit itself passes.

    Args:
        metric: name of the metric.
        limit: the threshold.

    Raises:
        UsageError: there is no such metric to put a gate on, or the limit is NaN.
    """

    metric: str
    limit: float

    def __post_init__(self) -> None:
        known = UPPER_BOUNDED | LOWER_BOUNDED
        if self.metric not in known:
            near = difflib.get_close_matches(self.metric, known, n=1)
            raise UsageError(
                f"there is no gate on {self.metric!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(sorted(known))}",
            )
        if math.isnan(self.limit):
            raise UsageError(f"the limit of the gate on {self.metric!r} is NaN: nothing would ever pass")

    def check(self, metrics: Metrics) -> GateResult:
        """Check `metrics` against this gate. A value that is NaN or does not apply never passes."""
        found = getattr(metrics, self.metric)
        value = math.nan if found is None else float(found)
        passed = value >= self.limit if self.metric in LOWER_BOUNDED else value <= self.limit
        worst = metrics.worst_slice if self.metric == SLICE else None
        return GateResult(self.metric, self.limit, value, passed, slice=None if worst is None else str(worst))


@dataclass(frozen=True)
class GateResult:
    """A gate, the value that met it, and whether it passed. The value is NaN where the metric does not apply.

    `part` is the tensor within an output that it is about, `slice` the slice of either: `[:, 4, :]`.
    """

    metric: str
    limit: float
    value: float
    passed: bool
    part: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    slice: str | None = field(default=None, metadata=UNLESS_DEFAULT)

    @property
    def subject(self) -> str:
        """What is compared with the limit: `nrmse`, `nrmse of scores`, `nrmse of scores[:, 4, :]`."""
        if self.part is None and self.slice is None:
            return self.metric
        metric = "nrmse" if self.metric == SLICE else self.metric
        return f"{metric} of {self.part or ''}{self.slice or ''}"

    @property
    def is_relative(self) -> bool:
        """Whether its value is an nrmse: of the whole, of a slice, or without a fill value."""
        return self.metric in (SLICE, "nrmse", f"{UNMASKED}nrmse")

    @property
    def as_worst(self) -> str:
        """What is said of a slice that stands out of a whole that fails: `; worst in [:, 4, :], nrmse 1`."""
        return f"; worst in {self.slice}, {self.metric.removeprefix('slice_')} {self.value:.3g}"

    @property
    def excess(self) -> float:
        """The value as a multiple of the limit: up to 1 passes."""
        if math.isnan(self.value):
            return math.inf
        if self.metric in ("sqnr_db", "psnr_db"):
            return float(10.0 ** ((self.limit - self.value) / 20))
        value, limit = self.value, self.limit
        if self.metric in LOWER_BOUNDED:
            value, limit = 1 - value, 1 - limit
        if limit > 0:
            return value / limit
        return 0.0 if self.passed else math.inf


def excess(gates: Iterable[GateResult]) -> float:
    """How far the worst gate is beyond its limit, as a multiple of it; 0 without gates."""
    return max((gate.excess for gate in gates), default=0.0)


def apply_gates(metrics: Metrics, gates: Iterable[Gate]) -> tuple[GateResult, ...]:
    """Check `metrics` against every gate, in their order; before them come the gates that no case needs to name.

    A tensor of another shape fails `SHAPE`, one that could not be computed `COMPUTED`, whatever the gates say.
    """
    return (*_incomparable(metrics), *(gate.check(metrics) for gate in gates))


def _incomparable(metrics: Metrics) -> tuple[GateResult, ...]:
    if metrics.incomparable is None:
        return ()
    return (GateResult(SHAPE if metrics.failure is None else COMPUTED, 0.0, math.inf, False),)


@dataclass(frozen=True)
class DefaultGate:
    """One row of the table: `bound` for the emulator, `factor` and `floor` for engines.

    `factor` is that of a model's outputs, as measured: of 1,254 engines at FP16 and BF16 the largest error that no
    importer's fault explains is 1.63 times the emulated one at BF16, whose floor holds it, and 1.34 times at FP16
    (benchmarks/results/emulation_score.json). Layers, and slices, err by chance more than the whole: `part_factor`.

    `slice_floor` is what any slice may err by, beside the rms of the whole tensor: eight steps of the
    precision. The worst slice of 400 clean models needs 4.7 (`benchmarks.false_alarms`).
    """

    bound: float
    factor: float
    floor: float
    slice_floor: float
    part_factor: float = 2.0

    @property
    def step(self) -> float:
        """One step of the precision, beside 1."""
        return self.slice_floor / 8


DEFAULT_GATES: Mapping[Precision, DefaultGate] = {
    Precision.FP32: DefaultGate(bound=1e-5, factor=2.0, floor=1e-4, slice_floor=2.0**-20),
    Precision.TF32: DefaultGate(bound=3e-3, factor=2.0, floor=1e-3, slice_floor=2.0**-7),
    Precision.FP16: DefaultGate(bound=1e-2, factor=1.5, floor=1e-3, slice_floor=2.0**-7),
    Precision.BF16: DefaultGate(bound=6e-2, factor=1.5, floor=8e-3, slice_floor=2.0**-4),
    Precision.FP8: DefaultGate(bound=2.5e-1, factor=2.0, floor=3e-2, slice_floor=1.0),
    Precision.INT8: DefaultGate(bound=2.5e-1, factor=2.0, floor=3e-2, slice_floor=2.0**-4),
}
GATE_OF: Mapping[str, Precision] = {"float16": Precision.FP16, "bfloat16": Precision.BF16}
"""The precision whose gates hold for a float16 or bfloat16 tensor of a model's own."""
DEFAULT_QUANTILE = 0.99
"""The quantile that `abs_quantile` limits where the case names none."""
NONFINITE = Gate("nonfinite", 0)
EQUAL = Gate("mismatch_fraction", 0)


def gates_for(
    limits: MetricLimits | None,
    precision: Precision,
    *,
    is_output: bool,
    emulated_rmse: float | None = None,
    reference_rms: float,
    exact: bool = False,
    flips: float = 0.0,
) -> tuple[Gate, ...]:
    """The gates of one tensor; the gate on non-finite values is always the first.

    Args:
        limits: those of the case's rules for it; None takes the default ones.
        precision: the precision under test.
        is_output: whether it is an output of the model.
        emulated_rmse: the emulator's rmse at the same precision; None judges the emulator itself.
        reference_rms: root mean square of the reference tensor.
        exact: whether the tensor holds integers or bools.
        flips: what flipped steps of a quantised file may cost it, over `reference_rms`; see `find_flips` of the judge.
    """
    if limits is None:
        default = default_gate(precision, emulated_rmse, reference_rms, is_output=is_output, flips=flips)
        return NONFINITE, EQUAL if exact else default
    gates = [Gate(metric, limit) for metric, limit in limits.gates().items()]
    if limits.relative is not None and emulated_rmse is not None:
        predicted = _predicted(precision, emulated_rmse, reference_rms, capped=False)
        gates.append(Gate("rmse", limits.relative.factor * predicted + limits.relative.floor))
    elif not gates:  # a purely relative rule says nothing of the emulator itself
        gates.append(default_gate(precision, None, reference_rms))
    return NONFINITE, *gates


def options_for(limits: MetricLimits | None) -> CompareOptions:
    """What the metrics of one tensor need of its limits: `atol`, `rtol`, `quantile` and `topk`.

    Where a rule gives only one of `atol` and `rtol`, the other is 0.
    """
    chosen = CompareOptions()
    if limits is None:
        return chosen
    if limits.atol is not None or limits.rtol is not None:
        chosen = replace(chosen, atol=limits.atol or 0.0, rtol=limits.rtol or 0.0)
    if limits.abs_quantile is not None:
        chosen = replace(chosen, quantile=limits.quantile or DEFAULT_QUANTILE)
    return chosen if limits.topk is None else replace(chosen, topk=limits.topk)


def slice_limit(
    limits: MetricLimits | None, precision: Precision, *, emulated: bool, flips: float = 0.0
) -> float | None:
    """The limit on the nrmse of the worst slice: its own, else that on the whole tensor, else the default one.

    A slice has few elements, and errs by chance more than the whole: it may by `part_factor` times the default, an
    engine by `floor` besides. None where a case limits something other than nrmse.
    `emulated` is whether the emulator itself is judged; the others are those of `gates_for`.
    """
    if limits is not None and limits.gates():
        return limits.nrmse if limits.slice_nrmse is None else limits.slice_nrmse
    row = DEFAULT_GATES[precision]
    return row.part_factor * (row.bound + flips) + (0.0 if emulated else row.floor)


def default_gate(
    precision: Precision,
    emulated_rmse: float | None,
    reference_rms: float,
    *,
    is_output: bool = True,
    flips: float = 0.0,
) -> Gate:
    """The row of the table for `precision`, as a gate of the emulator (`emulated_rmse` None) or of an engine.

    An engine flips other steps of a quantised file than the emulator: `flips` counts for each of them.

    An all-zero reference gives an engine's error no scale; the emulator's gate then asks for zeros.
    """
    row = DEFAULT_GATES[precision]
    if emulated_rmse is None or reference_rms == 0:
        return Gate("nrmse", row.bound + flips)
    predicted = _predicted(precision, emulated_rmse, reference_rms, capped=True)
    factor = row.factor if is_output else row.part_factor
    return Gate("rmse", factor * predicted + (row.floor + flips) * reference_rms)


def _predicted(precision: Precision, emulated_rmse: float, reference_rms: float, *, capped: bool) -> float:
    """The emulator's rmse; its bound where it is not a number to go by, or, if `capped`, beyond the bound."""
    bound = DEFAULT_GATES[precision].bound * reference_rms
    if not math.isfinite(emulated_rmse) or (capped and emulated_rmse > bound):
        return bound
    return emulated_rmse


# Fill values: what a mask writes over a part of a tensor, so large that it hides the rest from errors over all of it.
# Logits of which half are -1e4 have an rms of 7e3. Whatever becomes of the other half is nothing beside that.
ABOVE = 16.0
"""A fill is at least this many times as large as every other element."""

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
