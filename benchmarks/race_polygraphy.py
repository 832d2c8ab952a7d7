"""harness diagnose against polygraphy's debugging tools: the same models, GPU, TensorRT and gate.

Needs an environment on a GPU whose Python has polygraphy.

    python -m benchmarks.race_polygraphy --env NAME --out DIR [--model NAME]… [--gpu N] [--limit 240] [--total 560]
    python -m benchmarks.race_polygraphy --merge DIR

Every contender's result is written to DIR as soon as it is there, and a contender whose result is in DIR is not run
again: a race that was stopped goes on with the same command. Processes for different models, each with its own
--gpu, may race into one DIR at the same time. --merge makes one result of them.

Counted are engine builds, wall seconds, layers (ONNX nodes for harness) kept in FP32, and the largest error that is
left on the engine. See race_contenders.py for who races, and how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from benchmarks.race_contenders import CONTENDERS, Track
from benchmarks.record import record
from benchmarks.spread import no_scheduler
from cases.models.graph import Graph
from cases.models.mlp import rmsnorm_block
from harness.case import load_case, resolve_model
from harness.environments import load, select
from harness.tensors import HostFingerprint, from_json, to_json, write_text

CASES = Path(__file__).parent.parent / "cases"
WIDTH, ROWS, BLOCKS = 256, 64, 12
LEAST = 45.0  # seconds: a contender that has fewer left of --total is left for the next time


def mlp(scaled: tuple[int, ...]) -> onnx.ModelProto:
    """The bundled RMSNorm MLP with the blocks `scaled` multiplied by 600."""
    graph = Graph("rmsnorm_mlp", seed=0)
    x = graph.input("x", [ROWS, WIDTH])
    for index in range(BLOCKS):
        x = rmsnorm_block(graph, x, f"b{index}", WIDTH, scale=600.0 if index in scaled else 1.0)
    return graph.model({x: [ROWS, WIDTH]})


def bundled(name: str) -> Callable[[], onnx.ModelProto]:
    """The model of a bundled case."""

    def build() -> onnx.ModelProto:
        model = resolve_model(load_case(CASES / f"{name}.case.yaml"))
        assert isinstance(model, onnx.ModelProto)
        return model

    return build


# Model and gate; an empty gate is the default one. The accumulated error is a clean model under a gate that FP16
# misses by a third, so that no single node is at fault, and nothing for `debug reduce` to find.
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "rmsnorm-overflow": (lambda: mlp((7,)), ""),
    "two-faults": (lambda: mlp((2, 9)), ""),
    "accumulated": (lambda: mlp(()), "tolerances: [{precision: fp16, nrmse: 7.0e-4}]\n"),
    "attention": (bundled("attention-overflow"), ""),
}
NOT_FOR = {"accumulated": {"polygraphy reduce"}}


def write_case(name: str, folder: Path) -> Path:
    """The model and its case in `folder`; every layer is asked for at FP16, or TensorRT may choose FP32 for it."""
    build, gate = MODELS[name]
    onnx.save(build(), folder / "model.onnx")
    path = folder / f"{name}.case.yaml"
    path.write_text(f"model: {{path: model.onnx}}\nruns: [fp16]\nbuild: {{pin_precision: true}}\n{gate}")
    return path


def contenders_of(name: str, asked: Sequence[str] | None) -> list[str]:
    """Who races on the model `name`."""
    return [who for who in CONTENDERS if who not in NOT_FOR.get(name, ()) and (not asked or who in asked)]


def race(args: argparse.Namespace) -> int:
    """Race on the models that were asked for, and write each result to `args.out`."""
    environment = select(args.env, load())
    end = time.monotonic() + args.total
    for name in args.model or MODELS:
        for who in contenders_of(name, args.contender):
            path = args.out / f"{name} {who}.json".replace(" ", "-")
            if path.exists():
                continue
            limit = min(args.limit, end - time.monotonic())
            if limit < LEAST:
                print(f"{name}: {who} is left for the next time: the same command goes on there")
                return 1
            with tempfile.TemporaryDirectory() as text:
                try:
                    case = write_case(name, Path(text))
                    row = CONTENDERS[who](Track(case, environment, limit))
                except Exception as error:  # the others are worth having
                    row = {"error": f"{type(error).__name__}: {error}"}
            document = {"model": name, "contender": who, "limit": round(limit), "env": args.env, "row": row}
            write_text(path, json.dumps(document, indent=1, default=str) + "\n")
            print(name, who, json.dumps(row, default=str)[:400], flush=True)
    return 0


def merged(folder: Path) -> dict[str, Any]:
    """All results of `folder`, by model and contender."""
    models: dict[str, dict[str, Any]] = {}
    environments: dict[str, Any] = {}
    fingerprint: dict[str, Any] | None = None
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        row = document["row"]
        if "fingerprint" in row:
            fingerprint = row.pop("fingerprint")
            environments |= fingerprint.pop("environments")
        models.setdefault(document["model"], {})[document["contender"]] = {"limit": document["limit"], **row}
    ordered = {
        name: {who: models[name][who] for who in CONTENDERS if who in models[name]}
        for name in MODELS
        if name in models
    }
    found: dict[str, Any] = {"environments": environments, "table": table(ordered).splitlines()}
    if fingerprint is not None:  # of the machine that raced, not of the one that merges
        found["fingerprint"] = to_json(from_json(HostFingerprint, fingerprint))
    return {**found, "models": ordered}


def table(models: dict[str, dict[str, Any]]) -> str:
    """A Markdown table: a row for each model and contender."""
    lines = [
        "| model, contender | builds | seconds | kept in FP32 | error left |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, rows in models.items():
        for who, row in rows.items():
            kept = row.get("kept_in_fp32")
            if row.get("nodes") is not None:
                kept = f"{len(row['nodes'])} {'node fails' if len(row['nodes']) == 1 else 'nodes fail'} alone"
            left = row.get("final_max_abs")
            seconds = row.get("seconds")
            ended = (
                "" if row.get("finished") else f" (stopped at {row['limit']})" if seconds else " (not run)"
            )
            cells = [
                f"{name}: {who}{ended}",
                "–" if row.get("builds") is None else str(row["builds"]),
                "–" if seconds is None else f"{seconds:.0f}",
                "no answer" if kept is None else str(kept),
                "–" if left is None else f"{left:.2g}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Race, or merge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it times what one machine does, which others would disturb")
    parser.add_argument("--env", help="name of the environment")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="may be repeated (all)")
    parser.add_argument(
        "--contender", action="append", choices=list(CONTENDERS), help="may be repeated (all)"
    )
    parser.add_argument("--gpu", help="CUDA_VISIBLE_DEVICES of all that is started")
    parser.add_argument("--limit", type=float, default=240, help="seconds for each contender (240)")
    parser.add_argument(
        "--total", type=float, default=1e9, help="seconds for all; who has no time left waits"
    )
    parser.add_argument("--out", type=Path, help="folder of the results; with --merge, the file")
    parser.add_argument(
        "--note", action="append", default=[], help="with --merge: what should be known of it"
    )
    parser.add_argument("--merge", type=Path, metavar="DIR", help="make one result of those in DIR")
    args = parser.parse_args()
    if args.merge:
        numbers = {**merged(args.merge), "notes": args.note}
        print("\n".join(numbers["table"]))
        print(record("race_polygraphy", numbers, out=args.out))
        return 0
    if not args.env or not args.out:
        parser.error("--env and --out are needed to race")
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu
    return race(args)


if __name__ == "__main__":
    sys.exit(main())
