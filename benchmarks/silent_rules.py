"""What builds and computes something else: the examples of silent rules, and the onnx suite, on engines (a GPU).

    python -m benchmarks.silent_rules examples --env NAME… --out FILE
    python -m benchmarks.silent_rules suite --env NAME --part 0/8 --seconds 90 --out FOLDER
    python -m benchmarks.silent_rules collect FOLDER --write      # FILE and the parts of the suite lie in FOLDER

An example is a model that its rule holds of, and inputs on which it shows; beside most stands a twin that is written as
the rule advises. Answers are compared with those of ONNX Runtime, of the suite with those that onnx gives. The suite is
asked about what the release was seen to build (`benchmarks.check_rules`), as it is or with constants.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx.backend.test.case.node as node_tests
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase

from benchmarks import check_rules
from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import Plan, Reference, TensorRTCandidate
from harness.case import BuildOptions
from harness.comparison import compare_tensors
from harness.compiler import FindingKind, match_rules
from harness.environments import select, shared_supervisor
from harness.errors import HarnessError
from harness.model import Model, load_model
from harness.tensors import Precision
from harness.worker.protocol import PACKAGE_OF, TENSORRT_RTX

SAME = {"exact": 1e-6, "rounded": 2e-3, "tf32": 1e-5}
"""nrmse up to which two answers are the same: exact ones, those that may be computed in TF32, and what TF32 costs."""
F, F64, I64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """A model of a rule, and inputs on which it shows.

    Args:
        code: of the rule.
        model: it holds of this one.
        feeds: the inputs.
        twin: the same as the rule advises to write it; None where there is no such model.
        tolerance: a key of SAME.
    """

    code: str
    model: Model
    feeds: Feeds
    twin: Model | None = None
    tolerance: str = "rounded"


def graph(
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]],
    shapes: Mapping[str, tuple[int, list[int] | None]],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 16,
) -> Model:
    """A model of a few nodes; `shapes` has the inputs and, last, the output."""
    infos = [helper.make_tensor_value_info(name, *kind) for name, kind in shapes.items()]
    protos = [
        helper.make_node(op, reads, writes, f"{op.lower()}{number}", **attributes)
        for number, (op, reads, writes, attributes) in enumerate(nodes)
    ]
    arrays = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    made = helper.make_graph(protos, "g", infos[:-1], infos[-1:], arrays)
    return load_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


def _grid(mode: str, opset: int) -> Model:
    shapes = {"x": (F, [1, 2, 9, 9]), "grid": (F, [1, 8, 8, 2]), "y": (F, [1, 2, 8, 8])}
    return graph([("GridSample", ["x", "grid"], ["y"], {"mode": mode})], shapes, opset=opset)


def _scatter(op: str, **attributes: str) -> Model:
    shapes = {"x": (F, [4]), "i": (I64, [3, 1] if op == "ScatterND" else [3]), "u": (F, [3]), "y": (F, [4])}
    return graph([(op, ["x", "i", "u"], ["y"], attributes)], shapes)


def _double() -> Model:
    """x + 1e8 − 1e8: x in float64, multiples of 8 in float32."""
    nodes = [
        ("Cast", ["x"], ["d"], {"to": F64}),
        ("Add", ["d", "far"], ["moved"], {}),
        ("Sub", ["moved", "far"], ["back"], {}),
        ("Cast", ["back"], ["y"], {"to": F}),
    ]
    return graph(nodes, {"x": (F, [4]), "y": (F, [4])}, {"far": np.asarray(1e8)})


def _clamped() -> Model:
    """x · 1e300 · 1e-300: x in float64."""
    nodes = [
        ("Cast", ["x"], ["d"], {"to": F64}),
        ("Mul", ["d", "large"], ["huge"], {}),
        ("Mul", ["huge", "small"], ["back"], {}),
        ("Cast", ["back"], ["y"], {"to": F}),
    ]
    constants = {"large": np.asarray(1e300), "small": np.asarray(1e-300)}
    return graph(nodes, {"x": (F, [4]), "y": (F, [4])}, constants)


def _rounded(zero: np.ndarray, kind: int, scale: float) -> Model:
    constants = {"s": np.asarray(scale, np.float32), "z": zero}
    return graph(
        [("QuantizeLinear", ["x", "s", "z"], ["y"], {})], {"x": (F, [8]), "y": (kind, [8])}, constants
    )


def _pair(scale: float) -> Model:
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("MatMul", ["d", "w"], ["y"], {}),
    ]
    constants = {
        "s": np.asarray(scale, np.float32),
        "z": np.asarray(0, np.int8),
        "w": np.eye(8, dtype=np.float32),
    }
    return graph(nodes, {"x": (F, [4, 8]), "y": (F, [4, 8])}, constants)


def examples() -> tuple[Example, ...]:
    """One or more of every silent rule."""
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    small = np.array([0.25, 1.0, 3.0, -7.0], np.float32)
    image = {"x": draw(1, 2, 9, 9), "grid": random.uniform(-0.9, 0.9, (1, 8, 8, 2)).astype(np.float32)}
    scattered = {"x": small, "u": np.array([10, 20, 30], np.float32)}
    nd = {**scattered, "i": np.array([[1], [1], [2]])}
    elements = {**scattered, "i": np.array([1, 1, 2])}
    steps = {"x": np.array([-3, 0, 1, 100, 127, 128, 200, 255], np.float32)}
    product = graph(
        [("MatMul", ["a", "b"], ["y"], {})],
        {"a": (F, [64, 256]), "b": (F, [256, 64]), "y": (F, [64, 64])},
    )
    return (
        Example("gridsample-linear", _grid("linear", 20), image, _grid("bilinear", 16)),
        Example("gridsample-cubic", _grid("cubic", 20), image, _grid("bicubic", 16)),
        Example("scatter-reduction-ignored", _scatter("ScatterND", reduction="add"), nd, None, "exact"),
        Example(
            "scatter-reduction-ignored", _scatter("ScatterElements", reduction="add"), elements, None, "exact"
        ),
        Example("double", _double(), {"x": small}, None, "exact"),
        Example("double", _clamped(), {"x": small}, None, "exact"),
        Example(
            "quantize-uint8",
            _rounded(np.asarray(0, np.uint8), TensorProto.UINT8, 1.0),
            steps,
            _rounded(np.asarray(0, np.int8), TensorProto.INT8, 2.0),
            "exact",
        ),
        Example("scale-zero", _pair(0.0), {"x": draw(4, 8)}, _pair(0.05)),
        Example("scale-not-finite", _pair(np.inf), {"x": draw(4, 8)}, _pair(0.05)),
        Example("tf32", product, {"a": draw(64, 256), "b": draw(256, 64)}, None, "tf32"),
    )


@dataclass(frozen=True)
class Answer:
    """What an engine makes of a model.

    Args:
        outcome: `same`, `differs` or `no engine`.
        nrmse: of the worst output; None where there is none, or it is not finite.
        why: there is no engine, or the answers cannot be compared.
        shown: the first values of the engine, and of the reference, where they differ.
    """

    outcome: str
    nrmse: float | None = None
    why: str = ""
    shown: tuple[str, ...] = field(default=())


def run(model: Model, feeds: Feeds, expected: Mapping[str, np.ndarray], env: str, limit: float) -> Answer:
    """Build and run in FP32, as the product does by default: with TF32."""
    candidate = TensorRTCandidate(select(env), model)
    try:
        plan = Plan(Precision.FP32, build=BuildOptions(tf32=True))
        found = candidate.evaluate(plan, feeds).tensors
    except HarnessError as error:
        return Answer("no engine", why=error.message[:200])
    finally:
        candidate.close()
    worst, shown = 0.0, ()
    for name, right in expected.items():
        given = np.asarray(found[name])
        if given.shape != right.shape:
            return Answer("differs", why=f"{name} has shape {given.shape} for {right.shape}")
        metrics = compare_tensors(given.astype(np.float64), right.astype(np.float64))
        off = np.inf if metrics.nonfinite or metrics.nrmse is None else float(metrics.nrmse)
        if not np.any(given != right) and not metrics.nonfinite:
            off = 0.0
        if off > worst:
            worst, shown = off, tuple(str(each.ravel()[:8].tolist()) for each in (given, right))
    number = round(worst, 9) if np.isfinite(worst) else None
    return Answer("same", number) if worst <= limit else Answer("differs", number, "", shown)


def run_examples(environments: list[str], out: Path, seconds: float) -> None:
    """Each example in each environment, and its twin."""
    rows = []
    stop = time.monotonic() + seconds
    for env in environments:
        probe = shared_supervisor(select(env)).probe()
        for each in examples():
            if time.monotonic() > stop:
                break
            limit = SAME[each.tolerance]
            model = run(each.model, each.feeds, Reference(each.model).run(each.feeds), env, limit)
            twin = each.twin and run(
                each.twin, each.feeds, Reference(each.twin).run(each.feeds), env, SAME["rounded"]
            )
            holding = {
                match.rule.code: match.rule.include(probe.product, probe.tensorrt)
                for match in match_rules(each.model)
            }
            row = {
                "environment": env,
                "release": f"{PACKAGE_OF[probe.product]} {probe.tensorrt}",
                "code": each.code,
                "rule_holds_here": holding.get(each.code),
                **asdict(model),
                "twin": None if twin is None else asdict(twin),
            }
            rows.append(row)
            beside = "" if twin is None else f"; twin {twin.outcome}"
            print(
                f"{env:9} {each.code:26} {model.outcome:9} {model.nrmse} {model.why[:80]}{beside}", flush=True
            )
            record("silent_rules", {"examples": rows}, out=out)


def suite(
    release: str, number: int = 0, parts: int = 1
) -> Iterator[tuple[str, Model, Feeds, dict[str, np.ndarray]]]:
    """The models of the onnx suite that a release was seen to build, with inputs and right answers.

    Args:
        release: of TensorRT for RTX.
        number: of the part.
        parts: of so many families of operators, one is in the part.
    """
    answers = check_rules.read_answers()[release]
    families = sorted(module.name for module in pkgutil.iter_modules(node_tests.__path__))
    np.random.default_rng(0).shuffle(families)
    for family in families[number::parts]:
        for test in check_rules._cases_of(family):
            for single in check_rules._variants(test):
                if answers.get(single.name, ["error"])[0] != "built":
                    continue
                model = check_rules.load(single)
                if model is not None and (fed := _fed(test, model)) is not None:
                    yield single.name, model, *fed
                break


def _fed(test: TestCase, model: Model) -> tuple[Feeds, dict[str, np.ndarray]] | None:
    """The inputs and the answers of a test; None if they are no tensors."""
    given, expected = test.data_sets[0]
    named = dict(zip((value.name for value in test.model.graph.input), given, strict=False))
    answers = dict(zip((value.name for value in test.model.graph.output), expected, strict=False))
    wanted = {info.name: info.dtype for info in model.inputs}
    if any(isinstance(each, list | dict | None) for each in (*named.values(), *answers.values())):
        return None
    try:
        feeds = {name: np.asarray(named[name]) for name in wanted}
        right = {info.name: np.asarray(answers[info.name]) for info in model.outputs}
        return feeds, {name: array for name, array in right.items() if array.size}
    except KeyError:
        return None


def run_suite(env: str, part: str, seconds: float, out: Path) -> None:
    """A part of the suite in one environment, one line a model."""
    number, parts = map(int, part.split("/"))
    stop = time.monotonic() + seconds
    probe = shared_supervisor(select(env)).probe()
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"suite-{env}-{number}.jsonl").open("w") as file:
        for name, model, feeds, expected in suite(probe.tensorrt, number, parts):
            if time.monotonic() > stop:
                break
            try:
                answer = run(model, feeds, expected, env, 1e-2)
            except Exception as error:  # the next model is worth more than this one
                answer = Answer("no answer", why=f"{type(error).__name__}: {error}"[:200])
            known = _known(model, probe.product, probe.tensorrt)
            row = {"environment": env, "release": probe.tensorrt, "model": name, "known": known}
            file.write(json.dumps({**row, **asdict(answer)}) + "\n")
            file.flush()


def _known(model: Model, product: str, release: str) -> list[str]:
    """The codes of the rules that say that it may compute something else."""
    kinds = (FindingKind.DIFFERENT, FindingKind.RISKY)
    matches = (each for each in match_rules(model) if each.rule.kind in kinds)
    return sorted({each.rule.code for each in matches if each.rule.include(product, release)})


def collect(folder: Path, write: bool) -> None:
    """The examples, and of the suite how often engines and rules agree, with every model that differs."""
    rows = [json.loads(line) for path in sorted(folder.glob("suite-*.jsonl")) for line in path.open()]
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        of = counts.setdefault(row["release"], {})
        of[row["outcome"]] = of.get(row["outcome"], 0) + 1
    differ = [row for row in rows if row["outcome"] == "differs"]
    names = {row["model"] for row in differ}
    for release in counts:  # the rules may have been written since
        for name, model, _, _ in suite(release):
            if name in names:
                codes = _known(model, TENSORRT_RTX, release)
                for row in differ:
                    if (row["release"], row["model"]) == (release, name):
                        row["known"] = codes
    kept = [json.loads(path.read_text())["examples"] for path in sorted(folder.glob("examples*.json"))]
    numbers = {
        "examples": [row for each in kept for row in each],
        "suite": counts,
        "suite_differs": differ,
        "suite_no_engine": [row for row in rows if row["outcome"].startswith("no")],
    }
    for row in differ:
        print(row["release"], row["model"], row["nrmse"], row["why"], row["known"])
    print(counts)
    if write:
        record("silent_rules", numbers)


def main() -> int:
    """Run examples or a part of the suite, or keep what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "each GPU gets a --part, and its answers are put together by `collect`")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("examples")
    one.add_argument("--env", nargs="+", required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--seconds", type=float, default=100)
    many = commands.add_parser("suite")
    many.add_argument("--env", required=True)
    many.add_argument("--part", default="0/1")
    many.add_argument("--seconds", type=float, default=90)
    many.add_argument("--out", type=Path, required=True)
    keep = commands.add_parser("collect")
    keep.add_argument("folder", type=Path)
    keep.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.command == "examples":
        run_examples(options.env, options.out, options.seconds)
    elif options.command == "suite":
        run_suite(options.env, options.part, options.seconds, options.out)
    else:
        collect(options.folder, options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
