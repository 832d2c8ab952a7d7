"""A bad tactic, planted: engines that were built with one certain choice have their outputs falsified afterwards.

    python -m benchmarks.planted_tactic [--layer NAME] diagnose CASE --precision fp16 --env NAME --out DIR --json FILE

is `harness diagnose` with such engines, and likewise any other command of harness that runs a case. The engine, its
build and what it tells of its tactics are real; only the numbers it hands back are not. Bad is what the first
unobserved engine in FP16 or BF16 took at the named layer, or else at the middle one of those that have alternatives.

Nothing of harness knows of this: it is here, and nowhere else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.spread import no_scheduler
from harness.backends import Evaluation, Observation, Plan, TensorRTCandidate, Timing
from harness.judge import Candidates, Workbench
from harness.tactics import TacticRecord, brief, record_of
from harness.tactics.samples import ALTERNATIVES
from harness.tactics.units import reformatted_layer
from harness.tensors import Precision
from harness.worker.protocol import Choice, TacticOrders

KICK = 0.5
"""By what share of its root mean square the output of a planted engine is falsified."""


@dataclass
class Plant:
    """What is bad.

    Args:
        choice: the bad choice; None until an engine was built from which one can be taken.
        layer: the layer at which it is taken; None is one with alternatives.
    """

    choice: Choice | None = None
    layer: str | None = None

    def settle(self, record: TacticRecord) -> None:
        """Declare bad what a build chose."""
        having = choosy(record)
        named = [each for each in record.choices if each.layer == self.layer]
        chosen = named[0] if named else having[len(having) // 2] if having and self.layer is None else None
        if chosen is None:
            layers = ", ".join(repr(each.layer) for each in having)
            raise SystemExit(
                f"no choice can be planted at {self.layer or 'any layer'}; layers with alternatives: {layers}"
            )
        self.choice = chosen
        print(f"planted: {brief([chosen])} at {chosen.layer}", file=sys.stderr, flush=True)


def plant_in(candidate: TensorRTCandidate, plant: Plant) -> TensorRTCandidate:
    """Let those engines of `candidate` be wrong that were built with the planted choice."""
    evaluate = candidate.evaluate

    def planted(plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None) -> Evaluation:
        # One number of alternatives for all, so that what is asked for twice is built once.
        orders = plan.tactics or TacticOrders()
        recorded = replace(plan, tactics=replace(orders, alternatives=max(ALTERNATIVES, orders.alternatives)))
        evaluation = evaluate(recorded, feeds, timing=timing)
        record = record_of(evaluation, recorded, "")
        if record is None or plan.observation is not Observation.NONE:
            return evaluation
        low = plan.precision in (Precision.FP16, Precision.BF16)
        if plant.choice is None and low and not plan.islands:
            plant.settle(record)
        return falsified(evaluation) if is_planted(record, plant.choice) else evaluation

    candidate.evaluate = planted  # type: ignore[method-assign]
    return candidate


def is_planted(record: TacticRecord | None, bad: Choice | None) -> bool:
    """Whether an engine was built with the bad choice."""
    return bad is not None and record is not None and record.takes(bad)


def falsified(evaluation: Evaluation) -> Evaluation:
    """The evaluation with every floating-point tensor moved by `KICK` of its root mean square."""
    tensors = {name: _moved(value) for name, value in evaluation.tensors.items()}
    return replace(evaluation, tensors=tensors)


def _moved(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "f":
        return value
    return value + np.asarray(KICK * np.sqrt(np.mean(np.square(value, dtype=np.float64))), value.dtype)


def choosy(record: TacticRecord) -> list[Choice]:
    """The choices that have an alternative with the same formats, in TensorRT's order; or else with any formats."""
    own = [choice for choice in record.choices if reformatted_layer(choice.layer) is None]
    having = {choice: alternatives(record, choice) for choice in own}
    alike = [choice for choice, others in having.items() if others and same_formats(choice, others[0])]
    return alike or [choice for choice, others in having.items() if others]


def alternatives(record: TacticRecord, choice: Choice) -> list[Choice]:
    """What else was offered there, the same formats first."""
    here = [other for other in record.alternatives if other.place == choice.place]
    return sorted(here, key=lambda other: not same_formats(choice, other))


def same_formats(choice: Choice, other: Choice) -> bool:
    """Whether both read and write alike, so that swapping them leaves the layers around alone."""
    return (choice.inputs, choice.outputs) == (other.inputs, other.outputs)


@contextmanager
def planting(plant: Plant) -> Iterator[None]:
    """Let all engines of this process be planted ones."""
    original = Candidates._engine

    def engine(self: Candidates, name: str, bench: Workbench) -> TensorRTCandidate:
        return plant_in(original(self, name, bench), plant)

    Candidates._engine = engine  # type: ignore[method-assign]
    try:
        yield
    finally:
        Candidates._engine = original  # type: ignore[method-assign]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of harness on planted engines; its exit status."""
    from harness.cli import main as harness

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it falsifies engines in the process that it starts")
    parser.add_argument("--layer", help="TensorRT's name of the layer whose choice is bad")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a command of harness and its arguments")
    options = parser.parse_args(arguments)
    plant = Plant(layer=options.layer)
    with planting(plant):
        status = harness(options.command)
    if plant.choice is None:
        print("nothing was planted: no unobserved engine was built in FP16 or BF16", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
