"""The single-operator models of the ONNX test suite, judged at fp32 on the emulator, beside plain ONNX Runtime.

Every model that ONNX Runtime runs must be judged, and pass, or be refused for a reason that is the model's own: at
fp32 nothing is rounded, so a failure is a false one. An internal error or a crash is always a fault of harness.

    python -m benchmarks.onnx_suite [--only TEXT] [--write]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.record import record

CHUNK = 400
"""Models a process judges before it is replaced."""


@dataclass(frozen=True)
class Outcome:
    """What became of one model: `onnxruntime` is `runs` or the error, `harness` a verdict, `error` or `crash`."""

    model: str
    onnxruntime: str
    harness: str
    reason: str


def suite() -> Iterator[Any]:
    """The test cases of `onnx.backend.test`, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from sorted(collect_testcases(None), key=lambda case: case.name)


def judge(case: Any, folder: Path) -> Outcome:
    """Run `case` on plain ONNX Runtime and through `harness.run`."""
    import harness

    plain = _on_onnxruntime(case)
    path = folder / f"{case.name}.onnx"
    onnx.save(case.model, path)
    try:
        report = harness.run([_case(case, path)], precisions=["fp32"])
    except harness.HarnessError as error:
        return Outcome(case.name, plain, "refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome(case.name, plain, "internal", f"{type(error).__name__}: {error}")
    (result,) = report.results
    return Outcome(case.name, plain, str(result.verdict), result.reason)


def _on_onnxruntime(case: Any) -> str:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(case.model.SerializeToString(), options, ["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        given = dict(
            zip([value.name for value in case.model.graph.input], case.data_sets[0][0], strict=False)
        )
        session.run(None, {name: _plain(given[name]) for name in names if given.get(name) is not None})
    except Exception as error:
        return str(error).splitlines()[0][:200]
    return "runs"


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value if isinstance(value, list) else np.asarray(value)


def _case(case: Any, path: Path) -> Any:
    from harness.case import Case

    inputs: dict[str, Any] = {}
    for value, data in zip(case.model.graph.input, case.data_sets[0][0], strict=False):
        if data is None or isinstance(data, list):
            continue
        file = path.with_name(f"{path.stem}_{len(inputs)}.pb")
        tensor = data if isinstance(data, onnx.TensorProto) else numpy_helper.from_array(np.asarray(data))
        file.write_bytes(tensor.SerializeToString())
        inputs[value.name] = {
            "shape": list(tensor.dims),
            "fill": {"kind": "file", "path": str(file)},
        }
    return Case.model_validate(
        {"name": path.stem, "model": {"path": str(path)}, "inputs": inputs, "runs": ["fp32"]}
    )


def _judge_chunk(names: list[str], journal: Path) -> None:
    wanted = set(names)
    with tempfile.TemporaryDirectory() as folder, journal.open("a") as lines:
        for case in suite():
            if case.name in wanted:
                lines.write(json.dumps({"begun": case.name}) + "\n")
                lines.flush()
                lines.write(json.dumps(asdict(judge(case, Path(folder)))) + "\n")
                lines.flush()


def judge_all(names: list[str]) -> list[Outcome]:
    """Judge the models called `names`, each chunk in a process of its own; one that dies is a `crash`."""
    outcomes: list[Outcome] = []
    left = list(names)
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        while left:
            journal.write_text("")
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool, contextlib.suppress(BrokenProcessPool):
                pool.submit(_judge_chunk, left[:CHUNK], journal).result()
            lines = [json.loads(line) for line in journal.read_text().splitlines()]
            outcomes += [Outcome(**line) for line in lines if "model" in line]
            if lines and "begun" in lines[-1]:
                outcomes.append(Outcome(lines[-1]["begun"], "?", "crash", "the process died"))
            seen = {outcome.model for outcome in outcomes}
            left = [name for name in left if name not in seen]
    return outcomes


def main() -> None:
    """Judge the suite, print what is wrong, and keep the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    given = parser.parse_args()
    names = [case.name for case in suite() if given.only in case.name]
    outcomes = judge_all(names)
    counts = Counter(("runs" if each.onnxruntime == "runs" else "refused", each.harness) for each in outcomes)
    for each in outcomes:
        if each.harness in ("internal", "crash", "fail") or (
            each.onnxruntime == "runs" and each.harness not in ("pass", "skip")
        ):
            print(f"{each.model}: {each.harness}: {each.reason[:220]}")
    for (runtime, verdict), count in sorted(counts.items()):
        print(f"onnxruntime {runtime:8} harness {verdict:8} {count}")
    if given.write:
        record(
            "onnx_suite",
            {
                "models": len(outcomes),
                "counts": [
                    {"onnxruntime": runtime, "harness": verdict, "models": count}
                    for (runtime, verdict), count in sorted(counts.items())
                ],
                "not_judged": [
                    asdict(each)
                    for each in outcomes
                    if each.onnxruntime == "runs" and each.harness not in ("pass", "skip")
                ],
            },
        )


if __name__ == "__main__":
    main()
