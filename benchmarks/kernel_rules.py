"""The rules of FP16 sums, from what engines gave for many products: bit by bit, or not at all.

Run: python -m benchmarks.kernel_rules --packs FILE…, with what `benchmarks.emulation.packs` wrote on a GPU.
For each product of matrices the rule is sought that gives the engine's own bits on a part of its rows and columns: sums
of 16 terms, split into so many parts; or FP32. It adds how often that is so to what is kept, and writes the table of
`harness.model.sums`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper

from benchmarks.emulation.accumulators import accumulate_in_fp16
from benchmarks.emulation.sweep import CONVOLUTIONS, Product
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from harness.tensors import write_text
from harness.worker.protocol import TENSORRT, TENSORRT_RTX

TABLE = Path(__file__).parents[1] / "harness" / "model" / "sums" / "rules.json"
RELEASES = {
    TENSORRT_RTX: ("1.4.0.76", "1.5.0.114", "1.6.1.120"),
    TENSORRT: ("8.5.3.1", "8.6.0"),
}
PARTS = (1, 2, 4, 8, 5, 16, 32, 3, 7, 11, 22, *range(6, 33))
ROWS, COLUMNS = 6, 32
SAME = 0.98
"""A rule holds if so many of the elements are the engine's own bits; by chance a few in ten are."""

SPLIT_TERMS = 768
"""With fewer terms nothing is split, and the table needs no rows."""


def main() -> int:
    """Find the rule of each product, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it reads what engines gave, and writes one table of it")
    parser.add_argument("--packs", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    kept = json.loads((RESULTS / "kernel_rules.json").read_text())
    products = {(row.get("environment", "rtx-1.6"), row["name"]): row for row in kept["products"]}
    for environment, name, given in _given(options.packs):
        product = _product(name)
        if product.kind in CONVOLUTIONS:
            continue
        row = products.setdefault((environment, name), {"name": name, "environment": environment})
        row |= _rule(product, given.astype(np.float64))
    rows = [products[key] for key in sorted(products)]
    decided = [row for row in rows if "rule" in row]
    held = [row for row in decided if row["same_bits"] >= SAME]
    print(f"{len(held)} of {len(decided)} products come out bit by bit as a rule says")
    numbers = {"releases": RELEASES, "held": len(held), "of": len(decided), "products": rows}
    print(record("kernel_rules", numbers, indent=None))
    parts = {product: sorted(_table(held, product)) for product in RELEASES}
    text = json.dumps({"releases": RELEASES, "parts": parts}, separators=(",", ":"))
    write_text(TABLE, text.replace("]],", "]],\n") + "\n")
    return 0


def _table(rows: list[dict[str, Any]], product: str) -> Iterator[list[int]]:
    """[batch, rows, terms, columns, parts, 1 with a residual] of each product of matrices that may be split."""
    found = {}
    for row in rows:
        *sizes, columns = map(int, row["name"].rpartition("-")[2].split("x"))
        of = TENSORRT if row.get("environment", "rtx").startswith("trt") else TENSORRT_RTX
        if of == product and isinstance(row["rule"], int) and sizes[1] > 1 and sizes[2] >= SPLIT_TERMS:
            residual = int(row["name"].startswith("residual"))
            found[*sizes, columns, residual] = row["rule"]
    yield from ([*sizes, parts, residual] for (*sizes, residual), parts in found.items())


def _given(files: list[Path]) -> Iterator[tuple[str, str, np.ndarray]]:
    """What engines gave: environment, name of the product, a corner of it; of releases that agree, the newest."""
    for file in files:
        with np.load(file) as arrays:
            for key in arrays.files:
                environment, kind, name = ("rtx-1.6", "", key) if "|" not in key else key.split("|")
                if kind != "alone" and environment not in ("rtx-1.4", "rtx-1.5"):
                    yield environment, name, arrays[key]


def _product(name: str) -> Product:
    kind, _, sizes = name.rpartition("-")
    batch, rows, terms, columns = map(int, sizes.split("x"))
    return Product(kind, rows, terms, columns, batch)


def _rule(product: Product, given: np.ndarray) -> Mapping[str, Any]:
    """The rule that gives most of an engine's bits, and how many."""
    proto, feeds = product.model()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    left, right = feeds["x"], feeds.get("y", constants.get("right"))
    assert right is not None
    left, right = (side.reshape(-1, *side.shape[-2:])[0].astype(np.float64) for side in (left, right))
    seen = given.reshape(-1, min(given.shape[-1], right.shape[1]))[:ROWS, :COLUMNS]
    left, right = left[: len(seen)], right[:, : seen.shape[1]]
    bias = constants.get("bias", np.zeros(1))[: seen.shape[1]].astype(np.float64)
    if "residual" in feeds:
        bias = feeds["residual"][: len(seen), : seen.shape[1]].astype(np.float64)
    best: tuple[float, int | str] = (0.0, "none")
    for name, value in _candidates(left, right, bias):
        same = float(np.mean(value.astype(np.float16) == seen))
        best = max(best, (round(same, 4), name), key=lambda each: each[0])
        if same >= SAME:
            break
    return {"rule": best[1], "same_bits": best[0]}


def _candidates(
    left: np.ndarray, right: np.ndarray, bias: np.ndarray
) -> Iterator[tuple[int | str, np.ndarray]]:
    for parts in PARTS:
        if parts == 1 or left.shape[1] >= 256 * parts:
            yield parts, accumulate_in_fp16(left, right, parts=parts) + bias
    exact = left @ right
    yield "fp32", exact.astype(np.float16) + bias
    yield "fp32, not rounded before the bias", exact + bias
    if len(left) == 1:
        products = (left[:, :, None] * right[None]).astype(np.float16).astype(np.float64)
        yield "rounded products", products.sum(axis=1).astype(np.float16) + bias


if __name__ == "__main__":
    sys.exit(main())
