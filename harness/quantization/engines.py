"""What engines make of a quantised model: which kernels compute in the format, which only round, how much it errs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from harness.backends import Plan, Reference, TensorRTCandidate
from harness.environments import Environment
from harness.errors import CandidateError
from harness.model import Model
from harness.quantization.arithmetic import largest_of
from harness.quantization.calibration import Histogram, histogram_of, merged, threshold
from harness.quantization.editing import insert_pair
from harness.quantization.mixed import multiply_adds, quantized_products
from harness.quantization.outputs import Samples, parts_of_outputs, worst_error
from harness.quantization.pairs import find_pairs
from harness.quantization.quantizing import Quantization
from harness.quantization.types import EngineErrors, Format, Method, Scale
from harness.tensors import Precision
from harness.worker.protocol import Kernel, KernelList, Work

_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_LOW = frozenset({"int8", "float8_e4m3fn", "int4", "float4_e2m1fn", "uint4"})
MOST_TRIED = 4
"""So many pairs are tried, each of which takes a compilation."""


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
    if node not in kernel.onnx_nodes or kernel.work is Work.GENERATED:
        return False
    read = {tensor.dtype for tensor in kernel.inputs} | set(kernel.constants)
    return bool(read & _LOW) or (weight_only and any(name != node for name in kernel.onnx_nodes))


def _only_rounds(kernel: Kernel, ops: Mapping[str, str], fed: Collection[str]) -> bool:
    known = [ops[name] for name in kernel.onnx_nodes if name in ops]
    computed = [tensor for tensor in kernel.inputs if tensor.name not in fed]
    return bool(computed) and bool(known) and _ROUNDING.issuperset(known)


def split_products(model: Model, kernels: KernelList) -> tuple[str, ...]:
    """Matrix products that a generated kernel reads which is the first half of a larger one.

    The second half reads nothing but what generated kernels make. The compiler splits the last normalisation of an
    encoder with a batch so, quantised or not: 1.7.1 carries another order of the rows along the residuals up to there.
    """
    writers = {tensor.name: kernel for kernel in kernels.kernels for tensor in kernel.outputs}
    ops = {node.name: node.op for node in model.nodes}
    found = []
    for kernel in kernels.kernels:
        before = [writers[tensor.name] for tensor in kernel.inputs if tensor.name in writers]
        if (
            kernel.work is not Work.GENERATED
            or not before
            or any(each.work is not Work.GENERATED for each in before)
        ):
            continue
        makers = [writers[t.name] for each in before for t in each.inputs if t.name in writers]
        nodes = [name for maker in makers if maker.work is not Work.GENERATED for name in maker.onnx_nodes]
        found += [name for name in nodes if ops.get(name) in ("MatMul", "Gemm")]
    return tuple(dict.fromkeys(found))


def with_pair_behind(model: Model, product: str, samples: Samples) -> Model:
    """`model` with an INT8 pair on what a product hands over, whose scale has the least squared error on `samples`."""
    copy = model.clone()
    (value,) = next(node for node in copy.graph if node.name == product).outputs
    histogram: Histogram | None = None
    with closing(Reference(model)) as reference:
        for feeds in samples:
            histogram = merged(
                histogram, histogram_of(reference.run(feeds, [str(value.name)])[str(value.name)])
            )
    assert histogram is not None
    limit = threshold(histogram, Method.MSE, Format.INT8.dtype) or 1.0
    scale = Scale(np.array(limit / largest_of(Format.INT8.dtype), np.float32))
    insert_pair(copy.graph, value, tuple(value.uses()), scale, Format.INT8.dtype)
    digest = hashlib.sha256(f"{model.sha256} behind {product} {scale.largest}".encode()).hexdigest()
    return Model(copy, name=model.name, sha256=digest)


def with_fewer_kernels(
    found: Quantization, model: Model, samples: Samples, unseen: Samples, ask: Callable[[Model], KernelList]
) -> tuple[Quantization, KernelList]:
    """A quantised model with a pair behind a product wherever that saves a kernel; and its kernels.

    Args:
        found: what came of quantising `model`.
        model: the float model.
        samples: what it was calibrated with.
        unseen: what was kept apart.
        ask: the compiler.
    """
    listed = ask(found.quantized)
    tried = split_products(found.quantized, listed) if found.format is Format.INT8 else ()
    for product in tried[:MOST_TRIED]:
        made = with_pair_behind(found.quantized, product, samples)
        kernels = ask(made)
        if len(kernels.kernels) < len(listed.kernels):
            listed = kernels
            found = replace(found, quantized=made, behind=(*found.behind, product))
    if found.behind:
        errors = [_error(found.quantized, model, each) if each else None for each in (samples, unseen)]
        chosen = replace(found.chosen, error=errors[0] or 0.0, unseen=errors[1])
        found = replace(found, chosen=chosen)
    return found, listed


def _error(model: Model, reference: Model, samples: Samples) -> float:
    with closing(Reference(model)) as candidate, closing(Reference(reference)) as plain:
        outputs = [candidate.run(feeds) for feeds in samples]
        expected = [plain.run(feeds) for feeds in samples]
    return worst_error(outputs, expected, parts_of_outputs(model, samples[0]))


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
