"""`check`: what rules and compilers say of models, and findings made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.case import one_or_more
from harness.cluster import OnStage, open_cluster
from harness.compiler import ReportCache
from harness.conversion.codes import check_codes
from harness.conversion.exports import by_exporter, without_failed_advice
from harness.conversion.findings import CheckReport, CheckResult
from harness.conversion.splitting import folder_names
from harness.conversion.units import CheckDesk, CheckUnit
from harness.environments import load, select
from harness.errors import CandidateError, UnitLostError
from harness.judge import Target, select_cases
from harness.tensors import Precision, host_fingerprint


def check(
    targets: Sequence[Target] | Target,
    *,
    precision: Precision | str | None = None,
    environments: Sequence[str] | str = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] | str = (),
    split: Path | None = None,
    times: bool = False,
    progress: OnStage | None = None,
    cache: ReportCache | None = None,
    scheduler: str | None = None,
) -> CheckReport:
    """Will models convert, which nodes do not, and what is silently computed otherwise.

    Args:
        targets: case files, folders of them, .onnx files, or cases.
        precision: of the typed graph that is asked about; None: the file as it is written.
        environments: names from harness.toml whose compilers are asked; without one, rules alone speak.
        inputs: shapes for the inputs of .onnx files.
        tags: only cases with one of these tags.
        split: write the largest parts that a compiler takes, and those that it does not, to this folder; where there
            are several models or environments, to one in it for each.
        times: time the kernels of each engine, where there is a GPU.
        progress: called with what goes on.
        cache: where compilers' reports are kept; by default harness's cache folder.
        scheduler: address of a dask scheduler, whose workers ask their compilers.

    A model that cannot be read, exported or run has that error as its result, and the others are checked.

    Raises:
        SchedulerError: it does not answer, or its workers cannot do what is asked of them; nothing was asked.
        CaseFileError, NothingSelectedError: as `run`.
        EnvironmentConfigError: an environment is not in harness.toml.
        CandidateError: the worker of no environment starts. Where others do, that is a finding (`not-started`).
    """
    wanted = None if precision is None else Precision(precision)
    names = one_or_more(environments)
    if scheduler is None:
        known = load()
        for name in names:
            select(name, known)
    cases = list(by_exporter(select_cases(targets, inputs=inputs, tags=tags)))
    check_codes(cases)
    units = []
    for place, case in zip(folder_names([case.name for case in cases]), cases, strict=True):
        for asked in names or (None,):
            places = [place] * (len(cases) > 1) + folder_names([asked or ""]) * (len(names) > 1)
            folder = None if split is None or asked is None else split.joinpath(*places)
            units.append(CheckUnit(case, wanted, asked, folder, times))
    results = _carry_out(units, names, progress or (lambda _: None), CheckDesk(cache), scheduler)
    step = max(len(names), 1)
    merged = [_merge(results[at : at + step]) for at in range(0, len(results), step)]
    return CheckReport(host_fingerprint(), without_failed_advice(cases, merged))


def _carry_out(
    units: Sequence[CheckUnit], names: Sequence[str], tell: OnStage, desk: CheckDesk, scheduler: str | None
) -> list[CheckResult]:
    """What came of each unit.

    Raises:
        CandidateError: no environment's worker starts.
    """
    broken: dict[str, CandidateError] = {}

    def result_of(unit: CheckUnit, get: Callable[[], CheckResult]) -> CheckResult:
        name = unit.environment
        if name is None or name not in broken:
            try:
                return get()
            except UnitLostError as error:  # workers died of it
                return unit.lost(error)
            except CandidateError as error:  # nothing but a worker raises one
                if name is None:
                    raise
                broken[name] = error
        if len(broken) == len(set(names)):
            raise broken[names[0]]
        return unit.not_started(broken[name], desk)

    if scheduler is None:
        results = []
        for unit in units:
            tell(unit.title)
            results.append(result_of(unit, partial(unit.carry_out, desk, tell)))
        return results
    files = [path for unit in units for path in unit.files]
    with open_cluster(scheduler, environments=names, files=files) as cluster:
        futures = [cluster.submit(unit, partial(tell, unit.title)) for unit in units]
        return [result_of(unit, future.result) for unit, future in zip(units, futures, strict=True)]


def _merge(results: Sequence[CheckResult]) -> CheckResult:
    """One result of those of one model in several environments."""
    # One whose worker died knows nothing of the model.
    first = max(results, key=lambda each: bool(each.sha256))
    ended = next((each for each in results if each.error is not None), first)
    return replace(
        first,
        environments=tuple(each for one in results for each in one.environments),
        error=ended.error,
        evidence=ended.evidence,
    )
