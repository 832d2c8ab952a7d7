"""What engines make of many products, some in each engine: a corner of each output, for rules to be found in.

Run: python -m benchmarks.emulation.packs --env NAME --part 0/4 --out FOLDER [--list NAME] [--seconds 60]
An engine of one product takes a second, most of it not for the product. Products in one engine read inputs of their
own, so that none is fused with another; `--list alone` builds some of them alone, to see that this changes no bit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from benchmarks.emulation.convolutions import Convolution, convolutions, narrow
from benchmarks.emulation.sweep import CONVOLUTIONS, Product
from benchmarks.spread import no_scheduler
from harness.backends import Plan, TensorRTCandidate
from harness.case import BuildOptions
from harness.environments import Supervisor, select
from harness.errors import HarnessError
from harness.model import load_model
from harness.tensors import Precision

ROWS, COLUMNS = 24, 48
"""So much of a matrix is kept."""

CHANNELS, PIXELS = 8, 256
"""So much of an image is kept."""

TOGETHER = {"alone": 1, "convolutions": 13, "narrow": 13}
"""So many are in one engine, of lists other than those of eight."""

Measured = Product | Convolution
MOST_WEIGHTS = 1 << 22


def main() -> int:
    """Build and run the packs of one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "each GPU gets a --part")
    parser.add_argument("--env", required=True)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--list", choices=sorted(LISTS), default="dense")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pinned", action="store_true", help="ask for FP16 at every layer")
    options = parser.parse_args()
    number, parts = map(int, options.part.split("/"))
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"{options.env}-{options.list}{'-pinned' * options.pinned}-{number}"
    plan = Plan(Precision.FP16, build=BuildOptions(pin_precision=True) if options.pinned else BuildOptions())
    until, arrays = time.monotonic() + options.seconds, {}
    supervisor = Supervisor(select(options.env))
    together = TOGETHER.get(options.list, 8)
    products = list(LISTS[options.list]())
    packs = [products[place : place + together] for place in range(0, len(products), together)]
    with stem.with_name(f"{stem.name}.jsonl").open("a") as file:
        for chosen in packs[number::parts]:
            if time.monotonic() > until:
                break
            row: dict[str, object] = {"products": [each.name for each in chosen]}
            row |= {"environment": options.env, "release": supervisor.probe().tensorrt}
            start = time.perf_counter()
            try:
                found, layers = _run(supervisor, chosen, plan)
                arrays |= found
                row |= {"layers": layers}
            except HarnessError as error:
                row |= {"error": str(error).splitlines()[0][:300]}
            file.write(json.dumps({**row, "seconds": round(time.perf_counter() - start, 2)}) + "\n")
            file.flush()
            np.savez_compressed(stem.with_name(f"{stem.name}.npz"), **arrays)
    supervisor.close()
    return 0


def pack(products: Sequence[Measured]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Products side by side in one model, each tensor of one named after it."""
    joined, given = onnx.ModelProto(), {}
    for place, product in enumerate(products):
        proto, feeds = product.model()
        prefix = f"p{place}/"
        named = onnx.compose.add_prefix(proto, prefix)
        if not place:
            joined.CopyFrom(named)
        else:
            for part in ("node", "input", "output", "initializer"):
                getattr(joined.graph, part).extend(getattr(named.graph, part))
        given |= {f"{prefix}{name}": value for name, value in feeds.items()}
    return joined, given


def corner(product: Measured, value: np.ndarray) -> np.ndarray:
    """The part of an output that is kept."""
    if isinstance(product, Convolution):
        return product.kept(value)
    if product.kind in CONVOLUTIONS:
        return value.reshape(product.columns, -1)[:CHANNELS, :PIXELS]
    return value.reshape(-1, *value.shape[-2:])[0, :ROWS, :COLUMNS]


def dense() -> Iterator[Product]:
    """Matrix products of sizes between and beside those of the sweep, in an order that mixes them; convolutions."""
    rows = (2, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
    columns = (8, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
    terms = (768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384)
    sizes = [
        (m, k, n)
        for m, k, n in itertools.product(rows, terms, columns)
        if k * n <= MOST_WEIGHTS and m * k <= MOST_WEIGHTS
    ]
    order = np.random.RandomState(0).permutation(len(sizes))
    products = [Product("weights" if place % 2 else "bias", *sizes[place]) for place in order]
    images = list(_images())
    step = max(1, len(products) // 2 // len(images))
    for place, product in enumerate(products):
        yield product
        if place % step == 0 and images:
            yield images.pop()


def _images() -> Iterator[Product]:
    for side, channels, out in itertools.product(
        (8, 16, 32), (3, 4, 8, 16, 24, 32, 48, 64, 128, 256), (8, 64, 128)
    ):
        yield Product("conv", side * side, channels * 9, out)
    for side, channels, out in itertools.product((8, 32), (3, 8, 32, 64, 256, 512, 1024, 2048), (8, 64, 512)):
        yield Product("pointwise", side * side, channels, out)


def rows() -> Iterator[Product]:
    """Products of one row, and of two."""
    sizes = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384), (8, 64, 128, 256, 384, 512, 1024, 2048, 4096)
    for k, n in itertools.product(*sizes):
        if k * n <= MOST_WEIGHTS:
            yield Product("weights", 1, k, n)
            yield Product("bias", 1, k, n)
            yield Product("last", 1, k, n)


def borders_of_rows() -> Iterator[Product]:
    """Products of one row about the sizes where generated code ends, and several products of one row each."""
    sizes = itertools.product(
        (160, 192, 256, 320, 384, 512, 1024, 2048, 4096),
        (256, 320, 384, 448, 512, 576, 640, 704, 768, 896, 1024),
    )
    yield from (Product("weights", 1, k, n) for k, n in sizes if 3 << 15 <= k * n <= 1 << 19)
    for b, k, n in itertools.product((2, 4, 16), (64, 128, 160, 192, 256, 512), (64, 192, 256, 512)):
        yield Product("weights", 1, k, n, b)
        yield Product("both", 1, k, n, b)


def weak() -> Iterator[Product]:
    """What a weakly typed release, which times its tactics, can be asked for in minutes; most telling first."""
    for k, n, m in itertools.product((1024, 4096, 256), (64, 512, 2048), (16, 128, 1024, 1)):
        if k * n <= MOST_WEIGHTS:
            yield Product("bias", m, k, n)
    for side, channels, out in itertools.product((8, 32), (16, 64, 256, 4), (64, 256)):
        yield Product("conv", side * side, channels * 9, out)
    for side, channels, out in itertools.product((8, 32), (64, 512), (64, 512)):
        yield Product("pointwise", side * side, channels, out)
    for b, m, k, n in itertools.product((2, 16), (24, 128), (64, 512, 2048), (64, 512)):
        yield Product("both", m, k, n, b)
    for k, n, m in itertools.product((64, 16384, 2048), (64, 256, 1024), (16, 128, 1024, 1)):
        if k * n <= MOST_WEIGHTS:
            yield Product("bias", m, k, n)


def residual() -> Iterator[Product]:
    """Products that are added to another input, as in a residual stream: kernels of their own."""
    sizes = itertools.product(
        (2048, 4096, 1024, 3072, 8192), (512, 1024, 256, 768, 128), (512, 2048, 64, 256, 128, 1024, 384, 16)
    )
    yield from (
        Product("residual", m, k, n) for k, n, m in sizes if k * n <= MOST_WEIGHTS and m * k <= MOST_WEIGHTS
    )


def alone() -> Iterator[Product]:
    """Every fortieth of `dense`."""
    yield from itertools.islice(dense(), 0, None, 40)


LISTS: dict[str, Callable[[], Iterator[Measured]]] = {
    "convolutions": convolutions,
    "residual": residual,
    "dense": dense,
    "rows": rows,
    "borders-of-rows": borders_of_rows,
    "narrow": narrow,
    "weak": weak,
    "alone": alone,
}


def _run(
    supervisor: Supervisor, products: Sequence[Measured], plan: Plan
) -> tuple[dict[str, np.ndarray], list[list[object]]]:
    proto, feeds = pack(products)
    model = load_model(proto, name="products")
    candidate = TensorRTCandidate(supervisor.environment, model, supervisor=supervisor)
    evaluation = candidate.evaluate(plan, feeds)
    candidate.close()
    assert evaluation.engine is not None
    found = {}
    for place, product in enumerate(products):
        name = next(
            info.name
            for info in model.outputs
            if info.name.startswith(f"p{place}/") and not info.name.endswith("largest")
        )
        found[product.name] = corner(product, np.asarray(evaluation.tensors[name])).astype(np.float16)
    layers = [[each.name, each.kind, list(each.onnx_nodes), each.tactic] for each in evaluation.engine.layers]
    return found, layers


if __name__ == "__main__":
    sys.exit(main())
