"""When INT8 and FP8 are slower than FP16 on an engine: kernels and latency of transformers of several sizes.

Run: python -m benchmarks.quantization_latency --env NAME [--out FILE] (a GPU, with nothing else on it)

Each encoder of two layers gets harness's Q/DQ pairs, all with one scale, which how long an engine takes does not depend
on, and is built at FP16 around them. The float model and the quantised ones are timed in turn, three times each: the
median of each engine's 100 inferences, and the least of three.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from cases.models.transformer import attention_encoder
from harness.backends import Plan, TensorRTCandidate, Timing
from harness.environments import Environment, close_shared, select
from harness.errors import CandidateError
from harness.model import Model, load_model
from harness.quantization import Format, Scale, place, with_pairs
from harness.tensors import Precision

SIZES = {
    "128 wide, 128 rows": {"width": 128, "heads": 4, "tokens": 64, "batch": 2},
    "512 wide, 512 rows": {"width": 512, "heads": 8, "tokens": 256, "batch": 2},
    "1024 wide, 2048 rows": {"width": 1024, "heads": 16, "tokens": 512, "batch": 4},
}
TURNS = 3
SCALE = Scale(np.array(0.02, np.float32))


def measure(model: Model, environment: Environment, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Kernels, and milliseconds of an inference."""
    candidate = TensorRTCandidate(environment, model)
    try:
        facts = candidate.evaluate(Plan(Precision.FP16), feeds, timing=Timing(repeats=100, warmup=20)).engine
    except CandidateError as error:
        return {"failure": error.message[:200]}
    finally:
        candidate.close()
    assert facts is not None
    assert facts.latency is not None
    kernels = [] if facts.kernels is None else facts.kernels.kernels
    return {"kernels": len(kernels), "ms": round(facts.latency.median_ms, 4)}


def measure_size(environment: Environment, **size: int) -> dict[str, Any]:
    """One encoder, in float and quantised."""
    model = load_model(attention_encoder(layers=2, **size), name="encoder")
    shape = (size["batch"], size["tokens"], size["width"])
    feeds = {"tokens": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    models = {"fp16": model}
    for format in (Format.INT8, Format.FP8):
        places = place(model, format)
        models[format.value] = with_pairs(model, format, places, {each.tensor: SCALE for each in places})
    found: dict[str, Any] = {}
    for _ in range(TURNS):
        for name, each in models.items():
            row = measure(each, environment, feeds)
            found[name] = min(found.get(name, row), row, key=lambda seen: seen.get("ms", 0.0))
    return found


def main() -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--env", required=True)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="only the first so many")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    environment = select(options.env)
    rows: dict[str, Any] = {}
    for name, size in list(SIZES.items())[: options.sizes]:
        rows[name] = measure_size(environment, **size)
        print(name, rows[name], flush=True)
        record("quantization_latency", {"environment": options.env, "rows": rows}, out=options.out)
    close_shared()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
