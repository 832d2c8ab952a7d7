"""One session: what is kept in FP32, what was tried, and what each command does to that."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from harness.diagnosis import Lab, Notebook, Prognosis, Stage, emulate, explain_nodes
from harness.errors import UsageError
from harness.explore.answers import (
    Attempt,
    Changed,
    Explanation,
    Exported,
    Kept,
    Layer,
    LayersShown,
    Narrowed,
    Past,
    Plotted,
    Welcome,
)
from harness.explore.attempts import as_attempt, try_emulator, try_engine
from harness.explore.bisecting import Bisector
from harness.explore.commands import Order
from harness.explore.explaining import explain_node
from harness.explore.island import Island
from harness.explore.ledger import OF_CANDIDATE, OF_EMULATOR, Ledger
from harness.explore.measuring import Measured
from harness.explore.names import Names
from harness.explore.writing import draw, write_recipes
from harness.judge import LayerResult
from harness.search import Outcome
from harness.search import Verdict as SearchVerdict
from harness.tensors import typed_path
from harness.text import plural

MOST_ROWS = 16
"""Rows of a table of layers that was not asked for in full."""


class Session:
    """A model, what is kept in FP32 of it, and what is known by now.

    Whatever a command raises, KeyboardInterrupt too, what is kept stays as it was before the command.

    Args:
        lab: what is explored; its progress is told of everything that takes time.
        notebook: keeps what is tried.
        out: the folder for pictures and exports.
        note: what happened to an earlier notebook, if something did.

    Raises:
        UsageError: the precision lowers no node of the model.
        JournalError: a journal cannot be gone on with.
    """

    def __init__(self, lab: Lab, notebook: Notebook, out: Path, *, note: str = "") -> None:
        self.lab = lab
        self.subject = lab.emulated
        if not self.subject.units:
            raise UsageError(
                f"at {self.subject.precision} the emulator lowers no node of this model: there is nothing to bisect",
                where=self.subject.bench.case.name,
                hint="choose fp16, bf16, tf32 or fp8",
            )
        self.out = out
        self.note = note
        self.island = Island()
        self.tried: list[Attempt | Narrowed] = []
        self.names = Names(self.subject.model, self.subject.units)
        self.measured = Measured(lab)
        self.notebook = notebook
        self.engines = None if lab.subject.emulated else Ledger(notebook, lab.subject, OF_CANDIDATE)
        self.ledger = Ledger(notebook, self.subject, OF_CANDIDATE if lab.subject.emulated else OF_EMULATOR)
        lab.tell(Stage.GATES, "run the reference and the emulator")
        outputs, trial = emulate(self.subject)
        self.start = self.latest = as_attempt(self.subject, frozenset(), outputs, trial)
        self.prognosis = Prognosis(outputs, trial, self.measured.layers(frozenset()), ())
        self.effects = lab.effects(self.prognosis.failing_sample)

    @property
    def kept(self) -> frozenset[str]:
        """The nodes in FP32."""
        return self.island.kept

    @property
    def nodes(self) -> int:
        """How many nodes the precision lowers."""
        return len(self.subject.units)

    @property
    def passes(self) -> bool:
        """Whether what was evaluated last passes; on entry that is the emulator with everything lowered."""
        return self.latest.passed

    def known(self) -> Outcome | None:
        """What the emulator said of what is kept now, if it was asked."""
        if not self.kept:
            return self.start.outcome
        trial = self.ledger.known.get(self.kept)
        return None if trial is None else trial.outcome

    # --- looking ----------------------------------------------------------------------------------------------------

    def welcome(self) -> Welcome:
        """What fails, by how much, where it starts, and what could be done."""
        layers = self.measured.layers(frozenset())
        origins = self.prognosis.origins
        reason = explain_nodes(self.subject, self.prognosis, [origins[0].node])[0].why if origins else ""
        ledgers = [ledger for ledger in (self.ledger, self.engines) if ledger is not None]
        return Welcome(
            case=self.subject.bench.case.name,
            precision=self.subject.precision,
            nodes=self.nodes,
            samples=len(self.subject.bench.feeds),
            attempt=self.start,
            origins=origins,
            reason=reason,
            diverged=sum(layer.diverged for layer in layers),
            layers=len(layers),
            suggested=self._suggested(origins),
            environment=None if self.engines is None else self.lab.subject.candidate.name,
            journal=self.notebook.folder,
            earlier=tuple(ledger.earlier for ledger in ledgers if ledger.earlier.evaluations),
            note=self.note,
        )

    def layers(self, patterns: Sequence[str] = (), order: Order | None = None) -> LayersShown:
        """The layers with what is kept now: those that match, or without a pattern those that matter.

        Raises:
            NothingSelectedError: a pattern matches nothing.
        """
        nodes = frozenset(self.names.units_of(patterns, self.subject.precision)) if patterns else None
        layers = self.measured.layers(self.kept)
        shown = [layer for layer in layers if nodes is None or layer.node in nodes]
        around: str | None = None
        if order is not None:
            shown.sort(key=lambda layer: (-_key(layer, order), layer.index))
        matching = len(shown)
        if nodes is None and matching > MOST_ROWS:
            first, around = (0, None) if order is not None else self._window(shown)
            shown = shown[first : first + MOST_ROWS]
        held = self.measured.held
        rows = tuple(Layer(layer, held[layer.tensor], layer.node in self.kept) for layer in shown)
        return LayersShown(rows, matching, order, len(self.kept), around)

    def why(self, name: str) -> Explanation:
        """What happens at a node.

        Raises:
            NothingSelectedError: there is no such node or tensor.
        """
        node = self.names.node(name)
        layers = self.measured.layers(self.kept)
        return explain_node(self.subject, self.prognosis, self.effects, node, layers, self.kept)

    def past(self) -> Past:
        """What was tried."""
        ledgers = [ledger for ledger in (self.ledger, self.engines) if ledger is not None]
        earlier = tuple(ledger.earlier for ledger in ledgers if ledger.earlier.evaluations)
        return Past(earlier, tuple(self.tried))

    # --- changing ---------------------------------------------------------------------------------------------------

    def show_kept(self) -> Kept:
        """What is kept in FP32."""
        return Kept(self._ordered(self.kept), self.nodes)

    def keep(self, patterns: Sequence[str]) -> Changed:
        """Keep what matches in FP32.

        Raises:
            NothingSelectedError: a pattern matches nothing that the precision lowers.
        """
        return self._change("kept", self.kept.union(self.names.units_of(patterns, self.subject.precision)))

    def lower(self, patterns: Sequence[str]) -> Changed:
        """Lower what matches again.

        Raises:
            NothingSelectedError: a pattern matches nothing that the precision lowers.
        """
        return self._change(
            "lowered", self.kept.difference(self.names.units_of(patterns, self.subject.precision))
        )

    def undo(self) -> Changed:
        """Take back the last change.

        Raises:
            UsageError: nothing was changed.
        """
        before, self.island = self.kept, self.island.undo()
        return self._changed("undone", before)

    # --- evaluating -------------------------------------------------------------------------------------------------

    def attempt(self, *, engine: bool = False) -> Attempt:
        """Evaluate what is kept, on the emulator or on the unobserved engine.

        Raises:
            UsageError: there is no environment to build in.
            JournalError: another process is writing to the journal.
        """
        if not engine:
            found = try_emulator(self.subject, self.kept, self.ledger)
        elif self.engines is None:
            raise UsageError(
                "there is nowhere to build an engine", hint="start with `harness explore … --env NAME`"
            )
        else:
            found = try_engine(self.lab, self.kept, self.engines)
        self.tried.append(found)
        self.latest = found
        return found

    def bisect(self, patterns: Sequence[str] = ()) -> Narrowed:
        """Find the fewest nodes that pass, and keep them.

        Args:
            patterns: search among what matches, and leave what else is kept as it is. Without, search among what is
                kept if that passes, else among all nodes.

        Raises:
            UsageError: with everything lowered it passes already.
            NothingSelectedError: a pattern matches nothing that the precision lowers.
        """
        if self.start.passed:
            hint = (
                None if self.engines is None else "`harness diagnose … --env` searches on the engine itself"
            )
            raise UsageError("nothing fails on the emulator: there is nothing to bisect", hint=hint)
        started, before = time.perf_counter(), self.subject.bench.emulator.evaluations
        units, fixed = self._searched(patterns)
        bisector = Bisector(self.lab, self.ledger, self.prognosis, self.effects)
        result = bisector.narrow(units, fixed)
        evaluations = self.subject.bench.emulator.evaluations - before
        seconds = time.perf_counter() - started
        attempt = None
        if result.answered or result.verdict is SearchVerdict.NONE:
            attempt = try_emulator(self.subject, fixed.union(result.culprits), self.ledger)
            self.island = self.island.become(attempt.kept)
            self.latest = attempt
        found = Narrowed(
            verdict=result.verdict,
            asked=len(units),
            found=result.culprits,
            fixed=len(fixed),
            minimal=result.minimal,
            evaluations=evaluations,
            seconds=seconds,
            attempt=attempt,
        )
        self.tried.append(found)
        return found

    def _searched(self, patterns: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
        """Among which nodes to search, and which to keep all the while."""
        if patterns:
            units = self.names.units_of(patterns, self.subject.precision)
            return units, self.kept.difference(units)
        if self.kept and try_emulator(self.subject, self.kept, self.ledger).passed:
            return self._ordered(self.kept), frozenset()
        return self.subject.units, frozenset()

    # --- writing ----------------------------------------------------------------------------------------------------

    def plot(self, path: str | None = None) -> Plotted:
        """Draw the growth of the error with what is kept now.

        Raises:
            UsageError: the file is neither a .png nor a .svg, or cannot be written.
        """
        note = f"{plural(len(self.kept), 'node')} in FP32" if self.kept else ""
        return Plotted(draw(self.measured.result(self.kept), self.out, path, note=note))

    def export(self, folder: str | None = None) -> Exported:
        """Write the recipes that keep the nodes in FP32, the list of layers, and a typed model.

        Raises:
            UsageError: nothing is kept, or the folder cannot be written to.
        """
        if not self.kept:
            raise UsageError(
                "nothing is kept in FP32 yet: there is nothing to export", hint="`keep` or `bisect` first"
            )
        attempt = try_emulator(self.subject, self.kept, self.ledger)
        return write_recipes(self.lab, attempt, self.out if folder is None else typed_path(folder))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _change(self, verb: str, kept: frozenset[str]) -> Changed:
        before = self.kept
        self.island = self.island.become(kept)
        return self._changed(verb, before)

    def _changed(self, verb: str, before: frozenset[str]) -> Changed:
        return Changed(
            verb=verb,
            added=self._ordered(self.kept - before),
            removed=self._ordered(before - self.kept),
            kept=self._ordered(self.kept),
            nodes=self.nodes,
            known=self.known(),
        )

    def _ordered(self, nodes: frozenset[str]) -> tuple[str, ...]:
        return tuple(name for name in self.subject.units if name in nodes)

    def _suggested(self, origins: Sequence[LayerResult]) -> str:
        """The block of the first origin as a glob; the node itself where there are no blocks."""
        if not origins:
            return ""
        node = origins[0].node
        return next((glob for glob, block in self.names.patterns.items() if node in block), node)

    def _window(self, layers: Sequence[LayerResult]) -> tuple[int, str]:
        """Where the rows begin so that they show the first origin, else what is kept, and around which node."""
        origin = next((place for place, layer in enumerate(layers) if layer.origin), None)
        kept = next((place for place, layer in enumerate(layers) if layer.node in self.kept), None)
        place = origin if origin is not None else kept if kept is not None else len(layers) - 1
        first = min(max(place - MOST_ROWS // 3, 0), max(len(layers) - MOST_ROWS, 0))
        return first, layers[place].node


def _key(layer: LayerResult, order: Order) -> float:
    if order is Order.HEADROOM:
        return layer.metrics.headroom
    if order is Order.ACCUMULATED:
        return layer.metrics.error
    return -1.0 if layer.introduced is None else layer.introduced.error
