"""From what a person names to one case and one precision: for a diagnosis, and for a session by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.case import Case
from harness.errors import UsageError
from harness.judge import select_cases
from harness.tensors import Precision


def one_case(
    target: Case | Path | str,
    inputs: Mapping[str, Sequence[int]] | None,
    precision: Precision | None,
    *,
    purpose: str,
) -> Case:
    """The case that `target` is; `inputs` gives shapes to an .onnx file, `purpose` names what needs it.

    Raises:
        UsageError: it is none, or several.
    """
    cases = select_cases(target, inputs=inputs, precisions=() if precision is None else (precision,))
    if len(cases) != 1:
        names = ", ".join(case.name for case in cases[:5])
        raise UsageError(
            f"{len(cases)} cases are there, {purpose} is of one",
            where=str(target),
            hint=f"name one of {names}{', …' if len(cases) > 5 else ''}",
        )
    return cases[0]


def precision_of(case: Case, asked: Precision | None) -> Precision:
    """What was asked for; else the only precision of the case beside FP32, or FP16."""
    if asked is not None:
        return asked
    lower = [run.precision for run in case.runs if run.precision is not Precision.FP32]
    return lower[0] if len(lower) == 1 else Precision.FP16
