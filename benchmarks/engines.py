"""Real engines: verdicts of the bundled cases, what observing does, and what builds and a worker cost.

Needs a harness.toml with environments on a GPU. Run: python -m benchmarks.engines --env NAME [--env NAME] [--out DIR]

Parts, each kept as it ends: `cases` (every bundled case at fp32 and fp16 in every environment, observed with typed
marks), `marks` (the RMSNorm overflow with typed and with plain FP32 marks: the second must be reported as
perturbed), `warm` (a second build in the same worker against the first build of a fresh one), `overhead` (an
evaluation with its engine built, less the inference itself).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from harness.backends import Observation, Plan
from harness.backends.tensorrt import TensorRTCandidate
from harness.case import load_case
from harness.environments import Supervisor, load, select
from harness.judge import Judge, ProgressEvent, RunResult, run
from harness.judge.faithful import is_faithful
from harness.judge.workbench import Workbench
from harness.tensors.precision import Precision

CASES = Path(__file__).parent.parent / "cases"
OVERFLOW = "rmsnorm-overflow"


def summary(result: RunResult) -> dict[str, Any]:
    facts = result.facts
    worst = result.worst
    return {
        "case": result.case,
        "precision": result.precision.value,
        "environment": result.candidate,
        "verdict": result.verdict.value,
        "reason": result.reason,
        "origins": [layer.node for layer in result.origins],
        "observed_layers": len(result.layers),
        "faithful": result.faithful,
        "nrmse": None if worst is None else worst.metrics.nrmse,
        "build_seconds": facts.get("build_seconds"),
        "engine_bytes": facts.get("engine_bytes"),
        "latency_ms": facts.get("latency"),
        "skipped_marks": len(facts.get("skipped_marks", {})),
        "warnings": [*facts.get("warnings", []), *result.warnings],
        "evidence": result.evidence[-5:],
        "seconds": result.timings.get("total"),
    }


def cases(environments: list[str], targets: list[str], out: Path | None) -> dict[str, Any]:
    rows = []

    def tell(event: ProgressEvent) -> None:
        if event.result is None:
            return
        row = summary(event.result)
        rows.append(row)
        print(
            f"{row['case']} {row['precision']} {row['environment']}: {row['verdict']} {row['origins'][:2]} "
            f"faithful {row['faithful']} nrmse {row['nrmse']} built in {row['build_seconds']} s, "
            f"{row['seconds']:.0f} s in all {row['reason'][:90] if row['verdict'] not in ('pass', 'xfail') else ''}",
            flush=True,
        )
        if out is not None:  # what is done is kept, whatever comes
            record("engines", {"cases": {"runs": rows}}, out=out)

    report = run(
        [CASES / f"{name}.case.yaml" for name in targets] or [CASES],
        environments=environments,
        precisions=[Precision.FP32, Precision.FP16],
        progress=tell,
    )
    return {"exit_code": report.exit_code, "runs": rows}


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
            facts = candidate.evaluate(plan, bench.feeds[0]).facts
            feeds = bench.feeds[0]
            wall = [_timed(partial(candidate.evaluate, plan, feeds)) * 1e3 for _ in range(rounds)]
            found[name] = {
                "evaluation_ms": statistics.median(wall),
                "inference": facts.get("latency"),
                "limit_ms": 20,
            }
    return found


def _error(tensors: Any, reference: dict[str, np.ndarray]) -> float:
    return max(float(np.max(np.abs(tensors[name] - value))) for name, value in reference.items())


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", action="append", required=True)
    parser.add_argument("--part", action="append", choices=["cases", "marks", "warm", "overhead"])
    parser.add_argument("--case", action="append", default=[], help="only this bundled case, by name")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = None if args.out is None else args.out / f"engines-{'-'.join(args.env)}.json"
    parts = {
        "marks": lambda: marks(args.env),
        "warm": lambda: warm(args.env),
        "overhead": lambda: overhead(args.env),
        "cases": lambda: cases(args.env, args.case, out),
    }
    numbers: dict[str, Any] = {}
    for name in args.part or parts:
        start = time.perf_counter()
        try:
            numbers[name] = parts[name]()
        except Exception:  # the other parts are worth having
            numbers[name] = {"error": traceback.format_exc()}
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        if name != "cases":
            print(json.dumps(numbers[name], indent=1, default=str), flush=True)
        numbers["environments"] = {env: fingerprint(env) for env in args.env}
        record("engines", numbers, out=out)


def fingerprint(name: str) -> dict[str, Any]:
    bench = Workbench(load_case(CASES / f"{OVERFLOW}.case.yaml"), memory_budget=1 << 30)
    return dict(TensorRTCandidate(select(name, load()), bench.model).fingerprint())


if __name__ == "__main__":
    main()
