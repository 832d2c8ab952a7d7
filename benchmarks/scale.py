"""What a run and a diagnosis take as models grow: memory above the imports and processor time.

    python -m benchmarks.scale [--part run]… [--nodes 500 --nodes 10000] [--megabytes 500] [--out FILE]

The parts are `run`: a model that is a chain of MatMul, Tanh, Mul and Add or Sub on tensors of 1 KB, so that what is
left is what each node costs. It is chaotic and fails at fp16, which is the dearest case: every layer is measured, and
errs a lot. Beside it is what ONNX Runtime takes alone, to load the same graph and run it once: as it is, and with every
tensor copied to an output of its own, as a session that is to show all of them has it. `weights`: a run and a diagnosis
of an MLP whose weights are so many megabytes, with an overflow in its last layers. `fault` and `accumulated`: the
diagnosis of an MLP of 5,000 nodes, where one place overflows or every block loses a little (benchmarks.faults).

Each measurement is a process of its own, with one thread of ONNX Runtime. `run` does the same work at each size: so
many models, one after the other, that they have as many nodes as the largest together. The sizes take turns, and of
each the median of five is kept, by processor time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.spread import no_scheduler

NODES = 5000
WIDTH = 2048
PARTS = ("run", "weights", "fault", "accumulated")


def chain(nodes: int, width: int = 32, seed: int = 0) -> Any:
    """So many nodes, one after the other."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = (np.random.default_rng(seed).standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
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


def heavy(megabytes: int) -> Any:
    """Layers of 17 MB each, and squares that overflow in FP16 behind them."""
    from cases.models.graph import Graph
    from cases.models.layers import linear, rms_norm

    graph = Graph("heavy", seed=0)
    x = graph.input("x", (8, WIDTH))
    for index in range(round(megabytes * 1e6 / (4 * WIDTH**2))):
        x = graph.node("Tanh", f"t{index}", linear(graph, x, f"l{index}", WIDTH, WIDTH))
    large = graph.node("Mul", "large", x, graph.constant("factor", 1000.0))
    graph.node("Identity", "y", rms_norm(graph, large, "norm"))
    return graph.model({"y": (8, WIDTH)})


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(work: Callable[[], object]) -> dict[str, float]:
    before, cpu = megabytes(), time.process_time()
    work()
    return {"cpu_seconds": time.process_time() - cpu, "mb": megabytes() - before}


def command(folder: str, models: Sequence[Path], *words: str) -> list[dict[str, Any]]:
    """What `harness` takes for each of `models` behind a small one that imports everything, and what --json says."""
    import onnx

    from harness.cli import main as harness

    small, out = Path(folder, "small.onnx"), Path(folder, "out.json")
    onnx.save(chain(40), small)
    second = [f"--out={folder}/small"] if words[0] == "diagnose" else []
    found: list[dict[str, Any]] = []
    with redirect_stdout(io.StringIO()):
        harness([words[0], str(small), "--precision", "fp16", *second])
        for model in models:
            line = [words[0], str(model), *words[1:], "--precision", "fp16", "--json", str(out)]
            taken = measured(partial(harness, line))
            found.append({**taken, "said": json.loads(out.read_text())})
    return found


def one_run(nodes: int, repeats: int) -> dict[str, Any]:
    """The memory is that of the first of the models, and the processor time that of one on average."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        models = [Path(folder, f"large{number}.onnx") for number in range(repeats)]
        for seed, model in enumerate(models):
            onnx.save(chain(nodes, seed=seed), model)
        found = command(folder, models, "run")
    assert all(len(each["said"]["results"][0]["layers"]) > nodes / 2 for each in found)
    seconds, mb = statistics.fmean(each["cpu_seconds"] for each in found), found[0]["mb"]
    return {
        "nodes": nodes,
        "models": repeats,
        "cpu_seconds": seconds,
        "mb": mb,
        "mb_a_node": mb / nodes,
        "cpu_ms_a_node": 1e3 * seconds / nodes,
        "onnxruntime": {"as_it_is": alone(nodes), "all_outputs": alone(nodes, every=True)},
    }


def alone(nodes: int, *, every: bool = False) -> dict[str, float]:
    """What ONNX Runtime takes for one session of the chain and one inference, in ms of processor time a node."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    from harness.backends.session import session_options

    model = chain(nodes)
    if every:
        names = [node.output[0] for node in model.graph.node]
        model.graph.node.extend(onnx.helper.make_node("Identity", [name], [f"{name}/out"]) for name in names)
        model.graph.output.extend(onnx.ValueInfoProto(name=f"{name}/out") for name in names)
    data, made = model.SerializeToString(), []
    x = np.zeros((8, 32), np.float32)
    load = measured(
        lambda: made.append(ort.InferenceSession(data, session_options(), ["CPUExecutionProvider"]))
    )
    run = measured(lambda: made[0].run(None, {"x": x}))
    return {"load": 1e3 * load["cpu_seconds"] / nodes, "run": 1e3 * run["cpu_seconds"] / nodes}


def one_weights(size: int, word: str) -> dict[str, Any]:
    """`word` is run or diagnose."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "heavy.onnx")
        make = f"import sys, onnx; from benchmarks.scale import heavy; onnx.save(heavy({size}), sys.argv[1])"
        subprocess.run([sys.executable, "-c", make, path], check=True)  # its memory is not ours
        weights = path.stat().st_size / 1e6
        (found,) = command(folder, [path], word, *(["--out", f"{folder}/out"] if word == "diagnose" else []))
    del found["said"]
    return {"weights_mb": weights, **found, "mb_over_weights": found["mb"] / weights}


def one_diagnosis(kind: str) -> dict[str, Any]:
    from benchmarks.faults.diagnosis import diagnose
    from benchmarks.faults.families import Family
    from benchmarks.faults.generate import generate
    from benchmarks.faults.kinds import Kind
    from benchmarks.faults.planted import Spec
    from harness.tensors import Precision

    case = generate(Spec(Family.MLP, Kind(kind), 1, NODES))
    answers = []
    taken = measured(lambda: answers.append(diagnose(case.model, [case.feeds], Precision.FP16)))
    answer = answers[0]
    right = answer.verdict == "precision" and case.truth in (None, answer.culprits)
    return {
        "nodes": len(case.model.graph.node),
        "kind": kind,
        **taken,
        "verdict": answer.verdict,
        "culprits": len(answer.culprits),
        "right": right,
        "emulations": answer.evaluations,
    }


def process(part: str, *given: object) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.scale", "--one", json.dumps([part, *given])]
    variables = {**os.environ, "HARNESS_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(part, *given, found, flush=True)
    return found


def run_at_fp16(sizes: list[int], times: int) -> dict[str, Any]:
    turns = [[process("run", nodes, max(sizes) // nodes) for nodes in sizes] for _ in range(times)]
    kept = []
    for each in zip(*turns, strict=True):
        ordered = sorted(each, key=lambda found: found["cpu_seconds"])
        kept.append(
            {**ordered[len(ordered) // 2], "turns_cpu_ms_a_node": [found["cpu_ms_a_node"] for found in each]}
        )
    ratio = kept[-1]["cpu_ms_a_node"] / kept[0]["cpu_ms_a_node"]
    return {"run_at_fp16": kept, "cpu_a_node_largest_over_smallest": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--nodes", type=int, action="append")
    parser.add_argument("--turns", type=int, default=5, help="of run: the median of so many is kept")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.one is not None:
        part, *given = json.loads(asked.one)
        measures: dict[str, Callable[..., dict[str, Any]]] = {
            "run": one_run,
            "weights": one_weights,
            "diagnosis": one_diagnosis,
        }
        print(json.dumps(measures[part](*given)))
        return
    found: dict[str, Any] = {}
    for part in asked.part or PARTS:
        if part == "run":
            found |= run_at_fp16(asked.nodes or [500, 2000, 5000, 10000], asked.turns)
        elif part == "weights":
            found |= {word: process("weights", asked.megabytes, word) for word in ("run", "diagnose")}
        else:
            found[part] = process("diagnosis", "squares" if part == "fault" else part)
    record("scale", found, out=asked.out)


if __name__ == "__main__":
    main()
