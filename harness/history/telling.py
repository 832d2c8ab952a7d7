"""What a comparison comes to, in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.history.judgement import DriftVerdict
from harness.history.outcome import TensorDrift
from harness.history.schema import LAYER, OUTPUT
from harness.judge.words import count, number

_NOUNS = {OUTPUT: "output", LAYER: "layer"}


def tell_comparison(
    verdict: DriftVerdict, worst: TensorDrift | None, counts: Mapping[str, Mapping[DriftVerdict, int]]
) -> str:
    """One line for a run that could be compared."""
    total = " and ".join(count(sum(found.values()), _NOUNS[kind]) for kind, found in counts.items())
    if verdict is DriftVerdict.SAME:
        return f"{total}: the same bits"
    assert worst is not None
    if verdict is DriftVerdict.WITHIN_NOISE:
        return f"{total}: other bits, but no change beyond noise and effect floor"
    outputs = counts.get(OUTPUT, {})
    calm = not any(DriftVerdict(item) is worst.verdict for item in outputs)
    return ("no output, but " if calm and outputs else "") + tell_tensor(worst)


def tell_tensor(drift: TensorDrift) -> str:
    """`b7_sq (Pow): error 3.1e-4 → inf, gates held in 3 of 3 builds, now in 0 of 3`."""
    where = drift.tensor if drift.node in (None, drift.tensor) else f"{drift.tensor} of node {drift.node}"
    parts = [f"error {number(drift.old)} → {number(drift.new)}"]
    if 0 < drift.old < math.inf and math.isfinite(drift.new):
        parts[0] += f" (×{number(drift.ratio)})"
    if math.isfinite(drift.noise) and math.isfinite(drift.new) and math.isfinite(drift.old):
        parts.append(f"noise ±{number(drift.noise)}")
    elif math.isnan(drift.noise):
        parts.append("noise not measured")
    if drift.verdict in (DriftVerdict.NEW_FAILURE, DriftVerdict.FIXED):
        parts.append(f"gates held in {drift.old_passed} builds, now in {drift.new_passed}")
    return f"{where} ({drift.op}): {', '.join(parts)}" if drift.op else f"{where}: {', '.join(parts)}"


def tell_errors(errors: Sequence[str], *, everywhere: bool) -> str:
    """The first line of the last error, which is the newer release's if it has one; `everywhere`: both have."""
    last = errors[-1].splitlines()[0]
    return f"on both releases, {last}" if everywhere else last
