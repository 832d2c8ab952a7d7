"""One session: what is kept in FP32, what was tried, and what each command does to that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.case import Case
from harness.diagnosis import (
    JOURNAL,
    ByHand,
    Context,
    DiagnosisProgress,
    JudgedEvaluation,
    KnownIslands,
    Subject,
    choose_case,
    choose_precision,
    journal_folder,
)
from harness.errors import NothingSelectedError, UsageError
from harness.explore.answers import (
    BisectResult,
    Explanation,
    ExportedFiles,
    JournalSummary,
    KeptNodes,
    LayerTable,
    Results,
    TryResult,
    Welcome,
)
from harness.explore.commands import Order
from harness.explore.files import default_folder, draw, export, open_journal
from harness.explore.measurements import explain, run_result, tabulate
from harness.explore.names import Names
from harness.judge import EMULATOR, Judge, LayerResult, check_names
from harness.search import Outcome
from harness.tensors import Precision, typed_path
from harness.text import plural


@contextmanager
def open_session(
    target: Case | Path | str,
    *,
    precision: Precision | str | None = None,
    environment: str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    out: Path | str | None = None,
    progress: DiagnosisProgress | None = None,
) -> Iterator[Session]:
    """A session on one case; leaving it frees the workers.

    Args:
        target: a case, a case file, or an .onnx file.
        precision: the precision under test; by default the only one of the case besides fp32, or fp16.
        environment: where `try --engine` builds: a name of harness.toml; None is nowhere.
        inputs: shapes for the inputs of an .onnx file.
        out: folder for pictures and exports, and its `journal` for journals. By default a folder named after the
            case and the precision, and the journals where `harness diagnose` keeps them.
        progress: called with everything that takes time.

    Raises:
        UsageError: the target is not one case, or the precision lowers nothing.
        ModelError, InputDataError, CaseFileError: the case cannot be run.
        CandidateError: the environment's worker does not start.
        JournalError: a journal is damaged or in use.
    """
    wanted = None if precision is None else Precision(precision)
    case = choose_case(target, inputs, wanted, purpose="a session")
    with Judge() as judge:
        bench = judge.bench(case)
        if missing := bench.missing_packages():
            raise NothingSelectedError(f"needs {', '.join(missing)}, which is not installed", where=case.name)
        check_names(case, bench.model)
        candidate = judge.candidates.get(environment or EMULATOR, bench)
        subject = Subject(bench, choose_precision(case, wanted), candidate)
        folder = journal_folder(subject) if out is None else Path(out) / JOURNAL
        journal, note = open_journal(folder, subject)
        context = Context(subject, journal=journal, progress=progress)
        yield Session(context, default_folder(subject) if out is None else Path(out), note=note)


class Session:
    """A model, which of its nodes are kept in FP32, and what is known by now.

    Whatever a command raises, KeyboardInterrupt too, what is kept stays as it was before the command.

    Args:
        context: what is explored; its journal keeps what is tried, its progress follows what takes time.
        out: the folder for pictures and exports.
        note: what happened to an earlier journal, if something did.

    Raises:
        UsageError: the precision lowers no node of the model.
        JournalError: a journal cannot be continued.
    """

    def __init__(self, context: Context, out: Path, *, note: str = "") -> None:
        self.context = context
        self.subject = context.emulated
        if not self.subject.units:
            raise UsageError(
                f"at {self.subject.precision} the emulator lowers no node of this model: there is nothing to bisect",
                where=self.subject.bench.case.name,
                hint="choose fp16, bf16, tf32 or fp8",
            )
        self.out = out
        self.note = note
        self.kept: frozenset[str] = frozenset()
        """The nodes in FP32."""
        self.tried: list[TryResult | BisectResult] = []
        self.names = Names(self.subject.model, self.subject.units)
        self._before: list[frozenset[str]] = []
        """What was kept before each change, the oldest first."""
        self.by_hand = ByHand(context)
        self.earlier = tuple(
            JournalSummary(known.subject.candidate.name, len(known.evaluations), known.smallest)
            for known in (self.by_hand.on_emulator, self.by_hand.on_engine)
            if known is not None and known.evaluations
        )
        """What the journals held when the session began."""
        self.start = self.latest = self._result(frozenset(), self.by_hand.start)

    @property
    def passes(self) -> bool:
        """Whether the last evaluation passes; on entry that is the emulator with everything lowered."""
        return self.latest.passed

    def known(self) -> Outcome | None:
        """The emulator's outcome for what is kept now, if it was evaluated."""
        if not self.kept:
            return self.start.evaluation.outcome
        evaluation = self.by_hand.on_emulator.evaluations.get(self.kept)
        return None if evaluation is None else evaluation.outcome

    # --- looking ----------------------------------------------------------------------------------------------------

    def welcome(self) -> Welcome:
        """What fails, by how much, where it starts, and what to do."""
        layers = self.by_hand.layers(frozenset())
        origins = self.by_hand.prediction.origins
        engine = self.by_hand.on_engine
        return Welcome(
            case=self.subject.bench.case.name,
            precision=self.subject.precision,
            samples=len(self.subject.bench.feeds),
            start=self.start,
            origins=origins,
            reason=self.by_hand.why(origins[0].node) if origins else "",
            diverged=sum(layer.diverged for layer in layers),
            layers=len(layers),
            suggested=self._suggested(origins),
            environment=None if engine is None else engine.subject.candidate.name,
            earlier=self.earlier,
            note=self.note,
        )

    def layers(self, patterns: Sequence[str] = (), order: Order | None = None) -> LayerTable:
        """The layers with what is kept now: those that match, or without a pattern those that matter.

        Raises:
            NothingSelectedError: a pattern matches nothing.
        """
        nodes = frozenset(self._units(patterns)) if patterns else None
        return tabulate(self.by_hand, nodes, order, self.kept)

    def why(self, name: str) -> Explanation:
        """What happens at a node.

        Raises:
            NothingSelectedError: there is no such node or tensor.
        """
        return explain(self.by_hand, self.names.node(name), self.kept)

    def results(self) -> Results:
        """What was tried."""
        return Results(self.earlier, tuple(self.tried))

    # --- changing ---------------------------------------------------------------------------------------------------

    def show_kept(self) -> KeptNodes:
        """What is kept in FP32."""
        return KeptNodes(self._ordered(self.kept), self.start.nodes)

    def keep(self, patterns: Sequence[str]) -> KeptNodes:
        """Keep what matches in FP32.

        Raises:
            NothingSelectedError: a pattern matches nothing that the precision lowers.
        """
        return self._change(self.kept.union(self._units(patterns)))

    def lower(self, patterns: Sequence[str]) -> KeptNodes:
        """Lower what matches again.

        Raises:
            NothingSelectedError: a pattern matches nothing that the precision lowers.
        """
        return self._change(self.kept.difference(self._units(patterns)))

    def undo(self) -> KeptNodes:
        """Take back the last change.

        Raises:
            UsageError: nothing was changed.
        """
        if not self._before:
            raise UsageError("there is nothing to undo: nothing was kept or lowered yet")
        change = self._change(self._before.pop())
        self._before.pop()
        return change

    # --- evaluating -------------------------------------------------------------------------------------------------

    def evaluate(self, *, engine: bool = False) -> TryResult:
        """Evaluate what is kept, on the emulator or on the unobserved engine.

        Raises:
            UsageError: there is no environment to build in.
            JournalError: another process is writing to the journal.
        """
        if not engine:
            result = self._emulate(self.kept)
        elif self.by_hand.on_engine is None:
            raise UsageError(
                "there is nowhere to build an engine", hint="start with `harness explore … --env NAME`"
            )
        else:
            known = self.by_hand.on_engine
            result = self._result(self.kept, self.by_hand.build(self.kept, known), known)
        self.tried.append(result)
        self.latest = result
        return result

    def bisect(self, patterns: Sequence[str] = ()) -> BisectResult:
        """Find the fewest nodes that pass, and keep them.

        Args:
            patterns: search among what matches, and leave what else is kept as it is. Without, search among what is
                kept if that passes, else among all nodes.

        Raises:
            UsageError: it passes already with everything lowered.
            NothingSelectedError: a pattern matches nothing that the precision lowers.
        """
        if self.start.passed:
            on_engine = "`harness diagnose … --env` searches on the engine itself"
            hint = None if self.by_hand.on_engine is None else on_engine
            raise UsageError("nothing fails on the emulator: there is nothing to bisect", hint=hint)
        emulator = self.subject.bench.emulator
        started, before = time.perf_counter(), emulator.evaluations
        units, fixed = self._searched(patterns)
        found = self.by_hand.bisect(units, fixed)
        evaluations, seconds = emulator.evaluations - before, time.perf_counter() - started
        answer = BisectResult(
            found.verdict, len(units), found.culprits, len(fixed), found.minimal, evaluations, seconds
        )
        if answer.answered:
            self.latest = self._emulate(fixed.union(found.culprits))
            answer = replace(answer, result=self.latest)
            self._change(frozenset(self.latest.kept))
        self.tried.append(answer)
        return answer

    def _searched(self, patterns: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
        """Among which nodes to search, and which to keep all the while."""
        if patterns:
            units = self._units(patterns)
            return units, self.kept.difference(units)
        if self.kept and self._emulate(self.kept).passed:
            return self._ordered(self.kept), frozenset()
        return self.subject.units, frozenset()

    # --- writing ----------------------------------------------------------------------------------------------------

    def plot(self, path: str | None = None) -> Path:
        """Draw how the error grows with what is kept now.

        Raises:
            UsageError: the file is neither a .png nor a .svg, or cannot be written.
        """
        note = f"{plural(len(self.kept), 'node')} in FP32" if self.kept else ""
        return draw(run_result(self.by_hand, self.kept), self.out, path, note=note)

    def export(self, folder: str | None = None) -> ExportedFiles:
        """Write the recipes that keep the nodes in FP32, the list of layers, and a typed model.

        Raises:
            UsageError: nothing is kept, or the folder cannot be written to.
        """
        if not self.kept:
            raise UsageError(
                "nothing is kept in FP32 yet: there is nothing to export", hint="`keep` or `bisect` first"
            )
        result = self._emulate(self.kept)
        return export(self.by_hand, result, self.out if folder is None else typed_path(folder))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _emulate(self, kept: frozenset[str]) -> TryResult:
        return self._result(kept, self.by_hand.evaluate(kept))

    def _result(
        self, kept: frozenset[str], evaluation: JudgedEvaluation, known: KnownIslands | None = None
    ) -> TryResult:
        candidate = (known or self.by_hand.on_emulator).subject.candidate.name
        return TryResult(candidate, self._ordered(kept), len(self.subject.units), evaluation)

    def _change(self, kept: frozenset[str]) -> KeptNodes:
        """Keep exactly `kept`. Only what differs is a change, so that each `undo` changes something."""
        before = self.kept
        if kept != before:
            self._before.append(before)
            self.kept = kept
        added, removed = self._ordered(kept - before), self._ordered(before - kept)
        return KeptNodes(
            self._ordered(kept),
            self.start.nodes,
            changed=True,
            added=added,
            removed=removed,
            outcome=self.known(),
        )

    def _units(self, patterns: Sequence[str]) -> tuple[str, ...]:
        return self.names.units_of(patterns, self.subject.precision)

    def _ordered(self, nodes: Iterable[str]) -> tuple[str, ...]:
        chosen = frozenset(nodes)
        return tuple(name for name in self.subject.units if name in chosen)

    def _suggested(self, origins: Sequence[LayerResult]) -> str:
        """The block of the first origin as a glob; the node itself where there are no blocks."""
        if not origins:
            return ""
        node = origins[0].node
        return next((glob for glob, block in self.names.patterns.items() if node in block), node)
