"""The matrix: cases × candidates × precisions, to one report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.backends import FILE, SAVED, SavedCandidate, SavedTensors, precision_of
from harness.case import (
    Case,
    InputSpec,
    ModelSource,
    ReferenceSource,
    RunSpec,
    load_cases,
    one_or_more,
    read_samples,
    start_function_process,
)
from harness.errors import NothingSelectedError, UsageError
from harness.judge.candidates import EMULATOR
from harness.judge.judge import Judge
from harness.judge.lanes import Run, RunProgress, carry_out, carry_out_on, plan_lanes
from harness.judge.measurement import JudgeOptions
from harness.judge.names import check_names_of
from harness.judge.results import MadeWith, RunReport, RunResult
from harness.tensors import Precision
from harness.text import sentence, suggestion

MODEL_RUNS = (Precision.FP32, Precision.FP16)
Target = Path | str | Case


@dataclass(frozen=True)
class Given:
    """What a command or a call says beside its targets.

    Args:
        data: files of inputs for .onnx files: `.npz`, `.safetensors`, or polygraphy's `.json`.
        samples: how many sets of inputs an .onnx file is judged with.
        seed: seed of the fills of .onnx files.
        reference: what every target is compared with: an .onnx file, or saved outputs.
        ops: `module:function` that returns operators which .onnx files hold and ONNX Runtime lacks.
    """

    data: Sequence[Path | str] = ()
    samples: int | None = None
    seed: int | None = None
    reference: Path | str | None = None
    ops: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The options of a command that say the same."""
        pairs = [("--samples", self.samples), ("--seed", self.seed), ("--reference", self.reference)]
        pairs += [("--ops", self.ops)]
        data = [word for path in self.data for word in ("--data", str(path))]
        return (*data, *(word for name, value in pairs if value is not None for word in (name, str(value))))

    def compared(self, case: Case) -> Case:
        """`case`, compared with `reference`."""
        if self.reference is None:
            return case
        path = str(Path(self.reference).absolute())
        onnx = path.endswith(".onnx")
        source = ReferenceSource(path=path) if onnx else ReferenceSource(outputs=(path,))
        words = case.given or replace(self, data=(), samples=None, seed=None, ops=None).words
        return case.model_copy(update={"reference": source, "given": words})


def run(
    targets: Sequence[Target] | Target,
    *,
    precisions: Sequence[Precision | str] | Precision | str = (),
    environments: Sequence[str] | str = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    given: Given | None = None,
    tags: Sequence[str] | str = (),
    options: JudgeOptions | None = None,
    progress: RunProgress | None = None,
    judge: Judge | None = None,
    scheduler: str | None = None,
) -> RunReport:
    """Judge every case at every precision on every candidate; environments on different GPUs at the same time.

    A single target, precision, environment or tag need not be in a list.

    Args:
        targets: case files, folders of them, .onnx files, or cases.
        precisions: only these; by default those that each case asks for.
        environments: names from harness.toml; by default the emulator.
        inputs: shapes for the inputs of .onnx files.
        given: their data, samples and seed, and another reference than the model itself.
        tags: only cases with one of these tags.
        options: how to judge.
        progress: called at every step.
        judge: use this judge, and leave it open, instead of making one.
        scheduler: address of a dask scheduler, whose workers carry out the runs.

    Raises:
        SchedulerError: it does not answer, or its workers cannot do what is asked of them; nothing was run.
        CaseFileError: case files hold mistakes, or name what their models do not have; nothing was run.
        EnvironmentConfigError: an environment is not in harness.toml.
        NothingSelectedError: the selection is empty.
    """
    wanted = tuple(Precision(precision) for precision in one_or_more(precisions))
    environments = one_or_more(environments)
    cases = select_cases(targets, inputs=inputs, given=given, tags=tags, precisions=wanted)
    how = judge.options if judge is not None else options or JudgeOptions()
    runs = [
        Run(case, candidate, spec, how)
        for case in cases
        for candidate in (environments or (EMULATOR,))
        for spec in case.select_runs(wanted)
    ]
    if not runs:
        raise nothing_at(wanted, cases)
    progress = progress or (lambda event: None)
    if scheduler is not None:
        return _run_on(scheduler, runs, cases, progress)
    start_function_process(cases)
    own = judge or Judge(options)
    try:
        own.candidates.check(environments)
        own.candidates.check_kernels(own.options.kernels)
        own.candidates.start_ahead(environments)
        lanes = plan_lanes(own, runs)
        check_names_of(cases, own.bench)
        results = carry_out(own, runs, progress, lanes)
    finally:
        if judge is None:
            own.close()
    return RunReport(fingerprint=fingerprint_of(results), results=results)


def _run_on(address: str, runs: Sequence[Run], cases: Sequence[Case], progress: RunProgress) -> RunReport:
    """The report of `runs`, carried out by the workers of a scheduler."""
    from harness.cluster import open_cluster

    if runs[0].options.golden_update:
        raise UsageError("golden references are written on one machine", hint="leave out --scheduler")
    needed = {name for run in runs for name in run.environments}
    with Judge() as judge:
        check_names_of(cases, judge.bench)
    with open_cluster(
        address, environments=sorted(needed), files=[path for run in runs for path in run.files]
    ) as cluster:
        results = carry_out_on(cluster, runs, progress)
    return RunReport(fingerprint=fingerprint_of(results), results=results)


def fingerprint_of(results: Sequence[RunResult]) -> MadeWith:
    """What the numbers were made with: this host, and by name the environments that took part."""
    return MadeWith.here(result.engine.fingerprint for result in results if result.engine is not None)


def compare(
    reference: Path | str,
    candidate: Path | str,
    *,
    precision: Precision | str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    given: Given | None = None,
    options: JudgeOptions | None = None,
    progress: RunProgress | None = None,
) -> RunReport:
    """Judge one ONNX file by another, or a file by saved outputs, or saved outputs by a file.

    Args:
        reference: what is taken to be right: an .onnx file, or saved outputs.
        candidate: what is judged, likewise; one of the two must be an .onnx file. A file runs as it is written,
            with its own float16 tensors and Q/DQ nodes.
        precision: whose gates hold; by default those of the narrowest type in the candidate, fp32 for saved outputs.
        inputs: shapes for the inputs.
        given: data, samples and seed of the inputs.
        options: how to judge.
        progress: called at every step.

    Raises:
        UsageError: neither is an .onnx file, or the two do not fit each other.
        ModelError, InputDataError: one cannot be read or run.
    """
    judged: Path = Path(candidate)
    saved: Path | None = None
    if judged.suffix != ".onnx":
        judged, saved = Path(reference), judged
    if judged.suffix != ".onnx":
        raise UsageError(
            "neither is an .onnx file", hint="compare saved outputs with the file they came from"
        )
    given = given or Given()
    if saved is None:
        given = replace(given, reference=reference)
    wanted = None if precision is None else Precision(precision)
    case = given.compared(case_of_model(judged, inputs or {}, (wanted or Precision.FP32,), given))
    with Judge(options) as judge:
        if saved is not None:
            bench = judge.bench(case)
            tensors = SavedTensors(bench.model, bench.feeds, read_samples(saved), str(saved))
            judge.candidates.offer(SAVED, SavedCandidate(tensors))
        elif wanted is None:
            spec = RunSpec(precision=precision_of(judge.bench(case).model))
            case = case.model_copy(update={"runs": (spec,)})
        return run(case, environments=SAVED if saved else FILE, progress=progress, judge=judge)


def select_cases(
    targets: Sequence[Target] | Target,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    given: Given | None = None,
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
    named = [target for target in listed if not isinstance(target, Case)]
    functions = [str(target) for target in named if is_function(str(target))]
    files = [Path(target) for target in named if str(target) not in functions]
    models = [path for path in files if path.suffix == ".onnx"]
    given = given or Given()
    option = next(iter([*(["--input"] if inputs else []), *replace(given, reference=None).words]), None)
    if option and not (models or functions):
        raise UsageError(f"`{option}` is for an .onnx file; a case file has its own inputs")
    cases = [target for target in listed if isinstance(target, Case)]
    if len(models) < len(files):
        cases += load_cases([path for path in files if path.suffix != ".onnx"])
    bare: list[Path | str] = [*models, *functions]
    cases += [case_of_model(each, inputs or {}, precisions, given) for each in bare]
    chosen = [given.compared(case) for case in cases if not tags or set(tags) & set(case.tags)]
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


def is_function(target: str) -> bool:
    """Whether a target names a function that returns a PyTorch module: `module:function`, and no file."""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", target) is not None and not Path(target).exists()


def case_of_model(
    model: Path | str,
    inputs: Mapping[str, Sequence[int]],
    precisions: Sequence[Precision] = (),
    given: Given | None = None,
) -> Case:
    """A case for a bare .onnx file, or a function that returns a PyTorch module.

    Seeded inputs, default gates, FP32 and FP16 unless `precisions` says else.
    """
    given = given or Given()
    is_path = isinstance(model, Path)
    if given.ops is not None and not is_function(given.ops):
        raise UsageError(f"--ops {given.ops}: is not `module:function`, such as `operators:all_of_them`")
    return Case(
        name=model.stem if isinstance(model, Path) else model.rpartition(":")[2],
        model=ModelSource(path=str(model) if is_path else None, torch=None if is_path else str(model)),
        ops=given.ops,
        data=tuple(map(str, given.data)),
        samples=given.samples,
        seed=given.seed or 0,
        given=given.words,
        inputs={name: InputSpec(shape=tuple(shape)) for name, shape in inputs.items()},
        runs=tuple(RunSpec(precision=precision) for precision in precisions or MODEL_RUNS),
    )
