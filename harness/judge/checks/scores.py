"""A user's own metric: what it says of the candidate's outputs, and how far that drops below the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.case import Case, Metric, UserFunction
from harness.judge.results import Score

Samples = Sequence[Mapping[str, np.ndarray]]


def take_scores(case: Case, expected: Samples, actual: Samples) -> Iterator[Score]:
    """Call each metric of the case, with the reference in both places and with the candidate.

    Raises:
        BuilderError: a metric cannot be found or called, raised, did not return, or returned no number.
    """
    for metric in case.metric:
        with UserFunction(metric.function, case, "metric") as function:
            reference, candidate = (_score(function, metric, expected, each) for each in (expected, actual))
        yield Score(metric.function, reference, candidate, metric.max_drop, higher=metric.better == "higher")


def _score(function: UserFunction, metric: Metric, expected: Samples, outputs: Samples) -> float:
    given = {
        name: [{key: np.array(value) for key, value in sample.items()} for sample in samples]
        for name, samples in (("reference", expected), ("candidate", outputs))
    }
    found = function(**given, **(metric.args or {}))
    try:
        score = math.nan if isinstance(found, str) else float(found)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):
        raise function.error(
            f"returned {found!r:.60} instead of a number", hint="return one score as a float"
        )
    return score
