"""Figures of matplotlib as files and as `<svg>` elements of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(make: Callable[[], Figure], kind: str, *, salt: str) -> bytes:
    """The bytes of a `png` or `svg` file of the figure that `make` makes; equal ones with equal `salt` are equal.

    Letters stay letters in an SVG: smaller, searchable. No pyplot: nothing of the caller's is touched.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with matplotlib.style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": salt}]):
        canvas = (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(make())
        stream = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        canvas.print_figure(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def inline(svg: bytes, *, prefix: str) -> str:
    """An SVG file as an element for a page; `prefix` makes its ids its own, so that several share a page."""
    text = svg.decode("utf-8")
    opening, body = text[text.index("<svg") :].split(">", 1)
    # A page decides how wide a picture is; the view box keeps its shape.
    element = re.sub(r' (?:width|height)="[^"]*"', "", opening) + ">" + body
    own = re.sub(r"[^A-Za-z0-9]+", "-", prefix) + "-"
    return re.sub(r'(\bid="|url\(#|href="#)', lambda match: match[1] + own, element)
