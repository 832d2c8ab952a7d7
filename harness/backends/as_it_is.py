"""The file as a candidate: what it says itself, FP16 tensors and Q/DQ nodes included, on ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.backends.emulator import Emulator
from harness.model import Model
from harness.tensors import Precision

FILE = "file"
"""What reports call this candidate."""

_INTEGER = re.compile(r"QLinear|QGemm|QAttention|DynamicQuantize|MatMulNBits|(MatMul|Conv)Integer")


class FileAsItIs(Emulator):
    """A candidate that rounds nothing but what the file rounds itself, whatever the precision.

    Args:
        model: the model.
    """

    name = FILE

    def units(self, precision: Precision) -> tuple[str, ...]:
        """None: nothing is lowered."""
        return ()

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        precision: Precision,
        *,
        lowered: Iterable[str] | None = None,
        tensors: Sequence[str] | None = None,
        fp32_sums: frozenset[str] = frozenset(),
    ) -> dict[str, np.ndarray]:
        """See Emulator.run."""
        return super().run(feeds, Precision.FP32, lowered=(), tensors=tensors)


def precision_of(model: Model) -> Precision:
    """The precision that a file was written for, by its types: whose gates it is held to."""
    written = {dtype for node in model.nodes for name in node.outputs if (dtype := model.dtypes.get(name))}
    if any(dtype.startswith("float8") for dtype in written):
        return Precision.FP8
    if model.quantized or any(_INTEGER.match(node.op) for node in model.nodes):
        return Precision.INT8
    if "bfloat16" in written:
        return Precision.BF16
    return Precision.FP16 if "float16" in written else Precision.FP32
