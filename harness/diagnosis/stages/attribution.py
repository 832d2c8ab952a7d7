"""Stage 5, attribute: from what was shown to the kind of fault, by a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.diagnosis.context import Conclusion, Context, CureSearch, Divergence, Effects, Seen, Subject
from harness.diagnosis.explain import (
    accumulated_in_fp16,
    added_up_in_fp16,
    blame,
    explain_nodes,
    find_origins_of,
)
from harness.diagnosis.results import (
    CANDIDATE,
    EMULATOR,
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Origin,
    Stage,
)
from harness.diagnosis.stages.priors import error_of
from harness.diagnosis.stages.reference import explain_reference
from harness.diagnosis.stages.tactics import why_wrong
from harness.search import Outcome, SearchVerdict
from harness.tactics import TacticVerdict
from harness.tensors import Precision
from harness.text import names


@dataclass(frozen=True)
class Symptoms:
    """What was shown; None: it was not tested, or could not be decided.

    Args:
        precision: the precision under test.
        repeats: `tactic` or `nondeterministic`, if repetitions differ.
        passes_in_fp32: the candidate passes in FP32 without TF32.
        emulator_fails: the emulator fails at the precision under test.
        observed_passes: the engine passes when all its tensors are observed.
        marks_cure: marks of single tensors cure.
        island_cures: the unobserved candidate passes with an island in FP32.
        in_tf32: the engine in FP32 computes in TF32; then `passes_in_fp32` says that it errs no more than the emulated
            TF32.
        accumulates: FP16 accumulation explains what the emulator does not.
    """

    precision: Precision
    repeats: DiagnosisVerdict | None = None
    passes_in_fp32: bool | None = None
    emulator_fails: bool | None = None
    observed_passes: bool | None = None
    marks_cure: bool | None = None
    island_cures: bool | None = None
    in_tf32: bool | None = None
    accumulates: bool | None = None


def attribute(seen: Seen, context: Context) -> Seen:
    """From what was shown to the kind of fault, its culprits and its origins."""
    gates = seen.gates
    if gates is None:
        found, evidence = Conclusion(DiagnosisVerdict.UNRESOLVED), tuple[Evidence, ...]()
    elif gates.verdict in (DiagnosisVerdict.REFERENCE, DiagnosisVerdict.FILE):
        found, evidence = explain_reference(context.subject, gates)
    elif gates.verdict is not None or seen.prediction is None:
        found, evidence = Conclusion(gates.verdict or DiagnosisVerdict.UNRESOLVED), ()
    elif seen.emulated:
        found, evidence = _conclude_on_emulator(seen, context)
    else:
        context.report(Stage.ATTRIBUTE, "put together what was shown")
        effects = context.effects(seen.prediction.failing_sample)
        found, evidence = conclude(seen, context.subject, effects)
    return replace(seen, conclusion=found).adding(*evidence)


def _conclude_on_emulator(seen: Seen, context: Context) -> tuple[Conclusion, tuple[Evidence, ...]]:
    subject, prediction, cure = context.subject, seen.predicted, seen.cure or CureSearch()
    if seen.cured_by_sums:
        return conclude(seen, subject, context.effects(prediction.failing_sample))
    if not cure.found:
        starts = [layer.node for layer in prediction.origins]
        flaky = cure.verdict is SearchVerdict.FLAKY
        verdict = SearchVerdict.BUDGET if seen.stopped else cure.verdict
        found = Conclusion(
            DiagnosisVerdict.NONDETERMINISTIC if flaky else DiagnosisVerdict.UNRESOLVED,
            origins=explain_nodes(subject, prediction, starts),
            suspects=cure.best or tuple(starts),
            cure=cure,
        )
        text = _UNANSWERED.get(verdict, _UNJUDGED) if verdict is not None else _UNJUDGED
        return found, (Evidence.of(EvidenceKind.DECISION, text),)
    context.report(Stage.ATTRIBUTE, "explain where it starts", suspected=cure.island)
    verdict_of, reason = decide(Symptoms(subject.precision, emulator_fails=True, island_cures=True))
    effects = context.effects(prediction.failing_sample)
    faults = () if seen.unseen is None else seen.unseen.faults
    found = Conclusion(
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


def decide(symptoms: Symptoms) -> tuple[DiagnosisVerdict, Evidence]:
    """The verdict, and the reason for it."""
    verdict, text = next((verdict, text) for fits, verdict, text in _TABLE if fits(symptoms))
    facts = {name: value for name, value in vars(symptoms).items() if value is not None}
    return verdict, Evidence.of(EvidenceKind.DECISION, text, **facts)


_FP32 = (Precision.FP32, Precision.TF32)
_V = DiagnosisVerdict
_TABLE: tuple[tuple[Callable[[Symptoms], object], DiagnosisVerdict, str], ...] = (
    (
        lambda shown: shown.repeats is _V.TACTIC,
        _V.TACTIC,
        "the outcome changes with the tactics, and with nothing else",
    ),
    (
        lambda shown: shown.repeats is not None,
        _V.NONDETERMINISTIC,
        "the same network does not give the same outcome twice",
    ),
    (
        lambda shown: shown.passes_in_fp32 is False and shown.in_tf32,
        _V.CONVERSION,
        "it is wrong in FP32 already, by more than TF32 explains",
    ),
    (
        lambda shown: shown.passes_in_fp32 is False,
        _V.CONVERSION,
        "it is wrong in FP32 without TF32 already",
    ),
    (
        lambda shown: shown.passes_in_fp32 and shown.in_tf32 and shown.precision in _FP32,
        _V.TF32,
        "it errs no more than the emulated TF32, and computes FP32 in TF32",
    ),
    (
        lambda shown: shown.passes_in_fp32 and shown.precision in _FP32,
        _V.TF32,
        "it is right in FP32 without TF32",
    ),
    (
        lambda shown: shown.precision is Precision.TF32 and shown.emulator_fails and shown.island_cures,
        _V.TF32,
        "rounding the operands of products to TF32 is enough to break it",
    ),
    (
        lambda shown: shown.accumulates,
        _V.PRECISION,
        "that FP16 products accumulate in FP16 is enough to break it",
    ),
    (
        lambda shown: shown.observed_passes and shown.marks_cure,
        _V.FUSION,
        "at the same precision it is right when the layers are kept apart",
    ),
    (
        lambda shown: shown.island_cures and shown.emulator_fails,
        _V.PRECISION,
        "a few nodes in FP32 cure it, and it fails on the emulator, which fuses nothing",
    ),
    (
        lambda shown: shown.island_cures and shown.observed_passes is False,
        _V.PRECISION,
        "a few nodes in FP32 cure it, and it fails when every tensor is kept",
    ),
    (
        lambda shown: shown.island_cures,
        _V.UNRESOLVED,
        "a few nodes in FP32 cure it, but whether by precision or by fusion was not shown",
    ),
    (lambda shown: True, _V.UNRESOLVED, "nothing that was tried cures it"),
)
"""What symptoms mean: the first row that fits decides."""


def conclude(seen: Seen, subject: Subject, effects: Effects) -> tuple[Conclusion, tuple[Evidence, ...]]:
    """What follows from what was seen of an engine, and the reason for it."""
    in_fp32 = None if seen.fp32_engine is None else _PASSES.get(seen.fp32_engine.outcome)
    separations = seen.separated.separations if seen.separated is not None else ()
    observed = seen.observed
    looked = observed is not None and bool(observed.layers) and not seen.has_other_fault
    verdict, reason = decide(
        Symptoms(
            precision=seen.precision,
            repeats=seen.unstable,
            passes_in_fp32=True if seen.cured and in_fp32 is None else in_fp32,
            emulator_fails=seen.predicted.fails,
            observed_passes=observed.passes if looked and observed is not None else None,
            marks_cure=bool(separations) if seen.separated is not None else None,
            island_cures=True if seen.cured else None if seen.cure is None else False,
            in_tf32=True if seen.fp32_as is Precision.TF32 else None,
            accumulates=True if seen.accumulates or seen.cured_by_sums else None,
        )
    )
    found = Conclusion(verdict, separations=separations, fp32_as=seen.fp32_as)
    conclusion = _Concluding(seen, subject, effects)
    if verdict is _V.PRECISION and seen.cured_by_sums:
        return conclusion.fp32_sums(found), (reason,)
    if verdict is _V.PRECISION and seen.accumulates:
        return conclusion.accumulation(found), (reason,)
    if verdict in (_V.PRECISION, _V.UNRESOLVED):
        found, elsewhere = conclusion.island(found)
        return found, (reason, *elsewhere)
    conclusions = {
        _V.CONVERSION: conclusion.conversion,
        _V.TF32: conclusion.tf32,
        _V.FUSION: conclusion.fusion,
        _V.TACTIC: conclusion.tactic,
    }
    return conclusions[verdict](found) if verdict in conclusions else found, (reason,)


_PASSES = {Outcome.PASS: True, Outcome.FAIL: False}


@dataclass(frozen=True)
class _Concluding:
    """Conclusions for each verdict on an engine: culprits, origins with their reasons, and what confirms them."""

    seen: Seen
    subject: Subject
    effects: Effects

    def island(self, found: Conclusion) -> tuple[Conclusion, tuple[Evidence, ...]]:
        """With the island that cures; without one, with what is suspected.

        Where it holds nothing of where the error starts, the engine is built otherwise, and the emulator's origins
        stand. Seen on an H200 with TensorRT 8.6.0: attention logits overflow in FP16 although their product and scale
        are kept in FP32, inside of one fused region; FP32 at three other nodes of that region cures.
        """
        seen, cure = self.seen, self.seen.cure
        if cure is None or not cure.found:
            best = cure.best if cure is not None else None
            return replace(found, origins=self._explained(), suspects=best or seen.starts, cure=cure), ()
        found = replace(
            found,
            culprits=cure.island,
            island=cure.island,
            confirmed=True,
            minimal_on=cure.minimal_on,
            cure=cure,
        )
        prior = seen.prior
        if not (
            cure.island
            and seen.has_other_fault
            and prior is not None
            and set(cure.island).isdisjoint(prior.island)
        ):
            return replace(found, origins=self._origins_of(cure.island)), ()
        text = (
            f"with {names(prior.island)} kept in FP32, where the emulator says the error starts, the engine still "
            f"fails; keeping {names(cure.island)} in FP32 cures it, because that changes how the engine is built"
        )
        facts = {"tried": list(prior.island), "cures": list(cure.island)}
        nodes = [layer.node for layer in seen.predicted.origins]
        return replace(found, origins=explain_nodes(self.subject, seen.predicted, nodes)), (
            Evidence(Stage.ATTRIBUTE, EvidenceKind.ISLAND, text, facts),
        )

    def fp32_sums(self, found: Conclusion) -> Conclusion:
        """With the products that are added up in FP32, and what they cost the outputs before."""
        cure, sums, estimate = self.seen.cure, self.seen.sums, self.seen.accumulation
        assert cure is not None
        if sums is not None:
            overflows = tuple(
                node for node in cure.fp32_sums if math.isinf(self.seen.predicted.introduced.get(node, 0.0))
            )
            why = added_up_in_fp16(sums.before, sums.after)
            origins = self._explained(overflows) if overflows else self._because(cure.fp32_sums, why)
        else:
            assert estimate is not None
            why = accumulated_in_fp16(estimate.estimated, estimate.seen, overflows=bool(estimate.overflows))
            origins = self._because(cure.fp32_sums, why)
        return replace(
            found, confirmed=True, origins=origins, cure=cure, accumulates=True, fp32_sums=cure.fp32_sums
        )

    def accumulation(self, found: Conclusion) -> Conclusion:
        """With the products that accumulate; confirmed if the engine was seen to pass with them in FP32."""
        shown, cure = self.seen.accumulation, self.seen.cure
        assert shown is not None
        why = accumulated_in_fp16(shown.estimated, shown.seen, overflows=bool(shown.overflows))
        return replace(
            found,
            culprits=shown.nodes,
            island=shown.nodes,
            confirmed=cure is not None and cure.found,
            origins=self._because(shown.nodes, why),
            cure=cure,
            accumulates=True,
        )

    def fusion(self, found: Conclusion) -> Conclusion:
        """With the nodes on both sides of each tensor that must not be fused away."""
        nodes = {node for each in found.separations for node in (each.producer, *each.readers)}
        minimal = self.seen.separated is not None and self.seen.separated.minimal
        starts = [each.producer for each in found.separations]
        return replace(
            found,
            culprits=self._ordered(nodes),
            confirmed=True,
            minimal_on=CANDIDATE if minimal else None,
            origins=self._because(
                starts, "computed together with what reads it, it is wrong; apart from it, it is right"
            ),
        )

    def tactic(self, found: Conclusion) -> Conclusion:
        """With the nodes of the layers whose tactic was proved wrong, and the choices of a build that passes."""
        result = self.seen.tactics
        if result is None or result.verdict is not TacticVerdict.FOUND:
            return found
        nodes = {node.name for node in self.subject.model.nodes}
        culprits = self._ordered(nodes.intersection(result.onnx_nodes))
        origins = tuple(
            replace(origin, why=why_wrong(result, origin.node) or origin.why)
            for origin in explain_nodes(self.subject, self.seen.predicted, culprits)
        )
        return replace(
            found,
            culprits=culprits,
            confirmed=True,
            minimal_on=CANDIDATE if result.minimal else None,
            origins=origins,
            pins=result.cured,
        )

    def conversion(self, found: Conclusion) -> Conclusion:
        """With the nodes where FP32 first differs."""
        wrong = self.seen.divergence or Divergence()
        return replace(
            found,
            culprits=wrong.culprits,
            confirmed=bool(wrong.culprits) and wrong.culprits == wrong.nodes,
            origins=self._because(
                wrong.nodes,
                "in FP32 the engine computes something other than the ONNX node says"
                + (", beyond what TF32 explains" if found.fp32_as is Precision.TF32 else ""),
            ),
            suspects=wrong.nodes,
        )

    def tf32(self, found: Conclusion) -> Conclusion:
        """With the emulator's island, if TF32 breaks the emulator too; confirmed if it passes without TF32."""
        prior = self.seen.prior
        island = prior.island if prior is not None else ()
        return replace(
            found,
            culprits=island,
            confirmed=self.seen.fp32_as is not Precision.TF32,
            minimal_on=EMULATOR if prior is not None and prior.minimal_on else None,
            origins=self._origins_of(island) if island else self._rounded_to_tf32(),
            cure=prior,
        )

    def _rounded_to_tf32(self) -> tuple[Origin, ...]:
        """Where the engine's error starts, which FP32's numbers do not explain."""
        if self.seen.precision is not Precision.FP32:
            return self._explained()
        return self._because(self.seen.starts, "what it multiplies is rounded to TF32's 11 bits")

    def _ordered(self, nodes: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(nodes, key=lambda name: self.subject.model.node(name).index))

    def _because(self, nodes: Iterable[str], why: str) -> tuple[Origin, ...]:
        return blame(self.subject, self.seen.predicted, nodes, why)

    def _origins_of(self, island: Sequence[str]) -> tuple[Origin, ...]:
        if not self.seen.predicted.fails:
            starts = [node for node in self.seen.starts if node in set(island)]
            return self._explained(starts or island[:1])
        return find_origins_of(
            self.subject, self.seen.predicted, island, self.effects, self.seen.failing_layers
        )

    def _explained(self, nodes: Sequence[str] = ()) -> tuple[Origin, ...]:
        """`nodes`, or where the error starts, with the reason; where rounding is none, with what was observed."""
        layers = () if self.seen.predicted.fails else self.seen.failing_layers
        errors = {layer.node: error_of(layer) for layer in layers if layer.origin}
        return explain_nodes(self.subject, self.seen.predicted, nodes or self.seen.starts, errors)
