"""The single-operator models of the ONNX test suite, judged at fp32 on the emulator, beside plain ONNX Runtime.

Every model that ONNX Runtime runs must be judged, and pass, or be refused for a reason that is the model's own: at
fp32 nothing is rounded, so a failure is a false one. An internal error, a crash or a hang is always a fault of harness.

    python -m benchmarks.onnx_suite [--only TEXT] [--scheduler ADDRESS] [--write]
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.isolated import outcomes
from benchmarks.record import record
from benchmarks.spread import add_scheduler


def suite() -> list[Any]:
    """The test cases of `onnx.backend.test`, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(collect_testcases(None), key=lambda case: str(case.name))


def judge_models(names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """For each model: what ONNX Runtime says (`runs`, or its error), and the verdict and reason of harness."""
    wanted = set(names)
    with tempfile.TemporaryDirectory() as folder:
        for case in suite():
            if case.name in wanted:
                yield case.name, None
                yield case.name, [_on_onnxruntime(case), *_in_harness(case, Path(folder))]


def _in_harness(case: Any, folder: Path) -> tuple[str, str]:
    import harness

    path = folder / f"{case.name}.onnx"
    onnx.save(case.model, path)
    try:
        (result,) = harness.run([_case(case, path)], precisions=["fp32"]).results
    except harness.HarnessError as error:
        return "refused", f"{type(error).__name__}: {error}"
    return str(result.verdict), f"{result.cause}: {result.reason}"


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
        inputs[value.name] = {"shape": list(tensor.dims), "fill": {"kind": "file", "path": str(file)}}
    return Case.model_validate(
        {"name": path.stem, "model": {"path": str(path)}, "inputs": inputs, "runs": ["fp32"]}
    )


def main() -> None:
    """Judge the suite, print what is wrong, and keep the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results")
    add_scheduler(parser)
    given = parser.parse_args()
    names = [case.name for case in suite() if given.only in case.name]
    found = {
        name: outcome if isinstance(outcome, list) else ["?", outcome, ""]
        for name, outcome in outcomes(judge_models, names, scheduler=given.scheduler).items()
    }
    counts = Counter(("runs" if runs == "runs" else "fails", verdict) for runs, verdict, _ in found.values())
    suspect = {
        name: {"verdict": verdict, "reason": reason[:300]}
        for name, (runs, verdict, reason) in sorted(found.items())
        if verdict in ("fail", "crash", "hang") or (runs == "runs" and verdict not in ("pass", "skip"))
    }
    for name, entry in suspect.items():
        print(f"{name}: {entry['verdict']}: {entry['reason'][:200]}")
    for (runs, verdict), count in sorted(counts.items()):
        print(f"ONNX Runtime {runs:5}  harness {verdict:8} {count:5}")
    if given.write:
        rows = [
            {"onnxruntime": runs, "harness": verdict, "models": count}
            for (runs, verdict), count in sorted(counts.items())
        ]
        record("onnx_suite", {"models": len(found), "counts": rows, "not_judged": suspect})


if __name__ == "__main__":
    main()
