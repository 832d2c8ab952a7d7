"""Islands held by Casts in the graph, for engines that compile a whole region and obey nothing inside of it.

Measured on an H200 with TensorRT 8.6.0, where a whole attention model is one such layer: two nodes in FP32 change
nothing, with Casts around them or without; precisions that are asked for inside a pinned region cannot be built; the
whole attention block in FP32, between Casts, builds and cures, and the rest still computes in FP16. So contiguous
parts are tried, from the smallest to the largest, and what cures is cut from both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from harness.diagnosis.context import CureSearch, Evaluator
from harness.diagnosis.results import CANDIDATE, Evidence, EvidenceKind
from harness.diagnosis.stages.search import key_of
from harness.search import Outcome, Trial

PHASE = "casts"
MOST_CASTS = 4
"""After so many islands nothing more is left out of one that cures: with the failing engine and the observed one they
are six builds at most."""
Nodes = tuple[str, ...]


def cure_with_casts(
    evaluator: Evaluator,
    core: Collection[str],
    parts: Sequence[frozenset[str]],
    on_build: Callable[[int], None] = lambda count: None,
    most: int | None = None,
) -> CureSearch:
    """The smallest contiguous island around `core`, held by Casts, that cures; not `found` where none does.

    Args:
        evaluator: of a subject whose candidate is an engine.
        core: what every island keeps: where the error starts. Without it an engine may pass by luck, since TensorRT
            need not round what the graph rounds.
        parts: sets of nodes to try; the first that passes is cut down.
        on_build: gets the number of nodes that are built with next.
        most: after how many islands, each built or known to pass, nothing more is left out of what cures; None: until
            nothing more can.

    Raises:
        BudgetExhaustedError: the budget is spent.
    """
    subject = evaluator.subject
    log: list[str] = []
    known: dict[Nodes, bool] = {}

    def spent() -> bool:
        return most is not None and len(known) >= most

    def passes(island: Nodes) -> bool:
        if island in known:
            return known[island]
        on_build(len(island))
        plan = subject.plan(island, casts=True)
        trial = evaluator.evaluate(plan, phase=PHASE, key=key_of(plan), thorough=True).trial
        log.append(f"{_described(island)}: {_said(trial)}")
        known[island] = trial.outcome is Outcome.PASS
        return known[island]

    for part in parts:
        island = subject.ordered(part.union(core))
        places = [place for place, unit in enumerate(island) if unit in core] or [len(island) - 1]
        before, behind = min(places), len(island) - 1 - max(places)
        # The smaller one of the first step is asked for at once: where it passes, so does the whole.
        if before and passes(island[(before + 1) // 2 :]):
            known[island] = True
        if passes(island):
            island = _cut(island, before, passes, lambda kept, cut: kept[cut:], spent)
            island = _cut(island, behind, passes, lambda kept, cut: kept[: len(kept) - cut], spent)
            count = len(island)
            text = f"with {count} nodes in FP32, between Casts in the graph, the unobserved engine passes"
            shown = Evidence.of(EvidenceKind.CASTS, text, log=log, casts=True)
            return CureSearch(island, CANDIDATE, casts=True, evidence=(shown,))
    text = "Casts around the island in the graph do not cure the engine"
    return CureSearch(evidence=(Evidence.of(EvidenceKind.CASTS, text, log=log, casts=True),))


def _cut(
    island: Nodes,
    most: int,
    passes: Callable[[Nodes], bool],
    without: Callable[[Nodes, int], Nodes],
    spent: Callable[[], bool],
) -> Nodes:
    """`island` without as many nodes at one end as can be left out, at most `most`, by bisection while builds are left.

    It assumes that an island which is too small stays so when it gets smaller; what it returns was seen to pass.
    """
    low, high = 0, most + 1
    while high - low > 1 and not spent():
        middle = (low + high) // 2
        low, high = (middle, high) if passes(without(island, middle)) else (low, middle)
    return without(island, low)


def _described(island: Sequence[str]) -> str:
    return ", ".join(island) if len(island) <= 4 else f"{len(island)} nodes ({island[0]} … {island[-1]})"


def _said(trial: Trial) -> str:
    return f"{trial.outcome} ({trial.note})" if trial.note else str(trial.outcome)
