"""Outputs and layers of a run as they were judged, and where among them an error starts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from harness.comparison import COMPUTED, EQUAL, NONFINITE, SHAPE, GateResult, Metrics, RelativeError, excess
from harness.judge.results.verdicts import Judged
from harness.tensors import UNLESS_DEFAULT
from harness.text import beyond, plural

MOST = 0.5
TWICE = 2.0
"""A slice stands out of a tensor that fails as a whole if it errs by so many times as much."""


@dataclass(frozen=True)
class PartResult:
    """A tensor that was joined in an output, judged by itself.

    Args:
        tensor: its name, as the Concat that joins it reads it.
        metrics: its metrics, in the shape that it had.
        gates: those on the size of its error.
    """

    tensor: str
    metrics: Metrics
    gates: tuple[GateResult, ...]

    ALSO_IN_JSON: ClassVar = ("passed",)

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class OutputResult:
    """One output of the model in one sample.

    Args:
        tensor: its name.
        sample: position of the sample.
        metrics: its metrics over the FP32 reference.
        gates: its gates, and those of the worst of its parts.
        parts: the tensors that were joined in it, each judged by itself.
    """

    tensor: str
    sample: int
    metrics: Metrics
    gates: tuple[GateResult, ...]
    parts: tuple[PartResult, ...] = field(default=(), metadata=UNLESS_DEFAULT)

    ALSO_IN_JSON: ClassVar = ("judged",)

    @property
    def place(self) -> str:
        """`y`, or `y (sample 1)` behind the first sample."""
        return f"{self.tensor} (sample {self.sample})" if self.sample else self.tensor

    @property
    def error(self) -> float:
        """nrmse of the whole, or of what fails in it; infinite as soon as one element is not finite."""
        failed = [gate for gate in self.gates if not gate.passed and gate.is_relative]
        whole = {gate.part for gate in failed if gate.slice is None}
        shown = (gate.value for gate in failed if gate.slice is None or gate.part not in whole)
        return max(self.metrics.error, *shown, 0.0)

    @property
    def judged(self) -> Judged:
        """What was judged of it: without elements nothing, and without a gate on an error only finiteness."""
        if not self.gates or (self.metrics.count == 0 and self.passed):
            return Judged.NOTHING
        return (
            Judged.VALUES
            if any(gate.metric != NONFINITE.metric for gate in self.gates)
            else Judged.FINITENESS
        )

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class LayerResult:
    """One observed tensor, all samples together.

    Args:
        index: position of the node in the model's topological order.
        node: name of the node that writes the tensor.
        op: operator type of the node.
        tensor: name of the tensor.
        metrics: accumulated error: the candidate fed its own intermediate tensors.
        introduced: error of this node alone, fed the reference's tensors; None where it was not measured.
        gates: the gates of the accumulated error.
        counterpart: the tensor of the reference that it was compared with, where that has another name.
        origin: the tensor fails its gates while every tensor it was computed from passes; or it is not finite
            while all of those are, and its FP32 values do not fit. All of those were observed: else there is a
            region. Where the outputs pass, nothing starts anywhere.
    """

    index: int
    node: str
    op: str
    tensor: str
    metrics: Metrics
    introduced: RelativeError | None
    gates: tuple[GateResult, ...]
    origin: bool
    counterpart: str | None = field(default=None, metadata=UNLESS_DEFAULT)

    ALSO_IN_JSON: ClassVar = ("diverged",)

    @property
    def diverged(self) -> bool:
        """Whether a gate fails."""
        return not all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class Region:
    """Nodes among which an error starts: what was observed tells no more.

    Args:
        tensor: the observed tensor at which the error shows.
        between: the nearest tensors behind it that were observed, all of them right, and inputs of the model.
        nodes: the nodes from there to the tensor, in topological order.
        kernels: what the engine runs for them, by its own names; empty if it does not say.
    """

    tensor: str
    between: tuple[str, ...]
    nodes: tuple[str, ...]
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observed:
    """What was observed of an engine.

    Args:
        how: `typed`, `debug` or `prefix`.
        tensors: how many tensors were observed; `layers` names them.
        not_observed: the tensors of the model that are compared where they are observed, and were not.
    """

    how: str
    tensors: int
    not_observed: tuple[str, ...] = ()


def without_origins(layers: Iterable[LayerResult]) -> tuple[LayerResult, ...]:
    """The layers of a run whose outputs pass: some may be beyond their gates, but no failure starts there."""
    return tuple(replace(layer, origin=False) if layer.origin else layer for layer in layers)


def worst_of(outputs: Iterable[OutputResult]) -> OutputResult | None:
    """The output that is furthest beyond its gates; where all pass, the one that errs most."""
    return max(outputs, key=_badness, default=None)


def _badness(output: OutputResult) -> tuple[bool, float, float]:
    # Integers that must be equal are beyond a limit of 0 by any factor: what has a size comes first.
    failed = [gate for gate in output.gates if not gate.passed and gate.metric != EQUAL.metric]
    error = output.metrics.nrmse
    return not output.passed, excess(failed), math.inf if math.isnan(error) else error


def describe_failure(outputs: Iterable[OutputResult]) -> str:
    """One line: the first gate that failed of the worst output."""
    output = worst_of(outputs)
    assert output is not None, "one failed"
    gate = next(gate for gate in output.gates if not gate.passed)
    if gate.metric in (SHAPE, COMPUTED):
        return f"{output.place}: {output.metrics.incomparable}"
    if gate.metric == NONFINITE.metric:
        return f"{output.place}: {not_finite(output.metrics)}"
    if gate.metric == EQUAL.metric and not gate.limit:
        return f"{output.place}: {different(output.metrics)}"
    within = stands_out(output, gate)
    text = f"{output.place}: {beyond(gate.subject, gate.value, gate.limit)}"
    return text if within is None else f"{text}{within.as_worst}"


def stands_out(output: OutputResult, gate: GateResult) -> GateResult | None:
    """The gate of the worst slice of an output, of which `gate` fails as a whole, where the error is there.

    It is there, and not all over, if the slice errs by at least twice as much as the whole, beside its own size, or has
    most of the error.
    """
    worst, whole = output.metrics.worst_slice, output.metrics
    if (
        worst is None
        or gate.slice is not None
        or gate.part is not None
        or gate.metric not in ("nrmse", "rmse")
    ):
        return None
    mine = next((each for each in output.gates if each.slice == str(worst) and each.part is None), None)
    if mine is None or mine.passed:
        return None
    share = worst.rmse**2 * worst.size / (whole.rmse**2 * whole.count) if whole.rmse > 0 else 0.0
    most = share > MOST and share * whole.count > TWICE * worst.size
    return mine if most or worst.nrmse >= TWICE * whole.nrmse else None


def not_finite(metrics: Metrics) -> str:
    """`30 of 32 elements are not finite`, with whose they are where the candidate has none."""
    verb = "is" if metrics.nonfinite == 1 else "are"
    text = f"{metrics.nonfinite} of {plural(metrics.count, 'element')} {verb} not finite"
    return text if metrics.nan_count or metrics.inf_count else f"{text} in the reference, and finite here"


def different(metrics: Metrics) -> str:
    """`62 of 64 elements differ`."""
    count = round(metrics.mismatch_fraction * metrics.count)
    return f"{count} of {plural(metrics.count, 'element')} {'differs' if count == 1 else 'differ'}"
