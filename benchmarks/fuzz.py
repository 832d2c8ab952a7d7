"""Damaged files: each must be one clear error or work as before, never an internal error, a crash or a hang.

Models, case files, `harness.toml`, golden references and baselines, journals and Parquet files of a history are mutated
by a seed: bits flipped, bytes cut, doubled or overwritten; in texts, lines dropped and doubled, numbers made large or
negative.

    python -m benchmarks.fuzz [--onnx 1000] [--text 300] [--kept 400] [--seed 0] [--scheduler ADDRESS] [--write]
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import fuzz_kept
from benchmarks.isolated import outcomes
from benchmarks.record import record
from benchmarks.spread import add_scheduler

CASES = Path(__file__).parents[1] / "cases"
MODELS = ("norm", "loop", "quantized", "external")
TEXTS = ("case", "toml")
KEPT = tuple(fuzz_kept.MAKERS)
CASE = """\
model: {path: m.onnx}
inputs:
  x: {shape: [2, 16], fill: normal}
samples: 2
seed: 3
runs:
  - fp32
  - {precision: fp16, expect: pass}
tolerances:
  - {nrmse: 1.0e-2}
"""
TOML = """\
[environments.trt]
python = "/nowhere/bin/python"
gpu = 0
[environments.trt.build]
optimization_level = 3
"""


def judge_files(names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """For each name `kind:variant:seed`: what became of a file of that kind, damaged as the seed says."""
    for name in names:
        kind, variant, seed = name.split(":")
        yield name, None
        with tempfile.TemporaryDirectory() as folder:
            judge = {"onnx": _judge_model, "text": _judge_text, "kept": _judge_kept}[kind]
            verdict, reason = judge(Path(folder), variant, random.Random(f"{variant}:{seed}"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield name, [verdict, reason[:300], round(peak)]


def _judge_model(folder: Path, variant: str, random: random.Random) -> tuple[str, str]:
    import harness

    path = folder / "m.onnx"
    path.write_bytes(damaged(_model(variant, folder), random))
    try:
        results = harness.run([path], precisions=["fp16"], inputs={"x": [2, 16]}).results
    except harness.HarnessError as error:
        return ("internal" if error.exit_code == 70 else "refused"), str(error)
    causes = {str(result.cause) for result in results}
    return ("internal" if "internal error" in causes else str(results[0].verdict)), results[0].reason


def _judge_text(folder: Path, variant: str, random: random.Random) -> tuple[str, str]:
    from harness.case import load_cases
    from harness.environments import load
    from harness.errors import HarnessError

    text = reworded(CASE if variant == "case" else TOML, random)
    try:
        if variant == "case":
            path = folder / "m.case.yaml"
            path.write_bytes(text)
            load_cases([path])
        else:
            path = folder / "harness.toml"
            path.write_bytes(text)
            load(path)
    except HarnessError as error:
        return ("internal" if error.exit_code == 70 else "refused"), str(error)
    except Exception as error:
        return "internal", f"{type(error).__name__}: {error}"
    return "read", ""


def _judge_kept(folder: Path, variant: str, random: random.Random) -> tuple[str, str]:
    from harness.errors import HarnessError

    def damage(data: bytes) -> bytes:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return damaged(data, random)
        return reworded(text, random)

    try:
        fuzz_kept.read(folder, variant, random, damage)
    except HarnessError as error:
        return ("internal" if error.exit_code == 70 else "refused"), str(error)
    except Exception as error:
        return "internal", f"{type(error).__name__}: {error}"
    return "read", ""


def _model(variant: str, folder: Path) -> bytes:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    value = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(rng.normal(size=(16, 16)).astype(np.float32), "w")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Softmax", ["p"], ["s"], name="softmax", axis=-1),
        helper.make_node("Add", ["s", "x"], ["y"], name="sum"),
    ]
    if variant == "loop":
        weights += [
            numpy_helper.from_array(np.int64(3), "n"),
            numpy_helper.from_array(np.array(True), "go"),
        ]
        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Tanh", ["v"], ["u"])],
            "body",
            [value("i", TensorProto.INT64, ()), value("c", TensorProto.BOOL, ()), value("v", 1, (2, 16))],
            [value("d", TensorProto.BOOL, ()), value("u", 1, (2, 16))],
        )
        nodes[2:] = [helper.make_node("Loop", ["n", "go", "s"], ["y"], name="loop", body=body)]
    if variant == "quantized":
        weights += [
            numpy_helper.from_array(np.float32(0.01), "scale"),
            numpy_helper.from_array(np.int8(0), "zero"),
        ]
        nodes[2:] = [
            helper.make_node("QuantizeLinear", ["s", "scale", "zero"], ["q"], name="quantize"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="dequantize"),
        ]
    graph = helper.make_graph(nodes, "g", [value("x", 1, (2, 16))], [value("y", 1, (2, 16))], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if variant == "external":
        path = folder / "whole.onnx"
        onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=16)
        return path.read_bytes()
    return model.SerializeToString()


def damaged(data: bytes, random: random.Random) -> bytes:
    """`data` with one, two or four mutations."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(found))
        match random.randrange(5):
            case 0:
                found[place] ^= 1 << random.randrange(8)
            case 1:
                found[place] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del found[place : place + random.choice((1, 2, 8, 64))]
            case 3:
                found[place:place] = found[place : place + random.choice((1, 4, 16))]
            case _:
                found[place : place + 9] = b"\xff" * 8 + b"\x7f"  # a large varint
        if not found:
            found += b"\0"
    return bytes(found)


def reworded(text: str, random: random.Random) -> bytes:
    """`text` with one to three mutations of its lines, words or bytes."""
    for _ in range(random.randint(1, 3)):
        lines = text.splitlines() or [""]
        place = random.randrange(len(lines))
        match random.randrange(6):
            case 0:
                del lines[place]
            case 1:
                lines.insert(place, lines[place])
            case 2:
                lines[place] = re.sub(
                    r"\d+", lambda _: random.choice(("-1", "99999999999999", "0", "1e999")), lines[place]
                )
            case 3:
                words = ("null", "[", "{", "&a", "*a", "!!python/object:os.system", "yes", "\t", "'", "\0")
                lines[place] += random.choice(words)
            case 4:
                lines[place] = lines[place][random.randrange(len(lines[place]) + 1) :]
            case _:
                return damaged("\n".join(lines).encode() or b"\0", random)
        text = "\n".join(lines)
    return text.encode()


def wanted(models: int, texts: int, kept: int, seed: int) -> list[str]:
    """The names that `judge_files` takes."""
    found = [f"onnx:{MODELS[number % len(MODELS)]}:{seed + number}" for number in range(models)]
    found += [f"text:{TEXTS[number % len(TEXTS)]}:{seed + number}" for number in range(texts)]
    return found + [f"kept:{KEPT[number % len(KEPT)]}:{seed + number}" for number in range(kept)]


def _kind(name: str) -> str:
    kind, variant, _ = name.split(":")
    return kind if kind == "onnx" else variant


def main() -> None:
    """Damage files, print what is no clear answer, and keep the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=int, default=1000)
    parser.add_argument("--text", type=int, default=300)
    parser.add_argument("--kept", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    add_scheduler(parser)
    given = parser.parse_args()
    found = {
        name: outcome if isinstance(outcome, list) else [outcome, "", 0]
        for name, outcome in outcomes(
            judge_files,
            wanted(given.onnx, given.text, given.kept, given.seed),
            seconds=30,
            scheduler=given.scheduler,
        ).items()
    }
    counts = Counter((_kind(name), verdict) for name, (verdict, _, _) in found.items())
    wrong = {
        name: {"verdict": verdict, "reason": reason}
        for name, (verdict, reason, _) in found.items()
        if verdict in ("internal", "crash", "hang")
    }
    for name, entry in wrong.items():
        print(f"{name}: {entry['verdict']}: {entry['reason'][:200]}")
    for (kind, verdict), count in sorted(counts.items()):
        print(f"{kind} {verdict:8} {count:5}")
    peak = max(outcome[2] for outcome in found.values())
    print(f"peak memory {peak} MiB")
    if given.write:
        rows = [
            {"kind": kind, "outcome": verdict, "files": count}
            for (kind, verdict), count in sorted(counts.items())
        ]
        record("fuzz", {"files": len(found), "counts": rows, "wrong": wrong, "peak_mib": peak})


if __name__ == "__main__":
    main()
