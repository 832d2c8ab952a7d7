"""`diagnose` and `diagnose_model`: from a case, or from a model with inputs, to a Diagnosis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends import Candidate, Observation
from harness.case import BuildOptions, Case, Tolerance
from harness.diagnosis.context import (
    JOURNAL,
    EngineFor,
    Lab,
    Limits,
    Notebook,
    Progress,
    Subject,
    islands_of,
    journal_folder,
    make_bench,
)
from harness.diagnosis.explain import advise, summarise
from harness.diagnosis.handover import HandedOver, hand_over
from harness.diagnosis.on_emulator import examine_on_emulator
from harness.diagnosis.on_engine import examine_on_engine
from harness.diagnosis.results import Diagnosis, Evidence, Origin, Stage, Verdict
from harness.diagnosis.stages import Findings, Gates, check_gates, emulate, explain_reference
from harness.diagnosis.target import one_case, precision_of
from harness.errors import BudgetExhaustedError, NothingSelectedError, UnsoundReferenceError, UsageError
from harness.judge import (
    EMULATOR,
    Judge,
    JudgeOptions,
    LayerResult,
    OutputResult,
    RunResult,
    Workbench,
    check_names,
    describe_failure,
    measure_layers,
    nothing_to_round,
    without_origins,
)
from harness.judge import Verdict as RunVerdict
from harness.model import Model
from harness.tensors import Precision, write_text

DEFAULT_BUILDS = 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to diagnose.

    Args:
        prove: on an engine, spend a build a culprit on the proof that it is needed. Without it the emulator's
            proof stands in, where the emulator explains the fault.
        growth: measure every layer, before and with the culprits in FP32, for the table and the picture of how the
            error grows. What was observed of an engine is there in any case.
        timed: measure what the island costs in latency, on an engine that can be timed.
    """

    prove: bool = False
    growth: bool = False
    timed: bool = True


def diagnose(
    target: Case | Path | str,
    *,
    precision: Precision | str | None = None,
    environment: str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    max_builds: int | None = None,
    max_seconds: float | None = None,
    resume: bool = False,
    journal: Path | str | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    options: Options | None = None,
    judge: Judge | None = None,
) -> Diagnosis:
    """Say what is wrong with a case at a precision, where it starts, and what cures it.

    Args:
        target: a case, a case file, or an .onnx file.
        precision: the precision under test; by default the only one of the case beside fp32, or fp16.
        environment: name of an environment of harness.toml; None is the emulator.
        inputs: shapes for the inputs of an .onnx file.
        max_builds: how many engines may be built, those of a resumed diagnosis included; None: 64.
        max_seconds: how long this process may take; what a resumed diagnosis took is not counted.
        resume: go on with the journal of an earlier diagnosis.
        journal: folder of the journals; by default `out`/journal, else a folder in `.harness/diagnosis`.
        out: folder for recipes, the typed model and the repro.
        progress: told of every step.
        options: how to diagnose.
        judge: use its workers and workbench, and leave it open, instead of making one.

    Raises:
        UsageError: the target is not one case, or a limit makes no sense.
        NothingSelectedError: a package that the case requires is missing, or the precision rounds nothing.
        ModelError, InputDataError, CaseFileError: the case cannot be run.
        CandidateError: the engine that fails cannot be built or run.
        JournalError: the journal belongs to another diagnosis, or is in use.
    """
    asked = None if precision is None else Precision(precision)
    case = one_case(target, inputs, asked, purpose="a diagnosis")
    chosen = precision_of(case, asked)
    limits = Limits(DEFAULT_BUILDS if max_builds is None else max_builds, max_seconds)
    with _judging(judge) as own:
        bench = own.bench(case)
        if missing := bench.missing_packages():
            raise NothingSelectedError(f"needs {', '.join(missing)}, which is not installed", where=case.name)
        check_names(case, bench.model)
        candidate = own.candidates.get(environment or EMULATOR, bench)
        nothing = nothing_to_round(bench.model, chosen) if candidate is bench.emulator else None
        if nothing and not _overflows_itself(bench):
            raise NothingSelectedError(nothing, where=case.name)
        _start_ahead(candidate)
        with suppress(UnsoundReferenceError):  # the first stage says so
            _ = bench.expected  # while the worker starts
        subject = Subject(bench, chosen, candidate, _engine_factory(candidate))
        folder = Path(journal) if journal is not None else None
        if folder is None:
            folder = Path(out) / JOURNAL if out is not None else journal_folder(subject)
        notebook = Notebook(folder, subject, resume=resume)
        lab = Lab(subject, limits, notebook, progress)
        with _untimed(candidate):
            return _diagnose(lab, options or Options(), None if out is None else Path(out))


def diagnose_model(
    model: Model,
    feeds: Sequence[Mapping[str, np.ndarray]],
    precision: Precision,
    *,
    candidate: Candidate | None = None,
    engine_for: EngineFor | None = None,
    tolerances: Sequence[Tolerance] = (),
    build: BuildOptions | None = None,
    limits: Limits | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    options: Options | None = None,
) -> Diagnosis:
    """Diagnose a model that is at hand, without a case file; nothing is written but to `out`.

    Args:
        model: the model.
        feeds: inputs by name, sample by sample.
        precision: the precision under test.
        candidate: an engine of the model; None is the emulator.
        engine_for: makes such engines for parts of the model.
        tolerances: gates in place of the default ones.
        build: options of the builder.
        limits: what may be spent.
        out: folder for recipes, the typed model and the repro.
        progress: told of every step.
        options: how to diagnose.
    """
    if not feeds:
        raise UsageError("there are no inputs to diagnose with", hint="give at least one sample")
    bench = make_bench(model, feeds, tolerances=tolerances, build=build)
    try:
        subject = Subject(bench, precision, candidate or bench.emulator, engine_for)
        return _diagnose(Lab(subject, limits or Limits(), progress=progress), options or Options(), out)
    finally:
        bench.close()


@contextmanager
def _judging(judge: Judge | None) -> Iterator[Judge]:
    if judge is not None:
        yield judge
        return
    with Judge(JudgeOptions()) as own:
        yield own


@contextmanager
def _untimed(candidate: Candidate) -> Iterator[None]:
    """Engines are not timed on the way: only the two whose latency is asked for are, at the end."""
    timed: Any = candidate
    if not hasattr(timed, "timing"):
        yield
        return
    from harness.backends import Timing

    before, timed.timing = timed.timing, Timing()
    try:
        yield
    finally:
        timed.timing = before


def _overflows_itself(bench: Workbench) -> bool:
    """Whether the model's own float16 or bfloat16 overflows, which is a fault at any precision."""
    if not bench.model.own_tensors:
        return False
    try:
        return bool(bench.own_roundings.overflows)
    except UnsoundReferenceError:
        return True


def _start_ahead(candidate: Candidate) -> None:
    supervisor = getattr(candidate, "supervisor", None)
    if supervisor is not None:
        supervisor.start_ahead()


def _engine_factory(candidate: Candidate) -> Callable[[Model], Candidate] | None:
    """Engines for parts of the model in the environment of `candidate`; None for the emulator."""
    supervisor = getattr(candidate, "supervisor", None)
    if supervisor is None:
        return None
    from harness.backends import TensorRTCandidate

    return lambda model: TensorRTCandidate(supervisor.environment, model, supervisor=supervisor)


def _diagnose(lab: Lab, options: Options, out: Path | None) -> Diagnosis:
    lab.tell(Stage.GATES, "run the reference and the unobserved candidate")
    try:
        gates = check_gates(lab.examiner)
    except BudgetExhaustedError as error:
        stopped = Evidence(Stage.GATES, f"stopped: {error.message}")
        gates = Gates(Verdict.UNRESOLVED, evidence=(stopped,))
    if gates.verdict is Verdict.REFERENCE:
        found = explain_reference(lab.subject, gates)
    elif gates.verdict is not None:
        found = Findings(gates.verdict, gates.evidence)
    elif lab.subject.emulated:
        found = examine_on_emulator(lab, gates)
    else:
        found = examine_on_engine(lab, gates, prove=options.prove, timed=options.timed)
    summary = summarise(lab, found)
    handed = hand_over(lab, found, summary, out)
    diagnosis = _put_together(lab, gates, found, summary, handed, options)
    if out is not None:
        write_text(out / "diagnosis.json", document(diagnosis) + "\n")
    return diagnosis


def document(diagnosis: Diagnosis) -> str:
    """The JSON document of schema `harness.diagnosis/1`."""
    return json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def _put_together(
    lab: Lab, gates: Gates, found: Findings, summary: str, handed: HandedOver, options: Options
) -> Diagnosis:
    subject = lab.subject
    case = subject.bench.case
    after = _after(lab, found, growth=options.growth)
    evidence: tuple[Evidence, ...] = (*found.evidence, *handed.evidence)
    return Diagnosis(
        case=case.name,
        precision=subject.precision,
        candidate=subject.candidate.name,
        verdict=found.verdict,
        summary=summary,
        origins=found.origins,
        culprits=found.culprits,
        confirmed=found.confirmed,
        minimal=found.minimal_on == "candidate",
        minimal_on=found.minimal_on,
        faithful=found.faithful,
        islands=islands_of(subject.model, found.island),
        separations=found.separations,
        cost=lab.cost,
        evidence=evidence,
        advice=advise(lab, found, dict(handed.recipes), written=handed.written),
        recipes=handed.recipes,
        price=found.price,
        repro=handed.repro,
        before=_before(lab, gates, found, growth=options.growth),
        after=after,
        case_path=None if case.path is None else str(case.path),
        journal=None if lab.notebook is None else str(lab.notebook.folder),
        fingerprint=subject.fingerprint,
        casts=found.casts,
        cured=_cured(lab, found),
        beside=gates.beside,
        own_types=bool(gates.own_overflows),
    )


def _cured(lab: Lab, found: Findings) -> tuple[OutputResult, ...]:
    """The outputs of the engine that was seen to pass with the island."""
    subject = lab.subject
    if subject.emulated or not found.island or not found.confirmed:
        return ()
    return lab.examiner.passed.get(subject.plan(frozenset(found.island), casts=found.casts), ())


def _before(lab: Lab, gates: Gates, found: Findings, *, growth: bool) -> RunResult | None:
    if gates.baseline is None:
        return None
    layers = found.layers
    if growth and not layers and found.prognosis is not None:
        lab.tell(Stage.HAND_OVER, "measure the layers")
        layers = found.prognosis.layers
    passed = gates.baseline.passed
    return RunResult(
        case=lab.subject.bench.case.name,
        precision=lab.subject.precision,
        candidate=lab.subject.candidate.name,
        verdict=RunVerdict.PASS if passed else RunVerdict.FAIL,
        reason="all gates hold" if passed else describe_failure(gates.baseline.outputs),
        outputs=gates.outputs,
        layers=_pointing(layers, found.origins),
        faithful=found.faithful,
        warnings=lab.subject.bench.own_roundings.warnings,
    )


def _pointing(layers: tuple[LayerResult, ...], origins: tuple[Origin, ...]) -> tuple[LayerResult, ...]:
    """`layers` with the origins of the diagnosis, which need not be where a gate first fails; as they are where none of
    those was observed."""
    starts = {origin.node for origin in origins}
    if starts.isdisjoint(layer.node for layer in layers):
        return layers
    return tuple(replace(layer, origin=layer.node in starts) for layer in layers)


def _after(lab: Lab, found: Findings, *, growth: bool) -> RunResult | None:
    """The emulator with the island in FP32, layer by layer if that is asked for."""
    subject = lab.emulated
    if not found.island or not found.confirmed:
        return None
    outputs, trial = emulate(subject, frozenset(found.island))
    layers: tuple[LayerResult, ...] = ()
    if growth:
        lab.tell(Stage.HAND_OVER, "measure the layers again, cured")
        plan = subject.plan(frozenset(found.island), observation=Observation.TYPED)
        measured, _ = measure_layers(subject.bench, subject.candidate, plan, subject.bench.case.tolerances)
        # What the island would introduce if it were lowered does not belong into the picture of the cure.
        layers = tuple(
            replace(layer, introduced=None) if layer.node in found.island else layer for layer in measured
        )
    passed = trial.outcome == "pass"
    return RunResult(
        case=subject.bench.case.name,
        precision=subject.precision,
        candidate=EMULATOR,
        verdict=RunVerdict.PASS if passed else RunVerdict.FAIL,
        reason="all gates hold" if passed else describe_failure(outputs),
        outputs=outputs,
        layers=without_origins(layers) if passed else layers,
    )
