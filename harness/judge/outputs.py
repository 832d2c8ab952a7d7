"""Tensors and their gates: those of the outputs of one sample, and of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.backends import Computed
from harness.case import Tolerance
from harness.comparison import (
    UNMASKED,
    CompareOptions,
    GateResult,
    Metrics,
    check,
    compare,
    find_fill,
    gates_for,
    not_computed,
    options_for,
)
from harness.judge.results import OutputResult
from harness.model import Model
from harness.tensors import Precision


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

    def options(self, tensor: str, *, is_output: bool) -> CompareOptions:
        """What the metrics of a tensor need of the rules."""
        node = self._node(tensor)
        return options_for(
            self.tolerances, precision=self.precision, tensor=tensor, node=node, is_output=is_output
        )

    def check(
        self,
        tensor: str,
        metrics: Metrics,
        baseline: Metrics | None,
        *,
        is_output: bool,
        exact: bool = False,
    ) -> tuple[GateResult, ...]:
        """The gates of a tensor, and what met them.

        Args:
            tensor: its name.
            metrics: the candidate's.
            baseline: the emulator's, which an engine is compared with; None judges the emulator itself.
            is_output: whether it is an output of the model.
            exact: whether it holds integers or bools.
        """
        gates = gates_for(
            self.tolerances,
            precision=self.precision,
            tensor=tensor,
            node=self._node(tensor),
            is_output=is_output,
            metrics_of_emulator=baseline,
            reference_rms=metrics.reference_rms,
            exact=exact,
        )
        return check(metrics, gates)

    def judge(
        self,
        sample: int,
        expected: Mapping[str, np.ndarray],
        actual: Computed,
        emulated: Computed | None,
    ) -> tuple[OutputResult, ...]:
        """Check the outputs of one sample against their gates.

        Args:
            sample: its position.
            expected: the reference's outputs by name.
            actual: the candidate's; what could not be computed fails.
            emulated: the emulator's with everything lowered, which an engine is compared with; None judges the
                emulator itself.
        """
        return tuple(
            self._output(name, sample, reference, actual, emulated) for name, reference in expected.items()
        )

    def _output(
        self, name: str, sample: int, reference: np.ndarray, actual: Computed, emulated: Computed | None
    ) -> OutputResult:
        baseline = None if emulated is None else self._compare(name, emulated, reference)
        metrics = self._compare(name, actual, reference)
        exact = reference.dtype.kind in "biu"
        gates = self.check(name, metrics, baseline, is_output=True, exact=exact)
        return OutputResult(name, sample, metrics, gates + self._unmasked(name, reference, actual, emulated))

    def _compare(self, name: str, computed: Computed, reference: np.ndarray) -> Metrics:
        options = self.options(name, is_output=True)
        dtype = self.precision.storage_dtype
        if name in computed.failures:
            return not_computed(reference, computed.failures[name], dtype=dtype, options=options)
        return compare(computed.tensors[name], reference, dtype=dtype, options=options)

    def _unmasked(
        self, name: str, reference: np.ndarray, actual: Computed, emulated: Computed | None
    ) -> tuple[GateResult, ...]:
        """The gates on the size of the error once more, over what a fill value leaves."""
        if name in actual.failures or actual.tensors[name].shape != reference.shape:
            return ()
        fill = find_fill(reference)
        if fill is None:
            return ()
        left = ~fill

        def over(computed: Computed) -> Metrics | None:
            value = computed.tensors.get(name)
            if value is None or value.shape != reference.shape:
                return None
            return compare(value[left], reference[left], dtype=self.precision.storage_dtype)

        metrics = over(actual)
        assert metrics is not None
        gates = self.check(name, metrics, None if emulated is None else over(emulated), is_output=True)
        return tuple(
            replace(gate, metric=UNMASKED + gate.metric) for gate in gates if gate.metric in ("nrmse", "rmse")
        )

    def _node(self, name: str) -> str | None:
        node = self.model.producer(name)
        return node.name if node else None
