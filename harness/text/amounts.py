"""Numbers, counts and durations in words."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable

_PLAIN_RATIOS = (0.1, 1000.0)
"""Between them a ratio is a multiple of two or three digits."""


def number(value: float | None, digits: int = 2) -> str:
    """A metric in few characters: `1.2e-7`, `0.016`, `131`, `inf`; a dash where there is none.

    What has a power of ten has so many significant digits, others one more.
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return _not_finite(value)
    if value == 0:
        return "0"
    if 1e-2 <= abs(value) < 1e4:
        return f"{value:.{digits + 1}g}" if abs(value) < 1e3 else f"{value:.0f}"
    return _scientific(value, digits)


def numbers(value: float, other: float) -> tuple[str, str]:
    """Both as `number` has them, with as many digits as distinguish them: `0.01004` and `0.01`."""
    return _told_apart(number, value, other)


def magnitude(value: float, digits: int = 2) -> str:
    """A value of a tensor in few characters: `65504`, `3.1e3`, `0.98`, `6e-8`, `inf`.

    Whole numbers below 1e5 stay as they are, since limits of dtypes are known by their digits. What has a power of ten
    has so many significant digits.
    """
    if not math.isfinite(value):
        return _not_finite(value)
    if value == round(value) and abs(value) < 1e5:
        return f"{value:.0f}"
    if 1e-2 <= abs(value) < 1e3:
        return f"{value:.3g}"
    return _scientific(value, digits)


def magnitudes(value: float, other: float) -> tuple[str, str]:
    """Both as `magnitude` has them, with as many digits as distinguish them: `3.40e38` and `3.39e38`."""
    return _told_apart(magnitude, value, other)


def bound(value: float, *, least: bool = False) -> str:
    """A positive limit that a user is to type, as `magnitude` has it, rounded to the safe side: `3.3e38` for 3.3895e38.

    The `least` that will do is rounded up, the largest down.
    """
    rounding = decimal.ROUND_UP if least else decimal.ROUND_DOWN
    return magnitude(float(decimal.Context(prec=2, rounding=rounding).create_decimal_from_float(value)))


def multiple(value: float) -> str:
    """How many times a limit something is: `12×`, `1.004×`; with as many digits as show that it is not 1."""
    text = number(value)
    for digits in (4, 5, 6, 7):
        if text != "1" or value == 1:
            break
        text = f"{value:.{digits}g}"
    return f"{text}×"


def ratio(value: float) -> str:
    """What something changed by: `×2.1`; `1,600 times smaller`, where nobody reads a multiple."""
    if not is_multiple(value):
        return f"{_two_digits(1 / value)} times smaller"
    return f"×{_two_digits(value)}" if _PLAIN_RATIOS[1] <= value < math.inf else f"×{number(value)}"


def is_multiple(value: float) -> bool:
    """Whether `ratio` writes a multiple, `×2.1`, rather than how many times smaller."""
    return not 0 < value < _PLAIN_RATIOS[0]


def percent(share: float) -> str:
    """A share in percent: `98 %`, `0.3 %`, `less than 0.1 %`, `nearly all`."""
    if 0 < share < 1e-3:
        return "less than 0.1 %"
    return f"{100 * share:.2g} %" if share < 0.995 else "all" if share == 1 else "nearly all"


def plural(amount: int, noun: str, nouns: str | None = None) -> str:
    """`1 run`, `2 runs`, `0 runs`; `nouns` where the plural is not the noun and an s."""
    return f"{amount} {noun if amount == 1 else nouns or noun + 's'}"


def size(nbytes: int) -> str:
    """`512 MiB`, `19.9 GiB`."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """`0.8 s`, `18 s`, `2 min 5 s`, `1 h 2 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _told_apart(write: Callable[[float, int], str], value: float, other: float) -> tuple[str, str]:
    for digits in range(2, 7):
        texts = write(value, digits), write(other, digits)
        if texts[0] != texts[1] or value == other:
            break
    return texts


def _not_finite(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _scientific(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.removesuffix('.' + '0' * (digits - 1))}e{int(exponent)}"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"
