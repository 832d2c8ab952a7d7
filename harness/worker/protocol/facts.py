"""What is known of an engine: its layers, and how long it takes."""

from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a built engine, as far as the inspector tells.

    Args:
        name: the engine's name of the layer.
        kind: the layer's type in the engine (`CaskConvolution`, …).
        onnx_nodes: names of the ONNX nodes that it computes, most certain first; empty if unknown.
        precision: the precision that it computes in (`fp32`, `fp16`, …); None if the release does not tell.
        input_dtypes: dtypes of its inputs (`float16`, …).
        output_dtypes: dtypes of its outputs.
        tactic: name of the tactic chosen, or its hexadecimal id where it has no name.
        tactic_id: hexadecimal id of the tactic chosen; None if the release does not tell.
        fused_members: names of the network layers that were fused into it.
        outputs: names of the tensors that it writes.
    """

    name: str
    kind: Optional[str] = None
    onnx_nodes: Tuple[str, ...] = ()
    precision: Optional[str] = None
    input_dtypes: Tuple[str, ...] = ()
    output_dtypes: Tuple[str, ...] = ()
    tactic: Optional[str] = None
    fused_members: Tuple[str, ...] = ()
    outputs: Tuple[str, ...] = ()
    tactic_id: Optional[str] = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the timed inferences, on the GPU, without copies."""

    median_ms: float
    p99_ms: float
    n: int
