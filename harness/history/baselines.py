"""A release compared with golden baselines instead of an older release: the same judgement of the same rows."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from harness.golden import Baseline, BaselineEngine, BaselineProvenance, BaselineStore, BaselineTensor, sm_of
from harness.history.judgement import BaselineNote, BaselineState, BaselineUpdate, RunDrift, baseline_text
from harness.history.store import NAMES, Row
from harness.history.types import UNMOVED, CaseRun, DriftStatus, RowKind, worst_status
from harness.judge import Verdict
from harness.worker.protocol import TENSORRT

BASELINE = "baseline"
N = TypeVar("N", int, float)
_OF_TENSOR = ("tensor", "sample", "index", "node", "op")
Roots = Mapping[str, Path | None]
"""By case, the folder of its golden references."""


@dataclass(frozen=True)
class Found:
    """The baseline of one case at one precision, as far as there is one.

    Args:
        case: name of the case.
        precision: the precision.
        baseline: the baseline; None if there is none.
        state: whether it is of this case and model.
        store: where it belongs; None for a case that has no place for goldens.
    """

    case: str
    precision: str
    baseline: Baseline | None
    state: BaselineState
    store: BaselineStore | None


def find_baselines(records: pd.DataFrame, roots: Roots) -> list[Found]:
    """The baselines of all cases and precisions in `records`, rows of one release.

    Args:
        records: rows of the history.
        roots: by case, the folder of its golden references.

    Raises:
        GoldenError: a baseline is damaged.
    """
    found = []
    for (case, precision), rows in _engines(records):
        root = roots.get(case)
        store = None if root is None else BaselineStore(root)
        baseline = None if store is None else store.load(case, _sm(rows), precision)
        found.append(Found(case, precision, baseline, _state(baseline, rows), store))
    return found


def baseline_rows(found: Iterable[Found]) -> pd.DataFrame:
    """Rows of the history that stand for the builds behind the baselines; `release` and `side` are `baseline`."""
    rows: list[Row] = []
    for item in found:
        if item.baseline is not None and item.state is BaselineState.VALID:
            rows += _rows(item.baseline)
    return pd.DataFrame(map(vars, rows), columns=list(NAMES)).assign(side=BASELINE)


def describe(found: Sequence[Found]) -> str:
    """The name of the older side: `baseline of TensorRT 8.6.0, 2026-01-31`."""
    known = [item.baseline.provenance for item in found if item.baseline is not None]
    releases = sorted({f"{p.product or TENSORRT} {p.tensorrt}" if p.tensorrt else p.release for p in known})
    dates = sorted({p.date for p in known})
    if not known:
        return BASELINE
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{BASELINE} of {' and '.join(releases)}, {when}"


def with_baselines(runs: Iterable[RunDrift], found: Iterable[Found], *, update: bool) -> tuple[RunDrift, ...]:
    """The runs with what is known of their baselines; one of another case or model fails the run.

    Args:
        runs: the runs.
        found: their baselines.
        update: whether they are to be updated.
    """
    states = {(item.case, item.precision): item.state for item in found if item.store is not None}
    return tuple(_with_baseline(run, states.get((run.case, run.precision.value)), update) for run in runs)


def _with_baseline(run: RunDrift, state: BaselineState | None, update: bool) -> RunDrift:
    what = BaselineUpdate.NOT_REQUESTED
    if update:
        what = BaselineUpdate.REFUSED if is_broken(run) else BaselineUpdate.REQUESTED
    if state is None:
        return run
    status = worst_status(run.status, DriftStatus.FAIL) if state.stale else run.status
    return replace(run, status=status, baseline=BaselineNote(state, what))


def update_baselines(
    records: pd.DataFrame, found: Iterable[Found], runs: Iterable[RunDrift], *, command: str
) -> list[Path]:
    """Write the baselines that are missing, of another case or model, or that the release drifted from.

    One that the release agrees with stays as it is: an update on another day leaves no noise behind. None is written
    of builds of which some failed: they would be too few, or those of a release that does not work.

    Returns:
        The files written.

    Raises:
        GoldenError: `CI` is set.
    """
    drifted = {(run.case, run.precision.value): run for run in runs}
    written = []
    for item in found:
        run = drifted.get((item.case, item.precision))
        moved = run is not None and run.verdict is not None and run.verdict not in UNMOVED
        if item.store is None or not (item.state is not BaselineState.VALID or moved):
            continue
        if run is not None and is_broken(run):
            continue
        rows = records[(records["case"] == item.case) & (records["precision"] == item.precision)]
        fresh = _baseline(rows, command)
        if fresh is not None:
            because = baseline_text(item.state) if item.state.stale else "" if run is None else run.reason
            written.append(item.store.write(fresh.replacing(item.baseline, because)))
    return written


def is_broken(run: RunDrift) -> bool:
    """Whether builds of a run failed, so that it makes no baseline."""
    return bool(run.errors) and run.status is not DriftStatus.SKIP


def _engines(records: pd.DataFrame) -> list[tuple[CaseRun, pd.DataFrame]]:
    engines = records[records["kind"] == RowKind.ENGINE]
    keys = [engines["case"].astype(str), engines["precision"].astype(str)]
    return [((str(case), str(p)), rows) for (case, p), rows in engines.groupby(keys, sort=False)]


def _sm(rows: pd.DataFrame) -> str:
    known = rows["compute_capability"].dropna()
    return sm_of(str(known.iloc[0]) if len(known) else None)


def _state(baseline: Baseline | None, rows: pd.DataFrame) -> BaselineState:
    if baseline is None:
        return BaselineState.MISSING
    if _differs(baseline.model_sha256, rows["model_sha256"]):
        return BaselineState.MODEL_CHANGED
    if _differs(baseline.case_sha256, rows["case_sha256"]):
        return BaselineState.CASE_CHANGED
    return BaselineState.VALID


def _differs(digest: str, column: pd.Series[str]) -> bool:
    known = column.dropna()
    return len(known) > 0 and str(known.iloc[0]) != digest


def _rows(baseline: Baseline) -> Iterator[Row]:
    source, engine = baseline.provenance, baseline.engine
    common = Row(
        case=baseline.case,
        precision=baseline.precision,
        release=BASELINE,
        run=source.run,
        tensorrt=source.tensorrt,
        product=source.product,
        model_sha256=baseline.model_sha256,
        case_sha256=baseline.case_sha256,
    )
    builds = max((len(tensor.errors) for tensor in baseline.tensors), default=0)
    for build in range(builds):
        yield replace(
            common,
            kind=RowKind.ENGINE,
            build=build,
            sample=-1,
            index=-1,
            verdict=Verdict.PASS.value,
            latency_ms=_at(engine.latency_ms, build),
            engine_bytes=_at(engine.engine_bytes, build),
            build_seconds=_at(engine.build_seconds, build),
        )
    for tensor in baseline.tensors:
        for build, error in enumerate(tensor.errors):
            yield replace(
                common,
                kind=RowKind(tensor.kind),
                **{name: getattr(tensor, name) for name in _OF_TENSOR},
                build=build,
                error=error,
                passed=tensor.passed[build],
                hash=tensor.hashes[build],
            )


def _at(values: Sequence[N], place: int) -> N | None:
    return values[place] if place < len(values) else None


def _baseline(rows: pd.DataFrame, command: str) -> Baseline | None:
    """The baseline that the rows of one case at one precision make; None if no build could be judged."""
    tensors = rows[rows["kind"] != RowKind.ENGINE]
    engines = rows[rows["kind"] == RowKind.ENGINE]
    if tensors.empty:
        return None
    first = engines.iloc[0]
    keys = [tensors[name].astype(str) for name in ("kind", "tensor", "sample")]
    return Baseline(
        case=str(first["case"]),
        precision=str(first["precision"]),
        sm=_sm(engines),
        case_sha256=str(first["case_sha256"]),
        model_sha256=str(first["model_sha256"]),
        provenance=BaselineProvenance(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            command=command,
            run=str(first["run"]),
            **{
                name: _text(first[name])
                for name in ("release", "product", "tensorrt", "cuda", "driver", "gpu")
            },
            onnxruntime=_text(first["onnxruntime"]),
            harness=_text(first["harness"]),
        ),
        engine=BaselineEngine(
            latency_ms=tuple(engines["latency_ms"].dropna().astype(float)),
            engine_bytes=tuple(engines["engine_bytes"].dropna().astype(int)),
            build_seconds=tuple(engines["build_seconds"].dropna().astype(float)),
        ),
        tensors=tuple(_tensor(part) for _, part in tensors.groupby(keys, sort=False)),
    )


def _tensor(rows: pd.DataFrame) -> BaselineTensor:
    first = rows.iloc[0]
    return BaselineTensor(
        kind="output" if first["kind"] == RowKind.OUTPUT else "layer",
        tensor=str(first["tensor"]),
        sample=int(first["sample"]),
        index=int(first["index"]),
        node=_text(first["node"]),
        op=_text(first["op"]),
        errors=tuple(float(error) for error in rows["error"]),
        passed=tuple(bool(passed) for passed in rows["passed"]),
        hashes=tuple(str(digest) for digest in rows["hash"]),
    )


def _text(value: str | float | None) -> str | None:
    return None if pd.isna(value) else str(value)
