"""Evaluating plans: to an outcome, with what it cost and what is known of the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.backends import Evaluation, Plan
from harness.diagnosis.context.budget import Spending
from harness.diagnosis.context.journal import Notebook
from harness.diagnosis.context.records import output_from_record, output_to_record
from harness.diagnosis.context.regions import opaque_layers
from harness.diagnosis.context.subject import Subject, badness
from harness.errors import CandidateError, WorkerCrashedError
from harness.judge import OutputResult, jsonable
from harness.search import Outcome, Trial
from harness.worker.protocol import EngineFacts

Tactics = tuple[tuple[str, str], ...]

RELAXED = {
    "neighbours_free": "the layers around the island are not pinned",
    "preferred": "precisions are preferred, not obeyed",
}
"""What was given up so that an engine could be built, by its name in the facts of the engine."""


@dataclass(frozen=True)
class Examination:
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
        opaque: the opaque layers in which the island lies, where nothing tells its precision.
        relaxed: what was given up so that it could be built, in words; empty if it is what was asked for.
        engine_layers: by ONNX node, the names of the engine layers that compute it.
    """

    outcome: Outcome
    outputs: tuple[OutputResult, ...] = ()
    seconds: float = 0.0
    builds: int = 0
    note: str = ""
    tactics: Tactics = ()
    evidence: tuple[str, ...] = ()
    tensors: tuple[Mapping[str, np.ndarray], ...] = field(default=(), compare=False)
    opaque: tuple[str, ...] = ()
    relaxed: str = ""
    engine_layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return self.outcome is Outcome.PASS

    @property
    def less(self) -> str:
        """Behind what is said of the engine: that it is not the one that was asked for; empty if it is."""
        return less_than_asked(self.relaxed)

    @property
    def trial(self) -> Trial:
        """The same as a search sees it; a badness of 1 is the limit."""
        if self.outcome is Outcome.UNRESOLVED:
            return Trial(self.outcome, seconds=self.seconds, note=self.note)
        excess = badness(self.outputs)
        return Trial(self.outcome, excess, 1.0 - excess, self.seconds, self.note or self.relaxed)

    def to_record(self) -> dict[str, Any]:
        """JSON data, without the tensors."""
        return {
            "outcome": self.outcome.value,
            "outputs": [output_to_record(output) for output in self.outputs],
            "seconds": self.seconds,
            "builds": self.builds,
            "note": self.note,
            "tactics": [list(pair) for pair in self.tactics],
            "evidence": list(self.evidence),
            "opaque": list(self.opaque),
            "relaxed": self.relaxed,
            "engine_layers": {node: list(names) for node, names in self.engine_layers.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Examination:
        """The examination that `to_record` wrote."""
        return cls(
            outcome=Outcome(record["outcome"]),
            outputs=tuple(output_from_record(output) for output in record["outputs"]),
            seconds=record["seconds"],
            builds=record["builds"],
            note=record["note"],
            tactics=tuple((name, tactic) for name, tactic in record["tactics"]),
            evidence=tuple(record["evidence"]),
            opaque=tuple(record.get("opaque", ())),
            relaxed=record.get("relaxed", ""),
            engine_layers={node: tuple(names) for node, names in record.get("engine_layers", {}).items()},
        )


class Examiner:
    """Evaluates plans of one subject within its limits.

    Args:
        subject: what is diagnosed.
        spending: what is charged.
        notebook: keeps what was spent, and steps by their key; None keeps nothing.
    """

    def __init__(self, subject: Subject, spending: Spending, notebook: Notebook | None = None) -> None:
        self.subject = subject
        self.spending = spending
        self.notebook = notebook
        self.failing_sample = 0
        """The first sample whose outputs failed: the one to look at first from then on."""
        self.passed: dict[Plan, tuple[OutputResult, ...]] = {}
        """What plans that passed came to, all samples."""
        self.at_hand: set[str] = set()
        """Keys of what was evaluated by this process: these engines need not be built again."""

    def examine(
        self, plan: Plan, *, phase: str, key: str | None = None, thorough: bool = False
    ) -> Examination:
        """Evaluate `plan` on the candidate, sample by sample, until one fails.

        Args:
            plan: what to evaluate.
            phase: to whom the engines are charged.
            key: under which name the notebook keeps it; None where a search's journal does.
            thorough: judge all samples, and keep their outputs.

        Raises:
            BudgetExhaustedError: it needs an evaluation, and the limits are reached.
        """
        kept = self._recall(key, thorough)
        if kept is not None:
            self._note(plan, kept)
            return kept
        self.spending.check()
        builds = self.spending.builds
        start = time.perf_counter()
        try:
            examination = self._examine(plan, phase, thorough)
        except CandidateError as error:
            examination = Examination(Outcome.UNRESOLVED, note=str(error), evidence=error.evidence)
        examination = replace(
            examination, seconds=time.perf_counter() - start, builds=self.spending.builds - builds
        )
        self._note(plan, examination)
        self._keep(key, examination)
        if key is not None:
            self.at_hand.add(key)
        return examination

    def rebuild(self, plan: Plan, *, phase: str, key: str | None = None) -> Examination:
        """Build and judge `plan` anew, with its tactics timed anew: the timing cache would repeat the choice.

        Raises:
            BudgetExhaustedError: the limits are reached.
        """
        self.subject.candidate.close()  # it would answer with the engine that it holds
        build = plan.build.model_copy(update={"timing_cache": False})
        return self.examine(replace(plan, build=build), phase=phase, key=key)

    def evaluate(self, plan: Plan, feeds: Mapping[str, np.ndarray], *, phase: str) -> Evaluation:
        """One evaluation of the candidate, charged. A build that failed counts as one.

        A worker that died may have been killed by someone else: it gets a second chance.

        Raises:
            CandidateError: the build, the inference or the worker failed.
        """
        for attempt in (1, 2):
            try:
                evaluation = self.subject.candidate.evaluate(plan, feeds)
            except CandidateError as error:
                self.charge(phase, 1)
                if attempt == 2 or not isinstance(error, WorkerCrashedError):
                    raise
            else:
                self.charge(phase, evaluation.builds)
                return evaluation
        raise AssertionError("unreachable")

    def _examine(self, plan: Plan, phase: str, thorough: bool) -> Examination:
        outputs: list[OutputResult] = []
        tensors: list[Mapping[str, np.ndarray]] = []
        facts = EngineFacts()
        for sample in self._order(thorough):
            evaluation = self.evaluate(plan, self.subject.bench.feeds[sample], phase=phase)
            facts = evaluation.engine or EngineFacts()
            judged = self.subject.judge(evaluation.tensors, sample, plan, failures=evaluation.failures)
            outputs += judged
            if thorough:
                names = [output.tensor for output in judged if output.tensor in evaluation.tensors]
                tensors.append({name: np.array(evaluation.tensors[name]) for name in names})
            elif not all(output.passed for output in judged):
                break
        passed = all(output.passed for output in outputs)
        return Examination(
            Outcome.PASS if passed else Outcome.FAIL,
            tuple(sorted(outputs, key=lambda output: output.sample)),
            tactics=tactics_of(facts),
            tensors=tuple(tensors),
            opaque=opaque_layers(facts, plan.islands, self.subject.model),
            relaxed=relaxed_in(facts),
            engine_layers=layers_by_node(facts),
        )

    def _note(self, plan: Plan, examination: Examination) -> None:
        if examination.passed:
            self.passed[plan] = examination.outputs
        failing = [output.sample for output in examination.outputs if not output.passed]
        if failing:
            self.failing_sample = failing[0]

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
            if self.notebook is not None:
                self.notebook.charge(phase, builds)

    def _recall(self, key: str | None, thorough: bool) -> Examination | None:
        if key is None or self.notebook is None:
            return None
        record = self.notebook.recall(key)
        if record is None:
            return None
        found = Examination.from_record(record)
        if not thorough or found.outcome is Outcome.UNRESOLVED:
            return found
        tensors = self.notebook.recall_tensors(key)
        if tensors is None:
            return None
        return replace(found, tensors=tuple(tensors))

    def _keep(self, key: str | None, examination: Examination) -> None:
        # The emulator is asked again sooner than a file is written, and what failed to build may build next time.
        if key is None or self.notebook is None or self.subject.emulated:
            return
        if examination.outcome is Outcome.UNRESOLVED:
            return
        if examination.tensors:
            self.notebook.keep_tensors(key, [dict(sample) for sample in examination.tensors])
        self.notebook.keep(key, jsonable(examination.to_record()))


def less_than_asked(relaxed: str) -> str:
    """What to say behind a statement on an engine that was built relaxed; empty if it was not."""
    return f" (built with less than was asked for: {relaxed})" if relaxed else ""


def relaxed_in(facts: EngineFacts) -> str:
    """What was given up so that an engine could be built, in words; empty if nothing was."""
    name = facts.realised.relaxed
    if not name:
        return ""
    words = RELAXED.get(name, name)
    # Where the builder may choose, it may choose FP32 throughout, and then an island cures nothing.
    if not facts.realised.asserted:
        return f"{words}, and no layer is seen to compute in the precision under test"
    return words


def tactics_of(facts: EngineFacts) -> Tactics:
    """Name and tactic of each engine layer, where the candidate tells them."""
    return tuple((layer.name, layer.tactic) for layer in facts.layers if layer.tactic is not None)


def layers_by_node(facts: EngineFacts) -> dict[str, tuple[str, ...]]:
    """By ONNX node, the names of the engine layers that compute it."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in facts.layers:
        for node in layer.onnx_nodes:
            found[node] = (*found.get(node, ()), layer.name)
    return found
