"""What engines choose among near ties, and whether it is judged as a choice: TopK, Sort and ArgMax before a Gather.

    python -m benchmarks.verdicts.engines --env rtx-1.4 --env rtx-1.6 --out DIR [--workers N] [--seconds S]
    python -m benchmarks.verdicts.engines --out DIR --collect                   # writes the result

Each model of the near-tie group, with a fault before its scores and without, and two heads: 640 of 6,400 tokens
gathered along their axis, and 640 boxes. A model without a fault must pass, and so must one whose fault is an overflow
of FP16 at bf16. What a model left in DIR is not run again, and none is begun after S seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from benchmarks.verdicts.models import build, specs
from benchmarks.verdicts.truth import Group
from cases.models.graph import Graph
from cases.models.layers import linear
from harness.tensors import write_text

PRECISIONS = ("fp16", "bf16")
SEEDS = 2
LIMIT = 120
CHOSEN = 640
FAULT = "fault"


def models() -> dict[str, onnx.ModelProto]:
    """The models by name; a clean one of each variant and two with near ties."""
    found = {"topk640": _tokens(), "head640": _boxes()}
    for spec in specs():
        if spec.group is Group.NEAR_TIE and spec.seed < SEEDS:
            found[spec.name] = build(spec).model
    return found


def _best(graph: Graph, x: str, tokens: int, shape: list[int]) -> None:
    width = 8
    score = graph.node("Sigmoid", "score", linear(graph, x, "logit", width, 1))
    flat = graph.node("Reshape", "flat", score, graph.constant("row", shape, np.int64))
    count = graph.constant("count", [CHOSEN], np.int64)
    graph.node_with_outputs("TopK", "choice", [flat, count], ["best", "place"], axis=len(shape) - 1)


def _tokens() -> onnx.ModelProto:
    tokens, width = 6400, 8
    graph = Graph("topk640", seed=1)
    x = graph.input("tokens", (1, tokens, width))
    _best(graph, x, tokens, [1, tokens])
    place = graph.node("Unsqueeze", "place_3d", "place", graph.constant("axis", [2], np.int64))
    whole = graph.constant("whole", [1, CHOSEN, width], np.int64)
    every = graph.node("Expand", "place_all", place, whole)
    sorted_tokens = graph.node("GatherElements", "sorted_tokens", x, every, axis=1)
    linear(graph, sorted_tokens, "features", width, width)
    return graph.model({"best": [1, CHOSEN], "features": [1, CHOSEN, width]})


def _boxes() -> onnx.ModelProto:
    tokens, width = 2100, 8
    graph = Graph("head640", seed=2)
    x = graph.input("anchors", (tokens, width))
    _best(graph, x, tokens, [tokens])
    boxes = graph.node("Sigmoid", "box_sig", linear(graph, x, "box_lin", width, 4))
    boxes = graph.node("Mul", "boxes", boxes, graph.constant("pixels", 640.0))
    graph.node("Gather", "kept", boxes, "place", axis=0)
    return graph.model({"best": [CHOSEN], "kept": [CHOSEN, 4]})


def rows(folder: Path) -> Iterator[dict[str, object]]:
    """What was said of each model, precision and environment, and whether it is right."""
    for path in sorted(folder.glob("*.json")):
        for result in json.loads(path.read_text())["results"]:
            wrong = FAULT in path.stem and "clean" not in path.stem and result["precision"] == "fp16"
            selections = result.get("selections", [])
            yield {
                "model": path.stem,
                "candidate": result["candidate"],
                "precision": result["precision"],
                "verdict": result["verdict"],
                "right": result["verdict"] == ("fail" if wrong else "pass"),
                "chooses": [
                    {key: each[key] for key in ("node", "changed", "size", "others", "steps")}
                    for each in selections
                ],
                "origins": [layer["node"] for layer in result["layers"] if layer["origin"]],
                "reason": result["reason"],
            }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it asks the engines of this machine's GPUs, and is resumed by its files")
    parser.add_argument("--env", action="append", default=[], help="an environment of harness.toml")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--collect", action="store_true", help="keep the result of what lies in --out")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()

    def judge(item: tuple[str, onnx.ModelProto]) -> None:
        name, model = item
        path = asked.out / f"{name}.onnx"
        if path.with_suffix(".json").exists() or time.perf_counter() - began > asked.seconds:
            return
        onnx.save(model, path)
        words = [*(f"--env={env}" for env in asked.env), *(f"--precision={each}" for each in PRECISIONS)]
        command = [sys.executable, "-m", "harness", "run", str(path), *words, "--details"]
        command += ["--json", str(path.with_suffix(".json"))]
        with path.with_suffix(".log").open("w") as log:
            try:
                subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, timeout=LIMIT, env={**os.environ}
                )
            except subprocess.TimeoutExpired:
                print(f"no end in {LIMIT} s", file=log)
        path.unlink()

    if not asked.collect:
        with ThreadPoolExecutor(asked.workers) as pool:
            list(pool.map(judge, models().items()))
    found = list(rows(asked.out))
    for row in found:
        if not row["right"]:
            print("WRONG", row["model"], row["candidate"], row["precision"], row["verdict"], row["reason"])
    right, named = sum(bool(row["right"]) for row in found), sum(bool(row["chooses"]) for row in found)
    numbers: dict[str, Any] = {"engines": len(found), "right": right, "with a choice among near ties": named}
    print(json.dumps({**numbers, "seconds": round(time.perf_counter() - began, 1)}))
    if asked.collect:
        found_on = {
            f"{made['product']} {made['tensorrt']} on {made['gpu']}"
            for path in sorted(asked.out.glob("*.json"))
            for result in json.loads(path.read_text())["results"]
            if (made := (result["facts"] or {}).get("fingerprint"))
        }
        numbers |= {"engines of": sorted(found_on)}
        record("verdicts_engines", {**numbers, "rows": found}, module="verdicts.engines", indent=1)
    else:
        write_text(asked.out / "numbers.txt", json.dumps(numbers) + "\n")
    return int(right < len(found) or not found)


if __name__ == "__main__":
    sys.exit(main())
