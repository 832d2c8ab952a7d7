"""The rules of FP16 sums, from what engines gave for the sweep of products: bit by bit, or not at all.

Run: python -m benchmarks.kernel_rules --raw FOLDER, with what `benchmarks.emulation.measure --only sweep` wrote there
on a GPU. For each product of matrices the rule is sought that gives the engine's own bits on a part of its rows and
columns: sums of 16 terms, split into so many parts; or FP32. It keeps how often that is so, and writes the table of
`harness.model.sums`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper

from benchmarks.emulation.sweep import CONVOLUTIONS, Product, sweep
from benchmarks.record import record
from harness.model import accumulate_in_fp16
from harness.tensors import write_text

TABLE = Path(__file__).parents[1] / "harness" / "model" / "sums" / "rules.json"
PARTS = (1, 2, 4, 8, 16, 32)
ROWS, COLUMNS = 24, 48
SAME = 0.98
"""A rule holds if so many of the elements are the engine's own bits; by chance a few in ten are."""


def main() -> int:
    """Find the rule of each product, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    options = parser.parse_args()
    outputs = _outputs(options.raw)
    lines = [json.loads(line) for file in sorted(options.raw.glob("*.jsonl")) for line in file.open()]
    errors = {
        (row["name"], row["release"]): next(
            each["nrmse"] for name, each in row["outputs"].items() if name != "largest"
        )
        for row in lines
        if row["what"] == "product" and row["precision"] == "fp16" and "outputs" in row
    }
    releases = sorted({release for _, release in errors})
    rows = []
    for product in sweep():
        row: dict[str, Any] = {"name": product.name, "nrmse": {}}
        row["nrmse"] = {release: errors[product.name, release] for release in releases}
        if product.kind not in CONVOLUTIONS and product.kind != "last" and product.name in outputs:
            row |= _rule(product, outputs[product.name])
        rows.append(row)
    decided = [row for row in rows if "rule" in row]
    held = [row for row in decided if row["same_bits"] >= SAME]
    print(f"{len(held)} of {len(decided)} products come out bit by bit as a rule says")
    print(
        record(
            "kernel_rules", {"releases": releases, "held": len(held), "of": len(decided), "products": rows}
        )
    )
    table = [[*_sizes(row["name"]), row["rule"]] for row in held if isinstance(row["rule"], int)]
    write_text(TABLE, json.dumps({"releases": releases, "parts": table}, separators=(",", ":")) + "\n")
    return 0


def _sizes(name: str) -> list[int]:
    return [int(size) for size in name.rpartition("-")[2].split("x")]


def _outputs(folder: Path) -> dict[str, np.ndarray]:
    """What engines of the newest release gave, by name of the product."""
    found = {}
    for file in sorted(folder.glob("*-sweep-*.npz")):  # the releases in order: later ones replace the others
        with np.load(file) as arrays:
            for key in arrays.files:
                name, precision, tensor = key.split("/")
                if precision == "fp16" and tensor != "largest":
                    found[name] = arrays[key]
    return found


def _rule(product: Product, given: np.ndarray) -> dict[str, Any]:
    """The rule that gives most of an engine's bits, and how many."""
    proto, feeds = product.model()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    left, right = feeds["x"], feeds.get("y", constants.get("right"))
    assert right is not None
    left, right = (side.reshape(-1, *side.shape[-2:])[0].astype(np.float64) for side in (left, right))
    rows = min(len(left), ROWS, given.size // right.shape[1])
    seen = given[: rows * right.shape[1]].reshape(rows, -1)[:, :COLUMNS]
    bias = constants.get("bias", np.zeros(1))[:COLUMNS].astype(np.float64)
    sums = dict(_candidates(left[:rows], right[:, :COLUMNS]))
    same = {name: float(np.mean((value + bias).astype(np.float16) == seen)) for name, value in sums.items()}
    best = max(same, key=lambda name: same[name])
    return {"rule": best, "same_bits": round(same[best], 4)}


def _candidates(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[int | str, np.ndarray]]:
    for parts in PARTS:
        if left.shape[1] >= 32 * parts:
            yield parts, accumulate_in_fp16(left, right, parts=parts)
    yield "fp32", left @ right
    products = (left[:, :, None] * right[None]).astype(np.float16).astype(np.float64)
    yield "rounded products", products.sum(axis=1).astype(np.float16).astype(np.float64)


if __name__ == "__main__":
    sys.exit(main())
