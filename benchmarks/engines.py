"""Real engines: verdicts of the bundled cases, what observing does, and what builds and a worker cost.

Needs a harness.toml with environments on a GPU. Run:

    harness run cases/ --env NAME --env NAME --json run.json --html report.html
    python -m benchmarks.engines --env NAME [--env NAME] --report run.json [--out FILE]
    python -m benchmarks.engines --env NAME --part commands --part overhead --out engine_times.json

Parts, each kept as it ends: `cases` (the verdicts in --report), `marks` (the RMSNorm overflow with typed and with
plain FP32 marks: the second must be reported as perturbed), `warm` (a second build in the same worker against the
first build of a fresh one), `overhead` (an evaluation with its engine built, less the inference itself), `commands`
(from the start of a process to its end: the cases at fp16, and a diagnosis of the overflow; cold, without caches, and
warm, in a new process with the caches of the one before; --rounds times). Without --env only the report is read;
what --out holds of other parts stays. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from harness.backends import Observation, Plan, TensorRTCandidate
from harness.case import load_case
from harness.environments import Supervisor, load, select
from harness.judge import Judge, Workbench, is_faithful
from harness.tensors import Precision

CASES = Path(__file__).parent.parent / "cases"
OVERFLOW = "rmsnorm-overflow"
LIMIT = 300


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """One run of a document of schema `harness.run/1` without its tensors."""
    facts = result["facts"]
    errors = [output["metrics"]["nrmse"] for output in result["outputs"]]
    return {
        "case": result["case"],
        "precision": result["precision"],
        "environment": result["candidate"],
        "verdict": result["verdict"],
        "reason": result["reason"],
        "origins": [layer["node"] for layer in result["layers"] if layer["origin"]],
        "observed_layers": len(result["layers"]),
        "faithful": result["faithful"],
        "nrmse": max(errors, key=float) if errors else None,
        "build_seconds": facts.get("build_seconds"),
        "engine_bytes": facts.get("engine_bytes"),
        "latency_ms": facts.get("latency"),
        "skipped_marks": len(facts.get("skipped_marks", {})),
        "warnings": [*facts.get("warnings", []), *result["warnings"]],
        "evidence": result["evidence"][-5:],
        "seconds": result["timings"].get("total"),
    }


def cases(path: Path, command: str | None) -> dict[str, Any]:
    """What `harness run cases/ --env NAME --env NAME --json FILE` found: counts, and a row a run."""
    document = json.loads(path.read_text())
    rows = [summary(result) for result in document["results"]]
    counts: dict[str, Any] = {}
    for name in dict.fromkeys(row["environment"] for row in rows):
        own = [row for row in rows if row["environment"] == name]
        verdicts = Counter(row["verdict"] for row in own)
        seen = [row for row in own if row["faithful"] is not None]
        counts[name] = {
            "runs": len(own),
            **verdicts,
            "faithful": sum(row["faithful"] for row in seen),
            "observed": len(seen),
            "perturbed": [f"{row['case']} at {row['precision']}" for row in seen if not row["faithful"]],
            "seconds": sum(row["seconds"] or 0.0 for row in own),
        }
    return {
        "command": command,
        "fingerprint_of_run": document["fingerprint"],
        "interrupted": document.get("interrupted", False),
        "counts": counts,
        "runs": rows,
    }


def marks(environments: list[str]) -> dict[str, Any]:
    """Observe the overflow with typed and with plain marks, and say whether each left the fault in place."""
    bench = Workbench(load_case(CASES / f"{OVERFLOW}.case.yaml"), memory_budget=1 << 30)
    feeds, reference = bench.feeds[0], bench.expected[0]
    limits = {name: 1e-2 * float(np.sqrt(np.mean(value**2))) for name, value in reference.items()}
    found = {}
    for name in environments:
        rows = {}
        for kind, plain in (("typed", False), ("plain", True)):
            candidate = TensorRTCandidate(select(name, load()), bench.model, plain_marks=plain)
            unseen = candidate.evaluate(Plan(Precision.FP16), feeds).tensors
            seen = candidate.evaluate(Plan(Precision.FP16, observation=Observation.TYPED), feeds)
            rows[kind] = {
                "unobserved_max_abs": _error(unseen, reference),
                "observed_max_abs": _error(seen.observed[0].outputs, reference),
                "faithful": all(
                    is_faithful(engine.outputs, unseen, reference, limits) for engine in seen.observed
                ),
                "overflowing": sorted(
                    tensor for tensor, value in seen.tensors.items() if not np.isfinite(value).all()
                )[:8],
            }
            candidate.close()
        found[name] = rows
    return found


def warm(environments: list[str]) -> dict[str, Any]:
    """Seconds of the first build of a fresh worker, and of later builds of the same model with other islands."""
    bench = Workbench(load_case(CASES / f"{OVERFLOW}.case.yaml"), memory_budget=1 << 30)
    islands = [("b7_sq",), ("b7_sq", "b7_mean"), ("b7_sq", "b7_mean", "b7_addeps", "b7_sqrt")]
    found = {}
    for name in environments:
        supervisor = Supervisor(select(name, load()))
        candidate = TensorRTCandidate(supervisor.environment, bench.model, supervisor=supervisor)
        seconds = []
        for island in [(), *islands]:
            plan = Plan(Precision.FP16, islands=frozenset(island))
            seconds.append(_timed(partial(candidate.evaluate, plan, bench.feeds[0])))
        supervisor.close()
        found[name] = {"first": seconds[0], "later": seconds[1:], "ratio": seconds[0] / max(seconds[1:])}
    return found


def overhead(environments: list[str], rounds: int = 50) -> dict[str, Any]:
    """Milliseconds of an evaluation whose engine is there, less the inference as CUDA events time it."""
    bench = Workbench(load_case(CASES / f"{OVERFLOW}.case.yaml"), memory_budget=1 << 30)
    found = {}
    with Judge() as judge:
        for name in environments:
            candidate = judge.candidates.get(name, bench)
            plan = Plan(Precision.FP16)
            latency = candidate.evaluate(plan, bench.feeds[0]).facts.latency
            feeds = bench.feeds[0]
            wall = [_timed(partial(candidate.evaluate, plan, feeds)) * 1e3 for _ in range(rounds)]
            found[name] = {
                "evaluation_ms": statistics.median(wall),
                "inference": None if latency is None else asdict(latency),
                "limit_ms": 20,
            }
    return found


COMMANDS = (
    ("run", "cases/", "-p", "fp16"),
    ("diagnose", f"cases/{OVERFLOW}.case.yaml", "-p", "fp16"),
)


def commands(environments: list[str], rounds: int = 2) -> list[dict[str, Any]]:
    """Seconds of whole commands in new processes, cold and warm, and what the stages of their runs took together."""
    found = []
    compileall.compile_dir(CASES.parent / "harness", quiet=2)  # as an installer does
    for name in environments:
        for words in COMMANDS * rounds:
            with tempfile.TemporaryDirectory() as folder:
                for state in ("cold", "warm"):
                    row = _command([*words, "--env", name], Path(folder))
                    found.append({"command": " ".join([*words, "--env", name]), "caches": state, **row})
                    print(json.dumps(found[-1]), flush=True)
    return found


def _command(words: list[str], folder: Path) -> dict[str, Any]:
    """One command with its caches below `folder`, those of harness and of the driver."""
    document = folder / "said.json"
    document.unlink(missing_ok=True)
    out = ["--out", str(folder / "handed")] if words[0] == "diagnose" else []
    caches = {"XDG_CACHE_HOME": str(folder / "cache"), "CUDA_CACHE_PATH": str(folder / "driver")}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words, *out, "--json", str(document)],
        cwd=CASES.parent,
        env={**os.environ, **caches},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    row: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 2), "status": done.returncode}
    if not document.exists():
        return row | {"said": done.stderr[-2000:]}
    said = json.loads(document.read_text())
    if "cost" in said:
        cost = said["cost"]
        row |= {"verdict": said["verdict"], "builds": cost["builds"], "diagnosis_seconds": cost["seconds"]}
        return row | {"stages": cost["stages"]}
    stages: Counter[str] = Counter()
    for result in said["results"]:
        stages.update(result["timings"])
    verdicts = Counter(result["verdict"] for result in said["results"])
    return row | {
        "verdicts": dict(verdicts),
        "stages": {key: round(value, 2) for key, value in stages.items()},
    }


def _error(tensors: Any, reference: dict[str, np.ndarray]) -> float:
    return max(float(np.max(np.abs(tensors[name] - value))) for name, value in reference.items())


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


PARTS: dict[str, Callable[[list[str]], Any]] = {
    "marks": marks,
    "overhead": overhead,
    "warm": warm,
    "commands": commands,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--report", type=Path, help="what `harness run --json` wrote")
    parser.add_argument("--made-by", metavar="COMMAND", help="the command that wrote --report")
    parser.add_argument("--rounds", type=int, default=2, help="of `commands`")
    parser.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    args = parser.parse_args()
    known = json.loads(args.out.read_text()) if args.out.exists() else {}
    numbers = {part: known[part] for part in ("environments", "cases", *PARTS) if part in known}
    if args.report is not None:
        numbers["cases"] = cases(args.report, args.made_by)
        numbers["fingerprint"] = numbers["cases"]["fingerprint_of_run"]  # not that of who reads it
        print(json.dumps(numbers["cases"]["counts"], indent=1))
        record("engines", numbers, out=args.out)
    for name in (args.part or PARTS) if args.env else ():
        start = time.perf_counter()
        try:
            numbers[name] = commands(args.env, args.rounds) if name == "commands" else PARTS[name](args.env)
        except Exception:  # the other parts are worth having
            numbers[name] = {"error": traceback.format_exc()}
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        print(json.dumps(numbers[name], indent=1, default=str), flush=True)
        numbers["environments"] = {env: fingerprint(env) for env in args.env}
        record("engines", numbers, out=args.out)


def fingerprint(name: str) -> dict[str, Any]:
    """What TensorRT, GPU and driver an environment has."""
    bench = Workbench(load_case(CASES / f"{OVERFLOW}.case.yaml"), memory_budget=1 << 30)
    return asdict(TensorRTCandidate(select(name, load()), bench.model).fingerprint())


if __name__ == "__main__":
    main()
