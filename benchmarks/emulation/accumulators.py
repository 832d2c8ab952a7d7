"""FP16 accumulators in NumPy: what engines and the emulator's graphs are held to, bit by bit."""

from __future__ import annotations

import numpy as np

from benchmarks.emulation.convolutions import Convolution
from harness.model import DEPTH
from harness.model.sums.summation import EIGHT, TILE, Order, parts_of


@np.errstate(over="ignore", invalid="ignore")
def accumulate_in_fp16(left: np.ndarray, right: np.ndarray, *, parts: int = 1) -> np.ndarray:
    """The product of two matrices as an FP16 accumulator gives it.

    Args:
        left: (rows, terms), values of FP16.
        right: (terms, columns), likewise.
        parts: into how many parts the terms are split: see `parts_of`. Their sums are added in FP16, those beyond a
            power of two to the first ones, then half to half.

    Returns:
        (rows, columns) of float64 that hold FP16 values; not finite where the accumulator overflowed.
    """
    places = parts_of(left.shape[1], parts) if parts > 1 else [(0, left.shape[1])]
    sums = np.zeros((parts, left.shape[0], right.shape[1]))
    for part, (start, end) in enumerate(places):
        for first in range(start, end, DEPTH):
            terms = slice(first, min(first + DEPTH, end))
            # 16 products of FP16 values: float64 holds their sum exactly unless they differ by more than 2**30.
            exact = left[:, terms].astype(np.float64) @ right[terms].astype(np.float64)
            sums[part] = _rounded(sums[part] + exact)
    power = 1 << parts.bit_length() - 1
    sums[: parts - power] = _rounded(sums[: parts - power] + sums[power:])
    sums = sums[:power]
    while len(sums) > 1:
        sums = _rounded(sums[: len(sums) // 2] + sums[len(sums) // 2 :])
    result: np.ndarray = sums[0]
    return result


def convolve(convolution: Convolution, image: np.ndarray, filters: np.ndarray, order: Order) -> np.ndarray:
    """What a convolution without a bias gives that adds up its terms in an order.

    Args:
        convolution: whose strides, dilations and groups these are.
        image: (batch, channels, size, size), values of FP16.
        filters: (filters, channels of a group, kernel, kernel), likewise.
        order: of the terms, in an FP16 accumulator; or FP32.

    Returns:
        (batch, filters, side, side) of float64 that hold FP16 values.
    """
    each, reach = convolution, convolution.dilation * (convolution.kernel - 1)
    pad = each.dilation * (each.kernel // 2)
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    side = (padded.shape[-1] - reach - 1) // each.stride + 1
    starts = [each.dilation * place for place in range(each.kernel)]
    taps = [padded[..., a:, b:][..., :: each.stride, :: each.stride] for a in starts for b in starts]
    seen = np.stack([tap[..., :side, :side] for tap in taps], axis=2)  # batch, channels, taps, rows, columns
    reads, writes = filters.shape[1], each.filters // each.groups
    made = np.zeros((each.batch, each.filters, side * side))
    for batch, group in np.ndindex(each.batch, each.groups):
        windows = seen[batch, group * reads : (group + 1) * reads].reshape(reads, len(taps), -1)
        weights = filters[group * writes : (group + 1) * writes].reshape(writes, reads, -1).astype(np.float64)
        left, right = (_terms(part, order) for part in (weights.transpose(1, 2, 0), windows))
        total = _rounded(left.T @ right) if order is Order.FP32 else accumulate_in_fp16(left.T, right)
        made[batch, group * writes : (group + 1) * writes] = total
    return made.reshape(each.batch, each.filters, side, side)


def _terms(part: np.ndarray, order: Order) -> np.ndarray:
    """(channels, taps, others) as (terms, others), in their order."""
    tile = len(part) if order is Order.FP32 else order.tile(len(part))
    part = np.pad(part, ((0, -len(part) % tile), (0, 0), (0, 0)))
    tiles = part.reshape(-1, tile, *part.shape[1:]).transpose(0, 2, 1, 3)
    terms = tiles.reshape(-1, part.shape[-1])
    if order is not Order.WOVEN:
        return terms
    terms = np.pad(terms, ((0, -len(terms) % TILE), (0, 0)))
    woven = terms.reshape(-1, TILE // EIGHT, EIGHT, terms.shape[-1]).transpose(0, 2, 1, 3)
    return woven.reshape(-1, terms.shape[-1])


def _rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)
