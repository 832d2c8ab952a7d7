"""How numbers and counts are said: in reasons, on the console, on pages."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """A metric in few characters: `1.2e-7`, `0.016`, `131`, `inf`; a dash where there is none."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    if 1e-2 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """`1 run`, `2 runs`, `0 runs`."""
    return f"{amount} {noun if amount == 1 else plural or noun + 's'}"
