"""Builds and checks typed graphs with polygraphy's loaders, one a line of input. Run by an environment's Python.

    python race_typed_worker.py FOLDER

FOLDER holds `inputs.npz`, `expected.npz` and `limits.json`: by output, the rmse that passes. Each line names an ONNX
file; each answer is a JSON object on one line, which begins with ANSWER. Python >= 3.8, NumPy, polygraphy, TensorRT.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

ANSWER = "answer "


def evaluate(path, inputs, expected, limits):
    """Build the engine of one file, run it once, and hold its outputs against the limits."""
    from polygraphy.backend.trt import (
        CreateConfig,
        EngineBytesFromNetwork,
        EngineFromBytes,
        NetworkFromOnnxPath,
        TrtRunner,
    )

    start = time.perf_counter()
    engine = EngineBytesFromNetwork(NetworkFromOnnxPath(path, strongly_typed=True), CreateConfig())()
    built = time.perf_counter() - start
    found = {"build_seconds": built, "bytes": len(bytes(engine))}
    if os.environ.get("RACE_BUILDS_ONLY"):
        return dict(found, passed=False, note="built, not run")
    with TrtRunner(EngineFromBytes(engine)) as runner:
        outputs = {name: np.array(value) for name, value in runner.infer(dict(inputs)).items()}
    errors = {name: outputs[name].astype(np.float64) - expected[name] for name in limits}
    rmse = {name: float(np.sqrt(np.mean(error * error))) for name, error in errors.items()}
    scale = {name: float(np.sqrt(np.mean(np.square(expected[name], dtype=np.float64)))) for name in limits}
    return dict(
        found,
        seconds=time.perf_counter() - start,
        passed=all(rmse[name] <= limits[name] for name in rmse),  # a NaN does not
        nrmse=max(rmse[name] / scale[name] for name in rmse),
        max_abs=max(float(np.max(np.abs(error))) for error in errors.values()),
    )


def main(folder):
    """Answer each line."""
    inputs, expected = (dict(np.load(folder / name)) for name in ("inputs.npz", "expected.npz"))
    limits = json.loads((folder / "limits.json").read_text())
    for line in sys.stdin:
        try:
            answer = evaluate(line.strip(), inputs, expected, limits)
        except Exception as error:  # a build that fails is an answer
            answer = {"passed": False, "error": f"{type(error).__name__}: {error}"[:400]}
        print(ANSWER + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
