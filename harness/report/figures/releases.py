"""Error growth of the older and the newer releases laid over each other, and the layers × releases heatmap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.history import REGRESSIONS, DriftReport, RowKind, RunDrift
from harness.report.figures.canvas import (
    BLUE,
    INK,
    VERMILION,
    Scale,
    blank,
    colour_of,
    draw_legend,
    draw_name,
    draw_rings,
    draw_ticks,
    draw_title,
    label_errors,
    label_layers,
    log_ticks,
    prepare_errors,
)
from harness.report.figures.layout import LABEL_HEIGHT, LEFT, MOST_NAMES, NAME_LENGTH, RIGHT, WIDTH
from harness.report.words import short
from harness.text import number, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MAIN, STRIP, HEAD, GAP = 2.9, 0.24, 0.62, 0.34  # inches
MOST_RINGS = 6  # origins that get a ring, and of those the first three their name
MOST_NAMED = 3
MOST_TITLE = 20  # letters of what the title names, beside the keys
FEW = 60  # layers that get a mark each, besides the line
MIN_DECADES = 2.0  # of errors that the colours span
MOST_CHANGE = 1.0  # decades up and down at which the colours of a change end
KEY_WIDTH, KEY_HEIGHT, KEY_GAP, KEY_LINE, CHARACTER = 0.7, 0.11, 0.06, 0.22, 0.066  # inches


@dataclass(frozen=True)
class Key:
    """What a colour map means: its name, what its first and its last colour stand for, and the map."""

    name: str
    low: str
    high: str
    colours: Colormap


def growth_figure(report: DriftReport, run: RunDrift) -> Figure:
    """Error of each layer in the older and the newer releases, with the older one's noise band, origins ringed.

    Under it the layers × releases heatmap: the darker, the larger the error, red where it is not finite; and the
    change of each newer release: red where it regressed, blue where it improved, full colour from ten times on.
    """
    table = layer_table(report, run)
    rows = 2 * len(table.columns) - 1
    named = len(table) <= MOST_NAMES
    foot = 0.3 + 0.052 * min(NAME_LENGTH, max(map(len, table.index))) if named else 0.52
    names = MOST_NAMED * LABEL_HEIGHT if run.origins else 0.0
    height = foot + rows * STRIP + GAP + MAIN + names + HEAD
    figure = blank(height)

    def box(bottom: float, tall: float) -> tuple[float, float, float, float]:
        return (LEFT / WIDTH, bottom / height, (WIDTH - LEFT - RIGHT) / WIDTH, tall / height)

    strip = figure.add_axes(box(foot, rows * STRIP))
    main = figure.add_axes(box(foot + rows * STRIP + GAP, MAIN), sharex=strip)
    _draw_growth(main, report, run, table)
    colours = _draw_heatmap(strip, report, table)
    label_layers(strip, list(map(str, table.index)), numbers="layer")
    main.tick_params(labelbottom=False)
    draw_title(figure, f"Error growth and heatmap: {shorten(f'{run.case} at {run.precision}', MOST_TITLE)}")
    draw_legend(figure, main, 1 - 0.36 / height)
    _draw_keys(figure, colours)
    return figure


def layer_table(report: DriftReport, run: RunDrift) -> pd.DataFrame:
    """Error by layer (in order; rows are named by tensor) and release, on the level that the judgement uses.

    It is infinite where most builds are, and else the mean of the finite ones.
    """
    records = report.records
    chosen = records[
        (records["case"] == run.case)
        & (records["precision"] == run.precision.value)
        & (records["kind"] == RowKind.LAYER)
    ]
    places = chosen.groupby(chosen["tensor"].astype(str), sort=False)["index"].min()
    errors = chosen["error"].astype(float)
    finite = errors.where(np.isfinite(errors))
    builds = finite.groupby([chosen["tensor"].astype(str), chosen["side"].astype(str)], sort=False)
    level = builds.mean().where(2 * builds.count() >= builds.size(), math.inf)
    table = level.unstack("side").loc[places.sort_values(kind="stable").index]
    return table[[name for name in report.releases if name in table.columns]]


def _draw_growth(axes: Axes, report: DriftReport, run: RunDrift, table: pd.DataFrame) -> None:
    judged = report.tensors
    judged = judged[
        (judged["release"] == run.new)
        & (judged["case"] == run.case)
        & (judged["precision"] == run.precision.value)
        & (judged["kind"] == RowKind.LAYER)
    ]
    judged = judged.set_index(judged["tensor"].astype(str))
    places = np.arange(len(table))
    few = len(table) <= FEW
    values = [float(value) for value in table.to_numpy().ravel() if not math.isnan(value)]
    scale = Scale.over(values)
    prepare_errors(axes, scale, len(table))
    noise = judged["noise"].reindex(table.index).to_numpy(dtype=float)
    if report.old in table and np.isfinite(noise).any():
        middle_line = table[report.old].to_numpy(dtype=float)
        low = np.clip(middle_line - noise, scale.floor, None)
        axes.fill_between(
            places, low, middle_line + noise, color=BLUE, alpha=0.18, linewidth=0, label="noise band"
        )
    for release in table.columns:
        heights = [scale.height(_or_none(value)) for value in table[release]]
        look: Any = {"linewidth": 1.5, "marker": "o", "markersize": 2.8} if few else {"linewidth": 1.0}
        colour = colour_of(report, release)
        axes.plot(places, heights, label=short(release, 44), color=colour, zorder=3, **look)
    verdicts = judged["verdict"].reindex(table.index)
    worse = [place for place, verdict in enumerate(verdicts) if verdict in REGRESSIONS]
    if worse:
        draw_ticks(axes, worse, "regressed", count=len(table))
    _ring_origins(axes, run, table, scale)
    label_errors(axes, log_ticks(scale, values))


def _ring_origins(axes: Axes, run: RunDrift, table: pd.DataFrame, scale: Scale) -> None:
    order = {name: place for place, name in enumerate(table.index)}
    rings = [(order[origin.tensor], origin) for origin in run.origins if origin.tensor in order][:MOST_RINGS]
    if not rings or run.new not in table:
        return
    heights = [scale.height(_or_none(table[run.new].iloc[place])) for place, _ in rings]
    draw_rings(axes, [place for place, _ in rings], heights, "origin")
    named = rings[:MOST_NAMED]
    for rank, (place, origin) in enumerate(named):
        text, row = shorten(f"{origin.node or origin.tensor} ({origin.op})", 44), len(named) - 1 - rank
        draw_name(axes, text, place, heights[rank], row=row, leftwards=place > 0.7 * len(table))


def _draw_heatmap(axes: Axes, report: DriftReport, table: pd.DataFrame) -> tuple[Key, ...]:
    """A row of errors for each release, and under it a row of changes for each newer one; what the colours mean."""
    import matplotlib

    errors = matplotlib.colormaps["cividis_r"].with_extremes(bad="white", over=VERMILION, under="white")
    changes = matplotlib.colormaps["RdBu_r"].with_extremes(bad="white")
    values = table.to_numpy(dtype=float).T
    usual = values[np.isfinite(values) & (values > 0)]
    low, high = _range(usual)
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.log10(values)
        change = np.log10(values[1:] / values[:1]) if report.old in table else values[:0]
    change = np.where(np.isposinf(values[1:]) & np.isposinf(values[:1]), 0.0, change)
    change = np.clip(np.nan_to_num(change, nan=0.0), -MOST_CHANGE, MOST_CHANGE)
    rows = len(values) + len(change)
    shown = np.where(np.isposinf(values), high + 1, shown)
    for cells, colours, ends, (first, last) in (
        (shown, errors, (low, high + 1e-9), (0, len(values))),
        (change, changes, (-MOST_CHANGE, MOST_CHANGE), (len(values), rows)),
    ):
        extent = (-0.5, values.shape[1] - 0.5, last - 0.5, first - 0.5)
        looks: Any = {"vmin": ends[0], "vmax": ends[1], "aspect": "auto", "interpolation": "nearest"}
        axes.imshow(cells, cmap=colours, extent=extent, **looks)
    axes.set_ylim(rows - 0.5, -0.5)
    several = len(table.columns) > 2
    names = [
        "older" if name == report.old else short(str(name), 12) if several else "newer" for name in table
    ]
    changed = [f"Δ {name}" if several else "change" for name in names[1:]] if len(change) else []
    axes.set_yticks(range(rows), [*names, *changed])
    for row in range(1, rows):
        axes.axhline(row - 0.5, color="white", linewidth=2)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    over = " (red: not finite)" if np.isposinf(values).any() else ""
    keys = [Key("error", number(10**low), number(10**high) + over, errors)]
    if len(change):
        name, most = "Δ change" if several else "change", f"{10**MOST_CHANGE:.0f}"
        keys.append(Key(name, f"÷{most}", f"×{most}", changes))
    return tuple(keys)


def _range(errors: NDArray[np.float64]) -> tuple[float, float]:
    """The decades that the colours of `errors` span: at least MIN_DECADES, so that alike errors look alike."""
    if not errors.size:
        return -9.0, 0.0
    low, high = math.log10(errors.min()), math.log10(errors.max())
    wider = max(0.0, MIN_DECADES - (high - low)) / 2
    return low - wider, high + wider


def _draw_keys(figure: Figure, keys: Sequence[Key]) -> None:
    """What the colours of the heatmap mean: a small bar each, from the right end of the title's line."""
    _, height = figure.get_size_inches()
    right = WIDTH - RIGHT
    line = 1 - KEY_LINE / height
    for key in reversed(keys):
        text: dict[str, Any] = {"size": 8, "color": INK, "va": "center"}
        right -= CHARACTER * len(key.high)
        figure.text(right / WIDTH, line, key.high, ha="left", **text)
        right -= KEY_GAP + KEY_WIDTH
        box = (right / WIDTH, line - KEY_HEIGHT / 2 / height, KEY_WIDTH / WIDTH, KEY_HEIGHT / height)
        bar = figure.add_axes(box, label=f"key {key.name}")
        bar.imshow(np.linspace(0, 1, 64)[None, :], cmap=key.colours, aspect="auto", vmin=0, vmax=1)
        bar.set_axis_off()
        right -= KEY_GAP
        figure.text(right / WIDTH, line, f"{key.name} {key.low}", ha="right", **text)
        right -= CHARACTER * (len(key.name) + 1 + len(key.low)) + 3 * KEY_GAP


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
