"""A small picture of where in a tensor the error sits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.comparison import ErrorMap
from harness.report.figures.canvas import INK, VERMILION, blank, plain_axes, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _LEAST, _MOST = 0.2, 0.9, 4.0
_MOST_TICKS = 8


def error_map_svg(found: ErrorMap, name: str) -> str:
    """The map as an element for a page: pale is no error, red the largest, black what is not finite."""
    return svg(lambda: _figure(found), name)


def _figure(found: ErrorMap) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import FixedLocator, MaxNLocator

    cells = np.array(found.cells)
    finite = np.where(np.isfinite(cells), cells, np.nan)
    height = min(max(len(cells) * _CELL, _LEAST), _MOST) + 0.7
    figure = blank(height)
    axes = figure.add_axes((0.12, 0.45 / height, 0.72, 1 - 0.6 / height))
    colours = LinearSegmentedColormap.from_list("error", ["#F8FAFC", VERMILION]).with_extremes(bad=INK)
    *_, columns = found.shape
    rows = found.shape[-2] if len(found.shape) > 1 else 1
    largest = float(np.nanmax(finite)) if np.isfinite(cells).any() else 0.0
    drawn = axes.imshow(
        finite,
        cmap=colours,
        vmin=0,
        vmax=largest or 1.0,
        aspect="auto",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),  # so that a tick stands at the middle of its index
        interpolation="nearest",
    )
    plain_axes(axes)
    for axis, size in ((axes.xaxis, columns), (axes.yaxis, rows)):
        few = size <= _MOST_TICKS
        axis.set_major_locator(FixedLocator(range(size)) if few else MaxNLocator(_MOST_TICKS, integer=True))
    axes.set_xlabel(f"axis {len(found.shape) - 1}", fontsize=8.5, color=INK)
    if len(found.shape) > 1:
        axes.set_ylabel(f"axis {len(found.shape) - 2}", fontsize=8.5, color=INK)
    else:
        axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=8.5, colors=INK)
    return figure
