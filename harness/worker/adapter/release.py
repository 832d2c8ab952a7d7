"""What a release of TensorRT or of TensorRT for RTX offers, read off the names that its bindings define.

This is the only module that asks whether a name is there. Everything else asks for a feature of this table, and
what is not offered is a `Fault` that names an alternative; nothing is skipped silently. (Asking
`hasattr(trt.BuilderFlag, "FP16")` where the flag is set yields an FP32 engine on 11, and no word about it.)
"""

import os
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Tuple

from ..protocol import TENSORRT, TENSORRT_RTX, TF32_OFF, TF32_ON, BuilderOptions, Fault

#: feature → the names that make it; all must be there.
FEATURES: Dict[str, Tuple[str, ...]] = {
    "weak": (
        "BuilderFlag.FP16",
        "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
        "ILayer.precision",
        "ILayer.set_output_type",
        "ILayer.reset_precision",
        "ILayer.reset_output_type",
    ),
    "strong": ("NetworkDefinitionCreationFlag.STRONGLY_TYPED",),
    "explicit_batch": ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH",),
    "calibration": ("IInt8EntropyCalibrator2", "IBuilderConfig.int8_calibrator", "BuilderFlag.INT8"),
    "debug_tensors": (
        "INetworkDefinition.mark_debug",
        "IDebugListener",
        "IExecutionContext.set_debug_listener",
        "IExecutionContext.set_all_tensors_debug_state",
    ),
    "unfused_debug_tensors": (
        "INetworkDefinition.mark_unfused_tensors_as_debug_tensors",
        "IExecutionContext.unfused_tensors_debug_state",
    ),
    "timing_cache": ("ITimingCache", "IBuilderConfig.create_timing_cache"),
    "runtime_cache": (
        "IRuntimeCache.serialize",
        "IRuntimeCache.deserialize",
        "ICudaEngine.create_runtime_config",
        "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.set_runtime_cache",
    ),
    "editable_timing_cache": (
        "BuilderFlag.EDITABLE_TIMING_CACHE",
        "ITimingCache.queryKeys",
        "TimingCacheKey.parse",
        "TimingCacheValue",
    ),
    "error_on_timing_cache_miss": ("BuilderFlag.ERROR_ON_TIMING_CACHE_MISS",),
    "algorithm_selector": ("IAlgorithmSelector", "IBuilderConfig.algorithm_selector"),
    "algorithm_layouts": ("IAlgorithmIOInfo.tensor_format",),
    "algorithm_vectors": ("IAlgorithmIOInfo.vectorized_dim", "IAlgorithmIOInfo.components_per_element"),
    "build_routes": ("IBuilderConfig.build_route", "IBuilderConfig.all_build_routes"),
    "inspector": ("EngineInspector", "ICudaEngine.create_engine_inspector"),
    "profiler": ("IProfiler", "IExecutionContext.profiler"),
    "layer_metadata": ("ILayer.metadata",),
    "parser_node_names": ("ParserError.node_name", "ParserError.node_operator"),
    "optimization_level": ("IBuilderConfig.builder_optimization_level",),
    "version_compatible": ("BuilderFlag.VERSION_COMPATIBLE",),
    "compute_capability": (
        "ComputeCapability",
        "IBuilderConfig.num_compute_capabilities",
        "IBuilderConfig.set_compute_capability",
    ),
    "engine_validity": ("Runtime.get_engine_validity", "EngineInvalidityDiagnostics"),
    "hardware_compatibility:ampere_plus": ("HardwareCompatibilityLevel.AMPERE_PLUS",),
    "hardware_compatibility:same_compute_capability": ("HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",),
}

#: The module of each product.
PRODUCTS = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt_rtx"}
#: What TensorRT for RTX does not offer, whatever its bindings name: 1.4 has the flags, and refuses to build with them.
_NOT_IN_RTX = ("weak", "calibration", "algorithm_selector", "algorithm_layouts", "algorithm_vectors")

#: typing → precision → the names that it needs beside the typing itself.
PRECISIONS: Dict[str, Dict[str, Tuple[str, ...]]] = {
    "weak": {
        "fp32": (),
        "tf32": ("BuilderFlag.TF32",),
        "fp16": ("BuilderFlag.FP16",),
        "bf16": ("BuilderFlag.BF16", "DataType.BF16"),
        # 8.6 has the flag, but its ONNX parser stops at opset 17, before FP8 tensors; the parser that reads
        # them came with strong typing.
        "fp8": ("BuilderFlag.FP8", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"),
        "int8": ("BuilderFlag.INT8",),
    },
    "strong": {
        "fp32": (),
        "tf32": ("BuilderFlag.TF32",),
        "fp16": ("DataType.HALF",),
        "bf16": ("DataType.BF16",),
        "fp8": ("DataType.FP8",),
        "int8": ("DataType.INT8",),
    },
}

_ALTERNATIVES = {
    "bf16": "use fp16, TensorRT 10 or later, or the emulator",
    "fp8": "use TensorRT 10 or later, or the emulator",
    "debug_tensors": "use observation `typed` or `prefix`, or TensorRT 10 or later",
    "calibration": "quantize the model with Q/DQ nodes, or use TensorRT 10 or earlier",
    "optimization_level": "leave `optimization_level` out, or use TensorRT 8.6 or later",
    "version_compatible": "leave `version_compatible` out, or use TensorRT 8.6 or later",
    "hardware_compatibility:ampere_plus": "leave it out, or use TensorRT 8.6 or later",
    "hardware_compatibility:same_compute_capability": "leave it out, or use TensorRT 10.9 or later",
    "algorithm_selector": "use the editable timing cache",
    "editable_timing_cache": "use an algorithm selector, or TensorRT 10.8 or later",
    "build_routes": "leave `build_route` out, or use TensorRT 11.1 or later",
    "compute_capability": "leave `compute_capability` out, or use TensorRT for RTX",
    "weak": "use strong typing: a graph with Casts",
    "strong": "use weak typing, or TensorRT 10 or later",
}


def asks_for_tf32(options: BuilderOptions, precision: str) -> bool:
    """Whether layers in FP32 may use TF32: TensorRT's default, and the commonest false alarm, so only if asked for."""
    return precision == "tf32" if options.tf32 is None else options.tf32


def has(trt: Any, name: str) -> bool:
    """Whether the bindings define `Class` or `Class.member`."""
    owner, _, member = name.partition(".")
    return hasattr(trt, owner) and (not member or hasattr(getattr(trt, owner), member))


@dataclass(frozen=True)
class Release:
    """One release of one product: its version, and the names in FEATURES and PRECISIONS that it has.

    Args:
        product: TENSORRT or TENSORRT_RTX.
        version: such as `10.13.3.9`.
        features: of FEATURES.
        precisions: (typing, precision) pairs that it offers.
        tactic_sources: names of its TacticSource members.
        preview_features: names of its PreviewFeature members.
        compute_capabilities: targets that a build can name, in small letters: `current`, `sm86`, …
    """

    product: str
    version: str
    features: FrozenSet[str]
    precisions: FrozenSet[Tuple[str, str]]
    tactic_sources: Tuple[str, ...]
    preview_features: Tuple[str, ...] = ()
    compute_capabilities: Tuple[str, ...] = ()

    @classmethod
    def of(cls, trt: Any) -> "Release":
        """Read what `trt`, a module of PRODUCTS, offers."""
        product = TENSORRT_RTX if trt.__name__ == PRODUCTS[TENSORRT_RTX] else TENSORRT
        hidden = _NOT_IN_RTX if product == TENSORRT_RTX else ()
        features = frozenset(
            key
            for key, names in FEATURES.items()
            if key not in hidden and all(has(trt, name) for name in names)
        )
        precisions = frozenset(
            (typing, precision)
            for typing, table in PRECISIONS.items()
            if typing in features
            for precision, names in table.items()
            if all(has(trt, name) for name in names)
        )
        targets: Tuple[str, ...] = ()
        if "compute_capability" in features:
            targets = tuple(
                sorted(name.lower() for name in trt.ComputeCapability.__members__ if name != "NONE")
            )
        return cls(
            product,
            str(trt.__version__),
            features,
            precisions,
            tuple(sorted(trt.TacticSource.__members__)),
            tuple(sorted(trt.PreviewFeature.__members__)),
            targets,
        )

    def __str__(self) -> str:
        """`TensorRT for RTX 1.7.1.116`, as messages call it."""
        return "{} {}".format(self.product, self.version)

    def offers(self, feature: str) -> bool:
        """Whether the release has a feature of FEATURES."""
        if feature not in FEATURES:
            raise KeyError(feature)
        return feature in self.features

    def require(self, feature: str, what: str) -> None:
        """Refuse what the release does not offer.

        Args:
            feature: of FEATURES.
            what: how to call it in the message.

        Raises:
            Fault: `unsupported`.
        """
        if not self.offers(feature):
            raise self.refusal(what, feature)

    def refusal(self, what: str, feature: str) -> Fault:
        """The fault that says that the release has no `what`, and what to do instead."""
        hint = _ALTERNATIVES.get(feature)
        return Fault(
            "unsupported",
            "{} has no {}{}".format(self, what, ": " + hint if hint else ""),
        )

    def typing_for(self, precision: str, typing: str) -> str:
        """`weak` or `strong`: what a request for `precision` and `typing` comes to; `auto` prefers weak.

        Raises:
            Fault: `unsupported` or `bad_request`.
        """
        if typing not in ("auto", "weak", "strong") or precision not in PRECISIONS["weak"]:
            raise Fault(
                "bad_request", "there is no precision {!r} with typing {!r}".format(precision, typing)
            )
        for candidate in ("weak", "strong") if typing == "auto" else (typing,):
            if (candidate, precision) in self.precisions:
                return candidate
        if typing != "auto" and typing not in self.features:
            raise self.refusal("{} typing".format(typing), typing)
        suffix = "" if typing == "auto" else " under {} typing".format(typing)
        raise self.refusal("precision {}{}".format(precision, suffix), precision)

    def tf32(self, options: BuilderOptions, precision: str) -> str:
        """Whether products of FP32 are computed in TF32; TensorRT for RTX reads a variable, whatever its flag says."""
        if self.product == TENSORRT_RTX:
            return TF32_OFF if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0" else TF32_ON
        return TF32_ON if asks_for_tf32(options, precision) else TF32_OFF

    def capabilities(self) -> Tuple[str, ...]:
        """What a probe reports: features, precisions, tactic sources and targets, sorted."""
        names: List[str] = [*self.features, *(precision for _, precision in self.precisions)]
        names += ["tactic_source:" + source for source in self.tactic_sources]
        names += ["compute_capability:" + target for target in self.compute_capabilities]
        return tuple(sorted(set(names)))
