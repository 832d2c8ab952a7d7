"""What has been seen of an engine so far, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.diagnosis.context import Examination, Lab
from harness.diagnosis.explain import explain_nodes, find_origins_of
from harness.diagnosis.results import Evidence, Origin, Price, Stage, Verdict
from harness.diagnosis.stages import (
    CANDIDATE,
    EMULATOR,
    Cure,
    Findings,
    Hunted,
    Observed,
    Prognosis,
    Separated,
    Shown,
    decide,
    error_of,
)
from harness.judge import LayerResult
from harness.search import Outcome, Trial


@dataclass
class EngineSeen:
    """Everything that the stages have shown of one engine.

    Args:
        lab: the diagnosis under way.
        baseline: the unobserved engine, which fails.
        prognosis: what the emulator says.
        evidence: what was shown, in its order.
        prior: the emulator's island.
        cure: the island that the unobserved engine was seen to pass with, or the search that found none.
        observed: the engine's own tensors.
        separated: the search for marks that cure.
        strict: the unobserved engine in FP32 without TF32.
        tried: the unobserved engine with the emulator's island.
        repeats: `tactic` or `nondeterministic`, if repetitions differ.
        hunted: the tactics that decide, if they were named and proved.
        wrong: where an FP32 engine first differs.
        wrong_alone: those of them that are wrong by themselves.
        price: what the island costs in latency.
        casts: the island of `cure` was held by Casts in the graph.
    """

    lab: Lab
    baseline: Examination
    prognosis: Prognosis
    evidence: list[Evidence] = field(default_factory=list)
    prior: Cure | None = None
    cure: Cure | None = None
    observed: Observed | None = None
    separated: Separated | None = None
    strict: Examination | None = None
    tried: Examination | None = None
    repeats: Verdict | None = None
    hunted: Hunted | None = None
    wrong: tuple[str, ...] = ()
    wrong_alone: tuple[str, ...] = ()
    price: Price | None = None
    casts: bool = False

    def __post_init__(self) -> None:
        self.subject = self.lab.subject
        self.effects = self.lab.effects(self.prognosis.failing_sample)
        self.known: dict[frozenset[str], Trial] = {frozenset(): self.baseline.trial}

    @property
    def cured(self) -> bool:
        """Whether an island cures the unobserved engine."""
        return self.cure is not None and self.cure.found

    @property
    def behind(self) -> bool:
        """Whether the engine fails with the emulator's island, too: something is behind what is known."""
        return self.tried is not None and self.tried.outcome is Outcome.FAIL

    @property
    def starts(self) -> tuple[str, ...]:
        """Where the error starts: on the engine, or if that was not seen, on the emulator."""
        layers = self.observed.origins if self.observed is not None else ()
        return tuple(layer.node for layer in layers or self.prognosis.origins)

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """The layers of the engine as it was observed, with an island or without."""
        return self.observed.layers if self.observed is not None else ()

    @property
    def failing_layers(self) -> tuple[LayerResult, ...]:
        """The layers of the engine that fails; nothing if it was observed with an island, or cured by looking."""
        if self.observed is None or self.observed.passes or self.behind:
            return ()
        return self.observed.layers


def put_together(seen: EngineSeen) -> Findings:
    """What follows from what was seen."""
    strict = None if seen.strict is None else _decided(seen.strict.outcome)
    separations = seen.separated.separations if seen.separated is not None else ()
    observed = seen.observed
    looked = observed is not None and bool(observed.layers) and not seen.behind
    verdict, reason = decide(
        Shown(
            precision=seen.subject.precision,
            repeats=seen.repeats,
            strict_passes=True if seen.cured and strict is None else strict,
            emulator_fails=seen.prognosis.fails,
            observed_passes=observed.passes if looked and observed is not None else None,
            marks_cure=bool(separations) if seen.separated is not None else None,
            island_cures=True if seen.cured else None if seen.cure is None else False,
        )
    )
    found = Findings(
        verdict,
        evidence=(*seen.evidence, reason),
        faithful=None if observed is None else observed.faithful,
        layers=seen.failing_layers,
        prognosis=seen.prognosis,
        price=seen.price,
        separations=separations,
        engine_layers=seen.baseline.engine_layers,
    )
    if verdict is Verdict.CONVERSION:
        return _conversion(seen, found)
    if verdict is Verdict.TF32:
        return _tf32(seen, found)
    if verdict is Verdict.FUSION:
        return _fusion(seen, found)
    if verdict is Verdict.TACTIC:
        return _tactic(seen, found)
    if verdict is Verdict.NONDETERMINISTIC:
        return found
    return _island(seen, found)


def _island(seen: EngineSeen, found: Findings) -> Findings:
    """With the island that cures; without one, with what is suspected."""
    if seen.cure is None or not seen.cure.found:
        best = seen.cure.best if seen.cure is not None else None
        return replace(found, origins=_explained(seen), suspects=best or seen.starts, cure=seen.cure)
    island = seen.cure.island
    found = replace(
        found,
        culprits=island,
        island=island,
        confirmed=True,
        minimal_on=seen.cure.minimal_on,
        origins=_origins_of(seen, island),
        cure=seen.cure,
        casts=seen.casts,
    )
    if seen.behind and seen.prior is not None and not set(island).intersection(seen.prior.island):
        return _elsewhere(seen, found, seen.prior.island)
    return found


def _elsewhere(seen: EngineSeen, found: Findings, prior: Sequence[str]) -> Findings:
    """The island that cures holds nothing of where the error starts: the engine was not built as it was asked.

    Seen on an H200 with TensorRT 8.6.0: attention logits overflow in FP16 although their product and scale are
    asked to stay in FP32, inside of one fused region; FP32 at three other nodes of that region cures.
    """
    text = (
        f"asked to keep {', '.join(prior)} in FP32, where the emulator says that the error starts, the engine still "
        f"fails; FP32 at {', '.join(found.island)} cures it, because it changes how the engine is built"
    )
    told = Evidence(Stage.ATTRIBUTE, text, {"asked": list(prior), "cures": list(found.island)})
    origins = explain_nodes(seen.subject, seen.prognosis, [layer.node for layer in seen.prognosis.origins])
    return replace(found, evidence=(*found.evidence, told), origins=origins)


def _fusion(seen: EngineSeen, found: Findings) -> Findings:
    nodes = {node for each in found.separations for node in (each.producer, *each.readers)}
    culprits = tuple(sorted(nodes, key=lambda name: seen.subject.model.node(name).index))
    minimal = CANDIDATE if seen.separated is not None and seen.separated.minimal else None
    starts = [each.producer for each in found.separations]
    origins = tuple(
        replace(origin, why="computed together with what reads it, it is wrong; apart from it, it is right")
        for origin in explain_nodes(seen.subject, seen.prognosis, starts)
    )
    return replace(found, culprits=culprits, confirmed=True, minimal_on=minimal, origins=origins)


def _tactic(seen: EngineSeen, found: Findings) -> Findings:
    """With the nodes of the layers whose tactic was proved wrong, and the choices of a build that passes."""
    if seen.hunted is None or seen.hunted.findings is None:
        return found
    hunt, model = seen.hunted.findings, seen.subject.model
    known = {node.name for node in model.nodes}
    culprits = sorted(known.intersection(hunt.onnx_nodes), key=lambda name: model.node(name).index)
    origins = tuple(
        replace(origin, why=seen.hunted.why(origin.node) or origin.why)
        for origin in explain_nodes(seen.subject, seen.prognosis, culprits)
    )
    return replace(
        found,
        culprits=tuple(culprits),
        confirmed=True,
        minimal_on=CANDIDATE if hunt.minimal else None,
        origins=origins,
        pins=hunt.cured,
    )


def _conversion(seen: EngineSeen, found: Findings) -> Findings:
    origins = tuple(
        replace(origin, why="in FP32 the engine computes something else than the ONNX node says")
        for origin in explain_nodes(seen.subject, seen.prognosis, seen.wrong)
    )
    return replace(
        found,
        culprits=seen.wrong_alone,
        confirmed=bool(seen.wrong_alone) and seen.wrong_alone == seen.wrong,
        origins=origins,
        suspects=seen.wrong,
    )


def _tf32(seen: EngineSeen, found: Findings) -> Findings:
    island = seen.prior.island if seen.prior is not None else ()
    minimal = EMULATOR if seen.prior is not None and seen.prior.minimal_on else None
    return replace(
        found,
        culprits=island,
        confirmed=True,
        minimal_on=minimal,
        origins=_origins_of(seen, island) if island else _explained(seen),
        cure=seen.prior,
    )


def _origins_of(seen: EngineSeen, island: Sequence[str]) -> tuple[Origin, ...]:
    if not seen.prognosis.fails:
        starts = [node for node in seen.starts if node in set(island)]
        return _explained(seen, starts or island[:1])
    return find_origins_of(seen.subject, seen.prognosis, island, seen.effects, seen.failing_layers)


def _explained(seen: EngineSeen, nodes: Sequence[str] = ()) -> tuple[Origin, ...]:
    """`nodes`, or where the error starts, with the reason; where rounding is none, with what was observed."""
    layers = () if seen.prognosis.fails else seen.failing_layers
    errors = {layer.node: error_of(layer) for layer in layers if layer.origin}
    return explain_nodes(seen.subject, seen.prognosis, nodes or seen.starts, errors)


def _decided(outcome: Outcome) -> bool | None:
    return {Outcome.PASS: True, Outcome.FAIL: False}.get(outcome)
