"""Inputs that proofs draw: of several shapes, ordinary ones, and those at which a rewrite that is wrong shows it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.case import MaskFill
from harness.conversion.cures.cure import Feeds
from harness.errors import HarnessError
from harness.model import Model, TensorInfo, guess_fills
from harness.tensors import dtype_of, is_float

_SIZES = ((2, 3, 5), (1, 4, 2), (3, 2, 7), (8, 6, 4))
_RANGES = ((0, 2), (0, 1), (-3, 4), (0, 100))
_EXTREMES = (1.0, 8.0, 1e-3)
LARGE_NUMBERS, _LARGE_HALF = 1e4, 100.0  # FP16 holds few products of numbers beyond
_KINDS = ("zeros", "repeated", "large", "infinite")


def draw(model: Model, count: int) -> Sequence[Feeds]:
    """Inputs of several shapes where these are open, of normal floats; empty where none can be drawn."""
    if any(info.shape is None for info in model.inputs):
        return []
    masks, both = masks_of(model), itertools.cycle(zip(_SIZES, _RANGES, strict=True))
    return [
        _sample(model, masks, sizes, limits, 1.0, place)
        for place, (sizes, limits) in zip(range(count), both, strict=False)
    ]


def _sample(
    model: Model,
    masks: Mapping[str, MaskFill],
    sizes: Sequence[int],
    limits: tuple[int, int],
    scale: float,
    seed: int,
    padded: int | None = None,
) -> Feeds:
    """Inputs of one shape; with `padded`, masks keep so much of every row."""
    symbols: dict[str, int] = {}
    found = {}
    for info in model.inputs:
        shape, is_mask = _shape(info, sizes, symbols), info.name in masks
        found[info.name] = (
            _padding(masks[info.name], shape, dtype_of(info.dtype), padded)
            if is_mask and padded is not None
            else _draw(info, shape, limits, scale, seed, is_mask)
        )
    return found


def _is_dynamic(model: Model) -> bool:
    return any(not isinstance(size, int) for info in model.inputs for size in info.shape or ())


def batch_of(model: Model, sample: Feeds) -> int:
    """The size of the first free axis that comes first."""
    for info in model.inputs:
        if info.shape and not isinstance(info.shape[0], int):
            return int(sample[info.name].shape[0])
    return 0


def masks_of(model: Model) -> dict[str, MaskFill]:
    """The inputs that the model reads as masks: of nothing but 0 and 1."""
    return {name: fill for name, fill in guess_fills(model).items() if isinstance(fill, MaskFill)}


def sample_inputs(
    model: Model, feeds: Sequence[Feeds], batch: int | None, *, padded: bool = False
) -> Iterator[Feeds]:
    """`feeds`, then what is drawn: floats of several magnitudes, integers of several ranges, of several shapes.

    Args:
        model: that reads them.
        feeds: come first.
        batch: the first shape has this first axis.
        padded: masks leave something of every row.
    """
    yield from feeds
    if any(info.shape is None for info in model.inputs):
        return
    masks = masks_of(model)
    dynamic = _is_dynamic(model)
    rounds: Sequence[Sequence[int]] = _SIZES if dynamic else _SIZES[:1]
    if batch is not None:
        rounds = ((batch, 3, 5), *_SIZES)
    for count, (sizes, limits, scale) in enumerate(
        itertools.product(rounds, _RANGES, _EXTREMES[: 1 if dynamic else None])
    ):
        try:
            yield _sample(model, masks, sizes, limits, scale, count, count if padded else None)
        except HarnessError:
            return


def extreme_inputs(model: Model, largest: float, batch: int | None, *, padded: bool) -> Iterator[Feeds]:
    """Zeros, repeated numbers, large ones among small ones and zeros; infinite ones and masks of fractions."""
    if any(info.shape is None for info in model.inputs):
        return
    masks = masks_of(model)
    sizes = _SIZES[0] if batch is None else (batch, *_SIZES[0][1:])
    for count, kind in enumerate(_KINDS[: -1 if padded else None]):
        symbols: dict[str, int] = {}
        drawn = {}
        for info in model.inputs:
            try:
                shape, dtype = _shape(info, sizes, symbols), dtype_of(info.dtype)
                if padded and info.name in masks:
                    drawn[info.name] = _padding(masks[info.name], shape, dtype, count)
                    continue
                is_wide = is_float(dtype) and dtype.itemsize > 1
                array = _draw(info, shape, _RANGES[0], 1.0, count, info.name in masks and not is_wide)
            except HarnessError:
                return
            is_changed = is_wide and array.size > 1  # a single number may be a scale
            drawn[info.name] = _extreme(kind, array, info.name in masks, largest) if is_changed else array
        yield drawn


def _extreme(kind: str, array: np.ndarray, is_mask: bool, largest: float) -> np.ndarray:
    """`array` as one of `_KINDS`, or a mask of fractions where nothing bars a float mask from them."""
    wide = array.astype(np.float64)
    if is_mask:
        return np.asarray(np.clip(np.abs(wide) / 2, 0, 1).round(1).astype(array.dtype))
    if kind == "zeros":
        return np.zeros_like(array)
    if kind == "repeated":
        return np.asarray(wide.round().astype(array.dtype))
    finite = min(largest, _LARGE_HALF) if array.dtype == np.float16 else largest
    top = finite if kind == "large" else np.inf
    place = np.argsort(wide, axis=None).reshape(wide.shape) % 12  # random, as the numbers are
    chosen = [
        np.isin(place, (0, 2, 5, 8, 9)),
        place == 1,
        np.isin(place, (3, 6, 10)),
    ]  # whose sum does not cancel
    return np.asarray(np.select(chosen, [top, -top, 0.0], wide).astype(array.dtype))


def _shape(info: TensorInfo, sizes: Sequence[int], symbols: dict[str, int]) -> tuple[int, ...]:
    shape = []
    for axis, size in enumerate(info.shape or ()):
        if not isinstance(size, int):
            name = size or f"{info.name}/{axis}"
            size = symbols.setdefault(name, sizes[len(symbols) % len(sizes)])
        shape.append(size)
    return tuple(shape)


def _padding(fill: MaskFill, shape: tuple[int, ...], dtype: np.dtype, count: int) -> np.ndarray:
    """A mask that keeps the beginning of every row, by turns more or less of it."""
    kept = 1 + count % max(shape[-1] if shape else 1, 1)
    return np.broadcast_to((np.arange(shape[-1] if shape else 1) < kept) != fill.inverted, shape).astype(
        dtype
    )


def _draw(
    info: TensorInfo, shape: tuple[int, ...], limits: tuple[int, int], scale: float, seed: int, is_mask: bool
) -> np.ndarray:
    random = np.random.default_rng([seed, *info.name.encode()])
    dtype = dtype_of(info.dtype)
    if is_mask or dtype.kind == "b":
        return (random.random(shape) < {(0, 1): 0.0, (0, 100): 1.0}.get(limits, 0.5)).astype(dtype)
    if is_float(dtype):
        return (random.standard_normal(shape) * scale).astype(dtype)
    low, high = limits
    if dtype.itemsize == 1 and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        low, high = (
            (int(bounds.min), int(bounds.max) + 1) if limits == _RANGES[0] else (max(low, bounds.min), high)
        )
    return random.integers(max(low, 0) if dtype.kind == "u" else low, high, shape).astype(dtype)
