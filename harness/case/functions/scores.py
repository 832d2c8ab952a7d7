"""A user's own metric: the number that it gives the candidate's outputs, and the reference's own."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from harness.case.functions.calls import UserFunction, shown
from harness.case.schema import Case

Samples = list[dict[str, np.ndarray]]


def take_score(
    case: Case, name: str, expected: Samples, actual: Samples, arguments: str
) -> tuple[float, float]:
    """What a metric says of the reference in both places, and of the candidate; called in the process of users'
    functions.

    Args:
        case: the case that names it.
        name: `module:function`.
        expected: the reference's outputs by name, a sample each.
        actual: the candidate's.
        arguments: its further arguments, as JSON.

    Raises:
        BuilderError: it cannot be found or called, raised, or returned no number.
    """
    with UserFunction(name, case, "metric") as function:
        first, second = (_score(function, expected, each, arguments) for each in (expected, actual))
    return first, second


def _score(function: UserFunction, expected: Samples, outputs: Samples, arguments: str) -> float:
    given = {
        name: [{key: np.array(value) for key, value in sample.items()} for sample in samples]
        for name, samples in (("reference", expected), ("candidate", outputs))
    }
    found = function(**given, **json.loads(arguments))
    score = function.run(lambda: _number(found), "returned something that is not a float:")
    if math.isnan(score):
        raise function.error(
            f"returned {shown(found)} instead of a number", hint="return one score as a float"
        )
    return score


def _number(found: Any) -> float:
    """NaN for what is none."""
    try:
        return math.nan if isinstance(found, str) else float(found)
    except (TypeError, ValueError):
        return math.nan
