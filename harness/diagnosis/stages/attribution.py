"""Stage 5, attribute: from what was shown to the kind of fault, by a table.

Requires: what the stages before have shown; what was not asked is None.
Ensures: a verdict other than `unresolved` follows from what was shown, without a guess.
Evidence: the row of the table that applied.

| shown | verdict |
|---|---|
| repetitions differ, and follow their tactics | tactic |
| repetitions differ otherwise | nondeterministic |
| FP32 without TF32 fails | conversion |
| FP32 passes, and the precision under test is TF32, or FP32 that may use it | tf32 |
| gone when observed at the same precision, and single marks cure | fusion |
| an island in FP32 cures, and the fault was there without fusion: on the emulator or when observed | precision |
| anything else | unresolved |
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.diagnosis.results import Evidence, Stage, Verdict
from harness.tensors import Precision


@dataclass(frozen=True)
class Shown:
    """What was shown; None: it was not asked, or could not be told.

    Args:
        precision: the precision under test.
        repeats: `tactic` or `nondeterministic`, if repetitions differ.
        strict_passes: the candidate passes in FP32 without TF32.
        emulator_fails: the emulator fails at the precision under test.
        observed_passes: the engine passes when all its tensors are observed.
        marks_cure: marks of single tensors cure.
        island_cures: the unobserved candidate passes with an island in FP32.
    """

    precision: Precision
    repeats: Verdict | None = None
    strict_passes: bool | None = None
    emulator_fails: bool | None = None
    observed_passes: bool | None = None
    marks_cure: bool | None = None
    island_cures: bool | None = None


def decide(shown: Shown) -> tuple[Verdict, Evidence]:
    """The verdict, and the reason for it."""
    verdict, text = _row(shown)
    facts = {name: getattr(shown, name) for name in vars(shown) if getattr(shown, name) is not None}
    return verdict, Evidence(Stage.ATTRIBUTE, text, facts)


def _row(shown: Shown) -> tuple[Verdict, str]:
    if shown.repeats is Verdict.TACTIC:
        return Verdict.TACTIC, "the outcome changes with the tactics, and with nothing else"
    if shown.repeats is not None:
        return Verdict.NONDETERMINISTIC, "the same network does not give the same outcome twice"
    if shown.strict_passes is False:
        return Verdict.CONVERSION, "it is wrong in FP32 without TF32 already"
    if shown.strict_passes and shown.precision in (Precision.FP32, Precision.TF32):
        return Verdict.TF32, "it is right in FP32 without TF32"
    if shown.precision is Precision.TF32 and shown.emulator_fails and shown.island_cures:
        return Verdict.TF32, "rounding the operands of products to TF32 is enough to break it"
    if shown.observed_passes and shown.marks_cure:
        return Verdict.FUSION, "at the same precision it is right when the layers are kept apart"
    without_fusion = shown.emulator_fails or shown.observed_passes is False
    if shown.island_cures and without_fusion:
        where = (
            "on the emulator, which fuses nothing" if shown.emulator_fails else "when every tensor is kept"
        )
        return Verdict.PRECISION, f"FP32 at a few nodes cures it, and it fails {where}"
    if shown.island_cures:
        return (
            Verdict.UNRESOLVED,
            "FP32 at a few nodes cures it, but whether by precision or by fusion was not shown",
        )
    return Verdict.UNRESOLVED, "nothing that was tried cures it"
