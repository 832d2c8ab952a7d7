"""ONNX's own evaluator, for models that ONNX Runtime cannot run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.cure import Feeds
from harness.errors import ModelError
from harness.model import Model

_THEIRS = frozenset({"google", "ml_dtypes", "numpy", "onnx", "PIL"})
"""The evaluator's packages, and those that it computes with."""


class Evaluator:
    """ONNX's own evaluator in NumPy, of a model that ONNX Runtime cannot run.

    Raises:
        ModelError: it lacks an operator of the model.
    """

    def __init__(self, model: Model) -> None:
        from onnx.reference import ReferenceEvaluator

        proto = ir.to_proto(model.ir)
        self._inputs = {info.name for info in model.inputs}
        self._outputs = [info.name for info in model.outputs]
        with _refusing():
            self._session = ReferenceEvaluator(proto)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            ModelError: an operator takes no such values, or makes integers of what none holds.
            ValueError: the values are not those of the model's inputs.
        """
        if set(feeds) != self._inputs:
            raise ValueError(f"fed {sorted(feeds)} in place of {sorted(self._inputs)}")
        given = dict(feeds)
        with np.errstate(all="ignore", invalid="warn"), warnings.catch_warnings(), _refusing():
            warnings.simplefilter("ignore")
            # What no integer holds NumPy casts to any, and ONNX says so of Cast, but not of QuantizeLinear.
            warnings.filterwarnings("error", "invalid value encountered in cast", RuntimeWarning)
            outputs = self._session.run(None, given)
        return dict(zip(self._outputs, map(np.asarray, outputs), strict=True))


@contextmanager
def _refusing() -> Iterator[None]:
    """Take what the evaluator raises for its refusal of a model or of values that make no sense to it.

    It is plain Python over NumPy, and raises whatever its operators happen to run into: a TypeError of a scale that
    has no axis, an OSError of bytes that are no picture. What is not raised within it is a fault of harness, whatever
    its class, and passes.

    Raises:
        ModelError: with the first line of what was raised.
    """
    try:
        yield
    except Exception as reason:
        trace = reason.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _THEIRS:
            raise
        raise ModelError(first_line(reason.__cause__ or reason)) from reason


def first_line(reason: BaseException) -> str:
    """The first line of what was said, or the name of the exception."""
    said = str(reason).strip()
    return said.splitlines()[0][:300] if said else type(reason).__name__
