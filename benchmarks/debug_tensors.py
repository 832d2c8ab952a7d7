"""Whether debug tensors hold what their names say: those between the kernels of all bundled cases at fp16 (GPU).

    python -m benchmarks.debug_tensors --env rtx-1.4 --env rtx-1.6

A tensor that was joined to an ONNX tensor is compared with the reference's tensors of as many elements. It is right
where its own is the nearest, in another order where its own is the nearest once the values of all are sorted, and wrong
else: a planted fault is, and what comes of it. Those that were not joined have no name.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import Evaluation, Observation, Plan
from harness.case import Case, load_cases
from harness.errors import HarnessError
from harness.judge import Judge
from harness.tensors import Precision

CASES = Path("cases")
NEAR = 0.01
SAME = 2.0**-14
"""A quarter of what FP16 rounds by: a tensor that two others are nearest to within so much is both of them."""
Tensors = Mapping[str, np.ndarray]


@dataclass
class Found:
    """What became of the debug tensors of one case."""

    counts: Counter[str] = field(default_factory=Counter)
    ordered: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def nrmse(value: np.ndarray, reference: np.ndarray) -> float:
    """Infinite where one is not finite."""
    scale = float(np.sqrt(np.mean(reference**2)))
    if not np.isfinite(value).all() or not scale:
        return float("inf")
    return float(np.sqrt(np.mean((value - reference) ** 2))) / scale


def nearest(value: np.ndarray, reference: Tensors, *, in_order: bool) -> set[str]:
    """Names of the tensors that `value` is nearest to; several where they are the same."""
    own = value if in_order else np.sort(value)
    errors = {
        name: nrmse(own, each if in_order else np.sort(each))
        for name, each in reference.items()
        if each.size == value.size
    }
    least = min(errors.values(), default=float("inf"))
    return {name for name, error in errors.items() if error <= least + SAME and error < NEAR}


def look(evaluation: Evaluation, reference: Tensors, outputs: set[str]) -> Found:
    """Sort the debug tensors of an evaluation."""
    found = Found()
    for name, value in evaluation.tensors.items():
        if name in outputs or name not in reference:
            continue
        flat = value.astype(np.float64).ravel()
        if name in nearest(flat, reference, in_order=True):
            found.counts["right"] += 1
        elif name in nearest(flat, reference, in_order=False):
            found.counts["in another order"] += 1
            found.ordered.append(name)
        else:
            found.counts["wrong"] += 1
            found.wrong.append(name)
    found.counts["without a name"] = 0 if evaluation.engine is None else evaluation.engine.internal_tensors
    return found


def observe(judge: Judge, case: Case, environment: str) -> dict[str, Any]:
    """One case."""
    try:
        bench = judge.bench(case)
        plan = Plan(Precision.FP16, observation=Observation.DEBUG, build=case.build)
        evaluation = judge.candidates.get(environment, bench).evaluate(plan, bench.feeds[0])
        exact = bench.itself.run(bench.feeds[0], bench.model.float_tensors)
    except HarnessError as error:
        return {"error": str(error).splitlines()[0]}
    reference = {name: value.astype(np.float64).ravel() for name, value in exact.items()}
    found = look(evaluation, reference, {info.name for info in bench.model.outputs})
    return {**found.counts, "names_in_another_order": found.ordered, "names_wrong": found.wrong}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it asks the engines of this machine's GPU")
    parser.add_argument("--env", action="append", required=True)
    asked = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for environment in asked.env:
        with Judge() as judge:
            found[environment] = {
                case.name: observe(judge, case, environment) for case in load_cases([CASES])
            }
    record("debug_tensors", {"environments": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
