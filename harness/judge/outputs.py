"""Tensors and their gates: those of the outputs of one sample, and of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from harness.backends import Computed
from harness.case import MetricLimits, Tolerance, merge_tolerances, parse_slice
from harness.comparison import (
    DEFAULT_GATES,
    GATE_OF,
    NONFINITE,
    UNMASKED,
    CompareOptions,
    Gate,
    GateResult,
    Metrics,
    RelativeErrorSum,
    apply_gates,
    compare_tensors,
    excess,
    find_fill,
    gates_for,
    not_computed,
    options_for,
    slice_limit,
)
from harness.judge.results import OutputResult, PartResult
from harness.model import Model, Part, gains_of, zero_point_of
from harness.tensors import Precision

Take = Callable[[np.ndarray], np.ndarray]
SIZES = ("nrmse", "rmse", "slice_nrmse")
"""The gates that hold for parts, too."""
COARSE = 0.5
"""Where a slice may err by so much of its size, as at INT8, one that is beyond is lost, and no chance explains it:"""
LEAST_LOST = 8
"""then slices of so many elements of an output are judged."""


@dataclass(frozen=True)
class _Pair:
    """An output and its reference; `emulated` as in `TensorGates.judge`."""

    tensor: str
    reference: np.ndarray
    actual: Computed
    emulated: Computed | None
    flips: np.ndarray | None

    @property
    def comparable(self) -> bool:
        """Whether the output was computed, and in the shape of the reference."""
        value = self.actual.tensors.get(self.tensor)
        return (
            self.tensor not in self.actual.failures
            and value is not None
            and value.shape == self.reference.shape
        )

    def less(self, zero: int) -> _Pair:
        """The pair of steps, counted from their zero point, as floats."""
        emulated = None if self.emulated is None else _less(self.tensor, self.emulated, zero)
        actual = _less(self.tensor, self.actual, zero)
        reference = self.reference.astype(np.float32) - np.float32(zero)
        return replace(self, reference=reference, actual=actual, emulated=emulated)


@dataclass(frozen=True)
class TensorGates:
    """The gates of a case at one precision, tensor by tensor.

    Args:
        model: the model.
        tolerances: the case's rules.
        precision: the precision under test.
    """

    model: Model
    tolerances: tuple[Tolerance, ...]
    precision: Precision

    def options(self, tensor: str, *, is_output: bool, brief: bool = False) -> CompareOptions:
        """What the metrics of a tensor need of the rules; `brief`: nothing but its gates is asked for."""
        limits = self._limits(tensor, is_output=is_output)
        options, limit = options_for(limits), slice_limit(limits, self.precision, emulated=True)
        if not limit:
            return options
        options = replace(options, brief=brief and limits is None)
        # Weights that pairs round may err alike in every row, whatever its size.
        gains = None if self.model.quantized else gains_of(self.model, tensor)
        elements = LEAST_LOST if is_output and limit >= COARSE else options.slice_elements
        return replace(options, slice_floor=self._slice_floor / limit, slice_elements=elements, gains=gains)

    def _limits(self, tensor: str, *, is_output: bool) -> MetricLimits | None:
        """The limits of the rules that match a tensor."""
        node = self.model.producer(tensor)
        return merge_tolerances(
            self.tolerances,
            self.precision,
            tensor=tensor,
            node=None if node is None else node.name,
            is_output=is_output,
        )

    @cached_property
    def _slice_floor(self) -> float:
        """What rounding may leave of a slice: that of the precision, or of the model's own types if that is more."""
        own = {GATE_OF[self.model.dtypes[name]] for name in self.model.own_tensors}
        own |= {Precision.INT8} if self.model.quantized else set()
        return max(DEFAULT_GATES[each].slice_floor for each in (self.precision, *own))

    def check(
        self,
        tensor: str,
        metrics: Metrics,
        emulated_rmse: float | None,
        *,
        is_output: bool,
        exact: bool = False,
        flips: np.ndarray | None = None,
    ) -> tuple[GateResult, ...]:
        """The gates of a tensor, and what met them.

        Args:
            tensor: its name.
            metrics: the candidate's.
            emulated_rmse: the emulator's, which an engine is compared with; None judges the emulator itself.
            is_output: whether it is an output of the model.
            exact: whether it holds integers or bools.
            flips: see `judge`.
        """
        limits = self._limits(tensor, is_output=is_output)
        allowed = 0.0 if flips is None or not metrics.reference_rms else _rms(flips) / metrics.reference_rms
        gates = gates_for(
            limits,
            self.precision,
            is_output=is_output,
            emulated_rmse=emulated_rmse,
            reference_rms=metrics.reference_rms,
            exact=exact,
            flips=allowed,
        )
        named = any(gate.metric == "slice_nrmse" for gate in gates)
        limit = slice_limit(limits, self.precision, emulated=emulated_rmse is None, flips=allowed)
        if metrics.worst_slice is not None and limit is not None and not named:
            gates = (*gates, Gate("slice_nrmse", limit))
        return apply_gates(metrics, gates)

    def judge(
        self,
        sample: int,
        expected: Mapping[str, np.ndarray],
        actual: Computed,
        emulated: Computed | None,
        parts: Mapping[str, tuple[Part, ...]] | None = None,
        flips: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[OutputResult, ...]:
        """Check the outputs of one sample against their gates.

        Args:
            sample: its position.
            expected: the reference's outputs by name.
            actual: the candidate's; what could not be computed fails.
            emulated: the emulator's with everything lowered, which an engine is compared with; None judges the
                emulator itself.
            parts: by output, the tensors that were joined in it.
            flips: by output of a quantised file, the error that flipped steps may cost; see `find_flips`.
        """
        pairs = (
            _Pair(name, reference, actual, emulated, (flips or {}).get(name))
            for name, reference in expected.items()
        )
        return tuple(self._output(pair, sample, (parts or {}).get(pair.tensor, ())) for pair in pairs)

    def _output(self, given: _Pair, sample: int, parts: Sequence[Part]) -> OutputResult:
        pair = self._in_steps(given)
        name, reference = pair.tensor, pair.reference
        baseline = None if pair.emulated is None else _rmse_of(name, pair.emulated, reference)
        metrics = self._compare(name, pair.actual, reference)
        exact = reference.dtype.kind in "biu"
        gates = self.check(name, metrics, baseline, is_output=True, exact=exact, flips=pair.flips)
        if not pair.comparable:
            return OutputResult(name, sample, metrics, gates)
        judged = [self._part(pair, part) for part in parts]
        gates += self._unmasked(pair) + self._slices(given)
        gates += max((part.gates for part in judged), key=excess, default=())
        return OutputResult(name, sample, metrics, gates, tuple(part for part in judged if part.gates))

    def _in_steps(self, pair: _Pair) -> _Pair:
        """The pair as floats, in steps from the zero point, if a QuantizeLinear wrote it and no rule limits it.

        Other integers must be equal, and what flips elsewhere excuses none of them.
        """
        if pair.reference.dtype.kind not in "iu":
            return pair
        named = self._limits(pair.tensor, is_output=True) is not None
        zero = None if named else zero_point_of(self.model, pair.tensor)
        return replace(pair, flips=None) if zero is None else pair.less(zero)

    def _compare(self, name: str, computed: Computed, reference: np.ndarray) -> Metrics:
        options = self.options(name, is_output=True)
        dtype = self.precision.storage_dtype
        if name in computed.failures:
            return not_computed(reference, computed.failures[name], dtype=dtype, options=options)
        return compare_tensors(computed.tensors[name], reference, dtype=dtype, options=options)

    def _unmasked(self, pair: _Pair) -> tuple[GateResult, ...]:
        """The gates on the size of the error once more, over what a fill value leaves."""
        fill = find_fill(pair.reference)
        if fill is None:
            return ()
        _, gates = self._again(pair, lambda values: values[~fill])
        return tuple(
            replace(gate, metric=UNMASKED + gate.metric) for gate in gates if gate.metric in ("nrmse", "rmse")
        )

    def _part(self, pair: _Pair, part: Part) -> PartResult:
        """A tensor that was joined in an output, by the gates on the size of the error of that output."""
        metrics, gates = self._again(pair, part.of, part.tensor)
        gates = tuple(replace(gate, part=part.tensor) for gate in gates if gate.metric in SIZES)
        return PartResult(part.tensor, metrics, gates)

    def _slices(self, pair: _Pair) -> tuple[GateResult, ...]:
        """The gates of the slices that the case names."""
        found: list[GateResult] = []
        for rule in self.tolerances:
            if rule.slice is None or not rule.is_for(self.precision, pair.tensor):
                continue
            taken = parse_slice(rule.slice)
            limits = replace(self, tolerances=(rule.model_copy(update={"slice": None}),))
            _, gates = limits._again(pair, lambda values, taken=taken: values[taken])  # type: ignore[misc]
            found += (replace(gate, slice=rule.slice) for gate in gates if gate.metric != NONFINITE.metric)
        return tuple(found)

    def _again(
        self, pair: _Pair, take: Take, of: str | None = None
    ) -> tuple[Metrics, tuple[GateResult, ...]]:
        """What `take` leaves of an output, compared and judged as the output is; `of`: the tensor that this was."""
        options, dtype = self.options(pair.tensor, is_output=True), self.precision.storage_dtype
        if of is not None and options.gains is None and not self.model.quantized:
            options = replace(options, gains=gains_of(self.model, of))
        reference = take(pair.reference)
        metrics = compare_tensors(
            take(pair.actual.tensors[pair.tensor]), reference, dtype=dtype, options=options
        )
        beside = None if pair.emulated is None else pair.emulated.tensors.get(pair.tensor)
        baseline = None
        if beside is not None and beside.shape == pair.reference.shape:
            baseline = _rmse_of(pair.tensor, Computed({pair.tensor: take(beside)}), reference)
        exact = reference.dtype.kind in "biu"
        flips = None if pair.flips is None else take(pair.flips)
        return metrics, self.check(pair.tensor, metrics, baseline, is_output=True, exact=exact, flips=flips)


def _rmse_of(tensor: str, computed: Computed, reference: np.ndarray) -> float:
    """The rmse of a tensor; infinite where it was not computed."""
    total = RelativeErrorSum()
    if tensor in computed.failures:
        total.fail(reference)
    else:
        total.update(computed.tensors[tensor], reference)
    return total.rmse


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean())) if values.size else 0.0


def _less(tensor: str, computed: Computed, zero: int) -> Computed:
    """`tensor` of what was computed, as floats less `zero`, and why others could not be."""
    value = computed.tensors.get(tensor)
    if value is None:
        return computed
    return replace(computed, tensors={tensor: value.astype(np.float32) - np.float32(zero)})
