"""Evaluating plans: to an outcome, with what it cost and what is known of the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from harness.backends import Evaluation, Plan, Timing
from harness.comparison import GateResult
from harness.diagnosis.context.budget import Spending
from harness.diagnosis.context.engine import (
    Relaxed,
    compiled_regions,
    layers_by_node,
    regions_around,
    relaxed_in,
    tactics_of,
)
from harness.diagnosis.context.journal import DiagnosisJournal
from harness.diagnosis.context.obedience import Obedience, obeyed_by_kernels, obeyed_by_numbers
from harness.diagnosis.context.subject import Subject, badness
from harness.errors import CandidateError, WorkerCrashedError
from harness.judge import OutputResult
from harness.model import LOW_DTYPE
from harness.search import Outcome, Trial
from harness.tensors import NEVER, Accumulate, Precision
from harness.worker.protocol import TF32_OFF, EngineFacts

ENGINES_OF_A_CURE = 3
"""The failing engine, that with an island, and the observed one: with fewer builds left, none is begun ahead."""

GATES_PHASE, BASELINE = "gates", "baseline"
"""What the first engine is charged to, and the key under which the journal keeps it."""


@dataclass(frozen=True)
class JudgedEvaluation:
    """What an evaluation of one plan came to.

    Args:
        outcome: pass or fail; unresolved if there was no engine to judge.
        outputs: the outputs with their gates, of the samples that were judged.
        seconds: wall time.
        builds: engines that were built for it.
        note: why it is unresolved.
        tactics: name of each engine layer and its tactic, as far as they are known.
        evidence: the last lines of a log, if something failed.
        tensors: the outputs by sample, if they were to be kept.
        regions: the compiled regions in which the island lies, where nothing reports its precision.
        relaxed: what was given up so that it could be built; None if it is what was asked for.
        engine_layers: by ONNX node, the names of the engine layers that compute it.
        recalled: it was not evaluated now: the journal had it.
        typing: `weak` or `strong`, as the engine was built; None if it does not say.
        tf32: whether products of FP32 were computed in TF32, as the worker names it; None if nobody says.
        judged_as: the precision whose gates the outputs were held to, if it is not the one that was asked for.
        obeyed: what became of the Casts around an island, or around products; None where there are none.
        kernels: the ONNX nodes of each kernel that computes some.
        compiled: by compiled region of which nothing reports a precision, the nodes that may be inside.
    """

    outcome: Outcome
    outputs: tuple[OutputResult, ...] = ()
    seconds: float = 0.0
    builds: int = 0
    note: str = ""
    tactics: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()
    tensors: tuple[Mapping[str, np.ndarray], ...] = field(default=(), compare=False, metadata=NEVER)
    regions: tuple[str, ...] = ()
    relaxed: Relaxed | None = None
    engine_layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recalled: bool = field(default=False, metadata=NEVER)
    typing: str | None = None
    tf32: str | None = None
    judged_as: Precision | None = None
    obeyed: Obedience | None = None
    kernels: tuple[tuple[str, ...], ...] = ()
    compiled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    __pydantic_config__: ClassVar = {"arbitrary_types_allowed": True}  # arrays, which no document has

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return self.outcome is Outcome.PASS

    @property
    def badness(self) -> float:
        """How far the worst gate is beyond its limit, as a multiple of the limit: up to 1 passes."""
        return badness(self.outputs)

    @property
    def failing_sample(self) -> int | None:
        """The first sample that fails; None if none does."""
        return next((output.sample for output in self.outputs if not output.passed), None)

    @property
    def worst(self) -> tuple[OutputResult, GateResult] | None:
        """The gate that is furthest beyond its limit, or nearest to it, with its output; None without gates."""
        pairs = [(output, gate) for output in self.outputs for gate in output.gates]
        return max(pairs, key=lambda pair: badness([replace(pair[0], gates=(pair[1],))]), default=None)

    @property
    def in_tf32(self) -> bool:
        """Whether its products of FP32 are known to be computed in TF32."""
        return self.tf32 not in (None, TF32_OFF)

    @property
    def trial(self) -> Trial:
        """The same as a search sees it; a badness of 1 is the limit."""
        if self.outcome is Outcome.UNRESOLVED:
            return Trial(self.outcome, seconds=self.seconds, note=self.note)
        note = self.note or ("" if self.relaxed is None else str(self.relaxed))
        return Trial(self.outcome, self.badness, 1.0 - self.badness, self.seconds, note)


class Evaluator:
    """Evaluates plans of one subject within its budget.

    Args:
        subject: what is diagnosed.
        spending: what is charged.
        journal: keeps what was spent, and steps by their key.
    """

    def __init__(self, subject: Subject, spending: Spending, journal: DiagnosisJournal | None = None) -> None:
        self.subject = subject
        self.spending = spending
        self.journal = journal or DiagnosisJournal()
        self.failing_sample = 0
        """The first sample whose outputs failed: the one to look at first from then on."""
        self.passed: dict[Plan, tuple[OutputResult, ...]] = {}
        """What plans that passed came to, all samples."""
        self._relaxed: dict[Plan, Relaxed] = {}
        self._unobserved: tuple[
            Mapping[str, np.ndarray], ...
        ] = ()  # outputs of all samples, without an island
        self._looked: dict[tuple[Plan, int], Evaluation] = {}
        self.at_hand: set[str] = set()
        """Keys of what was evaluated by this process: these engines need not be built again."""

    def evaluate(
        self, plan: Plan, *, phase: str, key: str | None = None, thorough: bool = False
    ) -> JudgedEvaluation:
        """Evaluate `plan` on the candidate, sample by sample, until one fails.

        Args:
            plan: what to evaluate.
            phase: what the engines are charged to.
            key: under which name the journal keeps it; None where a journal of a search does.
            thorough: judge all samples, and keep their outputs.

        Raises:
            BudgetExhaustedError: it needs an evaluation, and the budget is spent.
        """
        kept = self._recall(key, thorough)
        if kept is not None:
            self._note(plan, kept)
            self._remember(key, kept)
            return kept
        self.spending.check()
        builds = self.spending.builds
        start = time.perf_counter()
        try:
            judged = self._evaluate(plan, phase, thorough)
        except CandidateError as error:
            judged = JudgedEvaluation(Outcome.UNRESOLVED, note=str(error), evidence=error.lines)
        judged = replace(judged, seconds=time.perf_counter() - start, builds=self.spending.builds - builds)
        self._note(plan, judged)
        self._remember(key, judged)
        self._keep(key, judged)
        if key is not None:
            self.at_hand.add(key)
        return judged

    def begin(self, plan: Plan, key: str | None = None, *, certain: bool = False) -> bool:
        """Begin the engine of `plan` in the background, unless the journal knows what came of it, or the budget ends.

        Args:
            plan: what is evaluated later.
            key: under which name the journal keeps it.
            certain: whether it will be evaluated in any case.

        Returns:
            Whether it is under way: there is time for something else.
        """
        if self._is_settled(key):
            return False
        return self.subject.candidate.build_ahead(plan, self.subject.bench.feeds[0], certain=certain)

    def prebuild(self, plan: Plan, key: str) -> None:
        """Build the engine of `plan` in a second process as far as that can be, likewise."""
        if not self._is_settled(key):
            self.subject.candidate.prebuild(plan, self.subject.bench.feeds[0])

    def _is_settled(self, key: str | None) -> bool:
        """Whether the journal knows what came of a plan, or the budget ends."""
        known = key is not None and self._recall(key, thorough=True) is not None
        builds = self.spending.budget.builds
        return known or (builds is not None and builds - self.spending.builds < ENGINES_OF_A_CURE)

    def emulate_ahead(self, plans: Sequence[Plan]) -> None:
        """Begin to emulate plans that differ in their islands alone, side by side, for `evaluate` to take."""
        subject = self.subject
        units = frozenset(subject.units)
        for precision in dict.fromkeys(plan.precision for plan in plans):
            feeds = subject.bench.feeds[self._order(thorough=False)[0]]
            subject.bench.emulator.run_ahead(feeds, precision, [units - plan.islands for plan in plans])

    def rebuild(self, plan: Plan, *, phase: str, key: str | None = None) -> JudgedEvaluation:
        """Build and judge `plan` anew, with its tactics timed anew: the timing cache would repeat the choice.

        Raises:
            BudgetExhaustedError: the budget is spent.
        """
        self.subject.candidate.close()  # it would answer with the engine that it holds
        build = plan.build.model_copy(update={"timing_cache": False})
        return self.evaluate(replace(plan, build=build), phase=phase, key=key)

    def look_ahead(self, plan: Plan, *, phase: str) -> None:
        """Run an engine that is there for the tensors that `plan` observes, before its worker builds the next one.

        Raises:
            CandidateError: as `run`.
        """
        for sample, feeds in enumerate(self.subject.bench.feeds):
            self._looked[plan, sample] = self.run(plan, feeds, phase=phase)

    @property
    def has_looked(self) -> bool:
        """Whether tensors wait to be looked at."""
        return bool(self._looked)

    def look(self, plan: Plan, feeds: Mapping[str, np.ndarray], *, phase: str) -> Evaluation:
        """As `run`, unless `look_ahead` did."""
        sample = next((place for place, each in enumerate(self.subject.bench.feeds) if each is feeds), -1)
        return self._looked.pop((plan, sample), None) or self.run(plan, feeds, phase=phase)

    def run(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, phase: str, timing: Timing | None = None
    ) -> Evaluation:
        """One evaluation of the candidate, charged. A build that failed counts as one.

        Engines are not timed on the way: only the two whose latency is compared, at the end.
        A worker that died may have been killed by someone else: it gets a second chance.

        Raises:
            CandidateError: the build, the inference or the worker failed.
        """
        for attempt in (1, 2):
            try:
                evaluation = self.subject.candidate.evaluate(plan, feeds, timing=timing or Timing())
            except CandidateError as error:
                self.charge(phase, 1)
                if attempt == 2 or not isinstance(error, WorkerCrashedError):
                    raise
            else:
                self.charge(phase, evaluation.builds)
                return evaluation
        raise AssertionError("unreachable")

    def _evaluate(self, plan: Plan, phase: str, thorough: bool) -> JudgedEvaluation:
        outputs: list[OutputResult] = []
        tensors: list[Mapping[str, np.ndarray]] = []
        facts, obeyed = EngineFacts(), Obedience.OPEN
        for sample in self._order(thorough):
            evaluation = self.run(plan, self.subject.bench.feeds[sample], phase=phase)
            facts = evaluation.engine or EngineFacts()
            if obeyed is Obedience.OPEN:
                obeyed = self._obeyed(plan, facts, evaluation.tensors, sample)
            judged = self.subject.judge(evaluation, sample, plan)
            outputs += judged
            if thorough:
                names = [output.tensor for output in judged if output.tensor in evaluation.tensors]
                tensors.append({name: np.array(evaluation.tensors[name]) for name in names})
            elif not all(output.passed for output in judged):
                break
        passed = all(output.passed for output in outputs)
        compiled = compiled_regions(facts, self.subject.model)
        away = obeyed is Obedience.FUSED_AWAY and not passed
        return JudgedEvaluation(
            Outcome.PASS if passed else Outcome.UNRESOLVED if away else Outcome.FAIL,
            tuple(sorted(outputs, key=lambda output: output.sample)),
            note=self.subject.fused_away(plan.islands | plan.fp32_sums) if away else "",
            tactics=tactics_of(facts),
            tensors=tuple(tensors),
            regions=regions_around(compiled, plan.islands),
            relaxed=relaxed_in(facts),
            engine_layers=layers_by_node(facts),
            typing=facts.typing,
            tf32=facts.realised.tf32,
            obeyed=obeyed if _holds_by_casts(plan, facts) else None,
            kernels=_nodes_of_kernels(facts),
            compiled=compiled,
        )

    def _obeyed(
        self, plan: Plan, facts: EngineFacts, tensors: Mapping[str, np.ndarray], sample: int
    ) -> Obedience:
        """Whether the engine keeps the Casts of `plan`: by its kernels, and where they do not tell, by its outputs."""
        if not _holds_by_casts(plan, facts):
            return Obedience.OPEN
        subject = self.subject
        found = Obedience.OPEN
        if not plan.fp32_sums:
            found = obeyed_by_kernels(facts.kernels, subject.model, plan.islands)
        if found is not Obedience.OPEN:
            return found
        bench = subject.bench
        lowered = [name for name in subject.units if name not in plan.islands]
        emulator, without = bench.emulator, subject.emulation(plan.precision, sample)
        if plan.fp32_sums:  # engines add up in FP16 without, whatever is assumed
            emulator = bench.emulator_with(replace(bench.assumed, accumulate=Accumulate.FP16))
            without = emulator.attempt(bench.feeds[sample], plan.precision)
        emulated = emulator.attempt(
            bench.feeds[sample], plan.precision, lowered=lowered, fp32_sums=plan.fp32_sums
        )
        return obeyed_by_numbers(
            {name: tensors[name] for name in bench.expected[sample] if name in tensors},
            self._unobserved[sample] if sample < len(self._unobserved) else {},
            bench.expected[sample],
            emulated.tensors,
            without.tensors,
        )

    def _remember(self, key: str | None, judged: JudgedEvaluation) -> None:
        if key == BASELINE:
            self._unobserved = judged.tensors

    def _note(self, plan: Plan, judged: JudgedEvaluation) -> None:
        if judged.passed:
            self.passed[plan] = judged.outputs
            if judged.relaxed is not None:
                self._relaxed[plan] = judged.relaxed
                self.journal.keep(_relaxed_key(plan), judged.relaxed)
        if judged.failing_sample is not None:
            self.failing_sample = judged.failing_sample

    def _order(self, thorough: bool) -> list[int]:
        """The sample that failed before first: where it fails again, the others need not be judged."""
        samples = list(range(len(self.subject.bench.feeds)))
        if not thorough and self.failing_sample in samples:
            samples.remove(self.failing_sample)
            samples.insert(0, self.failing_sample)
        return samples

    def charge(self, phase: str, builds: int) -> None:
        """Count engines that were built for `phase`, in memory and on disk."""
        if builds and not self.subject.emulated:
            self.spending.charge(phase, builds)
            self.journal.charge(phase, builds)

    def relaxed(self, plan: Plan) -> Relaxed | None:
        """What was given up to build the engine of `plan`, which passed in this diagnosis or in one that it resumes."""
        return self.journal.recall(_relaxed_key(plan), Relaxed) or self._relaxed.get(plan)

    def _recall(self, key: str | None, thorough: bool) -> JudgedEvaluation | None:
        found = None if key is None else self.journal.recall(key, JudgedEvaluation)
        if key is None or found is None:
            return None
        if not thorough or found.outcome is Outcome.UNRESOLVED:
            return replace(found, recalled=True)
        tensors = self.journal.recall_tensors(key)
        return None if tensors is None else replace(found, tensors=tuple(tensors), recalled=True)

    def _keep(self, key: str | None, judged: JudgedEvaluation) -> None:
        # The emulator is asked again sooner than a file is written, and what failed to build may build next time.
        if key is None or self.subject.emulated or judged.outcome is Outcome.UNRESOLVED:
            return
        if judged.tensors:
            self.journal.keep_tensors(key, [dict(sample) for sample in judged.tensors])
        self.journal.keep(key, judged)


def _holds_by_casts(plan: Plan, facts: EngineFacts) -> bool:
    """Whether Casts in the graph are all that holds something in FP32."""
    low = plan.precision in LOW_DTYPE
    return low and facts.typing == "strong" and bool(plan.islands or plan.fp32_sums)


def _nodes_of_kernels(facts: EngineFacts) -> tuple[tuple[str, ...], ...]:
    """The ONNX nodes of each kernel of a strongly typed engine that computes some."""
    kernels = facts.kernels.kernels if facts.kernels is not None and facts.typing == "strong" else ()
    return tuple(kernel.onnx_nodes for kernel in kernels if kernel.onnx_nodes)


def _relaxed_key(plan: Plan) -> str:
    held = " between casts" if plan.casts else ""
    return f"relaxed{held} {' '.join(sorted(plan.islands))}"
