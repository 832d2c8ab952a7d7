"""`diagnose` and `diagnose_model`: from a case, or from a model with inputs, to a Diagnosis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.backends import Candidate, Plan
from harness.case import BuildOptions, Case, Tolerance
from harness.compiler import conversion_warning
from harness.diagnosis.context import (
    ENGINES_OF_A_CURE,
    JOURNAL,
    Conclusion,
    Context,
    DiagnosisBudget,
    DiagnosisJournal,
    DiagnosisOptions,
    DiagnosisProgress,
    EngineFor,
    Seen,
    Subject,
    Unseen,
    choose_case,
    choose_precision,
    in_background,
    islands_of,
    journal_folder,
    locked,
    make_bench,
)
from harness.diagnosis.results import CANDIDATE, Diagnosis, Origin, Stage
from harness.errors import HarnessError, NothingSelectedError, UnsoundReferenceError, UsageError
from harness.judge import (
    EMULATOR,
    Emulation,
    Given,
    Judge,
    JudgeOptions,
    LayerResult,
    MadeWith,
    OutputResult,
    RunReason,
    RunResult,
    Selection,
    Verdict,
    Workbench,
    check_names,
    nothing_to_round,
    over_samples,
    without_origins,
)
from harness.model import Model
from harness.tensors import Accumulate, Precision, write_text

DEFAULT_BUILDS = 64
SHORTLY = 0.2
"""Seconds: more than the graph of the first engine takes to write, which is what its worker waits for."""


def diagnose(
    target: Case | Path | str,
    *,
    precision: Precision | str | None = None,
    environment: str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    given: Given | None = None,
    kernels: str | None = None,
    accumulate: Accumulate | None = None,
    max_builds: int | None = None,
    max_seconds: float | None = None,
    resume: bool = False,
    journal: Path | str | None = None,
    out: Path | str | None = None,
    progress: DiagnosisProgress | None = None,
    options: DiagnosisOptions | None = None,
    judge: Judge | None = None,
    idle: Callable[[], None] = lambda: None,
) -> Diagnosis:
    """Say what is wrong with a case at a precision, where it starts, and what cures it.

    Args:
        target: a case, a case file, or an .onnx file.
        precision: the precision under test; by default the only one of the case beside fp32, or fp16.
        environment: name of an environment of harness.toml; None is the emulator.
        inputs: shapes for the inputs of an .onnx file.
        given: its data, samples and seed, and another reference than the model itself.
        kernels: the environment whose kernels the emulator assumes, or `none`: see JudgeOptions.
        accumulate: what the emulator adds up products of FP16 in, likewise.
        max_builds: how many engines may be built, those of a resumed diagnosis included; None: 64.
        max_seconds: how long this process may take; what a resumed diagnosis took is not counted.
        resume: go on with the journal of an earlier diagnosis.
        journal: folder of the journals; by default `out`/journal, else a folder in `.harness/diagnosis`.
        out: folder for recipes, the typed model and the repro.
        progress: gets every step.
        options: how to diagnose.
        judge: use its workers and workbench, and leave it open, instead of making one.
        idle: called when no engine is asked for any more, which mostly is while the repro runs.

    Raises:
        UsageError: the target is not one case, or the budget makes no sense.
        NothingSelectedError: a package that the case requires is missing, or the precision rounds nothing.
        ModelError, InputDataError, CaseFileError: the case cannot be run.
        CandidateError: the engine that fails cannot be built or run.
        JournalError: the journal belongs to another diagnosis, or is in use.
    """
    wanted = None if precision is None else Precision(precision)
    case = choose_case(target, inputs, wanted, given=given, purpose="a diagnosis")
    chosen = choose_precision(case, wanted)
    budget = DiagnosisBudget(DEFAULT_BUILDS if max_builds is None else max_builds, max_seconds)
    made = (
        Judge(JudgeOptions(kernels=kernels, accumulate=accumulate)) if judge is None else nullcontext(judge)
    )
    with made as own:
        bench = own.bench(case)
        if missing := bench.missing_packages():
            raise NothingSelectedError(f"needs {', '.join(missing)}, which is not installed", where=case.name)
        own.candidates.start_ahead((environment or EMULATOR,))
        check_names(case, bench.model)
        begun = None if resume else _begin(own, bench, environment or EMULATOR, chosen, budget)
        if begun is not None:
            wait([begun], SHORTLY)  # if its worker is there
        bench.prepare()  # while the worker starts; what is wrong with the reference is reported by the first stage
        if begun is not None:
            wait([begun])  # what went wrong does so again when it is its turn
        own.assume(bench, environment or EMULATOR)
        candidate = own.candidates.get(environment or EMULATOR, bench)
        nothing = nothing_to_round(bench.model, chosen) if candidate is bench.emulator else None
        if nothing and case.reference is None and not _is_ruined(bench):
            raise NothingSelectedError(nothing, where=case.name)
        subject = Subject(bench, chosen, candidate, candidate.engine_for)
        folder = Path(journal) if journal is not None else None
        if folder is None:
            folder = Path(out) / JOURNAL if out is not None else journal_folder(subject)
        with locked(folder):
            kept = DiagnosisJournal(folder, subject, resume=resume)
            context = Context(subject, budget, kept, progress, None if out is None else Path(out), idle)
            return investigate(context, options or DiagnosisOptions())


def diagnose_model(
    model: Model,
    feeds: Sequence[Mapping[str, np.ndarray]],
    precision: Precision,
    *,
    candidate: Candidate | None = None,
    engine_for: EngineFor | None = None,
    tolerances: Sequence[Tolerance] = (),
    build: BuildOptions | None = None,
    budget: DiagnosisBudget | None = None,
    out: Path | None = None,
    progress: DiagnosisProgress | None = None,
    options: DiagnosisOptions | None = None,
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
        budget: what may be spent.
        out: folder for recipes, the typed model and the repro.
        progress: gets every step.
        options: how to diagnose.
    """
    if not feeds:
        raise UsageError("there are no inputs to diagnose with", hint="give at least one sample")
    bench = make_bench(model, feeds, tolerances=tolerances, build=build)
    try:
        subject = Subject(bench, precision, candidate or bench.emulator, engine_for)
        return investigate(
            Context(subject, budget, progress=progress, out=out), options or DiagnosisOptions()
        )
    finally:
        bench.close()


def _begin(
    judge: Judge, bench: Workbench, environment: str, precision: Precision, budget: DiagnosisBudget
) -> Future[bool] | None:
    """Begin the first engine as soon as its worker is there, while the reference is computed."""
    enough = budget.builds is None or budget.builds >= ENGINES_OF_A_CURE
    if environment == EMULATOR or not enough:
        return None
    with suppress(HarnessError):
        feeds = bench.feeds[0]
        candidate = judge.candidates.get(environment, bench)
        plan = Plan(precision, build=bench.case.build)
        return in_background(lambda: candidate.build_ahead(plan, feeds), "first engine")
    return None


def _is_ruined(bench: Workbench) -> bool:
    """Whether roundings of the model's own make its outputs wrong, which is a fault at any precision."""
    if not bench.model.own_tensors and not bench.model.quantized:
        return False
    try:
        return bool(bench.own_roundings.fault)
    except UnsoundReferenceError:
        return True


def investigate(context: Context, options: DiagnosisOptions) -> Diagnosis:
    """Run the stages, and put what they have shown together."""
    from harness.diagnosis.pipeline import run_stages, start  # while the first engine is built

    try:
        seen = run_stages(start(context, options), context)
    finally:
        if context.begun_repro is not None:
            context.begun_repro.close()
    diagnosis = _put_together(context, seen)
    if context.out is not None:
        write_text(context.out / "diagnosis.json", document(diagnosis) + "\n")
    return diagnosis


def document(diagnosis: Diagnosis) -> str:
    """The JSON document of schema `harness.diagnosis/1`."""
    return json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def _put_together(context: Context, seen: Seen) -> Diagnosis:
    from harness.diagnosis.explain import advise

    subject, found, handed = context.subject, seen.conclusion, seen.handover
    assert found is not None
    assert handed is not None
    case, gates = subject.bench.case, seen.gates
    after = _after(context, found, growth=seen.options.growth)
    unseen = seen.unseen or Unseen(0, 0, ())
    return Diagnosis(
        case=case.name,
        precision=subject.precision,
        candidate=subject.candidate.name,
        verdict=found.verdict,
        summary=seen.summary,
        origins=found.origins,
        culprits=found.culprits,
        confirmed=found.confirmed,
        minimal=found.minimal_on == CANDIDATE,
        minimal_on=found.minimal_on,
        faithful=None if seen.observed is None else seen.observed.faithful,
        islands=islands_of(subject.model, found.island),
        separations=found.separations,
        cost=context.cost,
        evidence=seen.evidence,
        advice=advise(context, seen),
        recipes=handed.recipes,
        price=seen.price,
        repro=handed.repro,
        before=_before(context, seen, found),
        after=after,
        case_path=None if case.path is None else str(case.path),
        journal=None if context.journal.folder is None else str(context.journal.folder),
        fingerprint=MadeWith.here([subject.engine]),
        casts=found.casts,
        cured=_cured(context, found),
        beside=() if gates is None else gates.beside,
        shapes=() if gates is None else gates.shapes,
        fresh_samples=unseen.first if unseen.fitted else unseen.samples,
        fresh_passed=unseen.before if unseen.fitted else unseen.passed,
        widened=0 if unseen.fitted else unseen.widened,
        wider=unseen.island if unseen.fitted and unseen.passed == unseen.samples else (),
        hidden=() if seen.hidden is None else seen.hidden.faults,
        hidden_island=() if seen.hidden is None else seen.hidden.island,
        selections=_selections(subject),
        fp32_sums=found.fp32_sums,
        emulation=Emulation(subject.bench.assumed.kernels, subject.bench.assumed.accumulate),
        own_types=gates is not None and gates.own is not None and bool(gates.own.dtypes),
    )


def _selections(subject: Subject) -> tuple[Selection, ...]:
    """What the emulator, under test, chooses otherwise for near ties."""
    if not subject.emulated:
        return ()
    lowered = list(subject.units)
    chosen = [
        subject.bench.choices.known(subject.precision, sample, lowered)
        for sample in range(len(subject.bench.feeds))
    ]
    return over_samples(each for one in chosen if one is not None for each in one.selections)


def _cured(context: Context, found: Conclusion) -> tuple[OutputResult, ...]:
    """The outputs of the engine that was seen to pass with the island."""
    subject = context.subject
    if subject.emulated or not (found.island or found.fp32_sums) or not found.confirmed:
        return ()
    plan = subject.plan(found.island, casts=found.casts, fp32_sums=found.fp32_sums)
    return context.evaluator.passed.get(plan, ())


def _before(context: Context, seen: Seen, found: Conclusion) -> RunResult | None:
    if seen.gates is None or seen.gates.baseline is None:
        return None
    layers = () if seen.prediction is None else seen.failing_layers
    if seen.options.growth and not layers and seen.prediction is not None:
        context.report(Stage.HAND_OVER, "measure the layers")
        layers = seen.prediction.layers
    passed = seen.baseline.passed
    return RunResult(
        case=context.subject.bench.case.name,
        precision=context.subject.precision,
        candidate=context.subject.candidate.name,
        verdict=Verdict.PASS if passed else Verdict.FAIL,
        why=RunReason.of_outputs(seen.baseline.outputs),  # without those that the reference cannot decide
        outputs=seen.gates.outputs,
        layers=_pointing(layers, found.origins),
        faithful=None if seen.observed is None else seen.observed.faithful,
        warnings=tuple(_warnings(context)),
    )


def _warnings(context: Context) -> Iterator[str]:
    """What the file rounds itself, what is known not to convert, and that the reference has the Q/DQ pairs, too."""
    bench = context.subject.bench
    yield from bench.own_roundings.warnings
    if (warning := conversion_warning(bench.model, context.subject.candidate.fingerprint())) is not None:
        yield warning
    if bench.model.quantized and bench.case.reference is None:
        yield "the reference has the Q/DQ pairs of the model, too; what they cost: --reference FLOAT.onnx, or -p int8"


def _pointing(layers: tuple[LayerResult, ...], origins: tuple[Origin, ...]) -> tuple[LayerResult, ...]:
    """`layers` with the origins of the diagnosis, which need not be where a gate first fails; as they are where none of
    those was observed."""
    starts = {origin.node for origin in origins}
    if starts.isdisjoint(layer.node for layer in layers):
        return layers
    return tuple(replace(layer, origin=layer.node in starts) for layer in layers)


def _after(context: Context, found: Conclusion, *, growth: bool) -> RunResult | None:
    """The emulator with the cure, layer by layer if that is asked for."""
    from harness.diagnosis.stages import emulate_cured

    subject = context.emulated
    if not (found.island or found.fp32_sums) or not found.confirmed:
        return None
    cured = subject.plan(found.island, fp32_sums=found.fp32_sums)
    layers: tuple[LayerResult, ...] = ()
    if growth:
        context.report(Stage.HAND_OVER, "measure the layers again, cured")
    outputs, passed, measured = emulate_cured(context, cured, growth=growth)
    if growth:
        # What the island would introduce if it were lowered does not belong into the picture of the cure.
        layers = tuple(
            replace(layer, introduced=None) if layer.node in found.island else layer for layer in measured
        )
    return RunResult(
        case=subject.bench.case.name,
        precision=subject.precision,
        candidate=EMULATOR,
        verdict=Verdict.PASS if passed else Verdict.FAIL,
        why=RunReason.of_outputs(outputs),
        outputs=outputs,
        layers=without_origins(layers) if passed else layers,
    )
