"""The error-growth picture: how far each layer is from the reference, in the order in which they run.

Two errors of one layer stand at one place: accumulated (the candidate fed its own tensors: a line) and
introduced (the node alone, fed the reference's tensors: dots). An origin is where the line leaves the gate
while everything before it held; a jump of the line whose dot stays low is an error that was only passed on.
Drawn on figure objects alone: no pyplot, so no backend, window or global state of the caller is touched.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.judge.results import LayerResult, RunResult
from harness.report.words import count, middle, title
from harness.tensors.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")

# Okabe and Ito's palette: told apart by readers with any of the common colour deficiencies.
BLUE, ORANGE, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#6B7280"
INK, FAINT = "#1F2937", "#E5E7EB"

WIDTH = 10.0  # inches; heights below are inches too
TITLE_HEIGHT, LEGEND_HEIGHT, LABEL_HEIGHT, MAIN_HEIGHT, HEADROOM_HEIGHT = 0.42, 0.34, 0.21, 3.3, 0.8
LEFT, RIGHT, GAP = 0.9, 0.2, 0.3
NAME_LENGTH = 20  # letters of a layer's name under the axis
MOST_VECTORS = 400  # layers whose marks are vectors in an SVG; more would make it heavy, and become a bitmap
MOST_LABELS = 8  # origins that get their name; the legend counts them all
MOST_NAMES = 36  # layers that get their name under the axis; more get numbers
SHOWN_HEADROOM = 1e-3  # below it nothing comes near the largest number, and the strip would only be empty


@dataclass(frozen=True)
class _Curve:
    """Errors on a logarithmic axis: zero and non-finite have no place there, so they get one of their own."""

    heights: list[float]
    zero: list[int]
    broken: list[int]

    @classmethod
    def place(cls, errors: Sequence[float | None], floor: float, ceiling: float) -> _Curve:
        heights = []
        for error in errors:
            if error is None:
                heights.append(math.nan)
            else:
                heights.append(min(max(error, floor), ceiling) if math.isfinite(error) else ceiling)
        zero = [place for place, error in enumerate(errors) if error == 0]
        broken = [
            place for place, error in enumerate(errors) if error is not None and not math.isfinite(error)
        ]
        return cls(heights, zero, broken)


def error_growth(result: RunResult) -> Figure:
    """The error-growth picture of one run as a matplotlib figure, for any number of layers.

    Raises:
        UsageError: the run observed no layers.
    """
    from matplotlib.figure import Figure

    layers = result.layers
    if not layers:
        raise UsageError(
            "there is no error to draw: this run observed no layers",
            where=result.id,
            hint="observe the intermediate tensors, with `--observe typed` for an engine",
        )
    labels = [layer for layer in layers if layer.origin][:MOST_LABELS]
    texts = [middle(f"{layer.node} ({layer.op})", 44) for layer in labels]
    places = [place for place, layer in enumerate(layers) if layer.origin][:MOST_LABELS]
    rows = _label_rows(places, texts, len(layers))
    named = len(layers) <= MOST_NAMES
    headroom = any(layer.metrics.headroom >= SHOWN_HEADROOM for layer in layers)

    above = TITLE_HEIGHT + LEGEND_HEIGHT + LABEL_HEIGHT * (max(rows, default=-1) + 1)
    longest = min(NAME_LENGTH, max(len(layer.node) for layer in layers))
    below = (0.28 + 0.052 * longest if named else 0.5) + (HEADROOM_HEIGHT + GAP if headroom else 0.0)
    height = above + MAIN_HEIGHT + below
    figure = Figure(figsize=(WIDTH, height), facecolor="white")

    def axes(bottom: float, tall: float, **options: Any) -> Axes:
        return figure.add_axes(
            (LEFT / WIDTH, bottom / height, (WIDTH - LEFT - RIGHT) / WIDTH, tall / height), **options
        )

    main = axes(below, MAIN_HEIGHT)
    _draw_errors(main, result)
    _draw_origins(main, layers, places, texts, rows)
    lowest = main
    if headroom:
        lowest = axes(below - GAP - HEADROOM_HEIGHT, HEADROOM_HEIGHT, sharex=main)
        _draw_headroom(lowest, result)
        main.tick_params(labelbottom=False)
    _label_layers(lowest, layers, named)
    figure.text(
        LEFT / WIDTH,
        1 - 0.14 / height,
        f"Error growth: {title(result)}"
        + (" (perturbed by the observation)" if result.faithful is False else ""),
        size=12,
        weight="bold",
        color=INK,
        va="top",
    )
    main.legend(
        loc="upper left",
        bbox_to_anchor=(LEFT / WIDTH - 0.008, 1 - (TITLE_HEIGHT - 0.02) / height),
        bbox_transform=figure.transFigure,
        ncols=6,
        frameon=False,
        fontsize=8.5,
        borderpad=0,
        columnspacing=1.4,
        handletextpad=0.5,
        labelcolor=INK,
    )
    return figure


def save_error_growth(result: RunResult, path: str | Path) -> Path:
    """Write the picture of `result` to `path`, a `.png` or `.svg`, atomically.

    Raises:
        UsageError: another kind of file is asked for, or the run observed no layers.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"cannot draw a {path.suffix or 'file without a suffix'}", where=path, hint="use .png or .svg"
        )
    data = _render(result, path.suffix.lower().removeprefix("."))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def error_growth_svg(result: RunResult) -> str:
    """The picture as an `<svg>` element for a page; its ids are its own, so that several share a page."""
    text = _render(result, "svg").decode("utf-8")
    svg = text[text.index("<svg") :]
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", result.id) + "-"
    svg = re.sub(r'(\bid="|url\(#|href="#)', lambda match: match.group(1) + prefix, svg)
    # A page decides how wide a picture is; the view box keeps its shape.
    return re.sub(
        r'<svg\b([^>]*?) width="[^"]*"',
        r"<svg\1",
        re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1),
        count=1,
    )


def _render(result: RunResult, kind: str) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Letters stay letters in an SVG: smaller, searchable. The salt makes equal pictures equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": result.id}):
        figure = error_growth(result)
        canvas = FigureCanvasSVG(figure) if kind == "svg" else FigureCanvasAgg(figure)
        stream = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        canvas.print_figure(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def _draw_errors(axes: Axes, result: RunResult) -> None:
    layers = result.layers
    places = range(len(layers))
    accumulated = [_error(layer.metrics) for layer in layers]
    introduced = [None if layer.introduced is None else _error(layer.introduced) for layer in layers]
    limits = [_limit(layer) for layer in layers]
    floor, ceiling = _range([*accumulated, *introduced, *limits])
    line = _Curve.place(accumulated, floor, ceiling)
    dots = _Curve.place(introduced, floor, ceiling)
    few = len(layers) <= 150
    many = len(layers) > MOST_VECTORS

    axes.set_yscale("log")
    axes.set_ylim(floor / 2, ceiling * 2)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.plot(places, line.heights, color=BLUE, linewidth=1.6 if few else 1.1, label="accumulated", zorder=3)
    if few:
        axes.plot(places, line.heights, color=BLUE, marker="o", markersize=3.2, linestyle="none", zorder=3)
    if any(error is not None for error in introduced):
        axes.plot(
            places,
            dots.heights,
            color=ORANGE,
            marker="s",
            markersize=4.2 if few else 2.2,
            markeredgecolor="white" if few else ORANGE,
            markeredgewidth=0.5 if few else 0,
            linestyle="none",
            label="introduced",
            zorder=4,
            rasterized=many,
        )
    if any(limit is not None for limit in limits):
        steps = [math.nan if limit is None else limit for limit in limits]
        axes.plot(
            [place + offset for place in places for offset in (-0.5, 0.5)],
            [step for step in steps for _ in range(2)],
            color=GREY,
            linestyle=(0, (5, 3)),
            linewidth=1.2,
            label="gate on nrmse",
            zorder=2,
        )
    failing = [place for place, layer in enumerate(layers) if layer.diverged]
    if failing:
        axes.plot(
            failing,
            [0.012] * len(failing),
            transform=axes.get_xaxis_transform(),
            color=VERMILION,
            marker="|",
            markersize=6,
            markeredgewidth=1.4 if few else 0.7,
            linestyle="none",
            label=f"a gate fails ({len(failing)})",
            zorder=3,
            rasterized=many,
        )
    broken = sorted({*line.broken, *dots.broken})
    if broken:
        axes.plot(
            broken,
            [ceiling] * len(broken),
            color=VERMILION,
            marker="^",
            markersize=7 if few else 4,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linestyle="none",
            label=f"overflow or not finite ({len(broken)})",
            zorder=6,
        )
    _label_errors(axes, floor, ceiling, bool(line.zero or dots.zero), bool(broken))
    axes.set_ylabel("nrmse over the FP32 reference", color=INK)
    axes.yaxis.set_label_coords(-0.072, 0.5)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    _plain(axes)


def _draw_origins(
    axes: Axes, layers: Sequence[LayerResult], places: list[int], texts: list[str], rows: list[int]
) -> None:
    """Ring each origin, and lead a line from it to its name above the axes."""
    from matplotlib.transforms import ScaledTranslation

    origins = [place for place, layer in enumerate(layers) if layer.origin]
    if not origins:
        return
    floor, ceiling = (limit * factor for limit, factor in zip(axes.get_ylim(), (2, 0.5), strict=True))
    curve = _Curve.place([_error(layer.metrics) for layer in layers], floor, ceiling)
    axes.plot(
        origins,
        [curve.heights[place] for place in origins],
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=VERMILION,
        markeredgewidth=1.8,
        linestyle="none",
        label=f"origin ({len(origins)})",
        zorder=7,
    )
    figure: Any = axes.figure
    for place, text, row in zip(places, texts, rows, strict=True):
        top = axes.get_xaxis_transform() + ScaledTranslation(
            0, LABEL_HEIGHT * (row + 0.55), figure.dpi_scale_trans
        )
        right = _flips(place, text, len(layers))
        axes.annotate(
            text,
            xy=(place, curve.heights[place]),
            xycoords="data",
            xytext=(place, 1.0),
            textcoords=top,
            ha="right" if right else "left",
            va="center",
            size=8.5,
            weight="bold",
            color=VERMILION,
            annotation_clip=False,
            zorder=8,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )
        axes.annotate(
            "",
            xy=(place, curve.heights[place]),
            xycoords="data",
            xytext=(place, 1.0),
            textcoords=top,
            annotation_clip=False,
            zorder=5,
            arrowprops={"arrowstyle": "-", "color": VERMILION, "linewidth": 0.9, "shrinkA": 5, "shrinkB": 7},
        )


def _draw_headroom(axes: Axes, result: RunResult) -> None:
    """A strip: how near each reference tensor comes to the largest number of the dtype."""
    headroom = [layer.metrics.headroom for layer in result.layers]
    bottom = 1e-6
    heights = [max(value, bottom) if math.isfinite(value) else math.nan for value in headroom]
    over = [place for place, value in enumerate(headroom) if value > 1]
    top = max(10.0, *(height for height in heights if math.isfinite(height)))
    axes.set_yscale("log")
    axes.set_ylim(bottom, top * 3)
    bars: Any = {"linewidth": _bar_width(len(heights)), "rasterized": len(heights) > MOST_VECTORS}
    axes.vlines(range(len(heights)), bottom, heights, color="#C7CDD6", **bars)
    axes.axhline(1.0, color=GREY, linewidth=1.0, linestyle=(0, (5, 3)))
    if over:
        tops = [heights[place] for place in over]
        axes.vlines(over, bottom, tops, color=PURPLE, **bars)
        axes.plot(over, tops, color=PURPLE, marker="D", markersize=4, linestyle="none")
    axes.set_yticks([1e-4, 1e-2, 1.0], ["1e-4", "1e-2", "1"])
    axes.minorticks_off()
    note = f"headroom: largest reference value over the largest {result.precision.storage_dtype}"
    note += f"; above 1, so it overflows, in {count(len(over), 'tensor')}" if over else ""
    axes.text(0, 1.04, note, transform=axes.transAxes, size=8.5, color=INK)
    _plain(axes)


def _label_errors(axes: Axes, floor: float, ceiling: float, zero: bool, broken: bool) -> None:
    """Decades on the axis, few enough to read, and names for the places of zero and of what is not finite."""
    low, high = math.ceil(math.log10(floor * 2)), math.floor(math.log10(ceiling / 2))
    step = max(1, math.ceil((high - low + 1) / 7))
    ticks = [10.0**power for power in range(high, low - 1, -step)]
    names = [f"1e{round(math.log10(tick))}" if tick != 1 else "1" for tick in ticks]
    if zero:
        ticks, names = [*ticks, floor], [*names, "equal"]
    if broken:
        ticks, names = [*ticks, ceiling], [*names, "not finite"]
    axes.set_yticks(ticks, names)
    axes.minorticks_off()


def _label_layers(axes: Axes, layers: Sequence[LayerResult], named: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if named:
        names = [middle(layer.node, NAME_LENGTH) for layer in layers]
        axes.set_xticks(range(len(layers)), names, rotation=45, ha="right", rotation_mode="anchor", size=7.5)
        return

    def node_number(place: float, _: object) -> str:
        return str(layers[int(place)].index) if 0 <= place < len(layers) and place == int(place) else ""

    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(node_number))
    axes.set_xlabel(f"node, in the order of the graph ({len(layers)} tensors)", color=INK)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9CA3AF")
    axes.tick_params(colors=INK, labelsize=8.5, length=3)


def _error(metrics: Any) -> float:
    """nrmse; infinite as soon as an element is not finite where the reference is."""
    return math.inf if metrics.nonfinite else metrics.nrmse


def _limit(layer: LayerResult) -> float | None:
    return next((gate.limit for gate in layer.gates if gate.metric == "nrmse"), None)


def _range(errors: Sequence[float | None]) -> tuple[float, float]:
    """The place of zero and the place of what is not finite: half a decade beyond all that can be drawn."""
    drawn = [error for error in errors if error is not None and math.isfinite(error) and error > 0]
    if not drawn:
        return 1e-9, 1.0
    return min(drawn) / 4, max(drawn) * 4


def _label_rows(places: list[int], texts: list[str], layers: int) -> list[int]:
    """The row of each name above the axes, 0 the lowest, so that no two names overlap.

    A name stands above those that begin (or, left of their place, end) under it: no leader crosses a name.
    """
    spans = [_span(place, text, layers) for place, text in zip(places, texts, strict=True)]
    flipped = [_flips(place, text, layers) for place, text in zip(places, texts, strict=True)]
    order = [name for name in reversed(range(len(spans))) if not flipped[name]]
    order += [name for name in range(len(spans)) if flipped[name]]
    rows: dict[int, int] = {}
    for name in order:
        start, end = spans[name]
        taken = [row for other, row in rows.items() if spans[other][0] < end and start < spans[other][1]]
        rows[name] = max(taken, default=-1) + 1
    return [rows[name] for name in range(len(spans))]


def _span(place: int, text: str, layers: int) -> tuple[float, float]:
    """Where a name begins and ends, in inches from the left end of the axis."""
    scale = (WIDTH - LEFT - RIGHT) / (layers + 0.2)
    width = 0.078 * len(text) + 0.12  # of the bold 8.5 point letters of DejaVu Sans, a little too wide
    start = (place + 0.6) * scale
    return (start - width, start) if _flips(place, text, layers) else (start, start + width)


def _flips(place: int, text: str, layers: int) -> bool:
    """Whether a name must stand left of its place, because it would run out of the picture on the right."""
    available = WIDTH - LEFT - RIGHT
    return (place + 0.6) * available / (layers + 0.2) + 0.078 * len(text) > available


def _bar_width(layers: int) -> float:
    """Points: bars with gaps while they fit, then lines that touch."""
    return min(8.0, max(0.5, 0.6 * 72 * (WIDTH - LEFT - RIGHT) / layers))
