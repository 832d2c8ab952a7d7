"""A release held against golden baselines instead of an older release: the same judgement on the same kind of rows."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.golden import Baseline, BaselineEngine, BaselineProvenance, BaselineStore, BaselineTensor, sm_of
from harness.history.judgement import DriftVerdict, RunDrift, Status
from harness.history.store import ENGINE, NAMES, OUTPUT

BASELINE = "baseline"
_CALM = (DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE)
Roots = Mapping[str, Path | None]


@dataclass(frozen=True)
class Found:
    """The baseline of one case at one precision, as far as there is one.

    Args:
        case: name of the case.
        precision: the precision.
        baseline: the baseline; None if there is none.
        stale: why it says nothing of this case any more; empty if it does.
        store: where it belongs; None for a case that has no place for goldens.
    """

    case: str
    precision: str
    baseline: Baseline | None
    stale: str
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
        found.append(Found(case, precision, baseline, _stale(baseline, rows), store))
    return found


def baseline_rows(found: Iterable[Found]) -> pd.DataFrame:
    """Rows of the history that stand for the builds behind the baselines; `release` and `side` are `baseline`."""
    rows: list[dict[str, Any]] = []
    for item in found:
        if item.baseline is not None and not item.stale:
            rows += _rows(item.baseline)
    frame = pd.DataFrame(rows, columns=list(NAMES))
    return frame.assign(side=BASELINE)


def describe(found: Sequence[Found]) -> str:
    """What the older side is called: `baseline of TensorRT 8.6.0, 2026-01-31`."""
    known = [item.baseline.provenance for item in found if item.baseline is not None]
    releases = sorted({f"TensorRT {p.tensorrt}" if p.tensorrt else p.release for p in known})
    dates = sorted({p.date for p in known})
    if not known:
        return BASELINE
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{BASELINE} of {' and '.join(releases)}, {when}"


def update_baselines(
    records: pd.DataFrame, found: Iterable[Found], runs: Iterable[RunDrift], *, command: str
) -> list[Path]:
    """Write the baselines that are missing, of another case or model, or that the release drifted from.

    One that the release agrees with stays as it is: who updates on another day leaves no noise behind. None is written
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
        moved = run is not None and run.verdict is not None and run.verdict not in _CALM
        if item.store is None or not (item.baseline is None or item.stale or moved):
            continue
        if run is not None and is_broken(run):
            continue
        rows = records[(records["case"] == item.case) & (records["precision"] == item.precision)]
        fresh = _baseline(rows, command)
        if fresh is not None:
            because = item.stale or (run.reason if run is not None else "")
            written.append(item.store.write(fresh.replacing(item.baseline, because)))
    return written


def is_broken(run: RunDrift) -> bool:
    """Whether builds of a run failed, so that it makes no baseline."""
    return bool(run.errors) and run.status is not Status.SKIP


def _engines(records: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    engines = records[records["kind"] == ENGINE]
    keys = [engines["case"].astype(str), engines["precision"].astype(str)]
    return [((str(case), str(p)), rows) for (case, p), rows in engines.groupby(keys, sort=False)]


def _sm(rows: pd.DataFrame) -> str:
    known = rows["compute_capability"].dropna()
    return sm_of(str(known.iloc[0]) if len(known) else None)


def _stale(baseline: Baseline | None, rows: pd.DataFrame) -> str:
    if baseline is None:
        return ""
    for column, what in (("model_sha256", "model"), ("case_sha256", "case")):
        known = rows[column].dropna()
        if len(known) and str(known.iloc[0]) != getattr(baseline, column):
            return f"the {what} is another one than when the baseline was written"
    return ""


def _rows(baseline: Baseline) -> list[dict[str, Any]]:
    source = baseline.provenance
    common = {
        "case": baseline.case,
        "precision": baseline.precision,
        "release": BASELINE,
        "run": source.run,
        "tensorrt": source.tensorrt,
        "model_sha256": baseline.model_sha256,
        "case_sha256": baseline.case_sha256,
    }
    engine = baseline.engine
    builds = max((len(tensor.errors) for tensor in baseline.tensors), default=0)
    rows: list[dict[str, Any]] = [
        {
            **common,
            "kind": ENGINE,
            "build": build,
            "sample": -1,
            "index": -1,
            "verdict": "pass",
            "latency_ms": _at(engine.latency_ms, build),
            "engine_bytes": _at(engine.engine_bytes, build),
            "build_seconds": _at(engine.build_seconds, build),
        }
        for build in range(builds)
    ]
    for tensor in baseline.tensors:
        for build, error in enumerate(tensor.errors):
            rows.append(
                {
                    **common,
                    **tensor.model_dump(include={"kind", "tensor", "sample", "index", "node", "op"}),
                    "build": build,
                    "error": error,
                    "passed": tensor.passed[build],
                    "hash": tensor.hashes[build],
                }
            )
    return rows


def _at(values: Sequence[float], place: int) -> float | None:
    return values[place] if place < len(values) else None


def _baseline(rows: pd.DataFrame, command: str) -> Baseline | None:
    """The baseline that the rows of one case at one precision make; None if no build could be judged."""
    tensors = rows[rows["kind"] != ENGINE]
    engines = rows[rows["kind"] == ENGINE]
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
            **{name: _text(first[name]) for name in ("release", "tensorrt", "cuda", "driver", "gpu")},
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
        kind=OUTPUT if first["kind"] == OUTPUT else "layer",
        tensor=str(first["tensor"]),
        sample=int(first["sample"]),
        index=int(first["index"]),
        node=_text(first["node"]),
        op=_text(first["op"]),
        errors=tuple(float(error) for error in rows["error"]),
        passed=tuple(bool(passed) for passed in rows["passed"]),
        hashes=tuple(str(digest) for digest in rows["hash"]),
    )


def _text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)
