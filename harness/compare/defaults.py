"""The default gates, in one table, and how a case's tolerances replace them.

The emulator is held against an absolute bound on nrmse (rmse over the reference's root mean square) at each
precision. An engine is held against the emulator at the same precision:

    rmse(engine) ≤ factor · min(rmse(emulator), bound · rms(reference)) + floor · rms(reference)

so that it may err as the precision must, a little more for other orders of summation, and no further. The
emulator's error counts only as far as its own bound: a fault that the emulator predicts does not excuse the engine.
The form is that of PyTorch's `same()` with an FP64 reference and of AWS Neuron's ratio of errors.

Besides, values that are not finite where the reference is, or the other way round, fail whatever the gates say.
cosine is never a default: an absolute error of 26 can have a cosine of 1.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.case.tolerances import Limits, Tolerance, merge_tolerances
from harness.compare.gates import Gate
from harness.compare.metrics import Metrics
from harness.tensors.precision import Precision


@dataclass(frozen=True)
class DefaultGate:
    """One row of the table: `bound` for the emulator, `factor` and `floor` for engines."""

    bound: float
    factor: float
    floor: float


DEFAULT_GATES: Mapping[Precision, DefaultGate] = {
    Precision.FP32: DefaultGate(bound=1e-5, factor=2.0, floor=1e-4),
    Precision.TF32: DefaultGate(bound=3e-3, factor=2.0, floor=1e-3),
    Precision.FP16: DefaultGate(bound=1e-2, factor=2.0, floor=1e-3),
    Precision.BF16: DefaultGate(bound=6e-2, factor=2.0, floor=8e-3),
    Precision.FP8: DefaultGate(bound=2.5e-1, factor=2.0, floor=3e-2),
    Precision.INT8: DefaultGate(bound=2.5e-1, factor=2.0, floor=3e-2),
}
NONFINITE = Gate("nonfinite", 0)


def gates_for(
    tolerances: Iterable[Tolerance],
    *,
    precision: Precision,
    tensor: str,
    node: str | None = None,
    is_output: bool,
    metrics_of_emulator: Metrics | None = None,
    reference_rms: float,
) -> tuple[Gate, ...]:
    """The gates of one tensor; the gate on non-finite values is always the first.

    Args:
        tolerances: the case's rules; all that match are merged, the later one wins for each metric.
        precision: the precision under test.
        tensor: name of the tensor.
        node: name of the node that writes it.
        is_output: whether it is an output of the model.
        metrics_of_emulator: the emulator's metrics at the same precision; None judges the emulator itself.
        reference_rms: root mean square of the reference tensor.
    """
    limits = merge_tolerances(tolerances, precision, tensor=tensor, node=node, is_output=is_output)
    if limits is None:
        return NONFINITE, default_gate(precision, metrics_of_emulator, reference_rms)
    gates = [Gate(metric, limit) for metric, limit in limits.gates().items()]
    if limits.relative is not None and metrics_of_emulator is not None:
        gates.append(Gate("rmse", relative_limit(limits, metrics_of_emulator)))
    elif not gates:  # a purely relative rule says nothing of the emulator itself
        gates.append(default_gate(precision, None, reference_rms))
    return NONFINITE, *gates


def default_gate(precision: Precision, emulated: Metrics | None, reference_rms: float) -> Gate:
    """The row of the table for `precision`, as a gate of the emulator (`emulated` None) or of an engine."""
    row = DEFAULT_GATES[precision]
    if emulated is None or reference_rms == 0:
        return Gate("nrmse", row.bound)
    allowed = row.bound * reference_rms
    predicted = (
        emulated.rmse if emulated.rmse <= allowed else allowed
    )  # NaN and infinity do not widen the gate
    return Gate("rmse", row.factor * predicted + row.floor * reference_rms)


def relative_limit(limits: Limits, emulated: Metrics) -> float:
    """`factor · rmse(emulator) + floor` of an explicit `relative` tolerance."""
    assert limits.relative is not None
    return limits.relative.factor * emulated.rmse + limits.relative.floor
