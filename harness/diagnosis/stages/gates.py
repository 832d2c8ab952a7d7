"""Stage 1, gates first: is there something to hold against, and is there a fault at all?

Requires: inputs that fit the model.
Ensures: without a verdict, the reference is finite, reproducible and stable as far as the subject is judged, and the
unobserved candidate, as a user would deploy it, fails a gate that the reference decides; its outputs are kept for all
samples. Outputs that it does not decide are set aside in the subject. With a verdict (`none`, `reference`), there is
nothing to search for.
Evidence: the outputs of the unobserved candidate with their gates; the reference's own error beside them.

Whether the candidate passes in FP32 is not asked here: an island that cures proves it for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from harness.diagnosis.context import Examination, Examiner, Subject, Undecided
from harness.diagnosis.results import Evidence, Stage, Verdict
from harness.diagnosis.stages.stability import Stability, check_stability
from harness.errors import CandidateError, ReferenceNotFiniteError, ReferenceNotReproducibleError
from harness.judge import OutputResult, Overflow, OwnRoundings, describe_failure, find_overflows
from harness.search import Outcome
from harness.text import magnitude

PHASE, BASELINE = "gates", "baseline"


@dataclass(frozen=True)
class Gates:
    """What the first stage found.

    Args:
        verdict: `none`, `reference`, or `unresolved` for want of budget, which end the diagnosis; None to go on.
        baseline: the unobserved candidate; None if it was not reached.
        stability: the reference's own error; None if it was not asked for.
        reference_fault: the tensor where the reference stops being finite.
        own_overflows: where the model's own float16 or bfloat16 overflows so that the outputs are wrong.
        drawing: the nodes that draw the random numbers by which the reference differs from run to run.
        evidence: what was shown.
        outputs: all outputs of the unobserved candidate, also those that the baseline lacks as undecided.
        beside: a sentence on each output that is not decided, where the others are.
    """

    verdict: Verdict | None
    baseline: Examination | None = None
    stability: Stability | None = None
    reference_fault: str | None = None
    own_overflows: tuple[Overflow, ...] = ()
    drawing: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    outputs: tuple[OutputResult, ...] = ()
    beside: tuple[str, ...] = ()


def check_gates(examiner: Examiner) -> Gates:
    """Run the first stage.

    Raises:
        CandidateError: the unobserved candidate cannot be built or run.
        ModelError: the model cannot be run in FP32.
    """
    subject = examiner.subject
    try:
        expected = subject.bench.expected
    except ReferenceNotFiniteError as error:
        where = f"from {error.first_tensor} on: {error.count} elements of {error.tensor}"
        text = f"the FP32 reference is not finite {where}"
        facts = {"tensor": error.tensor, "first_tensor": error.first_tensor, "count": error.count}
        evidence = Evidence(Stage.GATES, text, facts)
        overflows = tuple(each for each in find_overflows(subject.bench) if each.tensor == error.first_tensor)
        return Gates(
            Verdict.REFERENCE,
            reference_fault=error.first_tensor,
            own_overflows=overflows,
            evidence=(evidence, *_told(overflows)),
        )
    except ReferenceNotReproducibleError as error:
        text = f"the FP32 reference is not reproducible: {error.tensor} differs when the same inputs are run again"
        evidence = Evidence(Stage.GATES, text, {"tensor": error.tensor, "drawing": list(error.nodes)})
        return Gates(Verdict.REFERENCE, drawing=error.nodes, evidence=(evidence,))
    assert expected, "a case has at least one sample"
    own = subject.bench.own_roundings
    if own.overflows and not _holds_without(subject, own):
        text = (
            f"the reference is not sound: the model's {own.subject} overflows, and the same model in FP32 gives other "
            "outputs, beyond what the gates let pass"
        )
        evidence = Evidence(Stage.GATES, text, {"cost": own.cost})
        return Gates(
            Verdict.REFERENCE, own_overflows=own.overflows, evidence=(*_told(own.overflows), evidence)
        )
    told = tuple(
        Evidence(Stage.GATES, text) for text in dict.fromkeys((*map(str, own.overflows), *own.warnings))
    )
    baseline = examiner.examine(subject.plan(), phase=PHASE, key=BASELINE, thorough=True)
    if baseline.outcome is Outcome.UNRESOLVED:
        raise CandidateError(
            f"the candidate cannot be diagnosed, it cannot be run: {baseline.note}",
            where=subject.bench.case.name,
            evidence=baseline.evidence,
        )
    if baseline.passed:
        evidence = Evidence(Stage.GATES, "the unobserved candidate passes every gate", {"passed": True})
        return Gates(Verdict.NONE, baseline, evidence=(*told, evidence), outputs=baseline.outputs)
    failed = Evidence(
        Stage.GATES,
        f"the unobserved candidate fails: {describe_failure(baseline.outputs)}",
        {"passed": False, "badness": baseline.trial.badness},
    )
    stability = check_stability(subject)
    shown = (*told, failed, _stability_evidence(stability))
    undecided = stability.undecided([output for output in baseline.outputs if not output.passed])
    if not undecided:
        return Gates(None, baseline, stability, evidence=shown, outputs=baseline.outputs)
    return _set_aside(examiner, Gates(None, baseline, stability, evidence=shown), undecided)


def _set_aside(examiner: Examiner, gates: Gates, undecided: Mapping[str, Undecided]) -> Gates:
    """Go on with the outputs that the reference decides, if one of them fails."""
    assert gates.baseline is not None
    subject, outputs = examiner.subject, gates.baseline.outputs
    subject.undecided.update(undecided)
    left = subject.decidable(outputs)
    failing = [output.sample for output in left if not output.passed]
    if not failing:
        subject.undecided.clear()
        return replace(gates, verdict=Verdict.REFERENCE, outputs=outputs)
    examiner.failing_sample = failing[0]
    tensors = tuple(
        {name: value for name, value in sample.items() if name not in undecided or undecided[name].finite}
        for sample in gates.baseline.tensors
    )
    beside = tuple(_sentence(name, doubt) for name, doubt in undecided.items())
    told = tuple(
        Evidence(Stage.GATES, sentence, {"tensor": name, "share": doubt.share, "finite": doubt.finite})
        for sentence, (name, doubt) in zip(beside, undecided.items(), strict=True)
    )
    baseline = replace(gates.baseline, outputs=left, tensors=tensors)
    evidence = (*gates.evidence, *told)
    return replace(gates, baseline=baseline, evidence=evidence, outputs=outputs, beside=beside)


def _sentence(name: str, doubt: Undecided) -> str:
    """`A was not judged: the error of the FP32 reference itself is 12 times what the gates let pass`."""
    times = "beyond all" if math.isinf(doubt.share) else f"{magnitude(doubt.share)} times what"
    why = f"the error of the FP32 reference itself is {times} the gates let pass"
    if doubt.finite:
        return f"{name} was judged for being finite and of the right shape only: {why}"
    return f"{name} was not judged: {why}"


def _told(overflows: Iterable[Overflow]) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(Stage.GATES, str(each), {"node": each.node, "elements": each.elements}) for each in overflows
    )


def _holds_without(subject: Subject, own: OwnRoundings) -> bool:
    """Whether the model without its own roundings passes the gates of the run; true where that is not known."""
    return all(
        output.passed
        for sample, tensors in enumerate(own.unrounded)
        for output in subject.judge(tensors, sample, subject.plan(), as_emulator=True)
    )


def _stability_evidence(stability: Stability) -> Evidence:
    facts = {"method": stability.method, "share": stability.share}
    if stability.share is None:
        return Evidence(Stage.GATES, f"the reference's own error is unknown: {stability.method}", facts)
    word = "stable" if stability.stable else "not stable"
    text = (
        f"the FP32 reference is {word}: {stability.method} differs from it by {magnitude(stability.share)} of what the "
        "gates let pass"
    )
    return Evidence(Stage.GATES, text, facts)
