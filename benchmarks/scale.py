"""What a run takes as models grow: memory above the imports and processor time, by the number of nodes.

    python -m benchmarks.scale [--nodes 500 --nodes 2000 --nodes 5000] [--out FILE]

The model is a chain of MatMul, Tanh, Mul and Add or Sub on tensors of 1 KB: weights and activations weigh nothing, so
what is left is what each node costs. It is chaotic and fails at fp16, which is the dearest case: every layer is
measured, and errs a lot. Each size is a process of its own, with one thread of ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record


def chain(nodes: int, width: int = 32) -> Any:
    """So many nodes, one after the other."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = (np.random.default_rng(0).standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
    made, last = [], "x"
    for index in range(nodes // 4):
        for op, inputs, output in (
            ("MatMul", [last, "w"], f"product{index}"),
            ("Tanh", [f"product{index}"], f"bent{index}"),
            ("Mul", [f"bent{index}", f"bent{index}"], f"squared{index}"),
            ("Sub" if index % 2 else "Add", [last, f"squared{index}"], f"sum{index}"),
        ):
            made.append(helper.make_node(op, inputs, [output], output))
        last = f"sum{index}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, width]) for name in ("x", last))
    graph = helper.make_graph(made, "chain", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def one(nodes: int) -> None:
    """Run one size in this process, and print what it took."""
    import onnx

    import harness

    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small.onnx"), Path(folder, "large.onnx")
        onnx.save(chain(40), small)
        onnx.save(chain(nodes), large)
        harness.run(small, precisions="fp16")  # imports everything
        before, cpu = megabytes(), time.process_time()
        report = harness.run(large, precisions="fp16")
        took = time.process_time() - cpu
    assert len(report.results[0].layers) > nodes / 2
    found = {"nodes": nodes, "cpu_seconds": took, "mb": megabytes() - before}
    found |= {"mb_a_node": found["mb"] / nodes, "cpu_ms_a_node": 1e3 * took / nodes}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, action="append")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.one is not None:
        one(asked.one)
        return
    sizes = []
    for nodes in asked.nodes or (500, 2000, 5000):
        command = [sys.executable, "-m", "benchmarks.scale", "--one", str(nodes)]
        variables = {**os.environ, "HARNESS_THREADS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        sizes.append(json.loads(done.stdout.splitlines()[-1]))
        print(sizes[-1], flush=True)
    ratio = sizes[-1]["cpu_ms_a_node"] / sizes[0]["cpu_ms_a_node"]
    record("scale", {"run_at_fp16": sizes, "cpu_a_node_largest_over_smallest": ratio}, out=asked.out)


if __name__ == "__main__":
    main()
