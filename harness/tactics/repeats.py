"""Whether building again gives the same: which layers changed their tactic, whether outputs changed, by how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from harness.backends import Plan
from harness.errors import UsageError
from harness.tactics.record import TacticRecord, record_of, variants
from harness.tactics.result import brief
from harness.tactics.samples import Evaluate, Tensors
from harness.tactics.variations import noise
from harness.tensors import NEVER, UNLESS_DEFAULT
from harness.worker.protocol import EngineFacts, reformatted_layer


@dataclass(frozen=True)
class Chosen:
    """A choice in words, and how many builds made it."""

    choice: str
    builds: int


@dataclass(frozen=True)
class ChangedLayer:
    """A layer that did not choose alike in all builds.

    Args:
        layer: its name.
        onnx_nodes: what it computes.
        choices: what it chose; the most frequent first.
        absent: how many builds have no such layer.
    """

    layer: str
    onnx_nodes: tuple[str, ...]
    choices: tuple[Chosen, ...]
    absent: int = 0


@dataclass(frozen=True)
class OutputSpread:
    """How far one output of later builds is from the first build's, over all samples.

    Args:
        tensor: name of the output.
        identical: how many of the later builds gave the same bits.
        max_abs: the largest absolute difference; infinite where only one of two values is finite.
        nrmse: the largest root mean square difference of a build, over the first build's root mean square.
    """

    tensor: str
    identical: int
    max_abs: float
    nrmse: float


@dataclass(frozen=True)
class Repeats:
    """What several builds of one plan came to.

    Args:
        builds: how many.
        layers: layers that were tuned in the first build.
        changed: those that changed, copies between formats left out.
        copies: copies between formats that changed, came or went.
        outputs: how far each output moved.
        records: what each build chose.
        passes: how many pass their gates; None where they were not judged.
    """

    builds: int
    layers: int
    changed: tuple[ChangedLayer, ...] = ()
    copies: int = 0
    outputs: tuple[OutputSpread, ...] = ()
    records: tuple[TacticRecord, ...] = field(default=(), compare=False, repr=False, metadata=NEVER)
    passes: int | None = field(default=None, metadata=UNLESS_DEFAULT)

    ALSO_IN_JSON: ClassVar = ("summary",)

    @property
    def same_outputs(self) -> bool:
        """Whether every build computed the same bits."""
        return all(output.identical == self.builds - 1 for output in self.outputs)

    @property
    def summary(self) -> str:
        """The answer in one sentence."""
        layers = "no layer" if not self.changed else f"{len(self.changed)} of {self.layers} layers"
        said = f"{self.builds} builds: {layers} changed tactic"
        if self.same_outputs:
            return f"{said}, outputs are identical"
        worst = max(self.outputs, key=lambda output: output.nrmse)
        return f"{said}, {worst.tensor} moved by up to {worst.max_abs:.3g} (nrmse {worst.nrmse:.3g})"


@dataclass(frozen=True)
class RepeatedBuild:
    """One of several builds: what it computed, sample by sample, what it chose, and what is known of it."""

    outputs: tuple[Tensors, ...]
    record: TacticRecord | None
    facts: EngineFacts | None


def build_repeatedly(
    evaluate: Evaluate,
    plan: Plan,
    feeds: Sequence[Tensors],
    model: str,
    count: int,
    *,
    alternatives: int = 0,
) -> Iterator[RepeatedBuild]:
    """Build `plan` several times, each tuned anew, and run it on every sample.

    Args:
        evaluate: evaluates a plan on one sample, such as a candidate's `evaluate`.
        plan: what is built.
        feeds: the inputs, sample by sample.
        model: SHA-256 of the model.
        count: how many builds.
        alternatives: choices of a layer, beside the one taken, that a build reports.

    Raises:
        UsageError: `count` is less than two.
        CandidateError: a build, an inference or the worker failed.
    """
    if count < 2:
        raise UsageError(f"{count} builds say nothing of whether builds repeat", hint="ask for 2 or more")
    for variation in noise(count):
        varied = variation.of(plan, alternatives=alternatives)
        evaluations = [evaluate(varied, sample) for sample in feeds]
        outputs = tuple(
            {name: np.array(value) for name, value in evaluation.tensors.items()}
            for evaluation in evaluations
        )
        yield RepeatedBuild(outputs, record_of(evaluations[0], varied, model), evaluations[0].engine)


def compare_builds(builds: Sequence[RepeatedBuild]) -> Repeats:
    """What several builds of one plan came to."""
    records = tuple(build.record for build in builds if build.record is not None)
    changed = [layer for layer in _changed(records) if reformatted_layer(layer.layer) is None]
    return Repeats(
        builds=len(builds),
        layers=sum(reformatted_layer(choice.layer) is None for choice in records[0].choices)
        if records
        else 0,
        changed=tuple(changed),
        copies=len(_changed(records)) - len(changed),
        outputs=tuple(_spread(name, builds) for name in builds[0].outputs[0]),
        records=records,
    )


def _changed(records: Sequence[TacticRecord]) -> list[ChangedLayer]:
    found = []
    for place in dict.fromkeys(place for record in records for place in record.by_place):
        here = [record.by_place.get(place, ()) for record in records]
        if len({variants(choices) for choices in here}) == 1:
            continue
        present = [choices for choices in here if choices]
        counts = Counter(_worded(choices, present) for choices in present)
        one = present[0][0]
        chosen = tuple(Chosen(*each) for each in counts.most_common())
        found.append(ChangedLayer(one.layer, one.onnx_nodes, chosen, len(here) - len(present)))
    return found


def _worded(choices: Sequence[Any], others: Sequence[Sequence[Any]]) -> str:
    """A choice in words, with the formats where the words alone do not distinguish it from another."""
    words = brief(choices)
    alike = {variants(other) for other in others if brief(other) == words}
    if len(alike) == 1:
        return words
    forms = [f"{form.dtype}{list(form.strides)}" for form in (*choices[0].inputs, *choices[0].outputs)]
    return f"{words}, {' '.join(forms)}"


def _spread(name: str, builds: Sequence[RepeatedBuild]) -> OutputSpread:
    first, *later = ([sample[name] for sample in build.outputs] for build in builds)
    identical, max_abs, nrmse = 0, 0.0, 0.0
    finite = np.concatenate([value[np.isfinite(value)].astype(np.float64) for value in first])
    scale = np.sqrt(np.mean(np.square(finite))) if finite.size else 0.0
    for values in later:
        if all(_same_bits(a, b) for a, b in zip(first, values, strict=True)):
            identical += 1
            continue
        differences = [_difference(a, b) for a, b in zip(first, values, strict=True)]
        max_abs = max(max_abs, *(float(difference.max()) for difference in differences))
        with np.errstate(invalid="ignore"):
            rms = np.sqrt(np.mean([np.mean(np.square(difference)) for difference in differences]))
        nrmse = max(nrmse, float(rms / scale) if scale > 0 else float("inf"))
    return OutputSpread(name, identical, max_abs, nrmse)


def _same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Absolute differences; infinite where only one is finite or shapes differ, 0 where both are the same."""
    if first.shape != second.shape:
        return np.array([np.inf])
    a, b = first.astype(np.float64).reshape(-1), second.astype(np.float64).reshape(-1)
    with np.errstate(invalid="ignore"):
        found = np.abs(a - b)
    found[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    found[np.isnan(found)] = np.inf
    return found if found.size else np.zeros(1)
