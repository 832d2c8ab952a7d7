"""What `harness run cases/` on the emulator costs, beside an earlier checkout of harness.

    python -m benchmarks.run_cost --before DIR [--rounds N]

The two run in turn, each in processes of its own, so that a busy machine disturbs both alike. Processor seconds count
all threads of a process; those of the start are of a process that imports the judge and does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.spread import no_scheduler

HERE = Path(__file__).parent.parent
START = ("-c", "import harness.judge.judge")


def processor_seconds(checkout: Path, *arguments: str) -> tuple[float, float]:
    """Processor seconds, and seconds, of a Python with the harness of `checkout`."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.perf_counter() - began


def measure(checkout: Path, folder: Path) -> dict[str, float]:
    """One round."""
    start, _ = processor_seconds(checkout, *START)
    path = folder / "run.json"
    spent, seconds = processor_seconds(checkout, "-m", "harness", "run", "cases/", "-q", "--json", str(path))
    results = json.loads(path.read_text())["results"]
    return {
        "start_processor_seconds": start,
        "processor_seconds": spent,
        "seconds": seconds,
        "seconds_in_layers": sum(result["timings"].get("layers", 0.0) for result in results),
        "runs": len(results),
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(asked.rounds):
            for name, checkout in (("before", asked.before.resolve()), ("now", HERE)):
                found[name].append(measure(checkout, Path(folder)))
                print(name, found[name][-1], flush=True)
    medians: dict[str, Any] = {
        name: {key: round(statistics.median(each[key] for each in rounds), 3) for key in rounds[0]}
        for name, rounds in found.items()
    }
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=asked.before, capture_output=True, text=True, check=False
    ).stdout.strip()
    ratio = {key: round(medians["now"][key] / value, 3) for key, value in medians["before"].items() if value}
    record("run_cost", {"before_commit": commit or None, "rounds": asked.rounds, **medians, "ratio": ratio})
    print(json.dumps({**medians, "ratio": ratio}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
