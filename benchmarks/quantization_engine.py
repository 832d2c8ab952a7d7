"""Quantised nets on an engine: do they err as the emulator says, and does it confirm which scale was clipped?

Run: python -m benchmarks.quantization_engine --env NAME [--net transformer|conv] [--out FILE] (a GPU)

A transformer in FP8 and INT8; or two INT8 convolutional nets, that of the case `quantised-conv`, which ONNX Runtime
wrote, and `conv-residual`, which harness quantises. The datatypes of the engine's layers stand beside the errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from cases.models.convolutional import conv_residual
from cases.models.quantised import quantised_conv
from cases.models.transformer import attention_encoder
from harness.backends import Emulator, Plan, Reference, TensorRTCandidate
from harness.environments import Environment, select
from harness.errors import CandidateError
from harness.model import PRODUCTS, Model, load_model
from harness.quantization import (
    Format,
    PairKind,
    QdqPair,
    Scale,
    diagnose_pairs,
    find_pairs,
    float_weights,
    quantize,
    with_scales,
)
from harness.quantization.outputs import worst_error
from harness.tensors import Precision

Samples = Sequence[Mapping[str, np.ndarray]]


def errors(
    model: Model,
    precision: Precision,
    environment: Environment,
    samples: Samples,
    expected: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """nrmse of engine and emulator over the float model, and of the engine over the emulator."""
    candidate = TensorRTCandidate(environment, model)
    emulated = [Emulator(model).run(feeds, precision) for feeds in samples]
    found: dict[str, Any] = {"emulator": worst_error(emulated, expected)}
    try:
        evaluated = [candidate.evaluate(Plan(precision), feeds) for feeds in samples]
    except CandidateError as error:
        return {**found, "failure": error.message}
    finally:
        candidate.close()
    engine, facts = [each.tensors for each in evaluated], evaluated[0].engine
    assert facts is not None
    products = {node.name for node in model.nodes if node.op in PRODUCTS}
    return {
        **found,
        "engine": worst_error(engine, expected),
        "engine_over_emulator": worst_error(engine, emulated),
        "layers": facts.realised.counts,
        "products": {
            layer.name[:120]: {"precision": layer.precision, "reads": layer.input_dtypes}
            for layer in facts.layers
            if products.intersection(layer.onnx_nodes)
        },
    }


def clip(made: Model, reference: Model | None, reader: str) -> tuple[Model, QdqPair]:
    """`made` with the scale of the first activation that a node called `reader` reads 40 times too small."""
    pairs = find_pairs(made)
    victim = next(
        pair
        for pair in pairs
        if pair.kind is PairKind.ACTIVATION and any(reader in each.node for each in pair.readers)
    )
    scales = {victim.name: Scale(victim.scale.values / 40)}
    return with_scales(made, pairs, scales, float_weights(made, pairs, reference)), victim


def diagnosed(
    clipped: Model,
    victim: QdqPair,
    environment: Environment,
    samples: Samples,
    reference: Model | None,
    expected: Sequence[Mapping[str, np.ndarray]],
    limit: float | None = None,
) -> dict[str, Any]:
    """What is found of a model with a clipped scale, and what the engine makes of it and of what is proposed."""
    found = diagnose_pairs(clipped, samples, reference=reference, limit=limit)
    rows: dict[str, Any] = {
        "diagnosis": {
            "planted": victim.name,
            "faulty": list(found.faulty),
            "taken_out": list(found.taken_out),
            "excluded": list(found.excluded),
            "repairs": [asdict(each)["method"] for each in found.repairs],
        }
    }
    for label, each in (
        ("clipped", clipped),
        ("repaired", found.repaired_model),
        ("without", found.reduced_model),
    ):
        if each is not None:
            rows[label] = errors(each, Precision.FP32, environment, samples[-len(expected) :], expected)
    return rows


def measure_conv(environment: Environment) -> dict[str, Any]:
    """INT8 convolutions, sound, clipped and repaired."""
    rng = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    made = load_model(quantised_conv(seed=0), name="quantised-conv")
    samples = [{"image": rng.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)} for _ in range(8)]
    expected = [Reference(made, own=False).run(feeds) for feeds in samples[4:]]
    rows["quantised-conv sound"] = errors(made, Precision.FP32, environment, samples[4:], expected)
    clipped, victim = clip(made, None, "conv1")
    # Its scales are rounded up to powers of two, so that by the default limit some others are at fault, too.
    found = diagnosed(clipped, victim, environment, samples, None, expected, limit=0.02)
    rows |= {f"quantised-conv {name}": row for name, row in found.items()}

    model = load_model(conv_residual(seed=0), name="conv-residual")
    (info,) = model.inputs
    shape = tuple(size if isinstance(size, int) else 2 for size in info.shape or ())
    samples = [{info.name: rng.uniform(-1, 1, shape).astype(np.float32)} for _ in range(8)]
    quantised = quantize(model, samples[:4], unseen=samples[4:]).quantized
    expected = [Reference(model).run(feeds) for feeds in samples[4:]]
    rows["conv-residual sound"] = errors(quantised, Precision.FP32, environment, samples[4:], expected)
    clipped, victim = clip(quantised, model, "b1_2_conv")
    found = diagnosed(clipped, victim, environment, samples, model, expected)
    return rows | {f"conv-residual {name}": row for name, row in found.items()}


def measure(environment: Environment) -> dict[str, Any]:
    """FP8 and INT8, sound, clipped and repaired."""
    model = load_model(attention_encoder(layers=2, width=128, heads=4, tokens=64), name="encoder")
    rng = np.random.default_rng(0)
    samples = [{"tokens": rng.standard_normal((2, 64, 128)).astype(np.float32)} for _ in range(8)]
    unseen = samples[4:]
    expected = [Reference(model).run(feeds) for feeds in unseen]
    rows: dict[str, Any] = {}
    for format in (Format.FP8, Format.INT8):
        made = quantize(model, samples[:4], unseen=unseen, format=format)
        for precision in (Precision.FP32, Precision.FP16):
            rows[f"{format} at {precision}"] = errors(
                made.quantized, precision, environment, unseen, expected
            )
        clipped, victim = clip(made.quantized, model, "fc1")
        found = diagnosed(clipped, victim, environment, samples, model, expected)
        rows |= {f"{format} {name}": row for name, row in found.items()}
    return rows


def main() -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it asks the engines of this machine's GPU")
    parser.add_argument("--env", required=True)
    parser.add_argument("--net", choices=("transformer", "conv"), default="transformer")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    environment = select(options.env)
    rows = measure(environment) if options.net == "transformer" else measure_conv(environment)
    for name, row in rows.items():
        print(name, {key: value for key, value in row.items() if key != "products"})
    name = "quantization_engine" if options.net == "transformer" else "quantization_engine_conv"
    numbers = {"environment": options.env, "rows": rows}
    print(record(name, numbers, out=options.out, module="quantization_engine"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
