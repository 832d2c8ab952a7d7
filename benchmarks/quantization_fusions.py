"""Q/DQ pairs planted where TensorRT has no use for them: are they named, and what do kernels say once they are moved?

Small seeded nets with a pair between a product and its bias or activation, or before the input of a sum that the
product computes.

Run: python -m benchmarks.quantization_fusions PYTHON [--models N] [--scheduler ADDRESS] [--write], PYTHON with TensorRT
for RTX, on workers under the same path.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.spread import add_scheduler, each_answer
from cases.models.convolutional import conv_residual
from cases.models.graph import Graph
from cases.models.layers import linear
from harness.compiler import ReportCache, kernels_of
from harness.environments import Environment, close_shared
from harness.model import Model, load_model
from harness.quantization import (
    Format,
    Scale,
    find_misplaced,
    find_pairs,
    quantize,
    read_kernels,
    well_placed,
)
from harness.quantization.editing import insert_pair
from harness.tensors import Precision


def mlp(seed: int) -> Model:
    """Linear layers with activations."""
    graph = Graph("mlp", seed=seed)
    x = graph.input("x", [32, 64])
    for index in range(3):
        x = graph.node("Relu", f"relu{index}", linear(graph, x, f"fc{index}", 64, 64))
    return load_model(graph.model({x: [32, 64]}), name=f"mlp-{seed}")


@dataclass(frozen=True)
class Plant:
    """A misplaced pair.

    Args:
        name: of the model, and the tensor.
        tensor: where the pair stands.
        moved: the tensor where it should stand; None is nowhere.
        planted: the model with it.
        good: the model without.
        feeds: a sample.
    """

    name: str
    tensor: str
    moved: str | None
    planted: Model
    good: Model
    feeds: dict[str, np.ndarray]


def plants(count: int) -> Iterator[Plant]:
    """So many of them, three in each model."""
    seed = 0
    while count > 0:
        convolutional = seed % 3 == 2
        model = (
            load_model(conv_residual(seed=seed, blocks=2), name=f"conv-{seed}")
            if convolutional
            else mlp(seed)
        )
        info = model.inputs[0]
        feeds = {info.name: np.random.default_rng(seed).standard_normal(info.shape).astype(np.float32)}
        good = quantize(model, [feeds], unseen=[], format=Format.INT8).quantized
        places = (
            [("b0_1_bn", "b0_1_relu", None), ("b1_2_conv", "b1_2_bn", None), ("b0_2_bn", "b0_add", None)]
            if convolutional
            else [("fc0_matmul", "fc0", None), ("fc1", "relu1", None), ("fc0", "relu0", "relu0")]
        )
        for tensor, reader, moved in places:
            base = good
            if moved is not None:  # the pair stands in front of the activation, and not behind it
                pairs = [pair for pair in find_pairs(good) if pair.tensor == moved]
                base = without(good, pairs)
            planted = _planted(base, tensor, reader)
            yield Plant(f"{model.name} {tensor}", tensor, moved, planted, good, feeds)
            count -= 1
        seed += 1


def without(model: Model, pairs: list[Any]) -> Model:
    """`model` without pairs of activations."""
    from harness.quantization import without as taken

    return taken(model, find_pairs(model), [pair.name for pair in pairs], {})


def _planted(model: Model, tensor: str, reader: str) -> Model:
    copy = model.clone()
    node = next(node for node in copy.graph if node.name == reader)
    position = next(
        place for place, value in enumerate(node.inputs) if value is not None and value.name == tensor
    )
    value = node.inputs[position]
    assert value is not None
    insert_pair(copy.graph, value, [(node, position)], Scale(np.array(0.05, np.float32)), "int8")
    return load_model(copy, name=model.name)


@dataclass(frozen=True)
class Found:
    """What was made of a plant: whether it was named and moved, and the kernels placed, misplaced and moved.

    Kernels are counted as (all, those that only round, products in float).
    """

    named: bool
    moved: bool
    kernels: tuple[tuple[int, int, int], ...]
    said: str


def measure(environment: Environment, plant: Plant) -> Found:
    """Name, move, and count kernels."""
    misplaced = find_misplaced(plant.planted)
    cured = well_placed(plant.planted)
    named = [each.pair for each in misplaced] == [plant.tensor] and misplaced[0].moved_to == plant.moved
    tensors = [{pair.tensor for pair in find_pairs(model)} for model in (cured, plant.good)]

    def kernels(model: Model) -> tuple[int, int, int]:
        listed = kernels_of(model, Precision.FP16, environment, cache=ReportCache(Path("/nonexistent")))
        seen = read_kernels(model, listed, plant.feeds)
        return seen.kernels, len(seen.rounding), len(seen.in_float)

    counts = tuple(kernels(model) for model in (plant.good, plant.planted, cured))
    return Found(named, tensors[0] == tensors[1], counts, str(misplaced))


def main() -> int:
    """Plant, name, move, and count kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python")
    parser.add_argument("--models", type=int, default=51)
    parser.add_argument("--write", action="store_true")
    add_scheduler(parser)
    options = parser.parse_args()
    planted = list(plants(options.models))
    asked = partial(measure, Environment("compiler", (options.python,)))
    by_name = {plant.name: found for plant, found in each_answer(asked, planted, options.scheduler)}
    close_shared()
    rows = {plant.name: by_name[plant.name] for plant in planted}
    numbers: dict[str, Any] = {
        "planted": len(rows),
        "named": sum(row.named for row in rows.values()),
        "moved": sum(row.moved for row in rows.values()),
        "kernels": {
            name: dict(zip(("placed", "misplaced", "moved"), row.kernels, strict=True))
            for name, row in rows.items()
        },
        "more_kernels_after_moving": sum(row.kernels[2] > row.kernels[0] for row in rows.values()),
        "costing_kernels": sum(row.kernels[1] > row.kernels[0] for row in rows.values()),
    }
    misses = [f"{name}: {row.said}" for name, row in rows.items() if not (row.named and row.moved)]
    print({name: value for name, value in numbers.items() if name != "kernels"}, misses[:5])
    if options.write:
        record("quantization_fusions", {**numbers, "misses": misses})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
