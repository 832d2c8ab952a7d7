"""What all pictures share: files and `<svg>` elements of matplotlib, colours, logarithmic axes, legends."""

from __future__ import annotations

import io
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.report.figures.layout import LABEL_HEIGHT, LEFT, MOST_NAMES, NAME_LENGTH, WIDTH
from harness.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from harness.history import DriftReport

# Okabe and Ito's palette: distinguished by readers with any of the common colour deficiencies.
BLUE, ORANGE, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#6B7280"
INK, FAINT, PALE = "#1F2937", "#E5E7EB", "#C7CDD6"
DASHES = (0, (5, 3))
GREEN = "#009E73"
NEWER = (ORANGE, PURPLE, GREEN)
_MOST_TICKS = 8
_FEW_DECADES = 2.6  # fewer get ticks at 2 and 5 as well
MOST_VECTORS = 400  # layers whose marks are vectors in an SVG; of more they would make it heavy
LEAST = (
    1e-8  # errors far below it are drawn at the foot: with a mask of -1e38, they would take all the height
)


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis with a place for zero (`floor`) and one for what is not finite (`ceiling`)."""

    floor: float
    ceiling: float

    @classmethod
    def over(cls, errors: Iterable[float | None]) -> Scale:
        """The scale on which all of `errors` can be drawn, those below `LEAST` at its foot."""
        drawn = [value for value in errors if value is not None and math.isfinite(value) and value > 0]
        if not drawn:
            return cls(1e-9, 1.0)
        return cls(max(min(drawn), LEAST) / 4, max(*drawn, LEAST) * 4)

    def height(self, value: float | None) -> float:
        """Where `value` is drawn; NaN, which is not drawn, for None."""
        if value is None:
            return math.nan
        return min(max(value, self.floor), self.ceiling) if math.isfinite(value) else self.ceiling


def blank(height: float, width: float = WIDTH) -> Figure:
    """An empty picture, so many inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def set_ticks(axis: Axis, ticks: Mapping[float, str]) -> None:
    """Texts at these places of an axis, and nothing between them."""
    axis.set_ticks(list(ticks), list(ticks.values()))
    axis.set_ticks([], minor=True)


def plain_axes(axes: Axes) -> None:
    """No more of the axes than it takes to read them."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9CA3AF")
    axes.tick_params(colors=INK, labelsize=8.5, length=3)


_DRAWING = threading.Lock()
"""Held while matplotlib draws, whose style is of the whole process."""


def load_pictures() -> None:
    """Load matplotlib and its fonts, which takes a second: by drawing one letter."""

    def letter() -> Figure:
        figure = blank(1, 1)
        figure.text(0, 0, "x")
        return figure

    render(letter, "svg", salt="letter")


def render(make: Callable[[], Figure], kind: str, *, salt: str) -> bytes:
    """The bytes of a `png` or `svg` file of the figure that `make` makes; equal ones with equal `salt` are equal.

    Letters stay letters in an SVG: smaller, searchable. No pyplot: nothing of the caller's is touched.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with _DRAWING, matplotlib.style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": salt}]):
        canvas = (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(make())
        stream = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        canvas.print_figure(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def svg(make: Callable[[], Figure], name: str) -> str:
    """The figure as an element for a page; `name` makes its ids its own, so that several share a page."""
    text = render(make, "svg", salt=name).decode("utf-8")
    opening, body = text[text.index("<svg") :].split(">", 1)
    # A page decides how wide a picture is; the view box keeps its shape.
    element = re.sub(r' (?:width|height)="[^"]*"', "", opening) + ">" + body
    own = re.sub(r"[^A-Za-z0-9]+", "-", name) + "-"
    return re.sub(r'(\bid="|url\(#|href="#)', lambda match: match[1] + own, element)


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


def prepare_errors(axes: Axes, scale: Scale, count: int, *, room: float = 2.0) -> None:
    """A logarithmic axis of errors over `count` places; `room` is a factor below its floor and above its ceiling."""
    axes.set_yscale("log")
    axes.set_ylim(scale.floor / room, scale.ceiling * room)
    axes.set_xlim(-0.6, count - 0.4)
    draw_grid(axes, "y")
    plain_axes(axes)


def draw_grid(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Faint lines across `axis`, behind everything."""
    axes.grid(axis=axis, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def label_errors(axes: Axes, ticks: Mapping[float, str]) -> None:
    """Ticks of an axis of errors, and its name."""
    set_ticks(axes.yaxis, ticks)
    axes.set_ylabel("nrmse over the FP32 reference", color=INK)
    axes.yaxis.set_label_coords(-0.072, 0.5)


def label_layers(
    axes: Axes, names: Sequence[str], *, numbers: str, number: Callable[[int], object] = int
) -> None:
    """Name the layers under the axes while their names fit, else number them.

    Args:
        axes: the lowest axes.
        names: of the layers.
        numbers: what the numbers are.
        number: the number of the layer at a place.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if len(names) <= MOST_NAMES:
        short = [shorten(name, NAME_LENGTH) for name in names]
        axes.set_xticks(range(len(short)), short, rotation=45, ha="right", rotation_mode="anchor", size=7.5)
        return

    def text(place: float, _: object) -> str:
        return str(number(int(place))) if 0 <= place < len(names) and place == int(place) else ""

    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(text))
    axes.set_xlabel(f"{numbers}, in the order of the graph ({len(names)} tensors)", color=INK)


def draw_rings(axes: Axes, places: Sequence[int], heights: Sequence[float], label: str) -> None:
    """A ring around each origin."""
    axes.plot(
        places,
        heights,
        label=label,
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=VERMILION,
        markeredgewidth=1.8,
        zorder=7,
    )


def draw_name(axes: Axes, text: str, place: int, height: float, *, row: int, leftwards: bool) -> None:
    """A name above the axes, `row` rows up, with a line that leads from it down to a layer at `height`."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.figure
    up = ScaledTranslation(0, LABEL_HEIGHT * (row + 0.55), figure.dpi_scale_trans)
    spot: dict[str, Any] = {
        "xy": (place, height),
        "xytext": (place, 1.0),
        "textcoords": axes.get_xaxis_transform() + up,
        "annotation_clip": False,
    }
    box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    look: dict[str, Any] = {"size": 8.5, "weight": "bold", "color": VERMILION, "zorder": 8, "bbox": box}
    axes.annotate(text, ha="right" if leftwards else "left", va="center", **look, **spot)
    leader = {"arrowstyle": "-", "color": VERMILION, "linewidth": 0.9, "shrinkA": 5, "shrinkB": 7}
    axes.annotate("", arrowprops=leader, zorder=5, **spot)


def draw_ticks(axes: Axes, places: Sequence[int], label: str, *, count: int, width: float = 1.0) -> None:
    """A tick at the foot of the axes for each of `places` among `count` layers, with how many they are."""
    axes.plot(
        places,
        [0.012] * len(places),
        label=f"{label} ({len(places)})",
        linestyle="none",
        transform=axes.get_xaxis_transform(),
        color=VERMILION,
        marker="|",
        markersize=6,
        markeredgewidth=width,
        zorder=3,
        rasterized=count > MOST_VECTORS,
    )


def draw_title(figure: Figure, text: str, *, left: float = LEFT / WIDTH) -> None:
    """The title of a picture, at its top."""
    top = 1 - 0.14 / figure.get_size_inches()[1]
    figure.text(left, top, text, size=12, weight="bold", color=INK, va="top")


def draw_legend(
    figure: Figure, axes: Axes, top: float, *, left: float = LEFT / WIDTH - 0.008, columns: int = 4
) -> None:
    """The legend of `axes` in one or two lines at `top` (a fraction of the figure)."""
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(left, top),
        bbox_transform=figure.transFigure,
        ncols=columns,
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
