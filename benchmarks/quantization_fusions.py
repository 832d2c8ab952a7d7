"""Q/DQ pairs planted where TensorRT has no use for them: are they named, and what do kernels say once they are moved?

Small seeded nets with a pair between a product and its bias or activation, or before the input of a sum that the
product computes.

Run: python -m benchmarks.quantization_fusions PYTHON [--models N] [--write], PYTHON with TensorRT for RTX.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from cases.models.convolutional import conv_residual
from cases.models.graph import Graph
from cases.models.layers import linear
from harness.compiler import ReportCache, kernels_of
from harness.environments import Environment, Supervisor
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


def plants(count: int) -> Iterator[tuple[str, str, str | None, Model, Model, dict[str, np.ndarray]]]:
    """Name, tensor of the planted pair, where it should go, the model with it, the model without, and a sample."""
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
            yield f"{model.name} {tensor}", tensor, moved, _planted(base, tensor, reader), good, feeds
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


def main() -> int:
    """Plant, name, move, and count kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python")
    parser.add_argument("--models", type=int, default=51)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    environment = Environment("compiler", (options.python,))
    supervisor = Supervisor(environment, keep_cache=False)
    found: dict[str, Any] = {
        "planted": 0,
        "named": 0,
        "moved": 0,
        "kernels": {},
        "more_kernels_after_moving": 0,
    }
    misses = []
    with tempfile.TemporaryDirectory() as folder:

        def kernels(model: Model, feeds: dict[str, np.ndarray]) -> tuple[int, int, int]:
            listed = kernels_of(
                model, Precision.FP16, environment, supervisor=supervisor, cache=ReportCache(Path(folder))
            )
            seen = read_kernels(model, listed, feeds)
            return seen.kernels, len(seen.rounding), len(seen.in_float)

        for name, tensor, moved, planted, good, feeds in plants(options.models):
            found["planted"] += 1
            misplaced = find_misplaced(planted)
            cured = well_placed(planted)
            named = [each.pair for each in misplaced] == [tensor] and misplaced[0].moved_to == moved
            right = {pair.tensor for pair in find_pairs(cured)} == {pair.tensor for pair in find_pairs(good)}
            found["named"] += named
            found["moved"] += right
            counts = [kernels(model, feeds) for model in (good, planted, cured)]
            found["kernels"][name] = {"placed": counts[0], "misplaced": counts[1], "moved": counts[2]}
            found["more_kernels_after_moving"] += counts[2] > counts[0]
            if not (named and right):
                misses.append(f"{name}: {misplaced}")
    supervisor.close()
    found["costing_kernels"] = sum(row["misplaced"] > row["placed"] for row in found["kernels"].values())
    print({name: value for name, value in found.items() if name != "kernels"}, misses[:5])
    if options.write:
        record("quantization_fusions", {**found, "misses": misses})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
