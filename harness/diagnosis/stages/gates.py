"""Stage 1, gates first: is the reference sound, and is there a fault at all?

Whether the candidate passes in FP32 is not tested here: an island that cures shows it without a build.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from harness.backends import Computed, DoubleReference
from harness.diagnosis.context import (
    BASELINE,
    DECIDED_ANYWAY,
    GATES_PHASE,
    Context,
    Evaluator,
    GateCheck,
    JudgedEvaluation,
    Seen,
    Subject,
    Undecided,
    badness,
    emulate,
    in_background,
)
from harness.diagnosis.results import DiagnosisVerdict, Evidence, EvidenceKind, Stage
from harness.diagnosis.stages.cures import prebuild, prior_of, sums_of
from harness.diagnosis.stages.observation import look_ahead
from harness.diagnosis.stages.prediction import foreseen
from harness.errors import (
    BudgetExhaustedError,
    CandidateError,
    HarnessError,
    ModelError,
    NodeFailedError,
    ReferenceNotFiniteError,
    ReferenceNotReproducibleError,
)
from harness.judge import (
    COPIES,
    OutputResult,
    Overflow,
    OwnRoundings,
    ShapeResult,
    check_shapes,
    describe_failure,
    find_overflows,
    profiles_of,
)
from harness.model import LOW_DTYPE
from harness.search import Outcome
from harness.tensors import Precision
from harness.text import magnitude

SHARE = 0.5
"""An FP32 reference whose own error takes more than this share of a gate cannot decide that gate."""

SEED = 20


@dataclass(frozen=True)
class Stability:
    """How far another evaluation of the same model in higher or other precision is from the reference.

    Args:
        method: what it was evaluated with.
        share: the reference's error as a share of the tightest gate; None if nothing could be said.
        outputs: the outputs of that evaluation, with the gates of the run.
    """

    method: str
    share: float | None
    outputs: tuple[OutputResult, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether the reference can judge the candidate; true where nothing could be said."""
        return self.share is None or self.share <= SHARE

    def undecided(self, failing: Sequence[OutputResult]) -> dict[str, Undecided]:
        """The outputs that the reference cannot decide, by name.

        Args:
            failing: the outputs of the candidate that fail. Where one is not finite, not of the right shape or not
                computed, and the reference is finite and the same in both evaluations, that much is decided.
        """
        found: dict[str, Undecided] = {}
        for name in dict.fromkeys(output.tensor for output in self.outputs):
            others = [output for output in self.outputs if output.tensor == name]
            share = badness(others)
            if share <= SHARE:
                continue
            sound = all(_passes_anyway(output) for output in others)
            wrong = any(output.tensor == name and not _passes_anyway(output) for output in failing)
            found[name] = Undecided(share, finite=sound and wrong)
        return found


def _passes_anyway(output: OutputResult) -> bool:
    return all(gate.passed for gate in output.gates if gate.metric in DECIDED_ANYWAY)


def check_stability(subject: Subject) -> Stability:
    """Evaluate the model in FP64, or, where ONNX Runtime cannot, with inputs moved by half an FP32 step."""
    source = subject.bench.case.reference
    if source is not None and source.path is None:
        return Stability("nothing: what is compared with is taken as it is", None)
    bench = subject.bench if source is None else subject.bench.other
    answers = subject.bench.answers
    counterparts = {} if answers is None else answers.counterparts
    try:
        double = DoubleReference(bench.model)
        tensors = [double.run(feeds).tensors for feeds in bench.feeds]
        wanted = subject.bench.expected[0]
        others = [{name: found[counterparts.get(name, name)] for name in wanted} for found in tensors]
        kept = ", ".join(double.fp32_ops)
        method = f"FP64 ({kept} in FP32, channels reversed where they add)" if kept else "FP64"
    except ModelError as error:
        try:
            moved = _moved(subject)
        except NodeFailedError as failed:
            text = f"nothing: no FP64 ({error.message}), and with inputs moved a little {failed.failure}"
            return Stability(text, None)
        if moved is None:
            return Stability(f"nothing: no FP64 ({error.message}), and no float input to move", None)
        others = moved
        method = "inputs moved by up to half an FP32 step, for want of FP64"
    outputs = tuple(
        output for sample, tensors in enumerate(others) for output in _held(subject, tensors, sample)
    )
    return Stability(method, badness(outputs), outputs)


def _moved(subject: Subject) -> list[dict[str, np.ndarray]] | None:
    rng = np.random.default_rng(SEED)
    if not any(array.dtype == np.float32 for array in subject.bench.feeds[0].values()):
        return None
    half = np.float64(2.0**-24)
    return [
        subject.bench.reference.run(
            {
                name: (array * (1 + half * rng.uniform(-1, 1, array.shape))).astype(np.float32)
                if array.dtype == np.float32
                else array
                for name, array in feeds.items()
            }
        )
        for feeds in subject.bench.feeds
    ]


def _held(subject: Subject, tensors: Mapping[str, np.ndarray], sample: int) -> list[OutputResult]:
    """The other evaluation as if it were the candidate, against the gates of the run."""
    narrowed = {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in tensors.items()
    }
    return list(subject.judge(Computed(narrowed), sample, subject.plan()))


def judge_candidate(seen: Seen, context: Context) -> Seen:
    """Judge the reference and the unobserved candidate, and while it is built what the emulator can say before."""
    text = "run the reference and the unobserved candidate"
    context.report(Stage.GATES, text)
    foreseen_to_fail: list[int] = []

    def foresee(sample: int, building: bool) -> None:
        foreseen_to_fail.append(sample)
        if building:
            context.subject.candidate.start_second()
        prediction = foreseen(context.subject, sample)
        if not building:
            return
        with suppress(BudgetExhaustedError):  # it is spent as soon as it is asked for
            sums = None
            if seen.precision is Precision.FP16:
                context.report(Stage.CURE, "add up in FP32")
                sums = sums_of(context, prediction)
            if sums is not None and sums.products:
                prebuild(context, fp32_sums=sums.products)
            elif (prior := prior_of(context, prediction, partial(prebuild, context))).found:
                prebuild(context, prior.island)
        context.report(Stage.GATES, text)

    gates = check_gates(context.evaluator, foresee)
    if gates.verdict is None and foreseen_to_fail:
        look_ahead(context.evaluator)
    known = {} if gates.baseline is None else {frozenset[str](): gates.baseline.trial}
    return replace(seen, gates=gates, known=known).adding(*gates.evidence)


def check_gates(
    evaluator: Evaluator, foresee: Callable[[int, bool], None] = lambda sample, building: None
) -> GateCheck:
    """Run the first stage.

    Args:
        evaluator: of the candidate.
        foresee: called before an engine is judged whose emulator fails, with the sample that does, and whether the
            engine is still being built: mostly it fails, too.

    Raises:
        CandidateError: the unobserved candidate cannot be built or run.
        ModelError: the model cannot be run in FP32.
    """
    subject = evaluator.subject
    unsound = _unsound_reference(subject)
    if unsound is not None:
        return unsound
    stability: Future[Stability] | None = None
    building = evaluator.begin(subject.plan(), BASELINE, certain=True)
    if not subject.emulated:  # engines are judged relative to it: computed while they are built
        if building and subject.precision in LOW_DTYPE:
            _read_ahead(subject)
        for sample in range(len(subject.bench.feeds)):
            subject.emulation(subject.precision, sample)
        failing = None
        if subject.precision in LOW_DTYPE:
            failing = emulate(subject, subject.plan()).failing_sample
        if failing is not None:
            stability = in_background(partial(check_stability, subject), "in FP64")
            foresee(failing, building)
    own = subject.bench.own_roundings
    warnings = tuple(
        Evidence.of(EvidenceKind.OWN_ROUNDINGS, text)
        for text in dict.fromkeys((*map(str, own.overflows), *own.warnings))
    )
    baseline = evaluator.evaluate(subject.plan(), phase=GATES_PHASE, key=BASELINE, thorough=True)
    if baseline.outcome is Outcome.UNRESOLVED:
        raise CandidateError(
            f"the candidate cannot be run, and so not diagnosed: {baseline.note}",
            where=subject.bench.case.name,
            evidence=baseline.evidence,
        )
    if baseline.passed:
        passed = Evidence.of(EvidenceKind.BASELINE, "the unobserved candidate passes every gate", passed=True)
        wrong = _wrong_shapes(subject)
        shapes = tuple(Evidence.of(EvidenceKind.BASELINE, str(each)) for each in wrong)
        return GateCheck(
            DiagnosisVerdict.SHAPE if wrong else DiagnosisVerdict.NONE,
            baseline,
            evidence=(*warnings, passed, *shapes),
            outputs=baseline.outputs,
            shapes=wrong,
        )
    failed = Evidence.of(
        EvidenceKind.BASELINE,
        f"the unobserved candidate fails: {describe_failure(baseline.outputs)}",
        passed=False,
        badness=baseline.badness,
    )
    stable = check_stability(subject) if stability is None else stability.result()
    gates = GateCheck(
        None, baseline, evidence=(*warnings, failed, _stability_evidence(stable)), outputs=baseline.outputs
    )
    undecided = stable.undecided([output for output in baseline.outputs if not output.passed])
    return _set_aside(evaluator, gates, baseline, undecided) if undecided else gates


def _read_ahead(subject: Subject) -> None:
    """Compute the reference's tensors while an engine has no kernels yet: a failure is looked into with them."""
    bench = subject.bench
    chunks = bench.memory.chunks(bench.model.float_tensors, copies=COPIES)
    if bench.reference is bench.itself and len(chunks) == 1:
        with suppress(HarnessError):  # whatever goes wrong does so again when it is their turn
            bench.reference_tensors(0, chunks[0], copies=COPIES)


def _wrong_shapes(subject: Subject) -> tuple[ShapeResult, ...]:
    """The shapes of the declared profile that are wrong, although that of the case is right."""
    if not profiles_of(subject.bench.case):
        return ()
    found = check_shapes(subject.bench, subject.candidate, subject.plan(), subject.precision)
    return tuple(each for each in found if each.fault)


def _unsound_reference(subject: Subject) -> GateCheck | None:
    """The verdict `reference`, where it is not finite or not reproducible, or `file`, where the file is wrong."""
    try:
        expected = subject.bench.expected
    except ReferenceNotFiniteError as error:
        evidence = Evidence.of(
            EvidenceKind.REFERENCE,
            f"the FP32 reference is not finite from {error.first_tensor} on: {error.count} elements of {error.tensor}",
            tensor=error.tensor,
            first_tensor=error.first_tensor,
            count=error.count,
        )
        overflows = tuple(each for each in find_overflows(subject.bench) if each.tensor == error.first_tensor)
        model = subject.model
        dtypes = tuple(sorted({model.dtypes[name] for name in model.own_tensors}))
        own = OwnRoundings(overflows, dtypes=dtypes)
        return GateCheck(
            DiagnosisVerdict.REFERENCE if error.own is None else DiagnosisVerdict.FILE,
            reference_fault=error.first_tensor,
            own=None if error.own is None else own,
            evidence=(evidence, *_overflow_evidence(overflows)),
        )
    except ReferenceNotReproducibleError as error:
        evidence = Evidence.of(
            EvidenceKind.REFERENCE,
            f"the FP32 reference is not reproducible: {error.tensor} differs when the same inputs are run again",
            tensor=error.tensor,
            drawing=list(error.nodes),
        )
        return GateCheck(DiagnosisVerdict.REFERENCE, drawing=error.nodes, evidence=(evidence,))
    assert expected, "a case has at least one sample"
    own = subject.bench.own_roundings
    elsewhere = subject.bench.case.reference is not None
    if not (own.fault or (elsewhere and own.overflows)) or (
        elsewhere and emulate(subject, subject.plan(), subject.bench.file).passed
    ):  # with its own roundings and no others
        return None
    fault = own.fault or "the file as it is written fails the gates against its reference"
    evidence = Evidence.of(EvidenceKind.OWN_ROUNDINGS, fault, cost=own.cost, output=own.output)
    lost = [str(each) for each in (*own.vanishings, *own.saturations)]
    return GateCheck(
        DiagnosisVerdict.FILE,
        own=own,
        evidence=(
            *_overflow_evidence(own.overflows),
            *(Evidence.of(EvidenceKind.OWN_ROUNDINGS, text) for text in lost),
            evidence,
        ),
    )


def _set_aside(
    evaluator: Evaluator, gates: GateCheck, baseline: JudgedEvaluation, undecided: Mapping[str, Undecided]
) -> GateCheck:
    """Go on with the outputs that the reference decides, if one of them fails."""
    subject, outputs = evaluator.subject, baseline.outputs
    subject.undecided.update(undecided)
    left = subject.decidable(outputs)
    failing = [output.sample for output in left if not output.passed]
    if not failing:
        subject.undecided.clear()
        return replace(gates, verdict=DiagnosisVerdict.REFERENCE)
    evaluator.failing_sample = failing[0]
    tensors = tuple(
        {name: value for name, value in sample.items() if name not in undecided or undecided[name].finite}
        for sample in baseline.tensors
    )
    beside = {name: _undecided_sentence(name, doubt) for name, doubt in undecided.items()}
    set_aside = tuple(
        Evidence.of(EvidenceKind.SET_ASIDE, beside[name], tensor=name, share=doubt.share, finite=doubt.finite)
        for name, doubt in undecided.items()
    )
    return replace(
        gates,
        baseline=replace(baseline, outputs=left, tensors=tensors),
        evidence=(*gates.evidence, *set_aside),
        beside=tuple(beside.values()),
    )


def _undecided_sentence(name: str, doubt: Undecided) -> str:
    """`A was not judged: the error of the FP32 reference itself is 12 times what the gates allow`."""
    times = "beyond all" if math.isinf(doubt.share) else f"{magnitude(doubt.share)} times what"
    why = f"the error of the FP32 reference itself is {times} the gates allow"
    if doubt.finite:
        return f"{name} was judged for being finite and of the right shape only: {why}"
    return f"{name} was not judged: {why}"


def _overflow_evidence(overflows: Iterable[Overflow]) -> tuple[Evidence, ...]:
    return tuple(
        Evidence.of(EvidenceKind.OWN_ROUNDINGS, str(each), node=each.node, elements=each.elements)
        for each in overflows
    )


def _stability_evidence(stability: Stability) -> Evidence:
    if stability.share is None:
        text = f"the reference's own error is unknown: {stability.method}"
    else:
        word = "stable" if stability.stable else "not stable"
        text = (
            f"the FP32 reference is {word}: {stability.method} differs from it by {magnitude(stability.share)} of what "
            "the gates allow"
        )
    return Evidence.of(EvidenceKind.STABILITY, text, method=stability.method, share=stability.share)
