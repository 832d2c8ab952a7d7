"""How many refusals have a cure: the single-operator models of the onnx suite, the compiler as the truth.

Parameters of an operator (axes, scales, weights, …) are constants, as exports write them. Of the models that the
compiler refuses, `no_rewrite` names those that no rewrite can save, and why; the others are the list. A model of the
list is cured if `fix` proves a rewrite, also on the suite's own data, and the compiler builds it. `open_batch` asks
again with the first axis as a batch of any size, wherever the original runs with several.

Each release is asked by itself.

Run: python -m benchmarks.cures list PYTHON… [--write] (what is refused, and whether it could have a cure)
     python -m benchmarks.cures cure PYTHON… [--write] [--only REGEX] [--rows FILE] (goes on where FILE ends)
     with --scheduler ADDRESS on workers that have PYTHON under the same path
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

from benchmarks.record import record
from benchmarks.spread import add_scheduler, each_answer
from harness.compiler import compile_model, probe_of
from harness.conversion.cures import fix, prove
from harness.environments import Environment, close_shared, shared_supervisor
from harness.errors import HarnessError
from harness.model import Model, load_model
from harness.tensors import Precision

T = onnx.TensorProto
#: Inputs that exports write as constants, by operator; of the reductions it is the axes.
PARAMETERS = {
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Tile", "Expand", "Reshape", "TopK", "CumSum", "CumProd"), (1,)),
    **dict.fromkeys(("Upsample", "CenterCropPad", "AffineGrid", "Compress", "Split", "Trilu", "PRelu"), (1,)),
    **dict.fromkeys(("RMSNormalization", "ArrayFeatureExtractor", "SplitToSequence"), (1,)),
    **dict.fromkeys(("OneHot", "Clip", "Conv", "ConvTranspose", "Col2Im", "DFT", "Dropout"), (1, 2)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "LayerNormalization"), (1, 2)),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), (1, 2)),
    **dict.fromkeys(("Resize", "Pad", "STFT", "ConvInteger"), (1, 2, 3)),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), tuple(range(1, 8))),
    **dict.fromkeys(("BlackmanWindow", "HannWindow", "HammingWindow"), (0,)),
    "Slice": (1, 2, 3, 4),
    "BatchNormalization": (1, 2, 3, 4),
    "QLinearConv": tuple(range(1, 9)),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "MatMulInteger": (2, 3),
    "DeformConv": (1, 3),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
}
#: What may stand at the border of an engine.
BORDER = {T.FLOAT, T.FLOAT16, T.BFLOAT16, T.DOUBLE, T.INT8, T.UINT8, T.INT32, T.INT64, T.BOOL}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"}
SIZED_BY_DATA = {"NonZero", "Unique", "NonMaxSuppression", "ConstantOfShape", "Range", "Loop", "EyeLike"}
PICTURES = {"ImageDecoder"}


@dataclass(frozen=True)
class Single:
    """A model of one operator with its data."""

    name: str
    proto: onnx.ModelProto
    feeds: dict[str, np.ndarray]

    @property
    def node(self) -> onnx.NodeProto:
        """Its node."""
        return self.proto.graph.node[0]

    def model(self, *, open_batch: bool = False) -> Model:
        """The model as harness loads it."""
        proto = opened(self.proto) if open_batch else self.proto
        return load_model(proto, name=self.name)


def singles(only: str | None = None) -> Iterator[Single]:
    """The models of the suite with one node, with their parameters as constants."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    for test in tests:
        graph = test.model.graph
        if "_expanded" in test.name or len(graph.node) != 1 or (only and not re.search(only, test.name)):
            continue
        yield _with_constants(test.name, test.model, test.data_sets[0][0])


def _with_constants(name: str, model: onnx.ModelProto, data: list[Any]) -> Single:
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    node = proto.graph.node[0]
    places = (1,) if node.op_type.startswith("Reduce") else PARAMETERS.get(node.op_type, ())
    wanted = {node.input[place] for place in places if place < len(node.input)}
    feeds = {}
    for value, array in list(zip(list(proto.graph.input), data, strict=False)):
        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type") or kind == T.STRING or array is None:
            continue
        if isinstance(array, onnx.TensorProto):
            array = onnx.numpy_helper.to_array(array)
        array = np.asarray(array).astype(onnx.helper.tensor_dtype_to_np_dtype(kind), copy=False)
        if value.name in wanted:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
            proto.graph.input.remove(value)
        else:
            feeds[value.name] = array
    return Single(name.removeprefix("test_"), proto, feeds)


def opened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with the first axis of its first input, and every first axis of that size, as a batch of any size."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    values = [*made.graph.input, *made.graph.output]
    dims = [value.type.tensor_type.shape.dim for value in values if value.type.HasField("tensor_type")]
    sizes = [each[0].dim_value for each in dims if len(each)]
    for each in dims if sizes else ():
        if len(each) and each[0].dim_value == sizes[0]:
            each[0].dim_param = "batch"
    return made


def no_rewrite(single: Single, release: str) -> str | None:
    """Why no rewrite can keep the interface and answer the same on a release; None: there may be one."""
    node, graph = single.node, single.proto.graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    if release.startswith("1.4.") and T.INT8 in kinds:
        return "int8 at the border, which 1.4 does not read, and writes only where it is built on a GPU"
    for value in (*graph.input, *graph.output):
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type not in BORDER:
            return "interface of a type that no engine has"
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if node.op_type in RANDOM:
        return "random"
    if node.op_type == "Dropout" and bool(constants.get(node.input[2] if len(node.input) > 2 else "", False)):
        ratio = constants.get(node.input[1] if len(node.input) > 1 else "")
        if ratio is None or float(ratio) > 0:
            return "random"
    if node.op_type in SIZED_BY_DATA:
        return "sizes that depend on values"
    if node.op_type == "BitCast" and {v.type.tensor_type.elem_type for v in graph.input} - {T.INT8, T.BOOL}:
        return "bits of numbers that are no numbers"
    if node.op_type in PICTURES:
        return "pictures in files"
    if node.domain not in ("", "ai.onnx.preview") and node.op_type not in (
        "ArrayFeatureExtractor",
        "Binarizer",
    ):
        return "another domain, and no rewrite is known"
    return None


def refused(environment: Environment, single: Single) -> bool:
    """Whether the compiler does not build a model as it is; one that harness does not load is not asked about."""
    try:
        model = single.model()
        report = compile_model(model, Precision.FP32, environment, profiles=profiles_of(single, model))
    except HarnessError:
        return False
    return not report.built


def answer(
    environment: Environment, release: str, kept: frozenset[str] | None, single: Single
) -> dict[str, Any] | None:
    """What is said of a model: None where it builds, why nothing saves it (`no_rewrite`), or what cures make of it.

    Args:
        environment: the compiler.
        release: its version.
        kept: models whose cures are known already; None is all of them.
        single: the model.
    """
    if not refused(environment, single):
        return None
    if reason := no_rewrite(single, release):
        return {"no_rewrite": reason}
    if kept is None or single.name in kept:
        return {}
    return {"release": release, **attempt(single, [environment])}


def profiles_of(single: Single, model: Model, largest: int = 0) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The shapes of the data for each input with an open axis; a batch from 1 to `largest` if that is given."""
    profiles = {}
    for info in model.inputs:
        if info.name not in single.feeds:
            continue
        shape = single.feeds[info.name].shape
        if all(isinstance(size, int) for size in info.shape or ()):
            continue
        low, high = ((1, *shape[1:]), (max(shape[0], largest), *shape[1:])) if largest else (shape, shape)
        profiles[info.name] = (low, shape, high)
    return profiles


def attempt(single: Single, environments: list[Environment]) -> dict[str, Any]:
    """What cures make of one model: as it is, and with an open batch."""
    model = single.model()
    fixed = fix(model, environments, feeds=[single.feeds], profiles=profiles_of(single, model))
    cured = bool(fixed.applied) and all(report.built for report in fixed.reports.values())
    row: dict[str, Any] = {
        "name": single.name,
        "operator": single.node.op_type,
        "cured": cured,
        "cures": [each.code for each in fixed.applied],
        "left_out": [f"{each.code}: {each.why}"[:200] for each in fixed.left_out],
    }
    if cured:
        row["open"] = _attempt_open(single, environments)
    return row


def _attempt_open(single: Single, environments: list[Environment]) -> bool | None:
    """Whether the model is cured with an open batch, too; None where the original does not run with several."""
    try:
        model = single.model(open_batch=True)
    except HarnessError:
        return None
    if prove(model, model, [single.feeds]).shapes < 2:
        return None
    profiles = profiles_of(single, model, largest=4)
    fixed = fix(model, environments, feeds=[single.feeds], profiles=profiles)
    return bool(fixed.applied) and all(report.built for report in fixed.reports.values())


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """What an earlier run saw of each model."""
    return [] if path is None or not path.exists() else list(map(json.loads, path.read_text().splitlines()))


def measure(
    python: str, what: str, only: str | None, file: Path | None, scheduler: str | None = None
) -> tuple[str, dict[str, Any]]:
    """One release: its version, and what is refused and cured there."""
    environment = Environment("compiler", (python,))
    release = probe_of(environment, shared_supervisor(environment)).tensorrt
    kept = {row["name"]: row for row in read_rows(file) if row["release"] == release}
    reasons: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    listed = []
    asked = partial(answer, environment, release, None if what == "list" else frozenset(kept))
    models = list(singles(only))
    for single, said in each_answer(asked, models, scheduler):
        if said is None:
            continue
        if reason := said.get("no_rewrite"):
            reasons[reason] += 1
            continue
        listed.append(single.name)
        operators[single.node.op_type] += 1
        if said:
            kept[single.name] = said
            print(said, flush=True)
            if file is not None:
                with file.open("a") as opened_file:
                    opened_file.write(json.dumps(said) + "\n")
    close_shared()
    places = {single.name: place for place, single in enumerate(models)}
    listed.sort(key=places.__getitem__)  # workers answer as they come
    rows = [kept[name] for name in listed] if what == "cure" else []
    cured = [row for row in rows if row["cured"]]
    opened_rows = [row for row in cured if row["open"] is not None]
    return release, {
        "refused": len(listed) + reasons.total(),
        "no_rewrite": dict(reasons),
        "listed": len(listed),
        "cured": len(cured),
        "ratio": round(len(cured) / len(rows), 4) if rows else None,
        "open_batch": {"run": len(opened_rows), "cured": sum(bool(row["open"]) for row in opened_rows)},
        "operators": dict(sorted(operators.items())),
        "not_cured": [
            {key: row[key] for key in ("name", "operator", "left_out")} for row in rows if not row["cured"]
        ],
        "not_cured_open": [row["name"] for row in opened_rows if not row["open"]],
        "by_cure": dict(Counter(code for row in cured for code in row["cures"]).most_common()),
        **({} if rows else {"names": listed}),
    }


def main() -> int:
    """List what is refused, or cure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["list", "cure"])
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--only", metavar="REGEX")
    parser.add_argument(
        "--rows", metavar="FILE", type=Path, help="what was seen so far: each model is cured once a release"
    )
    parser.add_argument("--write", action="store_true")
    add_scheduler(parser)
    arguments = parser.parse_args()
    releases = {}
    for python in arguments.pythons:
        release, numbers = measure(
            python, arguments.what, arguments.only, arguments.rows, arguments.scheduler
        )
        releases[release] = numbers
        long = ("operators", "not_cured", "names")
        print(release, {name: value for name, value in numbers.items() if name not in long}, flush=True)
    if arguments.write:
        record("cures" if arguments.what == "cure" else "cures_list", {"releases": releases})
    return 0


if __name__ == "__main__":
    sys.exit(main())
