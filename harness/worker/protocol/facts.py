"""What is known of an engine beside the tensors that it computes: the same types in the worker, the host and JSON."""

from dataclasses import dataclass, field
from typing import ClassVar, Dict, Optional, Tuple, Union

from .kernels import KernelList
from .names import is_copy, is_region
from .tactics import TacticReport

Shape = Tuple[int, ...]
#: Minimum, optimum and maximum of an input with dynamic axes.
Profile = Tuple[Shape, Shape, Shape]
#: The value of a build option; lists are tuples here.
BuildOption = Union[None, bool, int, str, Tuple[str, ...]]
#: dtype → precision, the lowest first.
PRECISION_OF = {
    "float4_e2m1fn": "fp4",
    "int4": "int4",
    "float8_e4m3fn": "fp8",
    "int8": "int8",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
}


@dataclass(frozen=True)
class Fingerprint:
    """What the numbers of an engine are made with.

    Args:
        environment: the name of the environment.
        tensorrt: full version of the product, `8.6.0`; None for an emulated release.
        product: TENSORRT or TENSORRT_RTX; None likewise.
        cuda: version of the CUDA runtime.
        driver: version of the driver.
        gpu: name of the GPU.
        compute_capability: `9.0`.
    """

    environment: str
    tensorrt: Optional[str] = None
    cuda: Optional[str] = None
    driver: Optional[str] = None
    gpu: Optional[str] = None
    compute_capability: Optional[str] = None
    product: Optional[str] = None


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a built engine, as far as the inspector reports.

    Args:
        name: the engine's name of the layer.
        kind: the layer's type in the engine (`CaskConvolution`, …).
        onnx_nodes: names of the ONNX nodes that it computes, most certain first; empty if unknown.
        precision: the precision that it computes in (`fp32`, `fp16`, …); None if the release does not report it.
        input_dtypes: dtypes of its inputs (`float16`, …).
        output_dtypes: dtypes of its outputs.
        tactic: name of the tactic chosen, or its hexadecimal id where it has no name.
        tactic_id: hexadecimal id of the tactic chosen; None if the release does not report it.
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

    @property
    def is_copy(self) -> bool:
        """Whether it only gives a tensor another format; it is named after the layer that it feeds."""
        return is_copy(self.name)

    @property
    def is_region(self) -> bool:
        """Whether it is a compiled region, whose inner precision is not reported."""
        return not self.is_copy and is_region(self.name, self.kind)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the timed inferences, on the GPU, without copies."""

    median_ms: float
    p99_ms: float
    n: int


#: Whether products of FP32 are computed in TF32: by choice, not, or as there is no engine that runs without.
TF32_ON, TF32_OFF, TF32_STAYS = "on", "off", "cannot_be_turned_off"


@dataclass(frozen=True)
class RealisedPrecision:
    """Whether an engine computes in the precision that was asked for, as far as the inspector reports.

    Args:
        precision: of most layers that compute; None if no layer reports one.
        counts: layers by precision.
        opaque: how many layers hide what is inside of them.
        asserted: whether layers were seen to compute in the precision asked for.
        islands_ok: whether the islands stayed in FP32; None if there are none, or no layer reports it.
        relaxed: what was given up so that islands in a pinned network could be built: None, `neighbours_free` or
            `preferred`.
        islands: by node of an island, the network layers that were pinned for it.
        debug: how debug tensors were asked for: None, `marked` (by name, which blocks fusions) or `unfused`.
        tf32: TF32_ON, TF32_OFF or TF32_STAYS; None if nobody says.
        kept: nodes in FP32 that nobody asked for: the parser refuses them, or what they write, in the precision.
        own: the precision of the file, where it has no FP32 for the one that was asked for; None where it has.
    """

    precision: Optional[str] = None
    counts: Dict[str, int] = field(default_factory=dict)
    opaque: int = 0
    asserted: bool = False
    islands_ok: Optional[bool] = None
    relaxed: Optional[str] = None
    islands: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    debug: Optional[str] = None
    tf32: Optional[str] = field(default=None, metadata={"json": "unless default"})
    kept: Tuple[str, ...] = field(default=(), metadata={"json": "unless default"})
    own: Optional[str] = field(default=None, metadata={"json": "unless default"})


@dataclass(frozen=True)
class BuiltEngine:
    """One of the engines of an evaluation: how many tensors it was marked to give, its build and its size."""

    marks: int
    build_seconds: float
    engine_bytes: int


@dataclass(frozen=True)
class PinnedTactics:
    """The pins that an engine was built with: their file, and how many choices they hold."""

    file: str
    choices: int


@dataclass(frozen=True)
class EngineFacts:
    """What is known of an engine. The worker says what it built and measured, the host adds what it asked for.

    Where several engines were built to observe tensors, it is the first, which is not observed.

    Args:
        fingerprint: what it was built and run with; None as long as the host has not added it.
        build: the build options that came to apply, as in a case file.
        profiles: by input with a dynamic axis, (minimum, optimum, maximum) shape.
        typing: `weak` or `strong`; None for an emulated release.
        builds: how many engines were built now, and were not there already.
        build_seconds: from the parsed network to the engine, over all engines.
        engine_bytes: size of the serialized engine.
        layers: its layers; empty if the release has no inspector.
        kernels: its kernels with the tensors between them, from the inspector; None if it does not say.
        realised: whether it computes in the precision that was asked for.
        tactics: what was chosen for each layer; None unless the plan has orders.
        latency: None if it was not timed.
        layer_ms: by layer, median milliseconds; empty if layers were not timed.
        engines: all engines of the evaluation.
        skipped_marks: by tensor, why it was not observed.
        internal_names: the engine's names of debug tensors that have no ONNX name.
        warnings: what the person should know.
        pins: the pins that it was built with; None without.
    """

    fingerprint: Optional[Fingerprint] = None
    build: Dict[str, BuildOption] = field(default_factory=dict)
    profiles: Dict[str, Profile] = field(default_factory=dict)
    typing: Optional[str] = None
    builds: int = 0
    build_seconds: Optional[float] = None
    engine_bytes: Optional[int] = None
    layers: Tuple[LayerInfo, ...] = ()
    kernels: Optional[KernelList] = field(default=None, metadata={"json": "unless default"})
    realised: RealisedPrecision = RealisedPrecision()
    tactics: Optional[TacticReport] = None
    latency: Optional[Latency] = None
    layer_ms: Dict[str, float] = field(default_factory=dict)
    engines: Tuple[BuiltEngine, ...] = ()
    skipped_marks: Dict[str, str] = field(default_factory=dict)
    internal_names: Tuple[str, ...] = field(default=(), metadata={"json": "unless default"})
    warnings: Tuple[str, ...] = ()
    pins: Optional[PinnedTactics] = field(default=None, metadata={"json": "unless default"})

    ALSO_IN_JSON: ClassVar[Tuple[str, ...]] = ("internal_tensors",)

    @property
    def internal_tensors(self) -> int:
        """How many debug tensors have no ONNX name."""
        return len(self.internal_names)
