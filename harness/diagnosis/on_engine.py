"""The stages on an engine, in the order that builds the fewest.

The emulator's island is tried at once: one build that passes shows that the precision is at fault, that FP32
suffices, and what cures. Only where it does not are FP32, repetitions, marks and a search on the engine paid for.
"""

from __future__ import annotations

from dataclasses import replace

from harness import search
from harness.diagnosis.context import Lab, opaque_evidence
from harness.diagnosis.engine_seen import EngineSeen, put_together
from harness.diagnosis.results import Evidence, Stage, Verdict
from harness.diagnosis.stages import (
    CANDIDATE,
    MOST_TRIES,
    Cure,
    Findings,
    Gates,
    Searching,
    accumulates,
    block_hints,
    confirm,
    cure_on_emulator,
    cure_on_engine,
    cure_with_casts,
    find_divergence,
    hunt_tactics,
    island_hints,
    island_with_margin,
    left_on,
    measure_price,
    next_share,
    node_scores,
    observe,
    predict,
    repeat,
    separate,
)
from harness.errors import BudgetExhaustedError
from harness.search import Outcome, Trial
from harness.tensors import Precision
from harness.text import percent

REPEATS = 2
"""How often each configuration is built that an answer rests on which the emulator does not support."""

MOST_UNPROVED = 8
"""An island of an engine that has more nodes, and was not shown to be minimal, is pruned at the price of builds."""


MOST_PRUNING = 24
"""How many builds pruning may cost: an error that accumulates needs most of its island anyway."""


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
    run = _Run(lab, gates.baseline, prognosis)
    run.prove, run.timed = prove, timed
    run.evidence += [*gates.evidence, *prognosis.evidence]
    try:
        run.go()
    except BudgetExhaustedError as error:
        run.evidence.append(Evidence(Stage.ATTRIBUTE, f"stopped: {error.message}"))
    lab.tell(Stage.ATTRIBUTE, "put together what was shown")
    return put_together(run)


class _Run(EngineSeen):
    """The stages, each adding to what has been seen."""

    prove = False
    timed = True

    def go(self) -> None:
        if self.subject.precision in (Precision.FP32, Precision.TF32):
            self.check_fp32()
            return
        self.ask_emulator()
        self.try_prior()
        if not self.cured:
            self.try_margins()
        if self.cured:
            self.look()
            return
        self.check_strict()
        if self.strict is not None and self.strict.outcome is Outcome.FAIL:
            return
        if not self.prognosis.fails:
            # A few more builds like the first one; with all tensors marked, one may take minutes.
            self.check_repeats()
            if self.repeats is not None:
                return
        self.look()
        if self.observed is not None and self.observed.passes and not self.behind:
            self.search_marks()
        if self.tried is not None and self.tried.opaque and self.behind:
            self.try_casts()
        if not self.cured and not (self.separated and self.separated.separations):
            self.search_engine()

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
        self.lab.tell(Stage.CURE, "search the island on the emulator", suspected=self.starts)
        searching = self._searching("emulator", "search the island on the emulator")
        self.prior = cure_on_emulator(self.lab.emulations, self.prognosis, self.effects, searching)
        self.evidence += self.prior.evidence

    def try_prior(self) -> None:
        """The emulator's island on the unobserved engine: one build."""
        if self.prior is None or not self.prior.found:
            return
        island = self.prior.island
        self.lab.tell(Stage.CURE, f"build with {len(island)} nodes in FP32", suspected=island)
        self.tried = confirm(self.lab.examiner, island)
        trial = self.tried.trial
        self.known[frozenset(island)] = trial
        passed = trial.outcome is Outcome.PASS
        said = "passes" if passed else "does not pass" if trial.outcome is Outcome.FAIL else "cannot be built"
        reason = self.tried.less or (f": {trial.note}" if trial.note else "")
        text = f"with the emulator's island in FP32 the unobserved engine {said}{reason}"
        self.evidence.append(
            Evidence(Stage.CURE, text, {"island": list(island), "outcome": trial.outcome, "note": trial.note})
        )
        if passed:
            self.settle(replace(self.prior, confirmed_on=CANDIDATE, relaxed=self.tried.relaxed))
        elif self.tried.opaque:
            release = self.subject.fingerprint.get("tensorrt")
            self.evidence.append(opaque_evidence(self.tried.opaque, release))

    def settle(self, cure: Cure) -> None:
        """The engine passes with an island that was searched for on the emulator."""
        self.cure = cure
        if self.timed:
            self.price = measure_price(self.lab.examiner, cure.island)
        if self.prove:
            self.search_engine()

    def try_margins(self) -> None:
        """Where the error accumulates: islands with which the emulator has something to spare, a build each."""
        if self.prior is None or self.tried is None or not self.behind:
            return
        if not accumulates(self.prior.island, self.effects):
            return
        emulations = self.lab.emulations
        trial, share = self.tried.trial, left_on(emulations, self.prior.island)
        for _ in range(MOST_TRIES):
            wanted = next_share(share, trial)
            if wanted is None:
                return
            self.lab.tell(Stage.CURE, "search an island with some margin on the emulator")
            found = island_with_margin(emulations, self.prognosis, self.effects, wanted)
            if found is None or frozenset(found[0]) in self.known:
                return
            island, share = found
            self.lab.tell(Stage.CURE, f"build with {len(island)} nodes in FP32", suspected=island)
            tried = confirm(self.lab.examiner, island)
            trial = tried.trial
            self.known[frozenset(island)] = trial
            passed = trial.outcome is Outcome.PASS
            text = (
                f"with {len(island)} nodes in FP32, which leave the emulator {percent(share)} of its limit, the "
                f"unobserved engine {'passes' if passed else 'does not pass'}{tried.less}"
            )
            facts = {"island": list(island), "outcome": trial.outcome, "share": share}
            self.evidence.append(Evidence(Stage.CURE, text, facts))
            if passed:
                # Fewer may do: each of them is needed for the margin, which is more than the gate asks for.
                self.settle(
                    replace(
                        self.prior,
                        island=island,
                        confirmed_on=CANDIDATE,
                        minimal_on=None,
                        relaxed=tried.relaxed,
                    )
                )
                return

    def check_strict(self) -> None:
        """FP32 without TF32 on the unobserved engine: one build, unless that is what failed."""
        self.lab.tell(Stage.GATES, "build in FP32")
        case = self.subject.bench.case
        build = case.build.model_copy(update={"tf32": False})
        if self.subject.precision is Precision.FP32 and not case.build.tf32:
            self.strict = self.baseline
        else:
            plan = self.subject.plan(precision=Precision.FP32, build=build)
            self.strict = self.lab.examiner.examine(plan, phase="gates", key="strict", thorough=True)
        word = {Outcome.PASS: "passes", Outcome.FAIL: "fails"}.get(self.strict.outcome, "cannot be built")
        text = f"in FP32 without TF32 the unobserved engine {word}"
        self.evidence.append(Evidence(Stage.GATES, text, {"outcome": self.strict.outcome}))
        if self.strict.outcome is Outcome.PASS:
            self.known[frozenset(self.subject.units)] = self.strict.trial
        if self.strict is self.baseline and self.strict.outcome is Outcome.FAIL:
            self.check_repeats()
        if self.strict.outcome is Outcome.FAIL and self.repeats is None:
            self.lab.tell(Stage.ATTRIBUTE, "find the first tensor that differs in FP32")
            diverged = find_divergence(self.lab.examiner, self.strict)
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
        self.lab.tell(Stage.OBSERVE, "build with every tensor marked", suspected=self.starts)
        engine, islands = self.baseline, frozenset[str]()
        if self.behind and self.prior is not None and self.tried is not None:
            engine, islands = self.tried, frozenset(self.prior.island)
        try:
            self.observed = observe(self.lab.examiner, engine, islands=islands)
        except BudgetExhaustedError as error:
            if not self.cured:
                raise
            self.evidence.append(Evidence(Stage.OBSERVE, f"the engine was not observed: {error.message}"))
            return
        self.evidence += self.observed.evidence

    def check_repeats(self) -> None:
        """The emulator does not explain the fault: does the engine repeat itself?"""
        self.lab.tell(Stage.ATTRIBUTE, "build it again")
        found = repeat(self.lab.examiner, self.baseline)
        self.evidence += found.evidence
        self.repeats = found.verdict
        if found.rebuilt:
            self.hunt(found.verdict)

    def hunt(self, repeats: Verdict | None) -> None:
        """Does the outcome follow the tactics, and which?"""
        hunted = hunt_tactics(self.lab, repeats=repeats)
        self.evidence += hunted.evidence
        if hunted.found:
            self.hunted, self.repeats = hunted, Verdict.TACTIC
        elif hunted.unproved and repeats is Verdict.TACTIC:
            # It went with the tactics, and did not come back when they were forced: that is no proof.
            self.repeats = Verdict.NONDETERMINISTIC

    def search_marks(self, precision: Precision | None = None) -> None:
        """Gone when observed: which marks cure?"""
        assert self.observed is not None
        self.lab.tell(Stage.ATTRIBUTE, "search the tensors that must not be fused away")
        searching = self._searching("marks", "search the marks")
        baseline = self.strict if precision is Precision.FP32 and self.strict else self.baseline
        self.separated = separate(self.lab.examiner, baseline, self.observed, searching, precision=precision)
        self.evidence += self.separated.evidence

    def try_casts(self) -> None:
        """The island lies where nothing is obeyed: say it in the graph, for more and more around it."""
        assert self.prior is not None
        around = island_hints(self.subject, self.starts, self.prior.island, ())[-1:]
        parts = [*around, *block_hints(self.subject, self.prior.island, around)]

        def told(count: int) -> None:
            self.lab.tell(Stage.CURE, f"build with {count} nodes in FP32, between Casts in the graph")

        found = cure_with_casts(self.lab.examiner, self.prior.island, parts, told)
        self.evidence += found.evidence
        if found.found:
            self.cure, self.casts = found, True

    def search_engine(self) -> None:
        """Search the island on the engine itself, with all that is known as a prior."""
        self.lab.tell(Stage.CURE, "search the island on the engine", suspected=self.starts)
        if self.cure is not None and self.cure.found:
            hints = [frozenset(self.cure.island)]
        else:
            prior = self.prior.island if self.prior is not None else ()
            hints = island_hints(self.subject, self.starts, prior, self.known)
            origins = [layer.node for layer in self.prognosis.origins] or self.starts
            hints += block_hints(self.subject, origins, {*self.known, *hints})
        found = cure_on_engine(
            self.lab.examiner,
            node_scores(self.subject, self.prognosis, self.layers),
            hints,
            self.known,
            self._searching("islands", "search the island on the engine"),
            prove=self.prove or not self.prognosis.fails,
            repeats=1 if self.prognosis.fails else REPEATS,
        )
        self.evidence += found.evidence
        if found.found or not self.cured:
            self.cure = found
        if found.verdict is search.Verdict.FLAKY:
            self.repeats = Verdict.NONDETERMINISTIC
        # Only FP32 throughout cures, and the island that should cure lies where nothing is obeyed: no part of it will.
        hopeless = (
            self.tried is not None and self.tried.opaque and len(found.island) == len(self.subject.units)
        )
        if found.found and found.minimal_on is None and len(found.island) > MOST_UNPROVED and not hopeless:
            self.prune(found)

    def prune(self, found: Cure) -> None:
        """An island that is large, and of which nobody knows how much of it is needed: leave out what is not."""
        self.lab.tell(Stage.CURE, "leave out what the island does not need", suspected=found.island)
        pruned = cure_on_engine(
            self.lab.examiner,
            node_scores(self.subject, self.prognosis, self.layers),
            [frozenset(found.island)],
            {**self.known, frozenset(found.island): Trial(Outcome.PASS)},
            self._searching("minimal", "leave out what the island does not need"),
            prove=True,
            phase="minimal",
            most=MOST_PRUNING,
        )
        self.evidence += pruned.evidence
        smaller = pruned.island or pruned.best
        if smaller is not None and len(smaller) <= len(found.island):
            self.cure = replace(pruned, island=tuple(smaller), confirmed_on=CANDIDATE)

    def _searching(self, journal: str, text: str) -> Searching:
        return Searching(self.lab.notebook, journal, self.lab.watcher(text))
