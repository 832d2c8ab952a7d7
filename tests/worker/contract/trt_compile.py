"""How the doubles behave: what the builder makes of a network and its configuration.

Every layer that may be lowered is; an activation is fused into the convolution before it.
"""

from dataclasses import dataclass
from typing import Any

import onnx
import trt_tuning

FLOATS = ("FLOAT", "HALF", "BF16")
_LOW = {"FP16": "HALF", "BF16": "BF16"}
_ENGINE_KINDS = {"CONVOLUTION": "CaskConvolution", "ELEMENTWISE": "PointWiseV2", "UNARY": "PointWiseV2"}


class BuildError(Exception):
    """Why the builder returns nothing."""


@dataclass
class EngineLayer:
    """One layer of an engine, after fusion."""

    name: str
    kind: str
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str]]
    metadata: str
    tactic: str
    tactic_id: int = 0


@dataclass
class Plan:
    """What was built, and the configuration that it was built with."""

    model: onnx.ModelProto
    layers: list[EngineLayer]
    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    flags: set[str]
    network_flags: set[str]
    profile: dict[str, Any]
    debug: list[str]
    unfused: bool
    config: Any
    batches: int
    pinned: dict[str, str]
    detailed: bool


def compile_network(network: Any, config: Any, world: Any) -> Plan:
    """What the builder does.

    Raises:
        BuildError: the network or its configuration is one that TensorRT refuses.
    """
    strong = world.major >= 11 or "STRONGLY_TYPED" in network._flags
    if world.major < 10 and "EXPLICIT_BATCH" not in network._flags:
        raise BuildError("Network has no explicit batch")
    if network._model is not None and (network._parser is None or network._parser() is None):
        raise BuildError("the parser is gone, and the weights with it")
    _check_types(network, config, world, strong)
    quantized = any(layer._kind in ("QUANTIZE", "DEQUANTIZE") for layer in network._layers)
    if quantized and not strong and not config._flags & {"INT8", "FP8"}:
        raise BuildError("Int8 precision has been set for a layer, but int8 is not configured in the builder")
    for tensor in network._inputs:
        if -1 in tensor._shape and not any(tensor._name in profile._shapes for profile in config._profiles):
            raise BuildError(f"Network has dynamic inputs, but no profile: {tensor._name}")
    batches = _calibrate(network, config)
    layers = _fuse(network, config, world, strong)
    trt_tuning.tune(layers, network, config, world)
    kinds = {name: dtype for layer in layers for name, dtype in layer.outputs}
    return Plan(
        model=network._model,
        layers=layers,
        inputs={tensor._name: (tensor._dtype, tensor._shape) for tensor in network._inputs},
        outputs={tensor._name: (tensor._dtype, tensor._shape) for tensor in network._outputs},
        flags=set(config._flags),
        network_flags=set(network._flags),
        profile={name: ranges for profile in config._profiles for name, ranges in profile._shapes.items()},
        debug=[name for name in network._debug if name in kinds],
        unfused=network._unfused,
        config=config,
        batches=batches,
        pinned={layer._name: layer._precision for layer in network._layers if layer._precision is not None},
        detailed=config._verbosity == "DETAILED",
    )


def _check_types(network: Any, config: Any, world: Any, strong: bool) -> None:
    lowered = {"FP16", "BF16", "FP8", "INT8", "OBEY_PRECISION_CONSTRAINTS"} & config._flags
    if strong and lowered:
        raise BuildError(f"Strongly typed networks take no precision flags: {sorted(lowered)}")
    for layer in network._layers:
        if layer._precision is None:
            continue
        if strong:
            raise BuildError(f"Strongly typed networks take no layer precisions: {layer._name}")
        if not any(tensor._dtype in FLOATS for tensor in layer._outputs):
            raise BuildError(f"Layer {layer._name}: precision {layer._precision} on integers")
        if any(tensor is not None and tensor._shape_tensor for tensor in layer._inputs + layer._outputs):
            raise BuildError(f"Layer {layer._name}: precision on a shape layer")
        if layer._kind in ("RECURRENCE", "ITERATOR", "TRIP_LIMIT", "LOOP_OUTPUT", "CONDITIONAL_INPUT"):
            raise BuildError(f"Layer {layer._name}: precision on control flow")
    enclosed = {
        tensor._name
        for layer in network._layers
        if layer._kind in ("RECURRENCE", "CONDITIONAL_INPUT")
        for tensor in layer._outputs
    }
    for layer in network._layers:
        if layer._kind not in ("LOOP_OUTPUT", "CONDITIONAL_OUTPUT") and any(
            tensor is not None and tensor._name in enclosed for tensor in layer._inputs
        ):
            enclosed.update(tensor._name for tensor in layer._outputs)
    for tensor in network._outputs:
        if tensor._name in enclosed:
            raise BuildError(f"Tensor {tensor._name} inside of control flow cannot be a network output")


def _calibrate(network: Any, config: Any) -> int:
    if config._calibrator is None:
        return 0
    batches = 0
    assert config._calibrator.get_batch_size() == 1
    assert config._calibrator.read_calibration_cache() is None
    while config._calibrator.get_batch([tensor._name for tensor in network._inputs]):
        batches += 1
    config._calibrator.write_calibration_cache(b"scales")
    return batches


def _fuse(network: Any, config: Any, world: Any, strong: bool) -> list[EngineLayer]:
    low = next((dtype for flag, dtype in _LOW.items() if flag in config._flags), "FLOAT")
    if world.fallback:
        low = "FLOAT"
    heeding = {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}
    obeyed = bool(heeding & config._flags) and not world.disobey
    stored = {tensor._name: tensor._dtype for tensor in network._inputs}
    made: list[EngineLayer] = []
    for layer in network._layers:
        pinned = layer._precision if obeyed else None
        for index, tensor in enumerate(layer._outputs):
            dtype = tensor._dtype
            if dtype in FLOATS and not strong and tensor._io != "output":
                wanted = layer._types.get(index) if obeyed else None
                dtype = wanted or pinned or low
            elif strong and world.fallback and dtype in FLOATS:
                dtype = low
            stored[tensor._name] = dtype
        if layer._kind in ("SHAPE", "CONDITION", "TRIP_LIMIT", "RECURRENCE"):
            continue
        made.append(_engine_layer(layer, stored, network, config, pinned or low, strong))
    return _merge(made, network)


def _engine_layer(
    layer: Any, stored: dict[str, str], network: Any, config: Any, compute: str, strong: bool
) -> EngineLayer:
    quantized = layer._kind == "CONVOLUTION" and "INT8" in config._flags
    reads = []
    for tensor in layer._inputs:
        if tensor is None:
            continue
        dtype = stored[tensor._name]
        if dtype in FLOATS and not strong:
            dtype = "INT8" if quantized else compute
        reads.append((tensor._name, dtype))
    kind = _ENGINE_KINDS.get(layer._kind, layer._kind.title().replace("_", ""))
    writes = [(tensor._name, stored[tensor._name]) for tensor in layer._outputs]
    tactic = f"sm80_{compute.lower()}_{len(network._layers)}" if kind == "CaskConvolution" else ""
    return EngineLayer(layer._name, kind, reads, writes, layer._metadata, tactic)


def _merge(layers: list[EngineLayer], network: Any) -> list[EngineLayer]:
    """Fuse an activation into the convolution before it, unless the tensor between them is observed."""
    observed = {tensor._name for tensor in network._outputs} | set(network._debug)
    merged: list[EngineLayer] = []
    for layer in layers:
        before = merged[-1] if merged else None
        if (
            layer.kind == "Activation"
            and before is not None
            and before.kind == "CaskConvolution"
            and before.outputs[0][0] == layer.inputs[0][0]
            and before.outputs[0][0] not in observed
        ):
            before.name = f"{before.name} + {layer.name}"
            before.outputs = layer.outputs
            before.metadata = "\x1e".join(part for part in (before.metadata, layer.metadata) if part)
        else:
            merged.append(layer)
    return merged
