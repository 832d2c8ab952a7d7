"""What an evaluation costs beside its build and its inference: a real worker whose engine computes nothing.

The engine exists already, as it does for every sample but the first; so what is timed is the client, the
messages, and the tensors on their way in and out. Run: python -m benchmarks.worker_overhead [--rounds N]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import Observation, Plan, TensorRTCandidate
from harness.environments import Environment, Supervisor
from harness.model import Model, load_model
from harness.tensors import Precision
from harness.worker import protocol

ADAPTER = Path(__file__).parent / "noop_engine.py"
LIMIT_MS = 20.0
NODES = 132
#: Floats of the input and of each tensor that comes back.
SIZES = {"4 KiB": 1 << 10, "1 MiB": 1 << 18, "16 MiB": 1 << 22}


def chain(size: int) -> Model:
    """A chain of `NODES` nodes, all of whose tensors have `size` floats."""
    names = ["x", *(f"t{number}" for number in range(NODES - 1)), "y"]
    nodes = [
        helper.make_node("Relu", [read], [written], name=written)
        for read, written in itertools.pairwise(names)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "chain", [x], [y])
    return load_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), name="chain"
    )


def milliseconds(work: Callable[[], object], rounds: int) -> dict[str, float]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    p99 = times[min(len(times) - 1, round(0.99 * len(times)))]
    return {"median_ms": round(statistics.median(times), 3), "p99_ms": round(p99, 3)}


def measure(rounds: int) -> dict[str, Any]:
    environment = Environment("noop", (sys.executable,))
    supervisor = Supervisor(environment, adapter=ADAPTER, keep_cache=False)
    start = time.perf_counter()
    supervisor.probe()
    rows: dict[str, Any] = {
        "start of the worker": {"median_ms": round((time.perf_counter() - start) * 1e3, 1)}
    }
    rows["a message and its reply"] = milliseconds(lambda: supervisor.call(protocol.Ping()), rounds)
    none, typed = Plan(Precision.FP16), Plan(Precision.FP16, observation=Observation.TYPED)
    for label, size in SIZES.items():
        candidate = TensorRTCandidate(environment, chain(size), supervisor=supervisor)
        feeds = {"x": np.ones(size, np.float32)}
        plans = {f"outputs, {label}": none}
        if size < 1 << 20:
            plans[f"outputs and {NODES - 1} marks, {label} each"] = typed
        for name, plan in plans.items():
            candidate.evaluate(plan, feeds)
            rows[name] = milliseconds(lambda: candidate.evaluate(plan, feeds), rounds)  # noqa: B023
        candidate.close()
    supervisor.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = measure(args.rounds)
    for name, row in rows.items():
        print(f"{name:40} median {row['median_ms']:8} ms   p99 {row.get('p99_ms', '–'):>8} ms")
    numbers = {"evaluations": rows, "nodes": NODES, "rounds": args.rounds, "limit_ms": LIMIT_MS}
    print(record("worker_overhead", numbers, out=args.out))


if __name__ == "__main__":
    main()
