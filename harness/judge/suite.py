"""The matrix: cases × candidates × precisions, to one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.case import Case, InputSpec, ModelSource, RunSpec, load_cases, one_or_more
from harness.errors import NothingSelectedError, UsageError
from harness.judge.candidates import EMULATOR
from harness.judge.judge import Judge, JudgeOptions
from harness.judge.lanes import Progress, Run, carry_out
from harness.judge.names import check_names_of
from harness.judge.results import MadeWith, RunReport, RunResult
from harness.tensors import Precision, host_fingerprint
from harness.text import sentence, suggestion

MODEL_RUNS = (Precision.FP32, Precision.FP16)
Target = Path | str | Case


def run(
    targets: Sequence[Target] | Target,
    *,
    precisions: Sequence[Precision | str] | Precision | str = (),
    environments: Sequence[str] | str = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] | str = (),
    options: JudgeOptions | None = None,
    progress: Progress | None = None,
    judge: Judge | None = None,
) -> RunReport:
    """Judge every case at every precision on every candidate; environments on different GPUs at the same time.

    A single target, precision, environment or tag need not be in a list.

    Args:
        targets: case files, folders of them, .onnx files, or cases.
        precisions: only these; by default those that each case asks for.
        environments: names from harness.toml; by default the emulator.
        inputs: shapes for the inputs of .onnx files.
        tags: only cases with one of these tags.
        options: how to judge.
        progress: called at every step.
        judge: use this judge, and leave it open, instead of making one.

    Raises:
        CaseFileError: case files hold mistakes, or name what their models do not have; nothing was run.
        EnvironmentConfigError: an environment is not in harness.toml.
        NothingSelectedError: the selection is empty.
    """
    wanted = tuple(Precision(precision) for precision in one_or_more(precisions))
    environments = one_or_more(environments)
    cases = select_cases(targets, inputs=inputs, tags=tags, precisions=wanted)
    runs = [
        Run(case, candidate, spec)
        for case in cases
        for candidate in (environments or (EMULATOR,))
        for spec in case.select_runs(wanted)
    ]
    if not runs:
        raise nothing_at(wanted, cases)
    own = judge or Judge(options)
    try:
        own.candidates.check(environments)
        check_names_of(cases, own.bench)
        results = carry_out(own, runs, progress or (lambda event: None))
    finally:
        if judge is None:
            own.close()
    return RunReport(fingerprint=fingerprint_of(results), results=results)


def fingerprint_of(results: Sequence[RunResult]) -> MadeWith:
    """What the numbers were made with: this host, and by name the environments that took part."""
    engines = {
        result.candidate: asdict(result.engine.fingerprint)
        for result in results
        if result.engine is not None and result.engine.fingerprint is not None
    }
    return {**host_fingerprint(), **({"environments": engines} if engines else {})}


def select_cases(
    targets: Sequence[Target] | Target,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] | str = (),
    precisions: Sequence[Precision] = (),
) -> list[Case]:
    """The cases that `targets` (one or several) stand for, in order.

    Raises:
        CaseFileError: case files hold mistakes; all of them are named.
        NothingSelectedError: a folder holds no case, or no case has one of `tags`.
        UsageError: `inputs` were given, but no .onnx file.
    """
    listed = [targets] if isinstance(targets, (str, Path, Case)) else list(targets)
    tags = one_or_more(tags)
    files = [Path(target) for target in listed if not isinstance(target, Case)]
    models = [path for path in files if path.suffix == ".onnx"]
    if inputs and not models:
        raise UsageError("`--input` gives shapes to an .onnx file; a case file has its own inputs")
    cases = [target for target in listed if isinstance(target, Case)]
    cases += (
        load_cases([path for path in files if path.suffix != ".onnx"]) if len(models) < len(files) else []
    )
    cases += [case_of_model(path, inputs or {}, precisions) for path in models]
    chosen = [case for case in cases if not tags or set(tags) & set(case.tags)]
    if not chosen:
        if not cases:
            raise NothingSelectedError("no case file there", hint="case files end in .case.yaml")
        known = sorted({tag for case in cases for tag in case.tags})
        near = next(filter(None, (suggestion(tag, known) for tag in tags)), None)
        hint = f"the tags are {', '.join(known)}" if known else "no case has any tag"
        hint = hint if near is None else f"{near} {sentence(hint)}"
        raise NothingSelectedError(f"no case has the tag {' or '.join(tags)}", hint=hint)
    return chosen


def nothing_at(precisions: Sequence[Precision], cases: Sequence[Case]) -> NothingSelectedError:
    """The error that says that none of `cases` runs at one of `precisions`, and at which ones they run."""
    present = {spec.precision for case in cases for spec in case.runs}
    known = ", ".join(precision for precision in Precision if precision in present)
    return NothingSelectedError(
        f"no case asks for {' or '.join(precisions)}",
        hint=f"{'the case has' if len(cases) == 1 else 'the cases have'} runs at {known}",
    )


def case_of_model(
    path: Path, inputs: Mapping[str, Sequence[int]], precisions: Sequence[Precision] = ()
) -> Case:
    """A case for a bare .onnx file: seeded inputs, default gates, FP32 and FP16 unless `precisions` says else."""
    return Case(
        name=path.stem,
        model=ModelSource(path=str(path)),
        inputs={name: InputSpec(shape=tuple(shape)) for name, shape in inputs.items()},
        runs=tuple(RunSpec(precision=precision) for precision in precisions or MODEL_RUNS),
    )
