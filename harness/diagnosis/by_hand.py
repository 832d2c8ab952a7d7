"""Looking for an island by hand, with the means of a diagnosis.

Each evaluation is the one that a diagnosis would make, and goes into the journal where a diagnosis looks for it: what
was tried by hand is not evaluated again, and what a diagnosis evaluated is known here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from harness.backends import Observation
from harness.diagnosis.context import (
    BASELINE,
    FORMATS,
    GATES_PHASE,
    Conclusion,
    Context,
    DiagnosisJournal,
    Handover,
    JudgedEvaluation,
    Prediction,
    Subject,
    TensorRange,
    emulate,
    find_groups,
    inherited,
    usual_error,
)
from harness.diagnosis.explain import MeasuredNode, TensorsAround, explain_nodes
from harness.diagnosis.handover import write_handover
from harness.diagnosis.results import DiagnosisVerdict, Stage
from harness.diagnosis.stages import CURE_PHASE, confirm, cure_on_emulator, island_problem
from harness.judge import COPIES, LayerResult, measure_layers
from harness.model import NodeInfo
from harness.search import Outcome, Problem, Result, Trial, search

OF_CANDIDATE, OF_EMULATOR = "islands", "emulator"
"""The journals of a diagnosis: of its candidate and, beside an engine, of the emulator."""


class KnownIslands:
    """The evaluated islands of one subject, in the journal that a diagnosis keeps of it.

    The journal is open only while something is evaluated, so that a diagnosis may use it in between.

    Args:
        journal: holds the journal of the search.
        subject: the model on the candidate that evaluates.
        name: name of the journal.

    Raises:
        JournalError: the journal belongs to another problem, is damaged, or another process is writing to it.
    """

    def __init__(self, journal: DiagnosisJournal, subject: Subject, name: str) -> None:
        self.journal = journal
        self.subject = subject
        self.name = name
        self.evaluations: dict[frozenset[str], Trial] = {}
        self.refresh()

    @cached_property
    def problem(self) -> Problem:
        """The question that the journal is about, as a diagnosis puts it."""
        return island_problem(self.subject)

    @property
    def smallest(self) -> tuple[str, ...] | None:
        """The smallest island that passes, in topological order; None if none does."""
        passing = [kept for kept, found in self.evaluations.items() if found.outcome is Outcome.PASS]
        best = min(passing, key=len, default=None)
        return None if best is None else self.problem.ordered(best)

    def refresh(self) -> None:
        """Read what others have written."""
        with self.journal.of_search(self.name, self.problem) as search_journal:
            assert search_journal is not None
            self.evaluations |= {record.treated: record.evaluation for record in search_journal.records}

    def add(self, kept: frozenset[str], evaluation: Trial) -> None:
        """Write an evaluation to disk; one with the outcome that is known already is not repeated.

        What could not be judged is not written: it may be another time, and a resumed search would not try again.

        Raises:
            JournalError: another process is writing.
        """
        if evaluation.outcome is Outcome.UNRESOLVED:
            return
        known = self.evaluations.get(kept)
        if known is None or known.outcome is not evaluation.outcome:
            with self.journal.of_search(self.name, self.problem) as search_journal:
                assert search_journal is not None
                search_journal.append(kept, evaluation)
        self.evaluations[kept] = evaluation


class ByHand:
    """Evaluates, searches and explains islands that a person chooses; an island is the set of nodes in FP32.

    Args:
        context: what is examined; its progress follows everything that takes time.

    Raises:
        JournalError: a journal cannot be continued.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.subject = context.emulated
        self._layers: dict[frozenset[str], tuple[LayerResult, ...]] = {}
        only, journal = context.subject.emulated, context.journal
        self.on_emulator = KnownIslands(journal, self.subject, OF_CANDIDATE if only else OF_EMULATOR)
        self.on_engine = None if only else KnownIslands(journal, context.subject, OF_CANDIDATE)
        context.report(Stage.GATES, "run the reference and the emulator")
        self.start = self.emulate(frozenset())
        """The emulator with everything lowered."""
        self.prediction = Prediction(self.start.outputs, self.start.trial, self.layers(frozenset()))
        context.emulator.failing_sample = self.prediction.failing_sample

    @property
    def largest(self) -> float:
        """The largest number of the precision."""
        return FORMATS[self.subject.precision].largest

    @property
    def usual_error(self) -> float:
        """The median of the errors that nodes introduce; 0 if unknown."""
        return usual_error(self.prediction.introduced)

    def layers(self, kept: frozenset[str]) -> tuple[LayerResult, ...]:
        """Every float tensor in topological order, over all samples, with `kept` in FP32, on the emulator."""
        if kept not in self._layers:
            self.context.report(Stage.PREDICT, "measure the layers")
            bench = self.subject.bench
            plan = self.subject.plan(kept, observation=Observation.TYPED)
            self._layers[kept], _ = measure_layers(bench, bench.emulator, plan, bench.case.tolerances)
        return self._layers[kept]

    @cached_property
    def ranges(self) -> dict[str, TensorRange]:
        """The values of every float tensor in FP32, over all samples."""
        self.context.report(Stage.PREDICT, "measure what the tensors hold")
        bench = self.subject.bench
        found = {}
        for chunk in bench.memory.chunks(bench.model.float_tensors, copies=COPIES):
            runs = [bench.reference.run(feeds, chunk) for feeds in bench.feeds]
            for name in chunk:
                found[name] = TensorRange.of(name, [run[name] for run in runs], self.subject.precision)
        return found

    def why(self, node: str) -> str:
        """What happens at a node, in physical terms."""
        return explain_nodes(self.subject, self.prediction, [node])[0].why

    def measured(self, node: NodeInfo) -> MeasuredNode:
        """A node with what its float tensors hold."""
        around = TensorsAround(self.subject, [node], self.subject.precision)
        return around.measured(node, self.prediction.introduced.get(node.name), self.usual_error)

    def effect(self, node: str) -> float:
        """What lowering only this node does to the outputs, as a multiple of the limit."""
        return self.context.effects(self.prediction.failing_sample).of([node])

    def evaluate(self, kept: frozenset[str]) -> JudgedEvaluation:
        """Evaluate all samples on the emulator, and write the outcome to the journal."""
        judged = self.emulate(kept)
        self.on_emulator.add(kept, judged.trial)
        return judged

    def emulate(self, kept: frozenset[str]) -> JudgedEvaluation:
        """Evaluate all samples on the emulator."""
        started = time.perf_counter()
        judged = emulate(self.subject, self.subject.plan(kept))
        return replace(judged, seconds=time.perf_counter() - started)

    def build(self, kept: frozenset[str], known: KnownIslands) -> JudgedEvaluation:
        """Build the unobserved engine and evaluate all samples, or recall that this was done.

        The journal keeps it as a diagnosis keeps its own steps: with nothing in FP32 it is the baseline.
        """
        evaluator = self.context.evaluator
        self.context.report(Stage.CURE, f"build with {len(kept)} nodes in FP32")
        if kept:
            judged = confirm(evaluator, known.subject.plan(kept))
        else:
            judged = evaluator.evaluate(known.subject.plan(), phase=GATES_PHASE, key=BASELINE, thorough=True)
        known.add(kept, judged.trial)
        return judged

    def bisect(self, units: Sequence[str], fixed: frozenset[str]) -> Result:
        """The fewest of `units` that pass together with `fixed`, on the emulator.

        Among all nodes it is the search of a diagnosis. Otherwise every unit is lowered alone, and the ranking is
        searched; each configuration goes to the journal as what it is in the whole model.
        """
        if not fixed and set(units) == set(self.subject.units) and self.prediction.fails:
            return self._bisect_everything()
        known = self.on_emulator

        def oracle(treated: frozenset[str]) -> Trial:
            kept = fixed | treated
            found = known.evaluations.get(kept)
            if found is None:
                found = self.context.emulator.evaluate(self.subject.plan(kept), phase=CURE_PHASE).trial
                known.add(kept, found)
            return found

        # If all of them do not help, ranking them is in vain: the search says so at once.
        helps = oracle(frozenset(units)).outcome is Outcome.PASS
        groups = find_groups(self.subject.model, units)
        scores = self._scores(units) if helps else None
        problem = Problem(units=tuple(units), groups=groups, scores=scores)
        return search(problem, oracle, on_progress=self.context.follow("search the island"))

    def _scores(self, units: Sequence[str]) -> dict[str, float]:
        self.context.report(Stage.CURE, f"lower {len(units)} nodes one at a time")
        errors = inherited(self.subject.model, self.prediction.introduced, units)
        return self.context.effects(self.prediction.failing_sample).scores(units, errors)

    def _bisect_everything(self) -> Result:
        context, known = self.context, self.on_emulator
        context.report(Stage.CURE, "lower suspects one at a time")
        try:
            cure = cure_on_emulator(context, self.prediction, name=known.name)
        finally:
            known.refresh()
        assert cure.result is not None, "cure_on_emulator always searches"
        return cure.result

    def write_recipes(self, kept: tuple[str, ...], folder: Path, *, passes: bool) -> Handover:
        """Write the files that a diagnosis hands over for an island, without the repro."""
        # By hand it is shown that an island passes, not what kind of fault it cures.
        verdict = DiagnosisVerdict.UNRESOLVED
        found = Conclusion(verdict, culprits=kept, island=kept, confirmed=passes)
        return write_handover(self.context, found, "", folder)
