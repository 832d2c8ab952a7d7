"""Where the parts of the error-growth picture stand, in inches; and how names of origins avoid each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.judge import LayerResult
from harness.text import shorten

WIDTH = 10.0
LEFT, RIGHT = 0.9, 0.2
AXIS = WIDTH - LEFT - RIGHT
TITLE_HEIGHT, LEGEND_HEIGHT, LABEL_HEIGHT, MAIN_HEIGHT, HEADROOM_HEIGHT, GAP = 0.42, 0.34, 0.21, 3.3, 0.8, 0.3

MOST_LABELS = 8  # origins that get their name; the legend counts them all
MOST_NAMES = 36  # layers that get their name under the axis; more get numbers
NAME_LENGTH = 20  # letters of such a name
SHOWN_HEADROOM = 1e-3  # below it nothing comes near the largest number, and the strip would only be empty
LETTER = 0.078  # the width of a bold letter of 8.5 points, a little too wide


@dataclass(frozen=True)
class OriginLabel:
    """The name of an origin above the axes.

    Args:
        place: position of its layer.
        text: the name.
        leftwards: whether it ends at its place, because it would run out of the picture on the right.
        row: 0 is next to the axes.
    """

    place: int
    text: str
    leftwards: bool
    row: int


@dataclass(frozen=True)
class Layout:
    """The heights of the parts."""

    labels: tuple[OriginLabel, ...]
    headroom: bool
    foot: float

    @classmethod
    def of(cls, layers: Sequence[LayerResult]) -> Layout:
        """Fit the picture to its layers."""
        named = len(layers) <= MOST_NAMES
        longest = min(NAME_LENGTH, max(len(layer.node) for layer in layers))
        return cls(
            labels=origin_labels(layers),
            headroom=any(layer.metrics.headroom >= SHOWN_HEADROOM for layer in layers),
            foot=0.28 + 0.052 * longest if named else 0.5,
        )

    @property
    def main_bottom(self) -> float:
        """Where the axes of the errors begin."""
        return self.foot + (HEADROOM_HEIGHT + GAP if self.headroom else 0.0)

    @property
    def height(self) -> float:
        """Of the whole picture."""
        rows = max((label.row for label in self.labels), default=-1) + 1
        return self.main_bottom + MAIN_HEIGHT + rows * LABEL_HEIGHT + LEGEND_HEIGHT + TITLE_HEIGHT

    def box(self, bottom: float, height: float) -> tuple[float, float, float, float]:
        """Axes over the whole width, in fractions of the picture, as matplotlib wants them."""
        return LEFT / WIDTH, bottom / self.height, AXIS / WIDTH, height / self.height


def origin_labels(layers: Sequence[LayerResult]) -> tuple[OriginLabel, ...]:
    """The first origins' names in rows such that no two overlap.

    A name stands above those that begin (or, left of their place, end) under it: no leader crosses a name.
    """
    places = [place for place, layer in enumerate(layers) if layer.origin][:MOST_LABELS]
    texts = {place: shorten(f"{layers[place].node} ({layers[place].op})", 44) for place in places}
    inch = AXIS / (len(layers) + 0.2)
    spans: dict[int, tuple[float, float]] = {}
    leftwards = set()
    for place in places:
        start, width = (place + 0.6) * inch, LETTER * len(texts[place])
        if start + width > AXIS and start > width:
            leftwards.add(place)
            spans[place] = (start - width - LETTER, start)
        else:
            spans[place] = (start, start + width + LETTER)
    order = [place for place in reversed(places) if place not in leftwards]
    order += [place for place in places if place in leftwards]
    rows: dict[int, int] = {}
    for place in order:
        start, end = spans[place]
        below = [row for other, row in rows.items() if spans[other][0] < end and start < spans[other][1]]
        rows[place] = max(below, default=-1) + 1
    return tuple(OriginLabel(place, texts[place], place in leftwards, rows[place]) for place in places)
