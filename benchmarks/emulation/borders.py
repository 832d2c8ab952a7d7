"""The tensors at the borders of an engine's kernels, bit by bit, to find what each kernel does with what it reads.

Run: python -m benchmarks.emulation.borders --env NAME --part 0/3 --out FOLDER [--names FILE] [--seconds 60], on a GPU.
They are debug tensors, under the engine's own names, which change no bit; the kernels that read and write them, and
the inputs, can be made again from the catalogue. Large tensors are cut to their first elements.
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

from benchmarks.emulation.models import Entry, catalogue
from benchmarks.emulation.recurrences import recurrences
from benchmarks.spread import no_scheduler
from harness.backends import Observation, Plan, TensorRTCandidate, Timing
from harness.backends.engines import BuildRefused
from harness.environments import Supervisor, select
from harness.errors import HarnessError
from harness.tensors import Precision

LARGEST, MOST = 1 << 16, 1 << 19
"""So many elements of a tensor are kept, and of all tensors of a model."""


def main() -> int:
    """Build, run and keep one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "each GPU gets a --part")
    parser.add_argument("--env", required=True)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", type=Path, help="a file with the names of models, one a line")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    number, parts = map(int, options.part.split("/"))
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"{options.env}-borders-{number}"
    until, arrays = time.monotonic() + options.seconds, {}
    names = set(options.names.read_text().split()) if options.names else None
    supervisor = Supervisor(select(options.env))
    with stem.with_name(f"{stem.name}.jsonl").open("a") as file:
        for place, (entry, precision) in enumerate(_work(names)):
            if place % parts != number:
                continue
            if time.monotonic() > until:
                break
            row: dict[str, Any] = {"name": entry.name, "precision": precision.value}
            row |= {"environment": options.env, "release": supervisor.probe().tensorrt}
            start = time.perf_counter()
            try:
                found, kept = _borders(supervisor, entry, precision)
                row |= found
                arrays |= {f"{entry.name}|{precision}|{name}": value for name, value in kept.items()}
            except HarnessError as error:
                row |= {"error": str(error).splitlines()[0][:300]}
            vars(entry).pop("made", None)
            file.write(json.dumps({**row, "seconds": round(time.perf_counter() - start, 2)}) + "\n")
            file.flush()
    np.savez_compressed(stem.with_name(f"{stem.name}.npz"), **arrays)
    supervisor.close()
    return 0


def _work(names: set[str] | None) -> Iterator[tuple[Entry, Precision]]:
    for precision in (Precision.FP16, Precision.BF16):
        for entry in (*recurrences(), *catalogue()):
            if names is None or entry.name in names:
                yield entry, precision


def _borders(
    supervisor: Supervisor, entry: Entry, precision: Precision
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    model, feeds = entry.made
    candidate = TensorRTCandidate(supervisor.environment, model, supervisor=supervisor)
    plan = Plan(precision, observation=Observation.DEBUG)
    while True:
        wanted = candidate.requests.debug(plan, feeds)
        try:
            engine = candidate.store.get(wanted.model, wanted.request)
            break
        except BuildRefused as refusal:
            if not candidate.requests.keep(plan, refusal.nodes):
                raise refusal.error from refusal
    tensors, warnings = candidate.store.run(engine, feeds, Timing(), debug=True)
    kernels = engine.facts.kernels
    listed = [
        [
            each.name,
            each.kind,
            list(each.onnx_nodes),
            list(each.operations),
            [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in each.inputs],
            [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in each.outputs],
            list(each.constants),
            each.tactic,
        ]
        for each in (kernels.kernels if kernels else ())
        if each.kind not in ("memset", "signal", "wait")
    ]
    kept, left = {}, MOST
    for name, value in tensors.items():
        flat = np.asarray(value).reshape(-1)[:LARGEST]
        if flat.size <= left and flat.dtype.kind in "fV":
            left -= flat.size
            kept[name] = flat if flat.dtype.kind == "f" else flat.view(np.uint16)
    shapes = {name: [str(value.dtype), *np.shape(value)] for name, value in tensors.items()}
    candidate.close()
    return {"kernels": listed, "shapes": shapes, "warnings": list(warnings)}, kept


if __name__ == "__main__":
    sys.exit(main())
