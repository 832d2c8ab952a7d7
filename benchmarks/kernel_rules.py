"""The rules of FP16 sums, from what engines gave for many products: bit by bit, or not at all.

Run: python -m benchmarks.kernel_rules --packs FILE…, with what `benchmarks.emulation.packs` wrote on a GPU.
For each product of matrices the rule is sought that gives the engine's own bits on a part of its rows and columns: sums
of 16 terms, split into so many parts; or FP32. For each convolution it is the order of its terms. It adds how often
that is so to what is kept, and writes the table of `harness.model.sums`. With --sweep it also emulates the sweep, and
keeps how far the error of each engine is from the emulated one.
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

from benchmarks.emulation.accumulators import accumulate_in_fp16, convolve
from benchmarks.emulation.convolutions import Convolution, convolutions, narrow
from benchmarks.emulation.sweep import CONVOLUTIONS, Product, sweep
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from harness.backends import Assumed, Emulator, Reference
from harness.model import DEPTH, fp16_sums, load_model
from harness.model.sums.summation import Order
from harness.tensors import Accumulate, Precision, write_text
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

ALL_BUT = 0.995
"""An order of which so much is the engine's is not compared with others."""

NEAR_PRODUCT, NEAR_CONVOLUTION = 0.02, 0.05
"""How far an engine's error may be from the emulated one."""

SINCE = {TENSORRT_RTX: {"rtx-1.6": "1.4"}, TENSORRT: {"trt-8.5": "8.5", "trt-8.6": "8.6"}}
"""By product, the environments whose orders are taken, and the release since which they hold."""

CONVOLVED = {each.name: each for each in (*convolutions(), *narrow())}
ORDERS = (Order.FP32, Order.TILES_32, Order.TILES_64, Order.WOVEN, Order.TILES_8)
SAMPLED_ROWS, SAMPLED_COLUMNS, SAMPLED = 64, 512, 1 << 16

SPLIT_TERMS = 768
"""With fewer terms nothing is split, and the table needs no rows."""


def main() -> int:
    """Find the rule of each product, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it reads what engines gave, and writes one table of it")
    parser.add_argument("--packs", type=Path, nargs="*", default=[])
    parser.add_argument("--sweep", action="store_true", help="emulate the sweep, too; takes minutes")
    options = parser.parse_args()
    kept = json.loads((RESULTS / "kernel_rules.json").read_text())
    products = {(row.get("environment", "rtx-1.6"), row["name"]): row for row in kept["products"]}
    for environment, name, given in _given(options.packs):
        row = {"name": name, "environment": environment}
        if name in CONVOLVED:
            row |= _order(CONVOLVED[name], given.astype(np.float64))
        elif (product := _product(name)).kind in CONVOLUTIONS:
            continue
        else:
            row |= _rule(product, given.astype(np.float64))
        products[environment, name] = products.get((environment, name), {}) | row
    rows = [products[key] for key in sorted(products)]
    decided = [row for row in rows if "rule" in row]
    held = [row for row in decided if row["same_bits"] >= SAME]
    print(f"{len(held)} of {len(decided)} products come out bit by bit as a rule says")
    parts = {product: sorted(_table(held, product)) for product in RELEASES}
    orders = {product: _orders(held, product) for product in RELEASES}
    text = json.dumps({"releases": RELEASES, "parts": parts, "orders": orders}, separators=(",", ":"))
    write_text(TABLE, text.replace("]],", "]],\n") + "\n")
    if options.sweep:
        _emulate(rows)
    near = _near(rows)
    print(json.dumps(near, indent=1))
    numbers = {"releases": RELEASES, "held": len(held), "of": len(decided), "near": near, "products": rows}
    print(record("kernel_rules", numbers, indent=None))
    return 0


def _orders(rows: list[dict[str, Any]], product: str) -> dict[str, list[list[int | str]]]:
    """By the release since which it is so: [groups, channels, filters of each, taps, order] of each convolution."""
    found: dict[str, set[tuple[int | str, ...]]] = {}
    for row in rows:
        each = CONVOLVED.get(row["name"])
        if each is None or row["environment"] not in SINCE[product]:
            continue
        sizes = each.groups, each.channels // each.groups, each.filters // each.groups, each.kernel**2
        if sizes[1] > DEPTH or sizes[3] > 1:  # else every order is the same
            found.setdefault(SINCE[product][row["environment"]], set()).add((*sizes, row["rule"]))
    return {since: [list(each) for each in sorted(rows)] for since, rows in sorted(found.items())}


def _order(each: Convolution, given: np.ndarray) -> dict[str, Any]:
    """The order that gives most of an engine's bits, how many, and how much the engine errs."""
    proto, feeds = each.model()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    best: tuple[float, str] = (0.0, "none")
    for order in ORDERS:
        made = convolve(each, feeds["x"], constants["filters"], order)
        if "bias" in constants:
            made = (made + constants["bias"][:, None, None]).astype(np.float16).astype(np.float64)
        made = np.maximum(made, 0.0) if each.relu else made
        same = float(np.mean(each.kept(made) == given))
        best = max(best, (round(same, 4), order.value), key=lambda found: found[0])
        if same >= ALL_BUT:
            break
    model = load_model(proto, name=each.name)
    exact = each.kept(Reference(model).run(feeds)[model.outputs[0].name])
    return {"rule": best[1], "same_bits": best[0], "error": _error(given, exact)}


def _error(given: np.ndarray, exact: np.ndarray) -> float:
    return float(f"{np.linalg.norm(given - exact) / np.linalg.norm(exact):.5g}")


def _emulate(rows: list[dict[str, Any]]) -> None:
    """Note in each row of the sweeps the error of the engine over that of its emulation."""
    known = {product.name: product for product in sweep() if product.kind != "last"}
    for row in rows:
        name = row["name"]
        if name in CONVOLVED and row["environment"] in {*SINCE[TENSORRT_RTX], *SINCE[TENSORRT]}:
            engine = row["error"]
            release = "" if row["environment"].startswith("rtx") else row["environment"].removeprefix("trt-")
            emulated = _convolved_error(CONVOLVED[name], release)
        elif name in known and "nrmse" in row:
            engine = next(iter(row["nrmse"].values()))
            convolves = known[name].kind in CONVOLUTIONS
            emulated = _whole_error(known[name]) if convolves else _sampled_error(known[name])
        else:
            continue
        row["engine_over_emulated"] = round(engine / emulated, 4)
        print(row.get("environment", "rtx-1.6"), name, row["engine_over_emulated"], flush=True)


def _convolved_error(each: Convolution, release: str) -> float:
    proto, feeds = each.model()
    model = load_model(proto, name=each.name)
    output, product = model.outputs[0].name, TENSORRT if release else TENSORRT_RTX
    assumed = Assumed(Accumulate.FP16, product=product, release=release)
    low = Emulator(model, assumed=assumed).run(feeds, Precision.FP16)[output]
    return _error(each.kept(low), each.kept(Reference(model).run(feeds)[output]))


def _whole_error(product: Product) -> float:
    proto, feeds = product.model()
    model = load_model(proto, name=product.name)
    output = model.outputs[0].name
    low = Emulator(model, assumed=Assumed(Accumulate.FP16)).run(feeds, Precision.FP16)[output]
    return _error(low, Reference(model).run(feeds)[output])


def _sampled_error(product: Product) -> float:
    """The error of some rows and columns, of a product that is added up as the rules say of the whole."""
    proto, feeds = product.model()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    right = feeds.get("y", constants.get("right"))
    assert right is not None
    lefts, rights = (side.reshape(-1, *side.shape[-2:]).astype(np.float64) for side in (feeds["x"], right))
    lefts = lefts[:, : max(SAMPLED_ROWS, SAMPLED // product.columns)]
    rights = rights[:, :, : max(SAMPLED_COLUMNS, SAMPLED // lefts.shape[1])]
    bias = constants.get("bias", np.zeros(1)).astype(np.float64)[: rights.shape[2]]
    model = load_model(proto, name=product.name)
    how = fp16_sums(model, model.shapes).get("product")
    made, exact = [], []
    for left, columns in zip(lefts, rights, strict=True):
        exact.append(left @ columns + bias)
        if how is None:
            total = left @ columns
        elif how.rounds_products:
            total = (left.T * columns).astype(np.float16).astype(np.float64).sum(axis=0, keepdims=True)
        else:
            total = accumulate_in_fp16(left, columns, parts=how.parts)
        made.append(total.astype(np.float16).astype(np.float64) + bias)  # nothing rounds it again
    return _error(np.stack(made), np.stack(exact))


def _near(rows: list[dict[str, Any]]) -> dict[str, str]:
    """How many errors of engines are near the emulated ones, by kind and environment."""
    kinds = {each.name: each.kind for each in sweep()}
    found: dict[str, list[bool]] = {}
    for row in rows:
        if "engine_over_emulated" not in row:
            continue
        off = abs(row["engine_over_emulated"] - 1)
        if row["name"] in CONVOLVED:
            what, limit = f"convolutions on {row['environment']}", NEAR_CONVOLUTION
        elif kinds[row["name"]] in CONVOLUTIONS:
            what, limit = "convolutions of the sweep on rtx-1.6", NEAR_CONVOLUTION
        else:
            what, limit = "matrix products of the sweep on rtx-1.6", NEAR_PRODUCT
        found.setdefault(what, []).append(off <= limit)
    return {what: f"{sum(near)} of {len(near)}" for what, near in sorted(found.items())}


def _table(rows: list[dict[str, Any]], product: str) -> Iterator[list[int]]:
    """[batch, rows, terms, columns, parts, 1 with a residual] of each product of matrices that may be split."""
    found = {}
    for row in rows:
        if row["name"] in CONVOLVED:
            continue
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
