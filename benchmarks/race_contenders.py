"""Who races in benchmarks.race_polygraphy, each as a command with a time limit, in processes of its own.

`harness cold` is `harness diagnose` typed in a shell: it starts its own worker. `harness warm` is the same diagnosis
in a process whose worker has judged the case before; run as a program, this module is that process.

polygraphy's check loads the engine and holds it against the gate that harness uses, on the same input. Its FP32
layers are preferred, not obeyed: obeyed, its first build, every layer in FP32, is refused for some models, and it
gives up. Where the case pins its precision, polygraphy's network is pinned, too, by a postprocess script.
`debug reduce` answers another question, which nodes of the ONNX model fail by themselves; its check builds each
model that it is offered, feeds it the reference's tensors, and holds what comes out against them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends import Computed
from harness.case import Case, load_case
from harness.diagnosis import Subject
from harness.diagnosis.context import MEMORY_BUDGET
from harness.environments import Environment
from harness.judge import Judge, Workbench
from harness.tensors import Precision, to_json

POLYGRAPHY = ["-c", "from polygraphy.tools import main; main()", "debug"]

PIN = """
import tensorrt as trt

FLOATS = (trt.DataType.FLOAT, trt.DataType.HALF)
UNTOUCHED = {trt.LayerType.CONSTANT, trt.LayerType.SHAPE}


def postprocess(network):
    for layer in network:
        tensors = [layer.get_output(index) for index in range(layer.num_outputs)]
        floats = bool(tensors) and all(tensor.dtype in FLOATS and not tensor.is_shape_tensor for tensor in tensors)
        if floats and layer.type not in UNTOUCHED:
            layer.precision = trt.DataType.HALF
"""

HOLD = """
import json, sys, numpy as np


def hold(found, expected, limits):
    errors = {name: found[name].astype(np.float64) - expected[name] for name in limits}
    rmse = {name: float(np.sqrt(np.mean(error * error))) for name, error in errors.items()}
    passed = all(rmse[name] <= limits[name] for name in rmse)  # a NaN does not
    largest = max(float(np.max(np.abs(error))) for error in errors.values())
    with open("checks.jsonl", "a") as log:
        log.write(json.dumps({"passed": passed, "rmse": rmse, "max_abs": largest}) + "\\n")
    sys.exit(0 if passed else 1)
"""

CHECK_ENGINE = (
    HOLD
    + """

from polygraphy.backend.common import BytesFromPath
from polygraphy.backend.trt import EngineFromBytes, TrtRunner

inputs, expected = dict(np.load("inputs.npz")), dict(np.load("expected.npz"))
with TrtRunner(EngineFromBytes(BytesFromPath("polygraphy_debug.engine"))) as runner:
    found = {name: np.array(value) for name, value in runner.infer(inputs).items()}
hold(found, expected, json.load(open("limits.json")))
"""
)

CHECK_MODEL = (
    HOLD
    + """

from polygraphy.backend.trt import (
    CreateConfig, EngineFromNetwork, NetworkFromOnnxPath, PostprocessNetwork, TrtRunner
)

tensors, pinned = dict(np.load("tensors.npz")), json.load(open("pinned.json"))
network = NetworkFromOnnxPath("polygraphy_debug.onnx")
if pinned:
    sys.path.insert(0, ".")
    from pin import postprocess
    network = PostprocessNetwork(network, postprocess)
config = CreateConfig(fp16=True, precision_constraints="prefer" if pinned else None)
with TrtRunner(EngineFromNetwork(network, config)) as runner:
    names = list(runner.get_input_metadata())
    found = {name: np.array(value) for name, value in runner.infer({name: tensors[name] for name in names}).items()}
limits = {name: 1e-2 * float(np.sqrt(np.mean(np.square(tensors[name], dtype=np.float64)))) for name in found}
hold(found, tensors, limits)
"""
)


@dataclass(frozen=True)
class Track:
    """What all contenders of one model get.

    Args:
        case: the case file; its model is `model.onnx` beside it.
        environment: where engines are built.
        limit: seconds for the contender that is next.
    """

    case: Path
    environment: Environment
    limit: float

    @property
    def folder(self) -> Path:
        """Where the case is, and where contenders work."""
        return self.case.parent

    @property
    def pinned(self) -> bool:
        """Whether every layer is asked for at FP16."""
        return bool(load_case(self.case).build.pin_precision)


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    seconds: float
    said: str
    exit: int | None
    """None if it was stopped at the limit."""


def run(command: Sequence[str], folder: Path, limit: float, *, here: bool = False, **variables: str) -> Ran:
    """Run `command` in `folder`, or `here`, where harness.toml is; at the limit it and all it started is killed."""
    start = time.perf_counter()
    with (folder / "said.txt").open("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command,
            cwd=None if here else folder,
            env={**os.environ, **variables},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = time.perf_counter() - start
        said.seek(0)
        return Ran(seconds, said.read(), code)


def cold(track: Track) -> dict[str, Any]:
    """`harness diagnose`, with a worker of its own, and no timing cache of earlier ones."""
    work = work_folder(track, "harness-cold")
    document = work / "diagnosis.json"
    command = [sys.executable, "-m", "harness", "diagnose", str(track.case), "--precision", "fp16"]
    command += ["--env", track.environment.name, "--out", str(work / "handed"), "--json", str(document)]
    ran = run(command, work, track.limit, here=True, XDG_CACHE_HOME=str(work / "cache"))
    if not document.exists():
        return _stopped(ran)
    return {"seconds": ran.seconds, "exit": ran.exit, **_row(json.loads(document.read_text()))}


def warm(track: Track) -> dict[str, Any]:
    """The same with a worker that has judged the case before, and what is left of the error on the engine."""
    work = work_folder(track, "harness-warm")
    command = [sys.executable, "-m", "benchmarks.race_contenders", str(track.case), track.environment.name]
    ran = run([*command, str(work / "row.json")], work, track.limit, here=True)
    row = work / "row.json"
    return json.loads(row.read_text()) if row.exists() else _stopped(ran)


def precision(track: Track, direction: str) -> dict[str, Any]:
    """`polygraphy debug precision`, bisecting from the inputs or from the outputs."""
    work = work_folder(track, f"polygraphy-{direction}")
    write_check(track, work)
    (work / "check.py").write_text(CHECK_ENGINE)
    python = list(track.environment.command)
    command = precision_command(
        python, track.folder / "model.onnx", direction, work if track.pinned else None
    )
    sources = track.environment.build.tactic_sources
    command += [] if sources is None else ["--tactic-sources", *(source.value for source in sources)]
    ran = run([*command, "--check", *python, "check.py"], work, track.limit)
    kept = re.findall(r"acceptable accuracy, try running the (?:first|last) (\d+) layer", ran.said)
    return {
        **_checked(ran, work),
        "kept_in_fp32": int(kept[-1]) if kept and ran.exit is not None else None,
        "pinned": track.pinned,
    }


def precision_command(python: Sequence[str], model: Path, direction: str, pin: Path | None) -> list[str]:
    """The command line of `polygraphy debug precision`, without its check.

    Args:
        python: the environment's Python.
        model: the ONNX model.
        direction: `forward` or `reverse`.
        pin: folder to write the script to that asks for FP16 at every layer; None leaves that to the builder.
    """
    command = [*python, *POLYGRAPHY, "precision", str(model), "--fp16", "--precision-constraints", "prefer"]
    if pin is not None:
        (pin / "pin.py").write_text(PIN)
        command += ["--trt-network-postprocess-script", str(pin / "pin.py")]
    return [*command, "--mode", "bisect", "--dir", direction, "-p", "float32"]


def reduce(track: Track) -> dict[str, Any]:
    """`polygraphy debug reduce`: the smallest ONNX model that fails by itself."""
    import onnx

    if importlib.util.find_spec("onnx_graphsurgeon") is None:
        return {"skipped": "onnx_graphsurgeon is not installed beside harness"}
    work = work_folder(track, "polygraphy-reduce")
    bench = bench_of(load_case(track.case))
    tensors = [*bench.model.float_tensors, *(info.name for info in bench.model.outputs)]
    values = {**bench.feeds[0], **bench.reference.run(bench.feeds[0], list(dict.fromkeys(tensors)))}
    np.savez(work / "tensors.npz", **values)
    (work / "pinned.json").write_text(json.dumps(track.pinned))
    (work / "pin.py").write_text(PIN)
    (work / "check.py").write_text(CHECK_MODEL)
    command = reduce_command(track.folder / "model.onnx", work / "reduced.onnx")
    ran = run([*command, "--check", *track.environment.command, "check.py"], work, track.limit)
    found = work / "reduced.onnx"
    nodes = [node.name for node in onnx.load(found).graph.node] if found.exists() else None
    return {**_checked(ran, work), "nodes": nodes, "pinned": track.pinned}


def reduce_command(model: Path, reduced: Path) -> list[str]:
    """The command line of `polygraphy debug reduce`, without its check."""
    return [sys.executable, *POLYGRAPHY, "reduce", str(model), "-o", str(reduced), "--mode", "bisect"]


CONTENDERS: dict[str, Callable[[Track], dict[str, Any]]] = {
    "harness cold": cold,
    "harness warm": warm,
    "polygraphy forward": lambda track: precision(track, "forward"),
    "polygraphy reverse": lambda track: precision(track, "reverse"),
    "polygraphy reduce": reduce,
}


def work_folder(track: Track, name: str) -> Path:
    """A folder of its own for a contender."""
    folder = track.folder / name
    folder.mkdir()
    return folder


def bench_of(case: Case) -> Workbench:
    """The model of a case with its inputs and reference."""
    return Workbench(case, memory_budget=MEMORY_BUDGET)


def limits_of(bench: Workbench) -> dict[str, float]:
    """By output, the rmse that the gate of the case lets pass at FP16 on an engine."""
    subject = Subject(bench, Precision.FP16, candidate=object())  # type: ignore[arg-type]  # none is asked
    reference = bench.expected[0]
    limits = {}
    for output in subject.judge(Computed(reference), 0, subject.plan()):
        rms = float(np.sqrt(np.mean(np.square(reference[output.tensor], dtype=np.float64))))
        for gate in output.gates:
            if gate.metric in ("rmse", "nrmse"):
                limits[output.tensor] = gate.limit * (rms if gate.metric == "nrmse" else 1.0)
    return limits


def write_check(track: Track, work: Path) -> None:
    """The inputs, the reference and the limits of the gate, as files."""
    bench = bench_of(load_case(track.case))
    np.savez(work / "inputs.npz", **bench.feeds[0])
    np.savez(work / "expected.npz", **bench.expected[0])
    (work / "limits.json").write_text(json.dumps(limits_of(bench)))


def _checked(ran: Ran, work: Path) -> dict[str, Any]:
    log = work / "checks.jsonl"
    checks = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    passing = [check for check in checks if check["passed"]]
    return {
        "seconds": ran.seconds,
        "finished": ran.exit is not None,
        "exit": ran.exit,
        "builds": len(checks),
        "final_max_abs": passing[-1]["max_abs"] if passing else None,
        "checks": checks,
        "said": [line for line in ran.said.splitlines() if line.strip()][-8:],
    }


def _stopped(ran: Ran) -> dict[str, Any]:
    return {
        "seconds": ran.seconds,
        "finished": ran.exit is not None,
        "exit": ran.exit,
        "said": ran.said[-2000:],
    }


def _row(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "finished": True,
        "verdict": document["verdict"],
        "builds": document["cost"]["builds"],
        "stages": document["cost"]["stages"],
        "kept_in_fp32": len(document["culprits"]) if document["confirmed"] else None,
        "culprits": document["culprits"],
        "fp32_sums": document.get("fp32_sums", []),
        "price": document["price"],
        "summary": document["summary"],
        "origins": [origin["node"] for origin in document["origins"]],
        "confirmed": document["confirmed"],
        "final_max_abs": _left(document, "max_abs"),
        "nrmse": _left(document, "nrmse"),
        "evidence": document["evidence"],
    }


def _left(document: dict[str, Any], metric: str) -> float | None:
    """What is left of an error on the engine with the cure, in the first sample."""
    on_engine = document["after_on"] == document["candidate"]
    left = [
        output["after"][metric]
        for output in document["outputs"]
        if output["sample"] == 0 and "after" in output
    ]
    return max(left, default=None) if on_engine else None


def _warm_main(case: Path, environment: str, row: Path) -> None:
    from harness.diagnosis import diagnose

    with Judge() as judge:
        loaded = load_case(case)
        (spec,) = loaded.select_runs([Precision.FP16])
        judge.run(loaded, spec, environment)
        start = time.perf_counter()
        diagnosis = diagnose(loaded, precision="fp16", environment=environment, judge=judge)
        numbers: dict[str, Any] = {"seconds": time.perf_counter() - start, **_row(diagnosis.to_dict())}
        numbers["fingerprint"] = to_json(diagnosis.fingerprint)
    row.write_text(json.dumps(numbers, default=str))


if __name__ == "__main__":
    _warm_main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
