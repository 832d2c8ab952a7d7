"""The last step: from what was shown to the kind of fault, its culprits and its origins."""

from __future__ import annotations

from dataclasses import replace

from harness.diagnosis.context import (
    Context,
    Cure,
    Findings,
    Seen,
)
from harness.diagnosis.explain import explain_nodes, find_origins_of
from harness.diagnosis.results import (
    CANDIDATE,
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Stage,
)
from harness.diagnosis.stages import (
    Symptoms,
    conclude,
    decide,
    explain_reference,
)
from harness.search import SearchVerdict


def attribute(seen: Seen, context: Context) -> Seen:
    """From what was shown to the kind of fault, its culprits and its origins."""
    gates = seen.gates
    if gates is None:
        found, evidence = Findings(DiagnosisVerdict.UNRESOLVED), tuple[Evidence, ...]()
    elif gates.verdict in (DiagnosisVerdict.REFERENCE, DiagnosisVerdict.FILE):
        found, evidence = explain_reference(context.subject, gates)
    elif gates.verdict is not None or seen.prediction is None:
        found, evidence = Findings(gates.verdict or DiagnosisVerdict.UNRESOLVED), ()
    elif seen.emulated:
        found, evidence = _conclude_on_emulator(seen, context)
    else:
        context.report(Stage.ATTRIBUTE, "put together what was shown")
        effects = context.effects(seen.prediction.failing_sample)
        found, evidence = conclude(seen, context.subject, effects)
    return replace(seen, findings=found).adding(*evidence)


def _conclude_on_emulator(seen: Seen, context: Context) -> tuple[Findings, tuple[Evidence, ...]]:
    subject, prediction, cure = context.subject, seen.predicted, seen.cure or Cure()
    if seen.cured_by_sums:
        return conclude(seen, subject, context.effects(prediction.failing_sample))
    if not cure.found:
        starts = [layer.node for layer in prediction.origins]
        flaky = cure.verdict is SearchVerdict.FLAKY
        verdict = SearchVerdict.BUDGET if seen.stopped else cure.verdict
        found = Findings(
            DiagnosisVerdict.NONDETERMINISTIC if flaky else DiagnosisVerdict.UNRESOLVED,
            origins=explain_nodes(subject, prediction, starts),
            suspects=cure.best or tuple(starts),
            cure=cure,
        )
        text = _UNANSWERED.get(verdict, _UNJUDGED) if verdict is not None else _UNJUDGED
        return found, (Evidence(Stage.ATTRIBUTE, EvidenceKind.DECISION, text),)
    context.report(Stage.ATTRIBUTE, "explain where it starts", suspected=cure.island)
    verdict_of, reason = decide(Symptoms(subject.precision, emulator_fails=True, island_cures=True))
    effects = context.effects(prediction.failing_sample)
    faults = () if seen.unseen is None else seen.unseen.faults
    found = Findings(
        verdict_of,
        culprits=cure.island,
        island=cure.island,
        confirmed=True,
        minimal_on=None if cure.minimal_on is None else CANDIDATE,  # the emulator is the candidate here
        origins=find_origins_of(subject, prediction, faults or cure.island, effects),
        cure=cure,
    )
    return found, (reason,)


_UNJUDGED = "the search could not judge what it had to"


_UNANSWERED = {
    SearchVerdict.BUDGET: "the budget was spent before the search ended",
    SearchVerdict.LOST: "the fault stays with every node in FP32: the gates ask for more than FP32 gives",
    SearchVerdict.FLAKY: "the same evaluation does not give the same outcome twice",
}
