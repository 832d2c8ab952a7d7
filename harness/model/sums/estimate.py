"""How tensor cores add up FP16 products: in an accumulator that is FP16, too.

Source: measured on an H200. TensorRT for RTX 1.4 and 1.6 and TensorRT 8.6.0 err on products of K terms of Gaussian
values by 3.34e-4, 1.19e-3 and 3.32e-3 (nrmse) for K = 64, 1024 and 8192, and partial sums of 512,000 that cancel
overflow. A model gives the same to three digits: add up 16 products exactly, add that to the accumulator, round it.
16 is the depth of one instruction of the tensor core; 8 and 32 are far off. It holds of convolutions, too: 4.6e-4 and
1.76e-3 for 144 and 2,304 terms, where 4.75e-4 and 1.78e-3 were seen. A product of one row is added up in FP32, and so
are the parts of one that is split along K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from harness.model.sums.summation import DEPTH, window_pads

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
BATCHES, ROWS, COLUMNS = 4, 32, 64
"""So many rows and columns of a product are computed, of so many of a batch."""

SEED = 20
Matrices = tuple[np.ndarray, np.ndarray]


def largest_partial_sum(left: np.ndarray, right: np.ndarray) -> float:
    """The largest magnitude that sums of 16, 32, 48, … terms of a product reach.

    Args:
        left: (rows, terms).
        right: (terms, columns).
    """
    sums, largest = np.zeros((left.shape[0], right.shape[1])), 0.0
    for first in range(0, left.shape[1], DEPTH):
        terms = slice(first, first + DEPTH)
        sums += left[:, terms].astype(np.float64) @ right[terms].astype(np.float64)
        largest = max(largest, float(np.abs(sums).max(initial=0.0)))
    return largest


def sampled_product(proto: onnx.NodeProto, left: np.ndarray, right: np.ndarray) -> Iterator[Matrices]:
    """Rows and columns of a product that is added up in FP16; none of one row, which is added up in FP32.

    Args:
        proto: a MatMul, Gemm or Conv.
        left: its first input.
        right: its second.
    """
    rng = np.random.default_rng(SEED)
    attributes = {each.name: helper.get_attribute_value(each) for each in proto.attribute}
    if proto.op_type == "Conv":
        yield from _convolved(attributes, left, right, rng)
        return
    if proto.op_type == "Gemm":
        left = left.T if attributes.get("transA") else left
        right = right.T if attributes.get("transB") else right
    if left.ndim < 2 or right.ndim < 2:
        return
    if right.ndim == 2:
        left = left.reshape(-1, left.shape[-1])
    if left.shape[-2] < 2 or not left.size or not right.size:
        return
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = np.broadcast_to(left, (*batch, *left.shape[-2:]))
    right = np.broadcast_to(right, (*batch, *right.shape[-2:]))
    for number in _some(rng, math.prod(batch), BATCHES):
        place = np.unravel_index(number, batch) if batch else ()
        rows, columns = _some(rng, left.shape[-2], ROWS), _some(rng, right.shape[-1], COLUMNS)
        yield left[place][rows], right[place][:, columns]


def _some(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _convolved(
    attributes: Mapping[str, object], image: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> Iterator[Matrices]:
    """Windows of the image and filters, of one group."""
    groups = int(attributes.get("group", 1))  # type: ignore[call-overload]
    kernel, sizes = weights.shape[2:], image.shape[2:]
    axes = len(kernel)
    strides = list(attributes.get("strides", [1] * axes))  # type: ignore[call-overload]
    dilations = list(attributes.get("dilations", [1] * axes))  # type: ignore[call-overload]
    pads = window_pads(attributes, sizes, kernel)
    reach = [step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True)]
    outputs = [
        (size + pads[axis] + pads[axis + axes] - reach[axis]) // strides[axis] + 1
        for axis, size in enumerate(sizes)
    ]
    if min(outputs, default=0) < 1 or not image.size:
        return
    group, channels = int(rng.integers(groups)), weights.shape[1]
    filters = weights.reshape(groups, -1, *weights.shape[1:])[group]
    filters = filters[_some(rng, len(filters), COLUMNS)].reshape(-1, channels * math.prod(kernel))
    part = image[:, group * channels : (group + 1) * channels]
    windows = []
    for _ in range(ROWS):
        batch = int(rng.integers(len(image)))
        corner = [int(rng.integers(size)) * strides[axis] - pads[axis] for axis, size in enumerate(outputs)]
        window = np.zeros((channels, *kernel), image.dtype)
        for offset in np.ndindex(*kernel):
            place = [corner[axis] + dilations[axis] * offset[axis] for axis in range(axes)]
            if all(0 <= where < size for where, size in zip(place, sizes, strict=True)):
                window[:, *offset] = part[batch, :, *place]
        windows.append(window.reshape(-1))
    yield np.array(windows), filters.T
