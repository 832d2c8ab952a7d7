"""The fewest nodes that pass, searched on the emulator among those that a person named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.diagnosis import (
    CURE_PHASE,
    Effects,
    Examiner,
    Lab,
    Prognosis,
    Searching,
    Stage,
    cure_on_emulator,
    find_groups,
    inherited,
)
from harness.explore.ledger import Ledger
from harness.search import Outcome, Problem, Result, Trial, search


@dataclass(frozen=True)
class Bisector:
    """Searches islands of one session.

    Args:
        lab: who is told what goes on.
        ledger: remembers and keeps every evaluation.
        prognosis: the emulator with everything lowered.
        effects: of nodes lowered alone.
    """

    lab: Lab
    ledger: Ledger
    prognosis: Prognosis
    effects: Effects

    def narrow(self, units: Sequence[str], fixed: frozenset[str]) -> Result:
        """The fewest of `units` that pass together with `fixed`.

        Among all nodes it is the search of a diagnosis. Otherwise every unit is lowered alone, and the ranking is
        searched; each configuration is written to the journal as what it is in the whole model.
        """
        if not fixed and set(units) == set(self.ledger.subject.units) and self.prognosis.fails:
            return self._everywhere()
        examiner = self._examiner()

        def oracle(treated: frozenset[str]) -> Trial:
            kept = fixed | treated
            known = self.ledger.known.get(kept)
            if known is None:
                known = examiner.examine(self.ledger.subject.plan(kept), phase=CURE_PHASE).trial
                self.ledger.record(kept, known)
            return known

        # Where all of them do not help, ranking them would be in vain: the search says so at once.
        helps = oracle(frozenset(units)).outcome is Outcome.PASS
        problem = Problem(
            units=tuple(units),
            groups=find_groups(self.lab.subject.model, units),
            scores=self._scores(units) if helps else None,
        )
        return search(problem, oracle, on_progress=self.lab.watcher("search the island"))

    def _scores(self, units: Sequence[str]) -> dict[str, float]:
        self.lab.tell(Stage.CURE, f"lower {len(units)} nodes one at a time")
        return self.effects.scores(units, inherited(self.lab.subject.model, self.prognosis.introduced, units))

    def _everywhere(self) -> Result:
        searching = Searching(self.ledger.notebook, self.ledger.name, self.lab.watcher("search the island"))
        self.lab.tell(Stage.CURE, "lower suspects one at a time")
        try:
            cure = cure_on_emulator(self._examiner(), self.prognosis, self.effects, searching)
        finally:
            self.ledger.refresh()
        assert cure.result is not None, "cure_on_emulator always searches"
        return cure.result

    def _examiner(self) -> Examiner:
        examiner = self.lab.emulations
        examiner.failing_sample = self.prognosis.failing_sample
        return examiner
