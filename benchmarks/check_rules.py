"""Do the rules alone foretell what a compiler refuses? Operators of the onnx suite, exports of PyTorch, half held out.

Each model of `onnx.backend.test` is asked about as it is, and, where it has several inputs, once more with every input
after the first as a constant, as most of them are in real models. Beside them stand modules as both exporters of
PyTorch write them (`benchmarks.torch_exports`), and models of public reports. The half whose names a hash holds out was
not looked at when rules were written. The compiler's answers are kept, so that a test can ask again without it.

Run: python -m benchmarks.check_rules ask PYTHON… [--scheduler ADDRESS] (each with a release of TensorRT for RTX, on
     workers under the same path; adds what is not there yet)
     python -m benchmarks.check_rules score [--write] [--wrong written|held-out]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import itertools
import json
import pkgutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_tests
from onnx.backend.test.case.test_case import TestCase

from benchmarks import torch_exports
from benchmarks.record import RESULTS, record
from benchmarks.spread import add_scheduler, each_answer, no_scheduler
from harness.compiler import FindingKind, GraphView, Match, ReportCache, compile_model, match_rules
from harness.environments import Environment, WorkerLimits, close_shared, shared_supervisor
from harness.errors import HarnessError
from harness.model import Model, load_model
from harness.tensors import Precision, write_bytes
from harness.worker.protocol import TENSORRT_RTX, CompileReport
from tests import report_models

ANSWERS = RESULTS / "check_rules_answers.json.gz"
CONSTANT = "/constant"
HALVES = ("written", "held-out")
SOURCES = ("suite", "torch", "reports")
STOPS = (FindingKind.REFUSED, FindingKind.NOT_BUILT)
NOT_SCORED = ("error", "unsupported", "no_gpu", "timed_out")


@dataclass(frozen=True)
class Single:
    """A model of one operator, or of the function that stands for it."""

    name: str
    proto: onnx.ModelProto
    shapes: dict[str, tuple[int, ...]]

    @property
    def held_out(self) -> bool:
        """Whether nobody looked at it when rules were written; all variants of a model fall together."""
        known = "/".join(self.name.split("/")[:2]) if self.source != "suite" else self.name
        return hashlib.sha256(known.removesuffix(CONSTANT).encode()).digest()[0] % 2 == 1

    @property
    def source(self) -> str:
        """Where it is from: one of SOURCES."""
        return next((each for each in SOURCES if self.name.startswith(f"{each}/")), "suite")


def suite() -> Iterator[Single]:
    """The models of the suite, each as it is and with constants."""
    return singles(sorted(module.name for module in pkgutil.iter_modules(node_tests.__path__)))


def singles(families: Iterable[str]) -> Iterator[Single]:
    """Those of some modules of the suite, which makes its models while it is imported."""
    for family in families:
        for test in _cases_of(family):
            yield from _variants(test)


def exports() -> Iterator[Single]:
    """Modules as both exporters of PyTorch write them; an open batch has the size that it was exported with."""
    files = dict(torch_exports.kept())
    for name, file in files.items():
        proto = onnx.load_model_from_string(file)
        fixed = files.get(name.removesuffix("/batch"))
        sized = proto if fixed is None else onnx.load_model_from_string(fixed)
        shapes = {
            value.name: tuple(axis.dim_value for axis in other.type.tensor_type.shape.dim)
            for value, other in zip(proto.graph.input, sized.graph.input, strict=False)
        }
        yield Single(name, proto, shapes)


def reports() -> Iterator[Single]:
    """Models of public reports, built again from their descriptions."""
    made = {
        "detection-head": report_models.detection_head(),
        "detection-head-int8": report_models.detection_head(quantised=True),
        "topk-head": report_models.topk_head(),
        "topk-head-small": report_models.topk_head(k=300),
        "linear-attention": report_models.linear_attention(),
        "masked-attention": report_models.masked_attention(),
        "masked-attention-unguarded": report_models.masked_attention(guarded=False),
        "residual-norms": report_models.residual_norms(),
    }
    for name, proto in made.items():
        yield Single(f"reports/{name}", proto, {})


def everything() -> Iterator[Single]:
    """All models that are asked about."""
    yield from suite()
    yield from exports()
    yield from reports()


@cache
def _cases_of(family: str) -> tuple[TestCase, ...]:
    made = node_tests._NodeTestCases
    before = len(made)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        importlib.import_module(f"{node_tests.__name__}.{family}")
    return tuple(made[before:])


def _variants(test: TestCase) -> Iterator[Single]:
    proto, fed = test.model, test.data_sets[0][0]
    arrays = {
        value.name: np.asarray(array)
        for value, array in zip(proto.graph.input, fed, strict=False)
        if value.type.HasField("tensor_type") and array is not None and not isinstance(array, list | dict)
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    yield Single(test.name, proto, shapes)
    constant = with_constants(proto, arrays)
    if constant is not None:
        yield Single(test.name + CONSTANT, constant, shapes)


def with_constants(proto: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> onnx.ModelProto | None:
    """`proto` with every input after the first as an initializer; None if there is none, or it is no tensor."""
    rest = list(proto.graph.input)[1:]
    if not rest or any(value.name not in arrays for value in rest):
        return None
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for value in rest:
        kind = value.type.tensor_type.elem_type
        array = arrays[value.name]
        if kind == onnx.TensorProto.STRING:
            return None
        try:
            wanted = onnx.helper.tensor_dtype_to_np_dtype(kind)
            made.graph.initializer.append(
                onnx.numpy_helper.from_array(array.astype(wanted, copy=False), value.name)
            )
        except (KeyError, TypeError, ValueError):
            return None
    del made.graph.input[1:]
    return made


def load(single: Single) -> Model | None:
    """The model as harness loads it; None if it does not."""
    try:
        return load_model(single.proto, name=single.name)
    except HarnessError:
        return None


def answer(report: CompileReport) -> list[Any]:
    """What is kept of a report: the outcome, and who refused what in which words."""
    if report.refused:
        return ["refused", [[node.name, node.code, node.message] for node in report.refused]]
    if report.failure is not None:
        return [report.failure.kind, report.failure.message[:300]]
    return ["built"]


def ask(pythons: list[str], scheduler: str | None = None) -> None:
    """Ask each release about each model that it was not asked about."""
    known = read_answers()
    for python in pythons:
        environment = Environment("compiler", (python,), limits=WorkerLimits(compile=120))
        release = shared_supervisor(environment).probe().tensorrt
        answers = known.setdefault(release, {})
        new = [single for single in everything() if single.name not in answers]
        asked = each_answer(partial(compiled, environment), new, scheduler)
        for number, (single, said) in enumerate(asked):
            if said is not None:
                answers[single.name] = said
            if number % 200 == 0:
                print(release, f"{number} of {len(new)}", flush=True)
                write_answers(known)
        write_answers(known)
    close_shared()


def compiled(environment: Environment, single: Single) -> list[Any] | None:
    """What a compiler says of a model; None where harness does not load it."""
    model = load(single)
    if model is None:
        return None
    dynamic = {
        info.name: (single.shapes[info.name],) * 3
        for info in model.inputs
        if info.name in single.shapes and not all(isinstance(size, int) for size in info.shape or (None,))
    }
    try:
        report = compile_model(
            model, Precision.FP32, environment, profiles=dynamic, cache=ReportCache(Path("/nonexistent"))
        )
    except HarnessError as error:
        return ["error", error.message[:300]]
    return answer(report)


@dataclass(frozen=True)
class Score:
    """How often the rules of a release are right about a half of the models."""

    models: int
    refused: int
    foretold: int
    false_alarms: int

    @property
    def recall(self) -> float:
        """The share of what is refused, or not built, that a rule says so of."""
        return self.foretold / max(self.refused, 1)

    @property
    def precision(self) -> float:
        """The share of what rules say so of that is."""
        return self.foretold / max(self.foretold + self.false_alarms, 1)


def foretell(models: Iterable[Single]) -> dict[str, tuple[Match, ...]]:
    """By model that harness loads: the rules that hold of it and say that something does not build."""
    found = {}
    for single in models:
        if (model := load(single)) is not None:
            matches = match_rules(GraphView(model, single.shapes))
            found[single.name] = tuple(each for each in matches if each.rule.kind in STOPS)
    return found


def score(
    foretold: dict[str, tuple[Match, ...]], answers: dict[str, list[Any]], release: str
) -> tuple[Score, dict[str, list[str]]]:
    """The score, and for each model that the rules are wrong about the codes of those that hold.

    Not scored: models whose inputs decide shapes by their values, which harness asks no compiler about.
    """
    refused = right = alarms = count = 0
    wrong: dict[str, list[str]] = {}
    for name, matches in foretold.items():
        said = answers.get(name, ["error"])[0]
        if said in NOT_SCORED:
            continue
        count += 1
        codes = [each.rule.code for each in matches if each.rule.include(TENSORRT_RTX, release)]
        fails = said != "built"
        refused += fails
        right += fails and bool(codes)
        alarms += not fails and bool(codes)
        if fails != bool(codes):
            wrong[name] = codes
    return Score(count, refused, right, alarms), wrong


def read_answers() -> dict[str, dict[str, list[Any]]]:
    """By release, by model: what `answer` made of the report."""
    if not ANSWERS.exists():
        return {}
    found: dict[str, dict[str, list[Any]]] = json.loads(gzip.decompress(ANSWERS.read_bytes()))
    return found


def write_answers(answers: dict[str, dict[str, list[Any]]]) -> None:
    """Keep the answers, the same bytes for the same ones."""
    write_bytes(ANSWERS, gzip.compress(json.dumps(answers, sort_keys=True).encode(), mtime=0))


def _joined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sums over all sources, by release and half."""
    found = []
    counts = [each.name for each in fields(Score)]
    for release, half in dict.fromkeys((row["release"], row["half"]) for row in rows):
        alike = [row for row in rows if (row["release"], row["half"]) == (release, half)]
        whole = Score(*(sum(row[name] for row in alike) for name in counts))
        row = {"release": release, "half": half, "source": "all", **asdict(whole)}
        found.append({**row, "recall": round(whole.recall, 4), "precision": round(whole.precision, 4)})
        print(found[-1], flush=True)
    return found


def main() -> int:
    """Ask, or score."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask")
    asking.add_argument("pythons", nargs="+", metavar="PYTHON")
    add_scheduler(asking)
    scoring = commands.add_parser("score")
    no_scheduler(scoring, "it asks no compiler, and takes a minute or two")
    scoring.add_argument("--write", action="store_true")
    scoring.add_argument("--wrong", choices=HALVES)
    arguments = parser.parse_args()
    if arguments.command == "ask":
        ask(arguments.pythons, arguments.scheduler)
        return 0
    models = list(everything())
    rows = []
    answered = read_answers()
    for half, source in itertools.product(HALVES, SOURCES):
        foretold = foretell(
            each for each in models if HALVES[each.held_out] == half and each.source == source
        )
        for release, answers in answered.items():
            found, wrong = score(foretold, answers, release)
            row = {"release": release, "half": half, "source": source, **asdict(found)}
            rows.append({**row, "recall": round(found.recall, 4), "precision": round(found.precision, 4)})
            print(rows[-1], flush=True)
            if half == arguments.wrong:
                for name, codes in wrong.items():
                    print("  ", name, codes or "missed:", *answers[name][:2])
    rows += _joined(rows)
    if arguments.write:
        record("check_rules", {"halves": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
