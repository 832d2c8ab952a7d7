"""The error-growth picture: how far each layer is from the reference, in the order in which they run.

Two errors of one layer stand at one place: accumulated (the candidate fed its own tensors: a line) and
introduced (the node alone, fed the reference's tensors: dots). An origin is where the line leaves the gate
while everything before it held; a jump of the line whose dot stays low is an error that was only passed on.
Drawn on figure objects alone: no pyplot, so no backend, window or global state of the caller is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.judge import RunResult
from harness.report.figures.canvas import draw_legend, draw_title, label_layers, render, svg
from harness.report.figures.layers import (
    draw_errors,
    draw_failures,
    draw_headroom,
    draw_origins,
)
from harness.report.figures.layout import HEADROOM_HEIGHT, MAIN_HEIGHT, TITLE_HEIGHT, WIDTH, Layout
from harness.report.words import title
from harness.tensors import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def error_growth(result: RunResult, *, note: str = "") -> Figure:
    """The error-growth picture of one run as a matplotlib figure, for any number of layers.

    Args:
        result: the run.
        note: what else the title says of it: `4 nodes in FP32`.

    Raises:
        UsageError: the run observed no layers.
    """
    from matplotlib.figure import Figure

    layers = result.layers
    if not layers:
        raise UsageError(
            "there is no error to draw: this run observed no layers",
            where=result.id,
            hint="observe the intermediate tensors: leave out `--observe none`",
        )
    layout = Layout.of(layers)
    figure = Figure(figsize=(WIDTH, layout.height), facecolor="white")
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
