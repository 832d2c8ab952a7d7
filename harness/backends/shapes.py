"""The shapes that an engine is built for: a range for each input with a dynamic axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.model import Model

Shape = tuple[int, ...]
Profile = tuple[Shape, Shape, Shape]


def shape_ranges(
    model: Model, feeds: Mapping[str, np.ndarray], profiles: Mapping[str, Profile]
) -> dict[str, Profile]:
    """The (minimum, optimum, maximum) shape of each input with a dynamic axis: the given one, or what it is fed.

    Args:
        model: the model.
        feeds: its inputs.
        profiles: what is given, by input.
    """
    shapes = {}
    for info in model.inputs:
        if info.shape is None or not all(isinstance(size, int) for size in info.shape):
            fed = tuple(np.shape(feeds[info.name]))
            shapes[info.name] = profiles.get(info.name, (fed, fed, fed))
    return shapes
