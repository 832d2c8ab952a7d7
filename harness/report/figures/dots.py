"""All runs in one picture: outputs build by build with their noise; latency, size and build time as ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.history import DriftReport, JudgedTensor, RowKind, RunDrift, compared_engines, judged_tensors
from harness.report.figures.canvas import (
    FAINT,
    GREY,
    INK,
    Scale,
    blank,
    colour_of,
    draw_grid,
    draw_legend,
    draw_title,
    log_ticks,
    plain_axes,
    set_ticks,
)
from harness.report.figures.layout import RIGHT, WIDTH
from harness.report.words import short
from harness.text import shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RUNS = 30  # rows of a picture
ROW, FOOT, HEAD = 0.24, 0.52, 0.62  # inches


def outputs_figure(report: DriftReport, runs: Sequence[RunDrift]) -> Figure:
    """The worst output of every run: each build's error, and the noise band of the older release."""
    outputs = report.tensors[report.tensors["kind"] == RowKind.OUTPUT]
    rows = _worst_outputs(outputs, runs[:MOST_RUNS])
    height = FOOT + max(len(rows), 1) * ROW + HEAD
    figure = blank(height)
    left = 3.1
    box = (left / WIDTH, FOOT / height, (WIDTH - left - RIGHT) / WIDTH, len(rows) * ROW / height)
    axes = figure.add_axes(box)
    places = range(len(rows))
    errors = _builds(report, rows)
    values = [error for found in errors for builds in found.values() for error in builds]
    scale = Scale.over(values)
    axes.set_xscale("log")
    axes.set_xlim(scale.floor / 2, scale.ceiling * 2)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    bands = [
        (place, scale.height(max(row.old - row.noise, 0.0)), scale.height(row.old + row.noise))
        for place, row in zip(places, rows, strict=True)
        if math.isfinite(row.old + row.noise)
    ]
    _draw_bands(axes, bands)
    for release in report.releases:
        colour = colour_of(report, release)
        older, newer = ("o", 5, "none"), ("D", 4.4, colour)
        marker, size, fill = older if release == report.old else newer
        dots = [(scale.height(error), place) for place in places for error in errors[place].get(release, ())]
        across, down = [dot[0] for dot in dots], [dot[1] for dot in dots]
        look: Any = {"marker": marker, "markersize": size, "markerfacecolor": fill, "linestyle": "none"}
        axes.plot(across, down, color=colour, label=short(release, 44), zorder=3, **look)
    names = (f"{row.case} {row.precision}: {row.tensor} [{row.sample}]" for row in rows)
    axes.set_yticks(list(places), [shorten(name, 42) for name in names])
    draw_grid(axes, "x")
    axes.set_xlabel("nrmse over the FP32 reference; the bar is the older release's noise band", color=INK)
    plain_axes(axes)
    set_ticks(axes.xaxis, log_ticks(scale, values))
    draw_title(figure, "Outputs, build by build", left=0.01)
    draw_legend(figure, axes, 1 - 0.36 / height, left=0.003)
    return figure


def engines_figure(report: DriftReport, engines: pd.DataFrame) -> Figure:
    """Latency, size and build time of the newer releases over the older one's, with its noise band."""
    quantities = list(dict.fromkeys(engines["quantity"]))
    keys = list(dict.fromkeys(zip(engines["case"], engines["precision"], strict=True)))[:MOST_RUNS]
    left = 2.3
    height = FOOT + len(keys) * ROW + HEAD + 0.1
    figure = blank(height)
    wide = (WIDTH - left - RIGHT) / len(quantities)
    for column, quantity in enumerate(quantities):
        start, width = left + column * wide, wide - 0.25
        axes = figure.add_axes((start / WIDTH, FOOT / height, width / WIDTH, len(keys) * ROW / height))
        part = engines[engines["quantity"] == quantity]
        _draw_ratios(axes, report, part, keys)
        axes.set_title(quantity, size=9.5, color=INK, loc="left")
        if not column:
            labels = [shorten(f"{case} {precision}", 30) for case, precision in keys]
            axes.set_yticks(range(len(keys)), labels)
            draw_legend(figure, axes, 1 - 0.02 / height, left=0.003)
        axes.set_xlabel("newer / older", color=INK, size=8.5)
    return figure


Output = tuple[str, str, str, int]


def _worst_outputs(outputs: pd.DataFrame, runs: Sequence[RunDrift]) -> list[JudgedTensor]:
    """For each run the output that its numbers are of; where these are a layer's, the one with the largest error.

    An output that several newer releases share is one row, with the widest of their noise bands.
    """
    by_run: dict[tuple[str, str, str], list[JudgedTensor]] = {}
    for row in judged_tensors(outputs):
        by_run.setdefault((row.release, row.case, row.precision), []).append(row)
    found: dict[Output, JudgedTensor] = {}
    for run in runs:
        rows = by_run.get((run.new, run.case, run.precision.value), [])
        if run.worst is not None:
            worst = (run.worst.tensor, run.worst.sample)
            rows = [row for row in rows if (row.tensor, row.sample) == worst] or rows
        if rows:
            row = max(rows, key=lambda row: max(row.old, row.new))
            known = found.setdefault(_output(row), row)
            if row.noise > known.noise or math.isnan(known.noise):
                found[_output(row)] = replace(known, noise=row.noise)
    return list(found.values())


def _output(row: JudgedTensor) -> Output:
    return row.case, row.precision, row.tensor, row.sample


def _builds(report: DriftReport, rows: Sequence[JudgedTensor]) -> list[dict[str, list[float]]]:
    """For each of `rows`, by release, the error of each build."""
    places = {_output(row): place for place, row in enumerate(rows)}
    found: list[dict[str, list[float]]] = [{} for _ in rows]
    records = report.records[(report.records["kind"] == RowKind.OUTPUT).to_numpy()]
    columns = [records[name] for name in ("case", "precision", "tensor", "sample", "side", "error")]
    for case, precision, tensor, sample, side, error in zip(*columns, strict=True):
        place = places.get((case, precision, tensor, sample))
        if place is not None:
            found[place].setdefault(str(side), []).append(float(error))
    return found


def _draw_bands(axes: Axes, bands: Sequence[tuple[int, float, float]]) -> None:
    """Noise bands as broad bars: place, low end, high end."""
    if bands:
        places, low, high = zip(*bands, strict=True)
        axes.hlines(places, low, high, color=FAINT, linewidth=9, zorder=1)


def _draw_ratios(
    axes: Axes, report: DriftReport, part: pd.DataFrame, keys: Sequence[tuple[str, str]]
) -> None:
    order = {key: place for place, key in enumerate(keys)}
    axes.axvline(1.0, color=GREY, linewidth=1.0)
    axes.set_xscale("log")
    rows = [row for row in compared_engines(part) if (row.case, row.precision) in order]
    bands = [
        (order[row.case, row.precision], max(1 - row.noise / row.old, 0.05), 1 + row.noise / row.old)
        for row in rows
        if row.noise > 0 and row.old > 0
    ]
    _draw_bands(axes, bands)
    for release in report.newer:
        chosen = [row for row in rows if row.release == release]
        axes.plot(
            [row.ratio for row in chosen],
            [order[row.case, row.precision] for row in chosen],
            marker="D",
            markersize=4.4,
            color=colour_of(report, release),
            linestyle="none",
            label=short(release, 44),
            zorder=3,
        )
    low = min([0.9, *(row.ratio for row in rows)])
    high = max([1.1, *(row.ratio for row in rows)])
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.set_yticks([])
    draw_grid(axes, "x")
    plain_axes(axes)
    _ratio_ticks(axes, low, high)


def _ratio_ticks(axes: Axes, low: float, high: float) -> None:
    steps = [0.05, 0.1, 0.2, 0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 2.0, 4.0, 5.0, 10.0, 20.0, 50.0]
    wide = high / low
    ticks = [tick for tick in steps if low / 1.16 <= tick <= high * 1.16]
    if wide > 3:
        ticks = [tick for tick in ticks if tick not in (0.8, 0.9, 1.1, 1.25, 0.2, 5.0)]
    set_ticks(axes.xaxis, {tick: f"{tick:g}" for tick in ticks})
