"""The tables of the drift page and of the Markdown summary, arranged by pandas: rows of cells, the worst first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.history import (
    SEVERITY,
    DriftReport,
    DriftVerdict,
    JudgedTensor,
    RowKind,
    RunDrift,
    Series,
    Trend,
    compared_engines,
    demand_text,
    judged_tensors,
)
from harness.report.drift.words import DRIFT_LOOKS, look_of, run_title, verdict_text
from harness.report.words import short
from harness.text import number, ratio

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MOST_ROWS = 60  # that a page shows at full length


@dataclass(frozen=True)
class Cell:
    """One cell: what it says, what it is sorted by, its class and the anchor that it leads to."""

    text: str
    key: str | float | None = None
    tone: str = ""
    link: str = ""

    @property
    def order(self) -> str | float:
        """What it is sorted by: its text, if nothing else."""
        return self.text if self.key is None else self.key


@dataclass(frozen=True)
class Table:
    """A table: names of its columns, which of them are numbers, and its rows. `omitted` rows were left out."""

    columns: tuple[str, ...]
    numeric: frozenset[str]
    rows: tuple[tuple[Cell, ...], ...]
    omitted: int = 0

    @property
    def long(self) -> bool:
        """Whether a page shows it in a box that scrolls."""
        return len(self.rows) > MOST_ROWS


def matrix_table(report: DriftReport, anchors: dict[str, str]) -> Table:
    """Cases down, what is bad first; precisions × newer releases across: verdict, and how the error changed."""
    import pandas as pd

    several = len(report.newer) > 1
    listed = [
        (run.case, f"{run.precision} · {short(run.new, 24)}" if several else str(run.precision), run)
        for run in report.runs
    ]
    frame = pd.DataFrame(listed, columns=["case", "column", "run"])
    columns = list(dict.fromkeys(frame["column"]))
    wide = frame.pivot(index="case", columns="column", values="run")[columns]
    bad = {run.case for run in report.runs if look_of(run).tone == "bad"}
    wide = wide.loc[sorted(dict.fromkeys(frame["case"]), key=lambda case: case not in bad)]
    rows = []
    for case, runs in wide.iterrows():
        cells = [Cell(str(case))]
        for run in runs:
            if isinstance(run, RunDrift):
                look, link = look_of(run), anchors.get(run.id, "")
                cells.append(Cell(verdict_text(run), float(look.severity), look.tone, link))
            else:
                cells.append(Cell("", ""))
        rows.append(tuple(cells))
    return Table(("case", *columns), frozenset(), tuple(rows))


def tensors_table(report: DriftReport, most: int) -> Table:
    """The tensors, those that moved furthest first: verdict and the numbers behind it."""
    frame = report.tensors
    order = _worst_first(frame)
    several = len(report.newer) > 1
    columns = (
        *("verdict", "case", "precision", *(["release"] if several else []), "tensor", "op", "kind"),
        *("old error", "new error", "change", "error limit", "gate", "gates held"),
        *("noise ±", "floor", "rms apart"),
    )
    rows = []
    for row in judged_tensors(frame.iloc[order[:most]]):
        look = DRIFT_LOOKS[row.verdict]
        sample = "" if row.sample < 0 else f" [{row.sample}]"
        release = [Cell(short(row.release), row.release)] if several else []
        rows.append(
            (
                Cell(f"{look.glyph} {look.word}", look.severity, _tone(row)),
                Cell(row.case),
                Cell(row.precision),
                *release,
                Cell(f"{row.tensor}{sample}", row.tensor),
                Cell(row.op or ""),
                Cell(row.kind),
                _number(row.old),
                _number(row.new),
                Cell(change_text(row.old, row.new), _sortable(row.change)),
                _number(row.error_limit),
                Cell(demand_text(row.gate, row.limit) or "–"),
                Cell(gates_held(row), float(row.new_passed)),
                _number(row.noise, unknown="not measured"),
                _number(row.floor),
                Cell(apart(row), _sortable(row.distance)),
            )
        )
    numeric = frozenset({"old error", "new error", "change", "noise ±", "floor", "error limit", "rms apart"})
    return Table(columns, numeric, tuple(rows), max(len(frame) - most, 0))


def unmeasured_layers(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows of a judgement are layers whose noise is unknown although their errors are finite."""
    errors = frame["old"].to_numpy(dtype=float)
    is_layer, is_unknown = (frame["kind"] == RowKind.LAYER).to_numpy(), frame["noise"].isna().to_numpy()
    return np.asarray(is_layer & is_unknown & np.isfinite(errors), dtype=np.bool_)


def structure_table(runs: Sequence[RunDrift], most: int) -> Table:
    """What changed in the engines."""
    releases = {run.new for run in runs}
    rows = []
    for run in runs:
        for change in run.structure:
            nodes = ", ".join(change.nodes[:8]) + (" …" if len(change.nodes) > 8 else "")
            rows.append(
                (
                    Cell(change.change.value),
                    Cell(run_title(run, releases)),
                    Cell(nodes),
                    Cell(f"{change.old} ({change.old_builds})", change.old),
                    Cell(f"{change.new} ({change.new_builds})", change.new),
                )
            )
    columns = ("change", "run", "nodes", "older (builds)", "newer (builds)")
    return Table(columns, frozenset(), tuple(rows[:most]), max(len(rows) - most, 0))


def engines_table(report: DriftReport) -> Table:
    """Latency, size and build time, those that changed beyond noise first."""
    tones = {Trend.MORE: "bad", Trend.LESS: "good", Trend.WITHIN_NOISE: "quiet", Trend.SAME: "quiet"}
    order = {trend: place for place, trend in enumerate(tones)}
    several, numbers = len(report.newer) > 1, ("older", "newer", "newer / older", "noise ±")
    columns = ("trend", "quantity", "case", "precision", *(["release"] if several else []), *numbers)
    rows = []
    for row in sorted(compared_engines(report.engines), key=lambda row: order[row.trend]):
        rows.append(
            (
                Cell(row.trend.value, float(order[row.trend]), tones[row.trend]),
                Cell(row.quantity),
                Cell(row.case),
                Cell(row.precision),
                *([Cell(short(row.release), row.release)] if several else []),
                _quantity(row.old, row.unit),
                _quantity(row.new, row.unit),
                Cell(f"×{number(row.ratio)}", _sortable(row.ratio)),
                _quantity(row.noise, row.unit),
            )
        )
    return Table(columns, frozenset(numbers), tuple(rows))


def change_text(old: float, new: float) -> str:
    """`×2.1`, or `from 0` and `from inf`, which have no multiples."""
    if math.isinf(old) and math.isinf(new):
        return "–"
    if old == 0 or math.isinf(old):
        return "–" if new == old else f"from {number(old)}"
    return ratio(new / old)


def gates_held(row: JudgedTensor) -> str:
    """`3/3 → 0/3`: in how many builds every gate of the tensor holds."""
    return f"{row.old_passed}/{row.old_builds} → {row.new_passed}/{row.new_builds}"


def apart(row: JudgedTensor) -> str:
    """`1.2e-3 (rebuilt 3e-4)`: how far the releases' values are apart, and those of rebuilds."""
    if math.isnan(row.distance):
        return "–"
    rebuilt = row.rebuild_distance
    return number(row.distance) + ("" if math.isnan(rebuilt) else f" (rebuilt {number(rebuilt)})")


def _tone(row: JudgedTensor) -> str:
    """That of the verdict; but what fails never looks healthy, nor does what proves nothing by itself look alarming."""
    tone = DRIFT_LOOKS[row.verdict].tone
    if tone == "bad" and row.kind == RowKind.LAYER and math.isnan(row.noise) and math.isfinite(row.old):
        return "calm"
    return "calm" if tone in ("good", "quiet") and row.new_passed < row.new_builds else tone


def _worst_first(frame: pd.DataFrame) -> NDArray[np.intp]:
    """Places of the rows: verdict, outputs before layers, then how far the error moved against its floor.

    Layers whose noise is unknown come after what moved beyond a noise that is known, and before what did not move.
    """
    severity = np.array([SEVERITY[DriftVerdict(name)] for name in frame["verdict"]], dtype=float)
    moved_unmeasured = unmeasured_layers(frame) & (severity > SEVERITY[DriftVerdict.WITHIN_NOISE])
    severity[moved_unmeasured] = SEVERITY[DriftVerdict.WITHIN_NOISE] + severity[moved_unmeasured] / 10
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.abs(frame["change"].to_numpy(dtype=float)) / frame["floor"].to_numpy(dtype=float)
    layer = (frame["kind"].astype(str) == "layer").to_numpy()
    return np.lexsort((-np.nan_to_num(moved), layer, -severity))


def _number(value: float, unknown: str = "–") -> Cell:
    return Cell(unknown if math.isnan(value) else number(value), _sortable(value))


def _quantity(value: float, unit: str) -> Cell:
    if math.isnan(value):
        return Cell("not measured", -1.0)
    if unit == "bytes":
        return Cell(f"{value / 1e6:.3g} MB", value)
    return Cell(f"{number(value)} {unit}", value)


def _sortable(value: float) -> float:
    if math.isnan(value):
        return -1e300
    return max(min(value, 1e300), -1e300)


def steps_table(series: Sequence[Series]) -> Table:
    """Every step of every series, the newest first."""
    found = [(one, step) for one in series for step in one.steps or ()]
    found.sort(key=lambda item: item[0].night(item[1]), reverse=True)
    rows = []
    for one, step in found:
        ratio = step.after / step.before if step.before else math.inf
        rows.append(
            (
                Cell(one.night(step)),
                Cell(one.case),
                Cell(str(one.precision)),
                Cell(f"{one.tensor} [{one.sample}]", one.tensor),
                Cell(number(step.before), min(step.before, 1e300)),
                Cell(number(step.after), min(step.after, 1e300)),
                Cell(f"×{number(ratio)}", min(ratio, 1e300), "bad" if ratio > 1 else "good"),
            )
        )
    columns = ("first night", "case", "precision", "output", "before", "after", "change")
    return Table(columns, frozenset({"before", "after"}), tuple(rows))
