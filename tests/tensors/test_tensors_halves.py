"""Float16 is rounded, widened and narrowed as NumPy does it, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from harness.tensors import round_to_float16, to_float16, to_float32

CODES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
LIMITS = [65519.996, 65520, 65535, 65536, 1e30, 3e38, np.inf, np.nan, 2**-14, 2**-24, 2**-25, 1e-45, 0]


def bits(values: np.ndarray) -> np.ndarray:
    """The bits of floats, all NaN alike."""
    plain = np.where(np.isnan(values), np.array(np.nan, values.dtype), values)
    return plain.view(f"uint{8 * values.dtype.itemsize}")


def float32s() -> dict[str, np.ndarray]:
    """Those that float16 has, those halfway between two of them and their neighbours, limits, and any bits."""
    with np.errstate(invalid="ignore"):
        exact = CODES.astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)]).astype(np.float64)
    halfway = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    limits = np.array([*LIMITS, *(-value for value in LIMITS)], np.float32)
    return {
        "exact": exact,
        "halfway": halfway,
        "above": np.nextafter(halfway, np.float32(np.inf)),
        "below": np.nextafter(halfway, np.float32(-np.inf)),
        "limits": np.tile(limits, 200),
        "few limits": limits,
        "any": np.random.default_rng(1).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32),
    }


@pytest.mark.parametrize("kind", float32s())
def test_rounding_and_narrowing_are_those_of_numpy(kind: str) -> None:
    values = float32s()[kind]
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float16)
        np.testing.assert_array_equal(bits(to_float16(values)), bits(narrow))
        np.testing.assert_array_equal(bits(round_to_float16(values)), bits(narrow.astype(np.float32)))


def test_widening_is_that_of_numpy_for_every_float16() -> None:
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(bits(to_float32(CODES)), bits(CODES.astype(np.float32)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (2048, 17), (33000,), (2, 3, 40000)])
def test_shapes_and_strides_do_not_matter(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(2).standard_normal((*shape, 2)).astype(np.float32)[..., 0]
    half = values.astype(np.float16)
    for found, wanted in (
        (to_float16(values), half),
        (round_to_float16(values), half.astype(np.float32)),
        (to_float32(half), half.astype(np.float32)),
    ):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_other_dtypes_are_cast_once() -> None:
    between = np.full(5000, 1 + 2**-11 + 2**-40)  # through float32 it would be halfway, and so 1
    assert (to_float16(between) == np.float16(1 + 2**-10)).all()
    assert to_float32(between).dtype == np.float32
