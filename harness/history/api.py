"""The Python API: `harness.drift` and `harness.load_history`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.case import Case, one_or_more
from harness.errors import HistoryError, UsageError
from harness.golden import golden_root, refuse_in_ci
from harness.history.judgement import DriftReport, Pair, Waivers, compare_pairs, pairs_of, waivers_of
from harness.history.matrix import DriftOptions, check_planted, run_matrix, select_specs
from harness.history.store import NAMES, RunInfo, check_readable, list_runs, place_of, read_info, read_runs
from harness.history.types import Floors, OlderSide
from harness.judge import Judge, RunProgress, Target, check_names_of, select_cases
from harness.tensors import Precision

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

HISTORY = Path("reports/history")


def drift(
    targets: Sequence[Target] | Target,
    *,
    environments: Sequence[str] | str,
    precisions: Sequence[Precision | str] | Precision | str = (),
    tags: Sequence[str] | str = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    options: DriftOptions | None = None,
    history: Path | str = HISTORY,
    resume: bool = False,
    against: OlderSide | str = OlderSide.GOLDEN,
    baseline_update: bool = False,
    progress: RunProgress | None = None,
    scheduler: str | None = None,
) -> DriftReport:
    """Build every case at every precision on every release, several times, and compare the newer with the first.

    A single target, environment, precision or tag need not be in a list.

    Args:
        targets: case files, folders of them, .onnx files, or cases.
        environments: names from harness.toml or emulated releases (`emulator:fp16,seed=1`), the older one first.
            A single one is compared with what `against` says.
        precisions: only these; by default those of each case.
        tags: only cases with one of these tags.
        inputs: shapes for the inputs of .onnx files.
        options: builds of each engine, what is observed, what counts as a difference.
        history: where the run is kept: a folder, or the URL of a store that fsspec knows.
        resume: continue the newest interrupted run of the same matrix.
        against: what a single release is compared with: its golden baselines, or its last runs in the history.
        baseline_update: write the baselines of a single release that are missing, or that it drifted from.
        progress: called for every build.
        scheduler: address of a dask scheduler whose workers build.

    Raises:
        SchedulerError: it does not answer, or its workers cannot do what is asked of them; nothing was run.
        CaseFileError: case files hold mistakes, or name what their models do not have; nothing was run.
        EnvironmentConfigError: no environment has the name of a release; nothing was run.
        NothingSelectedError: the selection is empty.
        UsageError: no release is named, or one twice, or several are to update baselines, or a `plant=` names a
            node that no case has.
        GoldenError: baselines are to be updated where CI is set, or one is damaged.
        HistoryError: there is nothing to resume, a model or inputs changed since the interruption, or a run is to be
            compared with a history of which no file can be read.
    """
    environments = one_or_more(environments)
    if not environments:
        raise UsageError("drift needs a release", hint="name two, the older one first: --env OLD --env NEW")
    if baseline_update:
        if len(environments) > 1:
            raise UsageError("baselines are those of one release", hint="name it alone: --env NAME")
        refuse_in_ci("rewritten")
    wanted = tuple(Precision(precision) for precision in one_or_more(precisions))
    cases = select_cases(targets, inputs=inputs, tags=tags, precisions=wanted)
    options = options or DriftOptions()
    if options.structure:
        options = replace(options, repeats=1)  # a compiler repeats itself to the bit
    specs, folder = select_specs(cases, environments, wanted), place_of(history)
    if len(environments) == 1 and OlderSide(against) is OlderSide.HISTORY:
        check_readable(folder)
    check_planted(environments, cases)
    with Judge() as judge:
        check_names_of(cases, judge.bench)
    info = run_matrix(
        specs, environments, options, history=folder, resume=resume, progress=progress, scheduler=scheduler
    )
    waivers = {case.name: case.waivers for case in cases}
    if len(environments) > 1:
        return report_of(info, floors=options.floors, waivers=waivers)
    if OlderSide(against) is OlderSide.HISTORY:
        from harness.history.nightly import NIGHTLY_CONFIDENCE, nightly_report

        nightly = max(options.floors.confidence, NIGHTLY_CONFIDENCE)
        floors = replace(options.floors, confidence=nightly)
        return nightly_report(folder, newest=info, floors=floors, waivers=waivers)
    return compare_with_baselines(info, cases, options.floors, waivers, update=baseline_update)


def compare_with_baselines(
    info: RunInfo, cases: Sequence[Case], floors: Floors, waivers: Waivers, *, update: bool = False
) -> DriftReport:
    """The run `info` of one release compared with its golden baselines; with `update`, they are rewritten after."""
    import pandas as pd

    from harness.history.baselines import (
        baseline_rows,
        describe,
        find_baselines,
        update_baselines,
        with_baselines,
    )

    (release,) = info.releases
    records = to_frame(read_runs([info])).assign(side=release)
    found = find_baselines(records, {case.name: golden_root(case) for case in cases})
    old = describe(found)
    before = baseline_rows(found)
    if before.empty:
        report = _alone(info, records, old, floors, waivers)
    else:
        both = pd.concat([before.assign(side=old).astype(object), records.astype(object)], ignore_index=True)
        report = _alone(info, both.infer_objects(), old, floors, waivers)
    report = replace(report, runs=with_baselines(report.runs, found, update=update))
    if update:
        written = update_baselines(records, found, report.runs, command=info.command)
        report = replace(report, written=tuple(str(path) for path in written))
    return report


def _alone(info: RunInfo, records: pd.DataFrame, old: str, floors: Floors, waivers: Waivers) -> DriftReport:
    """The report of one release: rows of `side` old, if there are any, stand for the older one."""
    (release,) = info.releases
    before = (records["side"] == old).to_numpy()
    pair = Pair(old, release, before, ~before, distances=False)
    found = compare_pairs(records, [pair], floors=floors, repeats=info.repeats, waivers=waivers)
    return found.report(info, (old, release), records, floors)


def report_of(
    info: RunInfo,
    *,
    floors: Floors | None = None,
    waivers: Waivers | None = None,
    today: datetime.date | None = None,
) -> DriftReport:
    """The report of a run in the history.

    Args:
        info: the run.
        floors: what counts as a difference.
        waivers: by case; by default those in the case files, where they still are.
        today: the day that decides whether a waiver has expired.

    Raises:
        HistoryError: its file is damaged, or it has one release only.
    """
    if len(info.releases) < 2:
        raise HistoryError("holds one release, so nothing to compare", where=info.path)
    floors = floors or Floors()
    records = to_frame(read_runs([info]))
    if waivers is None:
        waivers = waivers_of(records)
    pairs = pairs_of(records, info.releases)
    found = compare_pairs(records, pairs, floors=floors, repeats=info.repeats, waivers=waivers, today=today)
    return found.report(info, info.releases, records.assign(side=records["release"]), floors)


def load_history(
    path: Path | str = HISTORY, *, columns: Sequence[str] | str | None = None, last: int | None = None
) -> pd.DataFrame:
    """The history as one table: a row for each tensor, and for the engine, of every build.

    Args:
        path: a folder of the history, or one of its files.
        columns: only these; by default all of `harness.history.store.schema.COLUMNS`, which says what they mean.
        last: only the newest so many runs.

    Returns:
        The rows, the oldest run first. Text columns are categorical. Files in a folder that cannot be read are
        skipped, with a `harness.history.HistoryWarning`.

    Raises:
        HistoryError: there is no history, the file is damaged, there is no such column, or `last` is below 1.
    """
    if last is not None and last < 1:
        raise HistoryError(f"last must be at least 1, not {last}")
    chosen = one_or_more(columns or NAMES)
    if unknown := [name for name in chosen if name not in NAMES]:
        raise HistoryError(f"the history has no column {unknown[0]!r}", hint=f"one of {', '.join(NAMES)}")
    folder = place_of(path)
    runs = runs_at(folder)
    chosen_runs = runs[-last:] if last else runs
    return to_frame(read_runs(chosen_runs, chosen, skip_damaged=not folder.is_file()))


def runs_at(path: Path) -> list[RunInfo]:
    """The runs in a folder, or the run of a file. Warns of files in a folder that cannot be read.

    Raises:
        HistoryError: there is none, or the file is damaged.
    """
    runs = [read_info(path)] if path.is_file() else list_runs(path)
    if not runs:
        check_readable(path)
        hint = "`harness drift` writes one, under --history DIR"
        raise HistoryError("holds no history", where=path, hint=hint)
    return runs


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table of the history as pandas has it: times with their zone, texts as categories."""
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame
