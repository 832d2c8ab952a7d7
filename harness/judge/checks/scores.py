"""A user's own metric: what it says of the candidate's outputs, and how far that drops below the reference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.case import Case, call_apart, take_score
from harness.judge.results import Score

Samples = Sequence[Mapping[str, np.ndarray]]


def take_scores(case: Case, expected: Samples, actual: Samples) -> Iterator[Score]:
    """Call each metric of the case, with the reference in both places and with the candidate.

    Raises:
        BuilderError: a metric cannot be found or called, raised, did not return, ended its process, or
            returned no number.
    """
    for metric in case.metric:
        references, outputs = ([dict(sample) for sample in samples] for samples in (expected, actual))
        arguments = json.dumps(metric.args or {})
        reference, candidate = call_apart(
            take_score, case, metric.function, "metric", references, outputs, arguments
        )
        yield Score(metric.function, reference, candidate, metric.max_drop, higher=metric.better == "higher")
