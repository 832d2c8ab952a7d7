"""The error-growth picture: how far each layer is from the reference, in the order in which they run.

Two errors of one layer stand at one place: accumulated (the candidate fed its own tensors: a line) and
introduced (the node alone, fed the reference's tensors: dots). An origin is where the line leaves the gate
while everything before it held; a jump of the line whose dot stays low is an error that was only passed on.
Drawn on figure objects alone: no pyplot, so no backend, window or global state of the caller is touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.judge import LayerResult, RunResult
from harness.report.figures.canvas import (
    BLUE,
    DASHES,
    GREY,
    INK,
    MOST_VECTORS,
    ORANGE,
    PALE,
    PURPLE,
    VERMILION,
    Scale,
    blank,
    draw_legend,
    draw_name,
    draw_rings,
    draw_ticks,
    draw_title,
    label_errors,
    label_layers,
    plain_axes,
    prepare_errors,
    render,
    set_ticks,
    svg,
)
from harness.report.figures.layout import (
    AXIS,
    HEADROOM_HEIGHT,
    MAIN_HEIGHT,
    TITLE_HEIGHT,
    Layout,
    OriginLabel,
)
from harness.report.words import title
from harness.tensors import write_bytes
from harness.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
FEW = 150  # layers that get a mark each
MOST_HEADROOM = 1e4  # and multiples of the largest number beyond this one at the top


def error_growth(result: RunResult, *, note: str = "") -> Figure:
    """The error-growth picture of one run as a matplotlib figure, for any number of layers.

    `note` is what else the title says of it: `4 nodes in FP32`.

    Raises:
        UsageError: the run observed no layers.
    """
    layers = result.layers
    if not layers:
        raise UsageError(
            "there is no error to draw: this run observed no layers",
            where=result.id,
            hint="observe the intermediate tensors: leave out `--observe none`",
        )
    layout = Layout.of(layers)
    figure = blank(layout.height)
    main = figure.add_axes(layout.box(layout.main_bottom, MAIN_HEIGHT))
    scale = draw_errors(main, layers)
    draw_failures(main, layers, scale)
    draw_origins(main, layers, scale, layout.labels)
    lowest = main
    if layout.headroom:
        lowest = figure.add_axes(layout.box(layout.foot, HEADROOM_HEIGHT), sharex=main)
        draw_headroom(lowest, layers, result.precision.storage_dtype)
        main.tick_params(labelbottom=False)
    names = [layer.node for layer in layers]
    label_layers(lowest, names, numbers="node", number=lambda place: layers[place].index)
    perturbed = " (perturbed by observation)" if result.faithful is False else ""
    heading = f"Error growth: {title(result)}{f', {note}' if note else ''}{perturbed}"
    draw_title(figure, heading)
    draw_legend(figure, main, 1 - (TITLE_HEIGHT - 0.02) / layout.height, columns=6)
    return figure


def save_error_growth(result: RunResult, path: str | Path, *, note: str = "") -> Path:
    """Write the picture of `result` to `path`, a `.png` or `.svg`, atomically; `note` is as in `error_growth`.

    Raises:
        UsageError: another kind of file is asked for, or the run observed no layers.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError("cannot draw this kind of file", where=path, hint="name a .png or a .svg")
    kind = path.suffix.lower().removeprefix(".")
    write_bytes(path, render(lambda: error_growth(result, note=note), kind, salt=_own(result, note)))
    return path


def error_growth_svg(result: RunResult, *, note: str = "") -> str:
    """The picture as an `<svg>` element for a page; its ids are its own, so that several share a page."""
    return svg(lambda: error_growth(result, note=note), _own(result, note))


def _own(result: RunResult, note: str) -> str:
    """What distinguishes a picture from others of its page, where one run may stand before and after its cure."""
    return f"{result.id} {note}" if note else result.id


def draw_errors(axes: Axes, layers: Sequence[LayerResult]) -> Scale:
    """Draw accumulated errors as a line, introduced ones as dots, and the gate; return the scale."""
    accumulated = [layer.metrics.error for layer in layers]
    introduced = [None if layer.introduced is None else layer.introduced.error for layer in layers]
    limits = [_limit(layer) for layer in layers]
    every = [*accumulated, *introduced]
    scale = Scale.over([*every, *limits])
    places = range(len(layers))
    few = len(layers) <= FEW
    prepare_errors(axes, scale, len(layers))
    heights = [scale.height(value) for value in accumulated]
    axes.plot(places, heights, color=BLUE, linewidth=1.6 if few else 1.1, label="accumulated", zorder=3)
    if few:
        axes.plot(places, heights, color=BLUE, marker="o", markersize=3.2, linestyle="none", zorder=3)
    if any(value is not None for value in introduced):
        axes.plot(
            places,
            [scale.height(value) for value in introduced],
            label="introduced",
            linestyle="none",
            color=ORANGE,
            marker="s",
            markersize=4.2 if few else 2.2,
            markeredgecolor="white" if few else ORANGE,
            markeredgewidth=0.5 if few else None,
            zorder=4,
            rasterized=len(layers) > MOST_VECTORS,
        )
    if any(limit is not None for limit in limits):
        axes.plot(
            [place + offset for place in places for offset in (-0.5, 0.5)],
            [math.nan if limit is None else limit for limit in limits for _ in range(2)],
            color=GREY,
            linestyle=DASHES,
            linewidth=1.2,
            label="gate on nrmse",
            zorder=2,
        )
    foot = "equal" if any(value == 0 for value in every) else ""
    foot = "nearly equal" if any(value is not None and 0 < value < scale.floor for value in every) else foot
    label_errors(axes, _decades(scale, foot=foot, broken=any(_broken(value) for value in every)))
    return scale


def draw_failures(axes: Axes, layers: Sequence[LayerResult], scale: Scale) -> None:
    """Tick each layer whose gates fail at the bottom, and put triangles at the top where it is not finite."""
    few = len(layers) <= FEW
    failing = [place for place, layer in enumerate(layers) if layer.diverged]
    if failing:
        draw_ticks(axes, failing, "a gate fails", count=len(layers), width=1.4 if few else 0.7)
    broken = [
        place
        for place, layer in enumerate(layers)
        if _broken(layer.metrics.error) or (layer.introduced is not None and _broken(layer.introduced.error))
    ]
    if broken:
        axes.plot(
            broken,
            [scale.ceiling] * len(broken),
            linestyle="none",
            label=f"overflow or not finite ({len(broken)})",
            color=VERMILION,
            marker="^",
            markersize=7 if few else 4,
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=6,
        )


def draw_origins(
    axes: Axes, layers: Sequence[LayerResult], scale: Scale, labels: Sequence[OriginLabel]
) -> None:
    """Ring each origin, and lead a line from the labelled ones to their names above the axes."""
    heights = {place: scale.height(each.metrics.error) for place, each in enumerate(layers) if each.origin}
    if heights:
        draw_rings(axes, list(heights), list(heights.values()), f"origin ({len(heights)})")
    for label in labels:
        height = heights[label.place]
        draw_name(axes, label.text, label.place, height, row=label.row, leftwards=label.leftwards)


def draw_headroom(axes: Axes, layers: Sequence[LayerResult], dtype: str) -> None:
    """A strip: how near each reference tensor comes to the largest number of `dtype`, and which do overflow."""
    bottom = 1e-6
    heights = [min(max(layer.metrics.headroom, bottom), MOST_HEADROOM) for layer in layers]
    over = [place for place, height in enumerate(heights) if height > 1]
    broken = [place for place in over if layers[place].metrics.overflow_count]
    axes.set_yscale("log")
    axes.set_ylim(bottom, 3 * max(10.0, *(height for height in heights if math.isfinite(height))))
    # Bars with gaps while they fit, then lines that touch.
    width = min(8.0, max(0.5, 0.6 * 72 * AXIS / len(layers)))
    bars: Any = {"linewidth": width, "rasterized": len(layers) > MOST_VECTORS}
    axes.vlines(range(len(layers)), bottom, heights, color=PALE, **bars)
    axes.axhline(1.0, color=GREY, linewidth=1.0, linestyle=DASHES)
    if broken:
        axes.vlines(broken, bottom, [heights[place] for place in broken], color=PURPLE, **bars)
    for places, fill in ((over, "white"), (broken, PURPLE)):
        if places:
            tops = [heights[place] for place in places]
            axes.plot(places, tops, "D", color=fill, markersize=4, markeredgecolor=PURPLE)
    ticks = {1e-4: "1e-4", 1e-2: "1e-2", 1.0: "1"}
    if any(layer.metrics.headroom > MOST_HEADROOM for layer in layers):
        ticks[MOST_HEADROOM] = "beyond 1e4"
    set_ticks(axes.yaxis, ticks)
    note = f"× max: largest reference value over the largest {dtype}"
    note += f"; beyond 1 in {_overflowing(len(over), len(broken))}" if over else ""
    axes.text(0, 1.04, note, transform=axes.transAxes, size=8.5, color=INK)
    plain_axes(axes)


def _overflowing(over: int, broken: int) -> str:
    """`3 tensors, which overflow`: in this run, in which some may be kept in FP32."""
    verb = "overflow" if broken > 1 else "overflows"
    which = "which" if over == broken else f"{broken or 'none'} of which"
    return f"{plural(over, 'tensor')}, {which} {verb}{'' if broken else ' here'}"


def _decades(scale: Scale, *, foot: str, broken: bool) -> dict[float, str]:
    """Decades, few enough to read, and names for the foot, if something stands there, and for what is not finite."""
    low, high = math.ceil(math.log10(scale.floor * 2)), math.floor(math.log10(scale.ceiling / 2))
    step = max(1, math.ceil((high - low + 1) / 7))
    ticks = {10.0**power: f"1e{power}" if power else "1" for power in range(high, low - 1, -step)}
    if foot:
        ticks[scale.floor] = foot
    if broken:
        ticks[scale.ceiling] = "not finite"
    return ticks


def _broken(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)


def _limit(layer: LayerResult) -> float | None:
    """The gate as an nrmse; engines have theirs on rmse, which is the same over the reference's rms."""
    limits = [gate.limit for gate in layer.gates if gate.metric == "nrmse"]
    if rms := layer.metrics.reference_rms:
        limits += [gate.limit / rms for gate in layer.gates if gate.metric == "rmse"]
    return min(limits, default=None)
