"""What engines make of a quantised model: which kernels compute in the format, which only round, how much it errs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.backends import Plan, TensorRTCandidate
from harness.environments import Environment
from harness.errors import CandidateError
from harness.model import Model
from harness.quantization.mixed import multiply_adds, quantized_products
from harness.quantization.pairs import find_pairs
from harness.quantization.ranking import Samples, parts_of_outputs, worst_error
from harness.quantization.types import EngineErrors
from harness.tensors import Precision
from harness.worker.protocol import Kernel, KernelList

_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_LOW = frozenset({"int8", "float8_e4m3fn", "int4", "float4_e2m1fn", "uint4"})
_GENERATED = "kgen"


@dataclass(frozen=True)
class QuantizedKernels:
    """What a kernel list says of a quantised model.

    Args:
        release: product and version.
        kernels: how many there are.
        products: the products whose operands are dequantised: those that a kernel computes on quantised operands.
        in_float: those that are computed in float after all.
        rounding: kernels that do nothing but quantise, dequantise or cast; those of the model's inputs left out.
    """

    release: str
    kernels: int
    products: tuple[str, ...]
    in_float: tuple[str, ...]
    rounding: tuple[str, ...]


def read_kernels(model: Model, kernels: KernelList, feeds: Mapping[str, np.ndarray]) -> QuantizedKernels:
    """What `kernels` say of the products of a quantised model.

    Args:
        model: what was built.
        kernels: its kernels.
        feeds: one sample, for the shapes.
    """
    pairs = find_pairs(model)
    wanted = quantized_products(pairs, multiply_adds(model, feeds))
    blocks = {reader.node for pair in pairs if pair.scale.block_size for reader in pair.readers}
    low = {
        name
        for name in wanted
        if any(_computes_low(kernel, name, name in blocks) for kernel in kernels.kernels)
    }
    ops = {node.name: node.op for node in model.nodes}
    return QuantizedKernels(
        f"{kernels.product} {kernels.release}",
        len(kernels.kernels),
        tuple(name for name in wanted if name in low),
        tuple(name for name in wanted if name not in low),
        tuple(
            kernel.name for kernel in kernels.kernels if _only_rounds(kernel, ops, set(model.feed_names()))
        ),
    )


def _computes_low(kernel: Kernel, node: str, weight_only: bool) -> bool:
    """Whether a kernel is the product itself, on quantised operands; a weight in blocks is dequantised in it."""
    if node not in kernel.onnx_nodes or kernel.kind == _GENERATED:
        return False
    read = {tensor.dtype for tensor in kernel.inputs} | set(kernel.constants)
    return bool(read & _LOW) or (weight_only and any(name != node for name in kernel.onnx_nodes))


def _only_rounds(kernel: Kernel, ops: Mapping[str, str], fed: Collection[str]) -> bool:
    known = [ops[name] for name in kernel.onnx_nodes if name in ops]
    computed = [tensor for tensor in kernel.inputs if tensor.name not in fed]
    return bool(computed) and bool(known) and _ROUNDING.issuperset(known)


def measure_on_engine(
    models: Mapping[str, Model],
    environment: Environment,
    samples: Samples,
    expected: Sequence[Mapping[str, np.ndarray]],
) -> EngineErrors:
    """Build and run a few models in FP32 around their Q/DQ nodes.

    Args:
        models: by the field of `EngineErrors` that each is for.
        environment: where.
        samples: what is fed.
        expected: what the reference answers.
    """
    found: dict[str, float] = {}
    plan = Plan(Precision.INT8 if environment.build.typing == "weak" else Precision.FP32)
    for name, model in models.items():
        candidate = TensorRTCandidate(environment, model, calibration=samples)
        try:
            outputs = [candidate.evaluate(plan, feeds).tensors for feeds in samples]
        except CandidateError as error:
            return EngineErrors(environment.name, failure=f"{name}: {error.message}")
        finally:
            candidate.close()
        found[name] = worst_error(outputs, expected, parts_of_outputs(model, samples[0]))
    return EngineErrors(environment.name, found.get("before"), found.get("repaired"), found.get("without"))
