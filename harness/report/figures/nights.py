"""Nightly series in a picture: the error of an output night by night, its levels, and the nights of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.history import Series
from harness.report.figures.canvas import (
    BLUE,
    INK,
    VERMILION,
    Scale,
    blank,
    draw_title,
    log_ticks,
    plain_axes,
    prepare_errors,
    set_ticks,
)
from harness.report.figures.layout import LEFT, RIGHT, WIDTH
from harness.text import number, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6
MOST_CALM = 2  # panels of series without a step
PANEL, FOOT, HEAD = 1.25, 0.5, 0.5  # inches


def stepped_first(series: Sequence[Series]) -> list[Series]:
    """The series with steps, the largest last step first; then the others as they are."""

    def size(one: Series) -> float:
        if not one.steps:
            return 0.0
        before, after = one.steps[-1].before, one.steps[-1].after
        if not math.isfinite(before) or not math.isfinite(after) or before <= 0 or after <= 0:
            return math.inf
        return abs(math.log(after / before))

    return sorted(series, key=size, reverse=True)


def series_figure(series: Sequence[Series]) -> Figure:
    """A panel a series, those with steps first."""
    stepped = sum(bool(one.steps) for one in series)
    shown = stepped_first(series)[: min(MOST_PANELS, max(MOST_CALM, stepped))]
    height = FOOT + len(shown) * PANEL + HEAD
    figure = blank(height)
    wide = (WIDTH - LEFT - RIGHT) / WIDTH
    for place, one in enumerate(shown):
        bottom = FOOT + (len(shown) - 1 - place) * PANEL
        axes = figure.add_axes((LEFT / WIDTH, bottom / height, wide, (PANEL - 0.42) / height))
        _draw(axes, one)
    draw_title(figure, "Error night by night")
    return figure


def _draw(axes: Axes, one: Series) -> None:
    scale = Scale.over(one.errors)
    nights = range(len(one.errors))
    prepare_errors(axes, scale, len(one.errors), room=1.5)
    heights = [scale.height(error) for error in one.errors]
    axes.plot(nights, heights, color=BLUE, marker="o", markersize=2.6, linewidth=0.9)
    for step in one.steps or ():
        axes.axvline(step.place - 0.5, color=VERMILION, linewidth=1.4)
        axes.annotate(
            f" {number(step.before)} → {number(step.after)}",
            (step.place - 0.5, 1.0),
            xycoords=axes.get_xaxis_transform(),
            size=8,
            color=VERMILION,
            va="top",
            weight="bold",
        )
    ticks = log_ticks(scale, one.errors)
    set_ticks(axes.yaxis, dict(list(ticks.items())[:: max(1, len(ticks) // 3)]))
    enough = "" if one.steps is not None else " (too few nights to seek steps)"
    name = f"{one.case} at {one.precision}: {one.tensor} [{one.sample}]{enough}"
    axes.set_title(shorten(name, 90), size=9, color=INK, loc="left", pad=3)
    places = sorted({0, len(one.runs) // 2, len(one.runs) - 1})
    axes.set_xticks(places, [_day(one.runs[place]) for place in places])
    plain_axes(axes)


def _day(run: str) -> str:
    """`2026-01-31` of a run's id."""
    return f"{run[:4]}-{run[4:6]}-{run[6:8]}"
