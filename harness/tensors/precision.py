"""The precisions that a run can ask for."""

from __future__ import annotations

from enum import StrEnum


class Accumulate(StrEnum):
    """What products of FP16 are added up in: `auto` is as the product and the release do."""

    AUTO = "auto"
    FP16 = "fp16"
    FP32 = "fp32"


class Precision(StrEnum):
    """The arithmetic of a candidate. The value is how case files and commands spell it."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"

    @property
    def storage_dtype(self) -> str:
        """The name of the dtype in which a candidate at this precision stores its float tensors.

        TF32 rounds only the operands of products; Q/DQ models (FP8, INT8) keep FP32 between their Q/DQ pairs.
        """
        return {"fp16": "float16", "bf16": "bfloat16"}.get(self.value, "float32")
