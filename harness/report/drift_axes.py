"""What the pictures of drift share: colours of releases, ticks of logarithmic axes, legends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.history import DriftReport
from harness.report.drawing import BLUE, INK, ORANGE, PURPLE, Scale
from harness.report.layout import LEFT, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREEN = "#009E73"
NEWER = (ORANGE, PURPLE, GREEN)
_MOST_TICKS = 8
_FEW_DECADES = 2.6  # fewer get ticks at 2 and 5 as well


def colour_of(report: DriftReport, release: str) -> str:
    """The colour of a release in every picture: blue for the older one."""
    place = report.releases.index(release)
    return BLUE if place == 0 else NEWER[(place - 1) % len(NEWER)]


def log_ticks(scale: Scale, values: Iterable[float]) -> dict[float, str]:
    """Places and texts for a logarithmic axis, with names for the places of zero and of what is not finite."""
    values = list(values)
    zero = any(value == 0 for value in values)
    broken = any(not math.isfinite(value) for value in values)
    low = scale.floor * (4 if zero else 1)
    high = scale.ceiling / (6 if broken else 1)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / _MOST_TICKS))
    steps = (1, 2, 5) if high / low < 10**_FEW_DECADES else (1,)
    ticks = {}
    for power in range(last, first - 1, -step):
        for digit in steps:
            if low <= digit * 10.0**power <= high:
                ticks[digit * 10.0**power] = _spell(digit, power)
    if zero:
        ticks[scale.floor] = "equal"
    if broken:
        ticks[scale.ceiling] = "not finite"
    return ticks


def draw_legend(figure: Figure, axes: Axes, top: float, *, left: float = LEFT / WIDTH - 0.008) -> None:
    """The legend of `axes` in one or two lines at `top` (a fraction of the figure)."""
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(left, top),
        bbox_transform=figure.transFigure,
        ncols=4,
        frameon=False,
        fontsize=8.5,
        borderpad=0,
        columnspacing=1.4,
        handletextpad=0.5,
        labelcolor=INK,
    )


def _spell(digit: int, power: int) -> str:
    if -2 <= power <= 2:
        return f"{digit * 10.0**power:g}"
    return f"{digit}e{power}"
