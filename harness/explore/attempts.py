"""Evaluating one configuration, on the emulator or on an engine, to something that a person can read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from harness.comparison import GateResult
from harness.diagnosis import BASELINE, Lab, Stage, Subject, badness, confirm, emulate, island_key
from harness.diagnosis import PHASE as GATES
from harness.explore.answers import Attempt
from harness.explore.ledger import Ledger
from harness.judge import OutputResult
from harness.search import Trial


def try_emulator(subject: Subject, kept: frozenset[str], ledger: Ledger | None = None) -> Attempt:
    """Emulate all samples with `kept` in FP32, and write it to `ledger`.

    Args:
        subject: the model on the emulator.
        kept: names of the nodes in FP32.
        ledger: where it is written; None writes nothing.
    """
    started = time.perf_counter()
    outputs, trial = emulate(subject, kept)
    trial = replace(trial, seconds=time.perf_counter() - started)
    if ledger is not None:
        ledger.record(kept, trial)
    return as_attempt(subject, kept, outputs, trial)


def try_engine(lab: Lab, kept: frozenset[str], ledger: Ledger) -> Attempt:
    """Build the unobserved engine with `kept` in FP32 and judge all samples, or recall that it was done.

    It is kept in the notebook as a diagnosis keeps its own steps: with nothing in FP32 it is the baseline.
    """
    examiner, notebook = lab.examiner, ledger.notebook
    key = island_key(tuple(kept)) if kept else BASELINE
    remembered = notebook.recall(key) is not None
    lab.tell(Stage.CURE, f"build with {len(kept)} nodes in FP32")
    if kept:
        found = confirm(examiner, tuple(kept))
    else:
        found = examiner.examine(lab.subject.plan(), phase=GATES, key=BASELINE, thorough=True)
    ledger.record(kept, found.trial)
    attempt = as_attempt(lab.subject, kept, found.outputs, found.trial)
    return replace(attempt, remembered=remembered, evidence=found.evidence)


def as_attempt(
    subject: Subject, kept: frozenset[str], outputs: Sequence[OutputResult], trial: Trial
) -> Attempt:
    """What an evaluation of `subject` with `kept` in FP32 came to."""
    output, gate = _worst(outputs)
    return Attempt(
        candidate=subject.candidate.name,
        kept=tuple(name for name in subject.units if name in kept),
        nodes=len(subject.units),
        outcome=trial.outcome,
        output=output,
        gate=gate,
        outputs=len({each.tensor for each in outputs}),
        badness=trial.badness,
        seconds=trial.seconds or 0.0,
        note=trial.note,
    )


def _worst(outputs: Sequence[OutputResult]) -> tuple[OutputResult | None, GateResult | None]:
    """The gate that is furthest beyond its limit, or nearest to it."""
    pairs = [(output, gate) for output in outputs for gate in output.gates]
    return max(pairs, key=lambda pair: badness([replace(pair[0], gates=(pair[1],))]), default=(None, None))
