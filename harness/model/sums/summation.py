"""How a product is added up: in which order its terms come, and in how many parts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.model.sums.recurrent import OneRow

DEPTH = 16
"""So many products are added exactly: the depth of one instruction of a tensor core."""

TILE = 32
"""What a part of the terms is a multiple of, and how many terms are woven together."""

EIGHT = 8
"""How many channels follow each other where terms are woven."""

Shape = tuple[int, ...]


class Order(StrEnum):
    """In which order a convolution adds up its terms.

    Tiles of channels of the image, at one tap of the window after the other, each filled up with zeros to whole blocks.
    Or all channels, filled up to a multiple of 8, at one tap after the other, of which each 32 terms are woven: the
    first of each 8, the second of each 8, and so on. Found bit by bit: see `harness.model.sums.rules`.
    """

    FP32 = "fp32"
    TILES_8 = "tiles of 8"
    TILES_32 = "tiles of 32"
    TILES_64 = "tiles of 64"
    WOVEN = "woven"

    def tile(self, channels: int) -> int:
        """So many channels are taken at one tap before the next, those that are filled up included."""
        if self in (Order.TILES_8, Order.WOVEN):
            return EIGHT if self is Order.TILES_8 else EIGHT * math.ceil(channels / EIGHT)
        most = 2 * TILE if self is Order.TILES_64 else TILE
        return min(most, DEPTH * math.ceil(channels / DEPTH))


@dataclass(frozen=True)
class Summation:
    """How a product is added up.

    Args:
        parts: into how many parts the terms are split: see `parts_of`. Their sums are added in FP16, those beyond a
            power of two to the first ones, and then those of the second half to those of the first, until one is left.
        rounds_products: each product of two numbers is rounded, and they are added in FP32: generated code for one row.
        recurrent: it is that of a recurrent layer, which is added up so where it is computed in steps.
        one_row: of a recurrent layer of one row, what of it is generated code.
        reads: shapes of its first two inputs.
        writes: shape of its output.
        order: of a convolution, in which order its terms are added up.
        scaled: which of its inputs was multiplied by a constant that the kernel multiplies the sum by instead.
        scale: that constant.
    """

    reads: tuple[Shape, Shape]
    writes: Shape
    parts: int = 1
    rounds_products: bool = False
    recurrent: bool = False
    one_row: OneRow | None = None
    order: Order = Order.TILES_32
    scaled: int | None = None
    scale: float = 1.0


def parts_of(terms: int, parts: int) -> list[tuple[int, int]]:
    """Where each part of so many terms starts and ends: whole tiles, one more in the first ones where some are left."""
    short, longer = divmod(math.ceil(terms / TILE), parts)
    starts = [TILE * (short * part + min(part, longer)) for part in range(parts + 1)]
    return [(min(start, terms), min(end, terms)) for start, end in itertools.pairwise(starts)]


def window_pads(attributes: Mapping[str, object], sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """The pads of a convolution, those before each axis first.

    Args:
        attributes: of the node.
        sizes: of the axes of its image.
        kernel: of its window.
    """
    axes = len(kernel)
    strides, dilations = (window_numbers(attributes, name, axes) for name in ("strides", "dilations"))
    same = attributes.get("auto_pad", "NOTSET")
    same = same.decode() if isinstance(same, bytes) else same
    if same not in ("SAME_UPPER", "SAME_LOWER"):
        return [0] * 2 * axes if same == "VALID" else window_numbers(attributes, "pads", 2 * axes, 0)
    reach = [step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True)]
    lacking = [
        max((-(-size // step) - 1) * step + extent - size, 0)
        for size, step, extent in zip(sizes, strides, reach, strict=True)
    ]
    less, more = [each // 2 for each in lacking], [each - each // 2 for each in lacking]
    return less + more if same == "SAME_UPPER" else more + less


def window_numbers(attributes: Mapping[str, object], name: str, count: int, otherwise: int = 1) -> list[int]:
    """An attribute of a convolution that has one number an axis."""
    found = attributes.get(name)
    return [int(each) for each in found] if isinstance(found, Sequence) else [otherwise] * count
