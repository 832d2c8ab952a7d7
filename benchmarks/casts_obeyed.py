"""What becomes of Casts around products, and around islands of them, on strongly typed engines.

Each model is built as it is, with Casts around its products, with the products in FP32, and with what reads them in
FP32, too, either way. An engine tells what it does by its error: it is set beside that of the emulator, which reads an
island of products in three ways, `as written`, `rounded, FP32 sums` (what a kernel computes that draws the Casts into a
product of FP16), and `rounded, FP16 sums` (what it computes where it leaves them out).

    python -m benchmarks.casts_obeyed --env rtx-1.4 --env rtx-1.6 --out FILE [--model NAME]…

On a GPU; goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race_polygraphy import mlp
from benchmarks.race_rtx_models import deep_mlp, opposed_sums
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from benchmarks.wide_mlp import wide_mlp
from harness.backends import Assumed, Emulator, Plan, Reference, TensorRTCandidate, Timing
from harness.case import make_feeds
from harness.comparison import compare_tensors
from harness.environments import load, select
from harness.model import PRODUCTS, Model, load_model
from harness.tensors import Accumulate, Precision, host_fingerprint, to_json

MODELS = {
    "opposed-sums": (opposed_sums, ("b3_down",)),
    "deep-mlp": (deep_mlp, ()),
    "accumulated": (lambda: mlp(()), ()),
    "wide-mlp": (wide_mlp, ()),
}
"""A builder, and the products in question: all of them where none is named."""

NOT_EMULATED = ("wide-mlp",)
"""FP16 sums of it take minutes."""


def variants(model: Model, products: tuple[str, ...]) -> Iterator[tuple[str, Plan]]:
    """What is built of a model."""
    named = frozenset(products) or frozenset(node.name for node in model.nodes if node.op in PRODUCTS)
    written = {name for node in named for name in model.node(node).outputs}
    units = {node.name for node in model.lowerable}
    readers = frozenset(node.name for node in model.nodes if written.intersection(node.inputs)) & units
    half = frozenset(sorted(named)[: max(len(named) // 2, 1)])
    yield "as it is", Plan(Precision.FP16)
    yield "Casts around products", Plan(Precision.FP16, fp32_sums=named)
    yield "products in FP32", Plan(Precision.FP16, islands=named)
    yield "products and readers in FP32", Plan(Precision.FP16, islands=named | readers)
    yield "Casts, and readers in FP32", Plan(Precision.FP16, islands=readers - named, fp32_sums=named)
    if len(named) > 1:
        yield "half of the products in FP32", Plan(Precision.FP16, islands=half)


def readings(plan: Plan, model: Model) -> dict[str, Plan]:
    """How an engine may read a plan."""
    found = {"as written": plan}
    alone = frozenset(name for name in plan.islands if model.node(name).op in PRODUCTS)
    if alone:
        left = plan.islands - alone
        found["rounded, FP32 sums"] = Plan(plan.precision, islands=left, fp32_sums=alone)
        found["rounded, FP16 sums"] = Plan(plan.precision, islands=left)
    elif plan.fp32_sums:
        found["rounded, FP16 sums"] = Plan(plan.precision)
    return found


def measure(name: str, environments: list[str], rows: list[dict[str, Any]], out: Path) -> None:
    """Add a row for each variant and environment to `rows`."""
    build, products = MODELS[name]
    model = load_model(build(), name=name)
    feeds = make_feeds(_case(name), model.inputs)[0]
    expected = Reference(model).run(feeds)
    emulated: dict[tuple[str, str], float] = {}
    for environment in environments:
        candidate = TensorRTCandidate(select(environment, load()), model)
        plain: dict[str, np.ndarray] = {}
        try:
            for variant, plan in variants(model, products):
                key = {"model": name, "environment": environment, "variant": variant}
                if any(all(row[part] == value for part, value in key.items()) for row in rows):
                    continue
                row = {**key, **_row(candidate, plan, feeds, expected, plain)}
                if name not in NOT_EMULATED:
                    for reading, read in readings(plan, model).items():
                        if (variant, reading) not in emulated:
                            emulated[variant, reading] = _emulate(model, environment, read, feeds, expected)
                    row["emulated"] = {
                        reading: emulated[variant, reading] for reading in readings(plan, model)
                    }
                rows.append(row)
                out.write_text(json.dumps(rows, default=float))
                print(json.dumps({**row, "kernels_of_products": None}, default=float), flush=True)
        finally:
            candidate.close()


def _case(name: str) -> Any:
    from harness.case import Case, ModelSource

    return Case(name=name, model=ModelSource(path=f"{name}.onnx"))


def _row(
    candidate: TensorRTCandidate, plan: Plan, feeds: Any, expected: Any, plain: dict[str, np.ndarray]
) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        found = candidate.evaluate(plan, feeds, timing=Timing(repeats=200, warmup=50))
    except Exception as error:  # the others are worth having
        return {"error": str(error)[:300]}
    facts = found.engine
    assert facts is not None
    if not plain:
        plain.update({name: np.array(value) for name, value in found.tensors.items()})
    chosen = plan.fp32_sums | {name for name in plan.islands if candidate.model.node(name).op in PRODUCTS}
    kernels = () if facts.kernels is None else facts.kernels.kernels
    return {
        "seconds": time.perf_counter() - start,
        "nrmse": max(compare_tensors(found.tensors[name], value).nrmse for name, value in expected.items()),
        "same as plain": all(np.array_equal(found.tensors[n], v, equal_nan=True) for n, v in plain.items()),
        "ms": None if facts.latency is None else facts.latency.median_ms,
        "kernels": len(kernels),
        "kernels_of_products": [
            {
                "name": kernel.name,
                "kind": str(kernel.kind),
                "tactic": kernel.tactic,
                "reads": [tensor.dtype for tensor in kernel.inputs],
                "writes": [tensor.dtype for tensor in kernel.outputs],
            }
            for kernel in kernels
            if chosen.intersection(kernel.onnx_nodes)
        ][:4],
    }


def _emulate(model: Model, environment: str, plan: Plan, feeds: Any, expected: Any) -> float:
    emulator = Emulator(model, assumed=Assumed(Accumulate.FP16, select(environment, load())))
    lowered = [name for name in emulator.units(plan.precision) if name not in plan.islands]
    found = emulator.attempt(feeds, plan.precision, lowered=lowered, fp32_sums=plan.fp32_sums)
    return max(compare_tensors(found.tensors[name], value).nrmse for name, value in expected.items())


def main() -> int:
    """Measure, and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it asks the engines of this machine's GPU")
    parser.add_argument("--env", action="append", required=True, help="may be repeated")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="may be repeated (all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "casts_obeyed.json")
    args = parser.parse_args()
    partial = args.out.with_suffix(".rows.json")
    rows: list[dict[str, Any]] = json.loads(partial.read_text()) if partial.exists() else []
    for name in args.model or MODELS:
        measure(name, args.env, rows, partial)
    print(record("casts_obeyed", {"host": to_json(host_fingerprint()), "rows": rows}, out=args.out))
    partial.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
