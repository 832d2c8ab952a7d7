"""What harness says of a model, held against what must be said."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.verdicts.models import build
from benchmarks.verdicts.truth import Spec, Subject
from harness.diagnosis import Diagnosis, diagnose
from harness.judge import Cause, Given, RunResult, Verdict, compare, run
from harness.model import load_model, save_model, with_islands
from harness.tensors import Precision

FRESH = range(101, 106)
"""Seeds of inputs that no diagnosis has seen."""


@dataclass(frozen=True)
class Score:
    """One model.

    Args:
        name: of the specification.
        group: what is hard about it.
        planted: False for a clean twin.
        run: what a run said; right if it ends so.
        diagnosis: what a diagnosis said.
        right: whether both are right.
        reasons: how many faults there are to name.
        named: how many were.
        held: on how many fresh seeds the cure holds; None where there is none to try.
        fitted: whether the diagnosis says that its island does not hold on every input.
        told: what else was said and is no fault.
        seconds: of the run and the diagnosis.
        error: what was raised, if anything.
    """

    name: str
    group: str
    planted: bool
    run: str = "error"
    diagnosis: str = "error"
    right: bool = False
    reasons: int = 0
    named: int = 0
    held: int | None = None
    fitted: bool = False
    told: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def cured(self) -> bool:
        """Whether the cure holds, or is said to be fitted."""
        return self.held is None or self.held == len(FRESH) or self.fitted


def score(spec: Spec) -> Score:
    """Judge and diagnose one model, as a user would."""
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    try:
        subject = build(spec)
        path = folder / "model.onnx"
        onnx.save(subject.model, path)
        (result,) = run(path, precisions=Precision.FP16).results
        if result.verdict is Verdict.ERROR:
            raise RuntimeError(result.reason)
        found = diagnose(path, precision=Precision.FP16, journal=folder / "journal")
        seconds = time.perf_counter() - started
        return _held_against(subject, result, found, path, seconds)
    except Exception as error:
        seconds = time.perf_counter() - started
        return Score(
            spec.name, spec.group, spec.planted, seconds=seconds, error=f"{type(error).__name__}: {error}"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _held_against(subject: Subject, result: RunResult, found: Diagnosis, path: Path, seconds: float) -> Score:
    spec = subject.spec
    said = "file" if result.cause is Cause.FILE else str(result.verdict)
    # A choice among near ties is no fault: neither a run nor a diagnosis may call it one.
    right = said == subject.run and str(found.verdict) == subject.diagnosis and subject.says in result.reason
    origins = {origin.node for origin in found.origins}
    listed = {fault.node for fault in found.hidden} & {
        fault.node for fault in (*result.hidden, *found.hidden)
    }
    chosen = {each.node for each in result.selections} & {each.node for each in found.selections}
    named = sum(bool(nodes & origins) for nodes in subject.starts)
    named += sum(bool(nodes & listed) for nodes in subject.hidden) + len(subject.chooses & chosen)
    known = frozenset().union(*subject.starts, *subject.hidden, subject.chooses)
    held = None
    if found.culprits and subject.diagnosis == "precision":
        held = _holds(path, frozenset(found.culprits))
    return Score(
        spec.name,
        spec.group,
        spec.planted,
        said,
        str(found.verdict),
        right,
        subject.reasons,
        named,
        held,
        found.fresh_passed < found.fresh_samples,
        tuple(sorted((origins | listed | chosen) - known)),
        seconds,
    )


def _holds(path: Path, island: frozenset[str]) -> int:
    """On how many fresh seeds the typed model with `island` in FP32 passes, the gates of FP16 holding."""
    typed = path.with_name("typed.onnx")
    save_model(with_islands(load_model(path), Precision.FP16, island), typed)
    return sum(
        compare(path, typed, precision=Precision.FP16, given=Given(seed=seed)).results[0].verdict
        is Verdict.PASS
        for seed in FRESH
    )
