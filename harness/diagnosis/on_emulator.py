"""The stages on the emulator: no GPU, no builds, seconds."""

from __future__ import annotations

from harness import search
from harness.diagnosis.context import Lab, outliers
from harness.diagnosis.explain import explain_nodes, find_origins_of
from harness.diagnosis.results import Evidence, Stage, Verdict
from harness.diagnosis.stages import (
    CANDIDATE,
    Cure,
    Findings,
    Gates,
    Searching,
    Shown,
    cure_on_emulator,
    decide,
    predict,
)
from harness.errors import BudgetExhaustedError


def examine_on_emulator(lab: Lab, gates: Gates) -> Findings:
    """Predict, cure and attribute a fault of the emulator."""
    subject = lab.subject
    lab.tell(Stage.PREDICT, "measure what each node introduces")
    prognosis = predict(subject, gates)
    lab.tell(Stage.CURE, "try the suspects", suspected=outliers(prognosis.introduced))
    effects = lab.effects(prognosis.failing_sample)
    searching = Searching(lab.notebook, on_progress=lab.watcher("search the island"))
    try:
        cure = cure_on_emulator(lab.examiner, prognosis, effects, searching)
    except BudgetExhaustedError as error:
        stopped = Evidence(Stage.CURE, f"stopped: {error.message}")
        cure = Cure(verdict=search.Verdict.BUDGET, evidence=(stopped,))
    evidence = (*gates.evidence, *prognosis.evidence, *cure.evidence)
    if not cure.found:
        starts = explain_nodes(subject, prognosis, [layer.node for layer in prognosis.origins])
        return Findings(
            _unanswered(cure.verdict),
            evidence=(*evidence, _why_unanswered(cure.verdict)),
            origins=starts,
            prognosis=prognosis,
            suspects=cure.best or tuple(layer.node for layer in prognosis.origins),
            cure=cure,
        )
    lab.tell(Stage.ATTRIBUTE, "explain where it starts", suspected=cure.island)
    verdict, reason = decide(Shown(subject.precision, emulator_fails=True, island_cures=True))
    return Findings(
        verdict,
        evidence=(*evidence, reason),
        culprits=cure.island,
        island=cure.island,
        confirmed=True,
        # The emulator is the candidate here.
        minimal_on=None if cure.minimal_on is None else CANDIDATE,
        origins=find_origins_of(subject, prognosis, cure.island, effects),
        prognosis=prognosis,
        cure=cure,
    )


def _unanswered(verdict: search.Verdict | None) -> Verdict:
    return Verdict.NONDETERMINISTIC if verdict is search.Verdict.FLAKY else Verdict.UNRESOLVED


def _why_unanswered(verdict: search.Verdict | None) -> Evidence:
    reasons = {
        search.Verdict.BUDGET: "the budget was spent before the search ended",
        search.Verdict.LOST: "the fault stays with every node in FP32: the gates ask for more than FP32 gives",
        search.Verdict.FLAKY: "the same evaluation does not give the same outcome twice",
    }
    default = "the search could not judge what it had to"
    return Evidence(Stage.ATTRIBUTE, reasons.get(verdict, default) if verdict else default)
