"""Are healthy Q/DQ files judged healthy at FP16 and BF16, and are faults of range in them found?

The bundled cases that ONNX Runtime's static quantisation takes, with its defaults (UINT8 activations), symmetric INT8,
and that with a scale a channel. A file is healthy at a precision if its float model passes there; the others are
faults. Files that quantising itself ruined, by the gates of INT8 and so at any precision, are counted apart. In each
healthy model's files two more are planted at FP16, in front of the QuantizeLinear in the middle: its tensor is made so
large that it overflows and small again, or so small that little of it is left, and large again. `share` is how far the
worst output is beyond the bound of the precision, over what flipped steps may cost.

Run: python -m benchmarks.quantization_gates [--write] [--scheduler ADDRESS].
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from benchmarks.quantization_models import CASES, Reader
from benchmarks.record import record
from benchmarks.spread import add_scheduler, each_answer
from harness import run
from harness.case import load_case, make_feeds, resolve_model
from harness.comparison import DEFAULT_GATES
from harness.judge import Given, Verdict
from harness.model import at_opset, load_model, save_model
from harness.tensors import Precision

SYMMETRIC = {
    "activation_type": QuantType.QInt8,
    "weight_type": QuantType.QInt8,
    "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "symmetric": SYMMETRIC,
    "channels": {**SYMMETRIC, "per_channel": True},
}
SAMPLES = 5
FACTORS = {"overflow": 2.0**17, "underflow": 2.0**-24}
OPSET = 13


def quantised(case_file: Path, folder: Path) -> tuple[Path, dict[str, Path]] | None:
    """The float model of a case, with unseen data in `NAME.npz` beside it, and its quantised files by their options.

    None if the model is quantised already.
    """
    onnxruntime.set_default_logger_severity(3)
    case = load_case(case_file).model_copy(update={"samples": SAMPLES})
    model = load_model(resolve_model(case), name=case_file.name.removesuffix(".case.yaml"))
    if model.quantized:
        return None
    *seen, unseen = make_feeds(case, model.inputs)
    plain = save_model(
        at_opset(model, OPSET) if model.opset < OPSET else model, folder / f"{model.name}.onnx"
    )
    np.savez(plain.with_suffix(".npz"), **unseen)
    made = {}
    for name, options in OPTIONS.items():
        out = folder / f"{model.name}-{name}.onnx"
        try:
            quantize_static(plain, out, Reader(seen), quant_format=QuantFormat.QDQ, **options)
        except (KeyError, RuntimeError, ValueError):  # what it cannot calibrate
            continue
        made[name] = out
    return plain, made


def planted(path: Path, factor: float) -> Path:
    """The file with a fault of range in front of the QuantizeLinear of an activation in the middle."""
    proto = onnx.load(path)
    stored = {tensor.name for tensor in proto.graph.initializer}
    nodes = list(proto.graph.node)
    found = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] not in stored]
    node = found[len(found) // 2]
    at = nodes.index(node)
    tensor = node.input[0]
    for place, value in enumerate((factor, 1 / factor)):
        constant, output = f"planted{place}", f"planted::{place}"
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), constant))
        proto.graph.node.insert(at + place, helper.make_node("Mul", [tensor, constant], [output], output))
        tensor = output
    node.input[0] = tensor
    out = path.with_name(f"{path.stem}-{'overflow' if factor > 1 else 'underflow'}.onnx")
    onnx.save(proto, out)
    return out


def judged(path: Path, data: Path, precision: Precision) -> dict[str, Any]:
    """The verdict on a file, the error of its worst output, and how far that is beyond the bound."""
    (result,) = run(path, precisions=precision, given=Given(data=(data,))).results
    own = result.own_roundings
    ruined = own is not None and bool(own.fault)
    bound, worst = (
        DEFAULT_GATES[precision].bound,
        {"verdict": result.verdict.value, "ruined": ruined, "share": 0.0},
    )
    for output in result.outputs:
        limit = next((gate.limit for gate in output.gates if gate.metric == "nrmse"), bound)
        error = output.metrics.nrmse
        share = (error - bound) / (limit - bound) if limit > bound else float(error > bound)
        if share >= worst["share"]:
            worst |= {"nrmse": float(f"{error:.4g}"), "limit": round(limit, 4), "share": round(share, 3)}
    return worst


def rows_of(case_file: Path) -> list[dict[str, Any]]:
    """What became of each file of a case: healthy ones, and those with a fault."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = quantised(case_file, Path(folder))
        if found is None:
            return []
        plain, made = found
        data = plain.with_suffix(".npz")
        for precision in (Precision.FP16, Precision.BF16):
            healthy = bool(made) and judged(plain, data, precision)["verdict"] == Verdict.PASS
            for options, path in made.items():
                files = {"": path}
                if healthy and precision is Precision.FP16:
                    files |= {fault: planted(path, factor) for fault, factor in FACTORS.items()}
                for fault, file in files.items():
                    kind = fault or ("" if healthy else "float model")
                    row = {
                        "model": plain.stem,
                        "options": options,
                        "precision": precision.value,
                        "fault": kind,
                    }
                    rows.append(row | judged(file, data, precision))
    return rows


def main() -> None:
    """Print what was found, and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    add_scheduler(parser)
    arguments = parser.parse_args()
    by_case = {}
    for case_file, found in each_answer(rows_of, sorted(CASES.glob("*.case.yaml")), arguments.scheduler):
        by_case[case_file] = found
        for row in found:
            print(*row.values(), flush=True)
    rows = [row for case_file in sorted(by_case) for row in by_case[case_file]]
    ruined = [row for row in rows if row["ruined"] and not row["fault"]]
    clean = [row for row in rows if not row["ruined"] and not row["fault"]]
    faults = [row for row in rows if row["fault"]]
    at_fp16 = [row for row in clean if row["precision"] == Precision.FP16]
    numbers: dict[str, Any] = {
        "files": len({(row["model"], row["options"]) for row in rows}),
        "ruined": len(ruined),
        "clean_at_fp16": len(at_fp16),
        "clean_at_fp16_beyond_the_bound": sum(row["share"] > 0 for row in at_fp16),
        "clean": len(clean),
        "clean_that_pass": sum(row["verdict"] == Verdict.PASS for row in clean),
        "largest_share_of_clean": max(row["share"] for row in clean),
        "faults": len(faults),
        "faults_found": sum(row["verdict"] == Verdict.FAIL for row in faults),
        "smallest_share_of_faults": min(row["share"] for row in faults),
    }
    print(numbers)
    if arguments.write:
        print(f"wrote {record('quantization_gates', numbers | {'rows': rows}, indent=None)}")


if __name__ == "__main__":
    main()
