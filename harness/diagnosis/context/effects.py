"""The effect of each node on the outputs when it is lowered alone, on the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from harness.diagnosis.context.journal import DiagnosisJournal
from harness.diagnosis.context.subject import Subject, badness
from harness.model import EXACT

MOST_RUNS = 256
"""With more nodes than this, neighbours are lowered together first, and apart only where that matters."""

MATTERS = 0.5
"""A group of nodes is taken apart when its effect is beyond this many limits."""

LARGE = 2048
"""In models of more nodes no answer is worth a run for each: few groups are lowered, whatever they do."""

GROUPS, HALVINGS = 12, 8
"""How many groups of a large model are lowered, and how often one that fails alone is halved."""


class Effects:
    """Measures and remembers effects, in multiples of the limit of the worst gate: beyond 1 a node fails alone.

    Args:
        subject: the model; its emulator is used, whatever the candidate is.
        sample: the sample that fails.
        journal: keeps what was measured.
        on_run: called after each run.
    """

    def __init__(
        self,
        subject: Subject,
        sample: int,
        journal: DiagnosisJournal | None = None,
        on_run: Callable[[], None] | None = None,
    ) -> None:
        self._subject = subject
        self._sample = sample
        self._journal = journal or DiagnosisJournal()
        self._on_run = on_run or (lambda: None)
        self._known: dict[frozenset[str], float] = {}

    @property
    def known(self) -> dict[str, float]:
        """What was measured of single nodes so far."""
        return {next(iter(nodes)): effect for nodes, effect in self._known.items() if len(nodes) == 1}

    def _key(self, lowered: frozenset[str]) -> str:
        return f"effect {self._sample} {' '.join(sorted(lowered))}"

    def _is_known(self, lowered: frozenset[str]) -> bool:
        return lowered in self._known or self._journal.recall(self._key(lowered), float) is not None

    def of(self, nodes: Iterable[str]) -> float:
        """The effect of lowering `nodes` and nothing else."""
        lowered = frozenset(nodes)
        if lowered not in self._known:
            key = self._key(lowered)
            found = self._journal.recall(key, float)
            self._known[lowered] = self._measure(lowered) if found is None else found
            if found is None:
                self._journal.keep(key, self._known[lowered], sync=False)
        return self._known[lowered]

    def _measure(self, lowered: frozenset[str]) -> float:
        bench, plan = self._subject.bench, self._subject.plan()
        feeds, nothing_else = bench.feeds[self._sample], lowered | {EXACT}
        found = bench.emulator.attempt(feeds, plan.precision, lowered=nothing_else)
        self._on_run()
        return badness(self._subject.judge(found, self._sample, plan, as_emulator=True))

    def each(self, nodes: Sequence[str]) -> dict[str, float]:
        """The effect of each of `nodes` alone: one run a node."""
        bench = self._subject.bench
        left = [node for node in nodes if not self._is_known(frozenset([node]))]
        bench.emulator.run_ahead(
            bench.feeds[self._sample], self._subject.precision, ([node, EXACT] for node in left)
        )
        return {node: self.of([node]) for node in nodes}

    def scores(self, units: Sequence[str], introduced: dict[str, float]) -> dict[str, float]:
        """An estimate for every unit: measured alone where there are few, or where its neighbourhood matters.

        Args:
            units: names of nodes, in topological order.
            introduced: by node, the nrmse that it introduces: shares the effect of a group out among its nodes.
        """
        if len(units) > LARGE:
            return self._coarse(units, introduced)
        size = -(-len(units) // MOST_RUNS)
        if size <= 1:
            return self.each(units)
        groups = [units[start : start + size] for start in range(0, len(units), size)]
        scores: dict[str, float] = {}
        for group in groups:
            effect = self.of(group)
            scores |= self.each(group) if effect > MATTERS else _shared_out(group, effect, introduced)
        return scores

    def _coarse(self, units: Sequence[str], introduced: dict[str, float]) -> dict[str, float]:
        """The same of a large model, in GROUPS + 2 · HALVINGS runs at most."""
        size = -(-len(units) // GROUPS)
        groups = {tuple(units[start : start + size]): 0.0 for start in range(0, len(units), size)}
        groups = {group: self.of(group) for group in groups}
        for _ in range(HALVINGS):
            worst = max(groups, key=groups.__getitem__)
            if groups[worst] <= 1.0 or len(worst) == 1:
                break
            del groups[worst]
            middle = len(worst) // 2
            groups |= {half: self.of(half) for half in (worst[:middle], worst[middle:])}
        scores: dict[str, float] = {}
        for group, effect in groups.items():
            scores |= _shared_out(group, effect, introduced)
        return {unit: scores[unit] for unit in units}


def _shared_out(group: Sequence[str], effect: float, introduced: dict[str, float]) -> dict[str, float]:
    """Independent errors add up by their squares: each node gets its share of the group's."""
    weights = {node: min(introduced.get(node, 0.0), 1e6) ** 2 for node in group}
    total = sum(weights.values())
    return {
        node: effect * ((weights[node] / total) ** 0.5 if total else len(group) ** -0.5) for node in group
    }
