"""What a compiler without a GPU takes for the bundled cases: every kernel list, cold and from the cache.

Run: python -m benchmarks.compile_cases PYTHON… [-p fp16] [--write], each PYTHON with a release of TensorRT for RTX.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import shape_ranges
from harness.case import load_cases, make_feeds, resolve_model
from harness.compiler import ReportCache, compile_model
from harness.environments import Environment, Supervisor
from harness.judge import profiles_of
from harness.model import load_model
from harness.tensors import Precision

CASES = Path(__file__).parents[1] / "cases"


def measure(python: str, precision: Precision) -> dict[str, Any]:
    """One release: seconds for all cases in a new process with an empty cache, and in another with a full one."""
    environment = Environment("compiler", (python,))
    models = []
    for case in load_cases(CASES):
        model = load_model(resolve_model(case), name=case.name)
        feeds = make_feeds(case, model.inputs)[0]
        models.append((model, shape_ranges(model, feeds, profiles_of(case))))
    found: dict[str, Any] = {"cases": len(models), "failed": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "cached"):
            supervisor = Supervisor(environment, keep_cache=False)
            start = time.perf_counter()
            for model, profiles in models:
                report = compile_model(
                    model,
                    precision,
                    environment,
                    profiles=profiles,
                    supervisor=supervisor,
                    cache=ReportCache(Path(folder)),
                )
                if name == "cold":
                    found["release"] = report.release
                    if not report.built:
                        found["failed"].append(model.name)
            found[f"{name}_seconds"] = round(time.perf_counter() - start, 2)
            supervisor.close()
    return found


def main() -> int:
    """Measure each release, and keep the result if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("-p", "--precision", default="fp16", type=Precision)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(python, arguments.precision) for python in arguments.pythons]
    for row in rows:
        print(row)
    if arguments.write:
        record("compile_cases", {"precision": arguments.precision.value, "releases": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
