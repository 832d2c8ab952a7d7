"""Planted faults in the scales of quantised models: is the pair named, and is it repaired?

Each model is small, seeded, calibrated by harness, and sound; then one fault is planted: a scale is clipped or far too
large, a weight loses its scales for each channel or has them along the wrong axis, or two activations swap theirs.

Run: python -m benchmarks.quantization_faults [--models N] [--write]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from cases.models.convolutional import conv_residual
from cases.models.graph import Graph
from cases.models.layers import layer_norm, linear
from harness.model import Model, load_model
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

Samples = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Base:
    """A sound quantised model.

    Args:
        name: family and seed.
        model: with Q/DQ pairs.
        reference: the float model.
        samples: half to search on, half to confirm on.
        error: nrmse with the best calibration of the four.
    """

    name: str
    model: Model
    reference: Model
    samples: Samples
    error: float


def mlp(seed: int) -> onnx.ModelProto:
    """Linear layers of equal width, so that scales fit both axes, with channels of very different sizes."""
    graph = Graph("mlp", seed=seed)
    x = graph.input("x", [16, 32])
    for index in range(3):
        spread = np.logspace(0, -3 if index == 1 else 0, 32, dtype=np.float32)
        gain = np.float32(12 if index == 1 else 1)  # what the layer before is multiplied by
        weight = (
            np.random.default_rng(seed * 10 + index).standard_normal((32, 32)).astype(np.float32) / 5 / gain
        )
        x = graph.node("MatMul", f"fc{index}", x, graph.constant(f"w{index}", weight * spread))
        x = graph.node("Mul", f"even{index}", x, graph.constant(f"g{index}", 1 / spread))
        x = graph.node("Relu", f"relu{index}", x)
        if index == 0:
            x = graph.node("Mul", "gain", x, graph.constant("twelve", 12.0))
    return graph.model({x: [16, 32]})


def block(seed: int) -> onnx.ModelProto:
    """Pre-norm blocks with a residual."""
    graph = Graph("block", seed=seed)
    x = graph.input("x", [16, 48])
    for index in range(2):
        normed = layer_norm(graph, x, f"ln{index}", 48)
        hidden = graph.node("Relu", f"act{index}", linear(graph, normed, f"up{index}", 48, 48))
        x = graph.node("Add", f"add{index}", x, linear(graph, hidden, f"down{index}", 48, 48))
    return graph.model({x: [16, 48]})


def conv(seed: int) -> onnx.ModelProto:
    """Residual convolutions."""
    return conv_residual(seed=seed, blocks=2, channels=8, image=8)


FAMILIES: Mapping[str, Callable[[int], onnx.ModelProto]] = {"mlp": mlp, "block": block, "conv": conv}


def bases(seeds: int) -> Iterator[Base]:
    """Sound models of each family."""
    for seed in range(seeds):
        for name, build in FAMILIES.items():
            reference = load_model(build(seed), name=f"{name}-{seed}")
            rng = np.random.default_rng(seed)
            shape = reference.inputs[0].shape
            samples = [
                {reference.inputs[0].name: rng.standard_normal(shape).astype(np.float32)} for _ in range(4)
            ]
            made = quantize(reference, samples[:2], unseen=samples[2:], format=Format.INT8)
            yield Base(reference.name, made.quantized, reference, samples, made.chosen.error)


def plants(base: Base, rng: np.random.Generator) -> Iterator[tuple[str, tuple[str, ...], Model]]:
    """Kind of fault, the pairs at fault, and the model with it."""
    pairs = find_pairs(base.model)
    weights = float_weights(base.model, pairs, base.reference)
    activations = [pair for pair in pairs if pair.kind is PairKind.ACTIVATION]
    chosen = activations[int(rng.integers(len(activations)))]

    def planted(scales: Mapping[str, Scale]) -> Model:
        return with_scales(base.model, pairs, scales, weights)

    factor = np.float32(rng.uniform(8, 40))
    yield "clipped", (chosen.name,), planted({chosen.name: Scale(np.asarray(chosen.scale.values / factor))})
    yield (
        "vanished",
        (chosen.name,),
        planted({chosen.name: Scale(np.asarray(chosen.scale.values * factor * 3))}),
    )
    uneven = [
        pair for pair in pairs if pair.kind is PairKind.WEIGHT and _ratio(weights[pair.name], pair) > 100
    ]
    if uneven:
        pair = uneven[int(rng.integers(len(uneven)))]
        whole = Scale(np.array(np.abs(weights[pair.name]).max() / 127, np.float32))
        yield "per tensor", (pair.name,), planted({pair.name: whole})
        turned = Scale(pair.scale.values, None, 1 - (pair.channel_axis or 0) % 2)
        yield "wrong axis", (pair.name,), planted({pair.name: turned})
    apart = [pair for pair in activations if not 0.25 < float(pair.scale.values / chosen.scale.values) < 4]
    if apart:
        other = apart[int(rng.integers(len(apart)))]
        scales = {chosen.name: Scale(other.scale.values), other.name: Scale(chosen.scale.values)}
        yield "swapped", (chosen.name, other.name), planted(scales)


def _ratio(values: np.ndarray, pair: QdqPair) -> float:
    axis = (pair.channel_axis or 0) % values.ndim
    sizes = np.abs(values).max(axis=tuple(place for place in range(values.ndim) if place != axis))
    return float(sizes.max() / sizes.min())


def main() -> int:
    """Plant, diagnose, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it takes a minute and a half")
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    counts: dict[str, dict[str, int]] = {}
    misses: list[str] = []
    total = hurt = 0
    start = time.perf_counter()
    for base in bases(1 << 20):
        if total >= options.models:
            break
        rng = np.random.default_rng(len(base.name) + total)
        for kind, culprits, model in plants(base, rng):
            found = diagnose_pairs(model, base.samples, reference=base.reference)
            total += 1
            row = counts.setdefault(
                kind, {"planted": 0, "hurt": 0, "named": 0, "exactly": 0, "repaired": 0, "pairs": 0}
            )
            row["planted"] += 1
            if found.before <= 2 * base.error:
                continue  # what is planted and does no harm cannot be found, and need not be
            hurt += 1
            row["hurt"] += 1
            row["pairs"] += found.pairs
            named, exactly = set(culprits) & set(found.faulty), set(culprits) == set(found.faulty)
            first = found.ranking.pairs[0].pair in culprits
            row["named"] += bool(named) and first
            row["exactly"] += exactly
            repaired = found.repaired is not None and found.repaired <= 1.3 * base.error
            row["repaired"] += repaired
            if not (named and first and repaired):
                misses.append(
                    f"{base.name} {kind} {culprits}: {found.faulty}, before {found.before:.3g}, "
                    f"repaired {found.repaired}, calibrated {base.error:.3g}"
                )
    seconds = time.perf_counter() - start
    for kind, row in counts.items():
        print(kind, row)
    print(f"{hurt} of {total} planted faults hurt; {seconds:.0f} s")
    for miss in misses[:20]:
        print("miss:", miss)
    sums = {
        name: sum(row[name] for row in counts.values()) for name in ("hurt", "named", "exactly", "repaired")
    }
    print({name: round(sums[name] / max(hurt, 1), 4) for name in ("named", "exactly", "repaired")})
    if options.write:
        record(
            "quantization_faults",
            {"models": total, "kinds": counts, **sums, "seconds": round(seconds, 1), "misses": misses},
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
