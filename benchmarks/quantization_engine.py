"""A quantised transformer on an engine: does it err as the emulator says, and does it confirm which scale was clipped?

Run: python -m benchmarks.quantization_engine --env NAME [--out FILE] (a GPU)
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from cases.models.transformer import attention_encoder
from harness.backends import Emulator, Plan, Reference, TensorRTCandidate
from harness.environments import Environment, select
from harness.errors import CandidateError
from harness.model import Model, load_model
from harness.quantization import (
    Format,
    Kind,
    Scale,
    diagnose_pairs,
    find_pairs,
    float_weights,
    quantize,
    with_scales,
)
from harness.quantization.ranking import worst_error
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
        engine = [candidate.evaluate(Plan(precision), feeds).tensors for feeds in samples]
    except CandidateError as error:
        return {**found, "failure": error.message}
    finally:
        candidate.close()
    return {
        **found,
        "engine": worst_error(engine, expected),
        "engine_over_emulator": worst_error(engine, emulated),
    }


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
        pairs = find_pairs(made.quantized)
        weights = float_weights(made.quantized, pairs, model)
        victim = next(
            pair
            for pair in pairs
            if pair.kind is Kind.ACTIVATION and any("fc1" in each.node for each in pair.readers)
        )
        clipped = with_scales(made.quantized, pairs, {victim.name: Scale(victim.scale.values / 40)}, weights)
        found = diagnose_pairs(clipped, samples, reference=model)
        rows[f"{format} diagnosis"] = {
            "planted": victim.name,
            "faulty": list(found.faulty),
            "taken_out": list(found.taken_out),
        }
        for label, each in (
            ("clipped", clipped),
            ("repaired", found.repaired_model),
            ("without", found.reduced_model),
        ):
            if each is not None:
                rows[f"{format} {label}"] = errors(each, Precision.FP32, environment, unseen, expected)
    return rows


def main() -> int:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(select(options.env))
    for name, row in rows.items():
        print(name, row)
    print(record("quantization_engine", {"environment": options.env, "rows": rows}, out=options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
