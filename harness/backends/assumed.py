"""What the emulator assumes of the engine that it stands for: a compiler's kernels, and how products are added up."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.backends.requests import shape_ranges
from harness.backends.session import tensor_shapes
from harness.errors import BuildFailedError, HarnessError, UnsupportedByReleaseError
from harness.model import PLAIN, SUMMED, Arithmetic, Model, Summation, fp16_sums
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import TENSORRT_RTX, Profile

if TYPE_CHECKING:
    from harness.environments import Environment


@dataclass(frozen=True)
class Assumed:
    """What is assumed of an engine; by default nothing: each tensor is rounded, and products are added up in FP32.

    Args:
        accumulate: what products of FP16 are added up in, FP16 or FP32. Those of BF16 and TF32 are in FP32, but
            generated code for one row rounds each of them.
        compiler: the environment whose compiler lists the kernels; None assumes none.
        optional: go without kernels where the compiler cannot build the model, instead of raising.
        product: `TensorRT for RTX` or `TensorRT`, which add up differently.
        release: its version; empty: the newest that was measured.
        islands: nodes in FP32 with which the kernels are asked for, as they change what is fused.
    """

    accumulate: Accumulate = Accumulate.FP32
    compiler: Environment | None = None
    optional: bool = False
    product: str = TENSORRT_RTX
    release: str = ""
    islands: frozenset[str] = frozenset()

    @property
    def kernels(self) -> str:
        """The name of the environment whose kernels are assumed, or `none`."""
        return "none" if self.compiler is None else self.compiler.name

    def arithmetic(
        self,
        model: Model,
        precision: Precision,
        feeds: Mapping[str, np.ndarray],
        profiles: Mapping[str, Profile],
    ) -> Arithmetic:
        """What an engine of `model` at `precision` does otherwise than the plain emulator.

        Args:
            model: the model.
            precision: the precision.
            feeds: the inputs, for their shapes.
            profiles: (minimum, optimum, maximum) shape of the inputs that have one.

        Raises:
            CandidateError: the compiler cannot be asked, or cannot build the model.
        """
        from harness.compiler import fused_casts, kernels_of, within_kernels

        if precision not in (Precision.FP16, Precision.BF16) or self == Assumed():
            return PLAIN
        tf32 = _in_tf32(model) if self.product == TENSORRT_RTX else frozenset[str]()
        if self.compiler is None:
            return Arithmetic(self.sums(model, precision, feeds, self.release), tf32=tf32)
        ranges = shape_ranges(model, feeds, profiles)
        try:
            kernels = kernels_of(model, precision, self.compiler, islands=self.islands, profiles=ranges)
        except (BuildFailedError, UnsupportedByReleaseError):
            if self.optional:
                return Arithmetic(self.sums(model, precision, feeds, self.release), tf32=tf32)
            raise
        sums = self.sums(model, precision, feeds, kernels.release)
        found = within_kernels(kernels, model, precision).arithmetic(sums)
        return replace(found, tf32=tf32, fused=fused_casts(kernels, model))

    def sums(
        self, model: Model, precision: Precision, feeds: Mapping[str, np.ndarray], release: str
    ) -> dict[str, Summation]:
        """How each product is added up that is not in FP32.

        Args:
            model: the model.
            precision: FP16, or BF16, at which only generated code for one row rounds.
            feeds: the inputs, for their shapes.
            release: whose rules are taken; empty: the newest that was measured.
        """
        if self.accumulate is not Accumulate.FP16:
            return {}
        found = fp16_sums(model, _shapes(model, feeds), self.product, release)
        return {
            node: how for node, how in found.items() if precision is Precision.FP16 or how.rounds_products
        }


def _in_tf32(model: Model) -> frozenset[str]:
    """The products that read TF32 where they are in FP32: all of them, which no flag of TensorRT for RTX changes.

    Measured on an H200 with 1.4, 1.5 and 1.6, on a deep MLP whose products and additions are in FP32: engines err by
    7.05e-4, and the emulator by 7.08e-4 with TF32 and 5.3e-4 without (benchmarks/results/casts_obeyed.json).
    """
    return frozenset(node.name for node in model.lowerable if node.name in model.product_nodes)


def _shapes(model: Model, feeds: Mapping[str, np.ndarray]) -> Mapping[str, tuple[int | str | None, ...]]:
    """The shape of each tensor; where inference leaves one open that a product reads, as the reference computes it."""
    from harness.backends.reference import Reference

    shapes = tensor_shapes(model, feeds)
    read = {name for node in model.lowerable if node.op in SUMMED for name in node.inputs[:2] if name}
    left = sorted(
        name for name in read if not _is_known(shapes.get(name)) and model.producer(name) is not None
    )
    if not left:
        return shapes
    with suppress(HarnessError):  # where the reference cannot compute it, nobody can
        found = Reference(model).run(feeds, left)
        return {**shapes, **{name: value.shape for name, value in found.items()}}
    return shapes


def _is_known(shape: tuple[int | str | None, ...] | None) -> bool:
    return shape is not None and all(isinstance(size, int) for size in shape)
