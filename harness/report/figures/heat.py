"""A small picture of where in a tensor the error sits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.comparison import ErrorMap
from harness.report.figures.canvas import INK, VERMILION, plain_axes, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _CELL, _LEAST, _MOST = 6.0, 0.14, 0.9, 3.0


def error_map_svg(found: ErrorMap, name: str) -> str:
    """The map as an element for a page: pale is no error, red the largest, black what is not finite."""
    return svg(lambda: _figure(found), name)


def _figure(found: ErrorMap) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    cells = np.array(found.cells)
    finite = np.where(np.isfinite(cells), cells, np.nan)
    height = min(max(len(cells) * _CELL, _LEAST), _MOST) + 0.7
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
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
        extent=(0, columns, rows, 0),
        interpolation="nearest",
    )
    plain_axes(axes)
    axes.set_xlabel(f"axis {len(found.shape) - 1}", fontsize=8.5, color=INK)
    if len(found.shape) > 1:
        axes.set_ylabel(f"axis {len(found.shape) - 2}", fontsize=8.5, color=INK)
    else:
        axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=8.5, colors=INK)
    return figure
