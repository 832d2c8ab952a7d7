"""What a comparison comes to, in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.comparison import COMPUTED, LOWER_BOUNDED, NONFINITE, SHAPE
from harness.history.judgement.builds import BuildOutcome
from harness.history.judgement.outcome import TensorDrift
from harness.history.judgement.tensors import DriftVerdict
from harness.history.nightly import Series
from harness.history.store import LAYER, OUTPUT
from harness.text import gate, number, plural, ratio

MOST_BUILDS = 6  # whose errors are named one by one
_NOUNS = {OUTPUT: "output", LAYER: "layer"}


def tell_comparison(
    verdict: DriftVerdict, worst: TensorDrift | None, counts: Mapping[str, Mapping[DriftVerdict, int]]
) -> str:
    """One line for a run that could be compared."""
    total = " and ".join(plural(sum(found.values()), _NOUNS[kind]) for kind, found in counts.items())
    if verdict is DriftVerdict.SAME:
        return f"{total}: the same bits"
    assert worst is not None
    if verdict is DriftVerdict.WITHIN_NOISE:
        return f"{total}: other bits, but no change beyond noise and effect floor"
    outputs = counts.get(OUTPUT, {})
    calm = not any(DriftVerdict(item) is worst.verdict for item in outputs)
    return ("no output, but " if calm and outputs else "") + tell_tensor(worst)


def tell_tensor(drift: TensorDrift) -> str:
    """`y (Add), sample 1: error 3.1e-4 → inf, gate nrmse ≤ 0.01, held in 3 of 3 builds, now in 0 of 3`."""
    parts = [tell_change(drift)]
    if 0 < drift.old < math.inf and math.isfinite(drift.new):
        parts[0] += f" ({ratio(drift.ratio)})"
    if math.isnan(drift.noise) or (math.isfinite(drift.new) and math.isfinite(drift.old)):
        parts.append(tell_noise(drift.noise))
    if drift.verdict in (DriftVerdict.NEW_FAILURE, DriftVerdict.FIXED):
        parts.append(f"{tell_gate(drift)} {tell_held(drift)}")
    return f"{tell_place(drift)}: {', '.join(parts)}"


def tell_place(drift: TensorDrift) -> str:
    """`logits (Add), sample 1`; the sample where it is measured by itself."""
    where = drift.tensor if drift.node in (None, drift.tensor) else f"{drift.tensor} of node {drift.node}"
    return (
        where
        + (f" ({drift.op})" if drift.op else "")
        + (f", sample {drift.sample}" if drift.sample >= 0 else "")
    )


def tell_change(drift: TensorDrift) -> str:
    """`error 3.1e-4 → inf`; with why it is infinite, where the reference is all zero."""
    told = f"error {number(drift.old)} → {number(drift.new)}"
    if drift.zero_reference and drift.gate != NONFINITE.metric and math.inf in (drift.old, drift.new):
        return f"{told} (the reference is all zero: errors relative to it are infinite)"
    return told


def tell_noise(noise: float) -> str:
    """`noise ±5e-5`, or in words that it was not measured, or that there is none."""
    if math.isnan(noise):
        return "noise not measured"
    return f"noise ±{number(noise)}" if noise else "no noise: the builds of each release err alike"


def tell_gate(drift: TensorDrift) -> str:
    """`gate rmse ≤ 2e-4 (error ≤ 1.9e-3)`: metric and limit, and the limit as an error where that is another number."""
    if drift.gate is None:
        return "gates"
    if drift.gate == NONFINITE.metric:
        return "gate: no element that is not finite,"
    if drift.gate == SHAPE:
        return "gate: the shape of the reference,"
    if drift.gate == COMPUTED:
        return "gate: that it can be computed,"
    told = f"gate {gate(drift.gate, drift.limit, at_least=drift.gate in LOWER_BOUNDED)}"
    as_error = number(drift.error_limit)
    other = not math.isnan(drift.error_limit) and as_error != number(drift.limit)
    return f"{told} (error ≤ {as_error})" if other else told


def tell_held(drift: TensorDrift) -> str:
    """`held in 3 of 3 builds, now in 0 of 3`: all gates of the tensor together."""
    return f"held in {drift.old_passed} builds, now in {drift.new_passed}"


def tell_builds(builds: Sequence[BuildOutcome]) -> str:
    """`5.8e-8, 5.6e-8, 3.5e-4`: the error of each build; of many builds, their range."""
    errors = [build.error for build in builds if build.error is not None]
    texts = [number(error) for error in errors]
    if len(errors) > 1 and len(set(texts)) == 1:
        return f"{texts[0]} in each of {len(texts)}"
    if len(errors) > MOST_BUILDS:
        return f"{number(min(errors))} to {number(max(errors))} in {len(errors)}"
    return ", ".join(texts)


def tell_layers(build: BuildOutcome) -> str:
    """`fp16 ×25, fp32 ×3`: how many layers of a build compute in which precision; empty if that is unknown."""
    return ", ".join(f"{precision} ×{amount}" for precision, amount in build.layers.items())


def tell_failing(builds: Sequence[BuildOutcome]) -> str:
    """`3 of 3 builds`: in how many it fails."""
    return f"{sum(build.failed for build in builds)} of {plural(len(builds), 'build')}"


def tell_series(series: Series) -> str:
    """`y, sample 0: 2e-3 since 20260126T020000Z-000000, 1e-3 before`, or that it creeps; empty if neither."""
    where = f"{series.tensor}, sample {series.sample}" if series.sample >= 0 else series.tensor
    if (creep := series.creep) is not None:
        return f"{where}: creeping, {ratio(creep.ratio)} over {creep.nights} nights"
    if (step := series.rise) is not None:
        return f"{where}: {number(step.after)} since {series.night(step)}, {number(step.before)} before"
    return ""


def tell_errors(errors: Sequence[str], *, everywhere: bool) -> str:
    """The first line of the last error, which is the newer release's if it has one; `everywhere`: both have."""
    last = errors[-1].splitlines()[0]
    return f"on both releases, {last}" if everywhere else last
