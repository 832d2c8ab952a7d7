"""The stages on an engine, in the order that builds the fewest.

The emulator's island is tried at once: one build that passes shows that the precision is at fault, that FP32
suffices, and what cures. Only where it does not are FP32, repetitions, marks and a search on the engine paid for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness import search
from harness.diagnose.attribute import Shown, decide
from harness.diagnose.convert import find_divergence
from harness.diagnose.cure import (
    CANDIDATE,
    EMULATOR,
    Cure,
    Searching,
    confirm,
    cure_on_emulator,
    cure_on_engine,
)
from harness.diagnose.effects import Effects
from harness.diagnose.examine import Examination
from harness.diagnose.findings import Findings
from harness.diagnose.gates import Gates
from harness.diagnose.lab import Lab
from harness.diagnose.observe import Observed, observe
from harness.diagnose.origins import explain_nodes, find_origins_of
from harness.diagnose.predict import Prognosis, predict
from harness.diagnose.price import measure_price
from harness.diagnose.repeat import repeat
from harness.diagnose.results import Evidence, Origin, Price, Stage, Verdict
from harness.diagnose.separate import Separated, separate
from harness.errors import BudgetExhaustedError
from harness.judge.results import LayerResult
from harness.search import Outcome, Trial
from harness.tensors.precision import Precision


def examine_on_engine(lab: Lab, gates: Gates, *, prove: bool = False, timed: bool = True) -> Findings:
    """Predict, observe, cure and attribute a fault of an engine.

    Args:
        lab: the diagnosis under way.
        gates: what the first stage found: a failure.
        prove: spend a build a culprit on the proof that the engine needs it.
        timed: measure the latency of the engine before and after.
    """
    assert gates.baseline is not None
    lab.tell(Stage.PREDICT, "ask the emulator")
    prognosis = predict(lab.subject, gates)
    run = _Run(lab, gates.baseline, prognosis, prove, timed)
    run.evidence += [*gates.evidence, *prognosis.evidence]
    try:
        run.go()
    except BudgetExhaustedError as error:
        run.evidence.append(Evidence(Stage.ATTRIBUTE, f"stopped: {error.message}"))
    return run.findings()


@dataclass
class _Run:
    lab: Lab
    baseline: Examination
    prognosis: Prognosis
    prove: bool
    timed: bool
    evidence: list[Evidence] = field(default_factory=list)
    prior: Cure | None = None
    cure: Cure | None = None
    observed: Observed | None = None
    separated: Separated | None = None
    strict: Examination | None = None
    tried: Examination | None = None
    repeats: Verdict | None = None
    wrong: tuple[str, ...] = ()
    wrong_alone: tuple[str, ...] = ()
    price: Price | None = None

    def __post_init__(self) -> None:
        self.subject = self.lab.subject
        self.examiner = self.lab.examiner
        self.effects: Effects = self.lab.effects(self.prognosis.failing_sample)
        self.known: dict[frozenset[str], Trial] = {frozenset(): self.baseline.trial}

    # --- the order of the stages --------------------------------------------------------------------------------

    def go(self) -> None:
        if self.subject.precision in (Precision.FP32, Precision.TF32):
            self.check_fp32()
            return
        self.ask_emulator()
        self.try_prior()
        if self.cured:
            self.look()
            return
        self.check_strict()
        if self.strict is not None and self.strict.outcome is Outcome.FAIL:
            return
        self.look()
        if not self.prognosis.fails:
            self.check_repeats()
        if self.repeats is None and self.observed is not None and self.observed.passes:
            self.search_marks()
        if self.repeats is None and not (self.separated and self.separated.separations):
            self.search_engine()

    @property
    def cured(self) -> bool:
        return self.cure is not None and self.cure.found

    def check_fp32(self) -> None:
        """FP32 or TF32 is under test: an island of FP32 means little, FP32 without TF32 everything."""
        self.check_strict()
        assert self.strict is not None
        if self.strict.passed:
            self.look()
            if self.subject.precision is Precision.TF32:
                self.ask_emulator()

    def ask_emulator(self) -> None:
        """The minimal island on the emulator, if it fails."""
        if not self.prognosis.fails:
            return
        self.lab.tell(Stage.CURE, "search the island on the emulator", suspected=self._starts())
        watcher = self.lab.watcher("search the island on the emulator")
        searching = Searching(self.lab.notebook, "emulator", watcher)
        self.prior = cure_on_emulator(self.lab.emulations, self.prognosis, self.effects, searching)
        self.evidence += self.prior.evidence

    def try_prior(self) -> None:
        """The emulator's island on the unobserved engine: one build."""
        if self.prior is None or not self.prior.found:
            return
        island = self.prior.island
        self.lab.tell(Stage.CURE, f"build with {len(island)} nodes in FP32", suspected=island)
        self.tried = confirm(self.examiner, island)
        trial = self.tried.trial
        self.known[frozenset(island)] = trial
        passed = trial.outcome is Outcome.PASS
        said = "passes" if passed else "does not pass" if trial.outcome is Outcome.FAIL else "cannot be built"
        text = f"with the emulator's island in FP32 the unobserved engine {said}"
        self.evidence.append(
            Evidence(Stage.CURE, text, {"island": list(island), "outcome": trial.outcome, "note": trial.note})
        )
        if not passed:
            return
        self.cure = replace(self.prior, confirmed_on=CANDIDATE)
        if self.timed:
            self.price = measure_price(self.examiner, island)
        if self.prove:
            self.search_engine()

    def check_strict(self) -> None:
        """FP32 without TF32 on the unobserved engine: one build, unless that is what failed."""
        self.lab.tell(Stage.GATES, "build in FP32")
        case = self.subject.bench.case
        build = case.build.model_copy(update={"tf32": False})
        if self.subject.precision is Precision.FP32 and not case.build.tf32:
            self.strict = self.baseline
        else:
            plan = self.subject.plan(precision=Precision.FP32, build=build)
            self.strict = self.examiner.examine(plan, phase="gates", key="strict", thorough=True)
        word = {Outcome.PASS: "passes", Outcome.FAIL: "fails"}.get(self.strict.outcome, "cannot be built")
        text = f"in FP32 without TF32 the unobserved engine {word}"
        self.evidence.append(Evidence(Stage.GATES, text, {"outcome": self.strict.outcome}))
        if self.strict.outcome is Outcome.PASS:
            self.known[frozenset(self.subject.units)] = self.strict.trial
        if self.strict.outcome is Outcome.FAIL:
            self.lab.tell(Stage.ATTRIBUTE, "find the first tensor that differs in FP32")
            diverged = find_divergence(self.examiner, self.strict)
            self.evidence += diverged.evidence
            self.observed = diverged.observed
            self.wrong, self.wrong_alone = diverged.nodes, diverged.culprits
            if diverged.observed is not None and diverged.observed.passes:
                self.search_marks(Precision.FP32)

    def look(self) -> None:
        """Observe the engine: one build, more where the marks must be split.

        Where the emulator's island was not enough, the engine is observed with that island: what is left to find
        would not be seen behind what is known.
        """
        if self.observed is not None:
            return
        self.lab.tell(Stage.OBSERVE, "build with every tensor marked", suspected=self._starts())
        engine, islands = self.baseline, frozenset[str]()
        if self.prior is not None and self.tried is not None and self.tried.outcome is Outcome.FAIL:
            engine, islands = self.tried, frozenset(self.prior.island)
        try:
            self.observed = observe(self.examiner, engine, islands=islands)
        except BudgetExhaustedError as error:
            if not self.cured:
                raise
            self.evidence.append(Evidence(Stage.OBSERVE, f"the engine was not observed: {error.message}"))
            return
        self.evidence += self.observed.evidence

    def check_repeats(self) -> None:
        """The emulator does not explain the fault: does the engine repeat itself?"""
        self.lab.tell(Stage.ATTRIBUTE, "build it again")
        found = repeat(self.examiner, self.baseline)
        self.evidence += found.evidence
        self.repeats = found.verdict

    def search_marks(self, precision: Precision | None = None) -> None:
        """Gone when observed: which marks cure?"""
        assert self.observed is not None
        self.lab.tell(Stage.ATTRIBUTE, "search the tensors that must not be fused away")
        searching = Searching(self.lab.notebook, on_progress=self.lab.watcher("search the marks"))
        baseline = self.strict if precision is Precision.FP32 and self.strict else self.baseline
        self.separated = separate(self.examiner, baseline, self.observed, searching, precision=precision)
        self.evidence += self.separated.evidence

    def search_engine(self) -> None:
        """Search the island on the engine itself, with all that is known as a prior."""
        self.lab.tell(Stage.CURE, "search the island on the engine", suspected=self._starts())
        watcher = self.lab.watcher("search the island on the engine")
        hints = [frozenset(self.cure.island)] if self.cured and self.cure is not None else self._hints()
        found = cure_on_engine(
            self.examiner,
            self._scores(),
            hints,
            self.known,
            Searching(self.lab.notebook, "islands", watcher),
            prove=self.prove or not self.prognosis.fails,
            repeats=1,
        )
        self.evidence += found.evidence
        if found.found or not self.cured:
            self.cure = found
        if found.verdict is search.Verdict.FLAKY:
            self.repeats = Verdict.NONDETERMINISTIC

    # --- priors ---------------------------------------------------------------------------------------------------

    def _starts(self) -> tuple[str, ...]:
        layers = self.observed.origins if self.observed is not None else ()
        return tuple(layer.node for layer in layers or self.prognosis.origins)

    def _hints(self) -> list[frozenset[str]]:
        """Where the engine's error starts, and with it what reads and writes there."""
        units = set(self.subject.units)
        starts = frozenset(self._starts()) & units
        model = self.subject.model
        tensors = {name for node in starts for name in model.node(node).outputs}
        readers = {node.name for node in model.nodes if tensors.intersection(node.inputs)} & units
        prior = frozenset(self.prior.island) if self.prior is not None else frozenset()
        wanted = [starts | prior, starts | readers | prior, starts, starts | readers]
        return [hint for hint in dict.fromkeys(wanted) if hint and hint not in self.known]

    def _scores(self) -> dict[str, float]:
        """How much each node is suspected: what it adds to the error on the engine, beside the emulator's word."""
        scores = {node: min(error, 1.0) for node, error in self.prognosis.introduced.items()}
        layers = self.observed.layers if self.observed is not None else ()
        errors = {layer.tensor: _error(layer) for layer in layers}
        for layer in layers:
            if not layer.diverged or layer.node not in scores:
                continue
            before = [errors.get(name, 0.0) for name in self.subject.model.predecessors.get(layer.tensor, ())]
            own, inherited = errors[layer.tensor], max(before, default=0.0)
            if own > 2 * inherited:
                scores[layer.node] = max(scores[layer.node], min(own, 1e6))
        return {node: score for node, score in scores.items() if node in set(self.subject.units)}

    # --- the answer -----------------------------------------------------------------------------------------------

    def findings(self) -> Findings:
        """Put together what was shown."""
        self.lab.tell(Stage.ATTRIBUTE, "put together what was shown")
        subject = self.subject
        strict = None if self.strict is None else _decided(self.strict.outcome)
        separations = self.separated.separations if self.separated is not None else ()
        shown = Shown(
            precision=subject.precision,
            repeats=self.repeats,
            strict_passes=True if self.cured and strict is None else strict,
            emulator_fails=self.prognosis.fails,
            observed_passes=None
            if self.observed is None or not self.observed.layers
            else self.observed.passes,
            marks_cure=bool(separations) if self.separated is not None else None,
            island_cures=True if self.cured else None if self.cure is None else False,
        )
        verdict, reason = decide(shown)
        found = Findings(
            verdict,
            evidence=(*self.evidence, reason),
            faithful=None if self.observed is None else self.observed.faithful,
            layers=self._failing_layers() or self.prognosis.layers,
            price=self.price,
            separations=separations,
        )
        return self._with_culprits(found)

    def _with_culprits(self, found: Findings) -> Findings:
        if found.verdict is Verdict.CONVERSION:
            return self._conversion(found)
        if found.verdict is Verdict.TF32:
            return self._tf32(found)
        if found.verdict is Verdict.FUSION:
            nodes = [node for each in found.separations for node in (each.producer, *each.readers)]
            culprits = tuple(
                sorted(dict.fromkeys(nodes), key=lambda name: self.subject.model.node(name).index)
            )
            minimal = CANDIDATE if self.separated is not None and self.separated.minimal else None
            return replace(
                found, culprits=culprits, confirmed=True, minimal_on=minimal, origins=self._explained()
            )
        if found.verdict in (Verdict.TACTIC, Verdict.NONDETERMINISTIC):
            return found
        if self.cured and self.cure is not None:
            island = self.cure.island
            origins = self._origins_of(island)
            return replace(
                found,
                culprits=island,
                island=island,
                confirmed=True,
                minimal_on=self.cure.minimal_on,
                origins=origins,
                cure=self.cure,
            )
        best = self.cure.best if self.cure is not None else None
        return replace(found, origins=self._explained(), suspects=best or self._starts(), cure=self.cure)

    def _failing_layers(self) -> tuple[LayerResult, ...]:
        """What was observed of the engine that fails; nothing if it was observed with an island, or was cured."""
        with_island = self.tried is not None and self.tried.outcome is Outcome.FAIL
        if self.observed is None or self.observed.passes or with_island:
            return ()
        return self.observed.layers

    def _origins_of(self, island: Sequence[str]) -> tuple[Origin, ...]:
        layers = self._failing_layers()
        if not self.prognosis.fails:
            starts = [node for node in self._starts() if node in set(island)]
            return self._explained(starts or island[:1])
        return find_origins_of(self.subject, self.prognosis, island, self.effects, layers)

    def _explained(self, nodes: Sequence[str] = ()) -> tuple[Origin, ...]:
        """`nodes`, or where the error starts, with the reason; where rounding is none, what was observed."""
        layers = () if self.prognosis.fails else self._failing_layers()
        errors = {layer.node: _error(layer) for layer in layers if layer.origin}
        return explain_nodes(self.subject, self.prognosis, nodes or self._starts(), errors)

    def _conversion(self, found: Findings) -> Findings:
        origins = tuple(
            replace(origin, why="in FP32 the engine computes something else than the ONNX node says")
            for origin in explain_nodes(self.subject, self.prognosis, self.wrong)
        )
        return replace(
            found,
            culprits=self.wrong_alone,
            confirmed=bool(self.wrong_alone) and self.wrong_alone == self.wrong,
            origins=origins,
            suspects=self.wrong,
        )

    def _tf32(self, found: Findings) -> Findings:
        island = self.prior.island if self.prior is not None else ()
        minimal = EMULATOR if self.prior is not None and self.prior.minimal_on else None
        return replace(
            found,
            culprits=island,
            confirmed=True,
            minimal_on=minimal,
            origins=self._origins_of(island) if island else self._explained(),
            cure=self.prior,
        )


def _error(layer: LayerResult) -> float:
    error = layer.metrics.nrmse
    return math.inf if math.isnan(error) or layer.metrics.nonfinite else error


def _decided(outcome: Outcome) -> bool | None:
    return {Outcome.PASS: True, Outcome.FAIL: False}.get(outcome)
