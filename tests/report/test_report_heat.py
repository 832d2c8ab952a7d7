"""The picture of where in a tensor the error sits."""

from __future__ import annotations

import re

import numpy as np
import pytest

from harness.comparison import map_error
from harness.report.figures.heat import error_map_svg


@pytest.mark.parametrize("shape", [(1, 64), (64,), (3, 7), (300, 400)])
def test_the_axes_have_whole_numbers_for_indices(shape: tuple[int, ...]) -> None:
    reference = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    page = error_map_svg(map_error(reference * 1.5, reference, tensor="y", sample=0), "y")
    ticks, _, _ = page.partition(f"axis {len(shape) - 2}" if len(shape) > 1 else "axis 0")
    labels = re.findall(r"<text[^>]*>([^<]+)", ticks)
    numbers = [label for label in labels if not label.startswith("axis")]
    assert numbers
    assert all(label.isdigit() and int(label) < max(shape) for label in numbers), numbers
