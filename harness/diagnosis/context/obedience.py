"""Whether a strongly typed engine keeps the Casts of a graph, and so computes in FP32 what it was told to.

A compiler may fuse Casts away, without a word: TensorRT for RTX 1.4 adds up a product in FP16 that stands between Casts
to FP32. The kernels tell where a tensor that should be FP32 leaves one in FP16; within a kernel generated code keeps
the Casts of the graph (measured, see `harness.compiler`), and of products only the numbers tell what they are added up
in: the engine errs as the emulator does that has the Casts, or as the one that has not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum

import numpy as np

from harness.comparison import compare_tensors
from harness.model import PRODUCTS, Model
from harness.worker.protocol import Kernel, KernelList

APART = 1.5
"""Errors tell two arithmetics apart if the one is so many times the other."""

NEAR = 0.25
"""An error is one of the two if, in logarithms, it is no further from it than this share of their distance."""


class Obedience(StrEnum):
    """What became of the Casts around an island, or around products."""

    KEPT = "kept"
    FUSED_AWAY = "fused away"
    OPEN = "not shown"


def obeyed_by_kernels(kernels: KernelList | None, model: Model, island: Collection[str]) -> Obedience:
    """What the kernels of an engine, as far as they are known, tell of the Casts around the nodes of `island`."""
    if kernels is None or not island:
        return Obedience.OPEN
    found = [_of_node(kernels.kernels, model, node, frozenset(island)) for node in island]
    if Obedience.FUSED_AWAY in found:
        return Obedience.FUSED_AWAY
    return Obedience.OPEN if Obedience.OPEN in found else Obedience.KEPT


def _of_node(kernels: Sequence[Kernel], model: Model, node: str, island: frozenset[str]) -> Obedience:
    computing = [kernel for kernel in kernels if node in kernel.onnx_nodes]
    if not computing:
        return Obedience.OPEN  # folded, or in a kernel that names nothing
    info = model.node(node)
    readers = {each.name for each in model.nodes if set(info.outputs).intersection(each.inputs)} & island
    written = {tensor.name: tensor.dtype for tensor in computing[-1].outputs}
    between = [
        written[tensor.name]
        for kernel in kernels
        if kernel is not computing[-1] and readers.intersection(kernel.onnx_nodes)
        for tensor in kernel.inputs
        if tensor.name in written
    ]
    if between and "float32" not in between:
        return Obedience.FUSED_AWAY
    if info.op not in PRODUCTS:
        return Obedience.KEPT
    read = [tensor.dtype for tensor in computing[0].inputs]
    return Obedience.KEPT if read and set(read) == {"float32"} else Obedience.OPEN


def obeyed_by_numbers(
    engine: Mapping[str, np.ndarray],
    without: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    emulated: Mapping[str, np.ndarray],
    emulated_without: Mapping[str, np.ndarray],
) -> Obedience:
    """What the tensors of an engine tell of its Casts, by name.

    Args:
        engine: what the engine computes.
        without: what the engine computes whose graph has no such Casts; without a tensor where that is not known.
        reference: in FP32.
        emulated: by the emulator that has them.
        emulated_without: by the emulator that has not.
    """
    names = [name for name in engine if name in reference and reference[name].dtype.kind == "f"]
    if names and all(name in without and _same(engine[name], without[name]) for name in names):
        return Obedience.FUSED_AWAY
    found = []
    for name in names:
        if name in emulated and name in emulated_without:
            held = (engine[name], emulated[name], emulated_without[name])
            errors = [compare_tensors(value, reference[name], dtype=None).error for value in held]
            found.append(_nearer(*errors))
    told = set(found) - {Obedience.OPEN}
    return told.pop() if len(told) == 1 else Obedience.OPEN


def _nearer(engine: float, kept: float, away: float) -> Obedience:
    if not (0 < kept < math.inf and 0 < engine < math.inf):
        return Obedience.OPEN
    if away == math.inf:
        return Obedience.KEPT  # without the Casts it would not be finite
    if away < APART * kept:
        return Obedience.OPEN
    place = math.log(engine / kept) / math.log(away / kept)
    if place <= NEAR:
        return Obedience.KEPT
    return Obedience.FUSED_AWAY if abs(place - 1) <= NEAR else Obedience.OPEN


def _same(value: np.ndarray, other: np.ndarray) -> bool:
    return value.shape == other.shape and bool(np.array_equal(value, other, equal_nan=True))
