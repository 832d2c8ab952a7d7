"""Which nodes AutoCast of NVIDIA's ModelOpt keeps in FP32 of the models of benchmarks.race_rtx.

AutoCast runs ONNX Runtime on the inputs of the case and keeps the nodes whose tensors leave its range; it checks no
result. It needs no GPU, but packages that harness has not, so that it is asked in an environment of its own:

    python3 -m venv .venv-modelopt
    .venv-modelopt/bin/pip install --no-deps nvidia-modelopt==0.47.0 torch==2.13.0 onnx onnxruntime onnx-graphsurgeon \\
        onnxslim onnxscript onnx-ir polygraphy numpy ml_dtypes protobuf pydantic pydantic-core annotated-types \\
        typing-extensions typing-inspection packaging tqdm nvidia-ml-py sympy mpmath lief
    python -m benchmarks.race_autocast .venv-modelopt/bin/python --write

The race builds a typed graph with these nodes in FP32 and checks it once; given a Python with ModelOpt, it asks anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race_contenders import bench_of
from benchmarks.race_rtx_models import MODELS, write_case
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from harness.case import load_case
from harness.model import load_model

PROCESSOR = "processor seconds"
AUTOCAST = f"""
import sys
import time
PROCESSOR = {PROCESSOR!r}
import onnx
from modelopt.onnx.autocast import convert_to_mixed_precision
held = convert_to_mixed_precision(
    sys.argv[1], low_precision_type="fp16", calibration_data=sys.argv[2], keep_io_types=True
)
onnx.save(held, sys.argv[3])
print(PROCESSOR, time.process_time())
"""
KEPT = RESULTS / "race_autocast.json"


def choose(python: str, name: str) -> dict[str, Any]:
    """What AutoCast keeps of a model, and the seconds, of the processor and by the clock, of the process that says so,
    imports included."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        bench = bench_of(load_case(write_case(name, folder)))
        np.savez(folder / "inputs.npz", **bench.feeds[0])
        typed = folder / "typed.onnx"
        command = [python, "-c", AUTOCAST, *map(str, (folder / "model.onnx", folder / "inputs.npz", typed))]
        began = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - began
        if not typed.exists():
            return {"failure": (ended.stderr.strip().splitlines() or ["nothing was said"])[-1][:200]}
        said = next(line for line in ended.stdout.splitlines() if line.startswith(PROCESSOR))
        made = load_model(typed)
        written = {node.name: node.outputs[0] for node in made.nodes}
        units = [node.name for node in bench.model.lowerable]
        return {
            "kept": [unit for unit in units if made.dtypes.get(written.get(unit, "")) == "float32"],
            "gone": [unit for unit in units if unit not in written],
            "nodes": len(units),
            "seconds": round(float(said.removeprefix(PROCESSOR)), 2),
            "wall": round(wall, 2),
        }


def kept_by_autocast(name: str) -> dict[str, Any] | None:
    """What `choose` said of a model, from what is kept; None where nothing is."""
    found = json.loads(KEPT.read_text())["models"].get(name) if KEPT.exists() else None
    return None if found is None or "failure" in found else dict(found)


def main() -> int:
    """Ask for all models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("python", metavar="PYTHON", help="has ModelOpt")
    parser.add_argument("--write", action="store_true", help="keep it in benchmarks/results")
    args = parser.parse_args()
    models = {}
    for name in MODELS:
        models[name] = choose(args.python, name)
        found = models[name]
        print(name, found.get("failure") or f"{len(found['kept'])} of {found['nodes']} nodes", flush=True)
    asked = "import importlib.metadata as m; print(m.version('nvidia-modelopt'), m.version('onnxruntime'))"
    modelopt, runtime = subprocess.run(
        [args.python, "-c", asked], capture_output=True, text=True, check=True
    ).stdout.split()
    if args.write:
        print(record("race_autocast", {"modelopt": modelopt, "onnxruntime": runtime, "models": models}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
