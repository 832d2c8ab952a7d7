"""Pictures of quantised models: the histogram of a tensor with its thresholds, and error against quantised work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.quantization import Curve, Histogram, Quantization
from harness.report.figures.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    VERMILION,
    blank,
    draw_grid,
    draw_title,
    plain_axes,
    svg,
)
from harness.text import number, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE)
WIDTH, HEIGHT = 8.0, 2.6


def histogram_svg(
    name: str, histogram: Histogram, thresholds: Mapping[str, float], divergence: Curve | None = None
) -> str:
    """The magnitudes of a tensor, with a line where each method clips, and the curve that entropy minimises."""

    def make() -> Figure:
        figure = blank(HEIGHT, WIDTH)
        axes: Axes = figure.add_axes((0.09, 0.2, 0.82, 0.62))
        step = 8  # 256 bars: more than a screen shows
        counts = histogram.counts.reshape(-1, step).sum(axis=1)
        axes.fill_between(histogram.edges[:-1:step], 0.5, counts.clip(0.5), step="post", color="#C7CDD6")
        axes.set_yscale("log")
        axes.set_xlim(0, max(histogram.largest, 1e-30))
        axes.set_xlabel("magnitude", color=INK, size=8.5)
        axes.set_ylabel("elements", color=INK, size=8.5)
        for colour, (label, value) in zip(_COLOURS, thresholds.items(), strict=False):
            drawn = min(value, histogram.largest)
            beyond = ", beyond the largest" if value > histogram.largest * 1.001 else ""
            axes.axvline(drawn, color=colour, linewidth=1.6, label=f"{label} {number(value)}{beyond}")
        plain_axes(axes)
        if divergence is not None:
            other = axes.twinx()
            other.plot(divergence.thresholds, divergence.values, color=GREY, linewidth=1.2)
            other.set_ylabel("KL divergence", color=GREY, size=8.5)
            other.tick_params(colors=GREY, labelsize=8)
            for side in ("top", "left", "bottom"):
                other.spines[side].set_visible(False)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=7.5, borderpad=0
        )
        draw_title(figure, shorten(name, 60), left=0.09)
        return figure

    return svg(make, f"histogram {name}")


def mixed_curve_svg(found: Quantization) -> str:
    """The error of the model against the share of its multiply-adds that are quantised."""

    def make() -> Figure:
        figure = blank(3.2, WIDTH)
        axes: Axes = figure.add_axes((0.09, 0.17, 0.86, 0.66))
        for label, colour, errors in (
            ("calibration samples", BLUE, [point.error for point in found.curve]),
            ("unseen samples", ORANGE, [point.unseen for point in found.curve]),
        ):
            places = [
                (point.share * 100, e) for point, e in zip(found.curve, errors, strict=True) if e is not None
            ]
            if places:
                axes.plot(*zip(*places, strict=True), color=colour, marker="o", markersize=4, label=label)
        chosen = found.chosen
        axes.plot(
            [chosen.share * 100],
            [chosen.error],
            "o",
            markersize=11,
            markerfacecolor="none",
            color=VERMILION,
            label="this model",
        )
        axes.set_xlabel("multiply-adds that are quantised, %", color=INK, size=8.5)
        axes.set_ylabel("nrmse of the worst output", color=INK, size=8.5)
        axes.set_ylim(bottom=0)
        draw_grid(axes, "y")
        plain_axes(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        draw_title(figure, f"Error against share: {shorten(found.model, 50)}", left=0.09)
        return figure

    return svg(make, f"curve {found.model} {found.format}")
