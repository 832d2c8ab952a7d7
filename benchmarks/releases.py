"""All bundled cases on several releases, every verdict explained: one command that goes on where it stopped.

    python -m benchmarks.releases --env rtx-1.4 --env rtx-1.5 --env rtx-1.6 --workers 8 --out DIR
    python -m benchmarks.releases --env …                 --out DIR --collect    # only the results, anew

1. `harness run CASE -p fp32 -p fp16 -p bf16 --env NAME` for each case and release, --workers of them side by side.
2. `harness diagnose CASE -p PRECISION --env NAME` for each of these runs that fails, as expected or not.

What a command wrote under --out is not run again. The results are engines_rtx.json and diagnose_rtx.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.engines import cases as counted
from benchmarks.record import RESULTS, record
from benchmarks.spread import no_scheduler
from harness.case import load_cases
from harness.tensors import write_text

CASES = Path("cases")
HARNESS = (sys.executable, "-m", "harness")
PRECISIONS = ("fp32", "fp16", "bf16")
BESIDES = (("benchmarks/wide-mlp.case.yaml", "fp16"),)
"""Cases that are not bundled: they are diagnosed on the last release."""
LIMIT = 300


def carry_out(words: Sequence[str], document: Path, cache: Path) -> float | None:
    """Run a command of harness that leaves `document`, unless it is there; its seconds, None if it was or is not."""
    if document.exists():
        return None
    document.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with document.with_suffix(".log").open("w") as log:
        try:
            subprocess.run(
                [*HARNESS, *words, "--json", str(document)],
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
                env={**os.environ, "XDG_CACHE_HOME": str(cache)},
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"no end of {' '.join(words)} in {LIMIT} s", file=log)
    return time.perf_counter() - began if document.exists() else None


def run_cases(environments: Sequence[str], workers: int, out: Path) -> None:
    """Judge all cases, and diagnose what fails."""
    names = [case.name for case in load_cases([CASES])]
    runs = [(environment, name) for name in names for environment in environments]
    asked = [word for precision in PRECISIONS for word in ("-p", precision)]

    def judge(run: tuple[str, str]) -> None:
        environment, name = run
        words = ("run", f"{CASES}/{name}.case.yaml", *asked, "--env", environment)
        carry_out(words, out / "runs" / f"{environment}-{name}.json", out / "cache")

    def diagnose(run: tuple[str, str, str]) -> None:
        environment, path, precision = run
        name = f"{environment}-{Path(path).name.removesuffix('.case.yaml')}-{precision}"
        words = ("diagnose", path, "-p", precision, "--env", environment, "--out", str(out / "handed" / name))
        carry_out(words, out / "diagnoses" / f"{name}.json", out / "cache")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(judge, runs))
        failing = [
            (each["candidate"], f"{CASES}/{each['case']}.case.yaml", each["precision"])
            for each in results(out)
            if each["verdict"] in ("fail", "xfail", "xpass")
        ]
        list(pool.map(diagnose, [*failing, *((environments[-1], *each) for each in BESIDES)]))


def results(out: Path) -> list[dict[str, Any]]:
    """The results of all runs."""
    documents = [json.loads(path.read_text()) for path in sorted((out / "runs").glob("*.json"))]
    return [result for document in documents for result in document["results"]]


def collect(out: Path, results_in: Path) -> None:
    """Write the two files of results."""
    command = "harness run cases/CASE.case.yaml -p fp32 -p fp16 -p bf16 --env NAME --json FILE"
    paths = sorted((out / "runs").glob("*.json"))
    merged: dict[str, Any] = {"fingerprint": {}, "results": results(out)}
    for path in paths:
        made_with = json.loads(path.read_text())["fingerprint"]
        known = merged["fingerprint"].get("environments", {})
        merged["fingerprint"] = {**made_with, "environments": known | made_with.get("environments", {})}
    write_text(out / "merged.json", json.dumps(merged))
    diagnoses = [diagnosis_row(path) for path in sorted((out / "diagnoses").glob("*.json"))]
    found = counted(out / "merged.json", command)
    for row, result in zip(found["runs"], merged["results"], strict=True):
        row["explained"] = explanation(row, diagnoses)
        row["regions"] = [len(region["nodes"]) for region in result.get("regions", ())]
        row["judged_as"] = result.get("judged_as")
    made_with = {"fingerprint": merged["fingerprint"]}
    record("releases", {**made_with, "cases": found}, out=results_in / "engines_rtx.json")
    record("releases", {**made_with, "diagnoses": diagnoses}, out=results_in / "diagnose_rtx.json")


def diagnosis_row(path: Path) -> dict[str, Any]:
    """One diagnosis without its evidence."""
    found = json.loads(path.read_text())
    return {
        "case": found["case"],
        "precision": found["precision"],
        "environment": found["candidate"],
        "verdict": found["verdict"],
        "summary": found["summary"],
        "origins": [origin["node"] for origin in found["origins"]],
        "culprits": found["culprits"],
        "confirmed": found["confirmed"],
        "faithful": found["faithful"],
        "builds": found["cost"]["builds"],
        "seconds": found["cost"]["seconds"],
        "price": found["price"],
    }


def explanation(row: dict[str, Any], diagnoses: Sequence[dict[str, Any]]) -> str:
    """Why the run has its verdict, in few words."""
    if row["verdict"] in ("pass", "error", "skip"):
        return str(row["reason"])
    same = ("case", "precision", "environment")
    for each in diagnoses:
        if all(each[key] == row[key] for key in same):
            return f"{each['verdict']}: {each['summary']}"
    return f"not diagnosed: {row['reason']}"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it is resumed by its files; --workers runs commands side by side")
    parser.add_argument("--env", action="append", required=True, help="a release, the newest one last")
    parser.add_argument("--workers", type=int, default=4, help="how many commands run side by side")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--collect", action="store_true", help="run nothing: only put the results together")
    asked = parser.parse_args()
    out = asked.out.resolve()
    if not asked.collect:
        run_cases(asked.env, asked.workers, out)
    collect(out, asked.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
