"""harness diagnose against polygraphy debug precision: the same models, GPU, TensorRT and gate.

Needs an environment on a GPU whose Python has polygraphy. Run:
python -m benchmarks.race_polygraphy --env NAME [--model NAME] [--direction forward] [--out DIR]

`cold` is `harness diagnose` typed in a shell: it starts its own worker. `warm` is the same diagnosis in a process
whose worker has judged the case before. polygraphy bisects forwards or backwards, with FP32 layers preferred; its
check loads the engine and holds it against the gate that harness uses. Counted are engine builds, wall seconds,
layers (ONNX nodes for harness) kept in FP32, and the largest error that is left.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.record import record
from cases.models.graph import Graph
from cases.models.mlp import rmsnorm_block
from harness.case import load_case
from harness.case.source import resolve_model
from harness.diagnose import Diagnosis, diagnose
from harness.environments import Environment, load, select
from harness.judge import Judge
from harness.tensors.precision import Precision

CASES = Path(__file__).parent.parent / "cases"
WIDTH, ROWS, BLOCKS = 256, 64, 12

CHECK = """
import json, sys, numpy as np
from polygraphy.backend.common import BytesFromPath
from polygraphy.backend.trt import EngineFromBytes, TrtRunner

inputs, expected = dict(np.load("inputs.npz")), dict(np.load("expected.npz"))
with TrtRunner(EngineFromBytes(BytesFromPath("polygraphy_debug.engine"))) as runner:
    found = runner.infer(inputs)
limits = json.load(open("limits.json"))
errors = {name: found[name].astype(np.float64) - value for name, value in expected.items()}
rmse = {name: float(np.sqrt(np.mean(error * error))) for name, error in errors.items()}
passed = all(rmse[name] <= limits[name] for name in rmse)
largest = max(float(np.max(np.abs(error))) for error in errors.values())
with open("checks.jsonl", "a") as log:
    log.write(json.dumps({"passed": passed, "rmse": rmse, "max_abs": largest}) + "\\n")
sys.exit(0 if passed else 1)
"""


def mlp(scaled: tuple[int, ...]) -> onnx.ModelProto:
    """The bundled RMSNorm MLP with the blocks `scaled` multiplied by 600."""
    graph = Graph("rmsnorm_mlp", seed=0)
    x = graph.input("x", [ROWS, WIDTH])
    for index in range(BLOCKS):
        x = rmsnorm_block(graph, x, f"b{index}", WIDTH, scale=600.0 if index in scaled else 1.0)
    return graph.model({x: [ROWS, WIDTH]})


def bundled(name: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        model = resolve_model(load_case(CASES / f"{name}.case.yaml"))
        assert isinstance(model, onnx.ModelProto)
        return model

    return build


# Model and gate; an empty gate is the default one. The accumulated error is a clean model under a gate that FP16
# misses by a third, so that no single node is at fault.
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "rmsnorm-overflow": (lambda: mlp((7,)), ""),
    "two-faults": (lambda: mlp((2, 9)), ""),
    "accumulated": (lambda: mlp(()), "tolerances: [{precision: fp16, nrmse: 7.0e-4}]\n"),
    "attention": (bundled("attention-overflow"), ""),
}


def write_case(name: str, folder: Path) -> Path:
    build, gate = MODELS[name]
    onnx.save(build(), folder / "model.onnx")
    path = folder / f"{name}.case.yaml"
    path.write_text(f"model: {{path: model.onnx}}\nruns: [fp16]\n{gate}")
    return path


def cold(case: Path, environment: str) -> dict[str, Any]:
    out = case.parent / "diagnosis.json"
    command = [sys.executable, "-m", "harness", "diagnose", str(case), "--precision", "fp16"]
    command += ["--env", environment, "--out", str(case.parent / "handed"), "--json", str(out)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    seconds = time.perf_counter() - start
    if not out.exists():
        return {"error": (done.stderr or done.stdout)[-2000:], "seconds": seconds}
    document = json.loads(out.read_text())
    return {"seconds": seconds, **_row(document), "exit": done.returncode}


def warm(case: Path, environment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The diagnosis with a warm worker, and what the check of polygraphy needs."""
    with Judge() as judge:
        loaded = load_case(case)
        (spec,) = loaded.select_runs([Precision.FP16])
        result = judge.run(loaded, spec, environment)
        bench = judge.bench(loaded)
        rms = {
            name: float(np.sqrt(np.mean(np.square(v, dtype=np.float64))))
            for name, v in bench.expected[0].items()
        }
        limits = {}
        for output in result.outputs:
            for gate in output.gates:
                if gate.metric in ("rmse", "nrmse"):
                    limits[output.tensor] = gate.limit * (
                        rms[output.tensor] if gate.metric == "nrmse" else 1.0
                    )
        start = time.perf_counter()
        diagnosis: Diagnosis = diagnose(loaded, precision="fp16", environment=environment, judge=judge)
        row = {"seconds": time.perf_counter() - start, **_row(diagnosis.to_dict())}
        check = {"limits": limits, "feeds": bench.feeds[0], "expected": bench.expected[0]}
    return row, check


def _row(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": document["verdict"],
        "builds": document["cost"]["builds"],
        "kept_in_fp32": len(document["culprits"]),
        "culprits": document["culprits"],
        "origins": [origin["node"] for origin in document["origins"]],
        "confirmed": document["confirmed"],
        "evidence": document["evidence"],
        "outputs": document.get("outputs"),
    }


def polygraphy(
    folder: Path, environment: Environment, direction: str, check: dict[str, Any]
) -> dict[str, Any]:
    work = folder / f"polygraphy-{direction}"
    work.mkdir()
    (work / "check.py").write_text(CHECK)
    np.savez(work / "inputs.npz", **check["feeds"])
    np.savez(work / "expected.npz", **check["expected"])
    (work / "limits.json").write_text(json.dumps(check["limits"]))
    python = list(environment.command)
    command = [*python, "-c", "from polygraphy.tools import main; main()", "debug", "precision"]
    # `prefer`: with `obey` its first build, every layer in FP32, is refused for some models, and it gives up.
    command += [str(folder / "model.onnx"), "--fp16", "--precision-constraints", "prefer", "--mode", "bisect"]
    command += ["--dir", direction, "-p", "float32"]
    sources = [source.value for source in environment.build.tactic_sources or ()]
    command += ["--tactic-sources", *sources] if environment.build.tactic_sources is not None else []
    command += ["--check", *python, "check.py"]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=400, check=False)
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        said = f"stopped after 400 s\n{error.stdout!r}"
    seconds = time.perf_counter() - start
    log = work / "checks.jsonl"
    checks = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    kept = re.findall(r"(?:first|last) (\d+) layer", said)
    passing = [entry for entry in checks if entry["passed"]]
    return {
        "seconds": seconds,
        "builds": len(checks),
        "kept_in_fp32": int(kept[-1]) if kept else None,
        "final_max_abs": passing[-1]["max_abs"] if passing else None,
        "checks": checks,
        "said": [line for line in said.splitlines() if "layer" in line.lower()][-6:]
        or said.splitlines()[-6:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", required=True)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--direction", action="append", choices=["forward", "reverse"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    environment = select(args.env, load())
    rows: dict[str, Any] = {}
    for name in args.model or MODELS:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            row: dict[str, Any] = {}
            rows[name] = row
            try:
                case = write_case(name, folder)
                row["harness cold"] = cold(case, args.env)
                row["harness warm"], check = warm(case, args.env)
                for direction in args.direction or ["forward", "reverse"]:
                    row[f"polygraphy {direction}"] = polygraphy(folder, environment, direction, check)
            except Exception as error:  # the other models are worth having
                row["error"] = f"{type(error).__name__}: {error}"
        for contestant, numbers in row.items():
            print(name, contestant, json.dumps(numbers, default=str)[:600], flush=True)
        out = None if args.out is None else args.out / "race_polygraphy.json"
        record("race_polygraphy", {"environment": args.env, "models": rows}, out=out)


if __name__ == "__main__":
    main()
