"""What a comparison finds, in one line each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.comparison import COMPUTED, LOWER_BOUNDED, NONFINITE, SHAPE
from harness.history.judgement.builds import BuildOutcome
from harness.history.judgement.outcome import BaselineState, FewerBuilds, Incomparable, UnjudgedBuild
from harness.history.judgement.steps import Series
from harness.history.judgement.structure import ChangeKind, StructureChange
from harness.history.judgement.tensors import JudgedTensor
from harness.history.types import BuildCount, DriftVerdict, RowKind
from harness.text import gate as in_words
from harness.text import names, number, plural, ratio

MOST_BUILDS = 6  # whose errors are named one by one
_NOUNS = {RowKind.OUTPUT: "output", RowKind.LAYER: "layer"}
_DEMANDS = {
    NONFINITE.metric: "all finite",
    SHAPE: "the same shape",
    COMPUTED: "computed",
}
_INCOMPARABLE = {
    Incomparable.NOTHING_BEFORE: "there is no older result to compare with",
    Incomparable.NOT_IN_RUN_BEFORE: "it was not in the run before",
    Incomparable.MODEL_CHANGED: "the model is not that of the run before",
    Incomparable.CASE_CHANGED: "the case is not that of the run before",
}
_BASELINES = {
    BaselineState.MISSING: "there is no baseline",
    BaselineState.MODEL_CHANGED: "the model has changed since the baseline was written",
    BaselineState.CASE_CHANGED: "the case has changed since the baseline was written",
}


def comparison_text(
    verdict: DriftVerdict, worst: JudgedTensor | None, counts: Mapping[RowKind, Mapping[DriftVerdict, int]]
) -> str:
    """One line for a run that could be compared."""
    total = " and ".join(plural(sum(found.values()), _NOUNS[kind]) for kind, found in counts.items())
    if verdict is DriftVerdict.SAME:
        return f"{total}: the same bits"
    assert worst is not None
    if verdict is DriftVerdict.WITHIN_NOISE:
        return f"{total}: different bits, but no change beyond noise and effect floor"
    outputs = counts.get(RowKind.OUTPUT, {})
    calm = worst.verdict not in outputs
    return ("no output, but " if calm and outputs else "") + tensor_text(worst)


def compiled_text(verdict: DriftVerdict | None, release: str, changes: Sequence[StructureChange]) -> str:
    """One line for a run that was compiled only."""
    if verdict is None:
        return "neither release builds it"
    if verdict is DriftVerdict.NEW_FAILURE:
        return f"{release} no longer builds it"
    if verdict is DriftVerdict.FIXED:
        return f"{release} builds it now"
    fused = [node for change in changes if change.change is ChangeKind.CASTS_FUSED for node in change.nodes]
    if fused:
        return f"the Casts around {names(fused, 4)} are fused away: FP32 is no longer kept there"
    lost = [node for change in changes if change.loses_precision for node in change.nodes]
    if lost:
        return f"{names(lost, 4)} lost the precision asked for"
    return f"{plural(len(changes), 'change')} of kernels" if changes else "the same kernels"


def tensor_text(drift: JudgedTensor) -> str:
    """`y (Add), sample 1: error 3.1e-4 → inf, gate nrmse ≤ 0.01, held in 3 of 3 builds, now in 0 of 3`."""
    parts = [change_text(drift)]
    if 0 < drift.old < math.inf and math.isfinite(drift.new):
        parts[0] += f" ({ratio(drift.ratio)})"
    if math.isnan(drift.noise) or (math.isfinite(drift.new) and math.isfinite(drift.old)):
        parts.append(noise_text(drift.noise))
    if drift.verdict in (DriftVerdict.NEW_FAILURE, DriftVerdict.FIXED):
        parts.append(_gate_and_passes(drift))
    return f"{place_text(drift)}: {', '.join(parts)}"


def place_text(drift: JudgedTensor) -> str:
    """`logits (Add), sample 1`; the sample where it is measured by itself."""
    where = drift.tensor if drift.node in (None, drift.tensor) else f"{drift.tensor} of node {drift.node}"
    return (
        where
        + (f" ({drift.op})" if drift.op else "")
        + (f", sample {drift.sample}" if drift.sample >= 0 else "")
    )


def change_text(drift: JudgedTensor) -> str:
    """`error 3.1e-4 → inf`; with why it is infinite, where the reference is all zero."""
    text = f"error {number(drift.old)} → {number(drift.new)}"
    if drift.zero_reference and drift.gate != NONFINITE.metric and math.inf in (drift.old, drift.new):
        return f"{text} (the reference is all zero: errors relative to it are infinite)"
    return text


def noise_text(noise: float) -> str:
    """`noise ±5e-5`, or in words that it was not measured, or that there is none."""
    if math.isnan(noise):
        return "noise not measured"
    return f"noise ±{number(noise)}" if noise else "no noise: the builds of each release err alike"


def demand_text(gate: str | None, limit: float) -> str:
    """`rmse ≤ 2e-4`: metric and limit; `all finite` and the like of a gate without a limit; empty if unknown."""
    if gate is None or gate in _DEMANDS:
        return _DEMANDS.get(gate or "", "")
    return in_words(gate, limit, at_least=gate in LOWER_BOUNDED)


def gate_text(drift: JudgedTensor) -> str:
    """`rmse ≤ 2e-4 (error ≤ 1.9e-3)`: the limit as an error, too, where that is another number; empty if unknown."""
    text = demand_text(drift.gate, drift.limit)
    as_error = number(drift.error_limit)
    other = not math.isnan(drift.error_limit) and as_error != number(drift.limit)
    return f"{text} (error ≤ {as_error})" if other else text


def _gate_and_passes(drift: JudgedTensor) -> str:
    """`gate rmse ≤ 2e-4 held in 3 of 3 builds, now in 0 of 3`."""
    if drift.gate is None:
        return f"gates {passes_text(drift)}"
    demand = f": {gate_text(drift)}," if drift.gate in _DEMANDS else f" {gate_text(drift)}"
    return f"gate{demand} {passes_text(drift)}"


def passes_text(drift: JudgedTensor) -> str:
    """`held in 3 of 3 builds, now in 0 of 3`: all gates of the tensor together."""
    before, now = (
        BuildCount(drift.old_passed, drift.old_builds),
        BuildCount(drift.new_passed, drift.new_builds),
    )
    return f"held in {before} builds, now in {now}"


def builds_text(builds: Sequence[BuildOutcome]) -> str:
    """`5.8e-8, 5.6e-8, 3.5e-4`: the error of each build; of many builds, their range."""
    errors = [build.error for build in builds if build.error is not None]
    texts = [number(error) for error in errors]
    if len(errors) > 1 and len(set(texts)) == 1:
        return f"{texts[0]} in each of {len(texts)}"
    if len(errors) > MOST_BUILDS:
        return f"{number(min(errors))} to {number(max(errors))} in {len(errors)}"
    return ", ".join(texts)


def layers_text(build: BuildOutcome) -> str:
    """`fp16 ×25, fp32 ×3`: how many layers of a build compute in which precision; empty if that is unknown."""
    return ", ".join(f"{precision} ×{amount}" for precision, amount in build.layers.items())


def failing_text(builds: Sequence[BuildOutcome]) -> str:
    """`3 of 3 builds`: in how many it fails."""
    return f"{sum(build.failed for build in builds)} of {plural(len(builds), 'build')}"


def series_text(series: Series) -> str:
    """`y, sample 0: 2e-3 since 20260126T020000Z-000000, 1e-3 before`, or that it creeps; empty if neither."""
    where = f"{series.tensor}, sample {series.sample}" if series.sample >= 0 else series.tensor
    if (creep := series.creep) is not None:
        return f"{where}: creeping, {ratio(creep.ratio)} over {creep.nights} nights"
    if (step := series.rise) is not None:
        return f"{where}: {number(step.after)} since {series.night(step)}, {number(step.before)} before"
    return ""


def error_text(error: UnjudgedBuild, *, everywhere: bool) -> str:
    """Why a build could not be judged, with its release; `everywhere`: builds of both releases failed."""
    return f"on both releases, {error.headline}" if everywhere else error.headline


def fewer_text(fewer: FewerBuilds) -> str:
    """`new: 2 of 3 builds within the time limit`."""
    return f"{fewer.release}: {fewer.builds} builds" + (" within the time limit" if fewer.out_of_time else "")


def incomparable_text(why: Incomparable) -> str:
    """Why a run is compared with nothing."""
    return _INCOMPARABLE[why]


def baseline_text(state: BaselineState) -> str:
    """Why a baseline is not compared with."""
    return _BASELINES[state]
