"""What the emulator can say of a precision: nothing, where the precision rounds nothing of the model."""

from __future__ import annotations

from harness.model import Model, units_of
from harness.tensors import Precision

_WHY = {
    Precision.INT8: "the model has no Q/DQ nodes to say how. Engines up to TensorRT 10 are calibrated on the inputs "
    "of the case: name one with --env",
    Precision.TF32: "TF32 rounds what matrix products and convolutions read in FP32, and the model has none",
}
_QUANTIZED = (
    "the INT8 of this model is its own Q/DQ nodes, and the reference has them, too. An engine is what can differ: name "
    "one with --env"
)
_ELSE = "no node computes float32 tensors from the inputs"


def nothing_to_round(model: Model, precision: Precision) -> str | None:
    """Why the emulator at `precision` would compute the reference once more; None where it does not.

    FP32 is never refused: that run shows that there is a reference, and that it is the golden one.
    """
    if precision is Precision.FP32 or units_of(model, precision):
        return None
    why = _QUANTIZED if precision is Precision.INT8 and model.quantized else _WHY.get(precision, _ELSE)
    return f"the emulator has nothing to round for {precision}: {why}"
