"""The matrix: cases × candidates × precisions, to one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.case import Case, InputSpec, ModelSource, RunSpec, load_cases
from harness.errors import NothingSelectedError, UsageError
from harness.judge.candidates import EMULATOR
from harness.judge.judge import Judge, JudgeOptions
from harness.judge.results import RunReport, RunResult
from harness.tensors.fingerprint import host_fingerprint
from harness.tensors.precision import Precision

MODEL_RUNS = (Precision.FP32, Precision.FP16)
Target = Path | str | Case


@dataclass(frozen=True)
class ProgressEvent:
    """What a progress display needs to know.

    Args:
        kind: `start` and `done` of a run, and `stage` in between.
        index: position of the run, from 0.
        total: how many runs there are.
        case: name of the case.
        precision: the precision under test.
        candidate: `emulator` or an environment.
        stage: what goes on, for `stage`.
        result: the result, for `done`.
    """

    kind: Literal["start", "stage", "done"]
    index: int
    total: int
    case: str
    precision: Precision
    candidate: str
    stage: str = ""
    result: RunResult | None = None


Progress = Callable[[ProgressEvent], None]


def run(
    targets: Sequence[Target] | Target,
    *,
    precisions: Sequence[Precision | str] = (),
    environments: Sequence[str] = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] = (),
    options: JudgeOptions | None = None,
    progress: Progress | None = None,
    judge: Judge | None = None,
) -> RunReport:
    """Judge every case at every precision on every candidate.

    Args:
        targets: case files, folders of them, .onnx files, or cases.
        precisions: only these; by default those that each case asks for.
        environments: names from harness.toml; by default the emulator.
        inputs: shapes for the inputs of .onnx files.
        tags: only cases with one of these tags.
        options: how to judge.
        progress: told of every step.
        judge: use this judge, and leave it open, instead of making one.

    Raises:
        CaseFileError: case files hold mistakes; nothing was run.
        EnvironmentConfigError: an environment is not in harness.toml.
        NothingSelectedError: the selection is empty.
    """
    wanted = tuple(Precision(precision) for precision in precisions)
    cases = select_cases(targets, inputs=inputs, tags=tags, precisions=wanted)
    runs = [
        (case, candidate, spec)
        for case in cases
        for candidate in (environments or (EMULATOR,))
        for spec in case.select_runs(wanted)
    ]
    if not runs:
        raise NothingSelectedError("no case asks for any of these precisions")
    own = judge or Judge(options)
    try:
        own.candidates.check(tuple(environments))
        results = tuple(_results(own, runs, progress or (lambda event: None)))
    finally:
        if judge is None:
            own.close()
    return RunReport(fingerprint=fingerprint_of(results), results=results)


def fingerprint_of(results: Sequence[RunResult]) -> dict[str, object]:
    """What the numbers were made with: this host, and by name the environments that took part."""
    engines = {
        result.candidate: dict(result.facts["fingerprint"])
        for result in results
        if "fingerprint" in result.facts
    }
    return {**host_fingerprint(), **({"environments": engines} if engines else {})}


def _results(
    judge: Judge, runs: Sequence[tuple[Case, str, RunSpec]], progress: Progress
) -> Iterator[RunResult]:
    for index, (case, candidate, spec) in enumerate(runs):

        def tell(
            kind: Literal["start", "stage", "done"], stage: str = "", result: RunResult | None = None
        ) -> None:
            progress(
                ProgressEvent(kind, index, len(runs), case.name, spec.precision, candidate, stage, result)  # noqa: B023
            )

        tell("start")
        start = time.perf_counter()
        result = judge.run(case, spec, candidate, lambda stage: tell("stage", stage))
        result = result.with_timing("total", time.perf_counter() - start)
        tell("done", result=result)
        yield result


def select_cases(
    targets: Sequence[Target] | Target,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
) -> list[Case]:
    """The cases that `targets` stand for, in order.

    Raises:
        CaseFileError: case files hold mistakes; all of them are named.
        NothingSelectedError: a folder holds no case, or no case has one of `tags`.
        UsageError: `inputs` were given, but no .onnx file.
    """
    listed = [targets] if isinstance(targets, (str, Path, Case)) else list(targets)
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
        what = f"no case has the tag {' or '.join(tags)}" if cases else "no case file there"
        raise NothingSelectedError(what, hint="case files end in .case.yaml")
    return chosen


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
