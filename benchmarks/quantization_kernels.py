"""Kernels of models that harness quantises, beside those of ModelOpt's Q/DQ, on a compiler without a GPU.

Each float model is quantised to INT8 by both, with their defaults and the same samples, and compiled in FP32 around its
Q/DQ nodes and in FP16. As `harness quantize --env` does, the compiler is asked at FP16 whether a pair behind a product
saves a kernel (`pairs_behind`; `harness_without_env` is the model without). Both leave small products in float; where
ModelOpt leaves any, `harness_same_products` leaves the same ones, with the method of `harness` for all tensors.
`rounding` are kernels that do nothing but quantise, dequantise or cast; `in_float` products whose operands are
dequantised and which are computed in float all the same; `float_between` tensors of FP32 on the way from one
convolution to the next, beside `float_accumulators`, which a convolution hands to the kernel behind it.

Run: python -m benchmarks.quantization_kernels PYTHON --modelopt PYTHON [NAME…] [--scheduler ADDRESS] [--write]; PYTHON
has TensorRT for RTX, on workers under the same path
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantization_models import Samples, measure_modelopt, share, subject
from benchmarks.record import record
from benchmarks.spread import add_scheduler, each_answer
from cases.models.mlp import rmsnorm_mlp
from cases.models.transformer import attention_encoder
from harness.compiler import ReportCache, kernels_of
from harness.environments import Environment, close_shared
from harness.errors import HarnessError
from harness.model import Model, load_model, save_model
from harness.quantization import find_pairs, multiply_adds, quantize, quantized_products
from harness.quantization.engines import read_kernels, with_fewer_kernels
from harness.tensors import Precision
from harness.worker.protocol import KernelList

CASES = ("conv-residual", "unet", "densenet", "dynamic-batch", "whisper-encoder", "minilm", "resnet50")
"""Cases, and the encoder of `benchmarks.minilm`; `encoder` and `mlp` are made here."""


def model_of(name: str) -> tuple[Model, Samples]:
    """A float model and six samples."""
    if name == "encoder":
        proto = attention_encoder(layers=2, width=128, heads=4, tokens=64)
    elif name == "mlp":
        proto = rmsnorm_mlp()
    else:
        return subject(name)
    model = load_model(proto, name=name)
    (info,) = model.inputs
    shape = tuple(size if isinstance(size, int) else 4 for size in info.shape or ())
    random = np.random.default_rng(0)
    return model, [{info.name: random.standard_normal(shape).astype(np.float32)} for _ in range(6)]


def float_between(kernels: KernelList) -> tuple[int, int]:
    """FP32 tensors on the way from one convolution to the next: those that convolutions write, and the others."""
    writers = {
        tensor.name: number for number, kernel in enumerate(kernels.kernels) for tensor in kernel.outputs
    }
    convolutions = {number for number, kernel in enumerate(kernels.kernels) if kernel.kind == "correlation"}
    found: dict[str, int] = {}
    for number in convolutions:
        waiting, seen = [number], set[int]()
        while waiting:
            kernel = kernels.kernels[waiting.pop()]
            for tensor in kernel.inputs:
                writer = writers.get(tensor.name)
                if writer is None:
                    continue
                if tensor.dtype == "float32":
                    found[tensor.name] = writer
                if writer not in convolutions and writer not in seen:
                    seen.add(writer)
                    waiting.append(writer)
    accumulators = sum(writer in convolutions for writer in found.values())
    return accumulators, len(found) - accumulators


def ask(
    model: Model,
    environment: Environment,
    feeds: dict[str, np.ndarray],
    precision: Precision = Precision.FP16,
) -> KernelList:
    """The kernels that a compiler makes of a model."""
    profiles = {
        info.name: (feeds[info.name].shape,) * 3
        for info in model.inputs
        if not all(isinstance(size, int) for size in info.shape or (None,))
    }
    return kernels_of(
        model, precision, environment, profiles=profiles, cache=ReportCache(Path("/nonexistent"))
    )


def kernels(model: Model, environment: Environment, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a compiler makes of a quantised model, in FP32 and FP16."""
    found: dict[str, Any] = {}
    for precision in (Precision.FP32, Precision.FP16):
        try:
            listed = ask(model, environment, feeds, precision)
        except HarnessError as error:
            found[precision.value] = {"failure": error.message[:200]}
            continue
        read = read_kernels(model, listed, feeds)
        accumulators, others = float_between(listed)
        found[precision.value] = {
            "kernels": read.kernels,
            "rounding": len(read.rounding),
            "products": len(read.products) + len(read.in_float),
            "in_float": len(read.in_float),
            "float_accumulators": accumulators,
            "float_between": others,
        }
    return found


def measure(environment: Environment, modelopt: str, name: str) -> dict[str, Any]:
    """One model, quantised by both."""
    model, samples = model_of(name)
    seen, unseen = samples[:4], samples[4:]
    products = multiply_adds(model, samples[0])
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder, "float.onnx"))
        theirs = measure_modelopt(modelopt, model, seen, unseen, products, Path(folder))
        written = Path(folder, "modelopt.onnx")
        listed = kernels(load_model(written), environment, samples[0]) if written.exists() else {}
        done = quantized_products(find_pairs(load_model(written)), products) if written.exists() else products
    plain = quantize(model, seen, unseen=unseen)
    ours, _ = with_fewer_kernels(plain, model, seen, unseen, lambda made: ask(made, environment, samples[0]))
    left = [name for name in products if name not in done]
    same = {}
    if left:
        less = quantize(model, seen, unseen=unseen, method=ours.method, exclude=left)
        same = {"error": less.chosen.unseen, **kernels(less.quantized, environment, samples[0])}
    return {
        "float": kernels(model, environment, samples[0]),
        "harness": {
            "share": round(share(ours.quantized, products), 4),
            "error": ours.chosen.unseen,
            "pairs_behind": ours.behind,
            **kernels(ours.quantized, environment, samples[0]),
        },
        **({"harness_same_products": {"left_in_float": left, **same}} if left else {}),
        **(
            {
                "harness_without_env": {
                    "error": plain.chosen.unseen,
                    **kernels(plain.quantized, environment, samples[0]),
                }
            }
            if ours.behind
            else {}
        ),
        "modelopt": {**theirs, **listed},
    }


def main() -> int:
    """Measure each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", metavar="PYTHON")
    parser.add_argument("names", nargs="*", default=["mlp", "encoder", *CASES])
    parser.add_argument("--modelopt", required=True, metavar="PYTHON")
    parser.add_argument("--write", action="store_true")
    add_scheduler(parser)
    options = parser.parse_args()
    measured = partial(measure, Environment("compiler", (options.python,)), options.modelopt)
    found = {}
    for name, numbers in each_answer(measured, options.names, options.scheduler):
        found[name] = numbers
        print(name, numbers, flush=True)
    models = {name: found[name] for name in options.names}
    close_shared()
    if options.write:
        record("quantization_kernels", {"models": models})
    return 0


if __name__ == "__main__":
    sys.exit(main())
