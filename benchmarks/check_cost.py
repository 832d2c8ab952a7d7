"""What `check` takes: ResNet-50 cold and from the cache, and a model of 2,000 nodes, sound and with planted faults.

Run: python -m benchmarks.check_cost PYTHON [--write], PYTHON with a release of TensorRT for RTX. Each check is in a
process of its own. `imports` is what importing takes there, `loading` what loading the model does, and `beyond_loading`
what the check takes beyond that; `cpu` is what processors did, those of the worker included: on a busy machine it is
what can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.record import record
from benchmarks.spread import no_scheduler

CASES = Path(__file__).parents[1] / "cases"
BLOCKS, WIDTH = 181, 64
TIMED = """
import time
began = time.perf_counter()
import json, resource, sys
import harness.conversion, harness.judge, harness.model, harness.case
from harness.conversion import check
from harness.judge import select_cases
def cpu():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)
imported = None
for _ in range(2):  # the first time imports what it takes
    start, used = time.perf_counter(), cpu()
    imports, imports_cpu = (start - began, used) if imported is None else imported
    imported = (imports, imports_cpu)
    (case,) = select_cases([sys.argv[1]])
    harness.model.load_model(harness.case.resolve_model(case), name=case.name).nodes
loading, loading_cpu = time.perf_counter() - start, cpu() - used
start, used = time.perf_counter(), cpu()
report = check(sys.argv[1], environments="rtx")
seconds = time.perf_counter() - start
checked = cpu() - used
from harness.environments import close_shared
close_shared()
(result,) = report.results
(environment,) = result.environments
print(json.dumps({
    "nodes": result.nodes,
    "seconds": round(seconds, 3),
    "cpu_seconds": round(cpu() - used, 3),
    "beyond_loading_seconds": round(seconds - loading, 3),
    "beyond_loading_cpu_seconds": round(checked - loading_cpu, 3),
    "imports_seconds": round(imports, 3),
    "imports_cpu_seconds": round(imports_cpu, 3),
    "loading_seconds": round(loading, 3),
    "loading_cpu_seconds": round(loading_cpu, 3),
    "outcome": environment.outcome.value,
    "blamed": sorted(each.node.name for each in environment.findings if each.kind.is_failure and each.node),
    "complete": environment.complete,
}))
"""


def blocks(path: Path, planted: tuple[int, ...]) -> Path:
    """Residual blocks of 11 nodes; each block of `planted` has a Det of a small product in its way."""
    random = np.random.default_rng(0)
    nodes, arrays, x = [], {"eps": np.asarray(1e-5, np.float32), "axes": np.array([-1])}, "x"
    for block in range(BLOCKS):
        p = f"b{block}_"
        arrays[f"{p}w"] = random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8

        def add(op: str, inputs: list[str], name: str, p: str = p, **attributes: Any) -> str:
            nodes.append(helper.make_node(op, inputs, [p + name], p + name, **attributes))
            return p + name

        mean = add("ReduceMean", [x, "axes"], "mean")
        centred = add("Sub", [x, mean], "centre")
        var = add("ReduceMean", [add("Mul", [centred, centred], "sq"), "axes"], "var")
        norm = add("Div", [centred, add("Sqrt", [add("Add", [var, "eps"], "addeps")], "sqrt")], "norm")
        gate = norm
        if block in planted:
            gate = add("Mul", [norm, add("Det", [add("Reshape", [mean, "square"], "cut")], "det")], "gated")
            arrays["square"] = np.array([2, 2])
        out = add("Sigmoid", [add("MatMul", [gate, f"{p}w"], "product")], "act")
        x = add("Add", [x, add("Mul", [out, norm], "scaled")], "out")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, WIDTH]) for name in ("x", x)]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def timed(target: Path, folder: Path) -> dict[str, Any]:
    """One check in a process of its own."""
    variables = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HARNESS_CONFIG": str(folder / "harness.toml"),
    }
    done = subprocess.run(
        [sys.executable, "-c", TIMED, str(target)], env=variables, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    """Measure, and keep the result if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("python", metavar="PYTHON")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "harness.toml").write_text(f'[environments.rtx]\npython = "{arguments.python}"\n')
        large, planted = blocks(folder / "large.onnx", ()), blocks(folder / "planted.onnx", (20, 90, 160))
        targets = {
            "resnet50_cold": CASES / "resnet50.case.yaml",
            "resnet50_cached": CASES / "resnet50.case.yaml",
            "large_cold": large,
            "large_planted": planted,
        }
        for label, target in targets.items():
            rows[label] = timed(target, folder)
            print(label, rows[label], flush=True)
    if arguments.write:
        record("check_cost", {"runs": rows, "load": os.getloadavg()[0], "processors": os.cpu_count()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
